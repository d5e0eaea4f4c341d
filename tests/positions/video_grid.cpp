// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/video_grid.hpp>

#include <limits>
#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

TEST_CASE("video_grid: text before and after is untouched", "[positions][video_grid]") {
    const auto ids = video_grid({.frames = 2, .height = 2, .width = 3, .text_before = 2, .text_after = 1});
    REQUIRE(ids.tokens() == 15);
    for (rw::index n = 0; n < 15; ++n) CHECK(ids.touched(n) == (n >= 2 && n < 14));
    CHECK(ids.at(13, 0) == 1);
    CHECK(ids.at(13, 1) == 1);
    CHECK(ids.at(13, 2) == 2);
}

TEST_CASE("video_batch: clips of their own sizes, padding untouched", "[positions][video_grid]") {
    const std::vector<rw::index> grids{1, 2, 2, 2, 1, 3};
    const auto ids = video_batch(grids, 6);
    REQUIRE(ids.tokens() == 12);
    CHECK(ids.touched(3));
    CHECK_FALSE(ids.touched(4));
    CHECK_FALSE(ids.touched(5));
    CHECK(ids.touched(11));
    CHECK(ids.at(11, 0) == 1);
    CHECK(ids.at(11, 2) == 2);
    CHECK_THROWS_WITH(video_batch(grids, 5),
                      "video_batch: padded_tokens must be >= the tokens of clip 1, got 5");
}

TEST_CASE("cogvideox: the crop has the clip's proportions, ties to even", "[positions][cogvideox]") {
    const auto crop = [](rw::index h, rw::index w) {
        return cogvideox_crop({.frames = 1, .height = h, .width = w});
    };
    CHECK(crop(30, 45).height == 30);
    CHECK(crop(30, 45).width == 45);
    CHECK(crop(30, 45).top == 0);
    // Taller than the base: 30 rows, 20 columns, (45 - 20) / 2 = 12.5 becomes 12.
    CHECK(crop(45, 30).width == 20);
    CHECK(crop(45, 30).left == 12);
    // Wider: 45 / 85 * 48 = 25.4 rows, 2.5 from the top becomes 2.
    CHECK(crop(48, 85).height == 25);
    CHECK(crop(48, 85).top == 2);
}

TEST_CASE("cogvideox: coordinates start at the crop and end short of it", "[positions][cogvideox]") {
    const auto at = cogvideox_coordinates(2, 25, 48);
    CHECK(at.front() == 2);
    CHECK(at.back() == Approx(27.0 * 47 / 48));
    CHECK(cogvideox_coordinates(3, 10, 1) == std::vector<double>{3});
    // On the training grid all of it is whole numbers.
    const auto ids = cogvideox_grid({.frames = 3, .height = 30, .width = 45, .text_before = 4});
    CHECK(ids.at(4 + (2 * 30 + 29) * 45 + 44, 0) == Approx(2));
    CHECK(ids.at(4 + (2 * 30 + 29) * 45 + 44, 1) == Approx(29));
    CHECK(ids.at(4 + (2 * 30 + 29) * 45 + 44, 2) == Approx(44));
}

TEST_CASE("video_grid: refuses sizes below one", "[positions][video_grid][errors]") {
    CHECK_THROWS_WITH(video_grid({.frames = 0, .height = 1, .width = 1}),
                      "video_grid: frames must be >= 1, got 0");
    CHECK_THROWS_WITH(video_grid({.frames = 1, .height = -1, .width = 1}),
                      "video_grid: height must be >= 1, got -1");
    CHECK_THROWS_WITH(video_grid({.frames = 1, .height = 1, .width = 1, .text_before = -1}),
                      "video_grid: text_before must be >= 0, got -1");
    CHECK_THROWS_WITH(cogvideox_crop({.height = 0, .width = 3}),
                      "cogvideox_crop: height must be in 1 .. " + support::limit(53) + ", got 0");
    CHECK_THROWS_WITH(cogvideox_grid({.frames = 0, .height = 3, .width = 3}),
                      "cogvideox_grid: frames must be in 1 .. " + support::limit(53) + ", got 0");
    const crop_region crop{.height = 3, .width = 3};  // from the grid's first row and column
    CHECK(crop.top == 0);
    CHECK(crop.left == 0);
    CHECK_THROWS_WITH(cogvideox_grid({.frames = 2, .height = -3, .width = 2}, crop),
                      "cogvideox_grid: height must be in 1 .. " + support::limit(53) + ", got -3");
    CHECK_THROWS_WITH(cogvideox_grid({.frames = 2, .height = 3, .width = 0}, crop),
                      "cogvideox_grid: width must be in 1 .. " + support::limit(53) + ", got 0");
    CHECK_THROWS_WITH(cogvideox_grid({.frames = 2, .height = 3, .width = 2}, {0, 0, -1, 3}),
                      "cogvideox_grid: crop.height must be >= 0, got -1");
    CHECK_THROWS_WITH(cogvideox_grid({.frames = 2, .height = 3, .width = 2}, {0, 0, 3, -1}),
                      "cogvideox_grid: crop.width must be >= 0, got -1");
    const rw::index huge = rw::index{1} << (std::numeric_limits<rw::index>::digits - 1);
    const std::string limit = support::limit(53), got = ", got " + std::to_string(huge);
    CHECK_THROWS_WITH(cogvideox_crop({.height = 1, .width = 1, .base_height = huge}),
                      "cogvideox_crop: base_height must be in 1 .. " + limit + got);
    CHECK_THROWS_WITH(cogvideox_coordinates(huge, 2, 2),
                      "cogvideox_coordinates: first must be within +-" + limit + got);
    CHECK_THROWS_WITH(cogvideox_coordinates(2, huge, 2),
                      "cogvideox_coordinates: length must be in 0 .. " + limit + got);
    CHECK_THROWS_WITH(cogvideox_coordinates(0, 3, 0),
                      "cogvideox_coordinates: count must be in 1 .. " + support::limit(53) + ", got 0");
}
