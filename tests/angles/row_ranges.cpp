// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/row_ranges.hpp>

#include <array>
#include <span>
#include <vector>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

namespace {

template <class Table, class R>
concept gives_rows = requires(Table table, R range) {
    static_cast<Table&&>(table).rows(static_cast<R&&>(range));
};

template <class I>
void check_type() {
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = 8}), 16);
    const std::vector<I> positions{5, 0, 9};
    const auto rows = table.rows(positions);
    CHECK(rows.count() == 3);
    CHECK(rows.row(0) == 5);
    CHECK(rows.row(2) == 9);
    CHECK(table.rows(std::span(positions)).row(1) == 0);
    CHECK(table.rows(positions[2]).count() == 1);
    CHECK(table.rows(positions[2]).row(0) == 9);
}

}  // namespace

TEST_CASE("row_ranges: positions of any 32-bit or 64-bit integer, or one", "[angles][row_ranges]") {
    check_type<int>();
    check_type<unsigned>();
    check_type<long>();
    check_type<unsigned long>();
    check_type<long long>();
    check_type<unsigned long long>();
}

TEST_CASE("row_ranges: numbers or tables that die with the expression do not compile",
          "[angles][row_ranges]") {
    using table = rw::position_table<float>;
    STATIC_REQUIRE(gives_rows<table&, std::vector<int>&>);
    STATIC_REQUIRE(gives_rows<table&, std::span<const int>>);
    STATIC_REQUIRE_FALSE(gives_rows<table&, std::vector<int>>);
    STATIC_REQUIRE_FALSE(gives_rows<table, std::vector<int>&>);
    STATIC_REQUIRE_FALSE(rw::integer_range<std::vector<short>>);
    STATIC_REQUIRE_FALSE(rw::integer_range<std::vector<float>>);
}

TEST_CASE("row_ranges: a row that is not there is refused by its number", "[angles][row_ranges][errors]") {
    const std::array<int, 3> past{0, -1, 7}, below{0, -2, 1};
    CHECK(rw::detail::require_rows("f", past, 8) == 7);
    CHECK_REFUSES("f: row or position must be -1 (untouched) or below 7, got 7",
                  rw::detail::require_rows("f", past, 7));
    CHECK_REFUSES("f: row or position must be -1 (untouched) or below 8, got -2",
                  rw::detail::require_rows("f", below, 8));
}
