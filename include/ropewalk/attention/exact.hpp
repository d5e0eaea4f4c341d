// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/core/heads_view.hpp>

namespace ROPEWALK_NAMESPACE {

/// What a query may see, how scores are formed and what else is written. Every condition that is given
/// must hold for a key to be seen. T is the type arithmetic runs in: double for f64 queries, else float.
/// Shapes: Lq query tokens, Lk key tokens. `mask` and `bias` [Lq, Lk], [batches, Lq, Lk] or
///         [batches, query heads, Lq, Lk]; documents [tokens] or [batches, tokens]; `probabilities` and
///         `scores` [batches, query heads, Lq, Lk]. An empty span means: not given, not wanted.
template <class T>
struct attend_options {
    std::optional<double> scale = {};         ///< on q . k; 1 / sqrt(channels) when not given
    bool causal = false;                      ///< query n stands at key first_query + n and sees up to there
    index window = 0;                         ///< > 0: only keys closer than this (the query's own included)
    std::optional<index> first_query = {};    ///< key index of query 0; Lk - Lq when not given (decode)
    std::span<const std::uint8_t> mask = {};  ///< not 0: seen
    std::span<const T> bias = {};             ///< added to the score; -infinity hides a key
    std::span<const std::int32_t> query_documents = {};  ///< a query sees the keys of its own document
    std::span<const std::int32_t> key_documents = {};    ///< the queries' when empty and Lq = Lk
    std::span<T> probabilities = {};                     ///< written when given; 0 where hidden
    std::span<T> scores = {};                            ///< scale * q . k + bias, hidden keys included
};

namespace detail {

template <class T, class E>
T loaded(const E* p) noexcept {
    const auto* stored = reinterpret_cast<const stored_t<E>*>(p);
    return static_cast<T>(static_cast<compute_t<E>>(*stored));
}

template <class E, class T>
void store(E* p, T value) noexcept {
    *reinterpret_cast<stored_t<E>*>(p) = stored_t<E>(static_cast<compute_t<E>>(value));
}

/// How an optional array of `each` numbers, given once, once a batch or once a batch and head, is spread.
struct spread {
    index per_batch = 0;
    index per_head = 0;
};

inline spread spread_of(const char* parameter_must, std::size_t size, index batches, index heads,
                        index each) {
    const auto n = static_cast<index>(size);
    if (n == batches * each) return {each, 0};
    if (n == batches * heads * each) return {heads * each, each};
    require(n == each || n == 0, "attend", parameter_must, n);
    return {};
}

/// The key index of query 0, where distances to every key are far from overflowing.
inline index checked_first_query(const char* who, std::optional<index> given, index queries, index keys) {
    constexpr index most = detail::limit_of_bits(53);
    const index first = given.value_or(keys - queries);
    require(first >= -most && first <= most, who, "first_query must be within +-2^53", first);
    return first;
}

/// Which keys a query sees, for one batch and query head.
template <class T>
struct attend_rules {
    index keys = 0, window = 0, first_query = 0;
    bool causal = false;
    const std::uint8_t* mask = nullptr;
    const T* bias = nullptr;
    const std::int32_t *query_document = nullptr, *key_document = nullptr;

    bool seen(index n, index j) const noexcept {
        const index ahead = j - (first_query + n);
        if (causal && ahead > 0) return false;
        if (window > 0 && (ahead >= window || -ahead >= window)) return false;
        if (query_document && query_document[n] != key_document[j]) return false;
        return !mask || mask[n * keys + j] != 0;
    }
    /// True only if position alone hides all keys first .. last from query n.
    bool hides(index n, index first, index last) const noexcept {
        const index own = first_query + n;
        return (causal && first > own) || (window > 0 && (own - last >= window || first - own >= window));
    }
};

/// The checked options of one call, and the rules of each batch and head in it.
template <class T>
class attend_plan {
  public:
    attend_plan(heads_shape q, heads_shape k, heads_shape v, heads_shape out,
                const attend_options<T>& options);

