// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Allocation of EliteKV's cache between rotated pairs and latent channels, for a given budget.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// One allocation of a cache: the number of elite pairs per head and the width of the latent.
struct elite_allocation {
    index rounds = 0;  ///< r, pairs of a head that rotate
    index latent = 0;  ///< channels of the latent
    double ratio = 0;  ///< cached numbers divided by those of full keys and values
};

/// The sizes and limits for which allocations are listed.
struct elite_allocation_config {
    index kv_heads = 32;
    index head_dim = 128;
    index hidden = 4096;       ///< of the model
    index first_rounds = 1;    ///< least r
    index last_rounds = 32;    ///< largest r, at most head_dim / 2
    index latent_step = 128;   ///< widths of the latent: hidden, hidden - step, ...
    double least_width = 0.1;  ///< the least width as a share of hidden
};

/// The grid of allocations to search: every r with every width of the latent, widest first, for which the two
/// factors do not have more numbers than the matrices that they replace.
/// Throws:   invalid_config on sizes that are not positive, rounds beyond the pairs, or a share outside (0,
///           1].
/// Source:   CiaranZhou/EliteKV dimension_allocation/allocation_ppl.py, whose bound is written for 128
///           channels per head and hidden = heads * head_dim.
inline std::vector<elite_allocation> make_elite_allocations(const elite_allocation_config& c) {
    constexpr const char* who = "make_elite_allocations";
    constexpr index most = index{1} << 20;
    const auto sized = [](index size, const char* must) {
        detail::require(size >= 1 && size <= most, who, must, size);
    };
    sized(c.kv_heads, "kv_heads must be 1 to 2^20");
    sized(c.head_dim, "head_dim must be 1 to 2^20");
    sized(c.hidden, "hidden must be 1 to 2^20");
    sized(c.latent_step, "latent_step must be 1 to 2^20");
    detail::require(c.first_rounds >= 0, who, "first_rounds must be >= 0", c.first_rounds);
    detail::require(c.last_rounds <= c.head_dim / 2, who, "last_rounds must be at most head_dim / 2",
                    c.last_rounds);
    detail::require(c.least_width > 0 && c.least_width <= 1, who, "least_width must be in (0, 1]",
                    c.least_width);
    std::vector<elite_allocation> all;
    const double hidden = static_cast<double>(c.hidden);
    for (index r = c.first_rounds; r <= c.last_rounds; ++r) {
        const double columns = static_cast<double>(c.kv_heads) * static_cast<double>(2 * (c.head_dim - r));
        for (index latent = c.hidden; latent > 0; latent -= c.latent_step) {
            const double width = static_cast<double>(latent);
            if (width <= c.least_width * hidden) break;
            if (width * (hidden + columns) > hidden * columns) continue;
            const double full = static_cast<double>(c.kv_heads) * static_cast<double>(2 * c.head_dim);
            all.push_back(
                {r, latent, (static_cast<double>(2 * r) * static_cast<double>(c.kv_heads) + width) / full});
        }
    }
    return all;
}

/// The allocation with the least loss among those whose cache is at most `budget` times the full one; of
/// equal losses, the smallest cache. The caller measures the losses (in the published script: perplexity).
/// Shapes:   losses [allocations]; a NaN counts as unmeasured.
/// Throws:   invalid_config when the lengths differ or nothing that was measured fits the budget.
/// Source:   as make_elite_allocations.
inline elite_allocation best_elite_allocation(std::span<const elite_allocation> allocations,
                                              std::span<const double> losses, double budget) {
    constexpr const char* who = "best_elite_allocation";
    detail::require_equal(who, "losses must hold one number an allocation", allocations.size(),
                          losses.size());
    const elite_allocation* best = nullptr;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < losses.size(); ++i) {
        const elite_allocation& a = allocations[i];
        if (!(a.ratio <= budget) || !(losses[i] <= least)) continue;
        if (best && losses[i] == least && a.ratio >= best->ratio) continue;
        best = &a;
        least = losses[i];
    }
    detail::require(best != nullptr, who, "budget must leave a measured allocation", budget);
    return *best;
}

}  // namespace ROPEWALK_NAMESPACE
