// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPE-ViT: the axial and mixed (learned) 2-D rotary schemes of plain and Swin vision transformers.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// RoPE for plain and Swin vision transformers: column first, interleaved pairs. Patches are at 0, 1, 2, ...
/// on every grid, so a larger image has larger coordinates and the same frequencies.
/// Source: RoPE-ViT, Heo et al. 2024; naver-ai/rope-vit.
namespace ROPEWALK_NAMESPACE::rope_vit {

struct axial_config {
    index head_dim = 64;
    double base = 100;  ///< rope_theta; Swin models use 50
};

/// RoPE-Axial: half of the pairs for each axis.
/// Throws: invalid_config when head_dim is not a multiple of 4.
/// Source: naver-ai/rope-vit models/vit_rope.py, compute_axial_cis.
inline rotary_scheme axial(const axial_config& config) {
    return make_axial_scheme({.name = "rope_vit::axial",
                              .head_dim = config.head_dim,
                              .base = config.base,
                              .first = first_axis::column,
                              .layout = interleaved{}});
}

struct mixed_config {
    index heads = 1;
    index head_dim = 64;
    index depth = 1;  ///< layers in the checkpoint's array
    index layer = 0;  ///< the layer to read
};

/// RoPE-Mixed from a checkpoint's frequencies, in any of its shapes (see frequencies::mixed). The buffers
/// freqs_t_x and freqs_t_y (rope_t_x, rope_t_y) of a checkpoint are the coordinates of the training grid: use
/// patches() of the actual grid instead.
/// Throws: invalid_config on an odd head_dim or another number of weights.
/// Source: naver-ai/rope-vit models/vit_rope.py, compute_mixed_cis.
template <class W>
rotary_scheme mixed(const mixed_config& config, std::span<const W> weights) {
    detail::require(config.head_dim > 0 && config.head_dim % 2 == 0, "rope_vit::mixed",
                    "head_dim must be even and > 0", config.head_dim);
    return make_fixed_scheme(
        {.name = "rope_vit::mixed", .head_dim = config.head_dim, .layout = interleaved{}},
        frequencies::mixed({.heads = config.heads,
                            .pairs = config.head_dim / 2,
                            .depth = config.depth,
                            .layer = config.layer},
                           weights));
}
template <class W>
rotary_scheme mixed(const mixed_config& config, const std::vector<W>& weights) {
    return mixed(config, std::span<const W>(weights));
}

struct patches_config {
    index height = 0;
    index width = 0;
    index class_tokens = 1;  ///< before the patches, not rotated; Swin has none
};

/// Positions of the tokens of an image: class tokens first, then the patches row by row.
/// Throws: invalid_config on negative sizes.
/// Source: naver-ai/rope-vit models/vit_rope.py, init_t_xy.
inline position_ids patches(const patches_config& config) {
    constexpr const char* who = "rope_vit::patches";
    detail::require_grid(who, {.height = config.height, .width = config.width});
    detail::require_count(who, "class_tokens", config.class_tokens);
    return positions::grid(
        {.height = config.height, .width = config.width, .prefix_tokens = config.class_tokens});
}

/// The factor by which Swin multiplies queries before the rotation. As the magnitude of the queries' table it
/// costs nothing.
/// Throws: invalid_config on head_dim < 1.
/// Source: naver-ai/rope-vit models/swin_transformer_rope.py.
inline double swin_query_scale(index head_dim) {
    detail::require(head_dim >= 1, "swin_query_scale", "head_dim must be >= 1", head_dim);
    return 1 / std::sqrt(static_cast<double>(head_dim));
}

}  // namespace ROPEWALK_NAMESPACE::rope_vit
