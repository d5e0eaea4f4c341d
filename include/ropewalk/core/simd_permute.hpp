// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Permutations of the lanes of registers: swaps, interleaving and orders known at run time only.
// They are written with intrinsics, because xsimd's zip has another meaning from version 10 on than before.
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

/// Lane from(i) of x in lane i, for architectures that have no branch of their own below.
template <class C, class IndexOf>
ROPEWALK_ALWAYS_INLINE pack<C> permuted(pack<C> x, [[maybe_unused]] IndexOf from) noexcept {
#if defined(ROPEWALK_DETAIL_VECTORS)
    constexpr IndexOf at{};
    if constexpr (sizeof(C) == 4) {
        return {__builtin_shufflevector(x.lane, x.lane, at(0), at(1), at(2), at(3))};
    } else {
        return {__builtin_shufflevector(x.lane, x.lane, at(0), at(1))};
    }
#else
    C in[lanes<C>], out[lanes<C>];
    store(in, x);
    for (index i = 0; i < lanes<C>; ++i) out[i] = in[from(i)];
    return load(static_cast<const C*>(out));
#endif
}

/// Lanes (x1, x0, x3, x2, ...).
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> swap_pairs(pack<C> x) noexcept {
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        return pack<C>(_mm512_permute_ps(x, 0xb1));
    } else {
        return pack<C>(_mm512_permute_pd(x, 0x55));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (is_float) {
        return pack<C>(_mm256_permute_ps(x, 0xb1));
    } else {
        return pack<C>(_mm256_permute_pd(x, 0x5));
    }
#elif defined(ROPEWALK_DETAIL_X86_128)
    if constexpr (is_float) {
        return pack<C>(_mm_shuffle_ps(x, x, 0xb1));
    } else {
        return pack<C>(_mm_shuffle_pd(x, x, 0x1));
    }
#elif defined(ROPEWALK_DETAIL_NEON)
    if constexpr (is_float) {
        return pack<C>(vrev64q_f32(x));
    } else {
        return pack<C>(vextq_f64(x, x, 1));
    }
#else
    (void)is_float;
    return permuted(x, [](index i) { return i ^ 1; });
#endif
}

/// Lanes (x2, x3, x0, x1, x6, ...): neighbouring pairs are swapped. For registers of at least 4 lanes.
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> swap_by_two(pack<C> x) noexcept {
    static_assert(lanes<C> >= 4);
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        return pack<C>(_mm512_permute_ps(x, 0x4e));
    } else {
        return pack<C>(_mm512_shuffle_f64x2(x, x, 0xb1));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (is_float) {
        return pack<C>(_mm256_permute_ps(x, 0x4e));
    } else {
        return pack<C>(_mm256_permute2f128_pd(x, x, 0x01));
    }
#elif defined(ROPEWALK_DETAIL_X86_128)
    static_assert(is_float);
    return pack<C>(_mm_shuffle_ps(x, x, 0x4e));
#elif defined(ROPEWALK_DETAIL_NEON)
    static_assert(is_float);
    return pack<C>(vextq_f32(x, x, 2));
#else
    (void)is_float;
    return permuted(x, [](index i) { return i ^ 2; });
#endif
}
/// Lanes (x4 .. x7, x0 .. x3, ...): neighbouring groups of four are swapped. For registers of at least 8
/// lanes.
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> swap_by_four(pack<C> x) noexcept {
    static_assert(lanes<C> >= 8);
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        return pack<C>(_mm512_shuffle_f32x4(x, x, 0xb1));
    } else {
        return pack<C>(_mm512_shuffle_f64x2(x, x, 0x4e));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    static_assert(is_float);
    return pack<C>(_mm256_permute2f128_ps(x, x, 0x01));
#else
    (void)is_float;
    return permuted(x, [](index i) { return i ^ 4; });
#endif
}

/// Each lane of the lower half twice: (x0, x0, x1, x1, ...).
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> duplicate_low(pack<C> x) noexcept {
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        return pack<C>(
            _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), x));
    } else {
        return pack<C>(_mm512_permutexvar_pd(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), x));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (is_float) {
        return pack<C>(_mm256_permute2f128_ps(_mm256_unpacklo_ps(x, x), _mm256_unpackhi_ps(x, x), 0x20));
    } else {
        return pack<C>(_mm256_permute2f128_pd(_mm256_unpacklo_pd(x, x), _mm256_unpackhi_pd(x, x), 0x20));
    }
#elif defined(ROPEWALK_DETAIL_X86_128)
    if constexpr (is_float) {
        return pack<C>(_mm_unpacklo_ps(x, x));
    } else {
        return pack<C>(_mm_unpacklo_pd(x, x));
    }
