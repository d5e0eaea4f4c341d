// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Multiplies every pair by the 2 x 2 matrix of its token, in any pair layout.
#pragma once

#include <cstring>

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The four factors of each pair of one row. If `Scaled`, every matrix is a scaled rotation, b = -c and d = a
/// bit for bit, and two arrays suffice: half the traffic.
template <bool Scaled, class C>
struct mix_row {
    const C *a, *b, *c, *d;

    mix_row from(index i) const noexcept { return {a + i, b + i, c + i, d + i}; }
};
template <class P>
struct mix_factors {
    P a, b, c, d;
};
template <bool Scaled, class C, class Load>
ROPEWALK_ALWAYS_INLINE auto load_factors(mix_row<Scaled, C> row, Load load) noexcept {
    using P = simd::pack<C>;
    const P a = load(row.a), c = load(row.c);
    if constexpr (Scaled) {
        return mix_factors<P>{a, -c, c, a};
    } else {
        return mix_factors<P>{a, load(row.b), c, load(row.d)};
    }
}

/// The heads of one token, multiplied in place.
template <class T>
struct token_heads {
    T* base;
    index stride;
    index heads;

    token_heads at_channel(index c) const noexcept { return {base + c, stride, heads}; }
};

/// V registers of pairs (i, i + half) of every head: (u, v) <- (a u + b v, c u + d v).
template <std::size_t V, bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_half_step(mix_row<Scaled, C> row, index half, token_heads<T> x) noexcept {
    using P = simd::pack<C>;
    constexpr index n = simd::lanes<C>;
    // One head with short groups is two streams, one group apart, which hardware prefetchers follow too late.
    constexpr index ahead = 2048 / static_cast<index>(sizeof(T));
    mix_factors<P> f[V];
    for (std::size_t r = 0; r < V; ++r)
        f[r] = load_factors(row.from(static_cast<index>(r) * n), [](const C* p) { return simd::load(p); });
    T* head = x.base;
    for (index h = 0; h < x.heads; ++h, head += x.stride) {
        P u[V], v[V];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < V; ++r) {
            T* const p = head + static_cast<index>(r) * n;
            simd::prefetch(p + ahead);
            simd::prefetch(p + half + ahead);
            u[r] = simd::in_register<C>(simd::load(static_cast<const T*>(p)));
            v[r] = simd::in_register<C>(simd::load(static_cast<const T*>(p + half)));
        }
        P first[V], second[V];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < V; ++r) {
            first[r] = simd::fma(u[r], f[r].a, v[r] * f[r].b);
            second[r] = simd::fma(v[r], f[r].d, u[r] * f[r].c);
        }
        simd::store<sizeof(T) == 2>(head, first);
        simd::store<sizeof(T) == 2>(head + half, second);
    }
}

/// Pairs (i, i + half), i < pairs, of all heads of one token.
template <bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_half_span(mix_row<Scaled, C> row, index pairs, index half,
                                          token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    index i = 0;
    for (; i + 2 * n <= pairs; i += 2 * n) mix_half_step<2>(row.from(i), half, x.at_channel(i));
    if (i + n <= pairs) {
        mix_half_step<1>(row.from(i), half, x.at_channel(i));
        i += n;
    }
    if (i == pairs) return;
    const index count = pairs - i;
    const auto f = load_factors(row.from(i), [&](const C* p) { return simd::load_some(p, count); });
    T* p = x.base + i;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        const auto u = simd::load_some(static_cast<const T*>(p), count);
        const auto v = simd::load_some(static_cast<const T*>(p + half), count);
        simd::store_some(p, simd::fma(u, f.a, v * f.b), count);
        simd::store_some(p + half, simd::fma(v, f.d, u * f.c), count);
    }
}

