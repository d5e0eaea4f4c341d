// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of Wan 2.1 and 2.2: 3-D axial RoPE over a video clip.
#pragma once

#include <ropewalk/positions/video_grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Wan 2.1 and 2.2: interleaved pairs; time, rows and columns each have frequencies of their own. Text enters
/// through cross-attention only.
/// Positions: positions::video_grid, or video_batch for clips of different sizes padded to one length.
/// Source: Wan-Video/Wan2.1 wan/modules/model.py.
namespace ROPEWALK_NAMESPACE::wan {

struct self_attention_config {
    index head_dim = 128;
    double base = 1e4;
};

/// The scheme: 2 floor(head_dim / 6) channels for rows and for columns, the others for time.
/// Throws:   invalid_config on a head_dim that is odd or not > 0.
/// Source:   Wan-Video/Wan2.1 wan/modules/model.py rope_params, rope_apply.
inline rotary_scheme self_attention(const self_attention_config& config = {}) {
    detail::require(config.head_dim > 0 && config.head_dim % 2 == 0, "wan::self_attention",
                    "head_dim must be even and > 0", config.head_dim);
    const index side = 2 * (config.head_dim / 6);
    return make_fixed_scheme(
        {.name = "wan::self_attention", .layout = interleaved{}},
        frequencies::axial(
            {.channels = {config.head_dim - 2 * side, side, side}, .base = config.base, .axes = 3}));
}

}  // namespace ROPEWALK_NAMESPACE::wan
