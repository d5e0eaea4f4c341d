// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The indexers of sparse attention (DeepSeek V3.2 and V4, GLM-5): scores that select keys, and the selection.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/tiled_core.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/fit_view.hpp>

/// The indexers of sparse attention: a few extra heads whose scores select the keys that the main attention
/// sees. DeepSeek V3.2 and GLM-5 select tokens; DeepSeek V4 selects compressed keys. The indexer's queries
/// and keys are rotated by the ordinary calls, on their own slice and in their own layout (V3.2: the first 64
/// channels, half-split, while the main attention is interleaved; GLM-5: interleaved; V4: the last 64
/// channels, interleaved).
/// Source: DeepSeek-V3.2-Exp inference/model.py Indexer; huggingface/transformers models/deepseek_v32,
///         glm_moe_dsa, deepseek_v4.
namespace ROPEWALK_NAMESPACE::sparse_index {

/// Layer norm of every head of every token, in place, for the indexer's keys before their rotation.
/// Shapes:   x [batches, tokens, heads, channels]; weight, bias [channels].
/// Throws:   invalid_config on other sizes or an epsilon that is not finite and >= 0.
/// Accuracy: arithmetic in f64.
/// Source:   DeepSeek-V3.2-Exp inference/model.py (eps 1e-6).
template <class T>
void normalize_keys(heads_view<T> x, std::span<const compute_t<T>> weight, std::span<const compute_t<T>> bias,
                    double epsilon = 1e-6) {
    constexpr const char* who = "sparse_index::normalize_keys";
    detail::require_writable(who, "x", x);
    detail::require_equal(who, "weight must hold channels numbers", x.channels(), weight.size());
    detail::require_equal(who, "bias must hold channels numbers", x.channels(), bias.size());
    detail::require(std::isfinite(epsilon) && epsilon >= 0, who, "epsilon must be finite and >= 0", epsilon);
    const auto count = static_cast<double>(x.channels());
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n)
            for (index h = 0; h < x.heads(); ++h) {
                auto* const head = reinterpret_cast<stored_t<T>*>(x.at(b, n, h));
                const auto value = [&](index c) {
                    return static_cast<double>(static_cast<compute_t<T>>(head[c]));
                };
                double mean = 0, spread = 0;
                for (index c = 0; c < x.channels(); ++c) mean += value(c) / count;
                for (index c = 0; c < x.channels(); ++c)
                    spread += (value(c) - mean) * (value(c) - mean) / count;
                const double by = 1 / std::sqrt(spread + epsilon);
                for (index c = 0; c < x.channels(); ++c) {
                    const auto i = static_cast<std::size_t>(c);
                    head[c] = static_cast<stored_t<T>>(
                        static_cast<compute_t<T>>((value(c) - mean) * by * static_cast<double>(weight[i]) +
                                                  static_cast<double>(bias[i])));
                }
            }
}

/// Multiplies every head by the Hadamard matrix in Sylvester's order, divided by sqrt(channels), in place.
/// The map is its own inverse. Applied to both queries and keys it does not change scores; it spreads
/// outliers before quantisation.
/// Shapes:   x [batches, tokens, heads, channels], channels a power of two.
/// Throws:   invalid_config on any other number of channels.
/// Cost:     channels log2(channels) additions per head.
/// Source:   Sylvester 1867; DeepSeek-V3.2-Exp inference/model.py rotate_activation.
template <class T>
void hadamard(heads_view<T> x) {
    const index size = x.channels();
    detail::require_writable("hadamard", "x", x);
    detail::require(size >= 1 && (size & (size - 1)) == 0, "hadamard", "channels must be a power of two",
                    size);
    std::vector<compute_t<T>> v(static_cast<std::size_t>(size));
    const auto by = static_cast<compute_t<T>>(1 / std::sqrt(static_cast<double>(size)));
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n)
            for (index h = 0; h < x.heads(); ++h) {
                auto* const head = reinterpret_cast<stored_t<T>*>(x.at(b, n, h));
                for (index c = 0; c < size; ++c)
                    v[static_cast<std::size_t>(c)] = static_cast<compute_t<T>>(head[c]);
                for (index step = 1; step < size; step *= 2)
                    for (index c = 0; c < size; ++c) {
                        if (c & step) continue;
                        auto &low = v[static_cast<std::size_t>(c)],
                             &high = v[static_cast<std::size_t>(c + step)];
                        const auto sum = low + high;
                        high = low - high;
                        low = sum;
                    }
                for (index c = 0; c < size; ++c)
                    head[c] = static_cast<stored_t<T>>(v[static_cast<std::size_t>(c)] * by);
            }
}

