// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstring>

#include <ropewalk/core/block_types.hpp>
#include <ropewalk/core/simd_quantized.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

/// What simd_blocks.hpp needs of an instruction set: bytes to words and back, four floats, the largest lanes
/// of four registers. Source: Intel and Arm instruction references.

namespace ROPEWALK_NAMESPACE::simd::blocks {

/// Numbers of the least block.
inline constexpr index step = 32;
inline constexpr std::size_t step_registers = static_cast<std::size_t>(step / lanes<float>);

#if defined(ROPEWALK_DETAIL_WORDS)

/// lanes<float> bytes as words, and words (signed) as floats.
ROPEWALK_ALWAYS_INLINE words unsigned_bytes(const void* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)))};
#else
    std::uint32_t four = 0;
    std::memcpy(&four, p, 4);
#if defined(ROPEWALK_DETAIL_X86_128)
    const __m128i zero = _mm_setzero_si128();
    const __m128i v = _mm_cvtsi32_si128(static_cast<int>(four));
    return {_mm_unpacklo_epi16(_mm_unpacklo_epi8(v, zero), zero)};
#else
    return {vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))))};
#endif
#endif
}
ROPEWALK_ALWAYS_INLINE words signed_bytes(const void* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)))};
#else
    std::uint32_t four = 0;
    std::memcpy(&four, p, 4);
#if defined(ROPEWALK_DETAIL_X86_128)
    __m128i v = _mm_cvtsi32_si128(static_cast<int>(four));
    v = _mm_unpacklo_epi8(v, v);
    return {_mm_srai_epi32(_mm_unpacklo_epi16(v, v), 24)};  // each byte four times in its word
#else
    const int8x8_t v = vreinterpret_s8_u32(vdup_n_u32(four));
    return {vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(vmovl_s8(v))))};
#endif
#endif
}
ROPEWALK_ALWAYS_INLINE pack<float> floats(words w) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<float>(_mm512_cvtepi32_ps(w.v));
#elif defined(ROPEWALK_DETAIL_X86_256)
    return pack<float>(_mm256_cvtepi32_ps(w.v));
#elif defined(ROPEWALK_DETAIL_X86_128)
    return pack<float>(_mm_cvtepi32_ps(w.v));
#else
    return pack<float>(vcvtq_f32_s32(vreinterpretq_s32_u32(w.v)));
#endif
}
/// Numbers within 2^31 without what follows the point.
ROPEWALK_ALWAYS_INLINE words truncated(pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_cvttps_epi32(x)};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_cvttps_epi32(x)};
#elif defined(ROPEWALK_DETAIL_X86_128)
    return {_mm_cvttps_epi32(x)};
#else
    return {vreinterpretq_u32_s32(vcvtq_s32_f32(x))};
#endif
}
template <int N>
ROPEWALK_ALWAYS_INLINE words left(words w) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_slli_epi32(w.v, N)};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_slli_epi32(w.v, N)};
#elif defined(ROPEWALK_DETAIL_X86_128)
    return {_mm_slli_epi32(w.v, N)};
#else
    return {vshlq_n_u32(w.v, N)};
#endif
}
/// The larger of signed words.
ROPEWALK_ALWAYS_INLINE words larger(words a, words b) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_max_epi32(a.v, b.v)};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_max_epi32(a.v, b.v)};
#elif defined(ROPEWALK_DETAIL_X86_128)
#if defined(__SSE4_1__)
    return {_mm_max_epi32(a.v, b.v)};
#else
    return words::above(a, b, a, b);
#endif
#else
    return {vreinterpretq_u32_s32(vmaxq_s32(vreinterpretq_s32_u32(a.v), vreinterpretq_s32_u32(b.v)))};
#endif
}

