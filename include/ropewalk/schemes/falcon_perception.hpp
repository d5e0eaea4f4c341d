// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary schemes of Falcon Perception: text positions in one half of a head, the image in the other.
#pragma once

#include <cmath>
#include <vector>

#include <ropewalk/frequencies/golden_directions.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Falcon Perception's 3-D RoPE. The first half of a head rotates with the position in the text; the second
/// half rotates with the position in the image, projected on golden-ratio directions. Text tokens leave the
/// second half untouched.
/// Source: tiiuae/Falcon-Perception falcon_perception/rope.py.
namespace ROPEWALK_NAMESPACE::falcon_perception {

struct model_config {
    index heads = 1;
    index head_dim = 0;
    double base = 1e4;    ///< of the text half's frequencies
    double slowest = 1;   ///< least frequency of the image half, radians per unit
    double fastest = 20;  ///< largest frequency of the image half
};

/// The two rotations of a head. Their channels are disjoint, so they may be applied in any order.
struct model {
    rotary_scheme text;   ///< channels 0 .. head_dim / 2, by the position in the text
    rotary_scheme image;  ///< the other half, by (row, column) of aspect_grid
};

/// The two schemes of a model; both halves pair neighbouring channels. Each query head has directions of its
/// own, so under grouped-query attention keys are expanded to the query heads before the image's rotation.
/// Throws:   invalid_config unless head_dim is a multiple of 4 and > 0, and as geometric and golden.
/// Source:   tiiuae/Falcon-Perception falcon_perception/rope.py.
inline model make_model(const model_config& c) {
    constexpr const char* who = "falcon_perception::make_model";
    detail::require(c.head_dim > 0 && c.head_dim % 4 == 0, who, "head_dim must be a multiple of 4 and > 0",
                    c.head_dim);
    const index half = c.head_dim / 2;
    return {
        make_fixed_scheme({.name = "falcon_perception text", .head_dim = c.head_dim, .layout = interleaved{}},
                          frequencies::geometric({.rotary_dim = half, .base = c.base})),
        make_fixed_scheme({.name = "falcon_perception image",
                           .head_dim = c.head_dim,
                           .first_channel = half,
                           .layout = interleaved{}},
                          frequencies::golden({.heads = c.heads,
                                               .axes = 2,
                                               .pairs = half / 2,
                                               .slowest = c.slowest,
                                               .fastest = c.fastest}))};
}

/// The patches of an image as (row, column) in a box of area 4 around 0 with the image's aspect ratio: rows
/// from -sqrt(height / width) to sqrt(height / width), columns likewise with width / height. A single row is
/// at the low end, not at 0.
/// Shapes:   height * width tokens, row-major, two axes.
/// Throws:   invalid_config on height or width < 1.
/// Source:   tiiuae/siglino amoe/rope.py.
inline position_ids aspect_grid(index height, index width) {
    detail::require(height >= 1, "aspect_grid", "height must be >= 1", height);
    detail::require(width >= 1, "aspect_grid", "width must be >= 1", width);
    detail::checked_product("aspect_grid", "height and width must be >= 1", {height, width});
    const auto along = [](index count, index other) {
        const double edge = std::sqrt(static_cast<double>(count) / static_cast<double>(other));
        std::vector<double> at(static_cast<std::size_t>(count));
        for (index i = 0; i < count; ++i)
            at[static_cast<std::size_t>(i)] =
                -edge + 2 * edge * static_cast<double>(i) / static_cast<double>(count > 1 ? count - 1 : 1);
        return at;
    };
    position_ids ids(2);
    ids.append(grid_block{{height, width}, {{along(height, width), {}}, {{}, along(width, height)}}, {}});
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::falcon_perception
