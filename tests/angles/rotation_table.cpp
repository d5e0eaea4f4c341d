// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("make_rotation_table: cos and sin of make_angles, every form of spectrum",
          "[angles][rotation_table]") {
    const auto line = rw::frequencies::yarn({.rotary_dim = 32, .factor = 8, .original_context = 4096});
    const auto plane = rw::frequencies::assign_axes(line, rw::axis_map::sections({6, 10}));
    std::vector<double> omega;
    for (int i = 0; i < 3 * 2 * 16; ++i) omega.push_back(std::sin(i));
    const auto mixed = rw::spectrum::mixed(omega, 3, 2, 0.5);
    const auto one = rw::position_ids::from(std::vector<double>{0, 3, -2.5, 100000});
    const auto two =
        rw::position_ids::from_tokens_axes(std::vector<double>{0, 0, 3, 1, -2.5, 7, 100000, 4}, 2);
    const auto check = [](const rw::spectrum& s, const rw::position_ids& where) {
        const auto angles = rw::make_angles(s, where);
        const auto narrow = rw::make_rotation_table(s, where);
        const auto wide = rw::make_rotation_table<double>(s, where);
        REQUIRE(narrow.row_count() == where.tokens());
        REQUIRE(narrow.heads() == s.heads());
        std::size_t at = 0;
        for (rw::index n = 0; n < where.tokens(); ++n)
            for (rw::index h = 0; h < s.heads(); ++h)
                for (std::size_t i = 0; i < std::size_t(s.pairs()); ++i, ++at) {
                    const double m = s.magnitude(), a = angles[at];
                    // The un-reduced angle itself is off by half an ulp an axis.
                    const double doubt = 4 * budgets::table_f64(a, m);
                    CHECK(std::abs(wide.cos_row(n, h)[i] - m * std::cos(a)) <= doubt);
                    CHECK(std::abs(wide.sin_row(n, h)[i] - m * std::sin(a)) <= doubt);
                    CHECK(std::abs(narrow.cos_row(n, h)[i] - m * std::cos(a)) <=
                          budgets::table_f32(m * std::cos(a), a, m) + doubt);
                    CHECK(std::abs(narrow.sin_row(n, h)[i] - m * std::sin(a)) <=
                          budgets::table_f32(m * std::sin(a), a, m) + doubt);
                }
    };
    check(line, one);
    check(plane, two);
    check(mixed, two);
}

TEST_CASE("make_rotation_table: one-hot mixed equals selected", "[angles][rotation_table][reduces]") {
    const auto line = rw::frequencies::geometric({.rotary_dim = 24});
    const auto map = rw::axis_map::sections({5, 7});
    const auto selected = rw::frequencies::assign_axes(line, map);
    std::vector<double> omega(24, 0.0);
    for (int i = 0; i < 12; ++i) omega[std::size_t(map[std::size_t(i)] * 12 + i)] = line.omega(i);
    const auto mixed = rw::spectrum::mixed(omega, 1, 2);
    const auto where = rw::position_ids::from_tokens_axes(std::vector<double>{1, 2, 30000, -7, 0.5, 12}, 2);
    const auto a = rw::make_rotation_table(selected, where), b = rw::make_rotation_table(mixed, where);
    for (rw::index n = 0; n < 3; ++n) {
        CHECK(std::ranges::equal(a.cos_row(n), b.cos_row(n)));
        CHECK(std::ranges::equal(a.sin_row(n), b.sin_row(n)));
    }
}

TEST_CASE("make_rotation_table: float32_product is what f32 code computes", "[angles][rotation_table]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 128});
    const auto where = rw::position_ids::from(std::vector<double>{131071});
    const auto f32 = rw::make_rotation_table<double>(rope, where, rw::angle_arithmetic::float32_product);
    const auto exact = rw::make_rotation_table<double>(rope, where);
    double worst = 0;
    for (std::size_t i = 0; i < 64; ++i) {
        const float angle = 131071.0f * static_cast<float>(rope.omega(rw::index(i)));
        CHECK(f32.cos_row(0)[i] == std::cos(double(angle)));
        const double off = std::atan2(f32.sin_row(0)[i], f32.cos_row(0)[i]) -
                           std::atan2(exact.sin_row(0)[i], exact.cos_row(0)[i]);
        worst = std::max(worst, std::abs(std::remainder(off, 2 * std::numbers::pi)));
    }
    // Radians: the field's error, and it is there. (An omega that was itself formed in f32 adds to it, up to
    // 3.6e-3 and more with the libm.)
    CHECK(worst == Approx(2.673e-3).epsilon(1e-3));
}