/// Words within a byte, signed, of the registers of 32 numbers: 32 bytes.
ROPEWALK_ALWAYS_INLINE void store_signed(void* p, const words (&w)[step_registers]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
#if defined(__AVX512VBMI__)
    alignas(64) static constexpr std::uint8_t first_bytes[64] = {
        0,  4,  8,  12, 16, 20, 24, 28, 32, 36,  40,  44,  48,  52,  56,  60,
        64, 68, 72, 76, 80, 84, 88, 92, 96, 100, 104, 108, 112, 116, 120, 124};
    const __m512i bytes = _mm512_permutex2var_epi8(w[0].v, _mm512_load_si512(first_bytes), w[1].v);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_castsi512_si256(bytes));
#else
    w[0].store_bytes(p);
    w[1].store_bytes(static_cast<char*>(p) + 16);
#endif
#elif defined(ROPEWALK_DETAIL_X86_256)
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(w[0].v, w[1].v), _mm256_packs_epi32(w[2].v, w[3].v));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, order));
#elif defined(ROPEWALK_DETAIL_X86_128)
    for (int i = 0; i < 2; ++i)
        _mm_storeu_si128(static_cast<__m128i*>(p) + i,
                         _mm_packs_epi16(_mm_packs_epi32(w[4 * i].v, w[4 * i + 1].v),
                                         _mm_packs_epi32(w[4 * i + 2].v, w[4 * i + 3].v)));
#else
    for (int i = 0; i < 2; ++i) {
        const auto low = [&](int k) { return vreinterpretq_u16_u32(w[4 * i + k].v); };
        const uint8x16_t a = vreinterpretq_u8_u16(vuzp1q_u16(low(0), low(1)));
        const uint8x16_t b = vreinterpretq_u8_u16(vuzp1q_u16(low(2), low(3)));
        vst1q_u8(static_cast<std::uint8_t*>(p) + 16 * i, vuzp1q_u8(a, b));
    }
#endif
}
/// Words below 256 of the registers of 16 numbers: 16 bytes.
ROPEWALK_ALWAYS_INLINE void store_unsigned(void* p, const words (&w)[step_registers / 2]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    w[0].store_bytes(p);
#elif defined(ROPEWALK_DETAIL_X86_256)
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(w[0].v, w[1].v), 0xd8);
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
#elif defined(ROPEWALK_DETAIL_X86_128)
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm_packus_epi16(_mm_packs_epi32(w[0].v, w[1].v), _mm_packs_epi32(w[2].v, w[3].v)));
#else
    const auto low = [&](int k) { return vreinterpretq_u16_u32(w[k].v); };
    vst1q_u8(static_cast<std::uint8_t*>(p), vuzp1q_u8(vreinterpretq_u8_u16(vuzp1q_u16(low(0), low(1))),
                                                      vreinterpretq_u8_u16(vuzp1q_u16(low(2), low(3)))));
#endif
}

