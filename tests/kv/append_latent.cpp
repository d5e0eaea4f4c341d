// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/append_latent.hpp>

#include <ropewalk/kernels/normalize_and_rotate.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/cache_buffer.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::cache_buffer;
using support::cache_order;
using support::heads_buffer;

namespace {

using longs = std::vector<std::int64_t>;

template <class C>
rw::rotation_table<C> table_of(rw::index pairs, rw::index tokens) {
    return rw::make_rotation_table<C>(rw::frequencies::geometric({.rotary_dim = 2 * pairs}),
                                      rw::position_ids::text(tokens, 100000));
}
template <class C>
std::vector<C> weights_of(rw::index count) {
    std::vector<C> w;
    for (rw::index i = 0; i < count; ++i)
        w.push_back(static_cast<C>(0.5 + 0.01 * static_cast<double>(i % 91)));
    return w;
}

}  // namespace

TEMPLATE_TEST_CASE("append_latent: the latent's norm and the rotated key, bit for bit, in one row",
                   "[kv][append][latent][fused]", double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    const std::pair<rw::index, rw::index> sizes[] = {{512, 32}, {5, 1}, {33, 9}, {16, 16}};
    for (const auto& [channels, pairs] : sizes)
        for (rw::pair_layout layout : {rw::pair_layout(rw::interleaved{}), rw::pair_layout(rw::half_split{})})
            for (bool weighted : {true, false})
                for (rw::index tokens : {1, 2, 7}) {
                    // One projection: [latent | key] a token, as the model makes it.
                    heads_buffer<TestType> projected({1, tokens, 1, channels + 2 * pairs}, 3, 1);
                    projected.fill(5);
                    const auto latent = projected.view().channel_slice(0, channels);
                    const auto key = projected.view().channel_slice(channels, 2 * pairs);
                    cache_buffer<TestType> cache({3, 4, 1, channels + 2 * pairs}, cache_order::nhd);
                    const auto table = table_of<C>(pairs, tokens);
                    const rw::head_norm<C> norm({.channels = channels},
                                                weighted ? weights_of<C>(channels) : std::vector<C>{});
                    const rw::append_latent_call<TestType> call{
                        .latent = latent, .rope_key = key, .cache = cache.keys()};
                    longs slots;
                    for (rw::index n = 0; n < tokens; ++n) slots.push_back(n == 1 ? -1 : (n * 5 + 1) % 12);
                    const auto plan = rw::make_append_latent_plan(call, norm.view(), slots);
                    rw::append_latent(layout, call, norm, plan, table);
                    CHECK(projected.canaries_alive());
                    rw::normalize_and_rotate(layout, latent, norm, rw::rotation_table<C>(tokens, 1, 0));
                    rw::rotate(layout, key, table);
                    CHECK(cache.holds(cache.keys(), plan, projected.dense()));
                    CHECK(cache.nothing_else_written(plan));
                }
}

TEST_CASE("append_latent: f32 to bf16 and to f8 rounds the f32 result once", "[kv][append][latent]") {
    heads_buffer<float> projected({1, 3, 1, 512 + 64});
    projected.fill(5);
    const auto latent = projected.view().channel_slice(0, 512), key = projected.view().channel_slice(512, 64);
    const auto table = table_of<float>(32, 3);
    const rw::head_norm<float> norm({.channels = 512}, weights_of<float>(512));
    const longs slots{2, 0, 1};
    cache_buffer<rw::bf16> narrow({1, 4, 1, 576}, cache_order::nhd);
    cache_buffer<rw::f8_e4m3> coded({1, 4, 1, 576}, cache_order::nhd);
    const rw::append_latent_call<float, rw::bf16> a{
        .latent = latent, .rope_key = key, .cache = narrow.keys()};
    const rw::append_latent_call<float, rw::f8_e4m3> b{
        .latent = latent, .rope_key = key, .cache = coded.keys(), .scale = 0.0625f};
    const auto plan = rw::make_append_latent_plan(a, norm.view(), slots);
    rw::append_latent(rw::interleaved{}, a, norm, plan, table);
    for (rw::index part = 0; part < 2; ++part)
        rw::append_latent(rw::interleaved{}, b, norm, plan, table, {2, part});
    rw::normalize_and_rotate(rw::half_split{}, latent, norm, rw::rotation_table<float>(3, 1, 0));
    rw::rotate(rw::interleaved{}, key, table);
    std::vector<rw::bf16> want_a;
    std::vector<rw::f8_e4m3> want_b;
    for (float x : projected.dense()) want_a.push_back(rw::bf16(x)), want_b.push_back(rw::f8_e4m3(x * 16));
    CHECK(narrow.holds(narrow.keys(), plan, want_a));
    CHECK(coded.holds(coded.keys(), plan, want_b));
    CHECK(coded.nothing_else_written(plan));
}

