// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// FLUX.1, FLUX.1 Kontext and FLUX.2: one rotation over the joint sequence of text and images, interleaved
/// pairs, a block of pairs an axis.
/// Source: black-forest-labs/flux src/flux/math.py, modules/layers.py; black-forest-labs/flux2 src/flux2.
namespace ROPEWALK_NAMESPACE::flux {

struct joint_config {
    std::vector<index> axes_dim = {16, 56, 56};  ///< channels an axis: (image, row, column)
    double base = 1e4;
    index head_dim = 128;  ///< what axes_dim must sum to
};

/// The scheme of a model.
/// Throws: invalid_config when axes_dim has an odd number or does not sum to head_dim.
/// Source: black-forest-labs/flux src/flux/modules/layers.py, EmbedND.
inline rotary_scheme joint(const joint_config& config) {
    const index sum = std::accumulate(config.axes_dim.begin(), config.axes_dim.end(), index{0});
    detail::require(sum == config.head_dim, "flux::joint", "axes_dim must sum to head_dim", sum);
    return make_fixed_scheme({.name = "flux::joint", .head_dim = config.head_dim, .layout = interleaved{}},
                             frequencies::axial({.channels = config.axes_dim,
                                                 .base = config.base,
                                                 .axes = static_cast<index>(config.axes_dim.size())}));
}
/// FLUX.2's four axes (reference, row, column, text).
/// Source: black-forest-labs/flux2 src/flux2/model.py.
inline rotary_scheme flux2() { return joint({.axes_dim = {32, 32, 32, 32}, .base = 2000, .head_dim = 128}); }

/// Positions from the ids of an engine, [tokens, axes]. Tokens whose ids are all 0 do not turn: they become
/// untouched, so that FLUX.1's text costs nothing and keeps its bits.
/// Throws:   invalid_config on ids that are no multiple of axes or not finite.
/// Source:   black-forest-labs/flux src/flux/sampling.py, prepare.
template <class N>
position_ids positions_of_ids(std::span<const N> ids, index axes) {
    const position_ids all = position_ids::from(ids, axes);
    position_ids out(axes);
    const auto width = static_cast<std::size_t>(axes);
    for (std::size_t first = 0; first < ids.size();) {
        const auto at_rest = [&](std::size_t token) {
            return std::all_of(ids.begin() + static_cast<std::ptrdiff_t>(token),
                               ids.begin() + static_cast<std::ptrdiff_t>(token + width),
                               [](N id) { return id == N(0); });
        };
        const bool resting = at_rest(first);
        std::size_t last = first;
        while (last < ids.size() && at_rest(last) == resting) last += width;
        if (resting) {
            out.append(untouched_run{static_cast<index>((last - first) / width)});
        } else {
            listed_run run;
            for (std::size_t i = first; i < last; ++i) run.values.push_back(static_cast<double>(ids[i]));
            out.append(std::move(run));
        }
        first = last;
    }
    return out;
}

/// Tokens of one packed image: latent cells / 2 a side.
/// Source: black-forest-labs/flux src/flux/sampling.py, prepare.
struct image {
    index height = 0;
    index width = 0;
};

struct sequence_config {
    index text_tokens = 512;
    image generated = {};                ///< the image being made
    std::vector<image> references = {};  ///< Kontext's conditioning image, FLUX.2's references
};

}  // namespace ROPEWALK_NAMESPACE::flux

namespace ROPEWALK_NAMESPACE::detail {

/// One image as a block: rows on axis 1, columns on axis 2, `time` on axis 0.
inline grid_block flux_image(const char* who, const flux::image& size, double time, std::size_t axes) {
    require(size.height >= 0, who, "height must be >= 0", size.height);
    require(size.width >= 0, who, "width must be >= 0", size.width);
    grid_block block{{size.height, size.width}, {}, std::vector<double>(axes)};
    block.origin[0] = time;
    block.coordinates.assign(axes, {{}, {}});
    block.coordinates[1][0] = positions::evenly_spaced(size.height);
    block.coordinates[2][1] = positions::evenly_spaced(size.width);
    return block;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::flux {

/// FLUX.1 and Kontext: text first, untouched (its ids are all 0), then the image at (0, row, column), then
/// each reference r at (r + 1, row, column).
/// Throws:   invalid_config on negative sizes.
/// Source:   black-forest-labs/flux src/flux/sampling.py, prepare and prepare_kontext.
inline position_ids flux1_positions(const sequence_config& config) {
    constexpr const char* who = "flux1_positions";
    position_ids ids(3);
    if (config.text_tokens != 0) ids.append(untouched_run{config.text_tokens});
    ids.append(detail::flux_image(who, config.generated, 0, 3));
    for (std::size_t r = 0; r < config.references.size(); ++r)
        ids.append(detail::flux_image(who, config.references[r], static_cast<double>(r + 1), 3));
    return ids;
}

/// FLUX.2: text token l at (0, 0, 0, l), which turns; the image at (0, row, column, 0); reference k at
/// (10 + 10 k, row, column, 0).
/// Throws:   invalid_config on negative sizes.
/// Source:   black-forest-labs/flux2 src/flux2/sampling.py.
inline position_ids flux2_positions(const sequence_config& config) {
    constexpr const char* who = "flux2_positions";
    detail::require(config.text_tokens >= 0, who, "text_tokens must be >= 0", config.text_tokens);
    position_ids ids(4);
    grid_block text{
        {config.text_tokens}, {{{}}, {{}}, {{}}, {positions::evenly_spaced(config.text_tokens)}}, {}};
    ids.append(std::move(text));
    ids.append(detail::flux_image(who, config.generated, 0, 4));
    for (std::size_t k = 0; k < config.references.size(); ++k)
        ids.append(detail::flux_image(who, config.references[k], 10 + 10 * static_cast<double>(k), 4));
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::flux
