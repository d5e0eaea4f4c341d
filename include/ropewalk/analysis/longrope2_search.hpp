// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// LongRoPE2's evolutionary search for per-pair frequency divisors.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <vector>

#include <ropewalk/frequencies/longrope2.hpp>

namespace ROPEWALK_NAMESPACE::analysis {

struct longrope2_search_config {
    frequencies::longrope2_config bounds = {};  ///< the model, and the bounds of the divisors
    index population = 128;                     ///< members of the first generation
    index rounds = 40;                          ///< generations after it
    index parents = 32;                         ///< members that a generation keeps: the best so far
    index mutations = 16;                       ///< new members: parents with some pairs redrawn
    index crossovers = 16;                      ///< new members whose pairs come from two parents
    double mutation_rate = 0.3;                 ///< the probability that a pair is redrawn
    double step = 0.01;                         ///< of the grid from which divisors are drawn
    std::uint32_t seed = 0;                     ///< of the generator: the same seed finds the same divisors
};

/// The progress of a search, reported after every evaluation of the loss.
struct search_state {
    index done = 0;    ///< evaluations of the loss so far
    index most = 0;    ///< the most evaluations there will be
    double least = 0;  ///< the least loss so far
};

/// The result of a search.
struct longrope2_found {
    std::vector<double>
        factors;      ///< the divisors with the least loss, [pairs]: longrope_config::long_factors
    double loss = 0;  ///< the loss of these divisors
    std::vector<double> by_round;  ///< the least loss after the first generation and each round
};

namespace detail_longrope2 {

/// Draws a number below n, the same with every standard library.
inline index drawn(std::mt19937& engine, index n) {
    return static_cast<index>(static_cast<double>(engine()) / 4294967296.0 * static_cast<double>(n));
}
/// Tightens bounds so that they never decrease from one pair to the next, as the divisors must not.
inline frequencies::factor_bounds rising(frequencies::factor_bounds b) {
    for (std::size_t i = 1; i < b.low.size(); ++i) b.low[i] = std::max(b.low[i], b.low[i - 1]);
    for (std::size_t i = b.high.size(); i-- > 1;) b.high[i - 1] = std::min(b.high[i - 1], b.high[i]);
    return b;
}
/// Redraws pairs on the grid between their neighbours (the previous one as already redrawn), so that divisors
/// stay in order and within the bounds.
inline std::vector<double> mutated(std::vector<double> factors, const frequencies::factor_bounds& bounds,
                                   double rate, double step, std::mt19937& engine) {
    for (std::size_t i = 0; i < factors.size(); ++i) {
        if (static_cast<double>(engine()) / 4294967296.0 >= rate) continue;
        const double low = i == 0 ? bounds.low[i] : std::max(bounds.low[i], factors[i - 1]);
        const double high =
            i + 1 == factors.size() ? bounds.high[i] : std::min(bounds.high[i], factors[i + 1]);
        if (!(high > low)) continue;
        const auto places = static_cast<index>(std::floor((high - low) / step)) + 1;
        factors[i] = std::min(high, low + step * static_cast<double>(drawn(engine, places)));
    }
    return factors;
}
inline std::vector<double> crossed(const std::vector<double>& a, const std::vector<double>& b,
                                   std::mt19937& engine) {
    std::vector<double> child;
    for (std::size_t i = 0; i < a.size(); ++i) child.push_back((engine() & 1U) != 0 ? a[i] : b[i]);
    return child;
}

}  // namespace detail_longrope2

/// LongRoPE2's evolution of divisors: a first generation from eight guesses and their mutations, then rounds
/// that keep the best and add mutations and crossovers. Divisors never decrease from one pair to the next,
/// stay within the bounds of their pair, and no set of divisors is evaluated twice. Guesses are clamped to
/// the bounds.
/// Shapes:   loss(std::span<const double> factors) returns the number to minimise, such as the
///           needle_perplexity of a model at the target context; progress(search_state) is called after every
///           evaluation.
/// Throws:   invalid_config as longrope2_bounds, on counts out of range (population 1 .. 65536, rounds 0 ..
///           65536, parents 1 .. population, mutations and crossovers 0 .. 65536), mutation_rate outside
///           [0, 1], a step that is not > 0, or a loss that is NaN.
/// Cost:     at most population + rounds * (mutations + crossovers) evaluations of the loss. The same seed
///           and losses give the same divisors on every machine.
/// Source:   LongRoPE2, Shang et al. 2025 (arXiv 2502.20082); J-shang/LongRoPE evolution/genetic_base.py,
///           dim_mono.py.
template <std::invocable<std::span<const double>> Loss, std::invocable<search_state> Progress>
longrope2_found find_longrope2_factors(const longrope2_search_config& c, Loss loss, Progress progress) {
    constexpr const char* who = "find_longrope2_factors";
    constexpr index most = 65536;
    const auto bounds = detail_longrope2::rising(frequencies::longrope2_bounds(c.bounds));
    detail::require(c.population >= 1 && c.population <= most, who, "population must be in 1 .. 65536",
                    c.population);
    detail::require(c.rounds >= 0 && c.rounds <= most, who, "rounds must be in 0 .. 65536", c.rounds);
    detail::require(c.parents >= 1 && c.parents <= c.population, who, "parents must be in 1 .. population",
                    c.parents);
    detail::require(c.mutations >= 0 && c.mutations <= most, who, "mutations must be in 0 .. 65536",
                    c.mutations);
    detail::require(c.crossovers >= 0 && c.crossovers <= most, who, "crossovers must be in 0 .. 65536",
                    c.crossovers);
    detail::require(c.mutation_rate >= 0 && c.mutation_rate <= 1, who, "mutation_rate must be in [0, 1]",
                    c.mutation_rate);
    detail::require(std::isfinite(c.step) && c.step > 0, who, "step must be finite and > 0", c.step);
    // A point of the grid is one of the 2^32 numbers of the generator.
    detail::require(c.bounds.largest_factor / c.step < 4294967296.0, who,
                    "step must be above largest_factor / 2^32", c.step);

    struct member {
        std::vector<double> factors;
        double loss;
    };
    std::vector<member> members;
    std::set<std::vector<double>> seen;
    std::mt19937 engine(c.seed);
    search_state state{0, c.population + c.rounds * (c.mutations + c.crossovers), 0};
    const auto add = [&](std::vector<double> factors) {
        if (!std::is_sorted(factors.begin(), factors.end()) || !seen.insert(factors).second) return false;
        const double value = static_cast<double>(loss(std::span<const double>(factors)));
        detail::require(!std::isnan(value), who, "loss must be a number", value);
        members.push_back({std::move(factors), value});
        state.least = state.done == 0 ? value : std::min(state.least, value);
        ++state.done;
        progress(std::as_const(state));
        return true;
    };
    // A round ends early when narrow bounds leave nothing new to draw.
    const auto add_some = [&](index count, auto make) {
        for (index added = 0, tries = 0; added < count && tries < 64 * count; ++tries) added += add(make());
    };
    const auto of_parents = [&](const std::vector<member>& parents) -> const std::vector<double>& {
        return parents[static_cast<std::size_t>(
                           detail_longrope2::drawn(engine, static_cast<index>(parents.size())))]
            .factors;
    };

    std::vector<member> guesses;
    for (index k = 0; k < std::min<index>(8, c.population); ++k) {
        auto scaled = c.bounds;  // 64, 68 ... 92 where the largest factor is 64, as in the published search
        scaled.largest_factor *= 1 + static_cast<double>(k) / 16;
        auto factors = frequencies::longrope2_start(scaled);
        for (std::size_t i = 0; i < factors.size(); ++i)
            factors[i] = std::clamp(factors[i], bounds.low[i], bounds.high[i]);
        guesses.push_back({factors, 0});
        add(std::move(factors));
    }
    const auto mutate = [&](const std::vector<member>& parents) {
        return detail_longrope2::mutated(of_parents(parents), bounds, c.mutation_rate, c.step, engine);
    };
    add_some(c.population - static_cast<index>(members.size()), [&] { return mutate(guesses); });
    longrope2_found found;
    for (index round = 0;; ++round) {
        std::stable_sort(members.begin(), members.end(),
                         [](const member& a, const member& b) { return a.loss < b.loss; });
        members.resize(std::min(members.size(), static_cast<std::size_t>(c.parents)));
        found.by_round.push_back(members.front().loss);
        if (round == c.rounds) break;
        const auto parents = members;
        add_some(c.mutations, [&] { return mutate(parents); });
        add_some(c.crossovers, [&] {
            const auto& a = of_parents(parents);
            return detail_longrope2::crossed(a, of_parents(parents), engine);
        });
    }
    found.factors = members.front().factors;
    found.loss = members.front().loss;
    return found;
}

/// The same without progress.
template <std::invocable<std::span<const double>> Loss>
longrope2_found find_longrope2_factors(const longrope2_search_config& c, Loss loss) {
    return find_longrope2_factors(c, std::move(loss), [](search_state) {});
}

}  // namespace ROPEWALK_NAMESPACE::analysis