    attend_rules<T> rules(index b, index h) const noexcept {
        const auto at = [b, h](auto values, spread s) {
            return values.empty() ? nullptr : values.data() + b * s.per_batch + h * s.per_head;
        };
        return {.keys = keys_,
                .window = options_.window,
                .first_query = *options_.first_query,
                .causal = options_.causal,
                .mask = at(options_.mask, mask_),
                .bias = at(options_.bias, bias_),
                .query_document = at(options_.query_documents, query_documents_),
                .key_document = at(options_.key_documents, key_documents_)};
    }
    T scale() const noexcept { return static_cast<T>(*options_.scale); }
    T* probabilities() const noexcept { return options_.probabilities.data(); }
    T* scores() const noexcept { return options_.scores.data(); }

  private:
    index keys_;
    attend_options<T> options_;
    spread mask_, bias_, query_documents_, key_documents_;
};

template <class T>
attend_plan<T>::attend_plan(heads_shape q, heads_shape k, heads_shape v, heads_shape out,
                            const attend_options<T>& options)
    : keys_(k.tokens), options_(options) {
    constexpr const char* who = "attend";
    require(k.batches == q.batches, who, "k.batches must equal q.batches", k.batches);
    require(v.batches == q.batches, who, "v.batches must equal q.batches", v.batches);
    require(out.batches == q.batches, who, "out.batches must equal q.batches", out.batches);
    require(v.tokens == k.tokens, who, "v.tokens must equal k.tokens", v.tokens);
    require(out.tokens == q.tokens, who, "out.tokens must equal q.tokens", out.tokens);
    require(q.heads == 0 || (k.heads > 0 && q.heads % k.heads == 0), who,
            "k.heads must be > 0 and divide q.heads", k.heads);
    require(v.heads == k.heads, who, "v.heads must equal k.heads", v.heads);
    require(out.heads == q.heads, who, "out.heads must equal q.heads", out.heads);
    require(k.channels == q.channels, who, "k.channels must equal q.channels", k.channels);
    require(out.channels == v.channels, who, "out.channels must equal v.channels", out.channels);
    require(options.window >= 0, who, "window must be >= 0", options.window);
    options_.first_query = checked_first_query(who, options.first_query, q.tokens, k.tokens);
    if (!options_.scale) options_.scale = 1 / std::sqrt(static_cast<double>(std::max<index>(q.channels, 1)));
    require(std::isfinite(*options_.scale), who, "scale must be finite", *options_.scale);

    constexpr const char* sizes = "batches * heads * Lq * Lk must fit";
    const index each = checked_product(who, sizes, {q.tokens, k.tokens});
    const index all = checked_product(who, sizes, {q.batches, q.heads, each});
    mask_ = spread_of("mask must hold Lq * Lk flags, or that a batch, or that a batch and head",
                      options.mask.size(), q.batches, q.heads, each);
    bias_ = spread_of("bias must hold Lq * Lk numbers, or that a batch, or that a batch and head",
                      options.bias.size(), q.batches, q.heads, each);
    if (options.query_documents.empty()) {
        require(options.key_documents.empty(), who, "key_documents must come with query_documents",
                options.key_documents.size());
    } else if (options.key_documents.empty()) {
        require(q.tokens == k.tokens, who, "key_documents must be given when Lk differs from Lq", "none");
        options_.key_documents = options.query_documents;
    }
    query_documents_ = spread_of("query_documents must hold one number a query token",
                                 options.query_documents.size(), q.batches, 1, q.tokens);
    key_documents_ = spread_of("key_documents must hold one number a key token",
                               options_.key_documents.size(), q.batches, 1, k.tokens);
    for (auto wanted : {options.probabilities.size(), options.scores.size()})
        require(wanted == 0 || static_cast<index>(wanted) == all, who,
                "probabilities and scores must hold batches * heads * Lq * Lk numbers", wanted);
}

inline constexpr index attend_tile = 64;  // keys at a time: a tile of 128 channels stays in the L1 cache

/// The running softmax of one query: the largest score so far, the sum of exponentials relative to it and
/// the weighted sum of values relative to it.
template <class T>
struct running_softmax {
    static constexpr T hidden = -std::numeric_limits<T>::infinity();
    T peak = hidden;
    T weight = 0;

