// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <cstring>

#include <ropewalk/kv/append_checks.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/turn_head.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// New keys and values and the caches they go to.
/// S: element type of the new data. D: what the caches hold: S itself, f16 or bf16 for f32 data, or
/// std::int8_t, f8_e4m3, f8_e5m2.
/// Shapes:   key, value [batches, tokens, heads, channels], each possibly empty; the caches have their
///           heads and channels. Rotated are key channels [first_channel, first_channel + 2 * pairs).
/// Source:   design of this library.
template <class S, class D = S>
struct append_call {
    heads_view<const S> key = {};         ///< new keys, not rotated
    heads_view<const S> value = {};       ///< new values
    cache_view<D> key_cache = {};         ///< where the rotated keys go
    cache_view<D> value_cache = {};       ///< where the values go
    cache_view<float> key_scales = {};    ///< int8 only, written: one number a token and head, channels = 1
    cache_view<float> value_scales = {};  ///< as key_scales
    float key_scale = 1;                  ///< f8 only, given: number = code * scale
    float value_scale = 1;                ///< as key_scale
    pair_layout layout = {};
    index first_channel = 0;
};

/// The longest head that can be quantised with a scale of its own.
inline constexpr index quantized_channels = 1024;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

template <class D>
void require_scale(const char* who, float scale) {
    if constexpr (is_f8<D>)
        require(std::isfinite(scale) && scale > 0 && std::isfinite(1 / scale), who,
                "scale must be finite and > 0", scale);
}

template <class S, class D>
void require_half(const char* who, const heads_view<const S>& x, const cache_view<D>& cache,
                  const cache_view<float>& scales, float scale, const cache_plan& plan) {
    if (x.empty()) return;
    require(x.batches() * x.tokens() == plan.tokens(), who, "source must hold one token a slot",
            x.batches() * x.tokens());
    require_source(who, x);
    require_cache(who, cache, plan, x.heads(), x.channels());
    if constexpr (std::is_same_v<D, std::int8_t>) {
        require(x.channels() <= quantized_channels, who, "channels must be <= 1024", x.channels());
        require_cache(who, scales, plan, x.heads(), 1);
    }
    require_scale<D>(who, scale);
}

/// The same questions in the hot call: a handful of comparisons, no memory touched.
template <class S, class D>
bool half_matches(const heads_view<const S>& x, const cache_view<D>& cache, const cache_view<float>& scales,
                  const cache_plan& plan) noexcept {
    if (x.empty()) return true;
    const bool base = x.batches() * x.tokens() == plan.tokens() && plan.fits(cache) &&
                      cache.shape.heads == x.heads() && cache.shape.channels == x.channels();
    if constexpr (std::is_same_v<D, std::int8_t>)
        return base && plan.fits(scales) && scales.shape.heads == x.heads() &&
               x.channels() <= quantized_channels;
    return base;
}

/// A head in `numbers` as int8 with scale = largest / 127. A head that holds no number but NaN or infinity
/// somewhere gets the scale NaN; one of (almost) zeros the scale 0.
inline void store_int8_head(std::int8_t* to, float* scale, const float* numbers, index channels,
                            std::uint32_t largest_bits) noexcept {
    constexpr index n = simd::lanes<float>;
    const bool number = largest_bits < 0x7f800000u;
    const float largest = std::bit_cast<float>(largest_bits);
    if (!number || largest < 0x1p-100f) {
        std::memset(to, 0, static_cast<std::size_t>(channels));
        *scale = number ? 0.0f : std::bit_cast<float>(0x7fc00000u);
        return;
    }
    *scale = largest / 127.0f;
    const simd::pack<float> factor = simd::broadcast(127.0f / largest);
    index c = 0;
    for (; c + n <= channels; c += n) simd::store(to + c, simd::load(numbers + c) * factor);
    if (c < channels)
        simd::store_some_bytes(to + c, simd::load_some(numbers + c, channels - c) * factor, channels - c);
}

/// Hands `turn` a target of the cache's type for one head.
template <class D, class Turn>
ROPEWALK_ALWAYS_INLINE void write_head(D* to, float* scale, [[maybe_unused]] simd::pack<float> factor,
                                       [[maybe_unused]] index channels, Turn turn) noexcept {
    if constexpr (std::is_same_v<D, std::int8_t>) {
        alignas(64) float numbers[quantized_channels];
        measuring_target target{numbers};
        turn(target);
        store_int8_head(to, scale, numbers, channels, simd::largest_magnitude(target.largest));
    } else if constexpr (is_f8<D>) {
        scaled_target<D> target{to, factor};
        turn(target);
    } else {
        plain_target<stored_t<D>> target{reinterpret_cast<stored_t<D>*>(to)};
        turn(target);
    }
    (void)scale;
}

