// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/rotation_blocks.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("rotation_blocks: keeps matrices by row, head and block", "[angles][rotation_blocks]") {
    rotation_blocks<float> table({2, 3, 2, 4});
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

TEST_CASE("rotation_blocks: refuses sizes and rows it does not have", "[angles][rotation_blocks][errors]") {
    CHECK_REFUSES("rotation_blocks: size must be in 1 .. 64, got 65", rotation_blocks<>({1, 1, 1, 65}));
    CHECK_REFUSES("rotation_blocks: heads must be >= 1, got 0", rotation_blocks<>({1, 0, 1, 2}));
    CHECK_REFUSES("rotation_blocks: rows, heads and blocks must be >= 0, got an overflowing size",
                  rotation_blocks<>({rw::index{1} << 40, 1, rw::index{1} << 30, 2}));
    const rotation_blocks<> table({3, 1, 1, 2});
    const std::vector<std::int32_t> rows{0, -1, 3};
    CHECK_REFUSES("rotation_blocks::rows: row or position must be -1 (untouched) or below 3, got 3",
                  table.rows(rows));
}