    /// Scores of one tile, hidden ones at -infinity; `count` of them are keys.
    void add(const T* scores, index count, const T* values, T* sum, index channels) noexcept {
        T top = peak;
        // The first NaN that is seen stays: nothing is larger or smaller, and the row shows it.
        for (index j = 0; j < count && top == top; ++j)
            if (!(scores[j] <= top)) top = scores[j];
        if (top == hidden) return;
        T weights[attend_tile];
        index seen[attend_tile], seen_count = 0;
        Eigen::Map<Eigen::Array<T, attend_tile, 1>> all(weights);
        all = (Eigen::Map<const Eigen::Array<T, attend_tile, 1>>(scores) - top).exp();
        const T shrink = std::exp(peak - top);
        weight *= shrink;
        for (index j = 0; j < count; ++j) {
            if (scores[j] == hidden) continue;
            weight += weights[j];
            seen[seen_count++] = j;
        }
        constexpr index block = 32;
        index c = 0;
        for (; c + block <= channels; c += block)
            add_values<block>(sum + c, block, shrink, weights, seen, seen_count, values + c, channels);
        add_values<Eigen::Dynamic>(sum + c, channels - c, shrink, weights, seen, seen_count, values + c,
                                   channels);
        peak = top;
    }
    /// sum <- shrink * sum + weights * values for `size` channels, which stay in registers while keys go by.
    template <index Size>
    static void add_values(T* sum, index size, T shrink, const T* weights, const index* seen,
                           index seen_count, const T* values, index stride) noexcept {
        using numbers = Eigen::Array<T, static_cast<int>(Size), 1, 0, 32, 1>;
        numbers total = Eigen::Map<const numbers>(sum, size) * shrink;
        for (index at = 0; at < seen_count; ++at)
            total += weights[seen[at]] * Eigen::Map<const numbers>(values + seen[at] * stride, size);
        Eigen::Map<numbers>(sum, size) = total;
    }
    void fill_probabilities(const T* scores, index count, T* probabilities) const noexcept {
        for (index j = 0; j < count; ++j)
            if (scores[j] != hidden) probabilities[j] = std::exp(scores[j] - peak) / weight;
    }
    T mean(T sum) const noexcept { return peak == hidden ? T(0) : sum / weight; }
};

}  // namespace detail

/// Exact softmax attention: out = softmax(scale q k^T + bias) v, over the keys each query may see. Plain
/// and complete rather than fast: it is what every approximate or windowed scheme is compared with.
/// Shapes:   q [batches, Lq, heads, channels], k [batches, Lk, kv heads, channels], v [batches, Lk, kv heads,
///           value channels], out [batches, Lq, heads, value channels]; any strides, each of any element
///           type. The kv heads divide the heads: query head h reads kv head h / (heads / kv heads).
/// Requires: `out` shares no memory with q, k or v.
/// Throws:   invalid_config on sizes that disagree, a negative window or a scale that is not finite.
/// Cost:     heads * Lq * Lk * (channels + value channels) multiply-adds a batch, less what causality and
///           the window hide. One pass over the keys (online softmax), two when probabilities are wanted.
///           Scratch of heads / kv heads * Lq * (channels + value channels) numbers.
/// Accuracy: f64 within 1e-13 and f32 within 3e-6 of extended precision, for values and scores of order 1.
///           A query that sees nothing gets zeros. A key that is hidden from a query, by a bias of -infinity
///           too, cannot change its result, NaN included; a query that sees a NaN gets NaN.
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
    const detail::attend_plan<T> plan(q.shape, k.shape, v.shape, out.shape, options);
    if (q.empty() && out.empty()) return;
    constexpr index tile = detail::attend_tile;
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    const index queries = q.tokens(), keys = k.tokens(), heads = q.heads(), group = heads / k.heads();
    const index channels = q.channels(), value_channels = v.channels();
    const auto sized = [](index count) { return std::vector<T>(static_cast<std::size_t>(count)); };
    auto scaled_q = sized(group * queries * channels);
    auto sums = sized(group * queries * value_channels);
    auto key_columns = sized(channels * tile);  // keys in columns: a tile of scores needs no sum across lanes
    auto value_rows = sized(tile * value_channels);
    std::vector<detail::running_softmax<T>> running(static_cast<std::size_t>(group * queries));
    std::fill(options.probabilities.begin(), options.probabilities.end(), T(0));

