// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/repeated_row.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("repeat_row: every token reads the one row", "[angles][repeated_row]") {
    const auto omega = rw::frequencies::geometric({.rotary_dim = 16});
    const auto table = rw::make_rotation_table(omega, rw::position_ids::text(5));
    support::heads_buffer<float> one({2, 3, 2, 16}), listed({2, 3, 2, 16});
    one.fill(1);
    listed.fill(1);
    rw::rotate(rw::interleaved{}, one.view(), rw::repeat_row(table, 4, 6));
    const std::vector<std::int32_t> rows(6, 4);
    rw::rotate(rw::interleaved{}, listed.view(), table.rows(std::span<const std::int32_t>(rows)));
    CHECK(support::same_bits(one.dense(), listed.dense()));
    const auto part = rw::repeat_row(table, 4, 6).token_slice(2, 3);
    CHECK(part.cos_at(part.row(1), 0) == table.cos_row(4).data());
}

TEST_CASE("repeat_row: tables that skip tokens still have their rows", "[angles][repeated_row]") {
    rw::position_ids ids;
    ids.append(rw::untouched_run{2}).append(rw::text_run{2, 7, 1});
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 4}), ids);
    const auto rows = rw::repeat_row(table, 1, 3);
    CHECK(rows.row(2) == 2);
    CHECK(rows.cos_at(2, 0)[0] == table.cos_row(1)[0]);
    CHECK_REFUSES("repeat_row: row must be below the table's rows, got 2", rw::repeat_row(table, 2, 1));
    CHECK_REFUSES("repeat_row: tokens must be >= 0, got -1", rw::repeat_row(table, 0, -1));
}
