// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/positions/video_rope.hpp>
#include <ropewalk/schemes/mrope.hpp>

/// VideoRoPE over a text model.
/// Source: VideoRoPE, Wei et al. 2025; Wiselnn570/VideoRoPE.
namespace ROPEWALK_NAMESPACE::video_rope {

struct over_config {
    std::vector<index> sections = {16, 24, 24};  ///< pairs of t, h, w; t gets the slowest
    positions::video_rope_rule rule = {};        ///< spacing 2, the released code's centre and transition
};

/// Time on the slowest pairs, rows and columns alternating on the fast ones, frames on the diagonal; the
/// scaling stays the text model's. Text is plain RoPE.
/// Throws:   invalid_config unless the sections are three that sum to the pairs, or on a bad spacing.
/// Source:   VideoRoPE, Wei et al. 2025.
inline stream_scheme<positions::video_rope_rule> over(const rotary_scheme& text, const over_config& config) {
    config.rule.check();
    const auto map = [sections = config.sections](const spectrum& s) {
        detail::require_sections("video_rope::over", sections, s.pairs());
        return frequencies::assign_axes(s, axis_map::video_rope(sections), 3);
    };
    return {with_frequencies(text, "video_rope::over", map), config.rule};
}

}  // namespace ROPEWALK_NAMESPACE::video_rope
