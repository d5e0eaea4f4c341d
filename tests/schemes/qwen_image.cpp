// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/qwen_image.hpp>

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
    CHECK(qwen::text_positions({.images = {{1, 4, 4}}, .text_tokens = 4094}).tokens() == 4094);
    CHECK_REFUSES("qwen_image::first_text_id: layered images must hold the condition, got 0",
                  qwen::first_text_id({.layered = true}));
    CHECK(qwen::joint({}).name == "qwen_image::joint");
}
