// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Sums over the lanes of registers in a fixed order, so that every call gives the same bits.
// Source: Intel and Arm instruction references.
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

#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_X86_256) || defined(ROPEWALK_DETAIL_X86_128)
ROPEWALK_ALWAYS_INLINE float sum_128(__m128 x) noexcept {
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
ROPEWALK_ALWAYS_INLINE double sum_128(__m128d x) noexcept {
    return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
}
#endif
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_X86_256)
ROPEWALK_ALWAYS_INLINE float sum_256(__m256 x) noexcept {
    return sum_128(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
ROPEWALK_ALWAYS_INLINE double sum_256(__m256d x) noexcept {
    return sum_128(_mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1)));
}
#endif
/// The sum of all lanes, always in the same order: the halves of the register are added, then their halves.
template <class C>
ROPEWALK_ALWAYS_INLINE C sum_lanes(pack<C> x) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (sizeof(C) == 4) {
        const __m512 v = x;
        const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
        return static_cast<C>(sum_256(_mm256_add_ps(_mm512_castps512_ps256(v), high)));
    } else {
        const __m512d v = x;
        return static_cast<C>(
            sum_256(_mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1))));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    return static_cast<C>(sum_256(x));
#elif defined(ROPEWALK_DETAIL_X86_128)
    return static_cast<C>(sum_128(x));
#elif defined(ROPEWALK_DETAIL_NEON)
    if constexpr (sizeof(C) == 4) {
        const float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
        return static_cast<C>(vget_lane_f32(two, 0) + vget_lane_f32(two, 1));
    } else {
        return static_cast<C>(vgetq_lane_f64(x, 0) + vgetq_lane_f64(x, 1));
    }
#else
    C lane[lanes<C>];
    store(lane, x);
    for (index width = lanes<C> / 2; width > 0; width /= 2)
        for (index i = 0; i < width; ++i) lane[i] += lane[i + width];
    return lane[0];
#endif
}

/// The sums of four registers at once, each with the bits of sum_lanes.
template <class C>
ROPEWALK_ALWAYS_INLINE void sum_lanes_of_four(const pack<C> (&x)[4], C* sums) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (sizeof(C) == 4) {
        const __m512 a = x[0], b = x[1], c = x[2], d = x[3];
        const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
        __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
        all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4e));
        all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xb1));
        const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, all)));
        return;
    }
#endif
    for (std::size_t r = 0; r < 4; ++r) sums[r] = sum_lanes(x[r]);
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
