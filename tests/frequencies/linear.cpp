// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/linear.hpp>

#include <limits>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("linear: factor 1 is the plain ladder, factor s divides it", "[frequencies][linear][reduces]") {
    const auto plain = frequencies::geometric({.rotary_dim = 64, .base = 5e5});
    const auto one = frequencies::linear({.rotary_dim = 64, .base = 5e5, .factor = 1});
    const auto eight = frequencies::linear({.rotary_dim = 64, .base = 5e5, .factor = 8});
    for (ropewalk::index i = 0; i < 32; ++i) {
        CHECK(one.omega(i) == plain.omega(i));
        CHECK(eight.omega(i) == plain.omega(i) / 8);
    }
    CHECK(eight.magnitude() == 1.0);
}

TEST_CASE("linear: an s > 1 spectrum at position s p equals the plain one at p", "[frequencies][linear]") {
    const auto plain = frequencies::geometric({.rotary_dim = 8});
    const auto scaled = frequencies::linear({.rotary_dim = 8, .factor = 4});
    for (ropewalk::index i = 0; i < 4; ++i)
        CHECK(4 * 77 * scaled.omega(i) == Approx(77 * plain.omega(i)).epsilon(1e-15));
}

TEST_CASE("interpolate: divides any spectrum and keeps its axes, heads and magnitude",
          "[frequencies][linear]") {
    const auto yarn = frequencies::yarn({.rotary_dim = 16, .factor = 4, .original_context = 512});
    const std::vector<int> map{0, 1, 2, 0, 1, 2, 0, 1};
    const auto s = frequencies::assign_axes(yarn, map);
    const auto half = frequencies::interpolate(s, 2);
    CHECK(half.axes() == 3);
    CHECK(half.magnitude() == s.magnitude());
    for (ropewalk::index i = 0; i < 8; ++i) {
        CHECK(half.axis_of(0, i) == map[static_cast<std::size_t>(i)]);
        CHECK(half.omega(i) == s.omega(i) / 2);
    }
    const std::vector<double> both{1, 2, 3, 4};
    const auto mixed = frequencies::interpolate(spectrum::mixed(both, 1, 2), 2);
    CHECK(mixed.is_mixed());
    CHECK(mixed.omega(0, 1, 1) == Approx(2).epsilon(1e-15));
}

TEST_CASE("dynamic_linear: plain up to the trained length, then length over it", "[frequencies][linear]") {
    const frequencies::dynamic_linear_config c{.rotary_dim = 32, .max_context = 2048};
    const auto plain = frequencies::geometric({.rotary_dim = 32});
    for (const std::int64_t n : {1, 2047, 2048})
        CHECK(frequencies::dynamic_linear(c, n).omega(5) == plain.omega(5));
    CHECK(frequencies::dynamic_linear(c, 3072).omega(5) == Approx(plain.omega(5) / 1.5).epsilon(1e-15));
}

TEST_CASE("linear: refuses impossible numbers", "[frequencies][linear][errors]") {
    CHECK_REFUSES("linear: rotary_dim must be even and > 0, got 9", frequencies::linear({.rotary_dim = 9}));
    CHECK_REFUSES("linear: factor must be finite and > 0, got 0",
                  frequencies::linear({.rotary_dim = 8, .factor = 0}));
    CHECK_REFUSES("linear: factor must be finite and > 0, got -4",
                  frequencies::linear({.rotary_dim = 8, .factor = -4}));
    CHECK_REFUSES("interpolate: factor must be finite and > 0, got nan",
                  frequencies::interpolate(frequencies::geometric({.rotary_dim = 8}),
                                           std::numeric_limits<double>::quiet_NaN()));
    CHECK_REFUSES("dynamic_linear: max_context must be > 0, got 0",
                  frequencies::dynamic_linear({.rotary_dim = 8}, 5));
    CHECK_REFUSES("dynamic_linear: context_length must be >= 1, got 0",
                  frequencies::dynamic_linear({.rotary_dim = 8, .max_context = 4}, 0));
}
