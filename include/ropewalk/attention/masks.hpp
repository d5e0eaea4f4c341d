// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Attention masks that work by tiles: full, causal, document, block and dense masks, and intersections.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The strides of an optional array of `each` numbers that is given once, once per batch, or once per batch
/// and head.
struct spread {
    index per_batch = 0;
    index per_head = 0;
};
/// Throws invalid_config on any other size; size 0 means not given. batches * heads * each must fit.
inline spread spread_of(const char* who, const char* must, std::size_t size, index batches, index heads,
                        index each) {
    const auto n = static_cast<index>(size);
    if (n == each || n == 0) return {};
    if (n == batches * heads * each) return {heads * each, each};
    require(n == batches * each, who, must, n);
    return {each, 0};
}

}  // namespace ROPEWALK_NAMESPACE::detail

/// Masks: which keys a query sees. Attention works tile by tile, so a mask first gives the keys of a tile
/// that any query sees, and whether every query sees all of them; only if not is it evaluated pair by pair.
/// Keys that no query of a tile sees cost nothing.
namespace ROPEWALK_NAMESPACE::attention {

/// The extents of a call: batches, query heads, and query and key tokens of a batch.
struct score_extent {
    index batches = 1;
    index heads = 1;    ///< query heads
    index queries = 0;  ///< query tokens of a batch
    index keys = 0;     ///< key tokens of a batch
};

/// A tile of scores: some queries against some keys, of one batch and a few neighbouring query heads.
struct score_tile {
    index batch = 0;        ///< a tile lies in one batch
    index first_head = 0;   ///< the first query head
    index heads = 1;        ///< query heads from there on
    index first_query = 0;  ///< token of the first query
    index queries = 0;      ///< from there on
    index first_key = 0;    ///< token of the first key
    index keys = 0;         ///< from there on
};

/// The keys of a tile that are seen: none outside first_key .. first_key + keys - 1; within that range either
/// all (`complete`) or as mask.seen decides pair by pair. keys = 0: the tile is skipped.
struct seen_keys {
    index first_key = 0;    ///< the first key that may be seen
    index keys = 0;         ///< how many from there on; 0: the tile is skipped
    bool complete = false;  ///< whether each of them is seen by every query
};

/// A mask prepared for one call.
template <class M>
concept mask_rules = requires(const M& m, const score_tile& tile, index i) {
    { m.tile(tile) } -> std::same_as<seen_keys>;
    { m.seen(i, i, i, i) } -> std::convertible_to<bool>;  // batch, query head, query, key
};
/// A mask that `attend` accepts. `over(extent)` checks it against the extents of a call (throws
/// invalid_config) and returns its rules. Rules may also have `bias(batch, head, query, key)`, which is added
/// to the score of a pair that is seen.
template <class M>
concept attention_mask = requires(const M& m, const score_extent& whole) {
    { m.over(whole) } -> mask_rules;
};
/// Rules with a bias.
template <class R>
concept biased_rules = requires(const R& r, index i) {
    r.bias(i, i, i, i);
};

/// Every query sees every key: encoders, cross attention.
struct full_mask {
    /// See attention_mask.
    constexpr full_mask over(const score_extent&) const noexcept { return {}; }
    /// See seen_keys.
    constexpr seen_keys tile(const score_tile& t) const noexcept { return {t.first_key, t.keys, true}; }
    /// Always.
    constexpr bool seen(index, index, index, index) const noexcept { return true; }
};

/// Query n has the index first_query + n among the keys and sees keys up to that one; with a window, only the
/// last `window` of them, its own included.
/// Shapes: first_query: keys - queries when not given, as in decode and chunked prefill.
/// Throws: invalid_config on a negative window or a first_query beyond 2^60 (2^28 if an index has 32 bits,
///         here and below).
/// Source: sliding window, Beltagy et al. 2020; Jiang et al. 2023 (Mistral).
struct causal_mask {
    index window = 0;                       ///< 0: no window
    std::optional<index> first_query = {};  ///< key index of query 0

