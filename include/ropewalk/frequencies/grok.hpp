// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Grok's context extension in its four forms: none, two variants of YaRN, and another base.
#pragma once

#include <cmath>
#include <numbers>

#include <ropewalk/frequencies/yarn.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// How Grok extends the context. original: not at all. yarn: YaRN's blend, an arithmetic mean of the two
/// frequencies (also called yarn_linear). yarn_log: their geometric mean. theta_scale: another base.
enum class grok_method : std::uint8_t { original, yarn, yarn_log, theta_scale };

/// What happens to an empty ramp (both ends at one pair): vLLM raises the upper end by 0.001, SGLang lowers
/// the lower end, so that the pair itself is extrapolated or interpolated.
enum class empty_ramp : std::uint8_t { raise_high, lower_low };

struct grok_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;                           ///< s, the context extension
    double original_context = 0;                 ///< L0
    grok_method method = grok_method::yarn_log;  ///< which of Grok's formulas
    double beta_fast = 32;                       ///< turns over L0 above which a pair keeps its frequency
    double beta_slow = 1;                        ///< turns over L0 below which a pair is fully interpolated
    double extrapolation_factor = 1;
    double attn_factor = 1;  ///< used by grok_unused_mscale only
    empty_ramp empty = empty_ramp::raise_high;
};

/// The base of theta_scale: a pair that makes one turn over L0 makes one turn over s L0 under this base.
/// Throws:   invalid_config on base <= 0, factor <= 0, or an original_context so short (2 pi) that no pair
///           makes a turn over it or over s times it.
/// Source:   vllm-project/vllm rotary_embedding/grok1_scaling_rope.py.
inline double grok_scaled_base(const grok_config& c) {
    constexpr double tau = 2 * std::numbers::pi;
    detail::require_factor("grok", "base must be finite and > 0", c.base);
    detail::require_factor("grok", "factor must be finite and > 0", c.factor);
    detail::require(std::isfinite(c.original_context) && c.original_context > tau, "grok",
                    "original_context must be > 2 pi", c.original_context);
    detail::require(c.original_context * c.factor > tau, "grok", "original_context * factor must be > 2 pi",
                    c.original_context * c.factor);
    const double base =
        std::pow(c.base, std::log(c.original_context * c.factor / tau) / std::log(c.original_context / tau));
    detail::require_factor("grok", "factor must leave the base finite and > 0", base);
    return base;
}

/// The temperature that Grok's code computes and never applies: (0.1 ln s + 1) attn_factor. The magnitude of
/// Grok's spectrum is 1.
/// Source: xai-org/grok-1's port in sgl-project/sglang models/grok.py.
inline double grok_unused_mscale(const grok_config& c) { return yarn_mscale(c.factor) * c.attn_factor; }

/// Grok's context extension in its four forms. A factor of 1 changes nothing in any of them.
/// Units:    radians per position; magnitude 1 for every factor.
/// Throws:   invalid_config on an odd rotary_dim, base <= 0 or 1, factor, original_context or a beta <= 0,
///           extrapolation_factor not finite, and as grok_scaled_base.
/// Accuracy: f64, 1e-15 relative to each branch.
/// Source:   sgl-project/sglang models/grok.py; vllm-project/vllm rotary_embedding/grok1_scaling_rope.py.
inline spectrum grok(const grok_config& c) {
    detail::require_ladder("grok", c.rotary_dim, c.base);
    detail::require(c.base != 1, "grok", "base must not be 1", c.base);
    detail::require_factor("grok", "factor must be finite and > 0", c.factor);
    if (c.method == grok_method::original) return geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    if (c.method == grok_method::theta_scale)
        return geometric({.rotary_dim = c.rotary_dim, .base = grok_scaled_base(c)});
    detail::require_factor("grok", "original_context must be > 0", c.original_context);
    detail::require_factor("grok", "beta_fast must be > 0", c.beta_fast);
    detail::require_factor("grok", "beta_slow must be > 0", c.beta_slow);
    detail::require(std::isfinite(c.extrapolation_factor), "grok", "extrapolation_factor must be finite",
                    c.extrapolation_factor);
    auto bounds =
        detail::correction_range(c.beta_fast, c.beta_slow, c.rotary_dim, c.base, c.original_context, true);
    if (bounds.low == bounds.high && c.empty == empty_ramp::lower_low) bounds.low -= 0.001;
    auto omega = detail::ladder(c.rotary_dim, c.base);
    for (std::size_t i = 0; i < omega.size(); ++i) {
        const double keep = (1 - detail::ramp(static_cast<double>(i), bounds)) * c.extrapolation_factor;
        omega[i] = c.method == grok_method::yarn_log ? omega[i] * std::pow(c.factor, keep - 1)
                                                     : omega[i] * keep + omega[i] / c.factor * (1 - keep);
    }
    return spectrum::from_omega(omega);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
