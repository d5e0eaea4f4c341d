// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// exp for softmax on registers: the exponential of numbers that are not positive.
#pragma once

#include <cmath>
#include <limits>

#include <ropewalk/core/simd.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

namespace ROPEWALK_NAMESPACE::simd {

/// x * 2^n for whole n. The result must be normal: 2^n is built in the exponent field.
ROPEWALK_ALWAYS_INLINE pack<float> scaled_by_power(pack<float> x, pack<float> n) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<float>(_mm512_scalef_ps(x, n));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return x * pack<float>(_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const __m128i exponent = _mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127));
    return x * pack<float>(_mm_castsi128_ps(_mm_slli_epi32(exponent, 23)));
#elif defined(ROPEWALK_DETAIL_NEON)
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return x * pack<float>(vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
#else
    float value[lanes<float>], power[lanes<float>];
    store(value, x);
    store(power, n);
    // A NaN cannot be converted to a whole number; it stays in `value`.
    for (index i = 0; i < lanes<float>; ++i)
        if (power[i] >= -126.f && power[i] <= 127.f)
            value[i] = std::ldexp(value[i], static_cast<int>(power[i]));
    return load(static_cast<const float*>(value));
#endif
}
ROPEWALK_ALWAYS_INLINE pack<double> scaled_by_power(pack<double> x, pack<double> n) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<double>(_mm512_scalef_pd(x, n));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    const __m256i whole = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n));
    const __m256i exponent = _mm256_add_epi64(whole, _mm256_set1_epi64x(1023));
    return x * pack<double>(_mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52)));
#elif defined(ROPEWALK_DETAIL_X86_128)
    const __m128i exponent = _mm_add_epi32(_mm_cvtpd_epi32(n), _mm_set1_epi32(1023));
    const __m128i wide = _mm_unpacklo_epi32(exponent, _mm_setzero_si128());
    return x * pack<double>(_mm_castsi128_pd(_mm_slli_epi64(wide, 52)));
#elif defined(ROPEWALK_DETAIL_NEON)
    const int64x2_t exponent = vaddq_s64(vcvtq_s64_f64(n), vdupq_n_s64(1023));
    return x * pack<double>(vreinterpretq_f64_s64(vshlq_n_s64(exponent, 52)));
#else
    double value[lanes<double>], power[lanes<double>];
    store(value, x);
    store(power, n);
    for (index i = 0; i < lanes<double>; ++i)
        if (power[i] >= -1022. && power[i] <= 1023.)
            value[i] = std::ldexp(value[i], static_cast<int>(power[i]));
    return load(static_cast<const double*>(value));
#endif
}

template <class C, std::size_t N>
ROPEWALK_ALWAYS_INLINE pack<C> polynomial(const C (&coefficient)[N], pack<C> x) noexcept {
    pack<C> y = broadcast(coefficient[0]);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t i = 1; i < N; ++i) y = fma(y, x, broadcast(coefficient[i]));
    return y;
}

/// exp(x) for softmax, where x is a score minus the largest score.
/// Requires: x <= 0 (or above 0 by a few ulp), -infinity or NaN.
/// Accuracy: relative error at most 2e-7 in f32 and 5e-16 in f64. exp(0) is exactly 1. Results below the
///           smallest normal number are 0. NaN gives NaN.
/// Source:   argument reduction by multiples of ln 2 in two parts, Cody and Waite 1980.
ROPEWALK_ALWAYS_INLINE pack<float> exp_of_negative(pack<float> x) noexcept {
    constexpr float least = -87.33654f;  // ln 2^-126
    const pack<float> n = nearest(x * broadcast(1.44269504f));
    pack<float> r = fma(n, broadcast(-0.693359375f), x);
    r = fma(n, broadcast(2.12194440e-4f), r);
    constexpr float taylor[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
    const pack<float> y = scaled_by_power(polynomial(taylor, r), n);
    return choose(x < broadcast(least), broadcast(0.f), y);
}
ROPEWALK_ALWAYS_INLINE pack<double> exp_of_negative(pack<double> x) noexcept {
    constexpr double least = -708.3964185322641;  // ln 2^-1022
    const pack<double> n = nearest(x * broadcast(1.4426950408889634));
    pack<double> r = fma(n, broadcast(-0.693145751953125), x);
    r = fma(n, broadcast(-1.42860682030941723212e-6), r);
    constexpr double taylor[] = {
        1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040,
        1. / 720,        1. / 120,       1. / 24,       1. / 6,       0.5,         1.,         1.};
    const pack<double> y = scaled_by_power(polynomial(taylor, r), n);
    return choose(x < broadcast(least), broadcast(0.), y);
}

/// The larger of two, lane by lane; b where either is a NaN.
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> larger(pack<C> a, pack<C> b) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (sizeof(C) == 4)
        return pack<C>(_mm512_max_ps(a, b));
    else
        return pack<C>(_mm512_max_pd(a, b));
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (sizeof(C) == 4)
        return pack<C>(_mm256_max_ps(a, b));
    else
        return pack<C>(_mm256_max_pd(a, b));
#elif defined(ROPEWALK_DETAIL_X86_128)
    if constexpr (sizeof(C) == 4)
        return pack<C>(_mm_max_ps(a, b));
    else
        return pack<C>(_mm_max_pd(a, b));
#else
    return choose(b < a, a, b);
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
