// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Non-temporal stores: registers written to memory without filling the caches.
// Source: Intel's and AMD's optimisation guides, non-temporal stores.
#pragma once

#include <cstdint>

#include <ropewalk/core/simd_storage.hpp>

namespace ROPEWALK_NAMESPACE::simd {

/// Stores K registers as adjacent numbers, bypassing the caches. It is for data that would leave the caches
/// before anyone reads it. Plain stores are used where the target is not aligned to the size of a register,
/// or the instruction set has no such store.
/// Requires: store_fence before another thread may read.
template <std::size_t K, class C>
ROPEWALK_ALWAYS_INLINE void store_past_caches(C* p, const pack<C> (&x)[K]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_X86_256) || defined(ROPEWALK_DETAIL_X86_128)
    if (reinterpret_cast<std::uintptr_t>(p) % sizeof(pack<C>) == 0) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; ++k) {
            C* const to = p + static_cast<index>(k) * lanes<C>;
#if defined(ROPEWALK_DETAIL_X86_512)
            if constexpr (sizeof(C) == 4)
                _mm512_stream_ps(to, x[k]);
            else
                _mm512_stream_pd(to, x[k]);
#elif defined(ROPEWALK_DETAIL_X86_256)
            if constexpr (sizeof(C) == 4)
                _mm256_stream_ps(to, x[k]);
            else
                _mm256_stream_pd(to, x[k]);
#else
            if constexpr (sizeof(C) == 4)
                _mm_stream_ps(to, x[k]);
            else
                _mm_stream_pd(to, x[k]);
#endif
        }
        return;
    }
#endif
    store<false>(p, x);
}
/// The same for f16, from registers of floats, by stores of 16 bytes, to which ggml aligns its tensors.
template <std::size_t K>
ROPEWALK_ALWAYS_INLINE void store_past_caches(f16* p, const pack<float> (&x)[K]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) || (defined(ROPEWALK_DETAIL_X86_256) && defined(ROPEWALK_DETAIL_F16C))
    if (reinterpret_cast<std::uintptr_t>(p) % 16 == 0) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; ++k) {
            auto* const to = reinterpret_cast<__m128i*>(p + static_cast<index>(k) * lanes<float>);
#if defined(ROPEWALK_DETAIL_X86_512)
            const __m256i words = narrowed<f16>(x[k]);
            _mm_stream_si128(to, _mm256_castsi256_si128(words));
            _mm_stream_si128(to + 1, _mm256_extracti128_si256(words, 1));
#else
            _mm_stream_si128(to, _mm256_cvtps_ph(x[k], 0x8));
#endif
        }
        return;
    }
#endif
    store<false>(p, x);
}
/// Orders the stores of store_past_caches before later stores.
ROPEWALK_ALWAYS_INLINE void store_fence() noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_X86_256) || defined(ROPEWALK_DETAIL_X86_128)
    _mm_sfence();
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd
