// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Position Interpolation, static and dynamic: all frequencies divided by one factor.
#pragma once

#include <algorithm>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// Divides every frequency by one factor: a token at position p rotates as one at p / factor did. Composes
/// with any spectrum, whatever its axes and heads.
/// Throws:   invalid_config unless factor is finite and > 0.
/// Source:   Position Interpolation, Chen et al. 2023, eq. 4.
inline spectrum interpolate(const spectrum& s, double factor) {
    detail::require_factor("interpolate", "factor must be finite and > 0", factor);
    return map_omega(s, [factor](double omega, index) { return omega / factor; });
}

struct linear_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;  ///< target context / trained context
};

/// Position Interpolation ("linear"): RoFormer's frequencies divided by `factor`.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config on an odd rotary_dim, base or factor <= 0.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   Position Interpolation, Chen et al. 2023; Hugging Face "linear" (the frequency is divided;
///           jquesnelle/yarn divides the position, which differs in the last bit).
inline spectrum linear(const linear_config& c) {
    detail::require_ladder("linear", c.rotary_dim, c.base);
    detail::require_factor("linear", "factor must be finite and > 0", c.factor);
    auto omega = detail::ladder(c.rotary_dim, c.base);
    for (double& w : omega) w /= c.factor;
    return spectrum::from_omega(omega);
}

struct dynamic_linear_config {
    index rotary_dim = 0;
    double base = 1e4;
    double max_context = 0;  ///< the trained length; up to it nothing is interpolated
};

/// Interpolation that grows with the sequence: factor max(context_length / max_context, 1). Every change of
/// the factor changes all frequencies, so keys cached before must be rotated again (kv/rebase.hpp).
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config on an odd rotary_dim, base or max_context <= 0, context_length < 1.
/// Source:   jquesnelle/yarn LlamaDynamicScaledRotaryEmbedding with ntk = False.
inline spectrum dynamic_linear(const dynamic_linear_config& c, std::int64_t context_length) {
    detail::require_factor("dynamic_linear", "max_context must be > 0", c.max_context);
    detail::require_length("dynamic_linear", context_length);
    const double factor = std::max(static_cast<double>(context_length) / c.max_context, 1.0);
    return linear({.rotary_dim = c.rotary_dim, .base = c.base, .factor = factor});
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
