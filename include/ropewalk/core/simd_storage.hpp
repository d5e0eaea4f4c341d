// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Loads and stores of whole or partial registers for every element type: f64, f32, f16, bf16.
// Source: IEEE 754-2019, round to nearest even; Intel and Arm instruction references.
#pragma once

#include <ropewalk/core/simd.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

namespace ROPEWALK_NAMESPACE::simd {

#if defined(ROPEWALK_DETAIL_VECTORS)
typedef std::uint32_t four_words __attribute__((vector_size(16)));
typedef std::uint16_t four_halves __attribute__((vector_size(8)));
/// The shift of a word's first 16-bit number to its upper half; the shift of the second is 16 minus it.
inline constexpr int first_number = std::endian::native == std::endian::little ? 16 : 0;
/// The upper half of each word, rounded to nearest even. Requires: as store_two.
ROPEWALK_ALWAYS_INLINE four_words rounded(four_words u) noexcept { return u + ((u >> 16) & 1u) + 0x7fffu; }
#endif

#if defined(ROPEWALK_DETAIL_X86_512)
/// Converts 16 numbers of 16 bits to floats, exactly, and back, rounded as store rounds.
template <class T>
ROPEWALK_ALWAYS_INLINE pack<float> widened(__m256i w) noexcept {
    if constexpr (std::is_same_v<T, f16>)
        return pack<float>(_mm512_cvtph_ps(w));
    else
        return pack<float>(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16)));
}
template <class T>
ROPEWALK_ALWAYS_INLINE __m256i narrowed(pack<float> x) noexcept {
    if constexpr (std::is_same_v<T, f16>) {
        return _mm512_cvtps_ph(x, 0x8);
    } else {
#if defined(__AVX512BF16__)
        const __m256bh r = _mm512_cvtneps_pbh(x);
        __m256i words;
        std::memcpy(&words, &r, sizeof words);
        return words;
#else
        const __m512i u = _mm512_castps_si512(x);
        const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
        const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
#endif
    }
}
#endif

/// Loads lanes<float> 16-bit numbers as floats, exactly.
ROPEWALK_ALWAYS_INLINE pack<float> load(const bf16* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return widened<bf16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return pack<float>(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(w), 16)));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const __m128i w = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return pack<float>(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), w)));
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<float>(
        vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p)), 16)));
#elif defined(ROPEWALK_DETAIL_VECTORS)
    four_halves w;
    std::memcpy(&w, static_cast<const void*>(p), sizeof w);
    return {(pack<float>::register_type)(__builtin_convertvector(w, four_words) << 16)};
#else
    float lane[lanes<float>];
    for (index i = 0; i < lanes<float>; ++i) lane[i] = static_cast<float>(p[i]);
    return load(static_cast<const float*>(lane));
#endif
}
ROPEWALK_ALWAYS_INLINE pack<float> load(const f16* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return widened<f16>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(ROPEWALK_DETAIL_F16C)
    return pack<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<float>(
        vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p)))));
#else
    float lane[lanes<float>];
    for (index i = 0; i < lanes<float>; ++i) lane[i] = static_cast<float>(p[i]);
    return load(static_cast<const float*>(lane));
#endif
}

