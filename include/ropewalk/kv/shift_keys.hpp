// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// shift_keys: rotates keys inside a cache, for context shifts and changes of frequencies.
#pragma once

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kv/block_rotation.hpp>
#include <ropewalk/kv/cache_writer.hpp>

namespace ROPEWALK_NAMESPACE {

/// The table that moves cached keys by a delta for each token, per axis for M-RoPE and other multi-axis
/// spectra. Its magnitude is 1 for every spectrum, because the keys already contain theirs.
/// Shapes:   deltas [tokens, axes], negative to move towards the start (a context shift by `discarded` tokens
///           is -discarded); one row per token.
/// Requires: one spectrum for old and new positions; if the spectrum changes too, use make_rebase_table.
/// Throws:   invalid_config if the axes differ.
/// Source:   R(p + d) = R(d) R(p); ggml-org/llama.cpp pull request 2060.
template <class T = float>
rotation_table<T> make_shift_table(const spectrum& s, const position_ids& deltas) {
    return make_rotation_table<T>(s.with_magnitude(1), deltas);
}

/// The scales of quantised keys, and the share of the work that a call does.
struct shift_options {
    cache_view<float> scales = {};  ///< int8 only, input and output: one number per token and head
    float scale = 1;                ///< f8 only: number = code * scale
    part_of part = {};              ///< the share of the work that this call takes
};

namespace detail {

/// A row of any source as numbers in L1.
template <class Row>
row_in_memory<float> kept_row(const directed_row<Row>& row, index pairs, float* cos, float* sin) noexcept {
    constexpr index n = simd::lanes<float>;
    index i = 0;
    simd::pack<float> c, s;
    for (; i + n <= pairs; i += n) {
        row.load(i, c, s);
        simd::store(cos + i, c), simd::store(sin + i, s);
    }
    if (i < pairs) {
        row.load_some(i, pairs - i, c, s);
        simd::store_some(cos + i, c, pairs - i), simd::store_some(sin + i, s, pairs - i);
    }
    return {cos, sin};
}

/// Rotates the codes of one head of a token through f32 in L1.
template <class Layout, class Cursor, class D>
void shift_codes(Layout layout, const token_rotation<Cursor>& rotation, slice_extents slice,
                 const cache_view<D>& keys, const shift_options& options, cache_place place,
                 index head) noexcept {
    alignas(64) float numbers[quantized_channels];
    D* const codes = keys.at(place.page, place.token, head);
    float* scale = nullptr;
    float given = options.scale;
    if constexpr (std::is_same_v<D, std::int8_t>) {
        scale = options.scales.at(place.page, place.token, head);
        given = *scale;
    }
    load_head(static_cast<const D*>(codes), given, numbers, slice.channels);
    const auto heads = in_place(static_cast<float*>(numbers) + slice.first_channel, 0, 1);
    if (rotation.rotate_token(layout, outer_loop::registers, slice.pairs,
                              token_part<decltype(heads)>{heads, head}))
        store_head(codes, scale, 1.0f / options.scale, numbers, slice.channels);
}

/// The misfit of cached keys with their layout, plan and rows.
template <class D>
misfit fit_cached(const layout_plan& rope, const cache_view<D>& keys, const cache_plan& plan,
                  const rows_extents& rows, const shift_options& options) noexcept {
    const cache_shape& shape = keys.shape;
    if (shape.heads < 0 || shape.channels < 0)
        return {"cache extents must be >= 0 (a slice outside its cache has -1)", 0,
                std::min(shape.heads, shape.channels)};
    if (!plan.fits(keys)) return {"the cache must have the pages of the plan", plan.pages(), shape.pages};
    if (holds_codes<D> && (shape.channels > quantized_channels || shape.channels % numbers_in<D> != 0))
        return {"quantised channels must be whole blocks and at most 1024", quantized_channels,
                shape.channels};
    if (const misfit rows_apart = fit_cache_rows(keys); !rows_apart.ok()) return rows_apart;
    if constexpr (std::is_same_v<D, std::int8_t>) {
        if (!plan.fits(options.scales) || options.scales.shape.heads != shape.heads)
            return {"the scales must have the pages and heads of the cache, heads", shape.heads,
                    options.scales.shape.heads};
        const misfit scales_apart = in_argument("scales", fit_cache_rows(options.scales));
        if (!scales_apart.ok()) return scales_apart;
    }
    if (is_f8<D> && !(options.scale > 0)) return {"scale must be > 0", 1, 0};
    if (!rope.rotates) return {};
    return fit_rotation(rope, {1, plan.tokens(), shape.heads, shape.channels}, rows, holds_codes<D>);
}

}  // namespace detail

/// Rotates keys inside a cache by the rows of the tokens of the plan: a context shift with make_shift_table,
/// a change of frequencies with make_rebase_table. Everything else in the cache is unchanged: values in the
/// same rows, other slots, channels outside the slice. Codes are decoded, rotated in f32 and encoded again,
/// with new scales (int8 and blocks; the scale of f8 is constant).
/// Shapes:   keys with whole heads for a scheme or layout_slice, otherwise with 2 * pairs channels (slice
///           first); codes always with whole heads. Rows hold one token for each token of the plan. A
///           scheme's cached keys are in its write layout. A layer without RoPE is left alone.
/// Requires: the plan fits the cache: cache_plan(slots of the moved tokens, pages, page_tokens). A negative
///           slot or row leaves the token alone. Tokens keep their slots, but make_slots takes the position of
///           a token for its place in the pages: after a shift, either drop whole pages from the block table
///           or give append slots from a list of your own.
/// Returns:  as append.
/// Cost:     as rotate over these keys, in place; no gather, no allocation.
/// Accuracy: as rotate for each call; codes add the rounding of append. Errors of repeated shifts add up:
///           after n of them f32 keys are within 2 n ulp of the norm of the pair (n / 2 is typical, because
///           the rounding of one row of cos and sin repeats), bf16 keys within 4 sqrt(n) half storage ulps
///           (an eighth of the key at n = 1000). Shift a 16-bit or quantised cache rarely and far.
/// Source:   ggml-org/llama.cpp pull requests 2060 and 5653; LMCache/LMCache issue 4144 (packed rows).
template <class L, class D, class R>
bool shift_keys(const L& layout, cache_view<D> keys, const cache_plan& plan, const R& given,
                const shift_options& options = {}) noexcept {
    using data = std::conditional_t<holds_codes<D>, float, D>;
    if constexpr (detail::types_fit<L, R, data>()) {
        constexpr const char* who = "shift_keys";
        if (plan.tokens() == 0 || keys.shape.heads == 0 || keys.shape.channels == 0) return true;
        detail::layout_plan rope = detail::plan_of(layout);
        rope.read = rope.write;
        const auto& rows = detail::rows_of(given);
        const detail::rows_extents extents = detail::extents_of(rows);
        if (!detail::fits(who, detail::first_of(detail::fit_cached(rope, keys, plan, extents, options),
                                                detail::fit_part(options.part))))
            return false;
        if (!rope.rotates) return true;
        const index channels = keys.shape.channels;
        const index pairs = detail::pairs_of(rope, channels, extents.pairs);
        const detail::slice_extents slice{pairs, detail::first_channel_of(rope, channels, pairs), channels};
        const work_part work = partition_tokens(plan.tokens(), options.part);
        const work_range heads = partition(keys.shape.heads, work.heads);
        return detail::each_token(
            who, rope.read, rope, rows, compute_t<data>{}, detail::cached_bytes + 1, work,
            [&](auto kind, detail::outer_loop outer, auto& cursor, index token)
                ROPEWALK_DETAIL_INLINE_LAMBDA {
                    const cache_place place = plan.place(token);
                    if (place.page < 0) return;
                    const detail::token_rotation rotation(cursor, token, detail::direction::forward);
                    if (!rotation.has_row()) return;
                    if constexpr (is_block<D>) {
                        if (rotation.has_one_row()) {
                            float cos[block_slice_channels / 2], sin[block_slice_channels / 2];
                            const auto row = detail::kept_row(rotation.row(), pairs, cos, sin);
                            D* const first = keys.at(place.page, place.token, heads.first);
                            rotate_blocks(rope.read, block_heads<D>{first, keys.strides.head, heads.count},
                                          {row.cos, row.sin, pairs, slice.first_channel});
                            return;
                        }
                    }
                    if constexpr (holds_codes<D>) {
                        for (index h = heads.first; h < heads.first + heads.count; ++h)
                            detail::shift_codes(kind, rotation, slice, keys, options, place, h);
                    } else {
                        using stored = stored_t<D>;
                        auto* const first =
                            reinterpret_cast<stored*>(keys.at(place.page, place.token, heads.first));
                        const auto places =
                            detail::in_place(first + slice.first_channel, keys.strides.head, heads.count);
                        rotation.rotate_token(
                            kind, outer, pairs,
                            detail::token_part<detail::places_in_place<stored>>{places, heads.first});
                    }
                });
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