    // One tile of scores of query n, hidden ones at -infinity; false when position alone hides them all.
    const auto fill_scores = [&](T* s, const T* x, const auto& rules, index n, index j0, index width,
                                 T* keep) noexcept {
        if (!keep && rules.hides(n, j0, j0 + width - 1)) return false;
        Eigen::Map<Eigen::Matrix<T, tile, 1>>(s).noalias() =
            Eigen::Map<const Eigen::Matrix<T, tile, Eigen::Dynamic>>(key_columns.data(), tile, channels) *
            Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>(x, channels);
        if (rules.bias)
            for (index j = 0; j < width; ++j) {
                // Looked at before it is added: NaN - infinity would not hide a NaN.
                const T bias = rules.bias[n * keys + j0 + j];
                s[j] = bias == hidden ? hidden : s[j] + bias;
            }
        if (keep) std::copy_n(s, width, keep + j0);
        for (index j = 0; j < width; ++j)
            if (!rules.seen(n, j0 + j)) s[j] = hidden;
        return true;
    };

    for (index b = 0; b < q.batches(); ++b)
        for (index kv = 0; kv < k.heads(); ++kv) {
            for (index g = 0, at = 0; g < group; ++g)
                for (index n = 0; n < queries; ++n)
                    for (index c = 0; c < channels; ++c, ++at)
                        scaled_q.data()[at] =
                            plan.scale() * detail::loaded<T>(q.at(b, n, kv * group + g) + c);
            std::fill(sums.begin(), sums.end(), T(0));
            std::fill(running.begin(), running.end(), detail::running_softmax<T>{});

            // The first pass gathers peaks, weights and sums; the second one writes probabilities from them.
            for (int pass = 0; pass < (plan.probabilities() ? 2 : 1); ++pass)
                for (index j0 = 0; j0 < keys; j0 += tile) {
                    const index width = std::min(tile, keys - j0);
                    for (index j = 0; j < width; ++j) {
                        for (index c = 0; c < channels; ++c)
                            key_columns.data()[c * tile + j] = detail::loaded<T>(k.at(b, j0 + j, kv) + c);
                        for (index c = 0; c < value_channels; ++c)
                            value_rows.data()[j * value_channels + c] =
                                detail::loaded<T>(v.at(b, j0 + j, kv) + c);
                    }
                    for (index g = 0; g < group; ++g) {
                        const index h = kv * group + g;
                        const auto rules = plan.rules(b, h);
                        for (index n = 0; n < queries; ++n) {
                            const index m = g * queries + n;
                            const index row = ((b * heads + h) * queries + n) * keys;
                            auto& state = running.data()[m];
                            T s[tile];
                            T* keep = plan.scores() && pass == 0 ? plan.scores() + row : nullptr;
                            if (!fill_scores(s, scaled_q.data() + m * channels, rules, n, j0, width, keep))
                                continue;
                            if (pass == 0)
                                state.add(s, width, value_rows.data(), sums.data() + m * value_channels,
                                          value_channels);
                            else
                                state.fill_probabilities(s, width, plan.probabilities() + row + j0);
                        }
                    }
                }

            for (index m = 0; m < group * queries; ++m)
                for (index c = 0; c < value_channels; ++c)
                    detail::store(out.at(b, m % queries, kv * group + m / queries) + c,
                                  running.data()[m].mean(sums.data()[m * value_channels + c]));
        }
}

}  // namespace ROPEWALK_NAMESPACE
