// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// HoPE for video: VideoRoPE positions with the slowest, temporal pairs not rotated, over a text model.
#pragma once

#include <ropewalk/frequencies/hope_video.hpp>
#include <ropewalk/positions/video_rope.hpp>
#include <ropewalk/schemes/mrope.hpp>

/// HoPE for video and language, over a text model. (Another method of 2025 named HoPE, for text, is
/// frequencies/hope_text.hpp.)
/// Source: HoPE: Hybrid of Position Embedding, 2025; hrlics/HoPE.
namespace ROPEWALK_NAMESPACE::hope_video {

struct over_config {
    std::vector<index> sections = {16, 24, 24};  ///< pairs of t, h, w; those of t do not rotate
    double scale = 0;  ///< position step of a frame, must be set; a block's temporal_scale overrides it
};

/// VideoRoPE's positions with a scale for frames, and frequency 0 for the slow temporal pairs. The context
/// scaling is that of the text model. Text therefore has partial RoPE, not plain RoPE.
/// Throws:   invalid_config on a scale that is not finite and > 0, sections that do not sum to the pairs, or
///           a scaling with a magnitude other than 1.
/// Source:   HoPE: Hybrid of Position Embedding, 2025; hrlics/HoPE modeling_hope.py.
inline stream_scheme<positions::video_rope_rule> over(const rotary_scheme& text, const over_config& config) {
    detail::require(std::isfinite(config.scale) && config.scale > 0, "hope_video::over",
                    "scale must be finite and > 0", config.scale);
    const auto change = [sections = config.sections](const spectrum& s) {
        return frequencies::hope_video(s, sections);
    };
    return {with_frequencies(text, "hope_video::over", change), positions::hope_video_rule(config.scale)};
}

}  // namespace ROPEWALK_NAMESPACE::hope_video
