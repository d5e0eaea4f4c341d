// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of Pixtral's image encoder: 2-D RoPE over packed images.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Pixtral's image encoder: 2-D RoPE over images that are packed one after the other. Rows and columns each
/// use every second frequency of one geometric sequence.
/// Source: Pixtral 12B, Agrawal et al. 2024; mistralai/mistral-inference src/mistral_inference/rope.py.
namespace ROPEWALK_NAMESPACE::pixtral {

/// Where the weights come from. Mistral's checkpoints pair channels interleaved; transformers permutes q and
/// k for half-split pairs.
enum class weights : std::uint8_t { mistral, hugging_face };

struct axial_config {
    index head_dim = 64;
    double base = 1e4;
    weights from = weights::mistral;  ///< origin of the weights
};

/// The scheme: of the frequencies w_i = base^(-2 i / head_dim), the row uses w_0, w_2, ... and the column
/// w_1, w_3, ..., so the two axes have different frequencies.
/// Throws: invalid_config when head_dim is not a multiple of 4.
/// Source: mistralai/mistral-inference src/mistral_inference/rope.py, precompute_freqs_cis_2d.
inline rotary_scheme axial(const axial_config& config) {
    constexpr const char* who = "pixtral::axial";
    detail::require(config.head_dim > 0 && config.head_dim % 4 == 0, who,
                    "head_dim must be a multiple of 4 and > 0", config.head_dim);
    detail::require_ladder(who, config.head_dim, config.base);
    const auto ladder = detail::ladder(config.head_dim, config.base);
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (std::size_t axis = 0; axis < 2; ++axis)
        for (std::size_t i = axis; i < ladder.size(); i += 2) {
            omega.push_back(ladder[i]);
            axis_of.push_back(static_cast<int>(axis));
        }
    const pair_layout layout =
        config.from == weights::mistral ? pair_layout(interleaved{}) : pair_layout(half_split{});
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = layout},
                             spectrum::selected(omega, axis_of, 2));
}

/// Patches of one image.
struct image {
    index height = 0;
    index width = 0;
};

/// Positions of the tokens of packed images: each image starts again at (0, 0). Attention is block-diagonal
/// over the images.
/// Throws:   invalid_config on an image with a side below 1 or above max_side (image_size / patch_size); it
///           is not clamped.
/// Source:   mistralai/mistral-inference src/mistral_inference/vision_encoder.py, position_meshgrid.
inline position_ids patches(std::span<const image> images, index max_side = 64) {
    constexpr const char* who = "pixtral::patches";
    detail::require_count(who, "max_side", max_side, 1);
    position_ids ids(2);
    for (const image& one : images) {
        detail::require(one.height >= 1 && one.height <= max_side, who,
                        "height must be >= 1 and at most max_side", one.height);
        detail::require(one.width >= 1 && one.width <= max_side, who,
                        "width must be >= 1 and at most max_side", one.width);
        ids.append(positions::grid({.height = one.height, .width = one.width}));
    }
    return ids;
}
inline position_ids patches(std::initializer_list<image> images, index max_side = 64) {
    return patches(std::span<const image>(images.begin(), images.size()), max_side);
}

}  // namespace ROPEWALK_NAMESPACE::pixtral
