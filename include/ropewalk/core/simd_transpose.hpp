// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Transposition of a square block of registers.
#pragma once

#include <cstddef>

#include <ropewalk/core/simd_permute.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"        // GCC 12's own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // as above
#endif

namespace ROPEWALK_NAMESPACE::simd {

/// interleave_low and interleave_high of one pair of registers, each as a single permutation where there is
/// one.
template <class C>
ROPEWALK_ALWAYS_INLINE two_packs<C> woven(pack<C> x, pack<C> y) noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (sizeof(C) == 4) {
        const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        return {pack<C>(_mm512_permutex2var_ps(x, low, y)), pack<C>(_mm512_permutex2var_ps(x, high, y))};
    } else {
        const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
        return {pack<C>(_mm512_permutex2var_pd(x, low, y)), pack<C>(_mm512_permutex2var_pd(x, high, y))};
    }
#else
    return {interleave_low(x, y), interleave_high(x, y)};
#endif
}

/// Transposes a square of lanes<C> registers: lane j of register i becomes lane i of register j.
/// Cost:   n log2 n permutations for n registers.
/// Source: the perfect shuffle, Stone 1971.
template <class C>
ROPEWALK_ALWAYS_INLINE void transpose(pack<C> (&x)[std::size_t{lanes<C>}]) noexcept {
    constexpr std::size_t n = lanes<C>;
    // The stages too: a loop of them would keep both squares in memory.
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t stage = 1; stage < n; stage *= 2) {
        pack<C> y[n];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t i = 0; i < n / 2; ++i) {
            const two_packs<C> both = woven(x[i], x[i + n / 2]);
            y[2 * i] = both.first;
            y[2 * i + 1] = both.second;
        }
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t i = 0; i < n; ++i) x[i] = y[i];
    }
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
