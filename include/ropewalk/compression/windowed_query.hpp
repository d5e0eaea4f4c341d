// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Channels (first, first + half) of `count` <= lanes pairs, turned by two rows; one load each.
template <class S, class T, class Load, class Store>
ROPEWALK_ALWAYS_INLINE void turn_twice(const S* from, T* near, T* far, const T* const (&rows)[4], index half,
                                       Load load, Store store) noexcept {
    const auto x = load(from), y = load(from + half);
    const auto nc = load(rows[0]), ns = load(rows[1]), fc = load(rows[2]), fs = load(rows[3]);
    store(near, simd::fma(x, nc, -(y * ns)));
    store(near + half, simd::fma(y, nc, x * ns));
    store(far, simd::fma(x, fc, -(y * fs)));
    store(far + half, simd::fma(y, fc, x * fs));
}

template <class S, class T, class Load, class Store>
ROPEWALK_ALWAYS_INLINE void turn_neighbours_twice(const S* from, T* near, T* far, simd::pack<T> nc,
                                                  simd::pack<T> ns, simd::pack<T> fc, simd::pack<T> fs,
                                                  Load load, Store store) noexcept {
    const auto x = load(from);
    const auto swapped = simd::swap_pairs(x);
    store(near, simd::fma(x, nc, swapped * simd::negate_even(ns)));
    store(far, simd::fma(x, fc, swapped * simd::negate_even(fs)));
}

template <class S, class T>
void rotate_head_twice(pair_layout layout, const S* from, T* near, T* far, const T* const (&rows)[4],
                       index pairs) noexcept {
    constexpr index n = simd::lanes<T>;
    if (layout.kind == pair_layout::kind_type::interleaved) {
        for (index i = 0; i < pairs; i += n) {
            const index some = std::min(n, pairs - i);
            const auto nc = simd::load_some(rows[0] + i, some), ns = simd::load_some(rows[1] + i, some);
            const auto fc = simd::load_some(rows[2] + i, some), fs = simd::load_some(rows[3] + i, some);
            const auto part = [&](index first, index channels, auto duplicate) {
                if (channels <= 0) return;
                const index c = 2 * i + first;
                turn_neighbours_twice<S, T>(
                    from + c, near + c, far + c, duplicate(nc), duplicate(ns), duplicate(fc), duplicate(fs),
                    [=](const auto* p) { return simd::load_some(p, channels); },
                    [=](T* p, auto v) { simd::store_some(p, v, channels); });
            };
            part(0, std::min(n, 2 * some), [](auto v) { return simd::duplicate_low(v); });
            part(n, 2 * some - n, [](auto v) { return simd::duplicate_high(v); });
        }
        return;
    }
    const index half = layout.group_of(pairs) / 2;
    for (index group = 0; group < pairs; group += half) {
        const index c = 2 * group;
        for (index i = 0; i < half; i += n) {
            const index some = std::min(n, half - i), pair = group + i;
            const T* const at[4] = {rows[0] + pair, rows[1] + pair, rows[2] + pair, rows[3] + pair};
            if (some == n) {
                turn_twice(
                    from + c + i, near + c + i, far + c + i, at, half,
                    [](const auto* p) { return simd::load(p); }, [](T* p, auto v) { simd::store(p, v); });
            } else {
                turn_twice(
                    from + c + i, near + c + i, far + c + i, at, half,
                    [=](const auto* p) { return simd::load_some(p, some); },
                    [=](T* p, auto v) { simd::store_some(p, v, some); });
            }
        }
    }
}

}  // namespace detail

/// One query, rotated twice in one pass: at its own position for keys inside a window, and at a fixed one
/// for keys beyond it, which are then used as they are (windowed RoPE).
/// Shapes:   q [batches, tokens, heads, 2 * pairs] of any storage; near and far alike, in the compute type.
/// Requires: rows_near and rows_far hold batches * tokens tokens; outputs overlap neither q nor each other.
///           Untouched tokens are not written. Views that do not fit are an assertion in debug and left
///           alone in release.
/// Cost:     q is read once. No allocation.
/// Accuracy: as rotate, bit for bit.
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS vqkey/models/llama_masked.py.
template <class S, class T>
void rotate_twice(pair_layout layout, heads_view<S> q, heads_view<T> near, heads_view<T> far,
                  std::type_identity_t<rows_view<T>> rows_near,
                  std::type_identity_t<rows_view<T>> rows_far) noexcept {
    static_assert(std::is_same_v<compute_t<S>, T>, "results in the queries' compute type");
    const auto same = [&](const heads_view<T>& to) {
        return to.batches() == q.batches() && to.tokens() == q.tokens() && to.heads() == q.heads() &&
               to.channels() == q.channels();
    };
    const bool match = same(near) && same(far) && detail::rows_match(layout, q, rows_near) &&
                       detail::rows_match(layout, q, rows_far);
    ROPEWALK_EXPECT(match);
    if (!match || q.empty()) return;
    for (index b = 0; b < q.batches(); ++b)
        for (index t = 0; t < q.tokens(); ++t) {
            const index token = b * q.tokens() + t;
            const index own = rows_near.row(token), fixed = rows_far.row(token);
            if (own < 0 || fixed < 0) continue;
            for (index h = 0; h < q.heads(); ++h) {
                const T* const rows[4] = {rows_near.cos_at(own, h), rows_near.sin_at(own, h),
                                          rows_far.cos_at(fixed, h), rows_far.sin_at(fixed, h)};
                detail::rotate_head_twice(layout, reinterpret_cast<const stored_t<S>*>(q.at(b, t, h)),
                                          near.at(b, t, h), far.at(b, t, h), rows, rows_near.pairs);
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE
