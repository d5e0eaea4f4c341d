// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/token_rows.hpp>

/// The inner loops: all heads of one token against one row of cos and sin held in registers. Source of
/// the arithmetic: rotate_reference. Both layouts form each output as fma(x, c, rounded product), so they
/// agree bit for bit up to the permutation of channels, and so do full and partial registers.

namespace ROPEWALK_NAMESPACE::detail {

/// K registers of pairs of one head, first channels at p, second ones `half` further on; cos(k) and sin(k)
/// are their registers of the row. What is in flight of both streams is read, then one stream written, then
/// the other (without in_register 1.35 of the roof in L1 instead of 1.11).
template <std::size_t K, class T, class Cos, class Sin>
ROPEWALK_ALWAYS_INLINE void turn_half(T* p, index half, Cos cos, Sin sin) noexcept {
    using C = compute_t<T>;
    constexpr index n = simd::lanes<C>;
    simd::pack<C> a[K], b[K];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t k = 0; k < K; ++k) {
        const T* const u = p + static_cast<index>(k) * n;
        a[k] = simd::in_register<C>(simd::load(u));
        b[k] = simd::in_register<C>(simd::load(u + half));
    }
    store_registers<K>(p, [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return simd::fms<C>(a[k], cos(k), b[k] * sin(k));
    });
    store_registers<K>(p + half, [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return simd::fma(b[k], cos(k), a[k] * sin(k));
    });
}

/// V registers of pairs of every head, the row in registers. Prefetching the data 2 to 8 heads ahead only
/// costs, also past L2 (512 tokens: 1.3 to 2.5 of the roof against 1.2 to 1.7 without).
template <std::size_t V, class T, class P>
ROPEWALK_ALWAYS_INLINE void half_heads(token_heads<T> x, index first, index half, const P (&c)[V],
                                       const P (&s)[V]) noexcept {
    constexpr std::size_t K = V < half_in_flight<T> ? V : half_in_flight<T>;
    T* p = x.base + first;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t v = 0; v < V; v += K)
            turn_half<K>(
                p + static_cast<index>(v) * simd::lanes<compute_t<T>>, half,
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return c[v + k]; },
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return s[v + k]; });
    }
}

/// The same of `pairs` pairs, the row from its copy.
template <class T, class C>
ROPEWALK_ALWAYS_INLINE void half_heads(token_heads<T> x, index first, index half, index pairs,
                                       const copied_row<C>& row) noexcept {
    T* p = x.base + first;
    for (index h = 0; h < x.heads; ++h, p += x.stride)
        for (index i = 0; i < pairs; i += row.step)
            turn_half<copied_in_flight>(
                p + i, half,
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return row.cos_register(i, k); },
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return row.sin_register(i, k); });
}

template <std::size_t V, class Row, class... T>
ROPEWALK_ALWAYS_INLINE void half_step(Row row, index first, index half, token_heads<T>... x) noexcept {
    using C = typename Row::element;
    using P = simd::pack<C>;
    P c[V], s[V];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t v = 0; v < V; ++v) row.load(first + static_cast<index>(v) * simd::lanes<C>, c[v], s[v]);
    (half_heads(x, first, half, c, s), ...);
}

template <class T, class P>
ROPEWALK_ALWAYS_INLINE void half_heads_some(token_heads<T> x, index first, index half, index count, P c,
                                            P s) noexcept {
    T* p = x.base + first;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        const P a = simd::load_some(static_cast<const T*>(p), count);
        const P b = simd::load_some(static_cast<const T*>(p + half), count);
        simd::store_some(p, simd::fms<compute_t<T>>(a, c, b * s), count);
        simd::store_some(p + half, simd::fma(b, c, a * s), count);
    }
}

