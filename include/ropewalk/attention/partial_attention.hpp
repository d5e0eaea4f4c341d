// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Attention over part of the keys, and the join of parts, for context-parallel rings and pieces of a cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/attention/exact.hpp>

namespace ROPEWALK_NAMESPACE {

/// Attention over part of the keys, in a form that can be joined with that over other parts. Ranks of a
/// context-parallel ring, or passes over a cache that is read in pieces, keep such partial results.
/// Shapes:   out [batches, Lq, heads, value channels]; log_weight [batches, Lq, heads], the logarithm of the
///           sum of exp(score), -infinity where a query sees none of the keys.
/// Source:   online softmax, Milakov and Gimelshein 2018; Ring Attention, Liu et al. 2023.
template <class T>
struct partial_attention {
    heads_shape shape;
    std::vector<T> out;              ///< [batches, Lq, heads, value channels]
    std::vector<double> log_weight;  ///< [batches, Lq, heads]
};

namespace detail {

/// Runs attend into a new part, with its log-sum-exp.
template <attention::attention_mask Mask, class Q, class K, class V>
partial_attention<compute_t<Q>> make_part(const Mask& mask, heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                                          std::span<std::byte> workspace,
                                          attention::tiled_options<compute_t<Q>> options) {
    using T = compute_t<Q>;
    constexpr const char* who = "make_partial_attention";
    constexpr const char* sizes = "extents must be >= 0 and fit in memory";
    partial_attention<T> part{{q.batches(), q.tokens(), q.heads(), v.channels()}, {}, {}};
    const index rows = checked_product(who, sizes, {q.batches(), q.heads(), q.tokens()});
    part.out.resize(static_cast<std::size_t>(checked_product(who, sizes, {rows, v.channels()})));
    std::vector<T> log_weight(static_cast<std::size_t>(rows));
    options.log_weight = log_weight;
    attention::attend(mask, q, k, v, heads_view<T>(part.out.data(), part.shape), workspace, options);
    part.log_weight.assign(log_weight.begin(), log_weight.end());
    return part;
}

/// Joins the rows of parts into a row of attention over all keys: to = sum_p w_p row_p / sum_p w_p, or zeros
/// where all weights are 0. log_weight(p) is the logarithm of w_p, and row(p) its row.
template <class T, class L, class R>
void join_rows(index parts, index channels, const L& log_weight, const R& row, T* to) noexcept {
    constexpr double nothing = -std::numeric_limits<double>::infinity();
    double peak = nothing, weight = 0;
    for (index p = 0; p < parts; ++p) peak = std::max(peak, log_weight(p));
    const auto share = [&](index p) {
        const double w = log_weight(p);
        return w == nothing ? 0.0 : std::exp(w - peak);
    };
    for (index p = 0; p < parts; ++p) weight += share(p);
    std::fill_n(to, channels, T(0));
    for (index p = 0; p < parts; ++p) {
        const double w = share(p);
        if (w == 0) continue;
        const auto by = static_cast<T>(w / weight);
        const T* const from = row(p);
        for (index c = 0; c < channels; ++c) to[c] += by * from[c];
    }
}

}  // namespace detail

/// Attention over k and v as by attend, with the log-sum-exp of each row.
/// Shapes, Requires, Throws: as attend; options.probabilities and scores are not read.
/// Cost:     as attend, one pass over the keys; allocates the part and a workspace.
/// Accuracy: as attend; joined, f64 1e-12 and f32 3e-6 of attend over all keys at once.
/// Source:   as partial_attention.
template <class Q, class K, class V>
partial_attention<compute_t<Q>> make_partial_attention(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                                                       const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    detail::checked_product("make_partial_attention", "extents must be >= 0 and fit in memory",
                            {q.batches(), q.heads(), q.tokens(), k.tokens()});
    const attention::tiled_options<T> tiles{.scale = options.scale};
    std::vector<std::byte> workspace(static_cast<std::size_t>(attention::attend_workspace(q, k, v, tiles)));
    return detail::make_part(detail::option_mask<T>{options}, q, k, v, std::span<std::byte>(workspace),
                             tiles);
}

/// Attention over the keys of all parts. The result depends only on the parts and their order, so ranks that
/// join them in the same order get the same bits, wherever each part was computed.
/// Shapes:   out [batches, Lq, heads, value channels], that of every part.
/// Throws:   invalid_config on parts of other shapes, or whose out or log_weight has another length than the
///           shape requires (parts from other ranks are checked too). No parts, or none with a key that a
///           query sees, give zeros.
/// Cost:     one pass over the parts.
/// Accuracy: f64 1e-13, f32 3e-6 of attend over all keys at once, for values of order 1.
/// Source:   as partial_attention.
template <class T, class O>
void join_partial_attention(std::span<const partial_attention<T>> parts, heads_view<O> out) {
    constexpr const char* who = "join_partial_attention";
    detail::require_writable(who, "out", out);
    const index rows = detail::checked_product(who, "out must have extents >= 0 that fit in memory",
                                               {out.batches(), out.tokens(), out.heads()});
    detail::checked_product(who, "out must have extents >= 0 that fit in memory", {rows, out.channels()});
    for (const auto& part : parts) {
        const heads_shape& s = part.shape;
        const bool same = s.batches == out.batches() && s.tokens == out.tokens() && s.heads == out.heads() &&
                          s.channels == out.channels();
        detail::require(same, who, "parts must have the shape of out, tokens", s.tokens);
        detail::require_equal(who, "parts must have an out of batches * Lq * heads * channels numbers",
                              rows * out.channels(), part.out.size());
        detail::require_equal(who, "parts must have a log_weight of batches * Lq * heads numbers", rows,
                              part.log_weight.size());
    }
    const auto channels = static_cast<std::size_t>(out.channels());
    std::vector<T> joined(channels);
    std::size_t row = 0;
    for (index b = 0; b < out.batches(); ++b)
        for (index n = 0; n < out.tokens(); ++n)
            for (index h = 0; h < out.heads(); ++h, ++row) {
                detail::join_rows(
                    static_cast<index>(parts.size()), out.channels(),
                    [&](index p) { return parts[static_cast<std::size_t>(p)].log_weight[row]; },
                    [&](index p) { return parts[static_cast<std::size_t>(p)].out.data() + row * channels; },
                    joined.data());
                detail::write_row(joined.data(), out.at(b, n, h), out.channels());
            }
}

}  // namespace ROPEWALK_NAMESPACE
