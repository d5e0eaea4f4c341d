// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of Llama 4's image encoder: 2-D axial RoPE, column first, interleaved pairs.
#pragma once

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Llama 4's image encoder: 2-D axial RoPE, column first, interleaved pairs. Coordinates start at 1, and the
/// class token comes last.
/// Source: Hugging Face models/llama4, Llama4VisionRotaryEmbedding.
namespace ROPEWALK_NAMESPACE::llama4_vision {

struct axial_config {
    index head_dim = 88;
    double base = 1e4;
};

/// The scheme of the encoder.
/// Throws: invalid_config when head_dim is not a multiple of 4.
/// Source: Hugging Face models/llama4, Llama4VisionRotaryEmbedding.
inline rotary_scheme axial(const axial_config& config) {
    return make_axial_scheme({.name = "llama4_vision::axial",
                              .head_dim = config.head_dim,
                              .base = config.base,
                              .first = first_axis::column,
                              .layout = interleaved{}});
}

struct patches_config {
    index side = 0;          ///< image_size / patch_size
    double first = 1;        ///< coordinate of the first row and column; the class token is at 0
    index class_tokens = 1;  ///< after the patches, not rotated
};

/// Positions of the tokens of a square image.
/// Throws: invalid_config on negative sizes or a first coordinate that is not finite.
/// Source: Hugging Face models/llama4, Llama4VisionRotaryEmbedding.
inline position_ids patches(const patches_config& config) {
    constexpr const char* who = "llama4_vision::patches";
    detail::require_count(who, "side", config.side);
    detail::require_finite(who, "first", config.first);
    detail::require_count(who, "class_tokens", config.class_tokens);
    const auto at = positions::evenly_spaced(config.side, config.first);
    return positions::grid(
        {.height = config.side, .width = config.side, .suffix_tokens = config.class_tokens}, at, at);
}

}  // namespace ROPEWALK_NAMESPACE::llama4_vision
