// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Everything between the projection and attention in one pass: norms, rotation, and both caches.
#pragma once

#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/kv/append.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Queries, keys and values of one projection.
template <class T>
struct qkv_views {
    heads_view<T> q;  ///< [batches, tokens, query heads, channels]
    heads_view<T> k;  ///< [batches, tokens, key heads, channels]
    heads_view<T> v;  ///< as k
};

/// The three parts of packed rows [q heads | key heads | value heads] with the same number of channels.
/// Shapes: packed [batches, tokens, q_heads + 2 * kv_heads, channels], any strides. If the heads do not add
///         up, the views fit no call.
template <class T>
constexpr qkv_views<T> split_qkv(heads_view<T> packed, index q_heads, index kv_heads) noexcept {
    if (packed.heads() != q_heads + 2 * kv_heads) q_heads = -1;
    return {packed.head_slice(0, q_heads), packed.head_slice(q_heads, kv_heads),
            packed.head_slice(q_heads + kv_heads, kv_heads)};
}

/// The step before attention: queries are read and rotated queries written; keys and values go to their
/// caches. S is the element type of the projection, Q that of the queries for attention, D that of the caches
/// as in append_call.
/// Shapes:   q and q_out [batches, tokens, q heads, channels]; new_rows.key and .value [batches, tokens, key
///           heads, channels]. q_out may be q itself.
template <class S, class Q = S, class D = S>
struct prepare_call {
    heads_view<const S> q = {};           ///< queries of the projection
    heads_view<Q> q_out = {};             ///< output: normalised and rotated queries
    append_call<S, D> new_rows = {};      ///< keys, values and their caches
    norm_view<compute_t<S>> q_norm = {};  ///< 0 channels: queries are not normalised
    norm_view<compute_t<S>> k_norm = {};  ///< 0 channels: keys are not normalised
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

template <class T, class C>
misfit fit_prepared_norm(const heads_view<T>& x, const norm_view<C>& norm) noexcept {
    if (x.empty() || norm.channels == 0) return {};
    return fit_norm(norm, x.shape);
}

/// Some heads of a token from source to target, normalised if there is a norm.
template <class Layout, class Cursor, class S, class D, class C>
ROPEWALK_ALWAYS_INLINE void prepare_heads(Layout layout, const token_rotation<Cursor>& rotation,
                                          slice_extents slice, const norm_view<C>& norm,
                                          token_part<plain_places<S, D>> x) noexcept {
    if (norm.channels != 0) {
        normalize_heads(layout, rotation, slice, norm, x, untouched_tokens::normalised);
    } else {
        rotate_slice(layout, outer_loop::registers, rotation, slice, x);
    }
}

}  // namespace detail

/// Checks a prepare_call once; see make_append_plan.
/// Throws:   invalid_config as make_append_plan, and on a norm over all heads of a token with keys that are
///           encoded as codes.
template <class S, class Q, class D, integer_range Slots>
[[nodiscard]] cache_plan make_prepare_plan(const prepare_call<S, Q, D>& call, const Slots& slots) {
    detail::require(!holds_codes<D> || call.k_norm.channels == 0 || call.k_norm.extent == norm_extent::head ||
                        call.new_rows.key.heads() * call.new_rows.key.channels() <= detail::scratch_numbers,
                    "make_prepare_plan",
                    "k_norm over all heads of a token must be of at most 4096 numbers, heads",
                    call.new_rows.key.heads());
    return make_append_plan(call.new_rows, slots);
}

