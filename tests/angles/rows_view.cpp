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
    CHECK(tail.row(0) == 1);
    CHECK(tail.table_rows == 3);  // the table stays whole, the tokens move
    CHECK(tail.token_slice(1, 1).row(0) == 2);
    const std::int64_t wide[] = {2, -1, 0};
    rows.indices = {nullptr, wide};
    CHECK(rows.token_slice(1, 1).row(0) == -1);
    CHECK(rows.row(0) == 2);
}

TEST_CASE("rows_view: the tokens of several batches, and one batch for all of them", "[angles][rows_view]") {
    rw::rows_view<float> rows;
    rows.table_rows = rows.tokens = 12;
    const auto three = rows.in_batches(3);
    CHECK(three.batches == 3);
    CHECK(three.tokens == 4);
    CHECK(three.count() == 12);
    CHECK(three.row(4) == 4);
    // Tokens 1 and 2 of every batch, then of the last two batches.
    const auto chunk = three.token_slice(1, 2);
    CHECK(chunk.count() == 6);
    CHECK(chunk.row(0) == 1);
    CHECK(chunk.row(2) == 5);
    CHECK(chunk.row(5) == 10);
    const auto last = chunk.batch_slice(1, 2);
    CHECK(last.count() == 4);
    CHECK(last.row(0) == 5);
    CHECK(last.row(3) == 10);
    const auto same = rows.token_slice(2, 3).repeated(2);
    CHECK(same.count() == 6);
    CHECK(same.row(2) == 4);
    CHECK(same.row(3) == 2);
    CHECK(same.batch_slice(1, 1).row(0) == 2);
}

TEST_CASE("rows_view: a slice outside its rows has -1 tokens", "[angles][rows_view]") {
    rw::rows_view<float> rows;
    rows.table_rows = rows.tokens = 12;
    rows.heads = 4;
    const auto three = rows.in_batches(3);
    for (const auto& outside : {rows.token_slice(5, 8), rows.token_slice(-1, 2), rows.token_slice(13, 0),
                                rows.in_batches(5), rows.in_batches(0), three.in_batches(2),
                                three.repeated(2), three.batch_slice(2, 2), three.batch_slice(-1, 1),
                                rows.head_slice(3, 2), rows.head_slice(0, 3, 2), rows.head_slice(0, 1, 0)})
        CHECK(outside.count() == -1);
    CHECK(rows.token_slice(12, 0).count() == 0);
    CHECK(three.batch_slice(3, 0).count() == 0);
    CHECK(rows.head_slice(1, 2, 2).heads == 2);
    CHECK(rows.head_slice(0, 4).count() == 12);  // all of them, and the first alone
    CHECK(rows.head_slice(0, 1).count() == 12);
    CHECK(rows.head_slice(4, 0).count() == 12);
    rows.heads = 1;  // one row for all heads: any heads
    CHECK(rows.head_slice(7, 9).count() == 12);
}
