// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of the image encoder of Qwen2-VL and Qwen2.5-VL: 2-D axial RoPE in merge-block order.
#pragma once

#include <span>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// The image encoder of Qwen2-VL and Qwen2.5-VL: 2-D axial RoPE, row first, half-split pairs, tokens in the
/// order of merge blocks.
/// Source: Qwen2-VL, Wang et al. 2024; Hugging Face models/qwen2_vl/modeling_qwen2_vl.py.
namespace ROPEWALK_NAMESPACE::qwen_vl_vision {

struct axial_config {
    index head_dim = 80;
    double base = 1e4;
};

/// The scheme of the encoder.
/// Throws: invalid_config when head_dim is not a multiple of 4.
/// Source: Hugging Face models/qwen2_vl/modeling_qwen2_vl.py, VisionRotaryEmbedding.
inline rotary_scheme axial(const axial_config& config) {
    return make_axial_scheme({.name = "qwen_vl_vision::axial",
                              .head_dim = config.head_dim,
                              .base = config.base,
                              .first = first_axis::row,
                              .layout = half_split{}});
}

/// The patches of one image or clip: an entry of image_grid_thw or video_grid_thw.
/// Source: Hugging Face models/qwen2_vl.
struct grid_thw {
    index frames = 1;
    index height = 0;
    index width = 0;
};

/// Positions of the tokens. The patches of each merge x merge block follow one another. Every frame has the
/// same positions: time is not an axis, and attention is per frame. Qwen2.5-VL gathers the tokens into
/// windows: see positions::window_order and select_tokens.
/// Throws: invalid_config when a height or width is not a multiple of merge.
/// Source: Hugging Face models/qwen2_vl/modeling_qwen2_vl.py, rot_pos_emb.
inline position_ids patches(std::span<const grid_thw> grids, index merge = 2) {
    position_ids ids(2);
    for (const grid_thw& g : grids) {
        const positions::grid_config one{.height = g.height,
                                         .width = g.width,
                                         .frames = g.frames,
                                         .merge = merge,
                                         .order = positions::patch_order::merge_blocks};
        detail::require_grid("qwen_vl_vision::patches", one);
        ids.append(positions::grid(one));
    }
    return ids;
}
inline position_ids patches(std::initializer_list<grid_thw> grids, index merge = 2) {
    return patches(std::span<const grid_thw>(grids.begin(), grids.size()), merge);
}

}  // namespace ROPEWALK_NAMESPACE::qwen_vl_vision
