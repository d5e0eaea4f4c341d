// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/block_table.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("block_table: keeps matrices by row, head and block", "[angles][block_table]") {
    block_table<float> table({2, 3, 2, 4});
    for (rw::index r = 0; r < 2; ++r)
        for (rw::index h = 0; h < 3; ++h)
            for (rw::index b = 0; b < 2; ++b)
                table.set(r, h, b, support::noise(16, unsigned(100 * r + 10 * h + b)));
    for (rw::index r = 0; r < 2; ++r)
        for (rw::index h = 0; h < 3; ++h)
            for (rw::index b = 0; b < 2; ++b) {
                const auto want = support::noise(16, unsigned(100 * r + 10 * h + b));
                const auto rows = table.rows();
                for (rw::index i = 0; i < 4; ++i)
                    for (rw::index j = 0; j < 4; ++j) {
                        CHECK(table.at(r, h, b, i, j) == float(want[i * 4 + j]));
                        CHECK(rows.at(r, h)[b * 16 + j * 4 + i] == float(want[i * 4 + j]));  // columns
                    }
            }
    CHECK(table.rows().tokens == 2);
}

TEST_CASE("block_table: refuses sizes and rows it does not have", "[angles][block_table][errors]") {
    CHECK_REFUSES("block_table: size must be in 1 .. 64, got 65", block_table<>({1, 1, 1, 65}));
    CHECK_REFUSES("block_table: heads must be >= 1, got 0", block_table<>({1, 0, 1, 2}));
    CHECK_REFUSES("block_table: rows, heads and blocks must be >= 0, got an overflowing size",
                  block_table<>({rw::index{1} << 40, 1, rw::index{1} << 30, 2}));
    const block_table<> table({3, 1, 1, 2});
    const std::vector<std::int32_t> rows{0, -1, 3};
    CHECK_REFUSES("block_table::rows: row must be -1 (untouched) or below the table's rows, got 3",
                  table.rows(rows));
}
