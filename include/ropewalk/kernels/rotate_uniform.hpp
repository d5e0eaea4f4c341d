// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>

#include <ropewalk/angles/uniform_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// The uniform rows that data of type T reads: f64 for f64 data, f32 otherwise.
template <class T>
using uniform_rows_for = uniform_rows_view<compute_t<T>>;

namespace detail {

/// Pairs whose copies of one cos and sin stand side by side, in the L1 cache.
inline constexpr index uniform_pairs = 64;

/// All pairs of all heads of one token, in pieces of at most uniform_pairs pairs.
template <class Layout, class C, class... T>
ROPEWALK_ALWAYS_INLINE void rotate_uniform_token(Layout layout, const C* cos, const C* sin, index pairs,
                                                 row_factors<C> factors, token_heads<T>... x) noexcept {
    if constexpr (std::is_same_v<Layout, interleaved>) {
        for (index i = 0; i < pairs; i += uniform_pairs)
            rotate_interleaved_span(cos, sin, std::min(uniform_pairs, pairs - i), factors,
                                    x.at_channel(2 * i)...);
    } else {
        index half = pairs;
        if constexpr (!std::is_same_v<Layout, half_split>) half = layout.channels / 2;
        for (index group = 0; group < pairs; group += half)
            for (index i = 0; i < half; i += uniform_pairs)
                rotate_half_span(cos, sin, std::min(uniform_pairs, half - i), half, factors,
                                 x.at_channel(2 * group + i)...);
    }
    (void)layout;
}

template <turn Turn, class C, class... T>
void rotate_uniform_tensors(pair_layout layout, const uniform_rows_view<C>& rows, part_of part,
                            heads_view<T>... x) noexcept {
    const auto fits = [&](const auto& view) {
        return view.empty() || (view.channels() % 2 == 0 && layout.fits(view.channels() / 2) &&
                                rows.tokens >= view.batches() * view.tokens());
    };
    const bool match = (fits(x) && ...);
    ROPEWALK_EXPECT(match);
    if (!match || (x.empty() && ...)) return;
    const auto one = [&](auto view) {
        if (view.empty()) return;
        const index pairs = view.channels() / 2;
        const row_factors<C> factors{1, Turn == turn::forward ? C(1) : C(-1)};
        const work_part work = partition_tokens(view.batches() * view.tokens(), part);
        alignas(64) C cos[uniform_pairs];
        alignas(64) C sin[uniform_pairs];
        with_layout(layout, [&](auto kind) {
            for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
                const index row = rows.row(token);
                if (row < 0) continue;
                std::fill_n(cos, std::min(pairs, uniform_pairs), rows.cos[row]);
                std::fill_n(sin, std::min(pairs, uniform_pairs), rows.sin[row]);
                rotate_uniform_token(kind, cos, sin, pairs, factors, heads_of(view, token, work.heads));
            }
        });
    };
    (one(x), ...);
}

}  // namespace detail

/// rotate with one cos and sin a token for all its pairs and heads.
/// Shapes:   x [batches, tokens, heads, channels], channels even; rows hold batches * tokens tokens.
/// Requires, Accuracy, Threads: as rotate(x, rows_view).
/// Cost:     one pass over the data, 2 numbers of table a token.
/// Source:   DRoPE, Zhao et al. 2025.
template <static_layout Layout, class T>
void rotate(heads_view<T> x, std::type_identity_t<uniform_rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::forward>(Layout{}, rows, part, x);
}
template <static_layout Layout, class TQ, class TK>
void rotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<uniform_rows_for<TQ>> rows,
            part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::forward>(Layout{}, rows, part, q, k);
}
/// The same with a layout known at run time.
template <class T>
void rotate(pair_layout layout, heads_view<T> x, std::type_identity_t<uniform_rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::forward>(layout, rows, part, x);
}
template <class TQ, class TK>
void rotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<uniform_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::forward>(layout, rows, part, q, k);
}
/// The inverse, which is also the gradient: the magnitude is 1.
/// Source: R(-p) R(p) = 1.
template <static_layout Layout, class T>
void unrotate(heads_view<T> x, std::type_identity_t<uniform_rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::inverse>(Layout{}, rows, part, x);
}
template <class T>
void unrotate(pair_layout layout, heads_view<T> x, std::type_identity_t<uniform_rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::rotate_uniform_tensors<detail::turn::inverse>(layout, rows, part, x);
}

}  // namespace ROPEWALK_NAMESPACE
