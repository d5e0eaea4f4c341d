// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// GRAPE's learned frequencies, and spectra flattened or reversed.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// GRAPE's frequencies as its models store them: omega = exp(log_frequency / scale), learned.
/// Units:    radians per position; magnitude 1. GRAPE-M rotates clockwise: pass negative positions, or negate
///           the spectrum with reversed().
/// Throws:   invalid_config on a scale that is 0 or not finite, or frequencies that overflow f64.
/// Source:   GRAPE, arXiv 2512.07805; model-architectures/GRAPE model/.
inline spectrum grape(std::span<const double> log_frequencies, double scale = 16) {
    detail::require(std::isfinite(scale) && scale != 0, "grape", "scale must be finite and not 0", scale);
    std::vector<double> omega;
    for (const double v : log_frequencies) omega.push_back(std::exp(v / scale));
    return spectrum::from_omega(omega);
}

/// Raises every frequency to the power 1 / scale: the ladder of GRAPE-3D, flattened by its log_freq_scale.
/// Throws:   invalid_config on a scale that is 0 or not finite.
/// Source:   GRAPE-3D in JJJYmmm/Multimodal-RoPEs freq_allocation.
inline spectrum flatten(const spectrum& s, double scale) {
    detail::require(std::isfinite(scale) && scale != 0, "flatten", "scale must be finite and not 0", scale);
    return map_omega(s, [scale](double omega, index) {
        return omega == 0 ? 0.0 : std::copysign(std::pow(std::abs(omega), 1 / scale), omega);
    });
}

/// The spectrum with all frequencies negated: it rotates clockwise where `s` rotates counter-clockwise.
/// Source:   cos(-a) = cos(a), sin(-a) = -sin(a).
inline spectrum reversed(const spectrum& s) {
    return map_omega(s, [](double omega, index) { return -omega; });
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
