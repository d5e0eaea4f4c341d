// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/prepare_attention.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include <vector>

#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::cache_order;
using support::heads_buffer;

namespace {

constexpr rw::index tokens = 5, q_heads = 6, kv_heads = 2, dim = 64;

template <class C>
std::vector<C> weights(rw::index count) {
    std::vector<C> w;
    for (rw::index i = 0; i < count; ++i) w.push_back(static_cast<C>(0.5 + 0.03 * double(i % 40)));
    return w;
}

/// The prologue from packed rows in one call, and its steps one after the other.
template <class S, class D>
void check_fused(const rw::rotary_scheme& rope, rw::norm_config norm_of) {
    using C = rw::compute_t<S>;
    const auto table = rw::make_rotation_table<C>(rw::frequencies::geometric({.rotary_dim = rope.rotary_dim}),
                                                  rw::position_ids::text(tokens, 777));
    const std::vector<int> slots{7, 0, -1, 4, 2}, rows{0, 1, 2, -1, 4};
    norm_of.channels = dim;
    norm_of.heads = q_heads;
    const bool each = norm_of.kind == rw::norm_kind::layer;
    const rw::head_norm<C> q_norm(norm_of, weights<C>(each ? q_heads * dim : dim));
    norm_of.heads = kv_heads;
    const rw::head_norm<C> k_norm(norm_of, weights<C>(each ? kv_heads * dim : dim));

    heads_buffer<S> packed({1, tokens, q_heads + 2 * kv_heads, dim}, 1);
    packed.fill(1);
    const auto before = packed.dense();
    const auto views = rw::split_qkv(rw::heads_view<const S>(packed.view()), q_heads, kv_heads);
    heads_buffer<S> q_out({1, tokens, q_heads, dim}, 2), q_want({1, tokens, q_heads, dim});
    q_out.fill(5);
    cache_buffer<D> cache({2, 4, kv_heads, dim}, cache_order::hnd),
        want({2, 4, kv_heads, dim}, cache_order::hnd);
    rw::prepare_call<S, S, D> call{.q = views.q,
                                   .q_out = q_out.view(),
                                   .new_rows = {.key = views.k,
                                                .value = views.v,
                                                .key_cache = cache.keys(),
                                                .value_cache = cache.values()},
                                   .q_norm = q_norm,
                                   .k_norm = k_norm};
    const auto plan = rw::make_prepare_plan(call, slots);
    for (rw::index part = 0; part < 3; ++part)
        REQUIRE(rw::prepare_attention(rope, call, plan, table.rows(rows), {3, part}));
    CHECK(support::same_bits(packed.dense(), before));
    CHECK(q_out.canaries_alive());

    // Apart: norm and rotation of q; norm of k, then append of it.
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < q_heads; ++h)
            for (rw::index c = 0; c < dim; ++c)
                q_want.view().at(0, n, h)[c] =
                    rows[std::size_t(n)] < 0 ? q_out.view().at(0, n, h)[c] : views.q.at(0, n, h)[c];
    rw::normalize_and_rotate(rope, q_want.view(), q_norm, table.rows(rows));
    CHECK(support::same_bits(q_out.dense(), q_want.dense()));
    heads_buffer<S> k({1, tokens, kv_heads, dim});
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < kv_heads; ++h)
            for (rw::index c = 0; c < dim; ++c) k.view().at(0, n, h)[c] = views.k.at(0, n, h)[c];
    rw::normalize_and_rotate(rw::half_split{}, k.view(), k_norm, rw::copy_rows<C>(tokens));
    rw::append_call<S, D> apart{
        .key = k.view(), .value = views.v, .key_cache = want.keys(), .value_cache = want.values()};
    REQUIRE(rw::append(rope, apart, plan, table.rows(rows)));
    CHECK(cache.same_memory(want));
}

}  // namespace

TEST_CASE(
    "prepare_attention: one pass has the bits of norm, rotation and append where nothing is rounded between",
    "[kv][prepare]") {
    const rw::rotary_scheme whole{.head_dim = dim, .rotary_dim = dim};
    const rw::rotary_scheme partial{.head_dim = dim,
                                    .first_channel = 16,
                                    .rotary_dim = 32,
                                    .read_layout = rw::interleaved{},
                                    .write_layout = rw::half_split{}};
    for (const auto& rope : {whole, partial})
        for (const auto kind : {rw::norm_kind::rms, rw::norm_kind::layer}) {
            check_fused<double, double>(rope, {.kind = kind});
            check_fused<float, float>(rope, {.kind = kind});
            check_fused<float, rw::bf16>(rope, {.kind = kind});
        }
}

TEST_CASE("prepare_attention: codes are those of the f32 keys, in place queries, a layer without RoPE",
          "[kv][prepare]") {
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = dim}),
                                               rw::position_ids::text(3, 9));
    const rw::rotary_scheme rope{.head_dim = dim, .rotary_dim = dim};
    heads_buffer<float> q({1, 3, 4, dim}), k({1, 3, 2, dim}), v({1, 3, 2, dim});
    q.fill(1), k.fill(2), v.fill(3);
    std::vector<rw::q8_0> key_blocks(8 * 2 * 2), value_blocks = key_blocks, want_keys = key_blocks,
                                                 want_values = key_blocks;
    const rw::cache_shape shape{1, 8, 2, dim};
    const auto cache_of = [&](std::vector<rw::q8_0>& blocks) {
        return rw::cache_view<rw::q8_0>::nhd(blocks.data(), shape);
    };
    const std::vector<int> slots{3, 1, 6};
    heads_buffer<float> q_want = q;
    rw::rotate(rope, q_want.view(), table);
    rw::append_call<float, rw::q8_0> apart{.key = k.view(),
                                           .value = v.view(),
                                           .key_cache = cache_of(want_keys),
                                           .value_cache = cache_of(want_values)};
    const auto plan = rw::make_append_plan(apart, slots);
    rw::append(rope, apart, plan, table);
    rw::prepare_call<float, float, rw::q8_0> call{.q = q.view(), .q_out = q.view(), .new_rows = apart};
    call.new_rows.key_cache = cache_of(key_blocks);
    call.new_rows.value_cache = cache_of(value_blocks);
    CHECK(rw::prepare_attention(rope, call, rw::make_prepare_plan(call, slots), table));
    CHECK(support::same_bits(q.dense(), q_want.dense()));
    CHECK(std::memcmp(key_blocks.data(), want_keys.data(), key_blocks.size() * sizeof(rw::q8_0)) == 0);
    CHECK(std::memcmp(value_blocks.data(), want_values.data(), value_blocks.size() * sizeof(rw::q8_0)) == 0);

    auto still = rope;
    still.rotates = false;
    const auto unchanged = q.dense();
    CHECK(rw::prepare_attention(still, call, plan, table));
    CHECK(support::same_bits(q.dense(), unchanged));
}

TEST_CASE("split_qkv: heads that do not add up make views that fit no call", "[kv][prepare]") {
    std::vector<float> memory(3 * 10 * 8);
    const rw::heads_view<float> packed(memory.data(), 3, 10, 8);
    const auto right = rw::split_qkv(packed, 6, 2);
    CHECK(right.q.heads() == 6);
    CHECK(right.k.data == memory.data() + 48);
    CHECK(right.v.data == memory.data() + 64);
    CHECK(rw::split_qkv(packed, 6, 3).q.heads() == -1);
}
