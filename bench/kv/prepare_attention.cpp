// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// prepare_attention against its steps one after the other: norm and rotation of q and k, then the copy or the
// quantisation of k and v into a paged cache. 32 query heads and 8 key heads of 128 in packed rows. Queries stay where
// the projection left them (in_place), or go to memory of their own (apart), in both contenders alike.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kv/prepare_attention.hpp>

#include <numeric>

#include "support/measure.hpp"
#include "support/worst_error.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index q_heads = 32, kv_heads = 8, dim = 128, page_tokens = 16;

enum class queries { in_place, apart };

/// The keys that a cache of consecutive slots holds, [tokens, kv_heads, dim].
template <class D>
std::vector<double> decoded(const rw::detail::aligned_vector<D>& keys, const float* scales,
                            rw::index tokens) {
    const auto count = static_cast<std::size_t>(tokens * kv_heads * dim);
    if constexpr (rw::numbers_in < D >> 1) {
        std::vector<float> out(count);
        rw::simd::decode_head(out.data(), keys.data(), static_cast<rw::index>(count) / rw::numbers_in<D>);
        return bench::as_f64(out.data(), count);
    } else if constexpr (std::is_same_v<D, std::int8_t>) {
        std::vector<double> out(count);
        for (std::size_t i = 0; i < count; ++i) out[i] = double(keys[i]) * double(scales[i / dim]);
        return out;
    } else {
        return bench::as_f64(keys.data(), count);
    }
}

/// Keys with a root mean square of 1, in f64.
template <class S>
std::vector<double> normalised(const rw::heads_view<S>& keys) {
    std::vector<double> out;
    for (rw::index token = 0; token < keys.shape.tokens; ++token)
        for (rw::index head = 0; head < keys.shape.heads; ++head) {
            auto one = bench::as_f64(keys.data + token * keys.strides.token + head * keys.strides.head,
                                     static_cast<std::size_t>(keys.shape.channels));
            double squares = 0;
            for (const double x : one) squares += x * x;
            for (double& x : one) x /= std::sqrt(squares / double(keys.shape.channels) + rw::norm_config{}.eps);
            out.insert(out.end(), one.begin(), one.end());
        }
    return out;
}

template <class S, class D>
void prepare_case(benchmark::State& state, queries where, rw::index tokens) {
    const rw::index pages = (tokens + page_tokens - 1) / page_tokens;
    const auto size = static_cast<std::size_t>(tokens * (q_heads + 2 * kv_heads) * dim);
    auto packed = bench::normal_numbers<S>(size, 1);
    rw::detail::aligned_vector<S> q_out(static_cast<std::size_t>(tokens * q_heads * dim));
    const auto rows_of_cache = static_cast<std::size_t>(pages * page_tokens * kv_heads);
    rw::detail::aligned_vector<D> keys(rows_of_cache * dim / static_cast<std::size_t>(rw::numbers_in<D>)),
        values = keys;
    rw::detail::aligned_vector<float> scales(2 * rows_of_cache);
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = dim}), 8192);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens)), slots = positions;
    std::iota(positions.begin(), positions.end(), tokens == 1 ? 5000 : 0);
    std::iota(slots.begin(), slots.end(), 0);
    const auto rows = table.rows(positions);
    const auto views = rw::split_qkv(rw::heads_view<S>(packed.data(), tokens, q_heads + 2 * kv_heads, dim),
                                     q_heads, kv_heads);
    const rw::cache_shape shape{pages, page_tokens, kv_heads, dim}, one{pages, page_tokens, kv_heads, 1};
    const rw::head_norm<float> norm({.channels = dim}, std::vector<float>(dim, 1.0f));
    const rw::heads_view<S> q_target =
        where == queries::in_place ? views.q : rw::heads_view<S>(q_out.data(), tokens, q_heads, dim);
    rw::prepare_call<S, S, D> call{
        .q = views.q,
        .q_out = q_target,
        .new_rows = {.key = views.k,
                     .value = views.v,
                     .key_cache = rw::cache_view<D>::nhd(keys.data(), shape),
                     .value_cache = rw::cache_view<D>::nhd(values.data(), shape),
                     .key_scales = rw::cache_view<float>::nhd(scales.data(), one),
                     .value_scales = rw::cache_view<float>::nhd(scales.data() + rows_of_cache, one)},
        .q_norm = norm,
        .k_norm = norm};
    const auto plan = rw::make_prepare_plan(call, slots);
    const auto none = rw::copy_rows<float>(tokens);
    const rw::half_split half;
    auto before = normalised(views.k);
    rw::prepare_attention(half, call, plan, rows);
    state.counters["worst_error"] = bench::worst_error(
        half, std::move(before), decoded(keys, scales.data(), tokens), kv_heads, dim,
        rw::make_rotation_table<double>(table.frequencies(), rw::position_ids::from(positions)));
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(size * sizeof(S)),
                           .roof = {},
                           .contenders = {{"kernel", [&] { rw::prepare_attention(half, call, plan, rows); }},
                                          {"apart", [&] {
                                               rw::normalize_and_rotate(half, views.q, views.k, norm, norm,
                                                                        none);
                                               if (where == queries::in_place) {
                                                   rw::rotate(half, views.q, views.k, rows);
                                               } else {
                                                   rw::rotate_into(half, views.q, q_target, rows);
                                                   rw::rotate(half, views.k, rows);
                                               }
                                               rw::append(half, call.new_rows, plan, none);
                                           }}}});
}

template <class S, class D>
void add(const std::string& name) {
    for (const queries where : {queries::in_place, queries::apart})
        for (rw::index tokens : {1, 512, 4096})
            benchmark::RegisterBenchmark(
                ("prepare_attention/" + name + (where == queries::in_place ? "" : "/queries:apart") +
                 "/tokens:" + std::to_string(tokens))
                    .c_str(),
                [=](benchmark::State& state) { prepare_case<S, D>(state, where, tokens); })
                ->UseManualTime()
                ->Iterations(bench::turns);
}
const int registered = [] {
    add<float, float>("f32");
    add<rw::bf16, rw::bf16>("bf16");
    add<rw::bf16, std::int8_t>("bf16_to_int8");
    add<float, rw::q8_0>("f32_to_q8_0");
    return 0;
}();

}  // namespace
