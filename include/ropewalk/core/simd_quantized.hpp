// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Registers of floats stored as 8-bit floats or int8 codes, and their largest magnitudes.
// Source: see quantized_types.hpp; Intel and Arm instruction references.
#pragma once

#include <algorithm>

#include <ropewalk/core/quantized_types.hpp>
#include <ropewalk/core/simd_storage.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

#if defined(ROPEWALK_DETAIL_X86_512) || (defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)) || \
    defined(ROPEWALK_DETAIL_X86_128) || defined(ROPEWALK_DETAIL_NEON)
#define ROPEWALK_DETAIL_WORDS 1
#endif

namespace ROPEWALK_NAMESPACE::simd {

#if defined(ROPEWALK_DETAIL_WORDS)

/// The bits of lanes<float> floats, with the operations that the conversions below need. All values that are
/// compared or packed are below 2^31.
#if defined(ROPEWALK_DETAIL_X86_512)
struct words {
    __m512i v;
    static words of(pack<float> x) noexcept { return {_mm512_castps_si512(x)}; }
    static words all(std::uint32_t u) noexcept { return {_mm512_set1_epi32(static_cast<int>(u))}; }
    pack<float> floats() const noexcept { return pack<float>(_mm512_castsi512_ps(v)); }
    friend words operator&(words a, words b) noexcept { return {_mm512_and_si512(a.v, b.v)}; }
    friend words operator|(words a, words b) noexcept { return {_mm512_or_si512(a.v, b.v)}; }
    friend words operator+(words a, words b) noexcept { return {_mm512_add_epi32(a.v, b.v)}; }
    friend words operator-(words a, words b) noexcept { return {_mm512_sub_epi32(a.v, b.v)}; }
    template <int N>
    words right() const noexcept {
        return {_mm512_srli_epi32(v, N)};
    }
    /// a > b ? x : y
    static words above(words a, words b, words x, words y) noexcept {
        return {_mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(a.v, b.v), y.v, x.v)};
    }
    void store_bytes(void* p) const noexcept {
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
    }
    static words nearest(pack<float> x) noexcept { return {_mm512_cvtps_epi32(x)}; }
};
#elif defined(ROPEWALK_DETAIL_X86_256)
struct words {
    __m256i v;
    static words of(pack<float> x) noexcept { return {_mm256_castps_si256(x)}; }
    static words all(std::uint32_t u) noexcept { return {_mm256_set1_epi32(static_cast<int>(u))}; }
    pack<float> floats() const noexcept { return pack<float>(_mm256_castsi256_ps(v)); }
    friend words operator&(words a, words b) noexcept { return {_mm256_and_si256(a.v, b.v)}; }
    friend words operator|(words a, words b) noexcept { return {_mm256_or_si256(a.v, b.v)}; }
    friend words operator+(words a, words b) noexcept { return {_mm256_add_epi32(a.v, b.v)}; }
    friend words operator-(words a, words b) noexcept { return {_mm256_sub_epi32(a.v, b.v)}; }
    template <int N>
    words right() const noexcept {
        return {_mm256_srli_epi32(v, N)};
    }
    static words above(words a, words b, words x, words y) noexcept {
        return {_mm256_blendv_epi8(y.v, x.v, _mm256_cmpgt_epi32(a.v, b.v))};
    }
    void store_bytes(void* p) const noexcept {
        const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xff));
        const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi16(w, w));
    }
    static words nearest(pack<float> x) noexcept { return {_mm256_cvtps_epi32(x)}; }
};
#elif defined(ROPEWALK_DETAIL_X86_128)
struct words {
    __m128i v;
    static words of(pack<float> x) noexcept { return {_mm_castps_si128(x)}; }
    static words all(std::uint32_t u) noexcept { return {_mm_set1_epi32(static_cast<int>(u))}; }
    pack<float> floats() const noexcept { return pack<float>(_mm_castsi128_ps(v)); }
    friend words operator&(words a, words b) noexcept { return {_mm_and_si128(a.v, b.v)}; }
    friend words operator|(words a, words b) noexcept { return {_mm_or_si128(a.v, b.v)}; }
    friend words operator+(words a, words b) noexcept { return {_mm_add_epi32(a.v, b.v)}; }
    friend words operator-(words a, words b) noexcept { return {_mm_sub_epi32(a.v, b.v)}; }
    template <int N>
    words right() const noexcept {
        return {_mm_srli_epi32(v, N)};
    }
    static words above(words a, words b, words x, words y) noexcept {
        const __m128i m = _mm_cmpgt_epi32(a.v, b.v);
        return {_mm_or_si128(_mm_and_si128(m, x.v), _mm_andnot_si128(m, y.v))};
    }
    void store_bytes(void* p) const noexcept {
        const __m128i low = _mm_and_si128(v, _mm_set1_epi32(0xff));
        const __m128i w = _mm_packs_epi32(low, low);
        const int four = _mm_cvtsi128_si32(_mm_packus_epi16(w, w));
        std::memcpy(p, &four, 4);
    }
    static words nearest(pack<float> x) noexcept { return {_mm_cvtps_epi32(x)}; }
};
#else
struct words {
    uint32x4_t v;
    static words of(pack<float> x) noexcept { return {vreinterpretq_u32_f32(x)}; }
    static words all(std::uint32_t u) noexcept { return {vdupq_n_u32(u)}; }
    pack<float> floats() const noexcept { return pack<float>(vreinterpretq_f32_u32(v)); }
    friend words operator&(words a, words b) noexcept { return {vandq_u32(a.v, b.v)}; }
    friend words operator|(words a, words b) noexcept { return {vorrq_u32(a.v, b.v)}; }
    friend words operator+(words a, words b) noexcept { return {vaddq_u32(a.v, b.v)}; }
    friend words operator-(words a, words b) noexcept { return {vsubq_u32(a.v, b.v)}; }
    template <int N>
    words right() const noexcept {
        return {vshrq_n_u32(v, N)};
    }
    static words above(words a, words b, words x, words y) noexcept {
        return {vbslq_u32(vcgtq_u32(a.v, b.v), x.v, y.v)};
    }
    void store_bytes(void* p) const noexcept {
        const uint16x4_t w = vmovn_u32(v);
        const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(w, w))), 0);
        std::memcpy(p, &four, 4);
    }
    static words nearest(pack<float> x) noexcept { return {vreinterpretq_u32_s32(vcvtnq_s32_f32(x))}; }
};
#endif

