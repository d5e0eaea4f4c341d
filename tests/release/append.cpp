// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A misfit is only returned, as in contract_broken.cpp.
#define ROPEWALK_ON_MISFIT ignore
#include <ropewalk/kv/append.hpp>

#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("append: a call that is not its plan's or its rows' says so and writes nothing", "[release]") {
    constexpr rw::index tokens = 6, heads = 4, channels = 16, slots = 8;
    std::vector<float> memory(2 * tokens * heads * channels, 1.0f), keys(slots * heads * channels, 2.0f),
        values = keys;
    const auto before = keys;
    const rw::heads_view<float> x(memory.data(), tokens, heads, channels);
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = channels}),
                                               rw::position_ids::text(tokens));
    const rw::append_call<float> call{
        .key = x,
        .value = x,
        .key_cache = rw::cache_view<float>::nhd(keys.data(), {1, slots, heads, channels}),
        .value_cache = rw::cache_view<float>::nhd(values.data(), {1, slots, heads, channels})};
    const auto plan = rw::make_append_plan(call, std::vector<int>{0, 1, 2, 3, 4, 5});
    const auto refused = [&](const rw::append_call<float>& of, const auto& rows, rw::part_of part = {}) {
        return !rw::append(rw::half_split{}, of, plan, rows, part) && keys == before && values == before;
    };
    auto wrong = call;
    wrong.key = x.token_slice(0, tokens - 1);
    CHECK(refused(wrong, table));
    wrong = call;
    wrong.value = x.token_slice(0, tokens - 1);
    CHECK(refused(wrong, table));
    wrong = call;
    wrong.key_cache.shape.channels = channels / 2;
    CHECK(refused(wrong, table));
    wrong = call;
    wrong.value_cache.shape.page_tokens = slots / 2;
    CHECK(refused(wrong, table));
    const std::vector<int> few{0, 1, 2};
    CHECK(refused(call, table.rows(few)));
    CHECK(refused(call, table, {.parts = 2, .part = 2}));
    CHECK(rw::append(rw::half_split{}, call, plan, table));
    CHECK(keys != before);
    CHECK(values != before);
    CHECK(rw::append(rw::half_split{}, rw::append_call<float>{}, rw::cache_plan{}, table));
}
