// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>

/// What the inner loops hold: the heads of a token, its row of cos and sin in registers or in a copy in L1,
/// and how many registers are in flight beside it. Source: design of this library.

namespace ROPEWALK_NAMESPACE::detail {

/// The heads of one token of one tensor.
template <class T>
struct token_heads {
    T* base;
    index stride;
    index heads;

    token_heads at_channel(index c) const noexcept { return {base + c, stride, heads}; }
    token_heads only(index h) const noexcept { return {base + h * stride, stride, 1}; }
};

/// Factors on the row as it is loaded: (1, 1) turns, (1, -1) is the transpose, (1/m^2, -1/m^2) the inverse.
template <class C>
struct row_factors {
    C cos = 1;
    C sin = 1;
};

/// A row that stands in memory, and what every kind of row offers: registers of cos and sin, factors on.
template <class C>
struct row_in_memory {
    using element = C;
    const C* cos = nullptr;
    const C* sin = nullptr;
    row_factors<C> factors = {};

    explicit operator bool() const noexcept { return cos != nullptr; }  // null: the token is not touched
    row_in_memory times(row_factors<C> f) const noexcept { return {cos, sin, f}; }
    row_in_memory from(index pair) const noexcept { return {cos + pair, sin + pair, factors}; }
    ROPEWALK_ALWAYS_INLINE void load(index i, simd::pack<C>& c, simd::pack<C>& s) const noexcept {
        c = simd::load(cos + i) * simd::broadcast(factors.cos);
        s = simd::load(sin + i) * simd::broadcast(factors.sin);
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index count, simd::pack<C>& c,
                                          simd::pack<C>& s) const noexcept {
        c = simd::load_some(cos + i, count) * simd::broadcast(factors.cos);
        s = simd::load_some(sin + i, count) * simd::broadcast(factors.sin);
    }
};

// Registers a row of cos and sin may occupy, and registers of data in flight beside it: AVX-512 and NEON
// have 32 in all, the others 16. (AVX-512, f32 half-split, one at a time 1.21, 1.28 and 1.09 of the roof at
// 1, 512 and 4096 tokens, four 1.38, 1.34 and 1.16; 16-bit data the other way round, their conversions pack
// two.)
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_NEON)
inline constexpr std::size_t half_vectors = 8;
template <class T>
inline constexpr std::size_t half_in_flight = sizeof(T) == 4 ? 1 : 4;
inline constexpr std::size_t interleaved_units = 4;
inline constexpr std::size_t interleaved_in_flight = 8;
#else
inline constexpr std::size_t half_vectors = 4;
template <class T>
inline constexpr std::size_t half_in_flight = 2;
inline constexpr std::size_t interleaved_units = 2;
inline constexpr std::size_t interleaved_in_flight = 4;
#endif

/// Which loop runs outside when a row is wider than its registers. `registers`: each is loaded once for all
/// heads. `heads`: the row comes from a copy in L1 and every head is read once from end to end, for data past
/// the caches: the hardware's prefetchers do not follow parts of heads. (AVX2, f32: `heads` 1.1 and 1.1 of
/// the roof at 4096 tokens, half-split and interleaved, `registers` 2.0 and 2.3; in L1 1.4 and 1.8
/// against 1.15 and 1.26.)
enum class outer_loop { registers, heads };

/// Pairs of a row copied at a time, and registers of data in flight beside it.
inline constexpr index copied_pairs = 128;
inline constexpr std::size_t copied_in_flight = 4;

template <class C>
struct copied_row {
    static constexpr index step = static_cast<index>(copied_in_flight) * simd::lanes<C>;
    alignas(64) C cos[2 * copied_pairs];
    alignas(64) C sin[2 * copied_pairs];

    simd::pack<C> cos_register(index i, std::size_t k) const noexcept {
        return simd::load(cos + i + static_cast<index>(k) * simd::lanes<C>);
    }
    simd::pack<C> sin_register(index i, std::size_t k) const noexcept {
        return simd::load(sin + i + static_cast<index>(k) * simd::lanes<C>);
    }
    /// Calls f(first, count) for the parts of a row the copy holds one after the other, whole steps each;
    /// returns the first pair left over.
    template <class F>
    ROPEWALK_ALWAYS_INLINE static index in_parts(index pairs, F f) noexcept {
        index i = 0;
        while (pairs - i >= step) {
            const index count = std::min(copied_pairs, (pairs - i) / step * step);
            f(i, count);
            i += count;
        }
        return i;
    }
    template <class Row>
    ROPEWALK_ALWAYS_INLINE void take(Row row, index first, index pairs) noexcept {
        for (index i = 0; i < pairs; i += simd::lanes<C>) {
            simd::pack<C> c, s;
            row.load(first + i, c, s);
            simd::store(cos + i, c);
            simd::store(sin + i, s);
        }
    }
    /// One cos and one signed sin for every channel: c c, -s s.
    template <class Row>
    ROPEWALK_ALWAYS_INLINE void take_channels(Row row, index first, index pairs) noexcept {
        constexpr index n = simd::lanes<C>;
        for (index i = 0; i < pairs; i += n) {
            simd::pack<C> c, s;
            row.load(first + i, c, s);
            simd::store(cos + 2 * i, simd::duplicate_low(c));
            simd::store(cos + 2 * i + n, simd::duplicate_high(c));
            simd::store(sin + 2 * i, simd::negate_even(simd::duplicate_low(s)));
            simd::store(sin + 2 * i + n, simd::negate_even(simd::duplicate_high(s)));
        }
    }
};

/// K registers to neighbours; 16-bit data two at a time, because their conversions pack two.
template <std::size_t K, class T, class Of>
ROPEWALK_ALWAYS_INLINE void store_registers(T* p, Of of) noexcept {
    constexpr index n = simd::lanes<compute_t<T>>;
    if constexpr (sizeof(T) == 2 && K % 2 == 0) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; k += 2)
            simd::store_two(p + static_cast<index>(k) * n, of(k), of(k + 1));
    } else {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; ++k) simd::store(p + static_cast<index>(k) * n, of(k));
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
