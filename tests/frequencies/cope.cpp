// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/cope.hpp>

#include <cmath>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("cope: the mask by its formula in long double", "[frequencies][cope]") {
    for (const rw::index pairs : {1, 5, 20, 21, 64})
        for (const rw::index clipped : {0, 1, 2, 7, 20, 100}) {
            const auto mask = frequencies::clip_mask(pairs, {.clipped_pairs = clipped});
            const rw::index c = std::min(pairs, clipped);
            for (rw::index i = 0; i < pairs; ++i) {
                const rw::index j = i - (pairs - c);
                const long double want = j <= 0 ? 1.0L : (1 + std::cos(std::acos(-1.0L) * j / (c - 1))) / 2;
                CHECK(mask[i] == Approx(double(want)).margin(1e-16).epsilon(1e-15));
            }
            if (c >= 2) CHECK(mask.back() == 0);
            for (rw::index j = 0; j < c && c >= 2; ++j)  // the taper is odd around its middle
                CHECK(mask[pairs - c + j] + mask[pairs - 1 - j] == Approx(1).epsilon(1e-15));
        }
}

TEST_CASE("cope: published numbers", "[frequencies][cope]") {
    const auto s = frequencies::clip_low(frequencies::geometric({.rotary_dim = 128, .base = 5e5}));
    CHECK(s.omega(45) == Approx(9.771021437254214e-05).epsilon(1e-14));
    CHECK(s.omega(54) == Approx(7.129065036110995e-06).epsilon(1e-14));
    CHECK(s.omega(63) == 0);
}

TEST_CASE("cope: hard is keep_pairs, none is the spectrum itself", "[frequencies][cope][reduces]") {
    const auto s = frequencies::assign_axes(frequencies::geometric({.rotary_dim = 12}).with_magnitude(1.5),
                                            std::vector<int>{0, 1, 0, 1, 0, 1});
    const auto hard = frequencies::clip_low(s, {.clipped_pairs = 4, .edge = frequencies::clip_edge::hard});
    const auto kept = frequencies::keep_pairs(s, std::vector<std::uint8_t>{1, 1, 0, 0, 0, 0});
    CHECK(hard.omegas() == kept.omegas());
    CHECK(hard.magnitude() == 1.5);
    CHECK(hard.axes() == 2);
    for (const rw::index clipped : {0, 1})
        CHECK(frequencies::clip_low(s, {.clipped_pairs = clipped}).omegas() == s.omegas());
}

TEST_CASE("cope: refuses a negative count", "[frequencies][cope][errors]") {
    CHECK_REFUSES("clip_mask: clipped_pairs must be >= 0, got -1",
                  frequencies::clip_mask(4, {.clipped_pairs = -1}));
    CHECK_REFUSES("clip_mask: pairs must be >= 0, got -4", frequencies::clip_mask(-4));
}
