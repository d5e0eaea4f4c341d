// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <numeric>

#include <ropewalk/positions/video_grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// CogVideoX 1.0 and 1.5: interleaved pairs, a ladder an axis, text in front of the clip and untouched.
/// Positions: positions::cogvideox_grid (1.0) or positions::video_grid (1.5, whose frames are
/// ceil(latent frames / 2)).
/// Source: CogVideoX, Yang et al. 2024; diffusers get_3d_rotary_pos_embed.
namespace ROPEWALK_NAMESPACE::cogvideox {

struct joint_config {
    index head_dim = 64;
    double base = 1e4;
    std::vector<index> channels = {};  ///< of t, h, w; empty: a quarter and twice three eighths of head_dim
};

/// The scheme of a model.
/// Throws:   invalid_config on channels that are odd or do not sum to head_dim.
/// Source:   diffusers get_3d_rotary_pos_embed.
inline rotary_scheme joint(const joint_config& config = {}) {
    const index d = config.head_dim;
    const auto channels =
        config.channels.empty() ? std::vector<index>{d / 4, d / 8 * 3, d / 8 * 3} : config.channels;
    const index sum = std::accumulate(channels.begin(), channels.end(), index{0});
    detail::require(sum == d, "cogvideox::joint", "channels must sum to head_dim", sum);
    return make_fixed_scheme({.name = "cogvideox::joint", .layout = interleaved{}},
                             frequencies::axial({.channels = channels, .base = config.base, .axes = 3}));
}

}  // namespace ROPEWALK_NAMESPACE::cogvideox
