// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme and positions of Lumina-Image 2.0 (image diffusion).
#pragma once

#include <algorithm>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Lumina-Image 2.0: caption tokens count along the first axis; all image tokens follow at its end.
/// Source: Lumina-Image 2.0, Qin et al. 2025; Alpha-VLLM/Lumina-Image-2.0 models/model.py.
namespace ROPEWALK_NAMESPACE::lumina {

struct joint_config {
    std::vector<index> axes_dims = {32, 32, 32};  ///< channels per axis: (caption, row, column)
    double base = 1e4;
};

/// The scheme of a model: interleaved pairs, a block of pairs per axis.
/// Throws: invalid_config unless axes_dims are three even numbers, not all of them 0.
/// Source: Alpha-VLLM/Lumina-Image-2.0 models/model.py, RopeEmbedder.
inline rotary_scheme joint(const joint_config& config) {
    detail::require(config.axes_dims.size() == 3, "lumina::joint", "axes_dims must be three numbers",
                    config.axes_dims.size());
    for (const index channels : config.axes_dims)
        detail::require(channels >= 0 && channels % 2 == 0, "lumina::joint",
                        "axes_dims must be even and >= 0", channels);
    detail::require(*std::max_element(config.axes_dims.begin(), config.axes_dims.end()) > 0, "lumina::joint",
                    "axes_dims must not all be 0, largest", 0);
    return make_fixed_scheme(
        {.name = "lumina::joint", .layout = interleaved{}},
        frequencies::axial({.channels = config.axes_dims, .base = config.base, .axes = 3}));
}

struct sequence_config {
    index caption_tokens = 0;  ///< valid caption tokens of this sample
    index height = 0;          ///< image tokens
    index width = 0;
    index padding = 0;                               ///< after the image; ids (0, 0, 0), so untouched
    std::vector<index> axes_lens = {300, 512, 512};  ///< positions of each axis; larger ids are refused
};

/// One sample: caption token j at (j, 0, 0), then image tokens at (caption_tokens, row, column).
/// Throws: invalid_config when an id is not below the limit of its axis in axes_lens, or on a negative
///         padding.
/// Source: Alpha-VLLM/Lumina-Image-2.0 models/model.py, patchify_and_embed.
inline position_ids joint_positions(const sequence_config& config) {
    constexpr const char* who = "lumina::joint_positions";
    detail::require(config.axes_lens.size() == 3, who, "axes_lens must be three numbers",
                    config.axes_lens.size());
    for (const index length : config.axes_lens) detail::require_count(who, "axes_lens", length);
    detail::require_count(who, "padding", config.padding);
    const bool has_image = config.height > 0 && config.width > 0;
    detail::require(
        config.caption_tokens >= 0 && config.caption_tokens <= config.axes_lens[0] - (has_image ? 1 : 0), who,
        "caption_tokens must be >= 0 and below axes_lens[0]", config.caption_tokens);
    detail::require(config.height >= 0 && config.height <= config.axes_lens[1], who,
                    "height must be >= 0 and at most axes_lens[1]", config.height);
    detail::require(config.width >= 0 && config.width <= config.axes_lens[2], who,
                    "width must be >= 0 and at most axes_lens[2]", config.width);
    position_ids ids(3);
    ids.append(grid_block{
        {config.caption_tokens}, {{positions::evenly_spaced(config.caption_tokens)}, {{}}, {{}}}, {}});
    ids.append(grid_block{{config.height, config.width},
                          {{{}, {}},
                           {positions::evenly_spaced(config.height), {}},
                           {{}, positions::evenly_spaced(config.width)}},
                          {static_cast<double>(config.caption_tokens), 0, 0}});
    if (config.padding != 0) ids.append(untouched_run{config.padding});
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::lumina