struct token_place {
    index batch, token;
    cache_place place;
    work_range heads;
};

/// A library's memcpy may write past the caches. What is turned next must be in the first one, so this copies
/// through registers.
inline void copy_through_cache(void* to, const void* from, std::size_t bytes) noexcept {
    auto* d = static_cast<unsigned char*>(to);
    const auto* s = static_cast<const unsigned char*>(from);
    std::size_t i = 0;
    for (; i + 64 <= bytes; i += 64) std::memcpy(d + i, s + i, 64);
    for (; i + 2 <= bytes; i += 2) std::memcpy(d + i, s + i, 2);
}

/// The heads of one token as they are; nothing where they stand in their slot already.
template <class S, class Copy>
ROPEWALK_ALWAYS_INLINE void copy_token(const heads_view<const S>& from, const cache_view<S>& to,
                                       token_place at, Copy copy) noexcept {
    const bool adjacent = from.strides.head == from.channels() && to.strides.head == from.channels();
    const index heads = adjacent ? at.heads.count : 1;
    const auto bytes = static_cast<std::size_t>(heads * from.channels()) * sizeof(S);
    for (index h = at.heads.first; h < at.heads.first + at.heads.count; h += heads) {
        const S* source = from.at(at.batch, at.token, h);
        S* target = to.at(at.place.page, at.place.token, h);
        if (target != source) copy(static_cast<void*>(target), static_cast<const void*>(source), bytes);
    }
}

template <class Layout, class S, class D, class C>
ROPEWALK_ALWAYS_INLINE void append_key(Layout layout, const append_call<S, D>& call, const rows_view<C>& rows,
                                       index row, token_place at, simd::pack<float> factor) noexcept {
    if constexpr (std::is_same_v<S, D> && sizeof(S) == 2) {
        // Copied, then turned where they are while they are in the first cache: rotate_token works on whole
        // words of 16-bit pairs.
        if (rows.heads == 1) {
            copy_token(call.key, call.key_cache, at, copy_through_cache);
            using stored = stored_t<D>;
            auto* const first = reinterpret_cast<stored*>(
                call.key_cache.at(at.place.page, at.place.token, at.heads.first) + call.first_channel);
            rotate_token(layout, rows.cos_at(row, 0), rows.sin_at(row, 0), rows.pairs, {1, 1},
                         token_heads<stored>{first, call.key_cache.strides.head, at.heads.count});
            return;
        }
    }
    for (index h = at.heads.first; h < at.heads.first + at.heads.count; ++h) {
        const plain_source<stored_t<S>> from{
            reinterpret_cast<const stored_t<S>*>(call.key.at(at.batch, at.token, h))};
        const slice_of_head<C> slice{rows.cos_at(row, h), rows.sin_at(row, h), rows.pairs, call.first_channel,
                                     call.key.channels()};
        write_head(call.key_cache.at(at.place.page, at.place.token, h),
                   call.key_scales.at(at.place.page, at.place.token, h), factor, call.key.channels(),
                   [&](auto& to) { turn_slice(layout, slice, from, to); });
    }
}

template <class S, class D>
ROPEWALK_ALWAYS_INLINE void append_value(const append_call<S, D>& call, token_place at,
                                         simd::pack<float> factor) noexcept {
    if constexpr (std::is_same_v<S, D>) {
        copy_token(call.value, call.value_cache, at,
                   [](void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); });
    } else {
        const index channels = call.value.channels();
        for (index h = at.heads.first; h < at.heads.first + at.heads.count; ++h) {
            const plain_source<stored_t<S>> source{
                reinterpret_cast<const stored_t<S>*>(call.value.at(at.batch, at.token, h))};
            write_head(call.value_cache.at(at.place.page, at.place.token, h),
                       call.value_scales.at(at.place.page, at.place.token, h), factor, channels,
                       [&](auto& target) { pass_channels(0, channels, source, target); });
        }
    }
}

}  // namespace detail

