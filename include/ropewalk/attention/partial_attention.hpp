// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/attention/exact.hpp>

namespace ROPEWALK_NAMESPACE {

/// Attention over a part of the keys, in a form that can be joined with the other parts: what ranks of a
/// context-parallel ring, or passes over a cache that is read in pieces, hold on to.
/// Shapes:   out [batches, Lq, heads, value channels]; log_weight [batches, Lq, heads], the logarithm of the
///           sum of exp(score), -infinity where a query sees none of the keys.
/// Source:   online softmax, Milakov and Gimelshein 2018; Ring Attention, Liu et al. 2023.
template <class T>
struct partial_attention {
    heads_shape shape;
    std::vector<T> out;              ///< [batches, Lq, heads, value channels]
    std::vector<double> log_weight;  ///< [batches, Lq, heads]
};

/// Attends over k and v as attend does and keeps the weight.
/// Shapes, Requires, Throws: as attend; options.probabilities and scores are not read.
/// Cost:     attend with its probabilities written: two passes over the keys.
/// Accuracy: as attend.
/// Source:   as partial_attention.
template <class Q, class K, class V>
partial_attention<compute_t<Q>> make_partial_attention(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                                                       attend_options<compute_t<Q>> options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "make_partial_attention";
    constexpr const char* sizes = "extents must be >= 0 and fit in memory";
    partial_attention<T> part{{q.batches(), q.tokens(), q.heads(), v.channels()}, {}, {}};
    const index rows = detail::checked_product(who, sizes, {q.batches(), q.heads(), q.tokens()});
    const index pairs = detail::checked_product(who, sizes, {rows, k.tokens()});
    part.out.resize(static_cast<std::size_t>(detail::checked_product(who, sizes, {rows, v.channels()})));
    part.log_weight.assign(static_cast<std::size_t>(rows), -std::numeric_limits<double>::infinity());
    std::vector<T> scores(static_cast<std::size_t>(pairs)), probabilities(scores);
    options.scores = scores;
    options.probabilities = probabilities;
    attend(q, k, v, heads_view<T>(part.out.data(), part.shape), options);
    for (index b = 0, row = 0; b < q.batches(); ++b)
        for (index h = 0; h < q.heads(); ++h)
            for (index n = 0; n < q.tokens(); ++n, ++row) {
                // probability = exp(score - log weight), most exactly where it is largest; a NaN gets through
                const T* const p = probabilities.data() + row * k.tokens();
                index best = 0;
                for (index j = 1; j < k.tokens() && !std::isnan(p[best]); ++j)
                    if (!(p[j] <= p[best])) best = j;
                if (k.tokens() == 0 || p[best] == 0) continue;
                part.log_weight[static_cast<std::size_t>((b * q.tokens() + n) * q.heads() + h)] =
                    static_cast<double>(scores[static_cast<std::size_t>(row * k.tokens() + best)]) -
                    std::log(static_cast<double>(p[best]));
            }
    return part;
}

/// Attention over the keys of all parts. The result depends on the parts and their order alone, so ranks
/// that join them in one order get the same bits wherever each part was made.
/// Shapes:   out [batches, Lq, heads, value channels], that of every part.
/// Throws:   invalid_config on parts of other shapes, or whose out or log_weight has not the length of their
///           shape, as what came from another rank may have. No parts, or none that a query sees, give zeros.
/// Cost:     one pass over the parts.
/// Accuracy: f64 1e-13, f32 3e-6 of attend over all keys at once, for values of order 1.
/// Source:   as partial_attention.
template <class T, class O>
void join_partial_attention(std::span<const partial_attention<T>> parts, heads_view<O> out) {
    constexpr const char* who = "join_partial_attention";
    const index rows = detail::checked_product(who, "out must have extents >= 0 that fit in memory",
                                               {out.batches(), out.tokens(), out.heads()});
    detail::checked_product(who, "out must have extents >= 0 that fit in memory", {rows, out.channels()});
    for (const auto& part : parts) {
        const heads_shape& s = part.shape;
        const bool same = s.batches == out.batches() && s.tokens == out.tokens() && s.heads == out.heads() &&
                          s.channels == out.channels();
        detail::require(same, who, "parts must have the shape of out, tokens", s.tokens);
        detail::require(static_cast<index>(part.out.size()) == rows * out.channels(), who,
                        "parts must have an out of batches * Lq * heads * channels numbers", part.out.size());
        detail::require(static_cast<index>(part.log_weight.size()) == rows, who,
                        "parts must have a log_weight of batches * Lq * heads numbers",
                        part.log_weight.size());
    }
    const auto channels = static_cast<std::size_t>(out.channels());
    std::size_t row = 0;
    for (index b = 0; b < out.batches(); ++b)
        for (index n = 0; n < out.tokens(); ++n)
            for (index h = 0; h < out.heads(); ++h, ++row) {
                constexpr double nothing = -std::numeric_limits<double>::infinity();
                double peak = nothing, weight = 0;
                for (const auto& part : parts) peak = std::max(peak, part.log_weight[row]);
                const auto share = [&](const partial_attention<T>& part) {
                    const double w = part.log_weight[row];
                    return w == nothing ? 0.0 : std::exp(w - peak);
                };
                for (const auto& part : parts) weight += share(part);
                for (index c = 0; c < out.channels(); ++c) {
                    double sum = 0;
                    for (const auto& part : parts)
                        if (const double w = share(part); w != 0)
                            sum += w * static_cast<double>(
                                           part.out[row * channels + static_cast<std::size_t>(c)]);
                    detail::store(out.at(b, n, h) + c,
                                  static_cast<compute_t<O>>(weight == 0 ? 0 : sum / weight));
                }
            }
}

}  // namespace ROPEWALK_NAMESPACE
