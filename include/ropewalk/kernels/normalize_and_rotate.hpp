// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The norm and the rotation of queries and keys in one pass.
#pragma once

#include <ropewalk/kernels/head_norm.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// What happens to tokens without a row: they are neither read nor written, as in every kernel, or normalised
/// and not rotated (FLUX.1's text, FreeFlux's keys that do not rotate).
enum class untouched_tokens : std::uint8_t { left_alone, normalised };

/// Which part of the work the call does, and whether untouched tokens are normalised.
struct normalize_options {
    part_of part = {};  ///< the share of the work that this call takes
    /// What happens to tokens with a negative row.
    untouched_tokens untouched = untouched_tokens::left_alone;
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The heads of one token, normalised and rotated from source to target; channels outside the slice are only
/// normalised. Without a row they are only normalised, if the options ask for it.
template <class Layout, class Cursor, class Place, class C>
ROPEWALK_ALWAYS_INLINE void normalize_heads(Layout layout, const token_rotation<Cursor>& token,
                                            slice_extents slice, const norm_view<C>& norm,
                                            token_part<Place> x, untouched_tokens untouched) noexcept {
    using S = typename Place::source_element;
    using D = typename Place::element;
    if (!token.has_row() && untouched == untouched_tokens::left_alone) return;
    const bool whole = norm.extent == norm_extent::token;
    head_moments<C> moments[normed_block];
    if (whole) {
        const head_moments<C> of_all =
            moments_of_token(x.place.from.p, x.place.from.stride, x.place.heads, norm);
        for (head_moments<C>& m : moments) m = of_all;
    }
    const index weight_stride = norm.heads != 0 ? norm.channels : 0;
    for (index h = 0; h < x.place.heads; h += normed_block) {
        const index count = std::min(normed_block, x.place.heads - h);
        const S* const from = x.place.from.p + h * x.place.from.stride;
        if (!whole) fill_moments(from, x.place.from.stride, count, norm, moments);
        const head_places<normed_heads<S>, D> heads{
            {from, x.place.from.stride, norm.weight + (x.first_head + h) * weight_stride, weight_stride,
             moments},
            x.place.to + h * x.place.to_stride,
            x.place.to_stride,
            count};
        rotate_slice(layout, outer_loop::registers, token, slice,
                     token_part<head_places<normed_heads<S>, D>>{heads, x.first_head + h});
    }
}

template <class T, class C>
misfit fit_normed(const layout_plan& plan, const heads_view<T>& x, const norm_view<C>& norm,
                  const rows_extents& rows) noexcept {
    const misfit written = fit_written(plan, x, rows, true);
    return written.ok() && !x.empty() ? fit_norm(norm, x.shape) : written;
}

template <class L, class TQ, class TK, class C, class R>
bool normalize_views(const L& layout, const heads_view<TQ>& q, const heads_view<TK>& k,
                     const norm_view<C>& norm_q, const norm_view<C>& norm_k, const R& given,
                     const normalize_options& options) noexcept {
    constexpr const char* who = "normalize_and_rotate";
    const layout_plan plan = plan_of(layout);
    const auto& rows = rows_of(given);
    const rows_extents extents = extents_of(rows);
    if (!fits(who, first_of(in_argument("q", fit_normed(plan, q, norm_q, extents)),
                            in_argument("k", fit_normed(plan, k, norm_k, extents)), fit_part(options.part))))
        return false;
    if (q.empty() && k.empty()) return true;
    const index channels = q.empty() ? k.channels() : q.channels();
    const index pairs = plan.rotates ? pairs_of(plan, channels, extents.pairs) : 0;
    if (plan.read != plan.write && pairs > changed_pairs)
        return tell(who,
                    {"pairs must be at most 512 where the layout changes in place", changed_pairs, pairs});
    const bool whole = keeps_heads_together(q, norm_q) || keeps_heads_together(k, norm_k);
    const index tokens =
        largest(q.empty() ? 0 : q.batches() * q.tokens(), k.empty() ? 0 : k.batches() * k.tokens());
    const work_range range = partition(tokens, options.part);
    const work_part work =
        whole ? work_part{range.first, range.count, {}} : partition_tokens(tokens, options.part);
    const auto heads = [&](const auto& x) {
        return x.empty() ? work_range{} : partition(x.heads(), work.heads);
    };
    const auto slice = [&](const auto& x) {
        return slice_extents{pairs, first_channel_of(plan, x.channels(), pairs), x.channels()};
    };
    const slice_extents slice_q = slice(q), slice_k = slice(k);
    const untouched_tokens untouched = pairs > 0 ? options.untouched : untouched_tokens::normalised;
    const bool without_pairs =
        plan.rotates && pairs == 0 && options.untouched == untouched_tokens::left_alone;
    const auto run = [&](const auto& of_call) {
        return each_token(
            who, layout, plan, of_call, C{}, 0, work,
            [&](auto kind, outer_loop, auto& cursor, index token, auto xq, auto xk)
                ROPEWALK_DETAIL_INLINE_LAMBDA {
                    if (without_pairs && untouched_by(rows, token)) return;
                    const token_rotation rotation(cursor, token, direction::forward);
                    normalize_heads(kind, rotation, slice_q, norm_q, xq, untouched);
                    normalize_heads(kind, rotation, slice_k, norm_k, xk, untouched);
                },
            tensor_part<TQ, TQ>{q, q, heads(q), 0}, tensor_part<TK, TK>{k, k, heads(k), 0});
    };
    // A layer without RoPE does not read its rows.
    if (pairs == 0) return run(copy_rows<C>(tokens));
    return run(rows);
}

}  // namespace detail

