// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/position_ids.hpp>

#include <cstdint>
#include <limits>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using rw::position_ids;

namespace {

const double infinite = std::numeric_limits<double>::infinity();

/// A clip: text, then 2 frames of 2 x 3 with a column that also moves the time axis, then padding, then
/// numbers from elsewhere.
position_ids mixture() {
    position_ids ids(3);
    ids.append(rw::text_run{.tokens = 2, .first = 5, .step = 1});
    ids.append(
        rw::grid_block{.extents = {2, 2, 3},
                       .coordinates = {{{0, 2}, {}, {0, 0.25, 0.5}}, {{}, {0, 1}, {}}, {{}, {}, {-1, 0, 1}}},
                       .origin = {7, 100, 200}});
    ids.append(rw::untouched_run{.tokens = 2});
    ids.append(rw::listed_run{.values = {1.5, -2.5, 3.5, 4, 5, 6}});
    return ids;
}

}  // namespace

TEST_CASE("position_ids: text advances on every axis together", "[positions][position_ids]") {
    const auto ids = position_ids::text(4, 10, 3);
    CHECK(ids.tokens() == 4);
    CHECK(ids.axes() == 3);
    for (rw::index n = 0; n < 4; ++n)
        for (rw::index a = 0; a < 3; ++a) CHECK(ids.at(n, a) == 10 + n);

    position_ids slow;
    slow.append(rw::text_run{.tokens = 3, .first = -1, .step = 0.5});
    CHECK(slow.values() == std::vector<double>{-1, -0.5, 0});
}

TEST_CASE("position_ids: any arithmetic type is taken as it is", "[positions][position_ids]") {
    CHECK(position_ids::from(std::vector<std::int32_t>{3, -1, 2}).values() == std::vector<double>{3, -1, 2});
    CHECK(position_ids::from(std::vector<std::int64_t>{std::int64_t{1} << 53}).at(0) == 0x1p53);
    CHECK(position_ids::from(std::vector<float>{0.25f}).at(0) == 0.25);
    const std::vector<double> pairs = {0, 1, 2, 3, 4, 5};
    const auto ids = position_ids::from_tokens_axes(pairs, 2);
    CHECK(ids.tokens() == 3);
    CHECK(ids.at(2, 0) == 4);
    CHECK(ids.at(2, 1) == 5);
}

TEST_CASE("position_ids: M-RoPE positions as [axes, tokens] and as [tokens, axes], by name",
          "[positions][position_ids]") {
    const std::vector<std::int32_t> engine = {0, 1, 1, 2, 0, 1, 1, 2, 0, 1, 2, 2};  // [3, 4]
    const auto ids = position_ids::from_axes_tokens(engine, 3);
    REQUIRE(ids.tokens() == 4);
    CHECK(ids.at(2, 0) == 1);
    CHECK(ids.at(2, 1) == 1);
    CHECK(ids.at(2, 2) == 2);
    CHECK(position_ids::from_tokens_axes(ids.values(), 3).values() == ids.values());
    CHECK(position_ids::from_tokens_axes(engine, 3).at(2, 1) == 2);
    CHECK(position_ids::from_axes_tokens(std::vector<float>{}, 3).tokens() == 0);
    CHECK(support::refusal([&] { position_ids::from_axes_tokens(engine, 5); }) ==
          "position_ids::from_axes_tokens: values must hold a multiple of axes numbers, got 12");
    CHECK(support::refusal([&] { position_ids::from_axes_tokens(engine, 0); }) ==
          "position_ids: axes must be >= 1, got 0");
}

TEST_CASE("position_ids: a grid adds its levels, outermost first", "[positions][position_ids]") {
    const auto ids = mixture();
    CHECK(ids.tokens() == 2 + 12 + 2 + 2);
    for (int t = 0; t < 2; ++t)
        for (int y = 0; y < 2; ++y)
            for (int x = 0; x < 3; ++x) {
                const rw::index n = 2 + (t * 2 + y) * 3 + x;
                CHECK(ids.at(n, 0) == 7 + 2 * t + 0.25 * x);
                CHECK(ids.at(n, 1) == 100 + y);
                CHECK(ids.at(n, 2) == 200 + x - 1);
            }
}

TEST_CASE("position_ids: untouched tokens are named and stand at 0", "[positions][position_ids]") {
    const auto ids = mixture();
    CHECK(!ids.all_touched());
    for (rw::index n = 0; n < ids.tokens(); ++n) CHECK(ids.touched(n) == (n != 14 && n != 15));
    CHECK(ids.at(14, 1) == 0);
    CHECK(position_ids::text(3).all_touched());
}

TEST_CASE("position_ids: dense keeps every position and every untouched token", "[positions][position_ids]") {
    const auto ids = mixture();
    const auto flat = ids.dense();
    CHECK(flat.tokens() == ids.tokens());
    CHECK(flat.axes() == 3);
    CHECK(flat.values() == ids.values());
    const auto values = ids.values();
    CHECK(values.size() == 18 * 3);
    for (rw::index n = 0; n < ids.tokens(); ++n) {
        CHECK(flat.touched(n) == ids.touched(n));
        for (rw::index a = 0; a < 3; ++a) CHECK(values[static_cast<std::size_t>(n * 3 + a)] == ids.at(n, a));
    }
    for (const auto& segment : flat.segments())
        CHECK((segment.listed() != nullptr || segment.untouched() != nullptr));
}

