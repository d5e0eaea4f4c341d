// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rows_view.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("rows_view: ordinals by default, slices move with the tokens", "[angles][rows_view]") {
    const float values[] = {0, 1, 2, 3, 4, 5};
    rw::rows_view<float> rows;
    rows.cos = values;
    rows.sin = values + 1;
    rows.table_rows = 3;
    rows.pairs = 1;
    rows.row_stride = 2;
    rows.tokens = 3;
    CHECK(rows.row(2) == 2);
    CHECK(*rows.cos_at(2, 0) == 4);
    const auto tail = rows.token_slice(1, 2);
    CHECK(tail.tokens == 2);
    CHECK(*tail.cos_at(tail.row(0), 0) == 2);
    CHECK(tail.table_rows == 2);
    const std::int64_t wide[] = {2, -1, 0};
    rows.indices = {nullptr, wide};
    CHECK(rows.token_slice(1, 1).row(0) == -1);
    CHECK(rows.row(0) == 2);
}
