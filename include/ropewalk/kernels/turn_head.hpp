// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/simd_quantized.hpp>
#include <ropewalk/kernels/rotate_token.hpp>

/// One head read from one place, turned, and written to another; what a fused kernel does on the way in
/// (normalise) and on the way out (narrow, quantise, measure) are the types of source and target. The
/// arithmetic of a pair is that of rotate_token, so unfused and fused results agree bit for bit wherever no
/// rounding step is saved. Source of the arithmetic: rotate_reference.

namespace ROPEWALK_NAMESPACE::detail {

template <class S>
struct plain_source {
    const S* p;
    auto full(index c) const noexcept { return simd::load(p + c); }
    auto some(index c, index count) const noexcept { return simd::load_some(p + c, count); }
};

/// (x * scale) * weight, the order of every RMSNorm.
template <class S, bool Weighted>
struct normed_source {
    using C = compute_t<S>;
    const S* p;
    const C* weight;
    simd::pack<C> scale;
    auto full(index c) const noexcept {
        const auto x = simd::load(p + c) * scale;
        if constexpr (Weighted) {
            return x * simd::load(weight + c);
        } else {
            return x;
        }
    }
    auto some(index c, index count) const noexcept {
        const auto x = simd::load_some(p + c, count) * scale;
        if constexpr (Weighted) {
            return x * simd::load_some(weight + c, count);
        } else {
            return x;
        }
    }
};

template <class D>
struct plain_target {
    using P = simd::pack<compute_t<D>>;
    D* p;
    void full(index c, P x) const noexcept { simd::store(p + c, x); }
    void some(index c, P x, index count) const noexcept { simd::store_some(p + c, x, count); }
};

template <class Q>
struct scaled_target {
    Q* p;
    simd::pack<float> factor;
    void full(index c, simd::pack<float> x) const noexcept { simd::store(p + c, x * factor); }
    void some(index c, simd::pack<float> x, index count) const noexcept {
        simd::store_some_bytes(p + c, x * factor, count);
    }
};

/// Keeps the numbers and their largest magnitude.
struct measuring_target {
    float* p;
    simd::pack<float> largest = simd::broadcast(0.0f);
    void full(index c, simd::pack<float> x) noexcept {
        simd::store(p + c, x);
        largest = simd::larger_magnitude(largest, x);
    }
    void some(index c, simd::pack<float> x, index count) noexcept {
        simd::store_some(p + c, x, count);
        const float* stored = p + c;
        largest = simd::larger_magnitude(largest, simd::load_some(stored, count));
    }
};

template <class C, class Source, class Target>
ROPEWALK_ALWAYS_INLINE void turn_half_span(const C* cos, const C* sin, index pairs, index base, index half,
                                           const Source& from, Target& to, index i = 0) noexcept {
    constexpr index n = simd::lanes<C>;
    const index second = base + half;
    for (; i + n <= pairs; i += n) {
        const auto c = simd::load(cos + i), s = simd::load(sin + i);
        const auto a = from.full(base + i), b = from.full(second + i);
        to.full(base + i, simd::fma(a, c, -(b * s)));
        to.full(second + i, simd::fma(b, c, a * s));
    }
    if (i < pairs) {
        const index rest = pairs - i;
        const auto c = simd::load_some(cos + i, rest), s = simd::load_some(sin + i, rest);
        const auto a = from.some(base + i, rest), b = from.some(second + i, rest);
        to.some(base + i, simd::fma(a, c, -(b * s)), rest);
        to.some(second + i, simd::fma(b, c, a * s), rest);
    }
}

template <class C, class Source, class Target>
ROPEWALK_ALWAYS_INLINE void turn_interleaved_span(const C* cos, const C* sin, index pairs, index base,
                                                  const Source& from, Target& to, index i = 0) noexcept {
    constexpr index n = simd::lanes<C>;
    for (; i + n <= pairs; i += n) {
        const auto c = simd::load(cos + i), s = simd::load(sin + i);
        const auto a = from.full(base + 2 * i), b = from.full(base + 2 * i + n);
        to.full(base + 2 * i, simd::fma(a, simd::duplicate_low(c),
                                        simd::swap_pairs(a) * simd::negate_even(simd::duplicate_low(s))));
        to.full(base + 2 * i + n,
                simd::fma(b, simd::duplicate_high(c),
                          simd::swap_pairs(b) * simd::negate_even(simd::duplicate_high(s))));
    }
    if (i < pairs) {
        const auto c = simd::load_some(cos + i, pairs - i), s = simd::load_some(sin + i, pairs - i);
        const index channels = 2 * (pairs - i);
        const index low = channels < n ? channels : n;
        const auto a = from.some(base + 2 * i, low);
        to.some(base + 2 * i,
                simd::fma(a, simd::duplicate_low(c),
                          simd::swap_pairs(a) * simd::negate_even(simd::duplicate_low(s))),
                low);
        if (channels > n) {
            const auto b = from.some(base + 2 * i + n, channels - n);
            to.some(base + 2 * i + n,
                    simd::fma(b, simd::duplicate_high(c),
                              simd::swap_pairs(b) * simd::negate_even(simd::duplicate_high(s))),
                    channels - n);
        }
    }
}

/// Channels [base, base + 2 * pairs) of one head.
template <class Layout, class C, class Source, class Target>
ROPEWALK_ALWAYS_INLINE void turn_head(Layout layout, const C* cos, const C* sin, index pairs, index base,
                                      const Source& from, Target& to, index first_pair = 0) noexcept {
    if constexpr (std::is_same_v<Layout, half_split>) {
        turn_half_span(cos, sin, pairs, base, pairs, from, to, first_pair);
    } else if constexpr (std::is_same_v<Layout, interleaved>) {
        turn_interleaved_span(cos, sin, pairs, base, from, to, first_pair);
    } else {
        const index half = layout.channels / 2;
        for (index i = 0; i < pairs; i += half)
            turn_half_span(cos + i, sin + i, half, base + 2 * i, half, from, to);
    }
    (void)layout;
}

/// Channels [first, last) as they are, but for what source and target do.
template <class Source, class Target>
ROPEWALK_ALWAYS_INLINE void pass_channels(index first, index last, const Source& from, Target& to) noexcept {
    constexpr index n = static_cast<index>(decltype(from.full(0))::size);
    index c = first;
    for (; c + n <= last; c += n) to.full(c, from.full(c));
    if (c < last) to.some(c, from.some(c, last - c), last - c);
}

/// The rotated slice of a head and the channels on either side of it.
template <class C>
struct slice_of_head {
    const C* cos;
    const C* sin;
    index pairs;
    index first_channel;
    index channels;
};
template <class Layout, class C, class Source, class Target>
ROPEWALK_ALWAYS_INLINE void turn_slice(Layout layout, slice_of_head<C> slice, const Source& from, Target& to,
                                       index first_pair = 0) noexcept {
    if (slice.first_channel > 0) pass_channels(0, slice.first_channel, from, to);
    turn_head(layout, slice.cos, slice.sin, slice.pairs, slice.first_channel, from, to, first_pair);
    const index end = slice.first_channel + 2 * slice.pairs;
    if (end < slice.channels) pass_channels(end, slice.channels, from, to);
}

/// Heads of one token that are normalised on their way: the row of cos, sin and weights stays in registers
/// while the heads pass by.
template <class S>
struct normed_heads {
    using C = compute_t<S>;
    S* base;
    index stride;
    index count;
    const C* weight;   // may be null
    const C* factors;  // one a head
};

// Half of the registers hold the row (cos, sin and the weights of both channels of a pair).
inline constexpr std::size_t row_vectors = half_vectors / 2;

template <class Layout, bool Weighted, class S, class C>
ROPEWALK_ALWAYS_INLINE index turn_normed_blocks(const C* cos, const C* sin, index pairs, index base,
                                                normed_heads<S> x) noexcept {
    using P = simd::pack<C>;
    constexpr index n = simd::lanes<C>;
    constexpr bool half = !std::is_same_v<Layout, interleaved>;
    constexpr std::size_t V = half ? row_vectors : row_vectors / 2;
    constexpr index step = static_cast<index>(V) * n;
    index i = 0;
    for (; i + step <= pairs; i += step) {
        P c[2 * V], s[2 * V], w[2 * V];
        index at[2 * V];
        for (std::size_t v = 0; v < V; ++v) {
            const index pair = i + static_cast<index>(v) * n;
            const P cv = simd::load(cos + pair), sv = simd::load(sin + pair);
            if constexpr (half) {
                c[v] = cv, s[v] = sv;
                at[2 * v] = base + pair, at[2 * v + 1] = base + pairs + pair;
            } else {
                c[2 * v] = simd::duplicate_low(cv), c[2 * v + 1] = simd::duplicate_high(cv);
                s[2 * v] = simd::negate_even(simd::duplicate_low(sv));
                s[2 * v + 1] = simd::negate_even(simd::duplicate_high(sv));
                at[2 * v] = base + 2 * pair, at[2 * v + 1] = base + 2 * pair + n;
            }
        }
        if constexpr (Weighted)
            for (std::size_t v = 0; v < 2 * V; ++v) w[v] = simd::load(x.weight + at[v]);
        S* p = x.base;
        for (index h = 0; h < x.count; ++h, p += x.stride) {
            const P factor = simd::broadcast(x.factors[h]);
            const auto number = [&](std::size_t v) {
                const P y = simd::load(static_cast<const S*>(p + at[v])) * factor;
                if constexpr (Weighted) {
                    return y * w[v];
                } else {
                    return y;
                }
            };
            for (std::size_t v = 0; v < V; ++v) {
                const P a = number(2 * v), b = number(2 * v + 1);
                if constexpr (half) {
                    simd::store(p + at[2 * v], simd::fma(a, c[v], -(b * s[v])));
                    simd::store(p + at[2 * v + 1], simd::fma(b, c[v], a * s[v]));
                } else {
                    simd::store(p + at[2 * v], simd::fma(a, c[2 * v], simd::swap_pairs(a) * s[2 * v]));
                    simd::store(p + at[2 * v + 1],
                                simd::fma(b, c[2 * v + 1], simd::swap_pairs(b) * s[2 * v + 1]));
                }
            }
        }
    }
    return i;
}

/// The sum of the squares of adjacent numbers in the compute type: four running registers, always in the
/// same order.
template <class S>
ROPEWALK_ALWAYS_INLINE compute_t<S> sum_of_squares(const S* p, index count) noexcept {
    using P = simd::pack<compute_t<S>>;
    constexpr index n = simd::lanes<compute_t<S>>;
    const P zero = simd::broadcast(compute_t<S>(0));
    P sum[4] = {zero, zero, zero, zero};
    index i = 0;
    for (; i + 4 * n <= count; i += 4 * n)
        for (index v = 0; v < 4; ++v) {
            const P x = simd::load(p + i + v * n);
            sum[v] = simd::fma(x, x, sum[v]);
        }
    for (index v = 0; i + n <= count; i += n, ++v) {
        const P x = simd::load(p + i);
        sum[v] = simd::fma(x, x, sum[v]);
    }
    if (i < count) {
        const P x = simd::load_some(p + i, count - i);
        sum[3] = simd::fma(x, x, sum[3]);
    }
    return simd::sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace ROPEWALK_NAMESPACE::detail
