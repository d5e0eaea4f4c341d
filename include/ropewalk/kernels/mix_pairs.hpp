// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// (u, v) <- (a u + b v, c u + d v) for pairs (i, i + half) of all heads of one token.
template <class T, class C>
void mix_half_span(const C* a, const C* b, const C* c, const C* d, index pairs, index half,
                   token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    for (index i = 0; i < pairs; i += n) {
        const index count = pairs - i < n ? pairs - i : n;
        const auto some = [&](const C* p) { return simd::load_some(p + i, count); };
        const auto ai = some(a), bi = some(b), ci = some(c), di = some(d);
        T* p = x.base + i;
        for (index h = 0; h < x.heads; ++h, p += x.stride) {
            if (count == n) {
                const auto u = simd::load(static_cast<const T*>(p));
                const auto v = simd::load(static_cast<const T*>(p + half));
                simd::store(p, simd::fma(u, ai, v * bi));
                simd::store(p + half, simd::fma(v, di, u * ci));
            } else {
                const auto u = simd::load_some(static_cast<const T*>(p), count);
                const auto v = simd::load_some(static_cast<const T*>(p + half), count);
                simd::store_some(p, simd::fma(u, ai, v * bi), count);
                simd::store_some(p + half, simd::fma(v, di, u * ci), count);
            }
        }
    }
}

/// Pairs (2 i, 2 i + 1): x (a, d) + swap(x) (b, c), the four rows woven once a token.
template <class T, class C>
void mix_interleaved_span(const C* a, const C* b, const C* c, const C* d, index pairs,
                          token_heads<T> x) noexcept {
    constexpr index n = simd::lanes<C>;
    for (index i = 0; i < 2 * pairs; i += n) {
        const index count = 2 * pairs - i < n ? 2 * pairs - i : n;
        C straight[static_cast<std::size_t>(n)] = {}, crossed[static_cast<std::size_t>(n)] = {};
        for (index j = 0; j < count; j += 2) {
            const index pair = (i + j) / 2;
            straight[j] = a[pair];
            straight[j + 1] = d[pair];
            crossed[j] = b[pair];
            crossed[j + 1] = c[pair];
        }
        const auto s = simd::load(static_cast<const C*>(straight));
        const auto t = simd::load(static_cast<const C*>(crossed));
        T* p = x.base + i;
        for (index h = 0; h < x.heads; ++h, p += x.stride) {
            if (count == n) {
                const auto u = simd::load(static_cast<const T*>(p));
                simd::store(p, simd::fma(u, s, simd::swap_pairs(u) * t));
            } else {
                const auto u = simd::load_some(static_cast<const T*>(p), count);
                simd::store_some(p, simd::fma(u, s, simd::swap_pairs(u) * t), count);
            }
        }
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