TEST_CASE("append_latent: a token without a row writes nothing", "[kv][append][latent]") {
    heads_buffer<float> projected({1, 2, 1, 24});
    projected.fill(3);
    cache_buffer<float> cache({1, 4, 1, 24}, cache_order::nhd);
    const rw::append_latent_call<float> call{.latent = projected.view().channel_slice(0, 16),
                                             .rope_key = projected.view().channel_slice(16, 8),
                                             .cache = cache.keys()};
    const rw::head_norm<float> norm({.channels = 16});
    const auto table = table_of<float>(4, 2);
    const auto both = rw::make_append_latent_plan(call, norm.view(), longs{1, 3});
    const auto second = rw::make_append_latent_plan(call, norm.view(), longs{-1, 3});
    const std::vector<int> rows{-1, 1};
    rw::append_latent(rw::interleaved{}, call, norm, both, table.rows(rows));
    CHECK(cache.nothing_else_written(second));
}

TEST_CASE("make_append_latent_plan: bad input is refused", "[kv][append][latent][errors]") {
    heads_buffer<float> projected({1, 2, 1, 24});
    cache_buffer<float> cache({1, 4, 1, 24}, cache_order::nhd);
    const rw::append_latent_call<float> good{.latent = projected.view().channel_slice(0, 16),
                                             .rope_key = projected.view().channel_slice(16, 8),
                                             .cache = cache.keys()};
    const rw::head_norm<float> norm({.channels = 16});
    const auto refusal = [&](const auto& call, rw::norm_view<float> n, longs slots = {0, 1}) {
        return support::refusal([&] { static_cast<void>(rw::make_append_latent_plan(call, n, slots)); });
    };
    CHECK(refusal(good, norm) == "");
    auto no_eps = norm.view();
    no_eps.eps = 0;
    CHECK(refusal(good, no_eps) == "make_append_latent_plan: eps of the norm must be > 0: wanted 1, got 0");
    CHECK(refusal(good, norm, {0, 4}) == "cache_plan: slots must be below pages * page_tokens, got 4");
    CHECK(refusal(good, norm, {0}) ==
          "make_append_latent_plan: latent and rope_key must hold one token a slot of the plan: wanted 1, "
          "got 2");
    auto bad = good;
    bad.cache.shape.channels = 23;
    CHECK(refusal(bad, norm) ==
          "make_append_latent_plan: cache must have the channels written to it: wanted 24, got 23");
    bad = good,
    bad.latent = rw::heads_view<const float>(cache.keys().at(0, 0, 0), {1, 2, 1, 16}, {0, 24, 24});
    CHECK(refusal(bad, norm) ==
          "make_append_latent_plan: source must be the destination itself or not overlap it, token * heads + "
          "head, got 0");
    // Not even its own row, without a rotated part: the norm reads what the first numbers overwrite.
    bad.latent = rw::heads_view<const float>(cache.keys().at(0, 0, 0), {1, 1, 1, 24}, {0, 24, 24});
    bad.rope_key = projected.view().channel_slice(16, 0).token_slice(0, 1);
    CHECK(refusal(bad, rw::head_norm<float>({.channels = 24}), {0}) ==
          "make_append_latent_plan: source must be the destination itself or not overlap it, token * heads + "
          "head, got 0");
    rw::append_latent_call<float, rw::f8_e4m3> f8{.latent = good.latent, .rope_key = good.rope_key};
    std::vector<rw::f8_e4m3> bytes(96);
    f8.cache = rw::cache_view<rw::f8_e4m3>::nhd(bytes.data(), {1, 4, 1, 24});
    f8.scale = 0;
    CHECK(refusal(f8, norm) == "make_append_latent_plan: scale must be finite and > 0, got 0");
}