/// All work before attention in one pass over the projection: q is normalised and rotated, k is normalised,
/// rotated and appended to its cache in any of its formats, and v is appended.
/// Shapes:   see prepare_call; rows of batches * tokens tokens, for q and k alike. The slice of a scheme or
///           layout_slice rotates, otherwise the first 2 * pairs channels of q and k. A layer without RoPE
///           only normalises.
/// Requires: a plan from make_prepare_plan for a call of these shapes; q_out is q itself or does not overlap
///           it; nothing written but q_out overlaps the projection. A token with a negative row is neither
///           read nor written; one with a negative slot has its query prepared and nothing appended.
/// Returns:  as append.
/// Cost:     each number is read once and written once, where separate passes read and write it up to three
///           times; no allocation.
/// Accuracy: for f32 and f64 data bit for bit normalize_and_rotate (or rotate_into) followed by append; for
///           16-bit data more accurate, because nothing is rounded in between.
/// Threads:  `part` splits tokens, and the heads of few tokens if no norm is over all heads of a token.
/// Source:   fused prologues of GPU engines (QK-norm, RoPE and cache write in one kernel): the feature.
template <class L, class S, class Q, class D, class R>
bool prepare_attention(const L& layout, const prepare_call<S, Q, D>& call, const cache_plan& plan,
                       const R& given, part_of part = {}) noexcept {
    static_assert(detail::cache_takes<S, D>(), "ropewalk: f64 data go to f64 caches, and no others");
    static_assert(std::is_same_v<compute_t<S>, compute_t<Q>>, "ropewalk: f64 queries stay f64");
    if constexpr (detail::types_fit<L, R, Q>()) {
        constexpr const char* who = "prepare_attention";
        using C = compute_t<S>;
        const auto& q = call.q;
        const auto& rows_of_cache = call.new_rows;
        const index tokens = q.empty() ? plan.tokens() : q.batches() * q.tokens();
        const detail::layout_plan rope = detail::plan_of(layout);
        const auto& rows = detail::rows_of(given);
        const detail::rows_extents extents = detail::extents_of(rows);
        const auto keys = detail::key_target(rows_of_cache), values = detail::value_target(rows_of_cache);
        const bool appends = plan.tokens() != 0;
        misfit wrong = detail::first_of(detail::fit_readable("q", q),
                                        detail::fit_readable("q_out", call.q_out), detail::fit_part(part));
        if (wrong.ok() && !q.empty())
            wrong = detail::in_argument(
                "q", detail::first_of(detail::fit_same_shape(q, call.q_out), detail::fit_apart(q, call.q_out),
                                      detail::fit_strides(call.q_out.shape, call.q_out.strides),
                                      detail::fit_prepared_norm(q, call.q_norm),
                                      detail::fit_keys(rope, q, extents, tokens)));
        if (wrong.ok() && appends && plan.tokens() != tokens)
            wrong = {"the plan must hold one slot a token", tokens, plan.tokens()};
        if (wrong.ok() && appends)
            wrong = detail::first_of(
                detail::in_argument(
                    "key", detail::first_of(detail::fit_half(rows_of_cache.key, keys, plan),
                                            detail::fit_prepared_norm(rows_of_cache.key, call.k_norm),
                                            detail::fit_keys(rope, rows_of_cache.key, extents, tokens))),
                detail::in_argument("value", detail::fit_half(rows_of_cache.value, values, plan)));
        if (!detail::fits(who, wrong)) return false;
        if (tokens == 0) return true;
        const index channels = q.empty() ? rows_of_cache.key.channels() : q.channels();
        const index pairs = rope.rotates ? detail::pairs_of(rope, channels, extents.pairs) : 0;
        if (rope.read != rope.write && pairs > detail::changed_pairs)
            return detail::tell(
                who, {"pairs must be at most 512 where the layout changes", detail::changed_pairs, pairs});
        const auto slice = [&](index of) {
            return detail::slice_extents{pairs, detail::first_channel_of(rope, of, pairs), of};
        };
        const detail::slice_extents slice_q = slice(q.channels()),
                                    slice_k = slice(rows_of_cache.key.channels());
        const work_range share = partition(tokens, part);
        const work_part work = detail::keeps_heads_together(q, call.q_norm) ||
                                       detail::keeps_heads_together(rows_of_cache.key, call.k_norm)
                                   ? work_part{share.first, share.count, {}}
                                   : partition_tokens(tokens, part);
        const work_range q_heads = partition(q.heads(), work.heads);
        const auto run = [&](const auto& of_call) {
            return detail::each_token(
                who, layout, rope, of_call, C{}, 0, work,
                [&](auto kind, detail::outer_loop, auto& cursor, index token) ROPEWALK_DETAIL_INLINE_LAMBDA {
                    const detail::token_rotation rotation(cursor, token, detail::direction::forward);
                    if (pairs > 0 ? !rotation.has_row() : rope.rotates && detail::untouched_by(rows, token))
                        return;
                    if (!q.empty()) {
                        const detail::tensor_part<const S, Q> tensor{q, call.q_out, q_heads, 0};
                        detail::prepare_heads(kind, rotation, slice_q, call.q_norm, tensor.at(token));
                    }
                    const cache_place place = appends ? plan.place(token) : cache_place{};
                    if (place.page < 0) return;
                    const auto& key = rows_of_cache.key;
                    const auto& value = rows_of_cache.value;
                    if (!key.empty()) {
                        const index b = token / key.tokens(), n = token % key.tokens();
                        keys.write(place, partition(key.heads(), work.heads),
                                   [&](index h, index count, auto* target, index stride) {
                                       using T = std::remove_pointer_t<decltype(target)>;
                                       using places = detail::plain_places<stored_t<S>, T>;
                                       const auto* from =
                                           reinterpret_cast<const stored_t<S>*>(key.at(b, n, h));
                                       detail::prepare_heads(
                                           kind, rotation, slice_k, call.k_norm,
                                           detail::token_part<places>{
                                               {{from, key.strides.head}, target, stride, count}, h});
                                   });
                    }
                    if (!value.empty())
                        detail::append_value(value, values, token, place,
                                             partition(value.heads(), work.heads));
                });
        };
        if (pairs == 0) return run(copy_rows<C>(tokens));
        return run(rows);
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
