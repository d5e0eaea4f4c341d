// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The four factors of each pair of one row. With `scaled` every matrix is a scaled rotation, b = -c and
/// d = a bit for bit, so two arrays say it all: half the traffic.
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

/// The heads of one token, multiplied where they stand.
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
    // One head and short groups make two streams a group apart, which the hardware follows too late.
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

/// Pairs (2 i, 2 i + 1), i < pairs: a register of table entries makes two of woven factors.
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
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        if (row >= rows.table_rows) missing = row;
        if (row < 0 || row >= rows.table_rows) continue;
        const index at = row * rows.row_stride;
        const mix_row<Scaled, C> factors{rows.a + at, rows.b + at, rows.c + at, rows.d + at};
        const index b = token / x.tokens(), n = token % x.tokens();
        const token_heads<stored_t<T>> heads{reinterpret_cast<stored_t<T>*>(x.at(b, n, heads_of_part.first)),
                                             x.strides.head, heads_of_part.count};
        if (half == 1) {  // groups of two channels are the interleaved layout
            mix_interleaved_span(factors, rows.pairs, heads);
            continue;
        }
        for (index i = 0; i < rows.pairs; i += half)
            mix_half_span(factors.from(i), half, half, heads.at_channel(2 * i));
    }
    return missing;
}

}  // namespace detail

/// Multiplies every pair by its token's 2 x 2 matrix, in place: (x, y) <- (a x + b y, c x + d y).
/// Shapes:   x [batches, tokens, heads, 2 * pairs]; rows hold batches * tokens tokens.
/// Requires: as rotate. Negative rows leave a token untouched.
/// Returns:  as rotate.
/// Cost:     one pass over the data; no allocation. Two table entries a pair when all matrices are scaled
///           rotations, four otherwise.
/// Accuracy: f64, f32: 2 ulp of |a x| + |b y| (and of |c x| + |d y|); 16-bit: that plus half a storage ulp.
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
    return missing < 0 || detail::tell(who, {"rows of the tokens must be below the rows of the table",
                                             rows.table_rows - 1, missing});
}

}  // namespace ROPEWALK_NAMESPACE