/// Four floats, one a block, as bits where they are compared.
#if defined(ROPEWALK_DETAIL_NEON)
struct four {
    float32x4_t v;
    static four all(float x) noexcept { return {vdupq_n_f32(x)}; }
    friend four operator/(four a, four b) noexcept { return {vdivq_f32(a.v, b.v)}; }
    friend four operator*(four a, four b) noexcept { return {vmulq_f32(a.v, b.v)}; }
    void store(float* p) const noexcept { vst1q_f32(p, v); }
};
ROPEWALK_ALWAYS_INLINE uint32x4_t bits_of(four x) noexcept { return vreinterpretq_u32_f32(x.v); }
/// Magnitudes: the larger; x where it is no less than `bits`, elsewhere zero; whether any is as large.
ROPEWALK_ALWAYS_INLINE four larger(four a, four b) noexcept {
    return {vreinterpretq_f32_u32(vmaxq_u32(bits_of(a), bits_of(b)))};
}
ROPEWALK_ALWAYS_INLINE four where_at_least(four x, std::uint32_t bits, four value) noexcept {
    const uint32x4_t m = vcgeq_u32(bits_of(x), vdupq_n_u32(bits));
    return {vreinterpretq_f32_u32(vandq_u32(m, bits_of(value)))};
}
ROPEWALK_ALWAYS_INLINE bool any_at_least(four x, std::uint32_t bits) noexcept {
    return vmaxvq_u32(bits_of(x)) >= bits;
}
/// a >= b ? a : -b of magnitudes.
ROPEWALK_ALWAYS_INLINE four larger_signed(four a, four b) noexcept {
    const uint32x4_t m = vcgeq_u32(bits_of(a), bits_of(b));
    return {vbslq_f32(m, a.v, vnegq_f32(b.v))};
}
/// Whether a and b are equal and not zero in one of them.
ROPEWALK_ALWAYS_INLINE bool any_tie(four a, four b) noexcept {
    const uint32x4_t m = vandq_u32(vceqq_u32(bits_of(a), bits_of(b)), vtstq_u32(bits_of(a), bits_of(a)));
    return vmaxvq_u32(m) != 0;
}
#else
struct four {
    __m128 v;
    static four all(float x) noexcept { return {_mm_set1_ps(x)}; }
    friend four operator/(four a, four b) noexcept { return {_mm_div_ps(a.v, b.v)}; }
    friend four operator*(four a, four b) noexcept { return {_mm_mul_ps(a.v, b.v)}; }
    void store(float* p) const noexcept { _mm_storeu_ps(p, v); }
};
ROPEWALK_ALWAYS_INLINE __m128i bits_of(four x) noexcept { return _mm_castps_si128(x.v); }
ROPEWALK_ALWAYS_INLINE __m128i above(four x, std::uint32_t bits) noexcept {
    return _mm_cmpgt_epi32(bits_of(x), _mm_set1_epi32(static_cast<int>(bits)));
}
/// Magnitudes: the larger; x where it is no less than `bits`, elsewhere zero; whether any is as large.
ROPEWALK_ALWAYS_INLINE four larger(four a, four b) noexcept {
#if defined(__SSE4_1__)
    return {_mm_castsi128_ps(_mm_max_epi32(bits_of(a), bits_of(b)))};
#else
    const __m128i m = _mm_cmpgt_epi32(bits_of(a), bits_of(b));
    return {_mm_castsi128_ps(_mm_or_si128(_mm_and_si128(m, bits_of(a)), _mm_andnot_si128(m, bits_of(b))))};
#endif
}
ROPEWALK_ALWAYS_INLINE four where_at_least(four x, std::uint32_t bits, four value) noexcept {
    return {_mm_castsi128_ps(_mm_and_si128(above(x, bits - 1), bits_of(value)))};
}
ROPEWALK_ALWAYS_INLINE bool any_at_least(four x, std::uint32_t bits) noexcept {
    return _mm_movemask_epi8(above(x, bits - 1)) != 0;
}
/// a >= b ? a : -b of magnitudes.
ROPEWALK_ALWAYS_INLINE four larger_signed(four a, four b) noexcept {
    const __m128i m = _mm_cmpgt_epi32(bits_of(b), bits_of(a));
    const __m128i sign = _mm_and_si128(m, _mm_set1_epi32(static_cast<int>(0x80000000u)));
    return {_mm_castsi128_ps(_mm_or_si128(bits_of(larger(a, b)), sign))};
}
/// Whether a and b are equal and not zero in one of them.
ROPEWALK_ALWAYS_INLINE bool any_tie(four a, four b) noexcept {
    const __m128i same = _mm_cmpeq_epi32(bits_of(a), bits_of(b));
    return _mm_movemask_epi8(_mm_andnot_si128(_mm_cmpeq_epi32(bits_of(a), _mm_setzero_si128()), same)) != 0;
}
#endif

/// Four f16, the first one lowest, and their values.
ROPEWALK_ALWAYS_INLINE std::uint64_t halves_of(four x) noexcept {
#if defined(ROPEWALK_DETAIL_NEON)
    return vget_lane_u64(vreinterpret_u64_f16(vcvt_f16_f32(x.v)), 0);
#elif defined(__F16C__) && defined(__x86_64__)
    return static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_cvtps_ph(x.v, 0x8)));
