// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/llama3.hpp>

#include <cmath>
#include <numbers>

#include <ropewalk/frequencies/per_pair.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("llama3: untouched, blended and divided pairs as published", "[frequencies][llama3]") {
    struct row {
        ropewalk::index d;
        double factor;
        int kept, blended, divided;
    };
    for (const row& r : {row{128, 8, 29, 6, 29}, row{64, 32, 15, 3, 14}}) {
        const auto plain = frequencies::geometric({.rotary_dim = r.d, .base = 5e5});
        const auto s = frequencies::llama3({.rotary_dim = r.d, .factor = r.factor});
        int kept = 0, divided = 0;
        for (ropewalk::index i = 0; i < r.d / 2; ++i) {
            kept += s.omega(i) == plain.omega(i);
            divided += std::abs(s.omega(i) * r.factor / plain.omega(i) - 1) < 1e-14;
        }
        CHECK(kept == r.kept);
        CHECK(divided == r.divided);
        CHECK(r.d / 2 - kept - divided == r.blended);
        CHECK(s.magnitude() == 1.0);
    }
}

TEST_CASE("llama3: factor 1 is plain; the divisors GGUF stores lie in [1, s]",
          "[frequencies][llama3][reduces]") {
    const auto plain = frequencies::geometric({.rotary_dim = 128, .base = 5e5});
    const auto same = frequencies::llama3({.rotary_dim = 128, .factor = 1});
    for (ropewalk::index i = 0; i < 64; ++i) CHECK(same.omega(i) == Approx(plain.omega(i)).epsilon(1e-15));
    const auto scaled = frequencies::llama3({.rotary_dim = 128});
    const auto factors = frequencies::pair_factors(plain, scaled);
    for (double f : factors) {
        CHECK(f >= 1);
        CHECK(f <= 8 * (1 + 1e-15));
    }
    const auto again = frequencies::divide_pairs(plain, factors);
    for (ropewalk::index i = 0; i < 64; ++i) CHECK(again.omega(i) == Approx(scaled.omega(i)).epsilon(1e-15));
}

TEST_CASE("llama3: an empty band divides nothing by zero", "[frequencies][llama3]") {
    const auto s =
        frequencies::llama3({.rotary_dim = 128, .factor = 16, .low_freq_factor = 1, .high_freq_factor = 1});
    const auto plain = frequencies::geometric({.rotary_dim = 128, .base = 5e5});
    for (ropewalk::index i = 0; i < 64; ++i) {
        const double ratio = plain.omega(i) / s.omega(i);
        CHECK((std::abs(ratio - 1) < 1e-14 || std::abs(ratio - 16) < 1e-12));
    }
}

TEST_CASE("llama3: a pair exactly at an empty band is divided, and not 0 / 0", "[frequencies][llama3]") {
    // Pair 0 turns context / 2 pi times over the context: both ends of the band stand there.
    const double edge = 8192.0 * 1.0 / (2 * std::numbers::pi);
    const auto s = frequencies::llama3({.rotary_dim = 128,
                                        .factor = 16,
                                        .low_freq_factor = edge,
                                        .high_freq_factor = edge,
                                        .original_context = 8192});
    CHECK(s.omega(0) == Approx(1.0 / 16).epsilon(1e-15));
    const auto plain = frequencies::geometric({.rotary_dim = 128, .base = 5e5});
    for (ropewalk::index i = 1; i < 64; ++i) CHECK(s.omega(i) == Approx(plain.omega(i) / 16).epsilon(1e-14));
    // One step of the band below, the pair is kept.
    const auto below = frequencies::llama3({.rotary_dim = 128,
                                            .factor = 16,
                                            .low_freq_factor = 1,
                                            .high_freq_factor = std::nextafter(edge, 0),
                                            .original_context = 8192});
    CHECK(below.omega(0) == Approx(1).epsilon(1e-15));
}

TEST_CASE("llama3: refuses impossible numbers", "[frequencies][llama3][errors]") {
    CHECK_REFUSES("llama3: rotary_dim must be even and > 0, got 1", frequencies::llama3({.rotary_dim = 1}));
    CHECK_REFUSES("llama3: factor must be > 0, got 0", frequencies::llama3({.rotary_dim = 8, .factor = 0}));
    CHECK_REFUSES("llama3: original_context must be > 0, got 0",
                  frequencies::llama3({.rotary_dim = 8, .original_context = 0}));
    CHECK_REFUSES("llama3: high_freq_factor must be >= low_freq_factor, got 4",
                  frequencies::llama3({.rotary_dim = 8, .low_freq_factor = 5}));
}
