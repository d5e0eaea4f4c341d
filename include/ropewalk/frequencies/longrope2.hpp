// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// LongRoPE2's critical pair, and the bounds and first guess of its search for divisors.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include <ropewalk/frequencies/per_pair.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

struct longrope2_config {
    index rotary_dim = 0;
    double base = 1e4;
    double original_context = 0;
    double target_context = 0;                ///< tokens that the extended model must handle
    double largest_factor = 64;               ///< length_scale: the largest divisor of a slow pair
    std::optional<index> critical_pair = {};  ///< the first slow pair; not given: the theoretical one
};

/// The pair number (a real number) from which on the period is longer than the trained context: x = pairs
/// log_base(L0 / 2 pi).
/// Throws:   invalid_config on an odd rotary_dim or one above 2^20, base <= 0 or 1, original_context <= 0, or
///           numbers for which x is beyond 2^28 (a base close to 1).
/// Source:   LongRoPE2, Shang et al. 2025 (arXiv 2502.20082), section 3.1.
inline double critical_pair_number(const longrope2_config& c) {
    detail::require_ladder("longrope2", c.rotary_dim, c.base);
    detail::require(c.rotary_dim <= index{1} << 20, "longrope2", "rotary_dim must be at most 2^20",
                    c.rotary_dim);
    detail::require(c.base != 1, "longrope2", "base must not be 1", c.base);
    detail::require_factor("longrope2", "original_context must be > 0", c.original_context);
    const double place = static_cast<double>(c.rotary_dim / 2) *
                         (std::log(c.original_context / (2 * std::numbers::pi)) / std::log(c.base));
    detail::require(std::abs(place) <= 0x1p28, "longrope2",
                    "base and original_context must put the critical pair within 2^28, not at", place);
    return place;
}

/// The critical dimension of the paper, in channels: 2 ceil(x).
/// Throws:   invalid_config as critical_pair_number.
/// Source:   LongRoPE2, Shang et al. 2025.
inline index longrope2_critical_channels(const longrope2_config& c) {
    return 2 * static_cast<index>(std::ceil(critical_pair_number(c)));
}

/// The first slow pair as the code of the search counts it, ceil(x) - 1. critical_pair of the configuration,
/// the result of a search, is not used here; elsewhere it takes the place of this number.
/// Throws:   invalid_config as critical_pair_number.
/// Source:   J-shang/LongRoPE evolution/search.py.
inline index longrope2_critical_pair(const longrope2_config& c) {
    return static_cast<index>(std::ceil(critical_pair_number(c))) - 1;
}

/// The allowed range of the divisor of each pair.
struct factor_bounds {
    std::vector<double> low;   ///< [pairs]
    std::vector<double> high;  ///< [pairs]
};

/// The bounds of the search: [1, s + 5] before the critical pair and [s, largest_factor] from it on, with s =
/// target_context / original_context.
/// Throws:   invalid_config as critical_pair_number, on target_context < original_context, on a critical_pair
///           outside the pairs, or largest_factor < s.
/// Source:   J-shang/LongRoPE evolution/search.py, its bounds applied to each pair.
inline factor_bounds longrope2_bounds(const longrope2_config& c) {
    const index critical = c.critical_pair.value_or(longrope2_critical_pair(c));
    critical_pair_number(c);
    const index pairs = c.rotary_dim / 2;
    detail::require(critical >= 0 && critical <= pairs, "longrope2", "critical_pair must be in 0 .. pairs",
                    critical);
    detail::require(std::isfinite(c.target_context) && c.target_context >= c.original_context, "longrope2",
                    "target_context must be >= original_context", c.target_context);
    const double s = c.target_context / c.original_context;
    detail::require(std::isfinite(c.largest_factor) && c.largest_factor >= s, "longrope2",
                    "largest_factor must be >= target_context / original_context", c.largest_factor);
    factor_bounds bounds;
    for (index i = 0; i < pairs; ++i) {
        bounds.low.push_back(i < critical ? 1 : s);
        bounds.high.push_back(i < critical ? s + 5 : c.largest_factor);
    }
    return bounds;
}

/// A first guess of the divisors: S^(i / critical) up to the critical pair, S + 0.1 (i - critical) beyond,
/// with S = largest_factor. It increases with i; the last divisors may exceed the bounds, as in the code of
/// the search.
/// Shapes:   [pairs].
/// Throws:   invalid_config as longrope2_bounds.
/// Source:   J-shang/LongRoPE evolution/genetic_base.py.
inline std::vector<double> longrope2_start(const longrope2_config& c) {
    longrope2_bounds(c);
    const index critical = c.critical_pair.value_or(longrope2_critical_pair(c));
    std::vector<double> factors;
    for (index i = 0; i < c.rotary_dim / 2; ++i)
        factors.push_back(
            i < critical ? std::pow(c.largest_factor, static_cast<double>(i) / static_cast<double>(critical))
                         : c.largest_factor + 0.1 * static_cast<double>(i - critical));
    return factors;
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