#else
    float number[4];
    x.store(number);
    std::uint64_t halves = 0;
    for (int i = 0; i < 4; ++i) halves |= static_cast<std::uint64_t>(f16(number[i]).bits) << (16 * i);
    return halves;
#endif
}
ROPEWALK_ALWAYS_INLINE four from_halves(std::uint64_t halves) noexcept {
#if defined(ROPEWALK_DETAIL_NEON)
    return {vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(halves)))};
#elif defined(__F16C__) && defined(__x86_64__)
    return {_mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<long long>(halves)))};
#else
    float number[4];
    for (int i = 0; i < 4; ++i)
        number[i] = static_cast<float>(f16::from_bits(static_cast<std::uint16_t>(halves >> (16 * i))));
    return {_mm_loadu_ps(number)};
#endif
}

/// The largest lane of each of four registers of magnitudes: lanes of two registers are joined before they
/// are compared, so that a comparison serves both.
ROPEWALK_ALWAYS_INLINE four largest_of_four(const words (&m)[4]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    const auto joined = [](__m512i a, __m512i b) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
    };
    const __m512i a = joined(m[0].v, m[1].v), b = joined(m[2].v, m[3].v);
    // A quarter of the register a block now, then a lane.
    __m512i all = _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    all = _mm512_max_epi32(all, _mm512_shuffle_epi32(all, static_cast<_MM_PERM_ENUM>(0x4e)));
    all = _mm512_max_epi32(all, _mm512_shuffle_epi32(all, static_cast<_MM_PERM_ENUM>(0xb1)));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return {_mm_castsi128_ps(_mm512_castsi512_si128(_mm512_permutexvar_epi32(order, all)))};
#elif defined(ROPEWALK_DETAIL_X86_256)
    const auto joined = [](__m256i a, __m256i b) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return _mm256_castsi256_ps(
            _mm256_max_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)));
    };
    const __m256 a = joined(m[0].v, m[1].v), b = joined(m[2].v, m[3].v);
    const __m256i all = _mm256_max_epi32(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)),
                                         _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)));
    const __m128 low = _mm_castsi128_ps(_mm256_castsi256_si128(all));  // blocks 0, 0, 2, 2
    const __m128 high = _mm_castsi128_ps(_mm256_extracti128_si256(all, 1));
    const four each = larger(four{_mm_shuffle_ps(low, high, 0x88)}, four{_mm_shuffle_ps(low, high, 0xdd)});
    return {_mm_shuffle_ps(each.v, each.v, 0xd8)};
#elif defined(ROPEWALK_DETAIL_X86_128)
    const auto joined = [](__m128i x, __m128i y) ROPEWALK_DETAIL_INLINE_LAMBDA {
        const __m128 a = _mm_castsi128_ps(x), b = _mm_castsi128_ps(y);
        return larger(four{_mm_unpacklo_ps(a, b)}, four{_mm_unpackhi_ps(a, b)}).v;
    };
    const __m128 a = joined(m[0].v, m[1].v), b = joined(m[2].v, m[3].v);
    return larger(four{_mm_movelh_ps(a, b)}, four{_mm_movehl_ps(b, a)});
#else
    return {vreinterpretq_f32_u32(vpmaxq_u32(vpmaxq_u32(m[0].v, m[1].v), vpmaxq_u32(m[2].v, m[3].v)))};
#endif
}

/// v + 0.49999997, with the sign of v.
ROPEWALK_ALWAYS_INLINE pack<float> half_further(pack<float> v) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    const __m512i half = _mm512_castps_si512(_mm512_set1_ps(detail::below_half));
    const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    const __m512i signed_half = _mm512_ternarylogic_epi32(_mm512_castps_si512(v), sign, half, 0xea);
    return v + pack<float>(_mm512_castsi512_ps(signed_half));
#else
    return v + ((words::of(v) & words::all(0x80000000u)) | words::of(broadcast(detail::below_half))).floats();
#endif
}

#endif

}  // namespace ROPEWALK_NAMESPACE::simd::blocks

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