/// Pairs (i, i + half), i < pairs.
template <class Row, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_half_span(outer_loop outer, Row row, index pairs, index half,
                                             token_heads<T>... x) noexcept {
    using C = typename Row::element;
    constexpr index n = simd::lanes<C>;
    index i = 0;
    constexpr index widest = static_cast<index>(half_vectors) * n;
    if (outer == outer_loop::heads && pairs > widest) {
        copied_row<C> copy;
        i = copy.in_parts(pairs, [&](index first, index count) {
            copy.take(row, first, count);
            (half_heads(x, first, half, count, copy), ...);
        });
    }
    for (; i + widest <= pairs; i += widest) half_step<half_vectors>(row, i, half, x...);
    if constexpr (half_vectors > 4)
        if (i + 4 * n <= pairs) {
            half_step<4>(row, i, half, x...);
            i += 4 * n;
        }
    if (i + 2 * n <= pairs) {
        half_step<2>(row, i, half, x...);
        i += 2 * n;
    }
    if (i + n <= pairs) {
        half_step<1>(row, i, half, x...);
        i += n;
    }
    if (i < pairs) {
        simd::pack<C> c, s;
        row.load_some(i, pairs - i, c, s);
        (half_heads_some(x, i, half, pairs - i, c, s), ...);
    }
}
template <class C, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_half_span(const C* cos, const C* sin, index pairs, index half,
                                             row_factors<C> f, token_heads<T>... x) noexcept {
    rotate_half_span(outer_loop::registers, row_in_memory<C>{cos, sin, f}, pairs, half, x...);
}

/// K registers of channels of one head, x c + swap(x) (-s, s); cos(k) and sin(k) hold both channels of a
/// pair.
template <std::size_t K, class T, class Cos, class Sin>
ROPEWALK_ALWAYS_INLINE void turn_interleaved(T* p, Cos cos, Sin sin) noexcept {
    using C = compute_t<T>;
    simd::pack<C> a[K];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t k = 0; k < K; ++k)
        a[k] = simd::in_register<C>(
            simd::load(static_cast<const T*>(p + static_cast<index>(k) * simd::lanes<C>)));
    store_registers<K>(p, [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return simd::fma(a[k], cos(k), simd::swap_pairs(a[k]) * sin(k));
    });
}

/// V registers of channels of every head, the row in registers.
template <std::size_t V, class T, class P>
ROPEWALK_ALWAYS_INLINE void interleaved_heads(token_heads<T> x, index first_pair, const P (&c)[V],
                                              const P (&s)[V]) noexcept {
    constexpr std::size_t K = V < interleaved_in_flight ? V : interleaved_in_flight;
    T* p = x.base + 2 * first_pair;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t v = 0; v < V; v += K)
            turn_interleaved<K>(
                p + static_cast<index>(v) * simd::lanes<compute_t<T>>,
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return c[v + k]; },
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return s[v + k]; });
    }
}

/// The same of `pairs` pairs, the row from its copy.
template <class T, class C>
ROPEWALK_ALWAYS_INLINE void interleaved_heads(token_heads<T> x, index first_pair, index pairs,
                                              const copied_row<C>& row) noexcept {
    T* p = x.base + 2 * first_pair;
    for (index h = 0; h < x.heads; ++h, p += x.stride)
        for (index i = 0; i < 2 * pairs; i += row.step)
            turn_interleaved<copied_in_flight>(
                p + i, [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return row.cos_register(i, k); },
                [&](std::size_t k) ROPEWALK_DETAIL_INLINE_LAMBDA { return row.sin_register(i, k); });
}

/// U units of lanes pairs = two registers of channels each.
template <std::size_t U, class Row, class... T>
ROPEWALK_ALWAYS_INLINE void interleaved_step(Row row, index first_pair, token_heads<T>... x) noexcept {
    using C = typename Row::element;
    using P = simd::pack<C>;
    P c[2 * U], s[2 * U];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t u = 0; u < U; ++u) {
        P cu, su;
        row.load(first_pair + static_cast<index>(u) * simd::lanes<C>, cu, su);
        c[2 * u] = simd::duplicate_low(cu);
        c[2 * u + 1] = simd::duplicate_high(cu);
        s[2 * u] = simd::negate_even(simd::duplicate_low(su));
        s[2 * u + 1] = simd::negate_even(simd::duplicate_high(su));
    }
    (interleaved_heads(x, first_pair, c, s), ...);
}

