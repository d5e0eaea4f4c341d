// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What a unit must not hold: an inline function without the unit's tag.
[[gnu::noinline]] inline float shared_with_everybody(float x) { return x * x; }
extern "C" float ropewalk_unit_sse2(float x);
extern "C" float ropewalk_unit_sse2(float x) { return shared_with_everybody(x); }
