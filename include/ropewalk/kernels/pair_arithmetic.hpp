// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The arithmetic of a pair, and the loops that apply it to the heads of one token.
// The row of cos and sin stays in registers for all heads. Every layout computes each output as fma(x, c,
// rounded product). Therefore layouts agree bit for bit, up to the permutation of channels, and so do full
// and partial registers, all sources and all targets. The specification is rotate_reference.
#pragma once

#include <algorithm>

#include <ropewalk/kernels/head_places.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// (x, y) <- (x c - y s, x s + y c), first channels in one register, second ones in another.
template <class P>
ROPEWALK_ALWAYS_INLINE void rotate_pairs(P& x, P& y, P c, P s) noexcept {
    const P first = simd::fms(x, c, y * s);
    y = simd::fma(y, c, x * s);
    x = first;
}
/// The same for adjacent channels in one register; c holds each cos twice, s holds -sin and sin.
template <class P>
ROPEWALK_ALWAYS_INLINE P rotate_neighbours(P x, P c, P s) noexcept {
    return simd::fma(x, c, simd::swap_pairs(x) * s);
}

// Registers for the row of cos and sin, and registers of data in flight beside them: AVX-512 and NEON have 32
// in all, other instruction sets 16.
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_NEON)
inline constexpr std::size_t half_vectors = 8;
inline constexpr std::size_t half_in_flight = 4;
inline constexpr std::size_t interleaved_units = 4;
inline constexpr std::size_t interleaved_in_flight = 8;
#else
inline constexpr std::size_t half_vectors = 4;
inline constexpr std::size_t half_in_flight = 2;
inline constexpr std::size_t interleaved_units = 2;
inline constexpr std::size_t interleaved_in_flight = 4;
#endif

/// The outer loop for a row that is wider than its registers. `registers`: each part of the row is loaded
/// once for all heads. `heads`: the row is read from a copy in L1, and every head is read once from end to
/// end. This is for data larger than the caches, since hardware prefetchers do not follow parts of heads.
/// (AVX2, f32, half-split and interleaved, relative to a plain pass over the data: at 4096 tokens `heads` 1.1
/// and 1.1, `registers` 2.0 and 2.3; in L1 1.4 and 1.8 against 1.15 and 1.26.)
enum class outer_loop { registers, heads };

/// Pairs of a row that are copied at a time, and registers of data in flight beside them.
inline constexpr index copied_pairs = 128;
inline constexpr std::size_t copied_in_flight = 4;

/// A copy of a row in L1, in the order in which the loops use its registers.
template <class C>
struct copied_row {
    static constexpr index step = static_cast<index>(copied_in_flight) * simd::lanes<C>;
    alignas(64) C cos[2 * copied_pairs];
    alignas(64) C sin[2 * copied_pairs];
};

/// Registers of the row from pair `first` on. With Words, two consecutive ones hold the even and the odd
/// pairs.
template <std::size_t V, bool Words, class Row, class P>
ROPEWALK_ALWAYS_INLINE void load_row(const Row& row, index first, P (&c)[V], P (&s)[V]) noexcept {
    constexpr index n = static_cast<index>(P::size);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t v = 0; v < V; ++v) row.load(first + static_cast<index>(v) * n, c[v], s[v]);
    if constexpr (Words) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t v = 0; v + 1 < V; v += 2) {
            const auto cos = simd::deinterleave(c[v], c[v + 1]);
            const auto sin = simd::deinterleave(s[v], s[v + 1]);
            c[v] = cos.first, c[v + 1] = cos.second;
            s[v] = sin.first, s[v + 1] = sin.second;
        }
    }
}