TEST_CASE("make_rotation_table: the worst of the f32 product near position 131071",
          "[angles][rotation_table]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 128});
    std::vector<double> positions;
    for (int p = 131022; p <= 131071; ++p) positions.push_back(p);
    const auto where = rw::position_ids::from(positions);
    const auto f32 = rw::make_rotation_table<double>(rope, where, rw::angle_arithmetic::float32_product);
    const auto exact = rw::make_rotation_table<double>(rope, where);
    double worst = 0;
    for (rw::index n = 0; n < 50; ++n)
        for (std::size_t i = 0; i < 64; ++i)
            worst = std::max({worst, std::abs(f32.cos_row(n)[i] - exact.cos_row(n)[i]),
                              std::abs(f32.sin_row(n)[i] - exact.sin_row(n)[i])});
    CHECK(worst == Approx(7.6e-3).epsilon(0.01));
}

TEST_CASE("make_rotation_table: untouched tokens have no row", "[angles][rotation_table]") {
    rw::position_ids where;
    where.append(rw::untouched_run{2}).append(rw::text_run{3, 10, 1}).append(rw::untouched_run{1});
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), where);
    CHECK(table.row_count() == 3);
    const auto rows = table.rows();
    REQUIRE(rows.tokens == 6);
    const std::vector<rw::index> want{-1, -1, 0, 1, 2, -1};
    for (rw::index n = 0; n < 6; ++n) CHECK(rows.row(n) == want[std::size_t(n)]);
}

TEST_CASE("rotation_table: from an engine's own arrays of any type and stride", "[angles][rotation_table]") {
    const std::vector<rw::bf16> half{rw::bf16(1.f), rw::bf16(2.f), rw::bf16(3.f), rw::bf16(4.f)};
    const auto t =
        rw::rotation_table<float>::from_arrays(half.data(), half.data() + 2, {.rows = 1, .pairs = 2}, 1.5);
    CHECK(t.cos_row(0)[1] == 2.f);
    CHECK(t.sin_row(0)[0] == 3.f);
    CHECK(t.magnitude() == 1.5);
    // [rows][cos half, sin half], as several engines keep it.
    const std::vector<double> packed{0, 1, 10, 11, 2, 3, 12, 13};
    const auto p = rw::rotation_table<double>::from_arrays(packed.data(), packed.data() + 2,
                                                           {.rows = 2, .pairs = 2, .row_stride = 4});
    CHECK(p.cos_row(1)[0] == 2);
    CHECK(p.sin_row(1)[1] == 13);
    // Of a shape that names nothing but its rows, no number is read.
    const auto none = rw::rotation_table<double>::from_arrays<double>(nullptr, nullptr, {.rows = 0});
    CHECK(none.pairs() == 0);
    CHECK(none.heads() == 1);
    CHECK(none.row_count() == 0);
}

TEST_CASE("rotation_table: rows are checked once", "[angles][rotation_table]") {
    const auto t =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(4));
    const std::vector<int> three{3, 0, -1}, past{4}, below{-2};
    const std::vector<std::int64_t> wide{1LL << 40};
    CHECK(t.rows(three).tokens == 3);
    CHECK_THROWS_WITH(t.rows(past), ContainsSubstring("row") && ContainsSubstring("got 4"));
    CHECK_THROWS_WITH(t.rows(below), ContainsSubstring("got -2"));
    CHECK_THROWS_WITH(t.rows(wide), ContainsSubstring("1099511627776"));
    CHECK_THROWS_WITH(rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 8}),
                                              rw::position_ids::from_tokens_axes(std::vector<int>{1, 2}, 2)),
                      ContainsSubstring("axes") && ContainsSubstring("got 2"));
    CHECK_THROWS_WITH(rw::rotation_table<float>(support::huge(60), 1, 64), ContainsSubstring("overflow"));
    CHECK_THROWS_WITH(rw::rotation_table<float>(-1, 1, 64), ContainsSubstring("got -1"));

    CHECK(t.rows_from(0, 4).tokens == 4);
    CHECK(t.rows_from(3, 1).row(0) == 3);
    CHECK(t.rows_from(4, 0).tokens == 0);
    CHECK_THROWS_WITH(t.rows_from(-1, 1), ContainsSubstring("first must be below the rows, got -1"));
    CHECK_THROWS_WITH(t.rows_from(5, 0), ContainsSubstring("first must be below the rows, got 5"));
    CHECK_THROWS_WITH(t.rows_from(0, 5), ContainsSubstring("from first on, got 5"));
    CHECK_THROWS_WITH(t.rows_from(3, 2), ContainsSubstring("from first on, got 2"));
    CHECK_THROWS_WITH(t.rows_from(0, -1), ContainsSubstring("from first on, got -1"));
}