#elif defined(ROPEWALK_DETAIL_NEON)
    if constexpr (is_float) {
        return pack<C>(vzip1q_f32(x, x));
    } else {
        return pack<C>(vzip1q_f64(x, x));
    }
#else
    (void)is_float;
    return permuted(x, [](index i) { return i / 2; });
#endif
}

/// Each lane of the upper half twice.
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> duplicate_high(pack<C> x) noexcept {
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        return pack<C>(_mm512_permutexvar_ps(
            _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), x));
    } else {
        return pack<C>(_mm512_permutexvar_pd(_mm512_setr_epi64(4, 4, 5, 5, 6, 6, 7, 7), x));
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (is_float) {
        return pack<C>(_mm256_permute2f128_ps(_mm256_unpacklo_ps(x, x), _mm256_unpackhi_ps(x, x), 0x31));
    } else {
        return pack<C>(_mm256_permute2f128_pd(_mm256_unpacklo_pd(x, x), _mm256_unpackhi_pd(x, x), 0x31));
    }
#elif defined(ROPEWALK_DETAIL_X86_128)
    if constexpr (is_float) {
        return pack<C>(_mm_unpackhi_ps(x, x));
    } else {
        return pack<C>(_mm_unpackhi_pd(x, x));
    }
#elif defined(ROPEWALK_DETAIL_NEON)
    if constexpr (is_float) {
        return pack<C>(vzip2q_f32(x, x));
    } else {
        return pack<C>(vzip2q_f64(x, x));
    }
#else
    (void)is_float;
    return permuted(x, [](index i) { return lanes<C> / 2 + i / 2; });
#endif
}

