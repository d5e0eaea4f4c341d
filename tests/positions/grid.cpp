// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/grid.hpp>

#include <algorithm>
#include <set>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

TEST_CASE("grid: rows are axis 0, columns axis 1 and fastest, around untouched tokens", "[positions][grid]") {
    const auto ids = positions::grid({.height = 2, .width = 3, .prefix_tokens = 1, .suffix_tokens = 2});
    REQUIRE(ids.tokens() == 9);
    CHECK(ids.values() == std::vector<double>{0, 0, 0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 0, 0, 0, 0});
    for (rw::index n = 0; n < 9; ++n) CHECK(ids.touched(n) == (n >= 1 && n < 7));
    CHECK(positions::grid({}).tokens() == 0);
    CHECK(positions::grid({.height = 0, .width = 5}).tokens() == 0);
}

TEST_CASE("grid: any real coordinates, and frames that repeat them", "[positions][grid]") {
    const auto ids = positions::grid({.height = 1, .width = 2, .frames = 2}, {-0.5}, {0.25, 7});
    CHECK(ids.values() == std::vector<double>{-0.5, 0.25, -0.5, 7, -0.5, 0.25, -0.5, 7});
}

TEST_CASE("grid: merge blocks keep their patches together", "[positions][grid]") {
    const positions::grid_config config{
        .height = 4, .width = 6, .merge = 2, .order = positions::patch_order::merge_blocks};
    const auto ids = positions::grid(config);
    const auto values = ids.values();
    const std::vector<double> first_two_blocks{0, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 3, 1, 2, 1, 3};
    CHECK(std::vector<double>(values.begin(), values.begin() + 16) == first_two_blocks);
    CHECK(values[24] == 2);  // token 12 opens the second row of blocks
    CHECK(values[25] == 0);
    SECTION("coordinates that are given come in the same order") {
        CHECK(positions::grid(config, positions::evenly_spaced(4), positions::evenly_spaced(6)).values() ==
              values);
    }
    SECTION("blocks of one are row-major") {
        CHECK(positions::grid(
                  {.height = 4, .width = 6, .merge = 1, .order = positions::patch_order::merge_blocks})
                  .values() == positions::grid({.height = 4, .width = 6}).values());
    }
}

TEST_CASE("grid: what does not fit is refused", "[positions][grid]") {
    const auto blocks = positions::patch_order::merge_blocks;
    CHECK_REFUSES("grid: height must be a multiple of merge, got 5",
                  positions::grid({.height = 5, .width = 4, .merge = 2, .order = blocks}));
    CHECK_REFUSES("grid: width must be a multiple of merge, got 7",
                  positions::grid({.height = 4, .width = 7, .merge = 2, .order = blocks}));
    CHECK_REFUSES("grid: merge must be >= 1, got 0",
                  positions::grid({.height = 4, .width = 4, .merge = 0, .order = blocks}));
    CHECK_REFUSES("grid: height must be >= 0, got -1", positions::grid({.height = -1, .width = 4}));
    CHECK_REFUSES("grid: prefix_tokens must be >= 0, got -1",
                  positions::grid({.height = 1, .width = 1, .prefix_tokens = -1}));
    CHECK_REFUSES("grid: suffix_tokens must be >= 0, got -2",
                  positions::grid({.height = 1, .width = 1, .suffix_tokens = -2}));
    CHECK_REFUSES("grid: height must be at most 134217728, got " + support::largest_index(),
                  positions::grid({.height = PTRDIFF_MAX, .width = 1}));
    CHECK_REFUSES("evenly_spaced: count must be at most 134217728, got 134217729",
                  positions::evenly_spaced(positions::most_coordinates + 1));
    CHECK_REFUSES(
        "grid: frames x height x width must be at most 134217728, got 268435456",
        positions::grid(
            {.height = 2, .width = 1, .frames = positions::most_coordinates, .merge = 1, .order = blocks},
            {0, 1}, {0}));
    CHECK_REFUSES("window_order: frames x height x width must be at most 134217728, got 1073741824",
                  positions::window_order({.frames = 1, .height = 1 << 15, .width = 1 << 15}));
    CHECK_REFUSES("grid: rows must hold one coordinate a row of the grid: wanted 2, got 3",
                  positions::grid({.height = 2, .width = 1}, {0, 1, 2}, {0}));
    CHECK_REFUSES("grid: columns must hold one coordinate a column of the grid: wanted 1, got 0",
                  positions::grid({.height = 1, .width = 1}, {0}, {}));
}

TEST_CASE("select_tokens: gathers in the order given and keeps untouched tokens", "[positions][grid]") {
    const auto ids = positions::grid({.height = 2, .width = 2, .prefix_tokens = 1});
    const std::vector<int> kept{4, 0, 1};
    const auto some = positions::select_tokens(ids, std::span<const int>(kept));
    REQUIRE(some.tokens() == 3);
    CHECK(some.values() == std::vector<double>{1, 1, 0, 0, 0, 0});
    CHECK(some.touched(0));
    CHECK_FALSE(some.touched(1));
    CHECK(some.touched(2));
    const std::vector<int> beyond{5};
    CHECK_REFUSES("select_tokens: tokens must name tokens of the sequence, got 5",
                  positions::select_tokens(ids, std::span<const int>(beyond)));
}

TEST_CASE("window_order: a permutation, windows of merge blocks cut at the border", "[positions][grid]") {
    // 6 x 10 patches = 3 x 5 merge blocks in windows of 2 x 2 blocks.
    const auto order =
        positions::window_order({.frames = 2, .height = 6, .width = 10, .merge = 2, .window = 2});
    REQUIRE(order.size() == 120);
    CHECK(std::set<int>(order.begin(), order.end()).size() == 120);
    std::vector<int> blocks;  // of the first frame
    for (std::size_t i = 0; i < 60; i += 4) {
        for (int j = 1; j < 4; ++j) CHECK(order[i + j] == order[i] + j);
        blocks.push_back(order[i] / 4);
    }
    CHECK(blocks == std::vector<int>{0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14});
    CHECK(order[60] == 60);
    // A window beyond the image is the image.
    CHECK(positions::window_order({.height = 4, .width = 4, .window = PTRDIFF_MAX}) ==
          positions::window_order({.height = 4, .width = 4, .window = 2}));
    CHECK_REFUSES("window_order: height must be a multiple of merge, got 5",
                  positions::window_order({.height = 5, .width = 4}));
    CHECK_REFUSES("window_order: window must be >= 1, got 0",
                  positions::window_order({.height = 4, .width = 4, .window = 0}));
}

TEST_CASE("shifted: every kind of segment moves, untouched tokens do not", "[positions][grid]") {
    rw::position_ids ids(2);
    ids.append(rw::untouched_run{1})
        .append(rw::text_run{2, 5, 1})
        .append(rw::listed_run{{1, 2}})
        .append(positions::grid({.height = 1, .width = 2}));
    const std::vector<double> offset{10, -3};
    const auto moved = positions::shifted(ids, offset);
    CHECK(moved.values() == std::vector<double>{0, 0, 15, 2, 16, 3, 11, -1, 10, -3, 10, -2});
    CHECK_FALSE(moved.touched(0));
    const std::vector<double> back{-10, 3};
    CHECK(positions::shifted(moved, back).values() == ids.values());
    const std::vector<double> one{1};
    CHECK_REFUSES("shifted: offset must hold one number an axis: wanted 2, got 1",
                  positions::shifted(ids, one));
}