/// score[i, j] = sum over heads of weight[i, h] / sqrt(heads) * relu(q[i, h] . k[j] / sqrt(channels)).
/// Shapes:   q [tokens, heads, channels], k [keys, 1, channels], one batch; weights [tokens, heads], which
///           may be negative; the result [tokens, keys].
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     tokens * keys * heads * channels multiply-adds.
/// Accuracy: sums in the compute type.
/// Source:   DeepSeek-V3.2-Exp inference/model.py; huggingface/transformers DeepseekV32Indexer.
template <class T>
std::vector<compute_t<T>> make_scores(heads_view<const T> q, heads_view<const T> k,
                                      std::span<const compute_t<T>> weights) {
    using C = compute_t<T>;
    constexpr const char* who = "sparse_index::make_scores";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    detail::require(q.batches() == 1 && k.batches() == 1, who, "batches must be 1", q.batches());
    detail::require(k.heads() == 1, who, "k must have one head for all", k.heads());
    detail::require_equal(who, "k.channels must be q's", q.channels(), k.channels());
    detail::require_equal(who, "weights must hold tokens * heads numbers", q.tokens() * q.heads(),
                          weights.size());
    std::vector<C> scores(static_cast<std::size_t>(
        detail::checked_product(who, "tokens and keys must fit in memory", {q.tokens(), k.tokens()})));
    const auto root = [](index n) { return std::sqrt(static_cast<double>(std::max<index>(n, 1))); };
    const index heads = q.heads(), strip = detail::strip_lanes<C>, lanes = simd::lanes<C>;
    if (scores.empty() || heads == 0) return scores;  // without heads all scores are 0
    constexpr index tile = 64;
    const index strips = (heads + strip - 1) / strip, width = detail::whole_packs<C>(q.channels());
    const auto numbers = [](index n) { return detail::aligned_vector<C>(static_cast<std::size_t>(n)); };
    auto queries = numbers(strips * width * strip), keys = numbers(tile * width), row = numbers(width),
         products = numbers(tile * strip), weight = numbers(strips * strip);
    // A positive factor commutes with relu.
    detail::score_source<const T, const T> source(q, k, 1 / (root(q.channels()) * root(heads)),
                                                  queries.data(), keys.data(), row.data());
    for (index i = 0; i < q.tokens(); ++i) {
        const detail::query_tile of{0, 0, heads, i, 1, false};
        source.read_queries(of);
        std::copy_n(weights.data() + i * heads, heads, weight.data());
        for (index first = 0; first < k.tokens(); first += tile) {
            const index count = std::min(tile, k.tokens() - first);
            C* const to = scores.data() + i * k.tokens() + first;
            source.read_keys(0, 0, first, count, false);
            for (index h = 0; h < heads; h += strip) {
                const index packs = (std::min(strip, heads - h) + lanes - 1) / lanes;
                source.fill(of, h, packs, first, count, products.data());
                for (index j = 0; j < count; ++j) {
                    auto sum = simd::broadcast(C(0));
                    for (index p = 0; p < packs; ++p)
                        sum = simd::fma(simd::load(weight.data() + h + p * lanes),
                                        simd::larger(simd::broadcast(C(0)),
                                                     simd::load(products.data() + j * strip + p * lanes)),
                                        sum);
                    to[j] += detail::lane_sum<C>(sum);
                }
            }
        }
    }
    return scores;
}

/// The number of keys that each query may select from: its own and all before it.
/// Shapes:   [tokens].
/// Source:   the causal mask.
inline std::vector<index> visible_tokens(index tokens, index first = 0) {
    std::vector<index> all;
    for (index n = 0; n < tokens; ++n) all.push_back(first + n + 1);
    return all;
}
/// The number of complete windows of `rate` tokens at each query's position: floor((position + 1) / rate).
/// Shapes:   positions [tokens] -> [tokens].
/// Throws:   invalid_config on a rate < 1 or a negative position.
/// Source:   huggingface/transformers models/deepseek_v4.
inline std::vector<index> visible_windows(std::span<const std::int64_t> positions, index rate) {
    detail::require(rate >= 1, "visible_windows", "rate must be >= 1", rate);
    std::vector<index> all;
    for (const std::int64_t p : positions) {
        detail::require(p >= 0, "visible_windows", "positions must be >= 0", p);
        all.push_back(static_cast<index>((p + 1) / rate));
    }
    return all;
}

