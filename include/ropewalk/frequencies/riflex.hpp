// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RIFLEx: one temporal frequency lowered so that longer clips do not repeat.
#pragma once

#include <numbers>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

struct riflex_config {
    index component = 0;     ///< k, counted from 1 among the pairs of the axis (4 to 6 in practice)
    double test_frames = 0;  ///< L_test: latent frames to generate
    index axis = 0;          ///< the temporal axis
    double margin = 0.9;     ///< the share of one period that the frames may fill
};

/// RIFLEx: the k-th frequency of the temporal axis is lowered to margin * 2 pi / L_test, so that the
/// generated frames stay within one of its periods and the clip does not repeat. All other pairs keep their
/// frequencies. If L_test frames already fit into the period, the spectrum is returned unchanged.
/// Requires: a selected spectrum, shared by all heads.
/// Throws:   invalid_config on a component that the axis does not have, or test_frames or margin that are not
///           finite and > 0.
/// Source:   RIFLEx, Zhao et al. 2025, eq. 8; thu-ml/RIFLEx riflex_utils.py.
inline spectrum riflex(const spectrum& s, const riflex_config& config) {
    constexpr const char* who = "riflex";
    detail::require(!s.is_mixed() && s.heads() == 1, who, "spectrum must be of the selected form, one head",
                    s.is_mixed() ? "a mixed one" : "several heads");
    detail::require(std::isfinite(config.test_frames) && config.test_frames > 0, who,
                    "test_frames must be finite and > 0", config.test_frames);
    detail::require(std::isfinite(config.margin) && config.margin > 0, who, "margin must be finite and > 0",
                    config.margin);
    detail::require(config.component >= 1, who, "component must be >= 1", config.component);
    index pair = -1;
    index seen = 0;
    for (index i = 0; i < s.pairs() && pair < 0; ++i)
        if (s.axis_of(0, i) == config.axis && ++seen == config.component) pair = i;
    detail::require(pair >= 0, who, "component must be one of the axis's pairs", config.component);
    const double lowered = config.margin * 2 * std::numbers::pi / config.test_frames;
    if (2 * std::numbers::pi / s.omega(pair) >= config.test_frames) return s;
    return map_omega(s, [&](double omega, index i) { return i == pair ? lowered : omega; });
}

/// The component whose period, rounded to whole frames, is nearest to the first frame at which a clip was
/// seen to repeat; of two equally near ones the faster. Counted from 1, for riflex_config::component.
/// Throws:   invalid_config on an axis without pairs or a frame < 1.
/// Source:   RIFLEx, eqs. 4 and 7; thu-ml/RIFLEx identify_k.
inline index riflex_component(const spectrum& s, double repetition_frame, index axis = 0) {
    detail::require(std::isfinite(repetition_frame) && repetition_frame >= 1, "riflex_component",
                    "repetition_frame must be finite and >= 1", repetition_frame);
    index best = 0;
    index seen = 0;
    double nearest = 0;
    for (index i = 0; i < s.pairs(); ++i) {
        if (s.is_mixed() || s.axis_of(0, i) != axis) continue;
        const double distance =
            std::abs(std::nearbyint(2 * std::numbers::pi / s.omega(i)) - repetition_frame);
        ++seen;
        if (best == 0 || distance < nearest) {
            best = seen;
            nearest = distance;
        }
    }
    detail::require(best > 0, "riflex_component", "axis must be one that pairs read", axis);
    return best;
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
