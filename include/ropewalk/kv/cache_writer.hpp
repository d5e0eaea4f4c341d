// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The last step into a cache: rotated heads are stored as computed, or encoded as codes.
#pragma once

#include <bit>
#include <cstring>

#include <ropewalk/core/simd_blocks.hpp>
#include <ropewalk/core/simd_quantized.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kv/append_checks.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The most channels of a head that can be quantised.
inline constexpr index quantized_channels = 1024;

/// Whether a cache of D holds codes.
template <class D>
inline constexpr bool holds_codes = is_quantized<D> || is_block<D>;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// Numbers of heads that are computed before they are encoded: 16 KB in L1.
inline constexpr index scratch_numbers = 4096;

/// Encodes a head in `numbers` as int8 with scale = largest magnitude / 127. If a number is NaN or infinite,
/// the scale is NaN; if all are (almost) zero, it is 0. Codes stay within +-127 in every rounding mode.
inline void store_int8_head(std::int8_t* to, float* scale, const float* numbers, index channels) noexcept {
    constexpr index n = simd::lanes<float>;
    simd::pack<float> magnitudes = simd::broadcast(0.0f);
    index c = 0;
    for (; c + n <= channels; c += n)
        magnitudes = simd::larger_magnitude(magnitudes, simd::load(numbers + c));
    if (c < channels)
        magnitudes = simd::larger_magnitude(magnitudes, simd::load_some(numbers + c, channels - c));
    const std::uint32_t largest_bits = simd::largest_magnitude(magnitudes);
    const bool number = largest_bits < 0x7f800000u;
    const float largest = std::bit_cast<float>(largest_bits);
    if (!number || largest < 0x1p-100f) {
        std::memset(to, 0, static_cast<std::size_t>(channels));
        *scale = number ? 0.0f : std::bit_cast<float>(0x7fc00000u);
        return;
    }
    *scale = largest / 127.0f;
    // If this were rounded upwards, the product with the largest number could exceed 127.
    float factor = 127.0f / largest;
    if (largest * factor > 127.0f) factor = std::bit_cast<float>(std::bit_cast<std::uint32_t>(factor) - 1u);
    const simd::pack<float> scaled = simd::broadcast(factor);
    for (c = 0; c + n <= channels; c += n) simd::store(to + c, simd::load(numbers + c) * scaled);
    if (c < channels)
        simd::store_some_bytes(to + c, simd::load_some(numbers + c, channels - c) * scaled, channels - c);
}

/// Encodes one head of f32. factor: 1 / scale of a cache with one scale for all (f8); scale: the address of
/// the head's own scale (int8).
template <class D>
void store_head(D* to, [[maybe_unused]] float* scale, [[maybe_unused]] float factor, const float* numbers,
                index channels) noexcept {
    if constexpr (is_block<D>) {
        simd::encode_head(to, numbers, channels / numbers_in<D>);
    } else if constexpr (std::is_same_v<D, std::int8_t>) {
        store_int8_head(to, scale, numbers, channels);
    } else {
        constexpr index n = simd::lanes<float>;
        const simd::pack<float> scaled = simd::broadcast(factor);
        index c = 0;
        for (; c + n <= channels; c += n) simd::store(to + c, simd::load(numbers + c) * scaled);
        if (c < channels)
            simd::store_some_bytes(to + c, simd::load_some(numbers + c, channels - c) * scaled, channels - c);
    }
}

/// Decodes one head of codes to f32.
template <class D>
void load_head(const D* from, [[maybe_unused]] float scale, float* numbers, index channels) noexcept {
    if constexpr (is_block<D>) {
        simd::decode_head(numbers, from, channels / numbers_in<D>);
    } else {
        for (index c = 0; c < channels; ++c) numbers[c] = static_cast<float>(from[c]) * scale;
    }
}

/// A cache and its scales.
template <class D>
struct cache_target {
    const cache_view<D>& cache;
    const cache_view<float>& scales;  // int8 only
    float scale;                      // f8 only