/// K registers of pairs of one head, first channels at `first`, second ones `half` channels further. Both
/// streams are read into registers, then one is written, then the other.
template <std::size_t K, bool Words, class Place, class Head, class D, class P>
ROPEWALK_ALWAYS_INLINE void rotate_half(const Place& place, const Head& from, D* to, index first, index half,
                                        const P* c, const P* s) noexcept {
    using C = compute_t<D>;
    constexpr index n = static_cast<index>(P::size);
    // Each stream has its own address: sums of indices needed a register each and spilled (f32, one token of
    // 40 heads, AVX-512: 210 ns instead of 177 ns).
    const auto low = from.from(first), high = from.from(first + half);
    D *const to_low = to + first, *const to_high = to_low + half;
    P a[K], b[K];
    if constexpr (Words) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; k += 2) {
            const auto x = low.load_words(static_cast<index>(k) * n);
            const auto y = high.load_words(static_cast<index>(k) * n);
            a[k] = x.first, a[k + 1] = x.second, b[k] = y.first, b[k + 1] = y.second;
        }
    } else {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; ++k) {
            a[k] = simd::in_register<C>(low.load(static_cast<index>(k) * n));
            b[k] = simd::in_register<C>(high.load(static_cast<index>(k) * n));
        }
    }
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t k = 0; k < K; ++k) rotate_pairs(a[k], b[k], c[k], s[k]);
    if constexpr (Words) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; k += 2)
            simd::store_words(to_low + static_cast<index>(k) * n, {a[k], a[k + 1]});
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t k = 0; k < K; k += 2)
            simd::store_words(to_high + static_cast<index>(k) * n, {b[k], b[k + 1]});
    } else {
        place.store(to_low, a);
        place.store(to_high, b);
    }
}

/// Pairs [first, first + V registers) at (i, i + half) of every head, with the row in registers. Prefetching
/// the data 2 to 8 heads ahead only costs time, also past L2 (512 tokens: 1.3 to 2.5 times a plain pass over
/// the data, without it 1.2 to 1.7 times).
template <std::size_t V, class Row, class Tensors>
ROPEWALK_ALWAYS_INLINE void half_step(const Row& row, index first, index half, const Tensors& all) noexcept {
    using P = simd::pack<typename Row::element>;
    constexpr std::size_t K = V < half_in_flight ? V : half_in_flight;
    constexpr bool words = Tensors::words && V % 2 == 0;
    P c[V], s[V];
    load_row<V, words>(row, first, c, s);
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index h = 0; h < x.heads; ++h) {
            const auto from = x.source(h);
            auto* const to = x.to + h * x.to_stride;
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t v = 0; v < V; v += K)
                rotate_half<K, words && K % 2 == 0>(
                    x, from, to, first + static_cast<index>(v) * static_cast<index>(P::size), half, c + v,
                    s + v);
        }
    });
}
/// The same for `pairs` pairs, with the row from its copy.
template <bool Words, class Tensors, class C>
ROPEWALK_ALWAYS_INLINE void half_heads_copied(const Tensors& all, index first, index half, index pairs,
                                              const copied_row<C>& row) noexcept {
    constexpr std::size_t K = copied_in_flight;
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index h = 0; h < x.heads; ++h) {
            const auto from = x.source(h);
            auto* const to = x.to + h * x.to_stride;
            for (index i = 0; i < pairs; i += row.step) {
                simd::pack<C> c[K], s[K];
                ROPEWALK_DETAIL_UNROLL
                for (std::size_t k = 0; k < K; ++k) {
                    c[k] = simd::load(row.cos + i + static_cast<index>(k) * simd::lanes<C>);
                    s[k] = simd::load(row.sin + i + static_cast<index>(k) * simd::lanes<C>);
                }
                rotate_half<K, Words>(x, from, to, first + i, half, c, s);
            }
        }
    });
}
template <class Tensors, class P>
ROPEWALK_ALWAYS_INLINE void half_heads_some(const Tensors& all, index first, index half, index count, P c,
                                            P s) noexcept {
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index h = 0; h < x.heads; ++h) {
            const auto from = x.source(h);
            auto* const to = x.to + h * x.to_stride + first;
            P a = from.load_some(first, count), b = from.load_some(first + half, count);
            rotate_pairs(a, b, c, s);
            simd::store_some(to, a, count);
            simd::store_some(to + half, b, count);
        }
    });
}