    struct rules {
        index window, first_query;
        constexpr seen_keys tile(const score_tile& t) const noexcept {
            const index first = first_query + t.first_query, last = first + t.queries - 1;
            const index begin = std::max(t.first_key, window > 0 ? first - window + 1 : t.first_key);
            const index end = std::min(t.first_key + t.keys, last + 1);
            const bool all = end - 1 <= first && (window == 0 || last - begin < window);
            return {begin, std::max<index>(end - begin, 0), all};
        }
        constexpr bool seen(index, index, index n, index j) const noexcept {
            const index distance = first_query + n - j;
            return distance >= 0 && (window == 0 || distance < window);
        }
    };
    /// See attention_mask.
    rules over(const score_extent& whole) const {
        constexpr index beyond = detail::limit_of_bits(60);
        detail::require(window >= 0 && window <= beyond, "causal_mask", "window must be >= 0", window);
        const index first = first_query.value_or(whole.keys - whole.queries);
        detail::require(first >= -beyond && first <= beyond, "causal_mask",
                        "first_query must be within " ROPEWALK_DETAIL_LIMIT_60, first);
        return {window, first};
    }
};

/// A query sees the keys of its own document, in both directions. Combine it with a causal mask by `both`.
/// Shapes: [tokens] or [batches, tokens]; key_documents empty: the queries' (as many keys as queries).
/// Throws: invalid_config on lengths that do not fit.
struct document_mask {
    std::span<const std::int32_t> query_documents = {};  ///< document of each query token
    std::span<const std::int32_t> key_documents = {};    ///< document of each key token

    struct rules {
        const std::int32_t *query, *key;
        index query_batch, key_batch;  // strides, 0 where all batches share

        seen_keys tile(const score_tile& t) const noexcept {
            const auto* const q = query + t.batch * query_batch + t.first_query;
            const auto* const k = key + t.batch * key_batch;
            const auto low_high = std::minmax_element(q, q + t.queries);
            const std::int32_t low = *low_high.first, high = *low_high.second;
            index begin = t.first_key, end = t.first_key + t.keys;
            const auto outside = [&](index j) { return k[j] < low || k[j] > high; };
            while (begin < end && outside(begin)) ++begin;
            while (begin < end && outside(end - 1)) --end;
            bool all = low == high;
            for (index j = begin; all && j < end; ++j) all = k[j] == low;
            return {begin, end - begin, all};
        }
        bool seen(index b, index, index n, index j) const noexcept {
            return query[b * query_batch + n] == key[b * key_batch + j];
        }
    };
    /// See attention_mask.
    rules over(const score_extent& whole) const {
        constexpr const char* who = "document_mask";
        const auto keys = key_documents.empty() ? query_documents : key_documents;
        detail::require(!key_documents.empty() || whole.queries == whole.keys || query_documents.empty(), who,
                        "key_documents must be given when keys are not as many as queries", "none");
        const auto stride = [&](auto documents, index tokens, const char* must) {
            const auto n = static_cast<index>(documents.size());
            detail::require(n == tokens || (n % std::max<index>(whole.batches, 1) == 0 &&
                                            n / std::max<index>(whole.batches, 1) == tokens),
                            who, must, n);
            return n == tokens ? index{0} : tokens;
        };
        const index query_batch =
            stride(query_documents, whole.queries, "query_documents must hold one number a query token");
        const index key_batch = stride(keys, whole.keys, "key_documents must hold one number a key token");
        return {query_documents.data(), keys.data(), query_batch, key_batch};
    }
};

/// Disjoint blocks of `block` neighbouring tokens (local windows, chunks). Combine it with a causal mask by
/// `both`.
/// Shapes: query n has the index first_query + n among the keys, as in causal_mask.
/// Throws: invalid_config when block is not positive, or on first_query outside 0 .. 2^60.
struct block_mask {
    index block = 64;                       ///< tokens of a block
    std::optional<index> first_query = {};  ///< keys - queries when not given

