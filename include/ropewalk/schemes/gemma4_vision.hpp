// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of Gemma 4's image encoder: 2-D axial RoPE, one half-split block of channels per axis.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Gemma 4's image encoder: 2-D axial RoPE, column first. The head is cut into one block of channels per
/// axis, and the pairs are half-split within each block.
/// Source: Hugging Face models/gemma4, its multi-dimensional rope.
namespace ROPEWALK_NAMESPACE::gemma4_vision {

struct axial_config {
    index head_dim = 64;
    double base = 100;
    index axes = 2;
};

/// The scheme: blocks of 2 * floor(head_dim / (2 axes)) channels with the frequencies base^(-2 i / block).
/// Channels after the blocks are untouched. Block 0 reads the last axis (the column), the next block the axis
/// before it.
/// Throws: invalid_config when head_dim is too small for one pair per axis.
/// Source: Hugging Face models/gemma4.
inline rotary_scheme axial(const axial_config& config) {
    constexpr const char* who = "gemma4_vision::axial";
    detail::require(config.axes >= 1, who, "axes must be >= 1", config.axes);
    detail::require(config.head_dim / 2 >= config.axes, who, "head_dim must hold a pair for every axis",
                    config.head_dim);
    const index block = 2 * (config.head_dim / 2 / config.axes);
    std::vector<int> axis_of_block;
    for (index b = 0; b < config.axes; ++b) axis_of_block.push_back(static_cast<int>(config.axes - 1 - b));
    return make_fixed_scheme(
        {.name = who, .head_dim = config.head_dim, .layout = pair_layout::blocked_by(block)},
        frequencies::axial({.channels = std::vector<index>(axis_of_block.size(), block),
                            .base = config.base,
                            .axis_of_block = axis_of_block,
                            .axes = config.axes}));
}

/// Positions from the processor's (x, y) of every patch. Padding (-1, -1) is rotated like any other token;
/// attention masks it.
/// Shapes:   xy [tokens, 2].
/// Throws:   invalid_config when the number of coordinates is odd.
/// Source:   Hugging Face models/gemma4, position_ids of the image processor.
template <class N>
position_ids patches(std::span<const N> xy) {
    detail::require(xy.size() % 2 == 0, "gemma4_vision::patches", "xy must hold two numbers a token",
                    xy.size());
    std::vector<double> row_column;
    for (std::size_t i = 0; i < xy.size(); i += 2) {
        row_column.push_back(static_cast<double>(xy[i + 1]));
        row_column.push_back(static_cast<double>(xy[i]));
    }
    return position_ids::from_tokens_axes(row_column, 2);
}

/// The same for one image without padding.
/// Throws: invalid_config on negative sizes.
/// Source: as above.
inline position_ids patches(index height, index width) {
    const positions::grid_config one{.height = height, .width = width};
    detail::require_grid("gemma4_vision::patches", one);
    return positions::grid(one);
}

}  // namespace ROPEWALK_NAMESPACE::gemma4_vision