/// RMSNorm or LayerNorm of every head, then its rotation, in one pass over the data and in place: x <-
/// R(norm(x) * weight * scale). Models that normalise queries and keys do so before the rotation (Qwen3;
/// Gemma 3, whose factor is weight + 1; OLMo 2, over all heads together: extent token; Cohere, with
/// LayerNorm).
/// Shapes:   x [batches, tokens, heads, channels]. The slice of a scheme or layout_slice rotates, otherwise
///           the first 2 * pairs channels; other channels are only normalised. norm.channels = channels.
/// Requires: a call that fits, as rotate; q and k with equally many tokens. Tokens without a row are neither
///           read nor written, unless options.untouched asks for their norm. A layer that does not rotate
///           (NoPE) is normalised.
/// Returns:  as rotate.
/// Cost:     reads the data from memory once and writes it once; no allocation.
/// Accuracy: f64, f32: 12 ulp of the norm of the pair in the normalised head, for up to 1024 channels;
///           16-bit: half a storage ulp of the result more (the normalised head is not rounded in between).
///           For f32 and f64 data bit for bit the norm followed by rotate.
/// Threads:  `part` splits tokens, and with extent head also the heads of few tokens.
/// Source:   Zhang and Sennrich 2019, eq. 4; Hugging Face models qwen3, gemma3, olmo2, cohere (order and
///           form).
template <class L, class TQ, class TK, class R>
bool normalize_and_rotate(const L& layout, heads_view<TQ> q, heads_view<TK> k,
                          std::type_identity_t<norm_view<compute_t<TQ>>> norm_q,
                          std::type_identity_t<norm_view<compute_t<TK>>> norm_k, const R& rows,
                          normalize_options options = {}) noexcept {
    if constexpr (detail::types_fit<L, R, TQ, TK>()) {
        return detail::normalize_views(layout, q, k, norm_q, norm_k, rows, options);
    } else {
        return false;
    }
}
template <class L, class T, class R>
bool normalize_and_rotate(const L& layout, heads_view<T> x,
                          std::type_identity_t<norm_view<compute_t<T>>> norm, const R& rows,
                          normalize_options options = {}) noexcept {
    return normalize_and_rotate(layout, x, heads_view<T>{}, norm, norm, rows, options);
}

}  // namespace ROPEWALK_NAMESPACE
