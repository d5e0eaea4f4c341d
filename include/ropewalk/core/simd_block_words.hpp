// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The operations on bytes and 32-bit words that simd_blocks.hpp needs, one version for each instruction set.
// Source: Intel and Arm instruction references.
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

namespace ROPEWALK_NAMESPACE::simd::blocks {

/// Numbers of the smallest block.
inline constexpr index step = 32;
inline constexpr std::size_t step_registers = static_cast<std::size_t>(step / lanes<float>);

#if defined(ROPEWALK_DETAIL_WORDS)

/// lanes<float> bytes as 32-bit words, and signed words as floats.
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
/// Truncates numbers within 2^31 to integers.
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
/// The larger of two signed words, lane by lane.
ROPEWALK_ALWAYS_INLINE words larger(words a, words b) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return {_mm512_max_epi32(a.v, b.v)};
#elif defined(ROPEWALK_DETAIL_X86_256)
    return {_mm256_max_epi32(a.v, b.v)};
#elif defined(ROPEWALK_DETAIL_X86_128)
#if defined(ROPEWALK_DETAIL_SSE4_1)
    return {_mm_max_epi32(a.v, b.v)};
#else
    return words::above(a, b, a, b);
#endif
#else
    return {vreinterpretq_u32_s32(vmaxq_s32(vreinterpretq_s32_u32(a.v), vreinterpretq_s32_u32(b.v)))};
#endif
}

/// Stores 32 signed words that fit into a byte each: 32 bytes.
ROPEWALK_ALWAYS_INLINE void store_signed(void* p, const words (&w)[step_registers]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    w[0].store_bytes(p);
    w[1].store_bytes(static_cast<char*>(p) + 16);
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
/// The same for two blocks of 32, to two addresses: their 512-bit registers are narrowed together.
ROPEWALK_ALWAYS_INLINE void store_signed(void* p, const words (&w)[step_registers], void* q,
                                         const words (&v)[step_registers]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    const __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(w[0].v, w[1].v), _mm512_packs_epi32(v[0].v, v[1].v));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i in_order = _mm512_permutexvar_epi32(order, bytes);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_castsi512_si256(in_order));
    _mm256_storeu_si256(static_cast<__m256i*>(q), _mm512_extracti64x4_epi64(in_order, 1));
#else
    store_signed(p, w);
    store_signed(q, v);
#endif
}
/// Stores 16 words below 256: 16 bytes.
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

/// The largest lane of each of four registers of magnitudes, stored as four floats. Lanes of two registers
/// are joined before they are compared, so that one comparison serves both.
ROPEWALK_ALWAYS_INLINE void store_largest(float* p, const words (&m)[4]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    const auto joined = [](__m512i a, __m512i b) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
    };
    const __m512i a = joined(m[0].v, m[1].v), b = joined(m[2].v, m[3].v);
    // From here each quarter of the register belongs to one block; later each lane.
    __m512i all = _mm512_max_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    all = _mm512_max_epi32(all, _mm512_shuffle_epi32(all, static_cast<_MM_PERM_ENUM>(0x4e)));
    all = _mm512_max_epi32(all, _mm512_shuffle_epi32(all, static_cast<_MM_PERM_ENUM>(0xb1)));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i in_order = _mm512_permutexvar_epi32(order, all);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(in_order));
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
    const __m128i each = _mm_max_epi32(_mm_castps_si128(_mm_shuffle_ps(low, high, 0x88)),
                                       _mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi32(each, 0xd8));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const auto joined = [](words x, words y) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return larger(words{_mm_unpacklo_epi32(x.v, y.v)}, words{_mm_unpackhi_epi32(x.v, y.v)}).v;
    };
    const __m128i a = joined(m[0], m[1]), b = joined(m[2], m[3]);
    const words all = larger(words{_mm_unpacklo_epi64(a, b)}, words{_mm_unpackhi_epi64(a, b)});
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), all.v);
#else
    const uint32x4_t all = vpmaxq_u32(vpmaxq_u32(m[0].v, m[1].v), vpmaxq_u32(m[2].v, m[3].v));
    vst1q_f32(p, vreinterpretq_f32_u32(all));
#endif
}

/// a / b, correctly rounded. xsimd 8.1 divides by an estimate of 1 / b on NEON.
ROPEWALK_ALWAYS_INLINE pack<float> divided(pack<float> a, pack<float> b) noexcept {
#if defined(ROPEWALK_DETAIL_NEON)
    return pack<float>(vdivq_f32(a, b));
#else
    return a / b;
#endif
}

/// v + 0.49999997 with the sign of v.
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
