// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Attention patterns of the heads of a model with and without rotation, and the frequencies that they use
// (Barbero et al. 2024).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/analysis/frequency_usage.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::analysis {

struct head_pattern_config {
    index distances = 8;  ///< number of distances measured, from 0 (the token of the query itself)
    std::optional<double> scale = {};  ///< on q . k; 1 / sqrt(channels) when not given
};

/// Where the heads of one layer attend, with their rotation and without it, and which frequencies they use.
/// Weights are those of causal softmax attention, averaged over the queries that see more than `distances`
/// keys, so that the first token is not among the near keys.
/// Shapes:   given at the members.
/// Source:   Round and Round We Go, Barbero et al. 2024, sections 4 and 5.
struct head_patterns {
    index heads = 0;                           ///< query heads
    index kv_heads = 0;                        ///< heads of k
    index pairs = 0;                           ///< rotated channels / 2
    index distances = 0;                       ///< as in the config
    double chance = 0;                         ///< mean weight of a key if all weights of a query are equal
    std::vector<double> rotated = {};          ///< [heads, distances], weight on the key at that distance
    std::vector<double> unrotated = {};        ///< the same of scores without rotation
    std::vector<double> rotated_first = {};    ///< [heads], weight on the first token
    std::vector<double> unrotated_first = {};  ///< the same without rotation
    std::vector<double> moved = {};        ///< [heads], share of the weight that rotation moves to other keys
    std::vector<double> query_usage = {};  ///< [heads, pairs], a pair's share of the mean norms of q
    std::vector<double> key_usage = {};    ///< [kv heads, pairs], the same of k

    /// The distance at which a positional head attends: that of its largest weight, if this is at least
    /// `weight` and at most half of it remains without rotation. 0 is a diagonal head, 1 a previous-token
    /// head. Empty for a head that attends by content, or at larger distances.
    /// Throws: invalid_config on a head outside [0, heads).
    std::optional<index> distance_of(index head, double weight = 0.5) const {
        detail::require(head >= 0 && head < heads, "head_patterns::distance_of", "head must be in [0, heads)",
                        head);
        const auto first = rotated.begin() + head * distances;
        const index at = std::max_element(first, first + distances) - first;
        const double with = first[at], without = unrotated[static_cast<std::size_t>(head * distances + at)];
        if (!(with >= weight) || !(without <= with / 2)) return {};
        return at;
    }
};

}  // namespace ROPEWALK_NAMESPACE::analysis

namespace ROPEWALK_NAMESPACE::detail {

/// A copy of a tensor in f64, contiguous.
struct copied_heads {
    heads_shape shape;
    std::vector<double> numbers;
    template <class T>
    explicit copied_heads(heads_view<T> x) : shape(x.shape) {
        numbers.reserve(static_cast<std::size_t>(x.batches() * x.tokens() * x.heads() * x.channels()));
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n)
                for (index h = 0; h < x.heads(); ++h) {
                    const auto* row = reinterpret_cast<const stored_t<T>*>(x.at(b, n, h));
                    for (index c = 0; c < x.channels(); ++c)
                        numbers.push_back(static_cast<double>(static_cast<compute_t<T>>(row[c])));
                }
    }
    heads_view<double> view() { return {numbers.data(), shape}; }
};

