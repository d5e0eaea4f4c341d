// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstddef>

namespace bench {

/// The physical limit of an in-place kernel: every byte read once and written once with the widest
/// registers this machine has, whatever the kernels are compiled for. Floats are multiplied by `one`
/// (1, known at run time only); 16-bit data are xored with `zero`.
void scale_floats(float* x, std::size_t count, float one) noexcept;
void scale_doubles(double* x, std::size_t count, double one) noexcept;
void touch_words(void* x, std::size_t bytes, unsigned zero) noexcept;

/// What the roof runs on: "avx512f", "avx" or "plain".
const char* roof_registers() noexcept;

}  // namespace bench
