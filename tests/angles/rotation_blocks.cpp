// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/rotation_blocks.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("rotation_blocks: keeps matrices by row, head and block", "[angles][rotation_blocks]") {
    for (const rw::index size : {1, 2, 3, 4, 5, 8, 16}) {
        rotation_blocks<float> table({2, 3, 2, size});
        const auto values = [&](rw::index r, rw::index h, rw::index b) {
            return support::noise(size * size, unsigned(100 * r + 10 * h + b));
        };
        for (rw::index r = 0; r < 2; ++r)
            for (rw::index h = 0; h < 3; ++h)
                for (rw::index b = 0; b < 2; ++b) table.set(r, h, b, values(r, h, b));
        const auto rows = table.rows();
        for (rw::index r = 0; r < 2; ++r)
            for (rw::index h = 0; h < 3; ++h)
                for (rw::index b = 0; b < 2; ++b) {
                    const auto want = values(r, h, b);
                    for (rw::index i = 0; i < size; ++i)
                        for (rw::index k = 0; k < size; ++k) {
                            CHECK(table.at(r, h, b, i, k) == float(want[i * size + k]));
                            const rw::index j = rw::detail::block_partner(i, k, size);
                            CHECK(rows.at(r, h)[(k * 2 + b) * size + i] == float(want[i * size + j]));
                        }
                }
        CHECK(rows.tokens == 2);
    }
}

TEST_CASE("rotation_blocks: refuses sizes and rows it does not have", "[angles][rotation_blocks][errors]") {
    CHECK_REFUSES("rotation_blocks: size must be in 1 .. 64, got 65", rotation_blocks<>({1, 1, 1, 65}));
    CHECK_REFUSES("rotation_blocks: heads must be >= 1, got 0", rotation_blocks<>({1, 0, 1, 2}));
    CHECK_REFUSES("rotation_blocks: rows, heads and blocks must be >= 0, got an overflowing size",
                  rotation_blocks<>({support::huge(40), 1, rw::index{1} << 30, 2}));
    const rotation_blocks<> table({3, 1, 1, 2});
    const std::vector<std::int32_t> rows{0, -1, 3};
    CHECK_REFUSES("rotation_blocks::rows: row or position must be -1 (untouched) or below 3, got 3",
                  table.rows(rows));
}