/// Stores lanes<float> floats as 16-bit numbers: rounded to nearest even, NaN stays NaN, f16 overflows to
/// infinity. With AVX512_BF16 the conversion instruction is used, which flushes results below 2^-126 to zero.
ROPEWALK_ALWAYS_INLINE void store(bf16* p, pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed<bf16>(x));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m256i u = _mm256_castps_si256(x);
    const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, _mm256_castps_si256(nan)), 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(r));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const __m128i u = _mm_castps_si128(x);
    const __m128i lsb = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
    __m128i r = _mm_add_epi32(u, _mm_add_epi32(lsb, _mm_set1_epi32(0x7fff)));
    const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
    const __m128i quiet = _mm_or_si128(u, _mm_set1_epi32(0x400000));
    r = _mm_or_si128(_mm_and_si128(nan, quiet), _mm_andnot_si128(nan, r));
    r = _mm_srai_epi32(r, 16);  // sign-extended, so that the saturating pack keeps all bits
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(r, r));
#elif defined(ROPEWALK_DETAIL_NEON)
    const uint32x4_t u = vreinterpretq_u32_f32(x);
    const uint32x4_t lsb = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t r = vaddq_u32(u, vaddq_u32(lsb, vdupq_n_u32(0x7fff)));
    const uint32x4_t number = vceqq_f32(x, x);
    const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000));
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vshrn_n_u32(vbslq_u32(number, r, quiet), 16));
#elif defined(ROPEWALK_DETAIL_VECTORS)
    const auto u = (four_words)(x.lane);
    const auto nan = (four_words)((u & 0x7fffffffu) > 0x7f800000u);
    const four_words number = (nan & (u | 0x400000u)) | (~nan & rounded(u));
    const four_halves w = __builtin_convertvector(number >> 16, four_halves);
    std::memcpy(static_cast<void*>(p), &w, sizeof w);
#else
    float lane[lanes<float>];
    store(lane, x);
    for (index i = 0; i < lanes<float>; ++i) p[i] = bf16(lane[i]);
#endif
}
ROPEWALK_ALWAYS_INLINE void store(f16* p, pack<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed<f16>(x));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(ROPEWALK_DETAIL_F16C)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, 0x8));
#elif defined(ROPEWALK_DETAIL_NEON)
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(x)));
#else
    float lane[lanes<float>];
    store(lane, x);
    for (index i = 0; i < lanes<float>; ++i) p[i] = f16(lane[i]);
#endif
}

/// Prefetches the cache line at p for reading and writing. Any address is allowed.
ROPEWALK_ALWAYS_INLINE void prefetch(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 1);
#else
    (void)p;
#endif
}

/// The same for reading only: other cores keep their copies of the line.
ROPEWALK_ALWAYS_INLINE void prefetch_read(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0);
#else
    (void)p;
#endif
}

/// Stores two registers as 2 * lanes adjacent numbers. Requires (bf16): every NaN among the lanes has a zero
/// low half, as NaNs computed from bf16 operands have. Rounding any other NaN could carry into the exponent
/// or sign. store(bf16*) accepts every NaN.
template <class T>
ROPEWALK_ALWAYS_INLINE void store_two(T* p, pack<compute_t<T>> low, pack<compute_t<T>> high) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512BF16__)
        const __m512bh r = _mm512_cvtne2ps_pbh(high, low);
        std::memcpy(static_cast<void*>(p), &r, sizeof r);
#else
        const auto rounded = [](__m512i u) {
            const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
            return _mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
        };
        alignas(64) static constexpr std::uint16_t upper_halves[32] = {
            1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
            33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
        const __m512i words =
            _mm512_permutex2var_epi16(rounded(_mm512_castps_si512(low)), _mm512_load_si512(upper_halves),
                                      rounded(_mm512_castps_si512(high)));
        _mm512_storeu_si512(p, words);
#endif
        return;
    }
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    if constexpr (std::is_same_v<T, bf16>) {
        const auto rounded = [](__m256i u) {
            const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
            return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff))),
                                     16);
        };
        const __m256i words =
            _mm256_packus_epi32(rounded(_mm256_castps_si256(low)), rounded(_mm256_castps_si256(high)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
        return;
    }
#endif
    store(p, low);
    store(p + lanes<compute_t<T>>, high);
}
/// Stores K registers as adjacent numbers, in pairs by store_two if Twos says that its requirement holds.
template <bool Twos, std::size_t K, class T, class P>
ROPEWALK_ALWAYS_INLINE void store(T* p, const P (&x)[K]) noexcept {
    constexpr index n = lanes<compute_t<T>>;
    if constexpr (Twos && K % 2 == 0) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; k += 2) store_two(p + static_cast<index>(k) * n, x[k], x[k + 1]);
    } else {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; ++k) store(p + static_cast<index>(k) * n, x[k]);
    }
}

