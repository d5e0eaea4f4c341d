// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/exact.hpp>

namespace ROPEWALK_NAMESPACE {

/// Which pairs of query and key count as near.
struct windowed_options {
    index window = 0;                       ///< near: |query index - key index| < window (strictly)
    bool causal = true;                     ///< a key after its query is hidden, near or not
    std::optional<double> scale = {};       ///< on q . k; 1 / sqrt(channels) when not given
    std::optional<index> first_query = {};  ///< key index of query 0; Lk - Lq when not given (decode)
    double hidden = 0;                      ///< what is written for a hidden pair
};

/// Scores of two rotations of the same queries and keys: of the near one where the query is closer than
/// `window` to the key, before or after it, of the far one elsewhere. The distance decides, so no single
/// rotation can do this. HiRoPE: near plain positions, far hierarchical ones. Windowed RoPE (A2ATS): far
/// queries rotated to one distance, far keys not rotated (repeat_row). ReRoPE: the same with the distance of
/// the window.
/// Shapes:   near_q and far_q [batches, Lq, heads, channels], near_k and far_k [batches, Lk, kv heads,
///           channels] (query head h reads kv head h / (heads / kv heads)); scores [batches, heads, Lq, Lk].
/// Throws:   invalid_config on sizes that disagree or a negative window.
/// Cost:     one dot product a visible pair: two copies of the keys, not two score matrices.
/// Accuracy: sums in the type of the scores.
/// Source:   HiRoPE, Zhang et al. 2024; A2ATS, He et al. 2025 (vqkey/models/llama_masked.py).
template <class Q, class K, class FQ, class FK, class T>
void fill_windowed_scores(heads_view<Q> near_q, heads_view<K> near_k, heads_view<FQ> far_q,
                          heads_view<FK> far_k, std::span<T> scores, const windowed_options& options) {
    constexpr const char* who = "fill_windowed_scores";
    const auto same = [](const char* what, index want, index got) {
        detail::require(want == got, "fill_windowed_scores", what, got);
    };
    const index batches = near_q.batches(), queries = near_q.tokens(), heads = near_q.heads();
    const index keys = near_k.tokens(), channels = near_q.channels();
    same("far_q.batches must be near_q's", batches, far_q.batches());
    same("far_q.tokens must be near_q's", queries, far_q.tokens());
    same("far_q.heads must be near_q's", heads, far_q.heads());
    same("far_q.channels must be near_q's", channels, far_q.channels());
    same("near_k.batches must be near_q's", batches, near_k.batches());
    same("near_k.channels must be near_q's", channels, near_k.channels());
    same("far_k.batches must be near_k's", near_k.batches(), far_k.batches());
    same("far_k.tokens must be near_k's", keys, far_k.tokens());
    same("far_k.heads must be near_k's", near_k.heads(), far_k.heads());
    same("far_k.channels must be near_k's", channels, far_k.channels());
    detail::require(heads == 0 || (near_k.heads() > 0 && heads % near_k.heads() == 0), who,
                    "near_k.heads must be > 0 and divide near_q.heads", near_k.heads());
    same("scores must hold batches * heads * Lq * Lk numbers",
         detail::checked_product(who, "batches * heads * Lq * Lk must fit", {batches, heads, queries, keys}),
         static_cast<index>(scores.size()));
    detail::require(options.window >= 0, who, "window must be >= 0", options.window);
    const double scale =
        options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(channels, 1))));
    detail::require(std::isfinite(scale), who, "scale must be finite", scale);
    const index first = detail::checked_first_query(who, options.first_query, queries, keys);
    const index group = heads == 0 ? 1 : heads / near_k.heads();

    const auto dot = [channels](const auto* q, const auto* k) {
        T sum = 0;
        for (index c = 0; c < channels; ++c) sum += detail::loaded<T>(q + c) * detail::loaded<T>(k + c);
        return sum;
    };
    T* out = scores.data();
    for (index b = 0; b < batches; ++b)
        for (index h = 0; h < heads; ++h)
            for (index n = 0; n < queries; ++n)
                for (index j = 0; j < keys; ++j, ++out) {
                    const index distance = first + n - j;
                    if (options.causal && distance < 0) {
                        *out = static_cast<T>(options.hidden);
                    } else if (distance < options.window && -distance < options.window) {
                        *out = static_cast<T>(scale) * dot(near_q.at(b, n, h), near_k.at(b, j, h / group));
                    } else {
                        *out = static_cast<T>(scale) * dot(far_q.at(b, n, h), far_k.at(b, j, h / group));
                    }
                }
}

/// Attention over these scores: one softmax over near and far keys together.
/// Shapes:   as fill_windowed_scores; v [batches, Lk, kv heads, value channels], out [batches, Lq, heads,
///           value channels].
/// Throws:   invalid_config as fill_windowed_scores and attend.
/// Cost:     the scores are held for all heads: for study and for short sequences.
/// Accuracy: as attend.
/// Source:   HiRoPE, Zhang et al. 2024.
template <class Q, class K, class FQ, class FK, class V, class O>
void attend_windowed(heads_view<Q> near_q, heads_view<K> near_k, heads_view<FQ> far_q, heads_view<FK> far_k,
                     heads_view<V> v, heads_view<O> out, windowed_options options) {
    using T = compute_t<Q>;
    options.hidden = -std::numeric_limits<double>::infinity();
    std::vector<T> scores(static_cast<std::size_t>(
        detail::checked_product("attend_windowed", "scores must fit in memory, extents be >= 0",
                                {near_q.batches(), near_q.heads(), near_q.tokens(), near_k.tokens()})));
    fill_windowed_scores(near_q, near_k, far_q, far_k, std::span<T>(scores), options);
    // Queries and keys of no channels: the scores are the bias alone.
    attend(near_q.channel_slice(0, 0), near_k.channel_slice(0, 0), v, out, {.bias = scores});
}

}  // namespace ROPEWALK_NAMESPACE
