// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// append: rotates new keys into a paged cache, in any of its formats, and stores the values beside them.
#pragma once

#include <cmath>
#include <iterator>

#include <ropewalk/kv/cache_writer.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// New keys and values, and the caches they are written to. S is the element type of the new data. D is that
/// of the caches: S itself, f16 or bf16 for f32 data, or codes: std::int8_t with one scale per head, f8_e4m3
/// and f8_e5m2 with one scale for all, q8_0, q4_0 and other blocks.
/// Shapes:   key, value [batches, tokens, heads, channels], each possibly empty; the caches have the same
///           heads and channels (blocks: a multiple of their size).
template <class S, class D = S>
struct append_call {
    heads_view<const S> key = {};         ///< new keys, not rotated
    heads_view<const S> value = {};       ///< new values
    cache_view<D> key_cache = {};         ///< cache of the rotated keys
    cache_view<D> value_cache = {};       ///< cache of the values
    cache_view<float> key_scales = {};    ///< int8 only, output: one number per token and head, channels = 1
    cache_view<float> value_scales = {};  ///< as key_scales
    float key_scale = 1;                  ///< f8 only, input: number = code * scale
    float value_scale = 1;                ///< as key_scale
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

template <class S, class D>
constexpr cache_target<D> key_target(const append_call<S, D>& call) noexcept {
    return {call.key_cache, call.key_scales, call.key_scale};
}
template <class S, class D>
constexpr cache_target<D> value_target(const append_call<S, D>& call) noexcept {
    return {call.value_cache, call.value_scales, call.value_scale};
}

/// Copies the heads of one token; does nothing if they are already in their slot.
template <class S>
ROPEWALK_ALWAYS_INLINE void copy_heads(const S* from, index from_stride, S* to, index to_stride, index heads,
                                       index channels) noexcept {
    if (from == to && from_stride == to_stride) return;
    const bool adjacent = from_stride == channels && to_stride == channels;
    const index at_once = adjacent ? heads : 1;
    const auto bytes = static_cast<std::size_t>(at_once * channels) * sizeof(S);
    for (index h = from == to ? 1 : 0; h < heads; h += at_once)  // only the first can stand in its slot
        std::memcpy(static_cast<void*>(to + h * to_stride), static_cast<const void*>(from + h * from_stride),
                    bytes);
}

/// The new values of one token.
template <class S, class D>
ROPEWALK_ALWAYS_INLINE void append_value(const heads_view<const S>& value, const cache_target<D>& to,
                                         index token, cache_place place, work_range heads) noexcept {
    const index b = token / value.tokens(), n = token % value.tokens(), channels = value.channels();
    to.write(place, heads, [&](index h, index count, auto* target, index stride) {
        using T = std::remove_pointer_t<decltype(target)>;
        const auto* const from = reinterpret_cast<const stored_t<S>*>(value.at(b, n, h));
        if constexpr (std::is_same_v<T, stored_t<S>>) {
            copy_heads(from, value.strides.head, target, stride, count, channels);
        } else {
            pass_channels(plain_places<stored_t<S>, T>{{from, value.strides.head}, target, stride, count}, 0,
                          channels);
        }
    });
}

/// The new keys of one token, from a source that reads them as they are or normalised.
template <class Layout, class Cursor, class S, class D>
ROPEWALK_ALWAYS_INLINE void append_key(Layout layout, const token_rotation<Cursor>& rotation,
                                       slice_extents slice, const heads_view<const S>& key,
                                       const cache_target<D>& to, index token, cache_place place,
                                       work_range heads) noexcept {
    const index b = token / key.tokens(), n = token % key.tokens();
    to.write(place, heads, [&](index h, index count, auto* target, index stride) {
        using T = std::remove_pointer_t<decltype(target)>;
        using places = plain_places<stored_t<S>, T>;
        const auto* const from = reinterpret_cast<const stored_t<S>*>(key.at(b, n, h));
        rotate_slice(layout, outer_loop::registers, rotation, slice,
                     token_part<places>{{{from, key.strides.head}, target, stride, count}, h});
    });
}

/// Whether a cache of D accepts data of S: f64 goes to f64, f32 and 16-bit types to each other and to codes.
template <class S, class D>
constexpr bool cache_takes() noexcept {
    if constexpr (holds_codes<D>) {
        return std::is_same_v<compute_t<S>, float>;
    } else {
        return std::is_same_v<compute_t<S>, compute_t<D>>;
    }
}

/// The misfit of keys with their rotation, and of tokens with their rows.
template <class T>
misfit fit_keys(const layout_plan& plan, const heads_view<T>& key, const rows_extents& rows,
                index tokens) noexcept {
    if (!plan.rotates) return {};
    if (rows.count != tokens) return {"rows must be those of the tokens of the plan", tokens, rows.count};
    if (key.empty() || rows.pairs == 0) return {};
    return fit_rotation(plan, key.shape, rows, true);
}

}  // namespace detail