/// Whether two 16-bit numbers of this type are read as one 32-bit word: the number at the even index is the
/// lower half of the word, the one at the odd index its upper half. For bf16 each becomes a float by a mask
/// or a shift, without a permutation.
template <class T>
#if defined(ROPEWALK_DETAIL_X86_512) || (defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)) || \
    defined(ROPEWALK_DETAIL_X86_128) || defined(ROPEWALK_DETAIL_NEON) || defined(ROPEWALK_DETAIL_VECTORS)
inline constexpr bool read_as_words = std::is_same_v<T, bf16>;
#else
inline constexpr bool read_as_words = false;
#endif

/// Loads 2 * lanes adjacent numbers as floats, exactly: those at even indices and those at odd indices.
ROPEWALK_ALWAYS_INLINE two_packs<float> load_words([[maybe_unused]] const bf16* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    __m512i w = _mm512_loadu_si512(p);
#if defined(__GNUC__) || defined(__clang__)
    asm("" : "+v"(w));  // one read for both halves
#endif
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {pack<float>(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))),
            pack<float>(_mm512_castsi512_ps(_mm512_and_si512(w, upper)))};
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {pack<float>(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16))),
            pack<float>(_mm256_castsi256_ps(_mm256_and_si256(w, upper)))};
#elif defined(ROPEWALK_DETAIL_X86_128)
    const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i upper = _mm_set1_epi32(static_cast<int>(0xffff0000u));
    return {pack<float>(_mm_castsi128_ps(_mm_slli_epi32(w, 16))),
            pack<float>(_mm_castsi128_ps(_mm_and_si128(w, upper)))};
#elif defined(ROPEWALK_DETAIL_NEON)
    const uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const std::uint16_t*>(p)));
    return {pack<float>(vreinterpretq_f32_u32(vshlq_n_u32(w, 16))),
            pack<float>(vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000u))))};
#elif defined(ROPEWALK_DETAIL_VECTORS)
    four_words w;
    std::memcpy(&w, static_cast<const void*>(p), sizeof w);
    return {{(pack<float>::register_type)((w << first_number) & 0xffff0000u)},
            {(pack<float>::register_type)((w << (16 - first_number)) & 0xffff0000u)}};
#else
    return {broadcast(0.0f), broadcast(0.0f)};
#endif
}

/// The inverse: stores both, rounded to nearest even. Requires: as store_two.
ROPEWALK_ALWAYS_INLINE void store_words([[maybe_unused]] bf16* p,
                                        [[maybe_unused]] two_packs<float> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) && defined(__AVX512BF16__)
    // One conversion of both registers and one permutation of 16-bit numbers (bf16 half-split, 40 heads of
    // 128: 227 ns; with two conversions and blends 340 ns).
    alignas(64) static constexpr std::uint16_t woven[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh r = _mm512_cvtne2ps_pbh(x.second, x.first);
    __m512i words;
    std::memcpy(&words, &r, sizeof words);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(woven), words));
#elif defined(ROPEWALK_DETAIL_X86_512)
    const auto rounded = [](__m512i u) {
        const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        return _mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
    };
    const __m512i low = _mm512_srli_epi32(rounded(_mm512_castps_si512(x.first)), 16);
    const __m512i high = rounded(_mm512_castps_si512(x.second));
    _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaau, low, high));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const auto rounded = [](__m256i u) {
        const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        return _mm256_add_epi32(u, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
    };
    const __m256i low = _mm256_srli_epi32(rounded(_mm256_castps_si256(x.first)), 16);
    const __m256i high = rounded(_mm256_castps_si256(x.second));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_blend_epi16(low, high, 0xaa));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const auto rounded = [](__m128i u) {
        const __m128i lsb = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
        return _mm_add_epi32(u, _mm_add_epi32(lsb, _mm_set1_epi32(0x7fff)));
    };
    const __m128i upper = _mm_set1_epi32(static_cast<int>(0xffff0000u));
    const __m128i low = _mm_srli_epi32(rounded(_mm_castps_si128(x.first)), 16);
    const __m128i high = _mm_and_si128(rounded(_mm_castps_si128(x.second)), upper);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_or_si128(low, high));
