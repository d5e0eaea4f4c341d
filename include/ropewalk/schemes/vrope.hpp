// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// VRoPE over a text model: each pair reads one of four coordinates, counted from the corners of a frame.
#pragma once

#include <ropewalk/positions/vrope.hpp>
#include <ropewalk/schemes/mrope.hpp>

/// VRoPE over a text model.
/// Source: VRoPE, Liu et al. 2025; johncaged/VRoPE.
namespace ROPEWALK_NAMESPACE::vrope {

/// The text model of the paper's first backbone, Vicuna.
/// Source: VRoPE, Liu et al. 2025.
inline constexpr mrope::text_config vicuna_text{.base = 1e4};

struct over_config {
    index time_pairs = 0;  ///< how many of the slowest pairs read the frame's time; 0 in the released code
};

/// VRoPE: pair p reads coordinate p mod 4 of the frame, each measured from another corner. The context
/// scaling is that of the text model. Text has plain RoPE.
/// Throws:   invalid_config on time_pairs that are negative or not below the pairs.
/// Source:   VRoPE, Liu et al. 2025; johncaged/VRoPE vrope.py.
inline stream_scheme<positions::vrope_rule> over(const rotary_scheme& text, const over_config& config = {}) {
    const positions::vrope_rule rule{.time_axes = config.time_pairs > 0 ? 1 : 0};
    const auto map = [rule, time_pairs = config.time_pairs](const spectrum& s) {
        return frequencies::assign_axes(
            s, axis_map::vrope({.pairs = s.pairs(), .dimensions = 2, .time_pairs = time_pairs}), rule.axes());
    };
    return {with_frequencies(text, "vrope::over", map), rule};
}

}  // namespace ROPEWALK_NAMESPACE::vrope