/// Checks an append once and records the cache slots of its tokens. The plan serves every layer whose call
/// has the same shapes: change the pointers of the call, not the plan. Without slots the plan is empty, and
/// its calls do nothing.
/// Shapes:   slots [batches * tokens], slot = page * page_tokens + token in the page; negative: skipped.
/// Throws:   invalid_config on slots outside the cache or used twice, shapes that disagree, strides with
///           which rows overlap, a source that overlaps the destination and is not the same memory, keys,
///           values and scales that share a byte, scales that are not finite and > 0.
/// Cost:     O(tokens log tokens).
/// Source:   vLLM's slot mapping.
template <class S, class D, integer_range Slots>
[[nodiscard]] cache_plan make_append_plan(const append_call<S, D>& call, const Slots& slots) {
    constexpr const char* who = "make_append_plan";
    const auto& shape =
        call.key.empty() && !call.value.empty() ? call.value_cache.shape : call.key_cache.shape;
    if (std::empty(slots)) return {};
    cache_plan plan(std::span(std::data(slots), std::size(slots)), shape.pages, shape.page_tokens);
    detail::require_half("make_append_plan: key", call.key, detail::key_target(call), plan);
    detail::require_half("make_append_plan: value", call.value, detail::value_target(call), plan);
    const index keys = call.key.batches() * call.key.tokens() * call.key.heads();
    detail::require_apart(who, call.key, call.key_cache, plan, 0, 0);
    detail::require_apart(who, call.value, call.value_cache, plan, keys, keys);
    const cache_view<D> none = {};
    const cache_view<float> no_scales = {};
    const auto& key_cache = call.key.empty() ? none : call.key_cache;
    const auto& value_cache = call.value.empty() ? none : call.value_cache;
    if (!call.key.empty() && !call.value.empty()) {
        detail::require_apart(who, call.key, call.value_cache, plan, 0, keys);
        detail::require_apart(who, call.value, call.key_cache, plan, keys, 0);
        detail::require_caches_apart(who, key_cache, value_cache, plan);
    }
    if constexpr (std::is_same_v<D, std::int8_t>) {
        const auto& key_scales = call.key.empty() ? no_scales : call.key_scales;
        const auto& value_scales = call.value.empty() ? no_scales : call.value_scales;
        detail::require_caches_apart(who, key_cache, key_scales, plan);
        detail::require_caches_apart(who, key_cache, value_scales, plan);
        detail::require_caches_apart(who, value_cache, key_scales, plan);
        detail::require_caches_apart(who, value_cache, value_scales, plan);
        detail::require_caches_apart(who, key_scales, value_scales, plan);
    }
    return plan;
}

/// Rotates new keys into their cache rows and copies the values beside them, in one pass: the keys are
/// neither written back nor read again.
/// Shapes:   see append_call; rows of batches * tokens tokens. The slice of a scheme or layout_slice rotates,
///           otherwise the first 2 * pairs channels; other channels are copied. A layer without RoPE (a
///           scheme that does not rotate, copy_rows(tokens)) copies its keys. With a scheme the cache holds
///           keys in its write layout.
/// Requires: a plan from make_append_plan for a call of these shapes. A token with a negative slot or a
///           negative row is neither read nor written.
/// Returns:  true; false if the call does not fit its plan or rows and ROPEWALK_ON_MISFIT lets the program
///           continue: nothing was written in that case.
/// Cost:     each new number is read once, each cached number written once; no allocation.
/// Accuracy: to S: bit for bit rotate, then copy. f32 to f16, bf16: rotate in f32, one rounding (the bits of
///           rotate_into). f8: the rotated f32 number times float(1 / scale), rounded to nearest even,
///           saturated. int8: scale = largest magnitude of the head / 127, code = number * (127 / largest
///           magnitude) rounded to nearest even, so that |number - code * scale| <= 0.50002 scale. Blocks: as
///           encode_block.
/// Threads:  `part` splits tokens, and the heads of few tokens.
/// Source:   RoFormer, eq. 34; FlashInfer's rope_quantize_fp8_append_paged_kv_cache (the feature).
template <class L, class S, class D, class R>
bool append(const L& layout, const append_call<S, D>& call, const cache_plan& plan, const R& given,
            part_of part = {}) noexcept {
    static_assert(detail::cache_takes<S, D>(), "ropewalk: f64 data go to f64 caches, and no others");
    if constexpr (detail::types_fit<L, R, S>()) {
        constexpr const char* who = "append";
        if (plan.tokens() == 0) return true;
        const detail::layout_plan rope = detail::plan_of(layout);
        const auto& rows = detail::rows_of(given);
        const detail::rows_extents extents = detail::extents_of(rows);
        const auto keys = detail::key_target(call), values = detail::value_target(call);
        const misfit key = detail::first_of(detail::fit_half(call.key, keys, plan),
                                            detail::fit_keys(rope, call.key, extents, plan.tokens()));
        if (!detail::fits(who, detail::first_of(
                                   detail::in_argument("key", key),
                                   detail::in_argument("value", detail::fit_half(call.value, values, plan)),
                                   detail::fit_part(part))))
            return false;
        const index pairs = rope.rotates ? detail::pairs_of(rope, call.key.channels(), extents.pairs) : 0;
        const detail::slice_extents slice{pairs, detail::first_channel_of(rope, call.key.channels(), pairs),
                                          call.key.channels()};
        const work_part work = partition_tokens(plan.tokens(), part);
        const auto run = [&](const auto& of_call) {
            return detail::each_token(
                who, layout, rope, of_call, compute_t<S>{}, 0, work,
                [&](auto kind, detail::outer_loop, auto& cursor, index token) ROPEWALK_DETAIL_INLINE_LAMBDA {
                    const cache_place place = plan.place(token);
                    if (place.page < 0) return;
                    const detail::token_rotation rotation(cursor, token, detail::direction::forward);
                    if (pairs > 0 ? !rotation.has_row() : rope.rotates && detail::untouched_by(rows, token))
                        return;
                    if (!call.key.empty())
                        detail::append_key(kind, rotation, slice, call.key, keys, token, place,
                                           partition(call.key.heads(), work.heads));
                    if (!call.value.empty())
                        detail::append_value(call.value, values, token, place,
                                             partition(call.value.heads(), work.heads));
                });
        };
        // A layer without RoPE does not read its rows.
        if (pairs == 0) return run(copy_rows<compute_t<S>>(plan.tokens()));
        return run(rows);
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