template <class T, class P>
ROPEWALK_ALWAYS_INLINE void interleaved_heads_some(token_heads<T> x, index channel, index count, P c,
                                                   P s) noexcept {
    T* p = x.base + channel;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        const P a = simd::load_some(static_cast<const T*>(p), count);
        simd::store_some(p, simd::fma(a, c, simd::swap_pairs(a) * s), count);
    }
}

/// Pairs (2 i, 2 i + 1), i < pairs.
template <class Row, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_interleaved_span(outer_loop outer, Row row, index pairs,
                                                    token_heads<T>... x) noexcept {
    using C = typename Row::element;
    constexpr index n = simd::lanes<C>;
    index i = 0;
    constexpr index widest = static_cast<index>(interleaved_units) * n;
    if (outer == outer_loop::heads && pairs > widest) {
        copied_row<C> copy;
        i = copy.in_parts(pairs, [&](index first, index count) {
            copy.take_channels(row, first, count);
            (interleaved_heads(x, first, count, copy), ...);
        });
    }
    for (; i + widest <= pairs; i += widest) interleaved_step<interleaved_units>(row, i, x...);
    if constexpr (interleaved_units > 2)
        if (i + 2 * n <= pairs) {
            interleaved_step<2>(row, i, x...);
            i += 2 * n;
        }
    for (; i + n <= pairs; i += n) interleaved_step<1>(row, i, x...);
    if (i < pairs) {
        const index channels = 2 * (pairs - i);
        simd::pack<C> c, s;
        row.load_some(i, pairs - i, c, s);
        const auto c_low = simd::duplicate_low(c);
        const auto s_low = simd::negate_even(simd::duplicate_low(s));
        (interleaved_heads_some(x, 2 * i, channels < n ? channels : n, c_low, s_low), ...);
        if (channels > n) {
            const auto c_high = simd::duplicate_high(c);
            const auto s_high = simd::negate_even(simd::duplicate_high(s));
            (interleaved_heads_some(x, 2 * i + n, channels - n, c_high, s_high), ...);
        }
    }
}

template <class C, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_interleaved_span(const C* cos, const C* sin, index pairs, row_factors<C> f,
                                                    token_heads<T>... x) noexcept {
    rotate_interleaved_span(outer_loop::registers, row_in_memory<C>{cos, sin, f}, pairs, x...);
}

/// Half-split inside groups of a size known at run time: every blocked<g> and pair_layout of that kind.
struct grouped {
    index channels;
};

/// All pairs of all heads of one token.
template <class Layout, class Row, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_token(Layout layout, outer_loop outer, Row row, index pairs,
                                         token_heads<T>... x) noexcept {
    if constexpr (std::is_same_v<Layout, half_split>) {
        rotate_half_span(outer, row, pairs, pairs, x...);
    } else if constexpr (std::is_same_v<Layout, interleaved>) {
        rotate_interleaved_span(outer, row, pairs, x...);
    } else {
        const index half = layout.channels / 2;
        for (index i = 0; i < pairs; i += half)
            rotate_half_span(outer, row.from(i), half, half, x.at_channel(2 * i)...);
    }
    (void)layout;
}
template <class Layout, class C, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_token(Layout layout, const C* cos, const C* sin, index pairs,
                                         row_factors<C> f, token_heads<T>... x) noexcept {
    rotate_token(layout, outer_loop::registers, row_in_memory<C>{cos, sin, f}, pairs, x...);
}

/// Calls f with the layout as a type: the one switch of a call, and none where it is known.
template <class F>
ROPEWALK_ALWAYS_INLINE void with_layout(pair_layout layout, F f) noexcept {
    switch (layout.kind) {
        case pair_layout::kind_type::half_split: return f(half_split{});
        case pair_layout::kind_type::interleaved: return f(interleaved{});
        case pair_layout::kind_type::blocked: return f(grouped{layout.group});
    }
}
template <static_layout Layout, class F>
ROPEWALK_ALWAYS_INLINE void with_layout(Layout layout, F f) noexcept {
    if constexpr (std::is_same_v<Layout, half_split> || std::is_same_v<Layout, interleaved>) {
        f(layout);
    } else {
        f(grouped{Layout::group});
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
