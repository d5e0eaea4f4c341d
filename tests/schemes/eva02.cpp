// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/eva02.hpp>

#include <cmath>
#include <numbers>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
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

TEST_CASE("EVA-02: a slice of the channels turns by its own width", "[schemes][eva02]") {
    const auto slice = rw::eva02::axial({.head_dim = 20, .first_channel = 6, .rotary_dim = 8});
    CHECK(slice.first_channel == 6);
    CHECK(slice.rotary_dim == 8);
    CHECK(slice.spectrum_for(1).omegas() == rw::eva02::axial({.head_dim = 8}).spectrum_for(1).omegas());
    CHECK(rw::eva02::axial({.head_dim = 20, .first_channel = 4}).rotary_dim == 16);
    const auto pixel = rw::eva02::axial(
        {.head_dim = 20, .first_channel = 2, .rotary_dim = 12, .ladder = rw::eva02::ladder_kind::pixel});
    CHECK(pixel.first_channel == 2);
    CHECK(pixel.spectrum_for(1).pairs() == 6);
    // Channels outside the slice keep their bits.
    const auto where = rw::eva02::patches({.height = 2, .class_tokens = 0});
    support::heads_buffer<float> whole({1, 4, 2, 20}), alone({1, 4, 2, 8});
    const auto before = whole.fill(1).dense();
    alone.each([n = 0, &before](float& x) mutable {
        x = before[static_cast<std::size_t>(n / 8 * 20 + 6 + n % 8)];
        ++n;
    });
    rw::rotate(slice, whole.view(), rw::make_rotation_table(slice.spectrum_for(1), where));
    rw::rotate(rw::interleaved{}, alone.view(), rw::make_rotation_table(slice.spectrum_for(1), where));
    const auto after = whole.dense(), turned = alone.dense();
    for (std::size_t i = 0; i < after.size(); ++i) {
        const std::size_t c = i % 20;
        CHECK(after[i] == (c >= 6 && c < 14 ? turned[i / 20 * 8 + c - 6] : before[i]));
    }
    CHECK_REFUSES("eva02::axial: rotary_dim must be a multiple of 4, > 0 and within the head, got 16",
                  rw::eva02::axial({.head_dim = 20, .first_channel = 6, .rotary_dim = 16}));
    CHECK_REFUSES("eva02::axial: rotary_dim must be a multiple of 4, > 0 and within the head, got 6",
                  rw::eva02::axial({.head_dim = 20, .rotary_dim = 6}));
    CHECK_REFUSES("eva02::axial: first_channel must be >= 0 and below head_dim, got -4",
                  rw::eva02::axial({.head_dim = 20, .first_channel = -4}));
}

TEST_CASE("EVA-02: what was given is refused by its name", "[schemes][eva02][errors]") {
    using rw::eva02::ladder_kind;
    CHECK_REFUSES("eva02::patches: height must be >= 0, got -2", rw::eva02::patches({.height = -2}));
    CHECK_REFUSES("eva02::patches: height must be >= 0, got -2",
                  rw::eva02::patches({.height = -2, .trained_height = 4}));
    CHECK_REFUSES("eva02::patches: width must be >= 0, got -3",
                  rw::eva02::patches({.height = 2, .width = -3}));
    CHECK_REFUSES("eva02::patches: class_tokens must be >= 0, got -1",
                  rw::eva02::patches({.height = 2, .class_tokens = -1}));
    CHECK_REFUSES(
        "eva02::axial: max_frequency must be finite, got nan",
        rw::eva02::axial({.head_dim = 4, .ladder = ladder_kind::pixel, .max_frequency = std::nan("")}));
    CHECK_REFUSES("eva02::axial: ladder must be a ladder of the class, got 9",
                  rw::eva02::axial({.head_dim = 8, .ladder = static_cast<ladder_kind>(9)}));
    CHECK_REFUSES("eva02::axial: base must be finite and > 0, got nan",
                  rw::eva02::axial({.head_dim = 8, .base = std::nan("")}));
}

TEST_CASE("EVA-02: patch dropout gathers positions", "[schemes][eva02]") {
    const auto where = rw::eva02::patches({.height = 4, .trained_height = 2});
    const std::vector<int> kept{0, 3, 16};
    const auto some = rw::positions::select_tokens(where, std::span<const int>(kept));
    CHECK_FALSE(some.touched(0));
    CHECK(some.at(1, 1) == where.at(3, 1));
    CHECK(some.at(2, 0) == 1.5);
}
