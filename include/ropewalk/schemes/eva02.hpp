// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <numbers>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// EVA-02 and EVA-CLIP: row first, interleaved pairs, the grid that runs squeezed into the grid of training.
/// Source: EVA-02, Fang et al. 2023; baaivision/EVA EVA-02/asuka/rope.py.
namespace ROPEWALK_NAMESPACE::eva02 {

/// The ladders of the official class; released models use `language`.
/// language: base^(-4 i / head_dim). pixel: pi * linspace(1, max_frequency / 2). constant: 1.
enum class ladder_kind : std::uint8_t { language, pixel, constant };

struct axial_config {
    index head_dim = 64;
    double base = 1e4;
    ladder_kind ladder = ladder_kind::language;  ///< which ladder of frequencies
    double max_frequency = 10;                   ///< pixel only
};

/// The scheme of a model.
/// Throws: invalid_config when head_dim is no multiple of 4.
/// Source: baaivision/EVA EVA-02/asuka/rope.py, VisionRotaryEmbeddingFast.
inline rotary_scheme axial(const axial_config& config) {
    constexpr const char* who = "eva02::axial";
    if (config.ladder == ladder_kind::language)
        return make_axial_scheme({.name = who,
                                  .head_dim = config.head_dim,
                                  .base = config.base,
                                  .first = first_axis::row,
                                  .layout = interleaved{}});
    detail::require(config.head_dim > 0 && config.head_dim % 4 == 0, who,
                    "head_dim must be a multiple of 4 and > 0", config.head_dim);
    const index each = config.head_dim / 4;
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (int axis = 0; axis < 2; ++axis)
        for (index i = 0; i < each; ++i) {
            const double step =
                each == 1 ? 0.0 : (config.max_frequency / 2 - 1) / static_cast<double>(each - 1);
            omega.push_back(config.ladder == ladder_kind::constant
                                ? 1.0
                                : std::numbers::pi * (1 + step * static_cast<double>(i)));
            axis_of.push_back(axis);
        }
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = interleaved{}},
                             spectrum::selected(omega, axis_of, 2));
}

struct patches_config {
    index height = 0;  ///< patches of the image that runs (ft_seq_len)
    index width = 0;   ///< 0: as height
    index trained_height =
        0;                    ///< patches of a training image (pt_seq_len); 0: as height, nothing is squeezed
    index trained_width = 0;  ///< 0: as trained_height, or as width where that is 0 too
    index class_tokens = 1;   ///< before the patches, not rotated
};

/// Where the tokens of an image stand: coordinate j / side * trained side. Tokens that patch dropout keeps
/// are positions::select_tokens of these. The official class is square; here each axis has its own ratio.
/// Throws: invalid_config on a negative size.
/// Source: baaivision/EVA EVA-02/asuka/rope.py (intp_freq).
inline position_ids patches(const patches_config& config) {
    const index height = config.height;
    const index width = config.width == 0 ? height : config.width;
    const index trained_height = config.trained_height == 0 ? height : config.trained_height;
    const index trained_width = config.trained_width != 0    ? config.trained_width
                                : config.trained_height != 0 ? config.trained_height
                                                             : width;
    detail::require(trained_height >= 0, "eva02::patches", "trained_height must be >= 0", trained_height);
    detail::require(trained_width >= 0, "eva02::patches", "trained_width must be >= 0", trained_width);
    const auto squeezed = [](index side, index trained) {
        auto at = positions::evenly_spaced(side);
        for (double& j : at) j = j / static_cast<double>(side) * static_cast<double>(trained);
        return at;
    };
    return positions::grid({.height = height, .width = width, .prefix_tokens = config.class_tokens},
                           squeezed(height, trained_height), squeezed(width, trained_width));
}

}  // namespace ROPEWALK_NAMESPACE::eva02