/// Groups whose half is more than a register but not a whole number of them, head by head. The last lanes are
/// processed as a full register that ends with them. It is read before anything is written and written last;
/// the lanes that it shares with the register before it get the same numbers. (A masked store makes the next
/// group wait for it: bf16 groups of 34, one token, AVX-512, take 12.1 times a plain pass that way and 4.1
/// times this way.)
template <bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_long_groups(mix_row<Scaled, C> row, index pairs, index half,
                                            token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    const auto load = [](const C* p) { return simd::load(p); };
    for (index h = 0; h < x.heads; ++h)
        for (index i = 0; i < pairs; i += half) {
            T* const p = x.base + h * x.stride + 2 * i;
            const token_heads<T> one{p, 0, 1};
            const index last = half - n;
            const auto f = load_factors(row.from(i + last), load);
            const auto u = simd::in_register<C>(simd::load(static_cast<const T*>(p + last)));
            const auto v = simd::in_register<C>(simd::load(static_cast<const T*>(p + half + last)));
            index j = 0;
            for (; j + 2 * n <= half; j += 2 * n) mix_half_step<2>(row.from(i + j), half, one.at_channel(j));
            if (j + n <= half) mix_half_step<1>(row.from(i + j), half, one.at_channel(j));
            simd::store(p + last, simd::fma(u, f.a, v * f.b));
            simd::store(p + half + last, simd::fma(v, f.d, u * f.c));
        }
}

/// Whole groups whose half fills most of a register, head by head. First and second channels are read and
/// written by full registers. What a store writes beyond its half is overwritten by the next store, and the
/// next group is read before that.
template <bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_wide_groups(mix_row<Scaled, C> row, index pairs, index half,
                                            token_heads<T> x) noexcept {
    using P = simd::pack<C>;
    constexpr index n = simd::lanes<C>;
    const auto read = [](const T* p) { return simd::in_register<C>(simd::load(p)); };
    // Groups before this pair are followed by another group that full registers can read.
    const index ahead = (2 * pairs - half - n) / (2 * half) * half;
    for (index h = 0; h < x.heads; ++h) {
        T* head = x.base + h * x.stride;
        index i = 0;
        if (ahead > 0) {
            P u = read(head), v = read(head + half);
            for (; i < ahead; i += half, head += 2 * half) {
                const auto f = load_factors(row.from(i), [](const C* p) { return simd::load(p); });
                const P next_u = read(head + 2 * half), next_v = read(head + 3 * half);
                simd::store(head, simd::fma(u, f.a, v * f.b));
                simd::store(head + half, simd::fma(v, f.d, u * f.c));
                u = next_u, v = next_v;
            }
            const auto f = load_factors(row.from(i), [&](const C* p) { return simd::load_some(p, half); });
            simd::store_some(head, simd::fma(u, f.a, v * f.b), half);
            simd::store_some(head + half, simd::fma(v, f.d, u * f.c), half);
            i += half, head += 2 * half;
        }
        for (; i < pairs; i += half, head += 2 * half)
            mix_half_span(row.from(i), half, half, token_heads<T>{head, 0, 1});
    }
}

/// For groups whose half is less than a register: as many whole groups as fill one register of pairs. Their
/// channels are in two registers, the second of which ends with the last group. They are separated into first
/// and second channels, and interleaved again afterwards.
template <class C>
struct group_weave {
    static constexpr index n = simd::lanes<C>;
    /// The lanes of each permutation; lanes without a pair are arbitrary.
    struct places {
        index pairs = n;
        index first[simd::pack<C>::size] = {}, second[simd::pack<C>::size] = {};
        index channel[2 * simd::pack<C>::size] = {};

        /// The lane of a channel in the two registers.
        ROPEWALK_ALWAYS_INLINE index lane(index c) const noexcept {
            return c < n ? c : c - 2 * pairs + 2 * n;
        }
    };
    index pairs;  ///< pairs of those groups: more than half a register, so two registers overlap or touch
    simd::lane_order<C> first, second, low, high;

    ROPEWALK_ALWAYS_INLINE explicit group_weave(const places& of) noexcept
        : pairs(of.pairs),
          first([&](index i) { return of.lane(of.first[i]); }),
          second([&](index i) { return of.lane(of.second[i]); }),
          low([&](index i) { return of.channel[i]; }),
          high([&](index i) { return of.channel[2 * of.pairs - n + i]; }) {}

    ROPEWALK_ALWAYS_INLINE static places places_of(index half) noexcept {
        places of;
        of.pairs = 0;
        for (index c = 0; of.pairs + half <= n; c += half)
            for (index j = 0; j < half; ++j, ++c, ++of.pairs) {
                of.first[of.pairs] = c;
                of.second[of.pairs] = c + half;
                of.channel[c] = of.pairs;
                of.channel[c + half] = n + of.pairs;
            }
        return of;
    }
};