/// V registers of channels of every head, pairs adjacent, with the row in registers.
template <std::size_t V, class Tensors, class P>
ROPEWALK_ALWAYS_INLINE void interleaved_heads(const Tensors& all, index channel, const P* c,
                                              const P* s) noexcept {
    constexpr index n = static_cast<index>(P::size);
    constexpr std::size_t K = V < interleaved_in_flight ? V : interleaved_in_flight;
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        using place = std::remove_cvref_t<decltype(x)>;
        using C = compute_t<typename place::element>;
        for (index h = 0; h < x.heads; ++h) {
            const auto from = x.source(h);
            auto* const to = x.to + h * x.to_stride;
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t v = 0; v < V; v += K) {
                const index at = channel + static_cast<index>(v) * n;
                P a[K];
                ROPEWALK_DETAIL_UNROLL
                for (std::size_t k = 0; k < K; ++k)
                    a[k] = simd::in_register<C>(from.load(at + static_cast<index>(k) * n));
                ROPEWALK_DETAIL_UNROLL
                for (std::size_t k = 0; k < K; ++k) a[k] = rotate_neighbours(a[k], c[v + k], s[v + k]);
                x.store(to + at, a);
            }
        }
    });
}
/// The same for words of two 16-bit numbers, which separate into first and second channels.
template <std::size_t V, class Tensors, class P>
ROPEWALK_ALWAYS_INLINE void word_heads(const Tensors& all, index channel, const P* c, const P* s) noexcept {
    constexpr index n = static_cast<index>(P::size);
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index h = 0; h < x.heads; ++h) {
            const auto from = x.source(h);
            auto* const to = x.to + h * x.to_stride;
            simd::two_packs<float> a[V];
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t v = 0; v < V; ++v)
                a[v] = from.load_words(channel + 2 * static_cast<index>(v) * n);
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t v = 0; v < V; ++v) rotate_pairs(a[v].first, a[v].second, c[v], s[v]);
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t v = 0; v < V; ++v)
                simd::store_words(to + channel + 2 * static_cast<index>(v) * n, a[v]);
        }
    });
}
template <class Tensors, class P>
ROPEWALK_ALWAYS_INLINE void interleaved_heads_some(const Tensors& all, index channel, index count, P c,
                                                   P s) noexcept {
    all.each([&](const auto& x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index h = 0; h < x.heads; ++h) {
            const P a = x.source(h).load_some(channel, count);
            simd::store_some(x.to + h * x.to_stride + channel, rotate_neighbours(a, c, s), count);
        }
    });
}

/// Spreads a register of pairs over two registers of channels: each cos twice, -sin and sin.
template <class P>
ROPEWALK_ALWAYS_INLINE void spread_over_channels(P c, P s, P* cos, P* sin) noexcept {
    cos[0] = simd::duplicate_low(c);
    cos[1] = simd::duplicate_high(c);
    sin[0] = simd::negate_even(simd::duplicate_low(s));
    sin[1] = simd::negate_even(simd::duplicate_high(s));
}

/// Pairs (i, i + half), i < pairs, of all heads of one token.
template <class Row, class Tensors>
ROPEWALK_ALWAYS_INLINE void rotate_half_span(outer_loop outer, const Row& row, index pairs, index half,
                                             const Tensors& x) noexcept {
    using C = typename Row::element;
    constexpr index n = simd::lanes<C>;
    constexpr bool words = Tensors::words;
    index i = 0;
    constexpr index widest = static_cast<index>(half_vectors) * n;
    if (outer == outer_loop::heads && pairs > widest) {
        copied_row<C> copy;
        while (pairs - i >= copy.step) {
            const index count = std::min(copied_pairs, (pairs - i) / copy.step * copy.step);
            for (index j = 0; j < count; j += 2 * n) {
                simd::pack<C> c[2], s[2];
                load_row<2, words>(row, i + j, c, s);
                simd::store(copy.cos + j, c[0]), simd::store(copy.cos + j + n, c[1]);
                simd::store(copy.sin + j, s[0]), simd::store(copy.sin + j + n, s[1]);
            }
            half_heads_copied<words>(x, i, half, count, copy);
            i += count;
        }
    }
    for (; i + widest <= pairs; i += widest) half_step<half_vectors>(row, i, half, x);
    if constexpr (half_vectors > 4)
        if (i + 4 * n <= pairs) {
            half_step<4>(row, i, half, x);
            i += 4 * n;
        }
    if (i + 2 * n <= pairs) {
        half_step<2>(row, i, half, x);
        i += 2 * n;
    }
    if (i + n <= pairs) {
        half_step<1>(row, i, half, x);
        i += n;
    }
    if (i < pairs) {
        simd::pack<C> c, s;
        row.load_some(i, pairs - i, c, s);
        half_heads_some(x, i, half, pairs - i, c, s);
    }
}

