// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A misfit is only returned, as in contract_broken.cpp.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/kv/shift_keys.hpp>

#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kv/append.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("shift_keys: keys that are not their plan's or their rows' are left as they are", "[release]") {
    constexpr rw::index tokens = 4, heads = 2, channels = 16, slots = 8;
    std::vector<float> memory(2 * slots * heads * channels, 1.0f);
    const auto before = memory;
    const auto keys = rw::cache_view<float>::nhd(memory.data(), {2, slots, heads, channels});
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = channels}),
                                               rw::position_ids::text(tokens));
    std::vector<float> given(tokens * heads * channels);
    const auto plan = rw::make_append_plan(
        rw::append_call<float>{.key = rw::heads_view<float>(given.data(), tokens, heads, channels),
                               .key_cache = keys},
        std::vector<int>{0, 1, 9, 10});
    const auto refused = [&](const rw::cache_view<float>& of, const auto& rows, rw::part_of part = {}) {
        return !rw::shift_keys(rw::half_split{}, of, plan, rows, {.part = part}) && memory == before;
    };
    auto wrong = keys;
    wrong.shape.heads = -1;
    CHECK(refused(wrong, table));
    wrong = keys;
    wrong.shape.channels = -1;
    CHECK(refused(wrong, table));
    wrong = keys;
    wrong.shape.channels = channels - 2;
    CHECK(refused(wrong, table));
    wrong = keys;
    wrong.shape.pages = 1;
    CHECK(refused(wrong, table));
    wrong = keys;
    wrong.shape.page_tokens = slots / 2;
    CHECK(refused(wrong, table));
    wrong = keys;
    wrong.data = nullptr;
    CHECK(refused(wrong, table));
    const std::vector<int> few{0, 1, 2};
    CHECK(refused(keys, table.rows(few)));
    CHECK(refused(keys, table, {.parts = 2, .part = 2}));
    // Nothing to do is no misfit.
    wrong = keys;
    wrong.shape.heads = 0;
    CHECK(rw::shift_keys(rw::half_split{}, wrong, plan, table));
    CHECK(rw::shift_keys(rw::half_split{}, keys, rw::cache_plan{}, table));
    CHECK(memory == before);
    CHECK(rw::shift_keys(rw::half_split{}, keys, plan, table));
    CHECK(memory != before);
}
