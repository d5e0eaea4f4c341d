// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPElite (EliteKV): the greedy search for the pairs that each kv head needs rotated, and baselines.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <numeric>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/compression/elite_distances.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// Parameters of the ranking of pairs.
struct elite_options {
    index rounds = 12;   ///< r: pairs to rank for every kv head
    bool causal = true;  ///< whether a query sees earlier keys only
    pair_layout layout = half_split{};
    std::optional<double> scale = {};  ///< on q . k; 1 / sqrt(channels) when not given
    /// Number of queries read per sequence, 0 for all. Fewer are spread evenly over the sequence, shifted
    /// from one sequence to the next, and the distances are estimates of those of all queries.
    index queries = 0;
};

/// The pairs of every kv head, ranked by importance.
/// Shapes: order [heads, rounds]; distances [rounds, heads, pairs], 0 where a pair was chosen before (empty
///         for rankings without distances).
struct elite_ranking {
    index heads = 0;
    index pairs = 0;
    index rounds = 0;                    ///< pairs ranked for every head
    std::vector<index> order = {};       ///< [heads, rounds], pair numbers, the most important first
    std::vector<double> distances = {};  ///< [rounds, heads, pairs], 0 where chosen before

    /// The first `count` pairs of every head in ascending order, [heads, count]: rankings are nested, so one
    /// search gives all counts.
    /// Throws: invalid_config when count is not in 0 .. rounds.
    std::vector<index> elite(index count) const {
        detail::require(count >= 0 && count <= rounds, "elite_ranking::elite", "count must be 0 to rounds",
                        count);
        std::vector<index> chosen;
        for (index h = 0; h < heads; ++h) {
            const auto first = order.begin() + h * rounds;
            chosen.insert(chosen.end(), first, first + count);
            std::sort(chosen.end() - count, chosen.end());
        }
        return chosen;
    }
};

namespace detail {

/// One head of one sequence after its rotation, pair by pair and token by token.
struct head_pairs {
    std::vector<double> x, y;  ///< [pairs, tokens]

    template <class E>
    head_pairs(heads_view<E> from, index b, index head, pair_layout layout,
               const rotation_table<double>& table) {
        const index pairs = table.pairs(), d = from.channels(), tokens = from.tokens();
        std::vector<double> row(static_cast<std::size_t>(tokens * d));
        for (index n = 0; n < tokens; ++n)
            for (index c = 0; c < d; ++c)
                row[static_cast<std::size_t>(n * d + c)] = static_cast<double>(
                    static_cast<compute_t<E>>(reinterpret_cast<const stored_t<E>*>(from.at(b, n, head))[c]));
        rotate(layout, heads_view<double>(row.data(), tokens, 1, d), table);
        for (index i = 0; i < pairs; ++i)
            for (index n = 0; n < tokens; ++n) {
                x.push_back(row[static_cast<std::size_t>(n * d + layout.first(i, pairs))]);
                y.push_back(row[static_cast<std::size_t>(n * d + layout.second(i, pairs))]);
            }
    }
};

/// The tokens of sequence `sequence` whose queries are read: the first of every `tokens / count`, shifted by
/// the golden ratio from one sequence to the next, so that the shifts of many sequences are spread evenly.
inline std::vector<index> sampled_queries(index tokens, index count, index sequence) {
    std::vector<index> where(static_cast<std::size_t>(count == 0 ? tokens : std::min(tokens, count)));
    const auto all = static_cast<index>(where.size());
    const double steps = static_cast<double>(sequence) * (std::numbers::phi - 1);
    const double shift = all == tokens ? 0 : steps - std::floor(steps);
    const double apart = static_cast<double>(tokens) / static_cast<double>(all);
    for (index i = 0; i < all; ++i)
        where[static_cast<std::size_t>(i)] =
            std::min(tokens - 1, static_cast<index>((static_cast<double>(i) + shift) * apart));
    return where;
}

struct elite_call {
    index heads, group, pairs;
    double scale;
};

template <class Q, class K>
elite_call checked_elite(const char* who, heads_view<Q> q, heads_view<K> k, const spectrum& omega,
                         const elite_options& o) {
    require_readable(who, "q", q);
    require_readable(who, "k", k);
    require(omega.axes() == 1 && omega.heads() == 1, who, "omega must have one axis and one head, axes",
            omega.axes());
    require_equal(who, "q must have two channels a pair", 2 * omega.pairs(), q.channels());
    require_equal(who, "k must have q's channels", q.channels(), k.channels());
    require(k.tokens() == q.tokens() && k.tokens() >= 1, who, "k must have q's tokens, at least one",
            k.tokens());
    require(k.batches() == q.batches() && k.batches() >= 1, who, "k must have q's batches, at least one",
            k.batches());
    require(k.heads() >= 1 && q.heads() % k.heads() == 0, who, "k.heads must divide q.heads", k.heads());
    require(o.rounds >= 0 && o.rounds <= omega.pairs(), who, "rounds must be 0 to the pairs", o.rounds);
    require(o.layout.fits(omega.pairs()), who, "layout must divide the channels", o.layout.group);
    const double scale = o.scale.value_or(1 / std::sqrt(static_cast<double>(q.channels())));
    require(std::isfinite(scale), who, "scale must be finite", scale);
    return {k.heads(), q.heads() / k.heads(), omega.pairs(), scale};
}

}  // namespace detail