#endif

/// Stores lanes<float> floats as 8-bit floats: rounded to nearest even, saturated.
template <int Mantissa>
ROPEWALK_ALWAYS_INLINE void store(f8<Mantissa>* p, pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_WORDS)
    using traits = typename f8<Mantissa>::traits;
    constexpr int shift = static_cast<int>(traits::shift);
    const words u = words::of(x);
    const words a = u & words::all(0x7fffffffu);
    const words largest = words::all(traits::largest);
    const words clamped = words::above(a, largest, largest, a);
    const words normal = (clamped - words::all(traits::rebias - ((1u << (shift - 1)) - 1u)) +
                          (clamped.template right<shift>() & words::all(1)))
                             .template right<shift>();
    // The sign was cleared as an integer, so no compiler can fuse the caller's product into this sum.
    const words subnormal =
        words::of(clamped.floats() + broadcast(traits::ruler)) - words::of(broadcast(traits::ruler));
    words code = words::above(words::all(traits::least_normal), clamped, subnormal, normal);
    code = words::above(a, words::all(0x7f800000u), words::all(traits::nan), code);
    (code | (u.template right<24>() & words::all(0x80u))).store_bytes(p);
#else
    float lane[lanes<float>];
    store(lane, x);
    for (index i = 0; i < lanes<float>; ++i) p[i] = f8<Mantissa>(lane[i]);
#endif
}

/// Stores lanes<float> floats within +-127.5 as integers, rounded to nearest even.
ROPEWALK_ALWAYS_INLINE void store(std::int8_t* p, pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_WORDS)
    words::nearest(x).store_bytes(p);
#else
    float lane[lanes<float>];
    store(lane, x);
    for (index i = 0; i < lanes<float>; ++i) p[i] = static_cast<std::int8_t>(std::nearbyint(lane[i]));
#endif
}

/// Stores the first `count` lanes as bytes; nothing past them is written.
template <class Q>
ROPEWALK_ALWAYS_INLINE void store_some_bytes(Q* p, pack<float> x, index count) noexcept {
    Q padded[lanes<float>];
    store(padded, x);
    std::memcpy(static_cast<void*>(p), padded, static_cast<std::size_t>(count));
}

/// The larger magnitude, lane by lane. Magnitudes are compared as bits: infinity is above all numbers and NaN
/// above infinity, also under -ffast-math. `largest` holds magnitudes.
ROPEWALK_ALWAYS_INLINE pack<float> larger_magnitude(pack<float> largest, pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_WORDS)
    const words a = words::of(largest);
    const words b = words::of(x) & words::all(0x7fffffffu);
#if defined(ROPEWALK_DETAIL_X86_512)
    return words{_mm512_max_epi32(a.v, b.v)}.floats();
#elif defined(ROPEWALK_DETAIL_X86_256)
    return words{_mm256_max_epi32(a.v, b.v)}.floats();
#else
    return words::above(a, b, a, b).floats();
#endif
#else
    float a[lanes<float>], b[lanes<float>];
    store(a, largest), store(b, x);
    for (index i = 0; i < lanes<float>; ++i) {
        const std::uint32_t m = std::bit_cast<std::uint32_t>(b[i]) & 0x7fffffffu;
        if (m > std::bit_cast<std::uint32_t>(a[i])) a[i] = std::bit_cast<float>(m);
    }
    return load(static_cast<const float*>(a));
#endif
}
/// The bits of the largest of lanes<float> magnitudes.
ROPEWALK_ALWAYS_INLINE std::uint32_t largest_magnitude(pack<float> magnitudes) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return _mm512_reduce_max_epu32(_mm512_castps_si512(magnitudes));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m256i v = _mm256_castps_si256(magnitudes);
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
#elif defined(ROPEWALK_DETAIL_NEON)
    return vmaxvq_u32(vreinterpretq_u32_f32(magnitudes));
#else
    float lane[lanes<float>];
    store(lane, magnitudes);
    std::uint32_t bits[lanes<float>];
    std::memcpy(bits, lane, sizeof bits);
    std::uint32_t largest = 0;
    for (const std::uint32_t b : bits) largest = std::max(largest, b);
    return largest;
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