#elif defined(ROPEWALK_DETAIL_NEON)
    const auto rounded = [](uint32x4_t u) {
        const uint32x4_t lsb = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
        return vaddq_u32(u, vaddq_u32(lsb, vdupq_n_u32(0x7fff)));
    };
    const uint32x4_t low = vshrq_n_u32(rounded(vreinterpretq_u32_f32(x.first)), 16);
    const uint32x4_t high = rounded(vreinterpretq_u32_f32(x.second));
    vst1q_u16(reinterpret_cast<std::uint16_t*>(p),
              vreinterpretq_u16_u32(vbslq_u32(vdupq_n_u32(0xffff0000u), high, low)));
#elif defined(ROPEWALK_DETAIL_VECTORS)
    const four_words a = rounded((four_words)(x.first.lane)) & 0xffff0000u;
    const four_words b = rounded((four_words)(x.second.lane)) & 0xffff0000u;
    const four_words w = (a >> first_number) | (b >> (16 - first_number));
    std::memcpy(static_cast<void*>(p), &w, sizeof w);
#endif
}

#if defined(ROPEWALK_DETAIL_X86_512)
/// A bit mask with one bit for each of the first `count` lanes.
ROPEWALK_ALWAYS_INLINE unsigned first_lanes(index count) noexcept { return (1u << count) - 1u; }
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
/// All bits set in each of the first `count` lanes of `Bytes` bytes.
template <std::size_t Bytes>
ROPEWALK_ALWAYS_INLINE __m256i first_lanes(index count) noexcept {
    if constexpr (Bytes == 4)
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                  _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    else
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
#endif

/// Loads the first `count` lanes, the other lanes are zero; nothing past the first `count` is read. Uses
/// masked loads where the instruction set has them (16-bit rows of 40 pairs in L1, AVX-512: 4 times as long
/// as a plain pass instead of 21 times with a padded copy).
template <class T>
ROPEWALK_ALWAYS_INLINE auto load_some(const T* p, index count) noexcept {
    using C = compute_t<T>;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (std::is_same_v<T, float>)
        return pack<C>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(first_lanes(count)), p));
    else if constexpr (std::is_same_v<T, double>)
        return pack<C>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(count)), p));
    else
        return widened<T>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first_lanes(count)), p));
#else
#if defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>)
        return pack<C>(_mm256_maskload_ps(p, first_lanes<4>(count)));
    else if constexpr (std::is_same_v<T, double>)
        return pack<C>(_mm256_maskload_pd(p, first_lanes<8>(count)));
    else
#endif
    {
        T padded[lanes<C>];
        std::memset(static_cast<void*>(padded), 0, sizeof padded);
        std::memcpy(static_cast<void*>(padded), p, static_cast<std::size_t>(count) * sizeof(T));
        return load(static_cast<const T*>(padded));
    }
#endif
}
/// Stores the first `count` lanes; nothing past them is written.
template <class T>
ROPEWALK_ALWAYS_INLINE void store_some(T* p, pack<compute_t<T>> x, index count) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (std::is_same_v<T, float>)
        _mm512_mask_storeu_ps(p, static_cast<__mmask16>(first_lanes(count)), x);
    else if constexpr (std::is_same_v<T, double>)
        _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first_lanes(count)), x);
    else
        _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(first_lanes(count)), narrowed<T>(x));
#else
#if defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>)
        _mm256_maskstore_ps(p, first_lanes<4>(count), x);
    else if constexpr (std::is_same_v<T, double>)
        _mm256_maskstore_pd(p, first_lanes<8>(count), x);
    else
#endif
    {
        T padded[lanes<compute_t<T>>];
        store(padded, x);
        std::memcpy(static_cast<void*>(p), padded, static_cast<std::size_t>(count) * sizeof(T));
    }
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
