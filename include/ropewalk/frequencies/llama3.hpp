// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Llama 3.1's frequency scaling by wavelength bands.
#pragma once

#include <cmath>
#include <numbers>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

struct llama3_config {
    index rotary_dim = 0;
    double base = 5e5;
    double factor = 8;
    double low_freq_factor = 1;
    double high_freq_factor = 4;
    double original_context = 8192;
};

/// Llama 3.1's scaling: pairs with a wavelength below L0 / high_freq_factor keep their frequency, those above
/// L0 / low_freq_factor are divided by `factor`, and between them the two are blended linearly in the
/// frequency. With high_freq_factor == low_freq_factor there is no blend.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config on an odd rotary_dim, base or factor <= 0, original_context <= 0, low_freq_factor
///           <= 0 or high_freq_factor < low_freq_factor.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   meta-llama/llama-models, models/llama3/model.py; Hugging Face "llama3".
inline spectrum llama3(const llama3_config& c) {
    detail::require_ladder("llama3", c.rotary_dim, c.base);
    detail::require(std::isfinite(c.factor) && c.factor > 0, "llama3", "factor must be > 0", c.factor);
    detail::require(std::isfinite(c.original_context) && c.original_context > 0, "llama3",
                    "original_context must be > 0", c.original_context);
    detail::require(c.low_freq_factor > 0, "llama3", "low_freq_factor must be > 0", c.low_freq_factor);
    detail::require(c.high_freq_factor >= c.low_freq_factor, "llama3",
                    "high_freq_factor must be >= low_freq_factor", c.high_freq_factor);
    auto omega = detail::ladder(c.rotary_dim, c.base);
    for (double& w : omega) {
        const double turns_over_context = c.original_context * w / (2 * std::numbers::pi);
        if (turns_over_context > c.high_freq_factor) continue;
        if (turns_over_context < c.low_freq_factor || c.high_freq_factor == c.low_freq_factor) {
            w /= c.factor;
            continue;
        }
        const double m = (turns_over_context - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
        w = (1 - m) * w / c.factor + m * w;
    }
    return spectrum::from_omega(omega);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
