// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/eva02.hpp>

#include <numbers>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::angles_of;
using support::near;

TEST_CASE("EVA-02: worked example, pt 4 on ft 6", "[schemes][eva02]") {
    const auto rope = rw::eva02::axial({.head_dim = 8});
    const auto where = rw::eva02::patches({.height = 6, .trained_height = 4});
    REQUIRE(where.tokens() == 37);
    CHECK(near(angles_of(rope, where, 1 + 1 * 6 + 2), {2.0 / 3, 0.02 / 3, 4.0 / 3, 0.04 / 3}, 1e-9));
}

TEST_CASE("EVA-02: nothing is squeezed without a training grid, and even tokens of a doubled one agree",
          "[schemes][eva02][reduces]") {
    CHECK(rw::eva02::patches({.height = 3}).values() ==
          rw::positions::grid({.height = 3, .width = 3, .prefix_tokens = 1}).values());
    CHECK(rw::eva02::patches({.height = 3, .trained_height = 3}).values() ==
          rw::eva02::patches({.height = 3}).values());
    const auto fine = rw::eva02::patches({.height = 8, .trained_height = 4, .class_tokens = 0});
    const auto coarse = rw::eva02::patches({.height = 4, .class_tokens = 0});
    for (rw::index r = 0; r < 4; ++r)
        for (rw::index c = 0; c < 4; ++c) {
            CHECK(fine.at(2 * r * 8 + 2 * c, 0) == coarse.at(r * 4 + c, 0));
            CHECK(fine.at(2 * r * 8 + 2 * c, 1) == coarse.at(r * 4 + c, 1));
        }
}

TEST_CASE("EVA-02: each axis has its own ratio on a grid that is not square", "[schemes][eva02]") {
    const auto where = rw::eva02::patches(
        {.height = 2, .width = 4, .trained_height = 4, .trained_width = 4, .class_tokens = 0});
    CHECK(where.at(4, 0) == 2);  // row 1 of 2 on 4
    CHECK(where.at(3, 1) == 3);
}

TEST_CASE("EVA-02: the other ladders of the class", "[schemes][eva02]") {
    const auto pixel =
        rw::eva02::axial({.head_dim = 12, .ladder = rw::eva02::ladder_kind::pixel}).spectrum_for(1);
    for (rw::index i = 0; i < 3; ++i) {
        CHECK(pixel.omega(i) == Approx(std::numbers::pi * (1 + 2 * static_cast<double>(i))));
        CHECK(pixel.omega(3 + i) == pixel.omega(i));
    }
    const auto constant =
        rw::eva02::axial({.head_dim = 8, .ladder = rw::eva02::ladder_kind::constant}).spectrum_for(1);
    for (rw::index i = 0; i < 4; ++i) CHECK(constant.omega(i) == Approx(1));
    CHECK_REFUSES("eva02::axial: head_dim must be a multiple of 4 and > 0, got 10",
                  rw::eva02::axial({.head_dim = 10, .ladder = rw::eva02::ladder_kind::pixel}));
    CHECK_REFUSES("eva02::axial: head_dim must be a multiple of 4 and > 0, got 10",
                  rw::eva02::axial({.head_dim = 10}));
    CHECK_REFUSES("eva02::patches: trained_height must be >= 0, got -4",
                  rw::eva02::patches({.height = 2, .trained_height = -4}));
}

TEST_CASE("EVA-02: patch dropout gathers positions", "[schemes][eva02]") {
    const auto where = rw::eva02::patches({.height = 4, .trained_height = 2});
    const std::vector<int> kept{0, 3, 16};
    const auto some = rw::positions::select_tokens(where, std::span<const int>(kept));
    CHECK_FALSE(some.touched(0));
    CHECK(some.at(1, 1) == where.at(3, 1));
    CHECK(some.at(2, 0) == 1.5);
}