/// The groups of one register of pairs, in every head.
template <bool Meet, class T, class P, class C>
ROPEWALK_ALWAYS_INLINE void mix_woven_heads(token_heads<T> x, const group_weave<C>& weave,
                                            const mix_factors<P>& f) noexcept {
    constexpr index n = simd::lanes<C>;
    const index second = Meet ? n : 2 * weave.pairs - n;
    T* head = x.base;
    for (index h = 0; h < x.heads; ++h, head += x.stride) {
        const P low = simd::in_register<C>(simd::load(static_cast<const T*>(head)));
        const P high = simd::in_register<C>(simd::load(static_cast<const T*>(head + second)));
        const P u = weave.first.of(low, high), v = weave.second.of(low, high);
        const P a = simd::fma(u, f.a, v * f.b), b = simd::fma(v, f.d, u * f.c);
        const P woven[2] = {weave.low.of(a, b), weave.high.of(a, b)};
        if constexpr (Meet) {
            simd::store<sizeof(T) == 2>(head, woven);
        } else {
            simd::store(head, woven[0]);
            simd::store(head + second, woven[1]);
        }
    }
}

/// All groups of one token, if half a group is less than a register.
template <bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_woven_span(mix_row<Scaled, C> row, index pairs, const group_weave<C>& weave,
                                           token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    const auto load = [](const C* p) { return simd::load(p); };
    index i = 0;
    if (weave.pairs == n)
        for (; i + n <= pairs; i += n)
            mix_woven_heads<true>(x.at_channel(2 * i), weave, load_factors(row.from(i), load));
    else
        for (; i + n <= pairs; i += weave.pairs)
            mix_woven_heads<false>(x.at_channel(2 * i), weave, load_factors(row.from(i), load));
    for (index count; i < pairs; i += count) {  // less than a register of factors, or fewer groups
        count = pairs - i < weave.pairs ? pairs - i : weave.pairs;
        const auto f = load_factors(row.from(i), [&](const C* p) { return simd::load_some(p, count); });
        const auto bytes = static_cast<std::size_t>(2 * count) * sizeof(T);
        T* head = x.base + 2 * i;
        for (index h = 0; h < x.heads; ++h, head += x.stride) {
            T padded[2 * simd::pack<C>::size];
            std::memset(static_cast<void*>(padded), 0, sizeof padded);
            std::memcpy(static_cast<void*>(padded), head, bytes);
            mix_woven_heads<false>(token_heads<T>{padded, 0, 1}, weave, f);
            std::memcpy(static_cast<void*>(head), padded, bytes);
        }
    }
}

/// One register of pairs (2 i, 2 i + 1) of every head: x (a, d) + swap(x) (b, c).
template <class T, class P>
ROPEWALK_ALWAYS_INLINE void mix_interleaved_heads(token_heads<T> x, index count, P straight,
                                                  P crossed) noexcept {
    constexpr index n = simd::lanes<compute_t<T>>;
    T* p = x.base;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        if (count >= n) {
            const P u = simd::load(static_cast<const T*>(p));
            simd::store(p, simd::fma(u, straight, simd::swap_pairs(u) * crossed));
        } else {
            const P u = simd::load_some(static_cast<const T*>(p), count);
            simd::store_some(p, simd::fma(u, straight, simd::swap_pairs(u) * crossed), count);
        }
    }
}

/// Pairs (2 i, 2 i + 1), i < pairs: one register of table entries becomes two registers of interleaved
/// factors.
template <bool Scaled, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_interleaved_span(mix_row<Scaled, C> row, index pairs,
                                                 token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    const auto weave = [&](const auto& f, index i, index channels) {
        mix_interleaved_heads(x.at_channel(2 * i), channels, simd::interleave_low(f.a, f.d),
                              simd::interleave_low(f.b, f.c));
        if (channels > n)
            mix_interleaved_heads(x.at_channel(2 * i + n), channels - n, simd::interleave_high(f.a, f.d),
                                  simd::interleave_high(f.b, f.c));
    };
    index i = 0;
    for (; i + n <= pairs; i += n)
        weave(load_factors(row.from(i), [](const C* p) { return simd::load(p); }), i, 2 * n);
    if (i < pairs)
        weave(load_factors(row.from(i), [&](const C* p) { return simd::load_some(p, pairs - i); }), i,
              2 * (pairs - i));
}

