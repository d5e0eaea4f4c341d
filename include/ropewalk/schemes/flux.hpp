// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary schemes and positions of FLUX.1, FLUX.1 Kontext and FLUX.2 (image diffusion).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// FLUX.1, FLUX.1 Kontext and FLUX.2: one rotation over the joint sequence of text and images. The pairs are
/// interleaved, with one block of pairs per axis.
/// Source: black-forest-labs/flux src/flux/math.py, modules/layers.py; black-forest-labs/flux2 src/flux2.
namespace ROPEWALK_NAMESPACE::flux {

struct joint_config {
    std::vector<index> axes_dim = {16, 56, 56};  ///< channels per axis: (image, row, column)
    double base = 1e4;
    index head_dim = 128;  ///< what axes_dim must sum to
};

/// The scheme of a model.
/// Throws: invalid_config when head_dim is not > 0, or axes_dim has an odd number or does not sum to it.
/// Source: black-forest-labs/flux src/flux/modules/layers.py, EmbedND.
inline rotary_scheme joint(const joint_config& config) {
    constexpr const char* who = "flux::joint";
    detail::require(config.head_dim > 0, who, "head_dim must be > 0", config.head_dim);
    index sum = 0;
    for (const index channels : config.axes_dim) {
        detail::require(channels >= 0 && channels % 2 == 0, who, "axes_dim must be even and >= 0", channels);
        detail::require(channels <= std::numeric_limits<index>::max() - sum, who,
                        "axes_dim must sum to head_dim", channels);
        sum += channels;
    }
    detail::require_equal(who, "axes_dim must sum to head_dim", config.head_dim, sum);
    return make_fixed_scheme({.name = "flux::joint", .head_dim = config.head_dim, .layout = interleaved{}},
                             frequencies::axial({.channels = config.axes_dim,
                                                 .base = config.base,
                                                 .axes = static_cast<index>(config.axes_dim.size())}));
}
/// FLUX.2's four axes (reference, row, column, text).
/// Source: black-forest-labs/flux2 src/flux2/model.py.
inline rotary_scheme flux2() { return joint({.axes_dim = {32, 32, 32, 32}, .base = 2000, .head_dim = 128}); }

/// How to read the position ids of an engine.
struct ids_config {
    index axes = 3;         ///< numbers per token: FLUX.1 3, FLUX.2 4
    index text_tokens = 0;  ///< leading tokens that are not rotated: FLUX.1's text, whose ids are all 0
};

/// Positions from the ids of an engine, [tokens, axes]. The first text_tokens tokens become untouched, so
/// FLUX.1's text costs nothing and keeps its bits. (The first patch of an image has the same ids (0, 0, 0),
/// but it has a position, which moves when positions are shifted.) FLUX.2's text is rotated: leave
/// text_tokens at 0.
/// Throws:   invalid_config on ids that are not a multiple of axes or not finite, on text_tokens outside 0 ..
///           tokens, and on a text token with an id that is not 0.
/// Source:   black-forest-labs/flux src/flux/sampling.py, prepare.
///
///     const auto where = flux::positions_of_ids(std::span<const float>(ids), {.text_tokens = 512});
template <class N>
position_ids positions_of_ids(std::span<const N> ids, const ids_config& config = {}) {
    constexpr const char* who = "flux::positions_of_ids";
    detail::require(config.axes >= 1, who, "axes must be >= 1", config.axes);
    const auto count = static_cast<index>(ids.size());
    if (count % config.axes != 0)
        detail::refuse(
            who, ("ids must hold a multiple of axes = " + detail::text(config.axes) + " numbers").c_str(),
            detail::printable(count));
    detail::require(config.text_tokens >= 0 && config.text_tokens <= count / config.axes, who,
                    "text_tokens must be >= 0 and at most the tokens of ids", config.text_tokens);
    const auto text = ids.first(static_cast<std::size_t>(config.text_tokens * config.axes));
    for (const N id : text)
        detail::require(id == N(0), who, "ids of text_tokens must be 0", static_cast<double>(id));
    if constexpr (std::is_floating_point_v<N>)
        for (const N id : ids) detail::require(std::isfinite(id), who, "ids must be finite", id);
    position_ids out(config.axes);
    if (config.text_tokens > 0) out.append(untouched_run{config.text_tokens});
    return out.append(position_ids::from_tokens_axes(ids.subspan(text.size()), config.axes));
}

/// Tokens of one packed image: half of the latent cells on each side.
/// Source: black-forest-labs/flux src/flux/sampling.py, prepare.
struct image {
    index height = 0;
    index width = 0;
};

/// The positions of several reference images of FLUX.1 Kontext.
/// counted: reference r is at (r + 1, row, column), so references differ on axis 0.
/// tiled:   all references are at 1 on axis 0, side by side: each goes below those before it, or to their
///          right where that keeps the larger side of the whole smaller.
/// Source:  both are in use for the released model, which was trained on one reference:
///          comfyanonymous/ComfyUI comfy/ldm/flux/model.py, its methods "index" and "offset".
enum class reference_order : std::uint8_t { counted, tiled };

struct sequence_config {
    index text_tokens = 512;
    image generated = {};                              ///< the image that is generated
    std::vector<image> references = {};                ///< Kontext's conditioning image, FLUX.2's references
    reference_order order = reference_order::counted;  ///< of FLUX.1's references; FLUX.2 always counts them
};

}  // namespace ROPEWALK_NAMESPACE::flux

