// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Keys rotated into a paged cache, beside the passes it replaces: rotate in place, then copy (or quantise,
// the same vector loop) into the cache. unfused_over_kernel: how many times longer the passes take.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kv/append_latent.hpp>

#include <cstring>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 8, dim = 128, page_tokens = 16, latent_channels = 512;

/// Slots of pages in no order: what a block table gives after a while.
std::vector<std::int64_t> slots_of(rw::index tokens, rw::index pages) {
    std::vector<std::int64_t> slots;
    for (rw::index n = 0; n < tokens; ++n)
        slots.push_back((n / page_tokens * 37 % pages) * page_tokens + n % page_tokens);
    return slots;
}
rw::index pages_for(rw::index tokens) {
    rw::index pages = (tokens + page_tokens - 1) / page_tokens;
    while (pages % 37 == 0) ++pages;
    return pages;
}
rw::rows_view<float> rows_of(rw::position_table<float>& table, std::vector<std::int32_t>& positions,
                             rw::index tokens) {
    for (rw::index n = 0; n < tokens; ++n)
        positions.push_back(static_cast<std::int32_t>((n * 5077 + 5000) % 8192));
    return table.rows(positions);
}

template <class S>
void copy_rows(rw::heads_view<const S> from, rw::cache_view<S> to, const rw::cache_plan& plan) {
    const auto bytes = static_cast<std::size_t>(from.heads() * from.channels()) * sizeof(S);
    for (rw::index n = 0; n < plan.tokens(); ++n)
        std::memcpy(static_cast<void*>(to.at(plan.place(n).page, plan.place(n).token, 0)),
                    static_cast<const void*>(from.at(0, n, 0)), bytes);
}

template <class S, class D>
void append_case(benchmark::State& state, rw::index tokens, bool with_values) {
    const rw::index pages = pages_for(tokens);
    const auto size = static_cast<std::size_t>(tokens * heads * dim);
    auto k = bench::normal_numbers<S>(size, 1), v = bench::normal_numbers<S>(size, 2);
    rw::detail::aligned_vector<D> keys(static_cast<std::size_t>(pages * page_tokens * heads * dim)),
        values(keys.size());
    rw::detail::aligned_vector<float> scales(2 * static_cast<std::size_t>(pages * page_tokens * heads));
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = dim}), 8192,
                                    {.max_rows = 8192});
    std::vector<std::int32_t> positions;
    const auto rows = rows_of(table, positions, tokens);
    const rw::heads_view<S> kv(k.data(), tokens, heads, dim), vv(v.data(), tokens, heads, dim);
    const rw::cache_shape shape{pages, page_tokens, heads, dim}, one{pages, page_tokens, heads, 1};
    rw::append_call<S, D> call{.key = kv,
                               .key_cache = rw::cache_view<D>::nhd(keys.data(), shape),
                               .key_scales = rw::cache_view<float>::nhd(scales.data(), one),
                               .key_scale = 0.01f,
                               .value_scale = 0.01f};
    if (with_values) {
        call.value = vv;
        call.value_cache = rw::cache_view<D>::nhd(values.data(), shape);
        call.value_scales = rw::cache_view<float>::nhd(scales.data() + scales.size() / 2, one);
    }
    const auto plan = rw::make_append_plan(call, slots_of(tokens, pages));
    const auto unfused = [&] {
        rw::rotate(rw::half_split{}, kv, rows);
        if constexpr (std::is_same_v<S, D>) {
            copy_rows(call.key, call.key_cache, plan);
            if (with_values) copy_rows(call.value, call.value_cache, plan);
        } else {
            rw::append(rw::half_split{}, call, plan, rw::copy_rows<float>(tokens));
        }
    };
    const double tensors = with_values ? 2 : 1;
    bench::compare(state,
                   {.bytes = tensors * static_cast<double>(size * (sizeof(S) + sizeof(D))),
                    .roof = {},
                    .contenders = {{"kernel", [&] { rw::append(rw::half_split{}, call, plan, rows); }}, {"unfused", unfused}}});
    if (!bench::still_normal(k)) state.SkipWithError("the data left their range");
}

template <class S>
void latent_case(benchmark::State& state, rw::index tokens) {
    constexpr rw::index width = latent_channels + 64;
    const rw::index pages = pages_for(tokens);
    auto projected = bench::normal_numbers<S>(static_cast<std::size_t>(tokens * width), 1);
    rw::detail::aligned_vector<S> cache(static_cast<std::size_t>(pages * page_tokens * width));
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = 64}), 8192, {.max_rows = 8192});
    std::vector<std::int32_t> positions;
    const auto rows = rows_of(table, positions, tokens);
    const rw::heads_view<S> both(projected.data(), tokens, 1, width);
    const auto latent = both.channel_slice(0, latent_channels), key = both.channel_slice(latent_channels, 64);
    const rw::append_latent_call<S> call{
        .latent = latent,
        .rope_key = key,
        .cache = rw::cache_view<S>::nhd(cache.data(), {pages, page_tokens, 1, width})};
    const rw::head_norm<float> norm({.channels = latent_channels}, std::vector<float>(latent_channels, 1));
    const auto plan = rw::make_append_latent_plan(call, norm.view(), slots_of(tokens, pages));
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(projected.size() * sizeof(S)),
                           .roof = {},
                           .contenders = {{"kernel", [&] { rw::append_latent(rw::interleaved{}, call, norm, plan, rows); }},
                                          {"unfused", [&] {
                                               rw::normalize_and_rotate(rw::interleaved{}, latent, norm,
                                                                        rw::copy_rows<float>(tokens));
                                               rw::rotate(rw::interleaved{}, key, rows);
                                               copy_rows<S>(both, call.cache, plan);
                                           }}}});
    if (!bench::still_normal(projected)) state.SkipWithError("the data left their range");
}

template <class F>
void add(const std::string& name, F run) {
    for (rw::index tokens : {1, 512, 4096})
        benchmark::RegisterBenchmark(("append/" + name + "/tokens:" + std::to_string(tokens)).c_str(),
                                     [=](benchmark::State& state) { run(state, tokens); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}
template <class S, class D>
void add_pair(const std::string& types) {
    add("keys/" + types,
        [](benchmark::State& state, rw::index tokens) { append_case<S, D>(state, tokens, false); });
    add("keys_values/" + types,
        [](benchmark::State& state, rw::index tokens) { append_case<S, D>(state, tokens, true); });
}
const int registered = [] {
    add_pair<float, float>("f32");
    add_pair<rw::bf16, rw::bf16>("bf16");
    add_pair<float, std::int8_t>("f32_to_int8");
    add_pair<float, rw::f8_e4m3>("f32_to_e4m3");
    add_pair<rw::bf16, std::int8_t>("bf16_to_int8");
    add("latent/f32", latent_case<float>);
    add("latent/bf16", latent_case<rw::bf16>);
    return 0;
}();

}  // namespace
