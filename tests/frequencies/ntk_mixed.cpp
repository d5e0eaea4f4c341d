// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/ntk_mixed.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("ntk_mixed: divisors by their formula in long double", "[frequencies][ntk_mixed]") {
    for (const double exponent : {0.3, 0.625, 1.0, 2.0}) {
        const auto got =
            frequencies::ntk_mixed_divisors({.rotary_dim = 64, .factor = 8, .exponent = exponent});
        for (rw::index i = 0; i < 32; ++i) {
            const long double want =
                std::exp(std::log(8.0L) * std::pow((i + 1) / 32.0L, (long double)exponent));
            CHECK(got[i] == Approx(double(want)).epsilon(1e-15));
        }
        CHECK(got.front() > 1);  // pair 0 slows down too
        CHECK(got.back() == Approx(8).epsilon(1e-15));
    }
    CHECK(frequencies::ntk_mixed({.rotary_dim = 64, .base = 2e4, .factor = 8}).omega(0) ==
          Approx(0.9370838170551501).epsilon(1e-15));
}

TEST_CASE("ntk_mixed: without an exponent it is exponent 1; factor 1 is the ladder",
          "[frequencies][ntk_mixed][reduces]") {
    CHECK(frequencies::ntk_mixed_divisors({.rotary_dim = 16, .factor = 3}) ==
          frequencies::ntk_mixed_divisors({.rotary_dim = 16, .factor = 3, .exponent = 1}));
    CHECK(frequencies::ntk_mixed({.rotary_dim = 16, .factor = 1, .exponent = 0.5}).omegas() ==
          frequencies::geometric({.rotary_dim = 16}).omegas());
}

TEST_CASE("ntk_mixed: refuses bad numbers", "[frequencies][ntk_mixed][errors]") {
    CHECK_REFUSES("ntk_mixed: rotary_dim must be even and > 0, got 7",
                  frequencies::ntk_mixed({.rotary_dim = 7}));
    CHECK_REFUSES("ntk_mixed: factor must be finite and > 0, got -2",
                  frequencies::ntk_mixed({.rotary_dim = 8, .factor = -2}));
    CHECK_REFUSES("ntk_mixed: exponent must be finite, got nan",
                  frequencies::ntk_mixed({.rotary_dim = 8, .exponent = NAN}));
}
