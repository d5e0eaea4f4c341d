// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary schemes of EVA-02 and EVA-CLIP: 2-D axial RoPE with coordinates rescaled to the training grid.
#pragma once

#include <numbers>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// EVA-02 and EVA-CLIP: 2-D axial RoPE, row first, interleaved pairs. The coordinates of an image are
/// rescaled to the range of the training grid.
/// Source: EVA-02, Fang et al. 2023; baaivision/EVA EVA-02/asuka/rope.py.
namespace ROPEWALK_NAMESPACE::eva02 {

/// The frequencies of the official class; released models use `language`. language: base^(-4 i / head_dim).
/// pixel: pi * linspace(1, max_frequency / 2). constant: 1.
enum class ladder_kind : std::uint8_t { language, pixel, constant };

struct axial_config {
    index head_dim = 64;
    index first_channel = 0;  ///< where the channels that rotate begin (start index)
    index rotary_dim = 0;     ///< how many rotate (dim); 0: up to the end of the head, as released models do
    double base = 1e4;
    ladder_kind ladder = ladder_kind::language;  ///< which frequencies
    double max_frequency = 10;                   ///< pixel only
};

/// The scheme of a model.
/// Throws: invalid_config when the channels that rotate are not a multiple of 4 or do not fit in head_dim, on
///         a base or max_frequency that is not finite, and on a ladder_kind that does not exist.
/// Source: baaivision/EVA EVA-02/asuka/rope.py, VisionRotaryEmbeddingFast and, with a slice of the channels,
///         VisionRotaryEmbedding.
inline rotary_scheme axial(const axial_config& config) {
    constexpr const char* who = "eva02::axial";
    if (config.ladder == ladder_kind::language)
        return make_axial_scheme({.name = who,
                                  .head_dim = config.head_dim,
                                  .first_channel = config.first_channel,
                                  .rotary_dim = config.rotary_dim,
                                  .base = config.base,
                                  .first = first_axis::row,
                                  .layout = interleaved{}});
    detail::require(config.ladder <= ladder_kind::constant, who, "ladder must be a ladder of the class",
                    static_cast<int>(config.ladder));
    detail::require_finite(who, "max_frequency", config.max_frequency);
    const index each = detail::axial_channels(who, config) / 4;
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
    return make_fixed_scheme({.name = who,
                              .head_dim = config.head_dim,
                              .first_channel = config.first_channel,
                              .layout = interleaved{}},
                             spectrum::selected(omega, axis_of, 2));
}

struct patches_config {
    index height = 0;  ///< rows of patches of this image (ft_seq_len)
    index width = 0;   ///< 0: as height
    index trained_height =
        0;                    ///< rows of patches in training (pt_seq_len); 0: as height, nothing is rescaled
    index trained_width = 0;  ///< 0: as trained_height, or as width where that is 0 too
    index class_tokens = 1;   ///< before the patches, not rotated
};

/// Positions of the tokens of an image: j / side * trained side on each axis. For the tokens that patch
/// dropout keeps, use positions::select_tokens. The official class is square; here each axis has its own
/// ratio.
/// Throws: invalid_config on a negative size.
/// Source: baaivision/EVA EVA-02/asuka/rope.py (intp_freq).
inline position_ids patches(const patches_config& config) {
    constexpr const char* who = "eva02::patches";
    detail::require_grid(who, {.height = config.height, .width = config.width});
    detail::require_count(who, "trained_height", config.trained_height);
    detail::require_count(who, "trained_width", config.trained_width);
    detail::require_count(who, "class_tokens", config.class_tokens);
    const index height = config.height;
    const index width = config.width == 0 ? height : config.width;
    const index trained_height = config.trained_height == 0 ? height : config.trained_height;
    const index trained_width = config.trained_width != 0    ? config.trained_width
                                : config.trained_height != 0 ? config.trained_height
                                                             : width;
    const auto squeezed = [](index side, index trained) {
        auto at = positions::evenly_spaced(side);
        for (double& j : at) j = j / static_cast<double>(side) * static_cast<double>(trained);
        return at;
    };
    return positions::grid({.height = height, .width = width, .prefix_tokens = config.class_tokens},
                           squeezed(height, trained_height), squeezed(width, trained_width));
}

}  // namespace ROPEWALK_NAMESPACE::eva02
