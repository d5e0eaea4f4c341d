// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// One register of pairs (i, i + half) of every head: (u, v) <- (a u + b v, c u + d v).
template <class T, class P>
ROPEWALK_ALWAYS_INLINE void mix_half_heads(token_heads<T> x, index half, P a, P b, P c, P d) noexcept {
    T* p = x.base;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        const P u = simd::load(static_cast<const T*>(p));
        const P v = simd::load(static_cast<const T*>(p + half));
        simd::store(p, simd::fma(u, a, v * b));
        simd::store(p + half, simd::fma(v, d, u * c));
    }
}

/// Pairs (i, i + half), i < pairs, of all heads of one token.
template <class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_half_span(const C* a, const C* b, const C* c, const C* d, index pairs,
                                          index half, token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    index i = 0;
    for (; i + n <= pairs; i += n)
        mix_half_heads(x.at_channel(i), half, simd::load(a + i), simd::load(b + i), simd::load(c + i),
                       simd::load(d + i));
    if (i == pairs) return;
    const index count = pairs - i;
    const auto ai = simd::load_some(a + i, count), bi = simd::load_some(b + i, count);
    const auto ci = simd::load_some(c + i, count), di = simd::load_some(d + i, count);
    T* p = x.base + i;
    for (index h = 0; h < x.heads; ++h, p += x.stride) {
        const auto u = simd::load_some(static_cast<const T*>(p), count);
        const auto v = simd::load_some(static_cast<const T*>(p + half), count);
        simd::store_some(p, simd::fma(u, ai, v * bi), count);
        simd::store_some(p + half, simd::fma(v, di, u * ci), count);
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
template <class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_interleaved_span(const C* a, const C* b, const C* c, const C* d, index pairs,
                                                 token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    for (index i = 0; i < pairs; i += n) {
        const index count = pairs - i < n ? pairs - i : n;
        const auto row = [&](const C* p) {
            return count == n ? simd::load(p + i) : simd::load_some(p + i, count);
        };
        const auto ai = row(a), bi = row(b), ci = row(c), di = row(d);
        mix_interleaved_heads(x.at_channel(2 * i), 2 * count, simd::interleave_low(ai, di),
                              simd::interleave_low(bi, ci));
        if (2 * count > n)
            mix_interleaved_heads(x.at_channel(2 * i + n), 2 * count - n, simd::interleave_high(ai, di),
                                  simd::interleave_high(bi, ci));
    }
}

}  // namespace detail

/// Multiplies every pair by its token's 2 x 2 matrix, in place: (x, y) <- (a x + b y, c x + d y).
/// Shapes:   x [batches, tokens, heads, 2 * pairs]; rows hold batches * tokens tokens.
/// Requires: as rotate. Negative rows leave a token untouched.
/// Cost:     one pass over the data; no allocation.
/// Accuracy: f64, f32: 2 ulp of |a x| + |b y| (and of |c x| + |d y|); 16-bit: that plus half a storage ulp.
/// Source:   RoAd, Liao and Monz 2024; rotate_half with full-width cos and sin.
template <class T>
void mix_pairs(pair_layout layout, heads_view<T> x, std::type_identity_t<matrix_rows_view<compute_t<T>>> rows,
               part_of part = {}) noexcept {
    const bool match = x.empty() || (x.channels() == 2 * rows.pairs &&
                                     rows.tokens >= x.batches() * x.tokens() && layout.fits(rows.pairs));
    ROPEWALK_EXPECT(match);
    if (!match || x.empty()) return;
    const work_part work = partition_tokens(x.batches() * x.tokens(), part);
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        ROPEWALK_EXPECT(row < rows.table_rows);
        if (row < 0 || row >= rows.table_rows) continue;
        const index at = row * rows.row_stride;
        const auto heads = detail::heads_of(x, token, work.heads);
        if (layout.kind == pair_layout::kind_type::interleaved) {
            detail::mix_interleaved_span(rows.a + at, rows.b + at, rows.c + at, rows.d + at, rows.pairs,
                                         heads);
            continue;
        }
        const index half = layout.group_of(rows.pairs) / 2;
        for (index i = 0; i < rows.pairs; i += half)
            detail::mix_half_span(rows.a + at + i, rows.b + at + i, rows.c + at + i, rows.d + at + i, half,
                                  half, heads.at_channel(2 * i));
    }
}
template <static_layout Layout, class T>
void mix_pairs(heads_view<T> x, std::type_identity_t<matrix_rows_view<compute_t<T>>> rows,
               part_of part = {}) noexcept {
    mix_pairs(pair_layout(Layout{}), x, rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