template <class Q, class K>
elite_ranking make_elite_ranking(heads_view<Q> q, heads_view<K> k, const spectrum& omega,
                                 const elite_options& options = {});

/// The search of make_elite_ranking, one calibration sequence at a time: a round reads every sequence once,
/// after which each kv head takes its best pair. Only the sums of a round are stored, so sequences may be
/// loaded and dropped one by one; heads are independent, so threads can divide them.
/// Shapes:   q [batches, tokens, heads, 2 * pairs] and k [batches, tokens, kv heads, 2 * pairs] before
///           rotation; token n has position n.
/// Requires: calls of add at the same time have different parts of one split; choose when all of them are
///           done.
/// Throws:   invalid_config on sizes that disagree, an invalid part, rounds beyond the pairs, no token,
///           or numbers or scores that are not finite; choose also without a sequence.
/// Cost:     queries * tokens operations (half of them if causal) per candidate, round, query head and
///           sequence, and a table of the angles of the tokens per call: pass several sequences at a time.
/// Accuracy: as make_elite_ranking.
/// Source:   as make_elite_ranking.
///
///     elite_search search(32, omega, {.rounds = 12});
///     while (!search.done()) {
///         for (const auto& sequence : calibration)       // on each thread `t` of 8
///             search.add(sequence.q(), sequence.k(), {8, t});
///         search.choose();                               // one thread
///     }
class elite_search {
  public:
    elite_search(index kv_heads, const spectrum& omega, const elite_options& options)
        : omega_(omega), options_(options) {
        constexpr const char* who = "elite_search";
        detail::require(kv_heads >= 1, who, "kv_heads must be >= 1", kv_heads);
        detail::require(omega.axes() == 1 && omega.heads() == 1, who,
                        "omega must have one axis and one head, axes", omega.axes());
        detail::require(options.rounds >= 0 && options.rounds <= omega.pairs(), who,
                        "rounds must be 0 to the pairs", options.rounds);
        detail::require(options.queries >= 0, who, "queries must be >= 0 (0: all)", options.queries);
        ranking_ = {.heads = kv_heads, .pairs = omega.pairs(), .rounds = options.rounds};
        const auto each = [](std::initializer_list<index> sizes) {
            return static_cast<std::size_t>(detail::checked_product(who, "sizes must fit", sizes));
        };
        ranking_.order.resize(each({kv_heads, options.rounds}));
        ranking_.distances.assign(each({options.rounds, kv_heads, omega.pairs()}), 0.0);
        candidates_.resize(each({kv_heads}));
        for (auto& own : candidates_) {
            own.resize(each({omega.pairs()}));
            std::iota(own.begin(), own.end(), index{0});
        }
        entries_.assign(each({kv_heads}), 0.0);
        sequences_.assign(each({kv_heads}), 0);
    }

    /// Whether every round is chosen.
    bool done() const noexcept { return round_ == options_.rounds; }
    /// The ranking, complete once done().
    const elite_ranking& ranking() const noexcept { return ranking_; }

