// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/ntk.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("ntk: the published base for alpha 4", "[frequencies][ntk]") {
    CHECK(frequencies::ntk_base({.rotary_dim = 128, .base = 1e4, .alpha = 4}) ==
          Approx(40889.94243248622).epsilon(1e-14));
}

TEST_CASE("ntk: the fastest pair stays, the slowest is divided by alpha", "[frequencies][ntk]") {
    for (const ropewalk::index d : {4, 32, 64, 96, 128, 256})
        for (const double alpha : {0.5, 1.0, 2.0, 4.0, 1000.0}) {
            const auto plain = frequencies::geometric({.rotary_dim = d});
            const auto s = frequencies::ntk({.rotary_dim = d, .alpha = alpha});
            CHECK(s.omega(0) == 1.0);
            CHECK(s.omega(d / 2 - 1) * alpha == Approx(plain.omega(d / 2 - 1)).epsilon(1e-13));
        }
}

TEST_CASE("ntk: alpha 1 is the plain ladder", "[frequencies][ntk][reduces]") {
    const auto plain = frequencies::geometric({.rotary_dim = 64, .base = 5e5});
    const auto s = frequencies::ntk({.rotary_dim = 64, .base = 5e5, .alpha = 1});
    for (ropewalk::index i = 0; i < 32; ++i) CHECK(s.omega(i) == plain.omega(i));
}

TEST_CASE("dynamic_ntk: published bases", "[frequencies][ntk][dynamic]") {
    const auto base_at = [](double factor, double max_context, std::int64_t n) {
        const double alpha = frequencies::dynamic_ntk_alpha(
            {.rotary_dim = 128, .factor = factor, .max_context = max_context}, n);
        return frequencies::ntk_base({.rotary_dim = 128, .base = 1e4, .alpha = alpha});
    };
    CHECK(base_at(2, 4096, 8192) == Approx(30527.7367488067).epsilon(1e-13));
    CHECK(base_at(1, 4096, 8192) == Approx(20221.261689737912).epsilon(1e-13));
    CHECK(base_at(4, 2048, 5000) == Approx(69740.87841644637).epsilon(1e-13));
}

TEST_CASE("dynamic_ntk: exactly plain up to the trained length, pure in the length",
          "[frequencies][ntk][dynamic]") {
    const frequencies::dynamic_ntk_config c{.rotary_dim = 64, .factor = 4, .max_context = 2048};
    const auto plain = frequencies::geometric({.rotary_dim = 64});
    const auto before = frequencies::dynamic_ntk(c, 9000).omegas();
    for (const std::int64_t n : {1, 2047, 2048})
        CHECK(frequencies::dynamic_ntk(c, n).omegas() == plain.omegas());
    CHECK(frequencies::dynamic_ntk(c, 2049).omega(31) < plain.omega(31));
    CHECK(frequencies::dynamic_ntk(c, 9000).omegas() == before);  // asking for a shorter one changed nothing
}

TEST_CASE("ntk_by_parts: factor 1 is plain; fast pairs stay, slow ones are interpolated",
          "[frequencies][ntk][reduces]") {
    const auto plain = frequencies::geometric({.rotary_dim = 128});
    const auto same = frequencies::ntk_by_parts({.rotary_dim = 128, .factor = 1, .original_context = 2048});
    const auto s = frequencies::ntk_by_parts({.rotary_dim = 128, .factor = 4, .original_context = 2048});
    for (ropewalk::index i = 0; i < 64; ++i) CHECK(same.omega(i) == Approx(plain.omega(i)).epsilon(1e-14));
    CHECK(s.omega(0) == 1.0);
    CHECK(s.omega(63) == Approx(plain.omega(63) / 4).epsilon(1e-14));
    for (ropewalk::index i = 0; i < 64; ++i) {
        CHECK(s.omega(i) <= plain.omega(i) * (1 + 1e-14));
        CHECK(s.omega(i) >= plain.omega(i) / 4 * (1 - 1e-14));
    }
}

