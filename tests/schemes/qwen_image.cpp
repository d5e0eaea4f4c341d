// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/qwen_image.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace qwen = ropewalk::qwen_image;

TEST_CASE("Qwen-Image: centred ids of 4 x 5, text behind the largest half", "[schemes][qwen_image]") {
    const qwen::sequence_config config{.images = {{1, 4, 5}}, .text_tokens = 2};
    const auto image = qwen::image_positions(config);
    REQUIRE(image.tokens() == 20);
    CHECK(image.at(0, 1) == -2);
    CHECK(image.at(19, 1) == 1);
    CHECK(image.at(0, 2) == -3);
    CHECK(image.at(4, 2) == 1);
    CHECK(image.at(7, 0) == 0);
    CHECK(qwen::first_text_id(config) == 2);
    CHECK(qwen::text_positions(config).values() == std::vector<double>{2, 2, 2, 3, 3, 3});
    const auto joint = qwen::joint_positions(config);
    CHECK(joint.tokens() == 22);
    CHECK(joint.at(1, 2) == 3);
    CHECK(joint.at(2, 1) == -2);
}

TEST_CASE("Qwen-Image: several images and frames, uncentred ids", "[schemes][qwen_image]") {
    const qwen::sequence_config config{.images = {{1, 2, 2}, {2, 3, 1}}, .text_tokens = 1, .centred = false};
    const auto ids = qwen::image_positions(config);
    REQUIRE(ids.tokens() == 10);
    CHECK(ids.at(0, 1) == 0);
    CHECK(ids.at(4, 0) == 1);  // image 1, frame 0
    CHECK(ids.at(7, 0) == 2);  // image 1, frame 1
    CHECK(ids.at(9, 1) == 2);
    CHECK(qwen::first_text_id(config) == 3);
}

TEST_CASE("Qwen-Image: the condition of layers stands at frame -1", "[schemes][qwen_image]") {
    const qwen::sequence_config config{
        .images = {{1, 2, 2}, {1, 2, 2}, {1, 2, 2}, {1, 2, 2}}, .text_tokens = 1, .layered = true};
    const auto ids = qwen::image_positions(config);
    CHECK(ids.at(8, 0) == 2);
    CHECK(ids.at(12, 0) == -1);
    CHECK(qwen::first_text_id(config) == 3);  // more layers than half an extent
}

TEST_CASE("Qwen-Image: ids beyond the reference's tables are refused", "[schemes][qwen_image]") {
    CHECK_REFUSES("qwen_image::image_positions: width must be >= 0 and within the table's ids, got 8194",
                  qwen::image_positions({.images = {{1, 2, 8194}}}));
    CHECK_REFUSES("qwen_image::image_positions: height must be >= 0 and within the table's ids, got 4097",
                  qwen::image_positions({.images = {{1, 4097, 2}}, .centred = false}));
    CHECK_REFUSES("qwen_image::text_positions: first text id plus text_tokens must be at most 4096, got 4095",
                  qwen::text_positions({.images = {{1, 4, 4}}, .text_tokens = 4095}));
    CHECK_REFUSES(
        "qwen_image::text_positions: first text id plus text_tokens must be at most 4096, "
        "got " +
            support::largest_index(),
        qwen::text_positions({.images = {{1, 4, 4}}, .text_tokens = PTRDIFF_MAX}));
    CHECK(qwen::text_positions({.images = {{1, 4, 4}}, .text_tokens = 4094}).tokens() == 4094);
    CHECK_REFUSES("qwen_image::first_text_id: layered images must hold the condition, got 0",
                  qwen::first_text_id({.layered = true}));
    CHECK(qwen::joint({}).name == "qwen_image::joint");
}

TEST_CASE("Qwen-Image: no size is its own mirror image, and -p turns back what p turns",
          "[schemes][qwen_image][invariant]") {
    for (const rw::index side : {1, 2, 3, 4, 5, 8, 9}) {
        const auto ids = qwen::image_positions({.images = {{1, side, side}}});
        const bool even = side % 2 == 0;
        CHECK(ids.at(0, 1) == (even ? -side / 2 : -(side + 1) / 2));
        CHECK(ids.at(side * side - 1, 1) == (even ? side / 2 - 1 : (side - 3) / 2));
        CHECK(ids.at(0, 2) == ids.at(0, 1));
        CHECK(ids.at(side * side - 1, 2) == ids.at(side * side - 1, 1));
        CHECK(ids.at(0, 1) != -ids.at(side * side - 1, 1));
    }
    const auto omega = qwen::joint({}).spectrum_for(1);
    const auto forth = rw::make_rotation_table<double>(omega, rw::position_ids::text(1, 7, 3));
    const auto back = rw::make_rotation_table<double>(omega, rw::position_ids::text(1, -7, 3));
    for (std::size_t i = 0; i < 64; ++i) {
        CHECK(forth.cos_row(0)[i] == back.cos_row(0)[i]);
        CHECK(forth.sin_row(0)[i] == -back.sin_row(0)[i]);
    }
}

TEST_CASE("Qwen-Image: equal ids on all axes are a 1-D rotation by three ladders",
          "[schemes][qwen_image][invariant]") {
    const auto omega = qwen::joint({}).spectrum_for(1);
    const auto text = rw::make_rotation_table<double>(
        omega, qwen::text_positions({.images = {{1, 4, 4}}, .text_tokens = 2}));
    const auto plain = rw::make_rotation_table<double>(rw::spectrum::from_omega(omega.omegas()),
                                                       rw::position_ids::text(2, 2));
    for (rw::index n = 0; n < 2; ++n)
        for (std::size_t i = 0; i < 64; ++i) {
            CHECK(text.cos_row(n)[i] == Approx(plain.cos_row(n)[i]).margin(1e-14));
            CHECK(text.sin_row(n)[i] == Approx(plain.sin_row(n)[i]).margin(1e-14));
        }
    CHECK(omega.omega(0) == Approx(1));
    CHECK(omega.omega(8) == Approx(1));
    CHECK(omega.omega(36) == Approx(1));
}