namespace ROPEWALK_NAMESPACE::detail {

/// One image as a block: rows on axis 1, columns on axis 2, `time` on axis 0.
inline grid_block flux_image(const char* who, const flux::image& size, double time, std::size_t axes) {
    require_grid(who, {.height = size.height, .width = size.width});
    grid_block block{{size.height, size.width}, {}, std::vector<double>(axes)};
    block.origin[0] = time;
    block.coordinates.assign(axes, {{}, {}});
    block.coordinates[1][0] = positions::evenly_spaced(size.height);
    block.coordinates[2][1] = positions::evenly_spaced(size.width);
    return block;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::flux {

/// Positions of FLUX.1 and Kontext: text first, untouched (its ids are all 0), then the image at (0, row,
/// column), then each reference r at (r + 1, row, column), or as reference_order::tiled describes. The model
/// normalises the queries and keys of text too before the rotation: normalize_and_rotate with
/// options.untouched = untouched_tokens::normalised does both in one pass.
/// Throws:   invalid_config on negative sizes.
/// Source:   black-forest-labs/flux src/flux/sampling.py, prepare and prepare_kontext.
///
///     flux::flux1_positions({.text_tokens = 0, .generated = {64, 64}, .references = {{2, 3}, {2, 2}},
///                            .order = flux::reference_order::tiled});   // the second starts at (1, 2, 0)
inline position_ids flux1_positions(const sequence_config& config) {
    constexpr const char* who = "flux1_positions";
    detail::require_count(who, "text_tokens", config.text_tokens);
    position_ids ids(3);
    if (config.text_tokens != 0) ids.append(untouched_run{config.text_tokens});
    ids.append(detail::flux_image(who, config.generated, 0, 3));
    detail::require(config.order <= reference_order::tiled, who, "order must be an order of references",
                    static_cast<int>(config.order));
    if (config.order == reference_order::counted) {
        for (std::size_t r = 0; r < config.references.size(); ++r)
            ids.append(detail::flux_image(who, config.references[r], static_cast<double>(r + 1), 3));
        return ids;
    }
    double height = 0, width = 0;  // extent that the references so far cover
    for (const image& reference : config.references) {
        grid_block block = detail::flux_image(who, reference, 1, 3);
        const auto rows = static_cast<double>(reference.height),
                   columns = static_cast<double>(reference.width);
        const bool beside = rows + height > columns + width;
        block.origin[beside ? 2 : 1] = beside ? width : height;
        height = std::max(height, rows + block.origin[1]);
        width = std::max(width, columns + block.origin[2]);
        ids.append(std::move(block));
    }
    return ids;
}

/// Positions of FLUX.2: text token l, which is rotated, at (0, 0, 0, l); the image at (0, row, column, 0);
/// reference k at (10 + 10 k, row, column, 0).
/// Throws:   invalid_config on negative sizes.
/// Source:   black-forest-labs/flux2 src/flux2/sampling.py.
inline position_ids flux2_positions(const sequence_config& config) {
    constexpr const char* who = "flux2_positions";
    detail::require_count(who, "text_tokens", config.text_tokens);
    position_ids ids(4);
    grid_block text{
        {config.text_tokens}, {{{}}, {{}}, {{}}, {positions::evenly_spaced(config.text_tokens)}}, {}};
    ids.append(std::move(text));
    ids.append(detail::flux_image(who, config.generated, 0, 4));
    for (std::size_t k = 0; k < config.references.size(); ++k)
        ids.append(detail::flux_image(who, config.references[k], 10 + 10 * static_cast<double>(k), 4));
    return ids;
}

/// The time ids of FLUX.2's tokens replaced by their ranks, for decoding: the smallest id becomes 0, the next
/// one 1.
/// Throws:   invalid_config on an id that is not finite.
/// Source:   black-forest-labs/flux2 src/flux2/sampling.py.
///
///     flux::time_ranks(std::vector<int>{0, 0, 10, 20});   // {0, 0, 1, 2}
template <class N>
std::vector<index> time_ranks(const std::vector<N>& times) {
    if constexpr (std::is_floating_point_v<N>)
        for (const N t : times)
            detail::require(std::isfinite(t), "flux::time_ranks", "times must be finite", t);
    std::vector<N> distinct = times;
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    std::vector<index> ranks;
    for (const N t : times)
        ranks.push_back(std::lower_bound(distinct.begin(), distinct.end(), t) - distinct.begin());
    return ranks;
}

}  // namespace ROPEWALK_NAMESPACE::flux