    /// Reads sequences, for the kv heads of a part.
    template <class Q, class K>
    void add(heads_view<Q> q, heads_view<K> k, part_of part = {}) {
        constexpr const char* who = "elite_search::add";
        const auto call = detail::checked_elite(who, q, k, omega_, options_);
        detail::require_equal(who, "k must have the kv heads of the search", ranking_.heads, call.heads);
        detail::require_part(who, part);
        if (done()) return;
        using C = std::conditional_t<sizeof(compute_t<Q>) == 8, compute_t<Q>, compute_t<K>>;
        detail::elite_distances<C> sums(omega_, q.tokens(), options_.layout, options_.causal);
        const work_range own = partition(call.heads, part);
        for (index b = 0; b < q.batches(); ++b)
            for (index h = own.first; h < own.first + own.count; ++h) {
                index& seen = sequences_[static_cast<std::size_t>(h)];
                const auto where = detail::sampled_queries(q.tokens(), options_.queries, seen++);
                sums.add(q, k, b, h, where, candidates_[static_cast<std::size_t>(h)], call.scale,
                         distances(h));
                entries_[static_cast<std::size_t>(h)] +=
                    static_cast<double>(where.size()) * static_cast<double>(q.tokens());
            }
    }
    /// Ends the round: every kv head takes the pair that brings its scores closest.
    void choose() { choose_as("elite_search::choose"); }

    template <class Q, class K>
    friend elite_ranking make_elite_ranking(heads_view<Q> q, heads_view<K> k, const spectrum& omega,
                                            const elite_options& options);

  private:
    void choose_as(const char* who) {
        detail::require(!done(), who, "rounds must be left, of", options_.rounds);
        for (index h = 0; h < ranking_.heads; ++h) {
            detail::require(entries_[static_cast<std::size_t>(h)] > 0, who,
                            "sequences must have been added for every kv head, not for", h);
            for (double& d : distances(h)) {
                d /= entries_[static_cast<std::size_t>(h)];
                // NaN would make the order of pairs undefined.
                detail::require(std::isfinite(d), who, "q and k must be finite, a distance of theirs being",
                                d);
            }
        }
        for (index h = 0; h < ranking_.heads; ++h) {
            auto& own = candidates_[static_cast<std::size_t>(h)];
            const std::span<const double> distance = distances(h);
            const auto best = std::min_element(own.begin(), own.end(), [&](index a, index b) {
                return distance[static_cast<std::size_t>(a)] < distance[static_cast<std::size_t>(b)];
            });
            ranking_.order[static_cast<std::size_t>(h * options_.rounds + round_)] = *best;
            own.erase(best);
        }
        std::fill(entries_.begin(), entries_.end(), 0.0);
        std::fill(sequences_.begin(), sequences_.end(), index{0});
        ++round_;
    }
    /// The distances of this round, of one kv head.
    std::span<double> distances(index head) noexcept {
        return {ranking_.distances.data() + (round_ * ranking_.heads + head) * ranking_.pairs,
                static_cast<std::size_t>(ranking_.pairs)};
    }

    spectrum omega_;
    elite_options options_;
    elite_ranking ranking_;
    index round_ = 0;
    std::vector<std::vector<index>> candidates_;  // by kv head
    std::vector<double> entries_;                 // scores read in this round, by kv head
    std::vector<index> sequences_;                // sequences read in this round, by kv head
};

/// RoPElite: ranks the pairs that a kv head needs rotated. The search is greedy: each round adds the pair
/// whose rotation, together with those chosen so far, brings the scores closest to those of a full rotation
/// (mean absolute difference; hidden scores count as 0). Query heads of one kv head are summed, and batches
/// (calibration sequences) are averaged.
/// Shapes:   q [batches, tokens, heads, 2 * pairs] and k [batches, tokens, kv heads, 2 * pairs] before
///           rotation; token n has position n.
/// Throws:   invalid_config on sizes that disagree, rounds beyond the pairs, no token, or numbers or scores
///           that are not finite.
/// Cost:     queries * tokens operations per candidate and round, since the contribution of one pair to a
///           score does not depend on the other pairs. O(tokens * channels) memory. For threads use
///           elite_search.
/// Accuracy: f64 data 1e-12 relative; other types, in f32 with sums in f64, 1e-6 of the largest distance of a
///           round. Of equal distances the lowest pair is chosen.
/// Source:   EliteKV, arXiv 2503.01586; CiaranZhou/EliteKV RoPElite/analysis.py, whose all-zero starting rank
///           (rank_0.py) excludes pair 0 from being first; here every pair is a candidate.
template <class Q, class K>
elite_ranking make_elite_ranking(heads_view<Q> q, heads_view<K> k, const spectrum& omega,
                                 const elite_options& options) {
    const auto call = detail::checked_elite("make_elite_ranking", q, k, omega, options);
    elite_search search(call.heads, omega, options);
    while (!search.done()) {
        search.add(q, k);
        search.choose_as("make_elite_ranking");
    }
    return search.ranking();
}

