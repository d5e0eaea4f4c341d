// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Loads of f32 and f64 numbers into registers of f64.
#pragma once

#include <ropewalk/core/simd.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12's own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // the same
#endif

namespace ROPEWALK_NAMESPACE::simd {

/// lanes<double> numbers as doubles.
ROPEWALK_ALWAYS_INLINE pack<double> load_wide(const double* p) noexcept { return load(p); }
ROPEWALK_ALWAYS_INLINE pack<double> load_wide(const float* p) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    return pack<double>(_mm512_cvtps_pd(_mm256_loadu_ps(p)));
#elif defined(ROPEWALK_DETAIL_X86_256)
    return pack<double>(_mm256_cvtps_pd(_mm_loadu_ps(p)));
#elif defined(ROPEWALK_DETAIL_NEON)
    return pack<double>(vcvt_f64_f32(vld1_f32(p)));
#else
    double lane[lanes<double>];
    for (index i = 0; i < lanes<double>; ++i) lane[i] = static_cast<double>(p[i]);
    return load(static_cast<const double*>(lane));
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
