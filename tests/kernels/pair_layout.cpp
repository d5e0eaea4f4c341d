// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/pair_layout.hpp>

#include <vector>

#include "tests/support/catch.hpp"

namespace pair_layouts {

namespace rw = ropewalk;
using index = rw::index;

namespace {

const std::vector<index> pair_counts = {1, 2, 3, 4, 6, 7, 8, 12, 15, 16, 17, 32, 48, 64, 128};

std::vector<rw::pair_layout> layouts_of(index pairs) {
    std::vector<rw::pair_layout> all = {rw::half_split{}, rw::interleaved{}};
    for (index group = 2; group <= 2 * pairs; group += 2)
        if (rw::pair_layout::blocked_by(group).fits(pairs)) all.push_back(rw::pair_layout::blocked_by(group));
    return all;
}

template <class L>
bool agrees_with_its_run_time_value(index pairs) {
    const rw::pair_layout layout = L{};
    for (index i = 0; i < pairs; ++i)
        if (L::first(i, pairs) != layout.first(i, pairs) || L::second(i, pairs) != layout.second(i, pairs))
            return false;
    return true;
}

}  // namespace

static_assert(rw::static_layout<rw::half_split> && rw::static_layout<rw::interleaved> &&
              rw::static_layout<rw::blocked<64>>);
static_assert(!rw::static_layout<rw::pair_layout>);
static_assert(rw::half_split::second(3, 8) == 11 && rw::interleaved::second(3, 8) == 7);
static_assert(rw::blocked<4>::first(3, 4) == 5 && rw::blocked<4>::second(3, 4) == 7);

TEST_CASE("pair_layout: every channel belongs to exactly one pair", "[kernels][pair_layout]") {
    for (index pairs : pair_counts)
        for (const rw::pair_layout layout : layouts_of(pairs)) {
            INFO("pairs " << pairs << ", kind " << static_cast<int>(layout.kind) << ", group "
                          << layout.group);
            std::vector<int> seen(static_cast<std::size_t>(2 * pairs));
            for (index i = 0; i < pairs; ++i)
                for (index channel : {layout.first(i, pairs), layout.second(i, pairs)}) {
                    REQUIRE(channel >= 0);
                    REQUIRE(channel < 2 * pairs);
                    ++seen[static_cast<std::size_t>(channel)];
                }
            REQUIRE(seen == std::vector<int>(seen.size(), 1));
        }
}

TEST_CASE("pair_layout: the run-time value is the layout type", "[kernels][pair_layout]") {
    for (index pairs : pair_counts) {
        CHECK(agrees_with_its_run_time_value<rw::half_split>(pairs));
        CHECK(agrees_with_its_run_time_value<rw::interleaved>(pairs));
        CHECK(agrees_with_its_run_time_value<rw::blocked<2>>(pairs));
        if (pairs % 2 == 0) CHECK(agrees_with_its_run_time_value<rw::blocked<4>>(pairs));
        if (pairs % 32 == 0) CHECK(agrees_with_its_run_time_value<rw::blocked<64>>(pairs));
    }
    CHECK(rw::pair_layout{} == rw::pair_layout(rw::half_split{}));
    CHECK(rw::pair_layout(rw::blocked<8>{}) == rw::pair_layout::blocked_by(8));
    CHECK(rw::pair_layout(rw::blocked<8>{}) != rw::pair_layout::blocked_by(4));
    CHECK(rw::pair_layout(rw::interleaved{}) != rw::pair_layout(rw::half_split{}));
}

TEST_CASE("pair_layout: blocks of 2 are interleaved, one block is half-split",
          "[kernels][pair_layout][reduces]") {
    for (index pairs : pair_counts)
        for (index i = 0; i < pairs; ++i) {
            CHECK(rw::blocked<2>::first(i, pairs) == rw::interleaved::first(i, pairs));
            CHECK(rw::blocked<2>::second(i, pairs) == rw::interleaved::second(i, pairs));
            const auto whole = rw::pair_layout::blocked_by(2 * pairs);
            CHECK(whole.first(i, pairs) == rw::half_split::first(i, pairs));
            CHECK(whole.second(i, pairs) == rw::half_split::second(i, pairs));
        }
}

TEST_CASE("pair_layout: fits says which slices a layout can lay out", "[kernels][pair_layout]") {
    for (index pairs : {0, 1, 5, 64}) {
        CHECK(rw::pair_layout(rw::half_split{}).fits(pairs));
        CHECK(rw::pair_layout(rw::interleaved{}).fits(pairs));
    }
    CHECK(rw::pair_layout::blocked_by(8).fits(4));
    CHECK(rw::pair_layout::blocked_by(8).fits(12));
    CHECK_FALSE(rw::pair_layout::blocked_by(8).fits(6));  // 12 channels hold no whole number of 8
    CHECK_FALSE(rw::pair_layout::blocked_by(8).fits(2));  // wider than the slice
    CHECK_FALSE(rw::pair_layout::blocked_by(3).fits(6));  // odd
    CHECK_FALSE(rw::pair_layout::blocked_by(0).fits(6));
    CHECK_FALSE(rw::pair_layout::blocked_by(-4).fits(6));
}

}  // namespace pair_layouts
