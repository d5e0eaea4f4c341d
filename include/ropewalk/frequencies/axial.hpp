// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Axial frequencies: each axis has its own block of pairs with its own geometric ladder.
#pragma once

#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Requires the channels of time, rows and columns: three even counts in 0 .. 65536.
inline void require_three_channels(const char* function, std::span<const index> channels) {
    require(channels.size() == 3, function, "channels must be three numbers: of time, rows and columns",
            channels.size());
    for (const index n : channels)
        require(n >= 0 && n % 2 == 0 && n <= 65536, function, "channels must be even and in 0 .. 65536", n);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::frequencies {

struct axial_config {
    std::vector<index> channels = {};     ///< channels of each block, even (axes_dim, rope_axes_dim)
    double base = 1e4;                    ///< the same for all blocks
    std::vector<int> axis_of_block = {};  ///< the axis of each block; empty: block b reads axis b
    index axes = 0;                       ///< 0: one more than the largest axis used
};

/// Consecutive blocks of pairs, one for each entry of `channels`. Each block has its own ladder of
/// frequencies, which starts again at 1: omega_i = base^(-2 i / channels of the block). Axial 2-D is {D/2,
/// D/2}; images and video are {16, 56, 56}, {44, 42, 42}, ....
/// Shapes:   pairs = sum of channels / 2.
/// Throws:   invalid_config on odd or negative channels, a base that is not > 0, or an axis list of another
///           length. A block of 0 channels is legal.
/// Source:   RoPE-ViT, Heo et al. 2024 (axial); FLUX.1, EmbedND.
///
///     frequencies::axial({.channels = {32, 32}, .base = 100, .axis_of_block = {1, 0}});   // column first
inline spectrum axial(const axial_config& config) {
    constexpr const char* who = "axial";
    const std::size_t blocks = config.channels.size();
    detail::require(config.axis_of_block.empty() || config.axis_of_block.size() == blocks, who,
                    "axis_of_block must be empty or one axis a block", config.axis_of_block.size());
    detail::require(std::isfinite(config.base) && config.base > 0, who, "base must be finite and > 0",
                    config.base);
    std::vector<double> omega;
    std::vector<int> axis_of;
    index axes = std::max<index>(config.axes, 1);
    for (std::size_t b = 0; b < blocks; ++b) {
        const index channels = config.channels[b];
        detail::require(channels >= 0 && channels % 2 == 0, who, "channels must be even and >= 0", channels);
        const int axis = config.axis_of_block.empty() ? static_cast<int>(b) : config.axis_of_block[b];
        detail::require(axis >= 0 && (config.axes == 0 || axis < config.axes), who,
                        "axis_of_block must name an axis below axes", axis);
        axes = std::max<index>(axes, axis + 1);
        const auto ladder = detail::ladder(channels, config.base);
        omega.insert(omega.end(), ladder.begin(), ladder.end());
        axis_of.insert(axis_of.end(), ladder.size(), axis);
    }
    return spectrum::selected(omega, axis_of, axes);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
