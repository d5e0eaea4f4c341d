// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend with masks given as options: exact softmax attention that allocates its own workspace.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/attention/written_scores.hpp>

namespace ROPEWALK_NAMESPACE {

/// Which keys a query sees, how scores are formed and what else is written. A key is seen if it satisfies
/// every condition that is given. T is the type of the arithmetic: double for f64 queries, else float.
/// Shapes: Lq query tokens, Lk key tokens. `mask` and `bias` [Lq, Lk], [batches, Lq, Lk] or
///         [batches, query heads, Lq, Lk]; documents [tokens] or [batches, tokens]; `probabilities` and
///         `scores` [batches, query heads, Lq, Lk]. An empty span means: not given, or not wanted.
template <class T>
struct attend_options {
    std::optional<double> scale = {};         ///< on q . k; 1 / sqrt(channels) when not given
    bool causal = false;                      ///< query n sees keys 0 .. first_query + n
    index window = 0;                         ///< > 0: only keys closer than this, the query's own included
    std::optional<index> first_query = {};    ///< key index of query 0; Lk - Lq when not given (decode)
    std::span<const std::uint8_t> mask = {};  ///< not 0: seen
    std::span<const T> bias = {};             ///< added to the score; -infinity hides a key
    std::span<const std::int32_t> query_documents = {};  ///< a query sees the keys of its own document
    std::span<const std::int32_t> key_documents = {};    ///< the queries' when empty and Lq = Lk
    std::span<T> probabilities = {};                     ///< written when given; 0 where hidden
    std::span<T> scores = {};                            ///< scale * q . k + bias, hidden keys included
};

namespace detail {

/// The key index of query 0, checked so that distances to keys cannot overflow.
inline index checked_first_query(const char* who, std::optional<index> given, index queries, index keys) {
    constexpr index most = detail::limit_of_bits(53);
    const index first = given.value_or(keys - queries);
    require(first >= -most && first <= most, who, "first_query must be within +-" ROPEWALK_DETAIL_LIMIT_53,
            first);
    return first;
}

/// The conditions in attend's options, as a mask.
template <class T>
struct option_mask {
    const attend_options<T>& options;

    struct rules {
        index window, first_query;
        bool causal, by_document;
        attention::document_mask::rules documents;
        typename attention::dense_mask<T>::rules dense;

