// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Partial attention with the caller's workspace, and masks by explicit positions for sequence shards.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <ropewalk/attention/partial_attention.hpp>
#include <ropewalk/attention/tiled.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// A causal mask by explicit positions: query n has position query_positions[n], key j has key_positions[j],
/// and a query sees keys up to its own position. For shards of a sequence: zigzag rings, chunks that arrive
/// in any order.
/// Shapes: [queries] and [keys].
/// Throws: invalid_config on lengths that do not fit.
/// Source: Ring Attention, Liu et al. 2023.
struct position_mask {
    std::span<const std::int32_t> query_positions = {};  ///< position of each query
    std::span<const std::int32_t> key_positions = {};    ///< position of each key

    struct rules {
        const std::int32_t *query, *key;

        seen_keys tile(const score_tile& t) const noexcept {
            const auto of_queries =
                std::minmax_element(query + t.first_query, query + t.first_query + t.queries);
            const std::int32_t least = *of_queries.first, most = *of_queries.second;
            index begin = t.first_key, end = t.first_key + t.keys;
            while (begin < end && key[begin] > most) ++begin;
            while (begin < end && key[end - 1] > most) --end;
            bool all = true;
            for (index j = begin; all && j < end; ++j) all = key[j] <= least;
            return {begin, end - begin, all};
        }
        bool seen(index, index, index n, index j) const noexcept { return key[j] <= query[n]; }
    };
    /// See attention_mask.
    rules over(const score_extent& whole) const {
        constexpr const char* who = "position_mask";
        detail::require_equal(who, "query_positions must hold one number a query", whole.queries,
                              query_positions.size());
        detail::require_equal(who, "key_positions must hold one number a key", whole.keys,
                              key_positions.size());
        return {query_positions.data(), key_positions.data()};
    }
};

/// Attention over part of the keys, with its log-sum-exp, for join_partial_attention. Shapes, Requires,
/// Throws: as attend; workspace and options as there, log_weight is not read.
/// Cost:     as attend, one pass over the keys; allocates the part.
/// Accuracy: as attend; joined, f64 1e-12 and f32 3e-6 of attend over all keys at once.
/// Source:   online softmax, Milakov and Gimelshein 2018; Ring Attention, Liu et al. 2023.
template <attention_mask Mask, class Q, class K, class V>
partial_attention<compute_t<Q>> make_partial_attention(const Mask& mask, heads_view<Q> q, heads_view<K> k,
                                                       heads_view<V> v, std::span<std::byte> workspace,
                                                       const tiled_options<compute_t<Q>>& options = {}) {
    return detail::make_part(mask, q, k, v, workspace, options);
}

}  // namespace ROPEWALK_NAMESPACE::attention