TEST_CASE("make_rebase_table: moves cached keys from one spectrum to another", "[angles][rotation_table]") {
    const auto from = rw::frequencies::geometric({.rotary_dim = 64}).with_magnitude(1.1);
    const auto to = rw::frequencies::yarn({.rotary_dim = 64, .factor = 8, .original_context = 4096});
    const auto where = rw::position_ids::from(std::vector<double>{0, 17, 40000});
    const auto move = rw::make_rebase_table<double>(from, to, where);
    const auto a = rw::make_rotation_table<double>(from, where),
               b = rw::make_rotation_table<double>(to, where);
    CHECK(move.magnitude() == Approx(to.magnitude() / from.magnitude()));
    for (rw::index n = 0; n < 3; ++n)
        for (std::size_t i = 0; i < 32; ++i) {  // R(move) R(from) = R(to)
            const double c = move.cos_row(n)[i] * a.cos_row(n)[i] - move.sin_row(n)[i] * a.sin_row(n)[i];
            const double s = move.cos_row(n)[i] * a.sin_row(n)[i] + move.sin_row(n)[i] * a.cos_row(n)[i];
            CHECK(std::abs(c - b.cos_row(n)[i]) < 3e-11);
            CHECK(std::abs(s - b.sin_row(n)[i]) < 3e-11);
        }
    const auto axial = rw::frequencies::assign_axes(to, std::vector<int>(32, 1), 2);
    CHECK_THROWS_WITH(rw::make_rebase_table(from, axial, where), ContainsSubstring("axes"));
    CHECK_THROWS_WITH(rw::make_rebase_table(from, rw::frequencies::geometric({.rotary_dim = 32}), where),
                      ContainsSubstring("pairs") && ContainsSubstring("16"));
}

TEST_CASE("make_rows_view: an engine's own arrays where they stand, checked as a table's rows are",
          "[angles][rotation_table]") {
    std::vector<float> both(5 * 12);  // rows of 4 cosines, 4 sines and 4 of something else
    for (std::size_t i = 0; i < both.size(); ++i) both[i] = std::cos(float(i));
    const rw::table_shape shape{.rows = 5, .pairs = 4, .row_stride = 12};
    const auto copied = rw::rotation_table<float>::from_arrays(both.data(), both.data() + 4, shape, 1.5);
    const std::vector<std::int32_t> narrow{4, -1, 0};
    const std::vector<std::int64_t> wide{4, -1, 0};
    for (const auto& v : {rw::make_rows_view(both.data(), both.data() + 4, shape, narrow, 1.5),
                          rw::make_rows_view(both.data(), both.data() + 4, shape, wide, 1.5)}) {
        CHECK(v.tokens == 3);
        CHECK(v.table_rows == 5);
        CHECK(v.pairs == 4);
        CHECK(v.magnitude == 1.5);
        CHECK(v.row(1) == -1);
        for (rw::index token : {0, 2})
            for (rw::index i = 0; i < 4; ++i) {
                const auto at = static_cast<std::size_t>(i);
                CHECK(v.cos_at(v.row(token), 0)[i] == copied.cos_row(v.row(token))[at]);
                CHECK(v.sin_at(v.row(token), 0)[i] == copied.sin_row(v.row(token))[at]);
            }
    }
    const auto ordinal =
        rw::make_rows_view(both.data(), both.data() + 2, {.rows = 3, .heads = 2, .pairs = 2});
    CHECK(ordinal.tokens == 3);
    CHECK(ordinal.row(2) == 2);
    CHECK(ordinal.magnitude == 1);
    CHECK(ordinal.cos_at(2, 1) == both.data() + 10);
    CHECK(ordinal.sin_at(2, 1) == both.data() + 12);
    const auto of = [&](rw::table_shape s) { return rw::make_rows_view(both.data(), both.data(), s); };
    CHECK_THROWS_WITH(of({.rows = -1}), ContainsSubstring("make_rows_view: rows must be >= 0, got -1"));
    CHECK_THROWS_WITH(of({.rows = 1, .heads = 0}), ContainsSubstring("heads must be >= 1, got 0"));
    CHECK_THROWS_WITH(of({.rows = 1, .pairs = -4}), ContainsSubstring("pairs must be >= 0, got -4"));
    const std::vector<int> past{5};
    CHECK_THROWS_WITH(rw::make_rows_view(both.data(), both.data(), shape, past),
                      ContainsSubstring("make_rows_view: row") && ContainsSubstring("got 5"));
}
