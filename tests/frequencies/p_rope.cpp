// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/p_rope.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("p_rope: p = 1 is RoPE, p = 0 is NoPE", "[frequencies][p_rope][reduces]") {
    CHECK(frequencies::p_rope({.head_dim = 64, .p = 1}).omegas() ==
          frequencies::geometric({.rotary_dim = 64}).omegas());
    CHECK(frequencies::p_rope({.head_dim = 64, .p = 0}).omegas() == std::vector<double>(32, 0.0));
    CHECK(frequencies::partial_ladder({.head_dim = 64, .p = 1}).omegas() ==
          frequencies::geometric({.rotary_dim = 64}).omegas());
    CHECK(frequencies::partial_ladder({.head_dim = 64, .p = 0}).omegas() == std::vector<double>(32, 0.0));
}

TEST_CASE("p_rope: keeps the highest of the full ladder; reversed the lowest; partial squeezes it",
          "[frequencies][p_rope]") {
    const auto full = frequencies::geometric({.rotary_dim = 128});
    const auto high = frequencies::p_rope({.head_dim = 128, .p = 0.25});
    const auto low = frequencies::p_rope({.head_dim = 128, .p = 0.25, .keep = frequencies::kept_end::lowest});
    const auto partial = frequencies::partial_ladder({.head_dim = 128, .p = 0.25});
    const auto squeezed = frequencies::geometric({.rotary_dim = 32});
    for (ropewalk::index i = 0; i < 64; ++i) {
        CHECK(high.omega(i) == (i < 16 ? full.omega(i) : 0.0));
        CHECK(low.omega(i) == (i >= 48 ? full.omega(i) : 0.0));
        CHECK(partial.omega(i) == (i < 16 ? squeezed.omega(i) : 0.0));
    }
    const auto scaled = frequencies::p_rope({.head_dim = 128, .p = 0.25, .factor = 8});
    for (ropewalk::index i = 0; i < 16; ++i)
        CHECK(scaled.omega(i) == Approx(full.omega(i) / 8).epsilon(1e-15));
}

TEST_CASE("p_rope: the kept count is rounded down", "[frequencies][p_rope]") {
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 128, .p = 0.25}) == 16);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 256, .p = 0.75}) == 96);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 512, .p = 0.25}) == 64);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 10, .p = 0.5}) == 2);  // 2.5 pairs
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 64, .p = 0.999}) == 31);
}

TEST_CASE("partial_rotary_dim: truncates towards zero", "[frequencies][p_rope]") {
    CHECK(frequencies::partial_rotary_dim(96, 0.25) == 24);
    CHECK(frequencies::partial_rotary_dim(80, 0.4) == 32);
    CHECK(frequencies::partial_rotary_dim(128, 1) == 128);
    CHECK(frequencies::partial_rotary_dim(64, 0.14) == 8);  // 8.96
    CHECK_REFUSES("partial_rotary_dim: head_dim * partial_rotary_factor must be even, got 5",
                  frequencies::partial_rotary_dim(10, 0.5));
    CHECK_REFUSES("partial_rotary_dim: partial_rotary_factor must be in [0, 1], got 1.5",
                  frequencies::partial_rotary_dim(10, 1.5));
    CHECK_REFUSES("partial_rotary_dim: head_dim must be >= 1, got 0", frequencies::partial_rotary_dim(0, 1));
}

TEST_CASE("p_rope: refuses impossible numbers", "[frequencies][p_rope][errors]") {
    CHECK_REFUSES("p_rope: head_dim must be even and > 0, got 7", frequencies::p_rope({.head_dim = 7}));
    CHECK_REFUSES("p_rope: p must be in [0, 1], got 1.5", frequencies::p_rope({.head_dim = 8, .p = 1.5}));
    CHECK_REFUSES("p_rope: p must be in [0, 1], got -1",
                  frequencies::partial_ladder({.head_dim = 8, .p = -1}));
    CHECK_REFUSES("linear: factor must be finite and > 0, got 0",
                  frequencies::p_rope({.head_dim = 8, .factor = 0}));
}