        attention::seen_keys tile(attention::score_tile t) const noexcept {
            const index first = first_query + t.first_query, last = first + t.queries - 1;
            index begin = t.first_key, end = t.first_key + t.keys;
            if (causal) end = std::min(end, last + 1);
            if (window > 0) {
                begin = std::max(begin, first - window + 1);
                end = std::min(end, last + window);
            }
            if (begin >= end) return {t.first_key, 0, false};
            const bool all = !dense.pairs && !dense.added && (!causal || end - 1 <= first) &&
                             (window == 0 || (last - begin < window && end - 1 - first < window));
            if (!by_document) return {begin, end - begin, all};
            t.first_key = begin;
            t.keys = end - begin;
            const attention::seen_keys own = documents.tile(t);
            return {own.first_key, own.keys, all && own.complete};
        }
        bool seen(index b, index h, index n, index j) const noexcept {
            const index ahead = j - (first_query + n);
            if (causal && ahead > 0) return false;
            if (window > 0 && (ahead >= window || -ahead >= window)) return false;
            if (by_document && !documents.seen(b, h, n, j)) return false;
            return dense.seen(b, h, n, j);
        }
        T bias(index b, index h, index n, index j) const noexcept { return dense.bias(b, h, n, j); }
    };
    rules over(const attention::score_extent& whole) const;
};

template <class T>
auto option_mask<T>::over(const attention::score_extent& whole) const -> rules {
    constexpr const char* who = "attend";
    constexpr index unlimited = limit_of_bits(60);  // in effect no limit, and distances to it do not overflow
    require(options.window >= 0, who, "window must be >= 0", options.window);
    const index first = checked_first_query(who, options.first_query, whole.queries, whole.keys);
    const index each = whole.queries * whole.keys;
    const spread of_mask =
        spread_of(who, "mask must hold Lq * Lk flags, or that a batch, or that a batch and head",
                  options.mask.size(), whole.batches, whole.heads, each);
    const spread of_bias =
        spread_of(who, "bias must hold Lq * Lk numbers, or that a batch, or that a batch and head",
                  options.bias.size(), whole.batches, whole.heads, each);
    auto key_documents = options.key_documents;
    if (options.query_documents.empty()) {
        require(key_documents.empty(), who, "key_documents must come with query_documents",
                key_documents.size());
    } else if (key_documents.empty()) {
        require(whole.queries == whole.keys, who, "key_documents must be given when Lk differs from Lq",
                "none");
        key_documents = options.query_documents;
    }
    const spread of_queries = spread_of(who, "query_documents must hold one number a query token",
                                        options.query_documents.size(), whole.batches, 1, whole.queries);
    const spread of_keys = spread_of(who, "key_documents must hold one number a key token",
                                     key_documents.size(), whole.batches, 1, whole.keys);
    return {std::min(options.window, unlimited),
            first,
            options.causal,
            !options.query_documents.empty(),
            {options.query_documents.data(), key_documents.data(), of_queries.per_batch, of_keys.per_batch},
            {options.mask.empty() ? nullptr : options.mask.data(),
             options.bias.empty() ? nullptr : options.bias.data(), of_mask.per_batch, of_mask.per_head,
             of_bias.per_batch, of_bias.per_head, whole.keys}};
}

/// Writes scale * q . k + bias of every pair, hidden ones too; -infinity where the bias is -infinity.
template <class Q, class K, class Rules>
void write_scores(heads_view<Q> q, heads_view<K> k, double scale, const Rules& rules,
                  std::span<compute_t<Q>> scores) {
    using T = compute_t<Q>;
    const attention::tiled_options<T> tiles;
    const auto cut = [&](workspace_cutter memory) {
        return tiled_scratch<T>("attend", memory, q.channels(), 0, tiles);
    };
    std::vector<std::byte> workspace(static_cast<std::size_t>(cut({}).bytes));
    const tiled_scratch<T> at = cut(workspace_cutter(workspace));
    each_score(score_source(q, k, scale, at.queries, at.keys, at.row), at, tiles,
               [&](index b, index h, index n, index j, T score) {
                   constexpr T hidden = -std::numeric_limits<T>::infinity();
                   const T bias = rules.bias(b, h, n, j);
                   const index row = (b * q.heads() + h) * q.tokens() + n;
                   // The bias is tested before it is added: NaN - infinity would not hide a NaN.
                   scores[static_cast<std::size_t>(row * k.tokens() + j)] =
                       bias == hidden ? hidden : score + bias;
               });
}

}  // namespace detail

/// Exact softmax attention: out = softmax(scale q k^T + bias) v, over the keys each query may see. It runs
/// attention::attend with masks as options, a workspace of its own, and scores on request.
/// Shapes:   q [batches, Lq, heads, channels], k [batches, Lk, kv heads, channels], v [batches, Lk, kv heads,
///           value channels], out [batches, Lq, heads, value channels]; any strides, each of any element
///           type. The kv heads divide the heads: query head h reads kv head h / (heads / kv heads).
/// Requires: `out` shares no memory with q, k or v.
/// Throws:   invalid_config on sizes that disagree, a negative window or a scale that is not finite.
/// Cost:     as attention::attend under the same mask, plus one pass over the keys for probabilities and one
///           for scores, when they are wanted. Allocates the workspace, which does not grow with the tokens.
/// Accuracy: f64 within 1e-13 and f32 within 3e-6 of extended precision, for values and scores of order 1.
///           A query that sees no key gets zeros. A key that is hidden from a query, also by a bias of
///           -infinity, cannot change its result, even if it is NaN; a query that sees a NaN gets NaN.
/// Source:   Vaswani et al. 2017; online softmax, Milakov and Gimelshein 2018; grouped heads, Ainslie et al.
///           2023.
///
///     attend(q, k_cache, v_cache, out, {.causal = true});            // prefill and decode
///     attend(q, k, v, out, {.causal = true, .window = 4096});        // sliding window
///     attend(q, k, v, out, {.query_documents = document_of_token});  // block-diagonal
template <class Q, class K, class V, class O>
void attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
            const attend_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend";
    detail::check_attention(who, q, k, v, out);
    const index all = detail::checked_product(who, "batches * heads * Lq * Lk must fit",
                                              {q.batches(), q.heads(), q.tokens(), k.tokens()});
    for (const std::size_t wanted : {options.probabilities.size(), options.scores.size()})
        detail::require(wanted == 0 || static_cast<index>(wanted) == all, who,
                        "probabilities and scores must hold batches * heads * Lq * Lk numbers", wanted);
    const attention::tiled_options<T> tiles{.scale = options.scale, .probabilities = options.probabilities};
    const detail::option_mask<T> mask{options};
    std::vector<std::byte> workspace(static_cast<std::size_t>(attention::attend_workspace(q, k, v, tiles)));
    attention::attend(mask, q, k, v, out, std::span<std::byte>(workspace), tiles);
    if (options.scores.empty()) return;
    const auto rules = mask.over({q.batches(), q.heads(), q.tokens(), k.tokens()});
    detail::write_scores(q, k, detail::checked_scale(who, options.scale, q.channels()), rules,
                         options.scores);
}

}  // namespace ROPEWALK_NAMESPACE
