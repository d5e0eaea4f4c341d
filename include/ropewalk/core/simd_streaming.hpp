// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstdint>

#include <ropewalk/core/simd_storage.hpp>

/// Stores around the caches.
/// Source: Intel's and AMD's optimisation guides, non-temporal stores.

namespace ROPEWALK_NAMESPACE::simd {

/// K registers to neighbours past the caches, for what nobody reads before it has left them anyway; plain stores
/// where the registers of the target do not start at their own size, or the instruction set has none of the kind.
/// Requires: store_fence before another thread may look.
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
/// The same of f16, from registers of floats, in pieces of 16 bytes: ggml's tensors begin at multiples of those.
template <std::size_t K>
ROPEWALK_ALWAYS_INLINE void store_past_caches(f16* p, const pack<float> (&x)[K]) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) || (defined(ROPEWALK_DETAIL_X86_256) && defined(__F16C__))
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
/// Orders what store_past_caches wrote before later writes.
ROPEWALK_ALWAYS_INLINE void store_fence() noexcept {
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_X86_256) || defined(ROPEWALK_DETAIL_X86_128)
    _mm_sfence();
#endif
}

}  // namespace ROPEWALK_NAMESPACE::simd