/// Checks an append once and remembers where its tokens go. The plan serves every layer whose call has the
/// same shapes: change the pointers of the call, not the plan.
/// Shapes:   slots [batches * tokens], slot = page * page_tokens + token in the page; negative: skipped.
/// Requires: pairs is what the rows of the calls will have.
/// Throws:   invalid_config on slots outside the cache or met twice, shapes that disagree, strides shorter
///           than what they step over, a source that overlaps the destination without being it, scales that
///           are not finite and > 0.
/// Cost:     O(tokens log tokens).
/// Source:   design of this library.
template <class S, class D, class I>
cache_plan make_append_plan(const append_call<S, D>& call, std::span<const I> slots, index pairs) {
    constexpr const char* who = "make_append_plan";
    const auto& shape = call.key.empty() ? call.value_cache.shape : call.key_cache.shape;
    cache_plan plan(slots, shape.pages, shape.page_tokens);
    detail::require_half(who, call.key, call.key_cache, call.key_scales, call.key_scale, plan);
    detail::require_half(who, call.value, call.value_cache, call.value_scales, call.value_scale, plan);
    detail::require(pairs >= 0 && call.first_channel >= 0 &&
                        (call.key.empty() || call.first_channel + 2 * pairs <= call.key.channels()),
                    who, "rotated channels must lie inside the head, first_channel", call.first_channel);
    detail::require(call.layout.fits(pairs), who, "layout must divide the rotated channels, group",
                    call.layout.group);
    const index values = call.key.batches() * call.key.tokens() * call.key.heads();
    detail::require_apart(who, call.key, call.key_cache, plan, 0, 0);
    detail::require_apart(who, call.value, call.value_cache, plan, values, values);
    if (!call.key.empty() && !call.value.empty()) {
        detail::require_apart(who, call.key, call.value_cache, plan, 0, values);
        detail::require_apart(who, call.value, call.key_cache, plan, values, 0);
        detail::require(call.key_cache.data != call.value_cache.data, who,
                        "keys and values must go to different rows, key_cache and value_cache at distance",
                        0);
    }
    return plan;
}
template <class S, class D, class I>
cache_plan make_append_plan(const append_call<S, D>& call, const std::vector<I>& slots, index pairs) {
    return make_append_plan(call, std::span<const I>(slots), pairs);
}

/// Rotates new keys into their cache rows and copies the values beside them, in one pass: the keys are
/// neither written back nor read again.
/// Shapes:   see append_call; rows hold batches * tokens tokens. Rows of 0 pairs copy the keys (no RoPE).
/// Requires: a plan from make_append_plan for a call of these shapes. A call that does not fit its plan or
///           its rows is an assertion in debug and writes nothing in release. A token with a negative slot
///           or a negative row is neither read nor written.
/// Cost:     each new number read once, each cached number written once; no allocation.
/// Accuracy: to S: bit for bit rotate, then copy. f32 to f16, bf16: rotate in f32, one rounding (the bits
///           of rotate_into). f8: the rotated f32 number times float(1 / scale), rounded to nearest even,
///           saturated. int8: scale = largest magnitude of the head / 127, code = number * (127 / largest)
///           to nearest even, so that |number - code * scale| <= 0.50002 scale.
/// Threads:  `part` splits tokens, and the heads of few tokens.
/// Source:   RoFormer, eq. 34; FlashInfer's rope_quantize_fp8_append_paged_kv_cache (the feature).
template <class S, class D>
void append(const append_call<S, D>& call, const cache_plan& plan, std::type_identity_t<rows_for<S>> rows,
            part_of part = {}) noexcept {
    if constexpr (is_quantized<D>) {
        static_assert(std::is_same_v<compute_t<S>, float>, "f64 data are not quantised");
    } else {
        static_assert(std::is_same_v<compute_t<S>, compute_t<D>>, "f64 data go to f64 caches");
    }
    const bool match =
        detail::half_matches(call.key, call.key_cache, call.key_scales, plan) &&
        detail::half_matches(call.value, call.value_cache, call.value_scales, plan) &&
        (call.key.empty() ||
         (call.first_channel >= 0 && call.first_channel + 2 * rows.pairs <= call.key.channels() &&
          (rows.heads == 1 || rows.heads >= call.key.heads()) && call.layout.fits(rows.pairs))) &&
        rows.tokens >= plan.tokens();
    ROPEWALK_EXPECT(match);
    if (!match) return;
    const auto key_factor = simd::broadcast(1.0f / call.key_scale);
    const auto value_factor = simd::broadcast(1.0f / call.value_scale);
    const work_part work = partition_tokens(plan.tokens(), part);
    detail::with_layout(call.layout, [&](auto layout) {
        for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
            const cache_place place = plan.place(token);
            const index row = rows.row(token);
            if (place.page < 0 || row < 0) continue;
            if (!call.key.empty())
                detail::append_key(layout, call, rows, row,
                                   {token / call.key.tokens(), token % call.key.tokens(), place,
                                    partition(call.key.heads(), work.heads)},
                                   key_factor);
            if (!call.value.empty())
                detail::append_value(call,
                                     {token / call.value.tokens(), token % call.value.tokens(), place,
                                      partition(call.value.heads(), work.heads)},
                                     value_factor);
        }
    });
}

}  // namespace ROPEWALK_NAMESPACE