/// The baseline that spreads the pairs evenly over the frequencies, the same for every head: linspace(0,
/// pairs - 1, rounds) rounded down. Its order is ascending, so its rankings are not nested.
/// Throws:   invalid_config unless 0 <= rounds <= pairs and heads >= 1.
/// Source:   CiaranZhou/EliteKV convert/convert.py, "Uniform".
inline elite_ranking make_uniform_ranking(index heads, index pairs, index rounds) {
    detail::require(heads >= 1, "make_uniform_ranking", "heads must be >= 1", heads);
    detail::require(rounds >= 0 && rounds <= pairs, "make_uniform_ranking", "rounds must be 0 to the pairs",
                    rounds);
    elite_ranking r{.heads = heads, .pairs = pairs, .rounds = rounds};
    for (index h = 0; h < heads; ++h)
        for (index i = 0; i < rounds; ++i)
            r.order.push_back(rounds == 1 ? 0 : (pairs - 1) * i / (rounds - 1));
    return r;
}

/// The baseline that ranks pairs by their contribution to the rotated scores: the sum over all visible query
/// and key tokens (the official code samples random ones) of the pair's part of q . k, largest first; of equal
/// ones the lower pair first.
/// Shapes, Throws: as make_elite_ranking.
/// Cost:     O(tokens) per pair, by prefix sums.
/// Source:   CiaranZhou/EliteKV RoPElite/analysis.py, "Contribution", after arXiv 2410.08703.
template <class Q, class K>
elite_ranking make_contribution_ranking(heads_view<Q> q, heads_view<K> k, const spectrum& omega,
                                        const elite_options& options = {}) {
    const auto call = detail::checked_elite("make_contribution_ranking", q, k, omega, options);
    const auto table = make_rotation_table<double>(omega, position_ids::text(q.tokens()));
    elite_ranking r{.heads = call.heads, .pairs = call.pairs, .rounds = options.rounds};
    for (index h = 0; h < r.heads; ++h) {
        std::vector<double> sum(static_cast<std::size_t>(call.pairs), 0.0);
        for (index b = 0; b < q.batches(); ++b) {
            const detail::head_pairs key(k, b, h, options.layout, table);
            for (index g = 0; g < call.group; ++g) {
                const detail::head_pairs query(q, b, h * call.group + g, options.layout, table);
                for (index i = 0; i < call.pairs; ++i) {
                    const auto row = static_cast<std::size_t>(i * q.tokens());
                    const auto count = static_cast<std::size_t>(q.tokens());
                    double kx = 0, ky = 0;
                    const auto take = [&](std::size_t n) {
                        kx += key.x[row + n];
                        ky += key.y[row + n];
                    };
                    for (std::size_t n = 0; n < count && !options.causal; ++n) take(n);
                    for (std::size_t n = 0; n < count; ++n) {
                        if (options.causal) take(n);
                        sum[static_cast<std::size_t>(i)] += query.x[row + n] * kx + query.y[row + n] * ky;
                    }
                }
            }
        }
        for (double s : sum)
            detail::require(std::isfinite(s), "make_contribution_ranking",
                            "q and k must be finite, a contribution of theirs being", s);
        std::vector<index> ranked(static_cast<std::size_t>(call.pairs));
        std::iota(ranked.begin(), ranked.end(), index{0});
        std::stable_sort(ranked.begin(), ranked.end(), [&](index a, index b) {
            return sum[static_cast<std::size_t>(a)] > sum[static_cast<std::size_t>(b)];
        });
        r.order.insert(r.order.end(), ranked.begin(), ranked.begin() + options.rounds);
    }
    return r;
}

}  // namespace ROPEWALK_NAMESPACE
