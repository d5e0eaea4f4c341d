// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/table_set.hpp>

#include <cmath>
#include <random>

#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {
const auto plain = frequencies::geometric({.rotary_dim = 16});
const auto yarn = frequencies::yarn({.rotary_dim = 16, .factor = 8, .original_context = 64});
std::vector<float> numbers(std::size_t count) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> v(count);
    for (float& x : v) x = uniform(random);
    return v;
}
}  // namespace

TEST_CASE("table_set: every token is rotated as its own table would rotate it", "[angles][table_set]") {
    table_set<float> set({plain, yarn}, 4);
    const std::vector<std::int32_t> tables{0, 1, 1, 0, -1, 0};
    const std::vector<std::int32_t> positions{3, 3, 900, 17, 5, -1};
    std::vector<std::int32_t> row_of_token(6);
    const auto rows = set.rows(tables, positions, row_of_token);
    auto together = numbers(6 * 2 * 16);
    auto apart = together;
    rotate(half_split{}, heads_view(together.data(), 6, 2, 16), rows);
    position_table<float> alone[] = {position_table<float>(plain, 1), position_table<float>(yarn, 1)};
    for (int n = 0; n < 4; ++n)
        rotate(half_split{}, heads_view(apart.data() + n * 32, 1, 2, 16),
               alone[tables[n]].rows(std::span(positions).subspan(n, 1)));
    CHECK(together == apart);  // the two untouched tokens included
#if !defined(__FAST_MATH__)    // which says that there is no NaN
    CHECK(std::isnan(rows.magnitude));
#endif
}

TEST_CASE("table_set: growing keeps rows handed out valid, and each table grows alone",
          "[angles][table_set]") {
    table_set<double> set({plain, plain}, {8, 2});
    const std::vector<std::int32_t> tables{0, 1};
    const std::vector<std::int64_t> near{7, 1};
    const std::vector<std::int64_t> far{6, 5000};
    std::vector<std::int32_t> before(2), after(2);
    const auto early = set.rows(tables, near, before);
    const double kept = early.cos_at(early.row(0), 0)[3];
    const double* where = early.cos;
    const auto late = set.rows(tables, far, after);
    CHECK(set.row_count(0) == 8);
    CHECK(set.row_count(1) == 5001);
    CHECK(early.cos == where);
    CHECK(early.cos_at(early.row(0), 0)[3] == kept);
    CHECK(kept == Approx(std::cos(7 * plain.omega(3))).epsilon(1e-14));
    CHECK(late.cos_at(late.row(1), 0)[3] == Approx(std::cos(5000 * plain.omega(3))).epsilon(1e-12));
    CHECK(late.magnitude == 1.0);
    const auto again = set.rows(tables, near, before);
    CHECK(again.cos_at(again.row(0), 0)[3] == kept);
    CHECK(set.rows(tables, far, after).magnitude == 1.0);
}

TEST_CASE("table_set: LongRoPE's start tokens keep the trained frequencies", "[angles][table_set]") {
    const std::vector<std::int32_t> positions{0, 3, 4, 100, -1};
    std::vector<std::int32_t> tables(5);
    fill_start_tables<std::int32_t>(positions, 4, tables);
    CHECK(tables == std::vector<std::int32_t>{0, 0, 1, 1, -1});
    fill_start_tables<std::int32_t>(positions, 0, tables);
    CHECK(tables == std::vector<std::int32_t>{1, 1, 1, 1, -1});
    CHECK_REFUSES("fill_start_tables: start_tokens must be >= 0, got -1",
                  fill_start_tables<std::int32_t>(positions, -1, tables));
}

TEST_CASE("table_set: refuses what does not go together", "[angles][table_set][errors]") {
    using spectra = std::vector<spectrum>;
    CHECK_REFUSES("table_set: spectra must not be empty, got 0", table_set<float>(spectra{}, 1));
    CHECK_REFUSES("table_set: spectra must have the same pairs: wanted 8, got 4",
                  table_set<float>(spectra{plain, frequencies::geometric({.rotary_dim = 8})}, 1));
    CHECK_REFUSES("table_set: rows must be >= 0, got -3", table_set<float>(spectra{plain}, -3));
    CHECK_REFUSES("table_set: rows_of_table must have one entry a table: wanted 1, got 2",
                  table_set<float>(spectra{plain}, std::vector<ropewalk::index>{1, 2}));
    const table_set<float> fixed({plain, yarn}, 4);
    std::vector<std::int32_t> out(1);
    const auto at = [&](std::int32_t table, std::int32_t position) {
        return fixed.rows(std::vector<std::int32_t>{table}, std::vector<std::int32_t>{position}, out);
    };
    CHECK_REFUSES("table_set: table must be -1 (untouched) or one of the set, got 2", at(2, 0));
    CHECK_REFUSES("table_set: position must be below the rows of its table, got 4", at(1, 4));
    CHECK_REFUSES("table_set: position must be >= -1, got -2", at(1, -2));
    CHECK_REFUSES("table_set: rows of all tables must be below 2^31, got " + support::largest_index(),
                  table_set<float>({plain, yarn}, std::vector<ropewalk::index>{5, INT64_MAX}));
    table_set<float> grows({plain, yarn}, 4);
    for (const std::int64_t position : {INT64_MAX, std::int64_t{INT32_MAX}, std::int64_t{1} << 20})
        CHECK_REFUSES("table_set: position must be below max_rows, got " + std::to_string(position),
                      grows.rows(std::vector<std::int32_t>{1}, std::vector<std::int64_t>{position}, out));
    CHECK(grows.row_count(1) == 4);
    CHECK_REFUSES("table_set: row_of_token must have one entry a position: wanted 2, got 1",
                  grows.rows(std::vector<std::int32_t>{0, 0}, std::vector<std::int32_t>{900, 0}, out));
    CHECK(grows.row_count(0) == 4);  // a call that is refused does not grow it
    table_set<float> limited({plain, yarn}, 4, {.max_rows = 6});
    const auto of_limited = [&](std::int32_t position) {
        return limited.rows(std::vector<std::int32_t>{1}, std::vector<std::int32_t>{position}, out);
    };
    CHECK_REFUSES("table_set: position must be below max_rows, got 6", of_limited(6));
    (void)of_limited(5);
    CHECK(limited.row_count(1) == 6);
    CHECK(limited.row_count(0) == 4);
    CHECK_REFUSES("table_set: rows must be at most max_rows, got 8",
                  table_set<float>({plain, yarn}, 8, {.max_rows = 7}));
    CHECK_REFUSES("table_set: max_rows must be >= 0, got -1",
                  table_set<float>({plain, yarn}, 0, {.max_rows = -1}));
    CHECK_REFUSES("table_set: row_of_token must have one entry a position: wanted 2, got 1",
                  fixed.rows(std::vector<std::int32_t>{0, 0}, std::vector<std::int32_t>{0, 0}, out));
}