/// The causal softmax weights of one query for keys [0, n].
inline void fill_pattern_weights(heads_view<const double> q, heads_view<const double> k, double scale,
                                 index b, index h, index n, std::span<double> weights) {
    const double* query = q.at(b, n, h);
    const index kv = h / (q.heads() / k.heads());
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (index j = 0; j <= n; ++j) {
        const double* key = k.at(b, j, kv);
        double score = 0;
        for (index c = 0; c < q.channels(); ++c) score += query[c] * key[c];
        require(std::isfinite(score * scale), "make_head_patterns", "q and k must have finite scores",
                score * scale);
        most = std::max(most, weights[static_cast<std::size_t>(j)] = score * scale);
    }
    const auto seen = weights.first(static_cast<std::size_t>(n + 1));
    for (double& w : seen) sum += w = std::exp(w - most);
    for (double& w : seen) w /= sum;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::analysis {

/// Measures the attention patterns of one layer from its queries and keys for some text. The scores without
/// rotation keep the magnitude of the rows, so that only the angles differ.
/// Shapes:   q [batches, tokens, heads, channels] and k [batches, tokens, kv heads, channels] before
///           rotation; rows of tokens or batches * tokens tokens, with 1 head or as many as q and k.
/// Throws:   invalid_config on shapes that disagree, distances not in [1, tokens), a scale that is not
///           finite, rows that do not fit, or numbers that are not finite.
/// Cost:     two plain causal attentions in f64 and two copies of q and k: an analysis, not a kernel.
/// Accuracy: f64, 1e-12.
/// Source:   Round and Round We Go, Barbero et al. 2024.
template <layout_like L, class Q, class K>
head_patterns make_head_patterns(const L& layout, heads_view<Q> q, heads_view<K> k,
                                 std::type_identity_t<rows_view<double>> rows,
                                 const head_pattern_config& config = {}) {
    constexpr const char* who = "make_head_patterns";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    using detail::copied_heads;
    detail::require(k.heads() >= 1 && q.heads() % k.heads() == 0, who, "k.heads must divide q.heads",
                    k.heads());
    detail::require(k.batches() == q.batches() && q.batches() >= 1, who,
                    "k must have q's batches, at least one", k.batches());
    detail::require_equal(who, "k must have q's tokens", q.tokens(), k.tokens());
    detail::require(k.channels() == q.channels() && q.channels() >= 1, who,
                    "k must have q's channels, at least one", k.channels());
    detail::require(config.distances >= 1 && config.distances < q.tokens(), who,
                    "distances must be in [1, tokens)", config.distances);
    const double scale = config.scale.value_or(1 / std::sqrt(static_cast<double>(q.channels())));
    detail::require(std::isfinite(scale), who, "scale must be finite", scale);
    if (q.batches() > 1 && rows.count() == q.tokens()) rows = rows.repeated(q.batches());
    require_fits(layout, q, rows);
    require_fits(layout, k, rows);

    // The same rows with all angles 0.
    std::vector<std::int32_t> row_of_token;
    for (index n = 0; n < rows.count(); ++n) row_of_token.push_back(rows.row(n) < 0 ? -1 : 0);
    rotation_table<double> still(1, 1, rows.pairs);
    std::fill_n(still.cos_data(0), rows.pairs, rows.magnitude);
    copied_heads q_rotated(q), k_rotated(k), q_still(q), k_still(k);
    rotate(layout, q_rotated.view(), rows);
    rotate(layout, k_rotated.view(), rows);
    const auto still_rows = still.rows(row_of_token);
    rotate(layout, q_still.view(), still_rows);
    rotate(layout, k_still.view(), still_rows);

    head_patterns found{
        .heads = q.heads(), .kv_heads = k.heads(), .pairs = rows.pairs, .distances = config.distances};
    const auto plan = detail::plan_of(layout);
    const auto slice = [&](auto x) {
        return x.channels() == 2 * rows.pairs ? x : x.channel_slice(plan.first_channel, 2 * rows.pairs);
    };
    found.query_usage = make_pair_shares(plan.read, slice(q));
    found.key_usage = make_pair_shares(plan.read, slice(k));
    const auto each = [&](index count) { return std::vector<double>(static_cast<std::size_t>(count)); };
    found.rotated = found.unrotated = each(q.heads() * config.distances);
    found.rotated_first = found.unrotated_first = found.moved = each(q.heads());
    auto with = each(q.tokens()), without = with;
    const double queries =
        static_cast<double>(q.batches()) * static_cast<double>(q.tokens() - config.distances);
    for (index n = config.distances; n < q.tokens(); ++n) found.chance += 1 / static_cast<double>(n + 1);
    found.chance /= static_cast<double>(q.tokens() - config.distances);
    for (index b = 0; b < q.batches(); ++b)
        for (index h = 0; h < q.heads(); ++h)
            for (index n = config.distances; n < q.tokens(); ++n) {
                detail::fill_pattern_weights(q_rotated.view(), k_rotated.view(), scale, b, h, n, with);
                detail::fill_pattern_weights(q_still.view(), k_still.view(), scale, b, h, n, without);
                const auto head = static_cast<std::size_t>(h);
                for (index d = 0; d < config.distances; ++d) {
                    const auto at = static_cast<std::size_t>(h * config.distances + d);
                    found.rotated[at] += with[static_cast<std::size_t>(n - d)] / queries;
                    found.unrotated[at] += without[static_cast<std::size_t>(n - d)] / queries;
                }
                found.rotated_first[head] += with[0] / queries;
                found.unrotated_first[head] += without[0] / queries;
                double moved = 0;
                for (std::size_t j = 0; j <= static_cast<std::size_t>(n); ++j)
                    moved += std::abs(with[j] - without[j]) / 2;
                found.moved[head] += moved / queries;
            }
    return found;
}

}  // namespace ROPEWALK_NAMESPACE::analysis