/// The selected keys of every query, best first; -1 where fewer are visible. Of equal scores the earlier key
/// comes first.
/// Shapes:   scores [tokens, keys], visible [tokens]; the result [tokens, count].
/// Throws:   invalid_config on count < 0, sizes that disagree, or a visible count below 0 (one above `keys`
///           means all keys).
/// Cost:     per query, a partition of the visible keys and a sort of the selected ones.
/// Source:   DeepSeek-V3.2-Exp inference/model.py (index_topk).
template <class T>
std::vector<index> select(std::span<const T> scores, index keys, std::span<const index> visible,
                          index count) {
    constexpr const char* who = "sparse_index::select";
    detail::require(count >= 0, who, "count must be >= 0", count);
    const auto tokens = static_cast<index>(visible.size());
    detail::require_equal(who, "scores must hold tokens * keys numbers",
                          detail::checked_product(who, "keys must be >= 0", {tokens, keys}), scores.size());
    std::vector<index> chosen(static_cast<std::size_t>(detail::checked_product(
                                  who, "tokens and count must fit in memory", {tokens, count})),
                              index{-1});
    std::vector<index> order;
    for (index n = 0; n < tokens; ++n) {
        const index seen = std::min(visible[static_cast<std::size_t>(n)], keys);
        detail::require(seen >= 0, who, "visible must be >= 0", seen);
        order.resize(static_cast<std::size_t>(seen));
        std::iota(order.begin(), order.end(), index{0});
        const T* const row = scores.data() + n * keys;
        const index kept = std::min(count, seen);
        const auto better = [row](index a, index b) { return row[a] != row[b] ? row[a] > row[b] : a < b; };
        if (kept < seen) std::nth_element(order.begin(), order.begin() + kept, order.end(), better);
        std::sort(order.begin(), order.begin() + kept, better);
        std::copy_n(order.begin(), kept, chosen.begin() + n * count);
    }
    return chosen;
}

/// The selection of one query in ascending order, for row_attention (decode over the selected keys).
/// Shapes:   chosen [count]; -1 is left out.
/// Throws:   invalid_config on a key past 2^31 - 1 or below -1.
/// Source:   DeepSeek-V3.2-Exp inference/model.py.
inline std::vector<std::int32_t> ascending_rows(std::span<const index> chosen) {
    std::vector<std::int32_t> rows;
    for (const index key : chosen) {
        detail::require(key >= -1 && key <= std::numeric_limits<std::int32_t>::max(),
                        "sparse_index::ascending_rows", "chosen must hold -1 or keys below 2^31", key);
        if (key >= 0) rows.push_back(static_cast<std::int32_t>(key));
    }
    std::sort(rows.begin(), rows.end());
    return rows;
}

/// The selection as a mask for attend: 1 where a query sees a key.
/// Shapes:   chosen [tokens, count] -> [tokens, keys].
/// Throws:   invalid_config on a key that does not exist, or sizes that disagree.
/// Source:   huggingface/transformers DeepseekV32Indexer.
inline std::vector<std::uint8_t> make_mask(std::span<const index> chosen, index tokens, index keys) {
    constexpr const char* who = "sparse_index::make_mask";
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(
        detail::checked_product(who, "tokens and keys must be >= 0", {tokens, keys})));
    const auto total = static_cast<index>(chosen.size());
    detail::require(tokens == 0 ? total == 0 : total % tokens == 0, who,
                    "chosen must hold tokens * count keys", total);
    const index count = tokens == 0 ? 0 : total / tokens;
    for (index i = 0; i < total; ++i) {
        const index key = chosen[static_cast<std::size_t>(i)];
        detail::require(key >= -1 && key < keys, who, "chosen must hold -1 or keys", key);
        if (key >= 0) mask[static_cast<std::size_t>(i / count * keys + key)] = 1;
    }
    return mask;
}

}  // namespace ROPEWALK_NAMESPACE::sparse_index
