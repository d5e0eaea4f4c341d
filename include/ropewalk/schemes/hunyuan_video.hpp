// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of HunyuanVideo and HunyuanVideo 1.5: 3-D axial RoPE over a video clip.
#pragma once

#include <ropewalk/positions/video_grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// HunyuanVideo and 1.5: interleaved pairs; time, rows and columns each have frequencies of their own. Text
/// comes after the clip and is untouched.
/// Positions: positions::video_grid with text_after.
/// Source: diffusers transformer_hunyuan_video.py, transformer_hunyuan_video15.py.
namespace ROPEWALK_NAMESPACE::hunyuan_video {

struct joint_config {
    std::vector<index> channels = {16, 56, 56};  ///< rope_axes_dim: t, h, w
    double base = 256;                           ///< rope_theta
};

/// The scheme of a model.
/// Throws:   invalid_config unless channels are three even numbers >= 0, not all 0.
/// Source:   diffusers transformer_hunyuan_video.py HunyuanVideoRotaryPosEmbed.
inline rotary_scheme joint(const joint_config& config = {}) {
    constexpr const char* who = "hunyuan_video::joint";
    detail::require_three_channels(who, config.channels);
    const index sum = config.channels[0] + config.channels[1] + config.channels[2];
    detail::require(sum > 0, who, "channels must sum to > 0", sum);
    return make_fixed_scheme({.name = "hunyuan_video::joint", .layout = interleaved{}},
                             frequencies::axial({.channels = config.channels, .base = config.base}));
}

}  // namespace ROPEWALK_NAMESPACE::hunyuan_video
