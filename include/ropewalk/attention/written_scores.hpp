// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Writes attention scores out, computed by the same products as attention itself.
#pragma once

#include <algorithm>

#include <ropewalk/attention/tiled_core.hpp>

/// Scores for callers that want to see them, by the same products that attention uses.
/// Source: tiles of scores, Dao et al. 2022.
namespace ROPEWALK_NAMESPACE::detail {

/// Calls write(batch, head, query, key, score) once for every pair of a call. Scores is score_source or a
/// type with the same members, over the memory of `at`.
template <class T, class Scores, class F>
void each_score(Scores scores, const tiled_scratch<T>& at, const attention::tiled_options<T>& options,
                const F& write) noexcept {
    constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;
    const heads_shape q = scores.q(), k = scores.k();
    const auto of_tile = [&](const query_tile& tile, index row, index first_key, index keys) {
        const index queries = std::min(strip, tile.queries - row);
        const attention::score_tile part{tile.batch, tile.first_head, 1,   tile.first_query + row,
                                         queries,    first_key,       keys};
        scores.fill(tile, tile_piece{part, true, row, (queries + lanes - 1) / lanes}, at.scores);
        for (index n = 0; n < queries; ++n)
            for (index j = 0; j < keys; ++j)
                write(tile.batch, tile.first_head, part.first_query + n, first_key + j,
                      at.scores[j * strip + n]);
    };
    for (index b = 0; b < q.batches; ++b)
        for (index h = 0; h < q.heads; ++h)
            for (index first = 0; first < q.tokens; first += options.query_tile) {
                const query_tile tile{b, h, 1, first, std::min(options.query_tile, q.tokens - first), false};
                scores.read_queries(tile);
                for (index key = 0; key < k.tokens; key += options.key_tile) {
                    const index keys = std::min(options.key_tile, k.tokens - key);
                    scores.read_keys(b, h / (q.heads / k.heads), key, keys, false);
                    for (index row = 0; row < tile.queries; row += strip) of_tile(tile, row, key, keys);
                }
            }
}

}  // namespace ROPEWALK_NAMESPACE::detail