TEST_CASE("position_ids: appending continues, also onto itself", "[positions][position_ids]") {
    auto ids = position_ids::text(2);
    ids.append(position_ids::text(3, 10));
    CHECK(ids.values() == std::vector<double>{0, 1, 10, 11, 12});
    CHECK(ids.segment_start(0) == 0);
    CHECK(ids.segment_start(1) == 2);
    CHECK(ids.segment_start(2) == ids.tokens());
    ids.append(ids);
    CHECK(ids.values() == std::vector<double>{0, 1, 10, 11, 12, 0, 1, 10, 11, 12});
}

TEST_CASE("position_ids: empty segments hold no token and hide none", "[positions][position_ids]") {
    position_ids ids;
    CHECK(ids.tokens() == 0);
    CHECK(ids.values().empty());
    ids.append(rw::text_run{});
    ids.append(rw::untouched_run{});
    ids.append(rw::text_run{.tokens = 1, .first = 4});
    ids.append(rw::grid_block{.extents = {0, 3}, .coordinates = {{{}, {0, 1, 2}}}, .origin = {}});
    ids.append(rw::text_run{.tokens = 1, .first = 9});
    CHECK(ids.tokens() == 2);
    CHECK(ids.at(0) == 4);
    CHECK(ids.at(1) == 9);
    CHECK(ids.touched(0));
    CHECK(ids.dense().values() == std::vector<double>{4, 9});
}

TEST_CASE("position_ids: bad input is refused with the parameter and its value",
          "[positions][position_ids]") {
    position_ids ids(2);
    REQUIRE_THROWS_WITH(position_ids(0), "position_ids: axes must be >= 1, got 0");
    REQUIRE_THROWS_WITH(ids.append(rw::text_run{.tokens = -1}),
                        "position_ids::append: text_run.tokens must be >= 0, got -1");
    REQUIRE_THROWS_WITH(ids.append(rw::text_run{.tokens = 1, .first = infinite}),
                        "position_ids::append: text_run.first must be finite, got inf");
    REQUIRE_THROWS_AS(ids.append(rw::text_run{.tokens = 1, .first = 0, .step = -infinite}),
                      rw::invalid_config);
    REQUIRE_THROWS_WITH(ids.append(rw::untouched_run{.tokens = -3}),
                        "position_ids::append: untouched_run.tokens must be >= 0, got -3");
    REQUIRE_THROWS_WITH(
        ids.append(rw::listed_run{.values = {1, 2, 3}}),
        "position_ids::append: listed_run.values must hold a multiple of axes numbers, got 3");
    REQUIRE_THROWS_WITH(ids.append(rw::listed_run{.values = {1, infinite}}),
                        "position_ids::append: positions must be finite, got inf");
    REQUIRE_THROWS_WITH(ids.append(position_ids(3)),
                        "position_ids::append: axes must be equal: wanted 2, got 3");
    // Grids: one coordinate list an axis, one entry a level, extents that agree, a product that fits.
    REQUIRE_THROWS_WITH(
        ids.append(rw::grid_block{.extents = {2}, .coordinates = {{{0, 1}}}, .origin = {}}),
        "position_ids::append: grid_block.coordinates must have one entry an axis: wanted 2, got 1");
    REQUIRE_THROWS_AS(ids.append(rw::grid_block{.extents = {-2}, .coordinates = {{{}}, {{}}}, .origin = {}}),
                      rw::invalid_config);
    REQUIRE_THROWS_AS(ids.append(rw::grid_block{.extents = {2}, .coordinates = {{{0, 1}}, {}}, .origin = {}}),
                      rw::invalid_config);
    REQUIRE_THROWS_AS(
        ids.append(rw::grid_block{.extents = {2}, .coordinates = {{{0, 1}}, {{0}}}, .origin = {}}),
        rw::invalid_config);
    REQUIRE_THROWS_AS(
        ids.append(rw::grid_block{.extents = {2}, .coordinates = {{{0, infinite}}, {{}}}, .origin = {}}),
        rw::invalid_config);
    REQUIRE_THROWS_WITH(
        ids.append(rw::grid_block{.extents = {2}, .coordinates = {{{0, 1}}, {{}}}, .origin = {1}}),
        "position_ids::append: grid_block.origin must be empty or one number an axis, got 1");
    const rw::index huge = support::huge(40);
    REQUIRE_THROWS_AS(ids.append(rw::grid_block{
                          .extents = {huge, huge}, .coordinates = {{{}, {}}, {{}, {}}}, .origin = {}}),
                      rw::invalid_config);
    CHECK(ids.tokens() == 0);  // a refused segment leaves nothing behind
    const rw::index most = std::numeric_limits<rw::index>::max();
    ids.append(rw::text_run{.tokens = most});
    REQUIRE_THROWS_AS(ids.append(rw::text_run{.tokens = 1}), rw::invalid_config);
    CHECK(ids.tokens() == most);
    REQUIRE_THROWS_AS(ids.values(), rw::invalid_config);
}
