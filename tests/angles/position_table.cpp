// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include <algorithm>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("position_table: row = position, the same bits as a table of listed positions",
          "[angles][position_table]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 48});
    rw::position_table table(rope, 100);
    const std::vector<int> positions{99, 0, 7};
    const auto rows = table.rows(positions);
    const auto listed = rw::make_rotation_table(rope, rw::position_ids::from(positions));
    for (rw::index n = 0; n < 3; ++n)
        CHECK(std::equal(listed.cos_row(n).begin(), listed.cos_row(n).end(), rows.cos_at(rows.row(n), 0)));
}

TEST_CASE("position_table: grows to what is asked, and rows handed out stay valid",
          "[angles][position_table]") {
    rw::position_table table(rw::frequencies::geometric({.rotary_dim = 16}), 4);
    const std::vector<int> early{3, -1}, later{5}, far{1000};
    const auto before = table.rows(early);
    const float* old_block = before.cos;
    const std::vector<float> kept(before.cos_at(3, 0), before.cos_at(3, 0) + 8);
    static_cast<void>(table.rows(later));
    CHECK(table.row_count() == 8);  // doubled
    static_cast<void>(table.rows(far));
    CHECK(table.row_count() == 1001);  // as far as needed
    CHECK(before.cos == old_block);
    CHECK(std::equal(kept.begin(), kept.end(), before.cos_at(3, 0)));
    const auto again = table.rows(early);
    CHECK(std::equal(kept.begin(), kept.end(), again.cos_at(3, 0)));
    rw::position_table fresh(rw::frequencies::geometric({.rotary_dim = 16}), 1001);
    for (rw::index r = 0; r < 1001; r += 13)
        CHECK(std::ranges::equal(fresh.table().sin_row(r), table.table().sin_row(r)));
}

TEST_CASE("position_table: starts empty, and refuses what it cannot serve", "[angles][position_table]") {
    rw::position_table empty(rw::frequencies::geometric({.rotary_dim = 16}), 0);
    const std::vector<int> none, first{0}, eight{8};
    CHECK(empty.rows(none).tokens == 0);
    CHECK(empty.rows(first).table_rows == 1);
    rw::position_table fixed(rw::frequencies::geometric({.rotary_dim = 16}), 8, {.max_rows = 8});
    CHECK_THROWS_WITH(fixed.rows(eight),
                      "position_table: row or position must be -1 (untouched) or below 8, got 8");
    CHECK_THROWS_WITH(fixed.rows(std::int64_t{-5}), ContainsSubstring("got -5"));
    CHECK_THROWS_WITH(fixed.reserve(9), ContainsSubstring("max_rows, got 9"));
    CHECK_THROWS_WITH(rw::position_table(rw::frequencies::geometric({.rotary_dim = 16}), 9, {.max_rows = 8}),
                      ContainsSubstring("max_rows, got 9"));
    CHECK_THROWS_WITH(rw::position_table(rw::frequencies::geometric({.rotary_dim = 16}), -1),
                      ContainsSubstring("rows"));
    const auto plane = rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 16}),
                                                    rw::axis_map::sections({4, 4}));
    CHECK_THROWS_WITH(rw::position_table(plane, 8), ContainsSubstring("axis") && ContainsSubstring("got 2"));
    const std::vector<std::int64_t> huge{std::int64_t(1) << 62}, largest{INT64_MAX};
    CHECK_THROWS_AS(empty.rows(huge), rw::invalid_config);
    CHECK_THROWS_WITH(empty.rows(largest),
                      "position_table: row or position must be -1 (untouched) or below 1048576, got "
                      "9223372036854775807");
    CHECK(empty.row_count() == 1);
}

TEST_CASE("position_table: f64 rows for f64 data", "[angles][position_table]") {
    rw::position_table<double> table(rw::frequencies::geometric({.rotary_dim = 4}), 10);
    const std::vector<int> positions{9};
    const auto rows = table.rows(positions);
    CHECK(rows.cos_at(9, 0)[0] == Approx(std::cos(9.0)).epsilon(1e-15));
    CHECK(rows.sin_at(9, 0)[1] == Approx(std::sin(0.09)).epsilon(1e-15));
}
