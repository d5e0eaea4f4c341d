// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reference scores of two rotations chosen by distance, for studies of HiRoPE, windowed RoPE and ReRoPE.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/banded.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/written_scores.hpp>

namespace ROPEWALK_NAMESPACE {

/// Which pairs of query and key count as near.
struct windowed_options {
    index window = 0;                       ///< near: |query index - key index| < window (strictly)
    bool causal = true;                     ///< a key after its query is hidden, near or not
    std::optional<double> scale = {};       ///< on q . k; 1 / sqrt(channels) when not given
    std::optional<index> first_query = {};  ///< key index of query 0; Lk - Lq when not given (decode)
    double hidden = 0;                      ///< written for a hidden pair
};

/// Scores of two rotations of the same queries and keys, for study (attend_banded computes attention with
/// them). The near rotation counts where the query is closer than `window` to the key, before or after it;
/// the far one elsewhere. The choice depends on the distance, so a single rotation cannot express it. See
/// banded_copies for HiRoPE, windowed RoPE and ReRoPE.
/// Shapes:   near_q and far_q [batches, Lq, heads, channels], near_k and far_k [batches, Lk, kv heads,
///           channels] (query head h reads kv head h / (heads / kv heads)); scores [batches, heads, Lq, Lk].
/// Throws:   invalid_config on sizes that disagree or a negative window.
/// Cost:     one product per pair, two on the edges of the window. attend_banded does not store scores.
/// Accuracy: sums in the type of the scores.
/// Source:   HiRoPE, Zhang et al. 2024; A2ATS, He et al. 2025 (vqkey/models/llama_masked.py).
template <class Q, class K>
void fill_windowed_scores(heads_view<Q> near_q, heads_view<K> near_k, heads_view<Q> far_q,
                          heads_view<K> far_k, std::span<compute_t<Q>> scores,
                          const windowed_options& options) {
    using T = compute_t<Q>;
    constexpr const char* who = "fill_windowed_scores";
    detail::require_readable(who, "near_q", near_q);
    detail::require_readable(who, "near_k", near_k);
    detail::require_readable(who, "far_q", far_q);
    detail::require_readable(who, "far_k", far_k);
    const index batches = near_q.batches(), queries = near_q.tokens(), heads = near_q.heads();
    const index keys = near_k.tokens(), channels = near_q.channels();
    detail::require_equal(who, "far_q.batches must be near_q's", batches, far_q.batches());
    detail::require_equal(who, "far_q.tokens must be near_q's", queries, far_q.tokens());
    detail::require_equal(who, "far_q.heads must be near_q's", heads, far_q.heads());
    detail::require_equal(who, "far_q.channels must be near_q's", channels, far_q.channels());
    detail::require_equal(who, "near_k.batches must be near_q's", batches, near_k.batches());
    detail::require_equal(who, "near_k.channels must be near_q's", channels, near_k.channels());
    detail::require_equal(who, "far_k.batches must be near_k's", near_k.batches(), far_k.batches());
    detail::require_equal(who, "far_k.tokens must be near_k's", keys, far_k.tokens());
    detail::require_equal(who, "far_k.heads must be near_k's", near_k.heads(), far_k.heads());
    detail::require_equal(who, "far_k.channels must be near_k's", channels, far_k.channels());
    detail::require(heads == 0 || (near_k.heads() > 0 && heads % near_k.heads() == 0), who,
                    "near_k.heads must be > 0 and divide near_q.heads", near_k.heads());
    detail::require_equal(
        who, "scores must hold batches * heads * Lq * Lk numbers",
        detail::checked_product(who, "batches * heads * Lq * Lk must fit", {batches, heads, queries, keys}),
        scores.size());
    detail::require(options.window >= 0, who, "window must be >= 0", options.window);
    const double scale = detail::checked_scale(who, options.scale, channels);
    const index first = detail::checked_first_query(who, options.first_query, queries, keys);
    if (scores.empty()) return;

    const attention::tiled_options<T> tiles;
    const auto cut = [&](detail::workspace_cutter memory) {
        return detail::tiled_scratch<T>(who, memory, channels, 0, tiles, 2);
    };
    std::vector<std::byte> workspace(static_cast<std::size_t>(cut({}).bytes));
    const detail::tiled_scratch<T> at = cut(detail::workspace_cutter(workspace));
    const detail::score_source<Q, K> near_scores(near_q, near_k, scale, at.queries, at.keys, at.row),
        far_scores(far_q, far_k, scale, at.far_queries, at.far_keys, at.row);
    const index window =
        std::min(options.window, detail::limit_of_bits(60));  // distances to it do not overflow
    detail::each_score(detail::banded_scores<Q, K>(near_scores, far_scores, window, first, at.far_scores), at,
                       tiles, [&](index b, index h, index n, index j, T score) {
                           const auto to =
                               static_cast<std::size_t>(((b * heads + h) * queries + n) * keys + j);
                           const bool hidden = options.causal && j > first + n;
                           scores[to] = hidden ? static_cast<T>(options.hidden) : score;
                       });
}

}  // namespace ROPEWALK_NAMESPACE