TEST_CASE("dynamic_ntk_by_parts: plain up to the original context, then length over it",
          "[frequencies][ntk][dynamic]") {
    const frequencies::ntk_by_parts_config c{.rotary_dim = 64, .original_context = 2048};
    CHECK(frequencies::dynamic_ntk_by_parts(c, 2048).omegas() ==
          frequencies::geometric({.rotary_dim = 64}).omegas());
    auto fixed = c;
    fixed.factor = 2;
    CHECK(frequencies::dynamic_ntk_by_parts(c, 4096).omegas() == frequencies::ntk_by_parts(fixed).omegas());
}

TEST_CASE("ntk: refuses impossible numbers", "[frequencies][ntk][errors]") {
    CHECK_REFUSES("ntk: rotary_dim must be > 2, got 2", frequencies::ntk({.rotary_dim = 2}));
    CHECK_REFUSES("ntk: rotary_dim must be > 2, got 2",
                  frequencies::dynamic_ntk({.rotary_dim = 2, .max_context = 8}, 9));
    CHECK_REFUSES("ntk: rotary_dim must be even and > 0, got 5", frequencies::ntk({.rotary_dim = 5}));
    CHECK_REFUSES("ntk: alpha must be finite and > 0, got 0",
                  frequencies::ntk({.rotary_dim = 8, .alpha = 0}));
    CHECK_REFUSES("dynamic_ntk: factor must be finite and > 0, got -1",
                  frequencies::dynamic_ntk({.rotary_dim = 8, .factor = -1, .max_context = 8}, 9));
    CHECK_REFUSES("dynamic_ntk: max_context must be > 0, got 0",
                  frequencies::dynamic_ntk({.rotary_dim = 8}, 9));
    CHECK_REFUSES("dynamic_ntk: context_length must be >= 1, got 0",
                  frequencies::dynamic_ntk({.rotary_dim = 8, .max_context = 8}, 0));
    for (const double alpha : {1e200, 1e-200}) {
        const std::string got = ropewalk::detail::text(alpha);
        CHECK_REFUSES("ntk: alpha must leave the base finite and > 0, got " + got,
                      frequencies::ntk_base({.rotary_dim = 4, .alpha = alpha}));
        CHECK_REFUSES("ntk: factor must leave the base finite and > 0, got " + got,
                      frequencies::ntk_by_parts({.rotary_dim = 4, .factor = alpha, .original_context = 64}));
    }
    CHECK_REFUSES("ntk: factor must leave the base finite and > 0, got 1e+300",
                  frequencies::dynamic_ntk({.rotary_dim = 4, .factor = 1e300, .max_context = 1}, 1000));
    CHECK_REFUSES("ntk_by_parts: ntk_factor must be finite, got nan",
                  frequencies::ntk_by_parts({.rotary_dim = 8, .original_context = 64, .ntk_factor = NAN}));
    CHECK_REFUSES(
        "ntk_by_parts: extrapolation_factor must be finite, got nan",
        frequencies::ntk_by_parts({.rotary_dim = 8, .original_context = 64, .extrapolation_factor = NAN}));
    CHECK_REFUSES("ntk_by_parts: original_context must be > 0, got 0",
                  frequencies::ntk_by_parts({.rotary_dim = 8}));
    CHECK_REFUSES("ntk_by_parts: factor must be finite and > 0, got 0",
                  frequencies::ntk_by_parts({.rotary_dim = 8, .factor = 0, .original_context = 64}));
    CHECK_REFUSES("ntk_by_parts: beta_fast must be >= beta_slow, got 0.5",
                  frequencies::ntk_by_parts({.rotary_dim = 8, .original_context = 64, .beta_fast = 0.5}));
    CHECK_REFUSES("ntk_by_parts: gamma_fast must be >= gamma_slow, got 1",
                  frequencies::ntk_by_parts({.rotary_dim = 8, .original_context = 64, .gamma_fast = 1}));
}
