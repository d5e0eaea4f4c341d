// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Heads read in one pair layout and written in another (DeepSeek reads interleaved, writes half-split).
// They are gathered in pair order in L1, rotated there as half-split heads, and scattered.
#pragma once

#include <ropewalk/kernels/pair_arithmetic.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Pairs of a head that are gathered, rotated and scattered together. In place, a head may not have more.
inline constexpr index changed_pairs = 512;

/// Copies the first and second channels of pairs [first, first + count) of a head to two arrays.
template <class Head, class C>
void gather_pairs(pair_layout layout, const Head& from, index first, index count, index pairs, C* x,
                  C* y) noexcept {
    constexpr index n = simd::lanes<C>;
    if (layout.kind == pair_layout::kind_type::interleaved) {
        index i = 0;
        for (; i + n <= count; i += n) {
            const auto both = simd::deinterleave(from.load(2 * (first + i)), from.load(2 * (first + i) + n));
            simd::store(x + i, both.first);
            simd::store(y + i, both.second);
        }
        for (; i < count; ++i) {
            C pair[simd::pack<C>::size];
            simd::store(pair, from.load_some(2 * (first + i), 2));
            x[i] = pair[0], y[i] = pair[1];
        }
        return;
    }
    const index half = layout.group_of(pairs) / 2;
    for (index i = 0; i < count;) {
        const index pair = first + i, run = std::min(count - i, half - pair % half);
        const index at = layout.first(pair, pairs);
        for (index j = 0; j < run; j += n) {
            const index some = std::min(n, run - j);
            simd::store_some(x + i + j, from.load_some(at + j, some), some);
            simd::store_some(y + i + j, from.load_some(at + half + j, some), some);
        }
        i += run;
    }
}

/// The inverse of gather_pairs.
template <class D, class C>
void scatter_pairs(pair_layout layout, D* to, index first, index count, index pairs, const C* x,
                   const C* y) noexcept {
    constexpr index n = simd::lanes<C>;
    if (layout.kind == pair_layout::kind_type::interleaved) {
        index i = 0;
        for (; i + n <= count; i += n) {
            const auto a = simd::load(x + i), b = simd::load(y + i);
            simd::store(to + 2 * (first + i), simd::interleave_low(a, b));
            simd::store(to + 2 * (first + i) + n, simd::interleave_high(a, b));
        }
        for (; i < count; ++i) {
            C pair[simd::pack<C>::size] = {x[i], y[i]};
            simd::store_some(to + 2 * (first + i), simd::load(static_cast<const C*>(pair)), 2);
        }
        return;
    }
    const index half = layout.group_of(pairs) / 2;
    for (index i = 0; i < count;) {
        const index pair = first + i, run = std::min(count - i, half - pair % half);
        D* const at = to + layout.first(pair, pairs);
        for (index j = 0; j < run; j += n) {
            const index some = std::min(n, run - j);
            simd::store_some(at + j, simd::load_some(x + i + j, some), some);
            simd::store_some(at + half + j, simd::load_some(y + i + j, some), some);
        }
        i += run;
    }
}

/// Rotates all heads of one token from layout `read` to layout `write`.
template <class Row, class Place>
void rotate_between(pair_layout read, pair_layout write, const Row& row, index pairs, Place x) noexcept {
    using C = typename Row::element;
    constexpr index n = simd::lanes<C>;
    alignas(64) C a[changed_pairs], b[changed_pairs];
    for (index h = 0; h < x.heads; ++h) {
        const auto from = x.source(h);
        for (index first = 0; first < pairs; first += changed_pairs) {
            const index count = std::min(changed_pairs, pairs - first);
            gather_pairs(read, from, first, count, pairs, a, b);
            // One register at a time: rotate_half_span here would add one more kernel to every call with a
            // scheme.
            index i = 0;
            simd::pack<C> c, s;
            for (; i + n <= count; i += n) {
                row.load(first + i, c, s);
                auto u = simd::load(static_cast<const C*>(a + i)),
                     v = simd::load(static_cast<const C*>(b + i));
                rotate_pairs(u, v, c, s);
                simd::store(a + i, u), simd::store(b + i, v);
            }
            if (i < count) {
                row.load_some(first + i, count - i, c, s);
                auto u = simd::load_some(static_cast<const C*>(a + i), count - i);
                auto v = simd::load_some(static_cast<const C*>(b + i), count - i);
                rotate_pairs(u, v, c, s);
                simd::store_some(a + i, u, count - i), simd::store_some(b + i, v, count - i);
            }
            scatter_pairs(write, x.to + h * x.to_stride, first, count, pairs, static_cast<const C*>(a),
                          static_cast<const C*>(b));
        }
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
