// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <limits>
#include <span>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// One way to spend a cache: so many elite pairs a head, so wide a latent.
struct elite_allocation {
    index rounds = 0;  ///< r, pairs of a head that rotate
    index latent = 0;  ///< channels of the latent
    double ratio = 0;  ///< cached numbers against full keys and values
};

/// What allocations are listed for.
struct elite_allocation_config {
    index kv_heads = 32;
    index head_dim = 128;
    index hidden = 4096;       ///< of the model
    index first_rounds = 1;    ///< least r
    index last_rounds = 32;    ///< largest r, at most head_dim / 2
    index latent_step = 128;   ///< widths of the latent: hidden, hidden - step, ...
    double least_width = 0.1;  ///< down to this share of hidden
};

/// The grid that a layer's cache is looked for in: every r with every width of latent, widest first, that is
/// not wider than where the two factors hold more numbers than the matrices they stand for.
/// Throws:   invalid_config on sizes that are not positive, rounds beyond the pairs, or a share outside (0,
///           1].
/// Source:   CiaranZhou/EliteKV dimension_allocation/allocation_ppl.py, whose bound is written for 128
///           channels a head and hidden = heads * head_dim.
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

/// The allocation of the least loss among those whose cache is at most `budget` of the full one; of equal
/// ones the smallest cache. The losses are the caller's measurement (the published script's: perplexity).
/// Shapes:   losses [allocations]; a NaN counts as unmeasured.
/// Throws:   invalid_config when the lengths differ or nothing that was measured fits the budget.
/// Source:   as make_elite_allocations.
inline elite_allocation best_elite_allocation(std::span<const elite_allocation> allocations,
                                              std::span<const double> losses, double budget) {
    constexpr const char* who = "best_elite_allocation";
    detail::require(losses.size() == allocations.size(), who, "losses must hold one number an allocation",
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
