// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/dinov3.hpp>

#include <numbers>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace dinov3 = ropewalk::dinov3;
using support::angles_of;
using support::near;

TEST_CASE("DINOv3: worked example", "[schemes][dinov3]") {
    const auto rope = dinov3::axial(dinov3::periods({.head_dim = 8}));
    const auto where = dinov3::patches({.height = 1, .width = 2, .prefix_tokens = 0});
    CHECK(where.values() == std::vector<double>{0, -0.5, 0, 0.5});
    CHECK(near(angles_of(rope, where, 1), {0, 0, std::numbers::pi, std::numbers::pi / 10}, 1e-12));
    CHECK(rope.read_layout == rw::pair_layout(rw::half_split{}));
    CHECK(dinov3::patches({.height = 2, .width = 2}).tokens() == 9);  // class + 4 registers
}

TEST_CASE("DINOv3: periods from a range include both ends", "[schemes][dinov3]") {
    const auto p = dinov3::periods({.head_dim = 16, .min_period = 0.5, .max_period = 32});
    CHECK(near(p, {0.5, 2, 8, 32}, 1e-14));
    CHECK(dinov3::periods({.head_dim = 4, .min_period = 3, .max_period = 9}) == std::vector<double>{3});
}

TEST_CASE("DINOv3: bf16 keeps eight digits of a period", "[schemes][dinov3]") {
    const auto p = dinov3::rounded_to_bf16({1, std::sqrt(10.0), 10});
    CHECK(p == std::vector<double>{1, 3.15625, 10});
}

TEST_CASE("DINOv3: the grid is antisymmetric about its centre", "[schemes][dinov3]") {
    for (const auto by : {dinov3::normalisation::separate, dinov3::normalisation::max}) {
        const auto where = dinov3::patches({.height = 5, .width = 5, .by = by, .prefix_tokens = 0});
        for (rw::index n = 0; n < 25; ++n)
            for (rw::index a = 0; a < 2; ++a)
                CHECK(where.at(n, a) == Approx(-where.at(24 - n, a)).margin(1e-16));
    }
    CHECK(dinov3::patches({.height = 5, .width = 3, .prefix_tokens = 0}).at(7, 0) == 0);
}

TEST_CASE("DINOv3: normalisation by the longer or the shorter side", "[schemes][dinov3]") {
    const auto at = [](dinov3::normalisation by) {
        return dinov3::patches({.height = 4, .width = 2, .by = by, .prefix_tokens = 0}).values();
    };
    const auto max = at(dinov3::normalisation::max), min = at(dinov3::normalisation::min);
    CHECK(max[1] == -0.75);
    CHECK(max[6 * 2] == 0.75);
    CHECK(min[6 * 2] == 2.5);  // the long axis leaves [-1, 1]
    CHECK(min[1] == -0.5);
}

TEST_CASE("DINOv3: augmentation is shift, then jitter, then rescale", "[schemes][dinov3]") {
    const auto where = dinov3::patches(
        {.height = 2,
         .width = 2,
         .prefix_tokens = 0,
         .augment = {
             .shift_row = 0.25, .shift_column = -0.5, .jitter_row = 2, .jitter_column = 3, .rescale = 0.5}});
    CHECK(where.at(0, 0) == (-0.5 + 0.25) * 2 * 0.5);
    CHECK(where.at(3, 1) == (0.5 - 0.5) * 3 * 0.5);
    CHECK(where.at(0, 1) == -1.5);
}

TEST_CASE("DINOv3: exactly one way to say the periods", "[schemes][dinov3]") {
    CHECK_REFUSES("dinov3::periods: min_period must be finite and > 0 beside max_period, got 0",
                  dinov3::periods({.head_dim = 8, .max_period = 4}));
    CHECK_REFUSES("dinov3::periods: max_period must be finite and > 0 beside min_period, got 0",
                  dinov3::periods({.head_dim = 8, .min_period = 4}));
    CHECK_REFUSES("dinov3::periods: head_dim must be a multiple of 4 and > 0, got 10",
                  dinov3::periods({.head_dim = 10}));
    CHECK_REFUSES("dinov3::periods: base must not be given beside min_period and max_period, got 100",
                  dinov3::periods({.head_dim = 16, .base = 100, .min_period = 0.5, .max_period = 32}));
    CHECK(dinov3::periods({.head_dim = 16}) == dinov3::periods({.head_dim = 16, .base = 100}));
    CHECK_REFUSES("dinov3::periods: base must be finite and > 0, got 0",
                  dinov3::periods({.head_dim = 8, .base = 0}));
    CHECK_REFUSES("dinov3::axial: periods must not be empty, got 0", dinov3::axial(std::vector<double>{}));
    CHECK_REFUSES("dinov3::axial: periods must be finite and > 0, got -1",
                  dinov3::axial(std::vector<double>{-1}));
    CHECK_REFUSES("dinov3::patches: height must be >= 1, got 0", dinov3::patches({.height = 0, .width = 2}));
}

TEST_CASE("DINOv3: patches refuse what they were given, by its name", "[schemes][dinov3][errors]") {
    const auto with = [](const dinov3::augmentation& augment) {
        return dinov3::patches({.height = 2, .width = 2, .augment = augment});
    };
    const double nan = std::nan("");
    CHECK_REFUSES("dinov3::patches: augment.shift_row must be finite, got nan", with({.shift_row = nan}));
    CHECK_REFUSES("dinov3::patches: augment.shift_column must be finite, got nan",
                  with({.shift_column = nan}));
    CHECK_REFUSES("dinov3::patches: augment.jitter_row must be finite, got nan", with({.jitter_row = nan}));
    CHECK_REFUSES("dinov3::patches: augment.jitter_column must be finite, got nan",
                  with({.jitter_column = nan}));
    CHECK_REFUSES("dinov3::patches: augment.rescale must be finite, got inf", with({.rescale = INFINITY}));
    CHECK_REFUSES("dinov3::patches: prefix_tokens must be >= 0, got -1",
                  dinov3::patches({.height = 2, .width = 2, .prefix_tokens = -1}));
    CHECK_REFUSES("dinov3::patches: width must be >= 1, got -3", dinov3::patches({.height = 2, .width = -3}));
    CHECK_REFUSES("dinov3::patches: height must be at most 134217728, got " + support::largest_index(),
                  dinov3::patches({.height = PTRDIFF_MAX, .width = 1}));
    CHECK_REFUSES("dinov3::patches: by must be a normalisation, got 7",
                  dinov3::patches({.height = 2, .width = 2, .by = static_cast<dinov3::normalisation>(7)}));
}
