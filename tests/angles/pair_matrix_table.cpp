// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/pair_matrix_table.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("pair_matrix_table: rows, row numbers and what it refuses", "[angles][pair_matrix_table]") {
    const std::vector<float> a{1, 2, 3, 4}, b{5, 6, 7, 8}, c{9, 10, 11, 12}, d{13, 14, 15, 16}, odd{1, 2, 3};
    const rw::pair_matrix_table<float> table(a, b, c, d, 2);
    CHECK(table.row_count() == 2);
    const std::vector<int> row_of_token{1, -1};
    const auto rows = table.rows(row_of_token);
    CHECK(rows.row(0) == 1);
    CHECK(rows.row(1) == -1);
    CHECK(rows.a[rows.row_stride] == 3);
    CHECK(rows.d[rows.row_stride + 1] == 16);
    const auto halves = rw::pair_matrix_table<float>::from_rotate_half(
        std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}, std::vector<float>{11, 12, 13, 14, 15, 16, 17, 18}, 2);
    const auto each = halves.rows();
    REQUIRE(halves.row_count() == 2);
    for (const rw::index row : {0, 1})
        for (const rw::index i : {0, 1}) {
            const rw::index at = row * each.row_stride + i;
            CHECK(each.a[at] == static_cast<float>(1 + 4 * row + i));
            CHECK(each.b[at] == static_cast<float>(-11 - 4 * row - i));
            CHECK(each.c[at] == static_cast<float>(13 + 4 * row + i));
            CHECK(each.d[at] == static_cast<float>(3 + 4 * row + i));
        }
    // Scaled rotations are [a -c; c a] throughout: a pair anywhere that is none, or a zero of the other sign,
    // makes a table of matrices.
    const auto scaled = [](const auto& p, const auto& q, const auto& r, const auto& s, rw::index pairs) {
        const rw::pair_matrix_table<float> made(p, q, r, s, pairs);
        return made.rows().scaled_rotations;
    };
    std::vector<float> below(c), across(4);
    for (std::size_t k = 0; k < 4; ++k) across[k] = -below[k];
    CHECK(scaled(a, across, below, a, 2));
    for (std::size_t k = 0; k < 4; ++k) {
        INFO(k);
        auto other = a, turned = across;
        other[k] += 1;
        turned[k] = -turned[k];
        CHECK(!scaled(a, across, below, other, 2));
        CHECK(!scaled(a, turned, below, a, 2));
    }
#if !defined(__FAST_MATH__)  // which says that zeros have no sign
    const std::vector<float> zero{0}, minus_zero{-0.0f}, one{1};
    CHECK(scaled(one, minus_zero, zero, one, 1));
    CHECK(!scaled(one, zero, zero, one, 1));
#endif
    const std::vector<int> beyond{2};
    CHECK_THROWS_WITH(table.rows(beyond), ContainsSubstring("got 2"));
    CHECK_THROWS_WITH(rw::pair_matrix_table<float>(odd, odd, odd, odd, 2), ContainsSubstring("got 3"));
    CHECK_THROWS_WITH(rw::pair_matrix_table<float>(a, b, c, odd, 2), ContainsSubstring("one size"));
    CHECK_THROWS_WITH(rw::pair_matrix_table<float>::from_rotate_half(odd, odd, 2),
                      ContainsSubstring("got 3"));
}