    struct rules {
        index block, first_query;
        constexpr seen_keys tile(const score_tile& t) const noexcept {
            const index low = (first_query + t.first_query) / block;
            const index high = (first_query + t.first_query + t.queries - 1) / block;
            const index begin = std::max(t.first_key, low * block);
            const index end = std::min(t.first_key + t.keys, (high + 1) * block);
            return {begin, std::max<index>(end - begin, 0), low == high};
        }
        constexpr bool seen(index, index, index n, index j) const noexcept {
            return (first_query + n) / block == j / block;
        }
    };
    /// See attention_mask.
    rules over(const score_extent& whole) const {
        constexpr index beyond = detail::limit_of_bits(60);
        detail::require(block > 0 && block <= beyond, "block_mask", "block must be > 0", block);
        const index first = first_query.value_or(whole.keys - whole.queries);
        detail::require(first >= 0 && first <= beyond, "block_mask", "first_query must be >= 0", first);
        return {block, first};
    }
};

/// A mask given as a matrix, an additive bias, or both, for patterns that no rule describes.
/// Shapes: `seen_pairs` (not 0: seen) and `bias` [queries, keys], [batches, queries, keys] or
///         [batches, query heads, queries, keys]; empty: not given. A bias of -infinity hides its pair.
/// Throws: invalid_config on sizes that do not fit.
template <class T>
struct dense_mask {
    std::span<const std::uint8_t> seen_pairs = {};  ///< not 0: seen
    std::span<const T> added = {};                  ///< added to each score

    struct rules {
        const std::uint8_t* pairs;
        const T* added;
        index pairs_batch, pairs_head, added_batch, added_head, keys;

        seen_keys tile(const score_tile& t) const noexcept {
            if (!pairs && !added) return {t.first_key, t.keys, true};
            return {t.first_key, t.keys, false};
        }
        bool seen(index b, index h, index n, index j) const noexcept {
            const index at = n * keys + j;
            if (pairs && pairs[b * pairs_batch + h * pairs_head + at] == 0) return false;
            return !added ||
                   added[b * added_batch + h * added_head + at] != -std::numeric_limits<T>::infinity();
        }
        T bias(index b, index h, index n, index j) const noexcept {
            return added ? added[b * added_batch + h * added_head + n * keys + j] : T(0);
        }
    };
    /// See attention_mask.
    rules over(const score_extent& whole) const {
        constexpr const char* who = "dense_mask";
        const index each =
            detail::checked_product(who, "queries * keys must fit", {whole.queries, whole.keys});
        detail::checked_product(who, "batches * heads * queries * keys must fit",
                                {whole.batches, whole.heads, each});
        const detail::spread of_pairs = detail::spread_of(
            who, "seen_pairs must hold queries * keys flags, or that a batch, or that a batch and head",
            seen_pairs.size(), whole.batches, whole.heads, each);
        const detail::spread of_added = detail::spread_of(
            who, "added must hold queries * keys numbers, or that a batch, or that a batch and head",
            added.size(), whole.batches, whole.heads, each);
        return {seen_pairs.empty() ? nullptr : seen_pairs.data(),
                added.empty() ? nullptr : added.data(),
                of_pairs.per_batch,
                of_pairs.per_head,
                of_added.per_batch,
                of_added.per_head,
                whole.keys};
    }
};

/// The intersection of two masks.
template <attention_mask A, attention_mask B>
struct both_masks {
    A first;   ///< one of the masks
    B second;  ///< the other

    template <class RA, class RB>
    struct rules {
        RA first;
        RB second;
        seen_keys tile(score_tile t) const noexcept {
            const seen_keys a = first.tile(t);
            if (a.keys == 0) return a;
            t.first_key = a.first_key;
            t.keys = a.keys;
            const seen_keys b = second.tile(t);
            return {b.first_key, b.keys, a.complete && b.complete};
        }
        bool seen(index b, index h, index n, index j) const noexcept {
            return first.seen(b, h, n, j) && second.seen(b, h, n, j);
        }
        auto bias(index b, index h, index n, index j) const noexcept
            requires(biased_rules<RA> || biased_rules<RB>) {
            if constexpr (biased_rules<RA> && biased_rules<RB>)
                return first.bias(b, h, n, j) + second.bias(b, h, n, j);
            else if constexpr (biased_rules<RA>)
                return first.bias(b, h, n, j);
            else
                return second.bias(b, h, n, j);
        }
    };
    /// See attention_mask.
    auto over(const score_extent& whole) const {
        return rules<decltype(first.over(whole)), decltype(second.over(whole))>{first.over(whole),
                                                                                second.over(whole)};
    }
};

/// both(causal_mask{}, document_mask{documents}): packed documents, causal inside each.
template <attention_mask A, attention_mask B>
both_masks<A, B> both(A first, B second) {
    return {first, second};
}

}  // namespace ROPEWALK_NAMESPACE::attention
