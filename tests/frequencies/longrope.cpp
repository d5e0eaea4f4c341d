// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/longrope.hpp>

#include <cmath>

#include <ropewalk/frequencies/linear.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {
frequencies::longrope_config phi3() {
    frequencies::longrope_config c{.rotary_dim = 96, .original_context = 4096, .max_context = 131072};
    for (int i = 0; i < 48; ++i) {
        c.short_factors.push_back(1 + 0.02 * i);
        c.long_factors.push_back(1 + 0.6 * i);
    }
    return c;
}
}  // namespace

TEST_CASE("longrope: exactly the original context still takes the short factors", "[frequencies][longrope]") {
    const auto c = phi3();
    const auto plain = frequencies::geometric({.rotary_dim = 96});
    const auto at = frequencies::longrope(c, 4096);
    const auto past = frequencies::longrope(c, 4097);
    for (ropewalk::index i = 0; i < 48; ++i) {
        CHECK(at.omega(i) == Approx(plain.omega(i) / c.short_factors[i]).epsilon(1e-15));
        CHECK(past.omega(i) == Approx(plain.omega(i) / c.long_factors[i]).epsilon(1e-15));
    }
    CHECK(frequencies::longrope(c, 1).omegas() == at.omegas());
}

TEST_CASE("longrope: one magnitude for both tables, by the published rules", "[frequencies][longrope]") {
    auto c = phi3();
    CHECK(frequencies::longrope(c, 1).magnitude() == Approx(1.1902380714238083).epsilon(1e-15));
    CHECK(frequencies::longrope(c, 100000).magnitude() == frequencies::longrope(c, 1).magnitude());
    c.factor = 1;
    CHECK(frequencies::longrope(c, 1).magnitude() == 1.0);
    c.factor = 64;
    CHECK(frequencies::longrope(c, 1).magnitude() ==
          Approx(std::sqrt(1.5)).epsilon(1e-15));  // ln 64 / ln 4096 = 1/2
    c.policy = frequencies::longrope_magnitude::yarn;
    CHECK(frequencies::longrope(c, 1).magnitude() == Approx(1.4158883083359672).epsilon(1e-15));
    c.attention_factor = 1.25;
    CHECK(frequencies::longrope(c, 1).magnitude() == 1.25);
}

TEST_CASE("longrope: divisors of 1 are plain, equal divisors are interpolation",
          "[frequencies][longrope][reduces]") {
    auto c = phi3();
    c.short_factors.assign(48, 1.0);
    c.long_factors.assign(48, 32.0);
    CHECK(frequencies::longrope(c, 4096).omegas() == frequencies::geometric({.rotary_dim = 96}).omegas());
    const auto linear = frequencies::linear({.rotary_dim = 96, .factor = 32});
    const auto s = frequencies::longrope(c, 4097);
    for (ropewalk::index i = 0; i < 48; ++i) CHECK(s.omega(i) == Approx(linear.omega(i)).epsilon(1e-15));
}

TEST_CASE("dynamic_longrope: plain at the original context, the searched divisors at the end",
          "[frequencies][longrope][dynamic]") {
    const auto c = phi3();
    const frequencies::dynamic_longrope_config d{
        .rotary_dim = 96, .factors = c.long_factors, .original_context = 4096, .max_context = 131072};
    const auto plain = frequencies::geometric({.rotary_dim = 96});
    CHECK(frequencies::dynamic_longrope(d, 4096).omegas() == plain.omegas());
    const auto end = frequencies::dynamic_longrope(d, 131072);
    const auto full = frequencies::longrope(c, 131072);
    for (ropewalk::index i = 0; i < 48; ++i) CHECK(end.omega(i) == Approx(full.omega(i)).epsilon(1e-15));
    CHECK(end.magnitude() == full.magnitude());
    const auto middle = frequencies::dynamic_longrope(d, (4096 + 131072) / 2);
    for (ropewalk::index i = 0; i < 48; ++i)
        CHECK(plain.omega(i) / middle.omega(i) == Approx((1 + c.long_factors[i]) / 2).epsilon(1e-14));
    CHECK(frequencies::dynamic_longrope(d, 2048).omega(47) > plain.omega(47));  // the line is not clamped
}

TEST_CASE("longrope: refuses impossible numbers", "[frequencies][longrope][errors]") {
    auto c = phi3();
    CHECK_REFUSES("longrope: context_length must be >= 1, got 0", frequencies::longrope(c, 0));
    c.short_factors.pop_back();
    CHECK_REFUSES("longrope: short_factors must hold one number > 0 a pair, got 47 numbers for 48 pairs",
                  frequencies::longrope(c, 1));
    c = phi3();
    c.long_factors.push_back(1);
    CHECK_REFUSES("longrope: long_factors must hold one number > 0 a pair, got 49 numbers for 48 pairs",
                  frequencies::longrope(c, 1));
    c = phi3();
    c.long_factors[3] = 0;
    CHECK_REFUSES("longrope: long_factors must hold one number > 0 a pair, got 0",
                  frequencies::longrope(c, 1));
    c = phi3();
    c.original_context = 0;
    CHECK_REFUSES("longrope: original_context must be > 1, got 0", frequencies::longrope(c, 1));
    c = phi3();
    c.max_context = 0;
    CHECK_REFUSES("longrope: max_context must be > 0, got 0", frequencies::longrope(c, 1));
    c.factor = -2;
    CHECK_REFUSES("longrope: factor must be finite and > 0, got -2", frequencies::longrope(c, 1));
    c.attention_factor = NAN;
    CHECK_REFUSES("longrope: attention_factor must be finite and > 0, got nan", frequencies::longrope(c, 1));
    CHECK_REFUSES("dynamic_longrope: max_context must be > original_context, got 4096",
                  frequencies::dynamic_longrope(
                      {.rotary_dim = 2, .factors = {1}, .original_context = 4096, .max_context = 4096}, 5));
}
