// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of Stable Audio Open's diffusion transformer (partial RoPE in self-attention).
#pragma once

#include <algorithm>
#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Stable Audio Open: partial RoPE on half of the channels of a head, half-split, in self-attention only.
/// Prepended tokens count as positions.
/// Source: Stable Audio Open, Evans et al. 2024; Stability-AI/stable-audio-tools models/transformer.py.
namespace ROPEWALK_NAMESPACE::stable_audio {

struct self_attention_config {
    index head_dim = 64;
    index rotary_dim = 0;  ///< 0: max(head_dim / 2, 32)
    double base = 1e4;
    double interpolation_factor = 1;  ///< positions are divided by it
    double base_rescale_factor = 1;   ///< base *= factor^(rotary_dim / (rotary_dim - 2))
};

/// The scheme of the diffusion transformer's self-attention; positions are 0, 1, ....
/// Throws:   invalid_config when head_dim is below the channels that rotate (at least 32 by default), or a
///           factor is not > 0.
/// Source:   Stability-AI/stable-audio-tools stable_audio_tools/models/transformer.py, RotaryEmbedding.
inline rotary_scheme self_attention(const self_attention_config& config) {
    constexpr const char* who = "stable_audio::self_attention";
    const index dim = config.rotary_dim == 0 ? std::max<index>(config.head_dim / 2, 32) : config.rotary_dim;
    detail::require(config.head_dim >= dim, who, "head_dim must hold the channels that rotate",
                    config.head_dim);
    detail::require_factor(who, "base_rescale_factor must be finite and > 0", config.base_rescale_factor);
    detail::require(dim > 2 || config.base_rescale_factor == 1, who,
                    "rotary_dim must be > 2 where the base is rescaled", dim);
    double base = config.base;
    if (config.base_rescale_factor != 1)
        base *= std::pow(config.base_rescale_factor, static_cast<double>(dim) / static_cast<double>(dim - 2));
    return make_fixed_scheme(
        {.name = who, .head_dim = config.head_dim, .layout = half_split{}},
        frequencies::linear({.rotary_dim = dim, .base = base, .factor = config.interpolation_factor}));
}

}  // namespace ROPEWALK_NAMESPACE::stable_audio