/// (-x0, x1, -x2, x3, ...).
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> negate_even(pack<C> x) noexcept {
    alignas(64) static constexpr C signs[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    static_assert(lanes<C> <= 16);
    return x * load(signs);
}

template <class C>
ROPEWALK_ALWAYS_INLINE auto even_lanes() noexcept {
    return negate_even(broadcast(C(1))) == broadcast(C(-1));
}
/// (x0, y0, x1, y1, ...) from the lower half of the lanes, and from the upper half.
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> interleave_low(pack<C> x, pack<C> y) noexcept {
    return choose(even_lanes<C>(), duplicate_low(x), duplicate_low(y));
}
template <class C>
ROPEWALK_ALWAYS_INLINE pack<C> interleave_high(pack<C> x, pack<C> y) noexcept {
    return choose(even_lanes<C>(), duplicate_high(x), duplicate_high(y));
}

/// The even lanes of x and then of y, and the odd lanes: the inverse of interleave_low and interleave_high.
template <class C>
ROPEWALK_ALWAYS_INLINE two_packs<C> deinterleave(pack<C> x, pack<C> y) noexcept {
    constexpr bool is_float = sizeof(C) == 4;
#if defined(ROPEWALK_DETAIL_X86_512)
    if constexpr (is_float) {
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        return {pack<C>(_mm512_permutex2var_ps(x, even, y)), pack<C>(_mm512_permutex2var_ps(x, odd, y))};
    } else {
        const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
        const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
        return {pack<C>(_mm512_permutex2var_pd(x, even, y)), pack<C>(_mm512_permutex2var_pd(x, odd, y))};
    }
#elif defined(ROPEWALK_DETAIL_X86_256)
    if constexpr (is_float) {
        const __m256 low = _mm256_permute2f128_ps(x, y, 0x20), high = _mm256_permute2f128_ps(x, y, 0x31);
        return {pack<C>(_mm256_shuffle_ps(low, high, 0x88)), pack<C>(_mm256_shuffle_ps(low, high, 0xdd))};
    } else {
        const __m256d low = _mm256_permute2f128_pd(x, y, 0x20), high = _mm256_permute2f128_pd(x, y, 0x31);
        return {pack<C>(_mm256_unpacklo_pd(low, high)), pack<C>(_mm256_unpackhi_pd(low, high))};
    }
#elif defined(ROPEWALK_DETAIL_X86_128)
    if constexpr (is_float) {
        return {pack<C>(_mm_shuffle_ps(x, y, 0x88)), pack<C>(_mm_shuffle_ps(x, y, 0xdd))};
    } else {
        return {pack<C>(_mm_unpacklo_pd(x, y)), pack<C>(_mm_unpackhi_pd(x, y))};
    }
#elif defined(ROPEWALK_DETAIL_NEON)
    if constexpr (is_float) {
        return {pack<C>(vuzp1q_f32(x, y)), pack<C>(vuzp2q_f32(x, y))};
    } else {
        return {pack<C>(vuzp1q_f64(x, y)), pack<C>(vuzp2q_f64(x, y))};
    }
#elif defined(ROPEWALK_DETAIL_VECTORS)
    if constexpr (is_float) {
        return {{__builtin_shufflevector(x.lane, y.lane, 0, 2, 4, 6)},
                {__builtin_shufflevector(x.lane, y.lane, 1, 3, 5, 7)}};
    } else {
        return {{__builtin_shufflevector(x.lane, y.lane, 0, 2)},
                {__builtin_shufflevector(x.lane, y.lane, 1, 3)}};
    }
#else
    (void)is_float;
    C in[2 * lanes<C>], even[lanes<C>], odd[lanes<C>];
    store(in, x);
    store(in + lanes<C>, y);
    for (index i = 0; i < lanes<C>; ++i) even[i] = in[2 * i], odd[i] = in[2 * i + 1];
    return {load(static_cast<const C*>(even)), load(static_cast<const C*>(odd))};
#endif
}

/// A permutation known at run time only: lane i of the result is lane from(i) of x or, if from(i) is at least
/// lanes<C>, lane from(i) - lanes<C> of y.
template <class C>
class lane_order {
  public:
    template <class IndexOf>
    ROPEWALK_ALWAYS_INLINE explicit lane_order(IndexOf from) noexcept {
        constexpr index n = lanes<C>;
#if defined(ROPEWALK_DETAIL_X86_512)
        using word = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>;
        alignas(64) word places[static_cast<std::size_t>(n)];
        for (index i = 0; i < n; ++i) places[i] = static_cast<word>(from(i));
        from_ = _mm512_load_si512(places);
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
        // Eight words, two for each double. Bit 3 selects the register and is moved to the sign bit for the
        // blend.
        constexpr index words = sizeof(C) / 4;
        alignas(32) std::int32_t places[8];
        for (index i = 0; i < n; ++i)
            for (index w = 0; w < words; ++w)
                places[i * words + w] = static_cast<std::int32_t>(from(i) * words + w);
        from_ = _mm256_load_si256(reinterpret_cast<const __m256i*>(places));
#elif defined(ROPEWALK_DETAIL_NEON)
        constexpr index bytes = sizeof(C);
        std::uint8_t places[16];
        for (index i = 0; i < n; ++i)
            for (index b = 0; b < bytes; ++b)
                places[i * bytes + b] = static_cast<std::uint8_t>(from(i) * bytes + b);
        from_ = vld1q_u8(places);
#else
        for (index i = 0; i < n; ++i) from_[i] = from(i);
#endif
    }

    ROPEWALK_ALWAYS_INLINE pack<C> of(pack<C> x, pack<C> y) const noexcept {
#if defined(ROPEWALK_DETAIL_X86_512)
        if constexpr (sizeof(C) == 4)
            return pack<C>(_mm512_permutex2var_ps(x, from_, y));
        else
            return pack<C>(_mm512_permutex2var_pd(x, from_, y));
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
        const auto either = [this](__m256 of_x, __m256 of_y) ROPEWALK_DETAIL_INLINE_LAMBDA {
            return _mm256_blendv_ps(_mm256_permutevar8x32_ps(of_x, from_),
                                    _mm256_permutevar8x32_ps(of_y, from_),
                                    _mm256_castsi256_ps(_mm256_slli_epi32(from_, 28)));
        };
        if constexpr (sizeof(C) == 4)
            return pack<C>(either(x, y));
        else
            return pack<C>(_mm256_castps_pd(either(_mm256_castpd_ps(x), _mm256_castpd_ps(y))));
#elif defined(ROPEWALK_DETAIL_NEON)
        if constexpr (sizeof(C) == 4) {
            const uint8x16x2_t both = {{vreinterpretq_u8_f32(x), vreinterpretq_u8_f32(y)}};
            return pack<C>(vreinterpretq_f32_u8(vqtbl2q_u8(both, from_)));
        } else {
            const uint8x16x2_t both = {{vreinterpretq_u8_f64(x), vreinterpretq_u8_f64(y)}};
            return pack<C>(vreinterpretq_f64_u8(vqtbl2q_u8(both, from_)));
        }
#else
        C in[2 * lanes<C>], out[lanes<C>];
        store(in, x);
        store(in + lanes<C>, y);
        for (index i = 0; i < lanes<C>; ++i) out[i] = in[from_[i]];
        return load(static_cast<const C*>(out));
#endif
    }

  private:
#if defined(ROPEWALK_DETAIL_X86_512)
    __m512i from_;
#elif defined(ROPEWALK_DETAIL_X86_256) && defined(__AVX2__)
    __m256i from_;
#elif defined(ROPEWALK_DETAIL_NEON)
    uint8x16_t from_;
#else
    index from_[lanes<C>];
#endif
};

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