/// U registers of pairs = 2 U registers of channels.
template <std::size_t U, class Row, class Tensors>
ROPEWALK_ALWAYS_INLINE void interleaved_step(const Row& row, index first, const Tensors& x) noexcept {
    using P = simd::pack<typename Row::element>;
    P c[U], s[U];
    load_row<U, false>(row, first, c, s);
    if constexpr (Tensors::words) {
        word_heads<U>(x, 2 * first, c, s);
    } else {
        P cos[2 * U], sin[2 * U];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t u = 0; u < U; ++u) spread_over_channels(c[u], s[u], cos + 2 * u, sin + 2 * u);
        interleaved_heads<2 * U>(x, 2 * first, cos, sin);
    }
}

/// Pairs (2 i, 2 i + 1), i < pairs, of all heads of one token.
template <class Row, class Tensors>
ROPEWALK_ALWAYS_INLINE void rotate_interleaved_span(outer_loop outer, const Row& row, index pairs,
                                                    const Tensors& x) noexcept {
    using C = typename Row::element;
    using P = simd::pack<C>;
    constexpr index n = simd::lanes<C>;
    constexpr bool words = Tensors::words;
    constexpr std::size_t units = words ? half_in_flight : interleaved_units;
    constexpr index widest = static_cast<index>(units) * n;
    index i = 0;
    // Words are read from end to end of a head in pieces of `widest` pairs; other data use a copy of the row.
    if (outer == outer_loop::heads && pairs > widest) {
        copied_row<C> copy;
        while (pairs - i >= copy.step) {
            const index count = std::min(copied_pairs, (pairs - i) / copy.step * copy.step);
            for (index j = 0; j < count; j += n) {
                P c[1], s[1];
                load_row<1, false>(row, i + j, c, s);
                if constexpr (words) {
                    simd::store(copy.cos + j, c[0]), simd::store(copy.sin + j, s[0]);
                } else {
                    P cos[2], sin[2];
                    spread_over_channels(c[0], s[0], cos, sin);
                    simd::store(copy.cos + 2 * j, cos[0]), simd::store(copy.cos + 2 * j + n, cos[1]);
                    simd::store(copy.sin + 2 * j, sin[0]), simd::store(copy.sin + 2 * j + n, sin[1]);
                }
            }
            x.each([&](const auto& place) ROPEWALK_DETAIL_INLINE_LAMBDA {
                constexpr std::size_t K = copied_in_flight;
                for (index h = 0; h < place.heads; ++h)
                    for (index j = 0; j < (words ? count : 2 * count); j += copy.step) {
                        P c[K], s[K];
                        ROPEWALK_DETAIL_UNROLL
                        for (std::size_t k = 0; k < K; ++k) {
                            c[k] = simd::load(copy.cos + j + static_cast<index>(k) * n);
                            s[k] = simd::load(copy.sin + j + static_cast<index>(k) * n);
                        }
                        if constexpr (words) {
                            word_heads<K>(tensors{place.only(h)}, 2 * (i + j), c, s);
                        } else {
                            interleaved_heads<K>(tensors{place.only(h)}, 2 * i + j, c, s);
                        }
                    }
            });
            i += count;
        }
    }
    for (; i + widest <= pairs; i += widest) interleaved_step<units>(row, i, x);
    if constexpr (units > 2)
        if (i + 2 * n <= pairs) {
            interleaved_step<2>(row, i, x);
            i += 2 * n;
        }
    for (; i + n <= pairs; i += n) interleaved_step<1>(row, i, x);
    if (i < pairs) {
        const index channels = 2 * (pairs - i);
        P c, s, cos[2], sin[2];
        row.load_some(i, pairs - i, c, s);
        spread_over_channels(c, s, cos, sin);
        interleaved_heads_some(x, 2 * i, channels < n ? channels : n, cos[0], sin[0]);
        if (channels > n) interleaved_heads_some(x, 2 * i + n, channels - n, cos[1], sin[1]);
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
