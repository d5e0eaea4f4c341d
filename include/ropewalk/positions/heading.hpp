// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Headings and poses of agents as positions, for DRoPE.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// A heading reduced to [-pi, pi], so that a large accumulated yaw keeps its precision in f32 and bf16.
/// Units:    radians.
/// Accuracy: the exact remainder by the double nearest 2 pi, which is 2.4e-16 below 2 pi.
/// Source:   IEEE 754 remainder.
inline double wrapped_heading(double radians) noexcept {
    return std::remainder(radians, 2 * std::numbers::pi);
}

/// The headings of agents, as positions on one axis.
/// Units:    radians, any branch; counter-clockwise.
/// Throws:   invalid_config on a heading that is not finite (mask the scores of an invalid agent instead).
/// Source:   DRoPE, Zhao et al. 2025.
template <class N>
position_ids headings(std::span<const N> radians) {
    for (const N phi : radians)
        detail::require(std::isfinite(phi), "headings", "headings must be finite", phi);
    return position_ids::from(radians);
}

/// The same, from degrees.
/// Throws: as headings.
/// Source: as headings.
template <class N>
position_ids headings_in_degrees(std::span<const N> degrees) {
    std::vector<double> radians;
    for (const N phi : degrees) {
        detail::require(std::isfinite(phi), "headings_in_degrees", "headings must be finite", phi);
        // Whole turns are removed in degrees, where that is exact.
        radians.push_back(std::remainder(static_cast<double>(phi), 360.0) * (std::numbers::pi / 180));
    }
    return position_ids::from(radians);
}

/// Poses: axes (x, y, heading) from arrays [agents, 2] and [agents].
/// Throws: invalid_config on sizes that disagree or numbers that are not finite.
/// Source: DRoPE, Zhao et al. 2025.
template <class N>
position_ids poses(std::span<const N> xy, std::type_identity_t<std::span<const N>> heading) {
    detail::require_equal("poses", "xy must hold two numbers an agent", 2 * heading.size(), xy.size());
    std::vector<double> values;
    for (std::size_t i = 0; i < heading.size(); ++i) {
        detail::require(std::isfinite(heading[i]), "poses", "headings must be finite", heading[i]);
        values.insert(values.end(), {static_cast<double>(xy[2 * i]), static_cast<double>(xy[2 * i + 1]),
                                     static_cast<double>(heading[i])});
    }
    return position_ids::from_tokens_axes(values, 3);
}

}  // namespace ROPEWALK_NAMESPACE::positions