    /// Writes heads [first, first + count) of a slot: make(first, count, target, stride) computes some of
    /// them, in the cache itself or as f32 that are then encoded.
    template <class Make>
    ROPEWALK_ALWAYS_INLINE void write(cache_place place, work_range heads, Make make) const noexcept {
        D* const to = cache.at(place.page, place.token, heads.first);
        if constexpr (!holds_codes<D>) {
            make(heads.first, heads.count, reinterpret_cast<stored_t<D>*>(to), cache.strides.head);
        } else {
            alignas(64) float numbers[scratch_numbers];
            const index channels = cache.shape.channels;
            const index at_once = scratch_numbers / channels;
            for (index h = 0; h < heads.count; h += at_once) {
                const index count = std::min(at_once, heads.count - h);
                make(heads.first + h, count, static_cast<float*>(numbers), channels);
                for (index i = 0; i < count; ++i)
                    store_head(to + (h + i) * cache.strides.head, scale_at(place, heads.first + h + i),
                               1.0f / scale, numbers + i * channels, channels);
            }
        }
    }
    float* scale_at(cache_place place, index head) const noexcept {
        return std::is_same_v<D, std::int8_t> ? scales.at(place.page, place.token, head) : nullptr;
    }
};

template <class D>
void require_scale(const char* who, float scale) {
    if constexpr (is_f8<D>)
        require(std::isfinite(scale) && scale > 0 && std::isfinite(1 / scale), who,
                "scale must be finite and > 0", scale);
}

/// The checks of a cold plan for one cache and the data that go there.
template <class S, class D>
void require_half(const char* who, const heads_view<const S>& x, const cache_target<D>& to,
                  const cache_plan& plan) {
    if (x.empty() || plan.tokens() == 0) return;
    require(x.batches() > 0 && x.tokens() > 0 && x.heads() > 0 && x.channels() > 0, who,
            "source extents must be >= 0, batches", x.batches());
    require_slots(who, x.batches(), x.tokens(), plan.tokens());
    require_source(who, x);
    require_cache(who, to.cache, plan, x.heads(), x.channels());
    if constexpr (holds_codes<D>)
        require(x.channels() <= quantized_channels, who, "channels must be <= 1024", x.channels());
    if constexpr (std::is_same_v<D, std::int8_t>) require_scales(who, to.scales, plan, x.heads());
    require_scale<D>(who, to.scale);
}

/// The same checks in the hot call: a few comparisons, no memory is read.
template <class S, class D>
misfit fit_half(const heads_view<S>& x, const cache_target<D>& to, const cache_plan& plan) noexcept {
    const misfit extents = fit_readable(x);
    if (!extents.ok() || x.empty()) return extents;
    const cache_shape& shape = to.cache.shape;
    if (x.batches() * x.tokens() != plan.tokens())
        return {"the source must hold one token a slot of the plan", plan.tokens(), x.batches() * x.tokens()};
    if (!plan.fits(to.cache)) return {"the cache must have the pages of the plan", plan.pages(), shape.pages};
    if (shape.heads != x.heads())
        return {"the cache must have the heads of the source", x.heads(), shape.heads};
    if (shape.channels != x.channels())
        return {"the cache must have the channels of the source", x.channels(), shape.channels};
    if (holds_codes<D> && (x.channels() > quantized_channels || x.channels() % numbers_in<D> != 0))
        return {"quantised channels must be whole blocks and at most 1024", quantized_channels, x.channels()};
    if constexpr (std::is_same_v<D, std::int8_t>) {
        if (!plan.fits(to.scales))
            return {"the scales must have the pages of the plan", plan.pages(), to.scales.shape.pages};
        if (to.scales.shape.heads != x.heads())
            return {"the scales must have the heads of the source", x.heads(), to.scales.shape.heads};
    }
    return {};
}

}  // namespace ROPEWALK_NAMESPACE::detail
