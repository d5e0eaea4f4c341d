// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of CogVideoX 1.0 and 1.5: 3-D axial RoPE over a video clip.
#pragma once

#include <ropewalk/positions/video_grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// CogVideoX 1.0 and 1.5: interleaved pairs; time, rows and columns each have frequencies of their own. Text
/// comes before the clip and is untouched.
/// Positions: positions::cogvideox_grid (1.0) or positions::video_grid (1.5, whose frames are
/// ceil(latent frames / 2)).
/// Source: CogVideoX, Yang et al. 2024; diffusers get_3d_rotary_pos_embed.
namespace ROPEWALK_NAMESPACE::cogvideox {

struct joint_config {
    index head_dim = 64;
    double base = 1e4;
    std::vector<index> channels = {};  ///< of t, h, w; empty: 1/4, 3/8 and 3/8 of head_dim
};

/// The scheme of a model.
/// Throws:   invalid_config on a head_dim that is not > 0 or, where `channels` is empty, not a multiple of
///           16; on channels that are not three even numbers that sum to head_dim.
/// Source:   diffusers get_3d_rotary_pos_embed.
inline rotary_scheme joint(const joint_config& config = {}) {
    constexpr const char* who = "cogvideox::joint";
    const index d = config.head_dim;
    detail::require(d > 0, who, "head_dim must be > 0", d);
    detail::require(!config.channels.empty() || d % 16 == 0, who,
                    "head_dim must be a multiple of 16 where no channels are given", d);
    const auto channels =
        config.channels.empty() ? std::vector<index>{d / 4, d / 8 * 3, d / 8 * 3} : config.channels;
    detail::require_three_channels(who, channels);
    const index sum = channels[0] + channels[1] + channels[2];
    detail::require_equal(who, "channels must sum to head_dim", d, sum);
    return make_fixed_scheme({.name = "cogvideox::joint", .layout = interleaved{}},
                             frequencies::axial({.channels = channels, .base = config.base, .axes = 3}));
}

}  // namespace ROPEWALK_NAMESPACE::cogvideox
