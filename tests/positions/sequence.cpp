// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/sequence.hpp>

#include <ropewalk/positions/grid.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

namespace {

/// One of every kind of segment; the grid has a level of one index and coordinates that are no integers.
rw::position_ids every_segment() {
    rw::position_ids ids(2);
    ids.append(rw::text_run{7, 0.75, 1});
    ids.append(rw::grid_block{
        .extents = {3, 1, 2, 5},
        .coordinates = {{{0.1, 0.7, 1.3}, {0.3}, {}, {0, 0.1, 0.2, 0.3, 0.4}}, {{}, {}, {5, 7}, {}}},
        .origin = {0.9, -3}});
    ids.append(rw::untouched_run{4});
    ids.append(rw::listed_run{{1, 2, 3, 4, 5, 6}});
    return ids;
}

std::vector<double> values_of(const rw::position_ids& ids, rw::index first, rw::index count) {
    std::vector<double> v;
    for (rw::index n = first; n < first + count; ++n)
        for (rw::index a = 0; a < ids.axes(); ++a) v.push_back(ids.at(n, a));
    return v;
}

}  // namespace

TEST_CASE("slice_tokens: every slice holds the bits of the whole", "[positions][sequence]") {
    const auto ids = every_segment();
    for (rw::index first = 0; first <= ids.tokens(); ++first)
        for (rw::index count = 0; first + count <= ids.tokens(); ++count) {
            const auto slice = positions::slice_tokens(ids, first, count);
            REQUIRE(slice.tokens() == count);
            REQUIRE(slice.values() == values_of(ids, first, count));
            for (rw::index n = 0; n < count; ++n) REQUIRE(slice.touched(n) == ids.touched(first + n));
        }
}

TEST_CASE("slice_tokens: chunks laid end to end are the whole", "[positions][sequence]") {
    const auto ids = every_segment();
    for (const rw::index chunk : {1, 2, 3, 8, 100}) {
        rw::position_ids joined(2);
        for (rw::index first = 0; first < ids.tokens(); first += chunk)
            joined.append(positions::slice_tokens(ids, first, std::min(chunk, ids.tokens() - first)));
        CHECK(joined.values() == ids.values());
    }
}

TEST_CASE("slice_tokens: a cut grid stays structured", "[positions][sequence]") {
    rw::position_ids ids(1);
    ids.append(rw::grid_block{
        .extents = {1000, 1000, 1000},
        .coordinates = {{positions::evenly_spaced(1000, 0, 1e6), positions::evenly_spaced(1000, 0, 1e3),
                         positions::evenly_spaced(1000)}},
        .origin = {0.5}});
    constexpr rw::index first = 123'456'789;
    const auto slice = positions::slice_tokens(ids, first, 700'000'000);
    CHECK(slice.tokens() == 700'000'000);
    CHECK(slice.segments().size() <= 5);
    // Every token stands at its number in the whole grid, also on both sides of each seam.
    for (rw::index s = 0; s < static_cast<rw::index>(slice.segments().size()); ++s)
        for (const rw::index n : {slice.segment_start(s), slice.segment_start(s + 1) - 1})
            CHECK(slice.at(n) == static_cast<double>(first + n) + 0.5);
    for (rw::index n = 0; n < 700'000'000; n += 9'999'937)
        CHECK(slice.at(n) == static_cast<double>(first + n) + 0.5);
}

TEST_CASE("slice_tokens: positions past 2^31 tokens stay exact", "[positions][sequence]") {
    const rw::index tokens = support::huge(31) + 1000;  // and past 2^30 where an index has 32 bits
    const auto slice = positions::slice_tokens(rw::position_ids::text(tokens, 5), tokens - 2, 2);
    CHECK(slice.values() ==
          std::vector<double>{static_cast<double>(tokens) + 3, static_cast<double>(tokens) + 4});
}

TEST_CASE("slice_tokens: refuses what is not there", "[positions][sequence][errors]") {
    const auto ids = rw::position_ids::text(10);
    CHECK_THROWS_WITH(positions::slice_tokens(ids, -1, 2),
                      "slice_tokens: first must be a token of the sequence, got -1");
    CHECK_THROWS_WITH(positions::slice_tokens(ids, 4, 7),
                      "slice_tokens: count must be tokens of the sequence from first on, got 7");
}

TEST_CASE("spread_over_mask: padding anywhere, at a position or untouched", "[positions][sequence]") {
    const std::vector<int> mask{0, 0, 1, 1, 0, 1, 0};
    const std::span<const int> view(mask);
    const auto at_one = positions::spread_over_mask(rw::position_ids::text(3), view, 1.0);
    CHECK(at_one.values() == std::vector<double>{1, 1, 0, 1, 1, 2, 1});
    CHECK(at_one.all_touched());
    const auto untouched = positions::spread_over_mask(rw::position_ids::text(3), view);
    CHECK(untouched.values() == std::vector<double>{0, 0, 0, 1, 0, 2, 0});
    for (rw::index n = 0; n < 7; ++n) CHECK(untouched.touched(n) == (mask[n] != 0));
    CHECK_THROWS_WITH(
        positions::spread_over_mask(rw::position_ids::text(4), view),
        "spread_over_mask: mask must have one entry that is not 0 a token of the sequence: wanted 4, got 3");
}