/// Returns the row of a token that the table does not have, or -1.
template <bool Scaled, class T, class C>
index mix_tokens(pair_layout layout, heads_view<T> x, const matrix_rows_view<C>& rows,
                 work_part work) noexcept {
    index missing = -1;
    const index half = layout.group_of(rows.pairs) / 2;
    const work_range heads_of_part = partition(x.heads(), work.heads);
    const bool wide = half > simd::lanes<C> / 2 && half < simd::lanes<C> && half < rows.pairs;
    const bool woven = half > 1 && half < simd::lanes<C>;
    const auto weave =
        group_weave<C>(woven ? group_weave<C>::places_of(half) : typename group_weave<C>::places());
    const bool uneven = half < rows.pairs && half % simd::lanes<C> != 0;
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        if (row >= rows.table_rows) missing = row;
        if (row < 0 || row >= rows.table_rows) continue;
        const index at = row * rows.row_stride;
        const mix_row<Scaled, C> factors{rows.a + at, rows.b + at, rows.c + at, rows.d + at};
        const index b = token / x.tokens(), n = token % x.tokens();
        const token_heads<stored_t<T>> heads{reinterpret_cast<stored_t<T>*>(x.at(b, n, heads_of_part.first)),
                                             x.strides.head, heads_of_part.count};
        if (half == 1)  // groups of two channels are the interleaved layout
            mix_interleaved_span(factors, rows.pairs, heads);
        else if (wide)
            mix_wide_groups(factors, rows.pairs, half, heads);
        else if (woven)
            mix_woven_span(factors, rows.pairs, weave, heads);
        else if (uneven)
            mix_long_groups(factors, rows.pairs, half, heads);
        else
            for (index i = 0; i < rows.pairs; i += half)
                mix_half_span(factors.from(i), half, half, heads.at_channel(2 * i));
    }
    return missing;
}

}  // namespace detail

/// Multiplies every pair by the 2 x 2 matrix of its token, in place: (x, y) <- (a x + b y, c x + d y).
/// Shapes:   x [batches, tokens, heads, 2 * pairs]; rows of batches * tokens tokens.
/// Requires: as rotate. Negative rows leave a token untouched.
/// Returns:  as rotate.
/// Cost:     one pass over the data; no allocation. Two table entries per pair if all matrices are scaled
///           rotations, four otherwise. In L1 (AVX-512, one token of 4096 channels, relative to an
///           elementwise multiplication by a row) groups of 4, 8 and 16 take 1.2 to 2.1 times as long, other
///           even ones up to 3 times, those whose half is a little more than a register or half a register
///           (18, 34) up to 4.3 times.
/// Accuracy: f64, f32: 2 ulp of |a x| + |b y| (and of |c x| + |d y|); 16-bit: half a storage ulp more.
/// Source:   RoAd, Liao and Monz 2024; rotate_half with full-width cos and sin.
template <class T>
bool mix_pairs(pair_layout layout, heads_view<T> x, std::type_identity_t<matrix_rows_view<compute_t<T>>> rows,
               part_of part = {}) noexcept {
    constexpr const char* who = "mix_pairs";
    const detail::layout_plan plan{layout, layout};
    const detail::rows_extents extents{rows.count(), rows.batches, 1, rows.pairs,
                                       std::numeric_limits<index>::max()};
    if (!detail::fits(who, detail::first_of(detail::fit_written(plan, x, extents), detail::fit_part(part))))
        return false;
    if (x.empty()) return true;
    const work_part work = partition_tokens(x.batches() * x.tokens(), part);
    const index missing = rows.scaled_rotations ? detail::mix_tokens<true>(layout, x, rows, work)
                                                : detail::mix_tokens<false>(layout, x, rows, work);
    return missing < 0 || detail::tell(who, detail::missing_row(rows, missing));
}

}  // namespace ROPEWALK_NAMESPACE
