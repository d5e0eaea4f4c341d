// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Locates an object that an edit adds to an image, from the attention between its word and the image tokens.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/kv_injection.hpp>
#include <ropewalk/core/fit_view.hpp>

/// Locates an object named by a word in an image that is still being generated: its tokens are the `keep` of
/// inject_keys_values. First, the attention between the word and the image is measured in some layers
/// (freeflux::object_layers at freeflux::object_step); then one region is extracted from it.
/// Source: FreeFlux, Wei et al. 2025; wtybest/FreeFlux editing/utils.py, derive_fg_mask_from_attn.
namespace ROPEWALK_NAMESPACE::kv_injection {

/// The tokens of the image and of the word, and the scale of scores.
struct word_on_image {
    token_range image = {};            ///< the image tokens, a grid in row-major order
    std::span<const index> word = {};  ///< token numbers in the whole sequence, none of them in the image
    std::optional<double> scale = {};  ///< on q . k; 1 / sqrt(channels) when not given
};

/// The standard deviation of the published smoothing, whose weights are exp(-distance^2): sqrt(1/2) tokens.
/// The released code has sigma = 0.5 and divides the distance by 2 sigma before squaring.
/// Source: wtybest/FreeFlux editing/utils.py.
inline constexpr double freeflux_sigma = 0.70710678118654752440;

/// How a region is extracted from word maps.
struct object_region {
    grid_extents grid = {};         ///< of the image tokens
    index first_token = 0;          ///< of the image: the number of text tokens before it
    double sigma = freeflux_sigma;  ///< standard deviation of the 3 x 3 Gaussian, in tokens; 0: no smoothing
    double threshold = 0.3;         ///< on the map scaled to [0, 1]; tokens above it are the object
    double range_floor = 1e-6;      ///< added to max - min, so that noise on a flat map is not amplified
};

}  // namespace ROPEWALK_NAMESPACE::kv_injection

namespace ROPEWALK_NAMESPACE::detail {

/// The number of tokens of a grid, checked to be at least one.
inline std::size_t tokens_of(const char* who, kv_injection::grid_extents grid) {
    require(grid.height >= 1, who, "grid.height must be >= 1", grid.height);
    require(grid.width >= 1, who, "grid.width must be >= 1", grid.width);
    return static_cast<std::size_t>(
        checked_product(who, "grid.height x grid.width must be >= 1", {grid.height, grid.width}));
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::kv_injection {

/// The mutual attention between a word and each image token in one layer: the mean of the attention from the
/// word's tokens to the image token and from the image token to them, over heads and the word's tokens.
/// Shapes:   q [tokens, heads, channels] and k [tokens, kv heads, channels] of one sample, both rotated; the
///           result [image.count].
/// Throws:   invalid_config on several samples, an image outside the sequence, a word without tokens, a word
///           token outside the sequence or inside the image, and as attend.
/// Cost:     the scores of all image queries, twice; heads * 32 * tokens numbers of scratch.
/// Accuracy: that of attend's probabilities.
/// Source:   wtybest/FreeFlux editing/add_object, FluxAttnProcessor2_0_Reasoning.
template <class Q, class K>
std::vector<double> make_word_map(heads_view<Q> q, heads_view<K> k, const word_on_image& where) {
    constexpr const char* who = "make_word_map";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    const token_range image = where.image;
    detail::require(q.batches() == 1, who, "q.batches must be 1", q.batches());
    detail::require_equal(who, "k.tokens must equal q.tokens", q.tokens(), k.tokens());
    detail::require(image.first >= 0 && image.count >= 0 && image.first <= q.tokens() - image.count, who,
                    "image must lie inside the sequence, first token", image.first);
    detail::require(!where.word.empty(), who, "word must have tokens", where.word.size());
    for (const index n : where.word) {
        detail::require(n >= 0 && n < q.tokens(), who, "word must name tokens of the sequence", n);
        detail::require(n < image.first || n >= image.first + image.count, who,
                        "word must name no image tokens", n);
    }
    using T = compute_t<Q>;
    std::vector<T> probabilities;
    // probabilities [heads, count, tokens] of queries first .. first + count - 1; values of no channels
    const auto look = [&](index first, index count) {
        probabilities.resize(static_cast<std::size_t>(q.heads() * count * q.tokens()));
        attend(q.token_slice(first, count), k, heads_view<const T>(nullptr, k.tokens(), k.heads(), 0),
               heads_view<T>(nullptr, count, q.heads(), 0),
               attend_options<T>{.scale = where.scale, .probabilities = probabilities});
    };
    const auto seen = [&](index count, index h, index n, index key) {
        return static_cast<double>(
            probabilities[static_cast<std::size_t>((h * count + n) * q.tokens() + key)]);
    };
    std::vector<double> map(static_cast<std::size_t>(image.count));
    for (const index word : where.word) {
        look(word, 1);
        for (index h = 0; h < q.heads(); ++h)
            for (index i = 0; i < image.count; ++i)
                map[static_cast<std::size_t>(i)] += seen(1, h, 0, image.first + i);
    }
    constexpr index block = 32;
    for (index first = 0; first < image.count; first += block) {
        const index count = std::min(block, image.count - first);
        look(image.first + first, count);
        for (index h = 0; h < q.heads(); ++h)
            for (index i = 0; i < count; ++i)
                for (const index word : where.word)
                    map[static_cast<std::size_t>(first + i)] += seen(count, h, i, word);
    }
    const double terms = 2 * static_cast<double>(q.heads()) * static_cast<double>(where.word.size());
    for (double& m : map) m /= terms;
    return map;
}

/// A map smoothed by a 3 x 3 Gaussian whose weights sum to 1. Beyond the border the map is mirrored without
/// repeating the border itself.
/// Shapes:   map [height, width], row-major, as the result.
/// Units:    sigma in tokens: exp(-distance^2 / (2 sigma^2)), so that freeflux_sigma is exp(-distance^2).
/// Throws:   invalid_config on a map that is not of the grid's size, sigma < 0 or not finite, and on a grid
///           of one row or column, which cannot be mirrored (any grid is allowed with sigma 0).
/// Source:   wtybest/FreeFlux editing/utils.py.
inline std::vector<double> make_smoothed_map(std::span<const double> map, grid_extents grid,
                                             double sigma = freeflux_sigma) {
    constexpr const char* who = "make_smoothed_map";
    detail::require_equal(who, "map must hold grid.height x grid.width numbers", detail::tokens_of(who, grid),
                          map.size());
    detail::require(sigma >= 0 && std::isfinite(sigma), who, "sigma must be finite and >= 0", sigma);
    if (sigma == 0) return {map.begin(), map.end()};
    detail::require(grid.height >= 2, who, "grid.height must be >= 2 to be smoothed", grid.height);
    detail::require(grid.width >= 2, who, "grid.width must be >= 2 to be smoothed", grid.width);
    const double side = std::exp(-1 / (2 * sigma * sigma)), sum = 1 + 2 * side;
    const std::array<double, 3> weight{side / sum, 1 / sum, side / sum};
    const auto mirrored = [](index at, index extent) {
        return at < 0 ? -at : at >= extent ? 2 * (extent - 1) - at : at;
    };
    std::vector<double> smooth(map.size());
    for (index row = 0; row < grid.height; ++row)
        for (index column = 0; column < grid.width; ++column)
            for (index r = -1; r <= 1; ++r)
                for (index c = -1; c <= 1; ++c)
                    smooth[static_cast<std::size_t>(row * grid.width + column)] +=
                        weight[static_cast<std::size_t>(r + 1)] * weight[static_cast<std::size_t>(c + 1)] *
                        map[static_cast<std::size_t>(mirrored(row + r, grid.height) * grid.width +
                                                     mirrored(column + c, grid.width))];
    return smooth;
}

/// The largest connected region (8 neighbours); of equally large ones, the first in row-major order.
/// Shapes:   inside [height, width], not 0: in the mask; the result: image token numbers, ascending.
/// Throws:   invalid_config on a mask that is not of the grid's size.
/// Source:   wtybest/FreeFlux editing/utils.py, remove_small_white_regions.
inline std::vector<index> largest_region(std::span<const std::uint8_t> inside, grid_extents grid) {
    constexpr const char* who = "largest_region";
    detail::require_equal(who, "inside must hold grid.height x grid.width flags",
                          detail::tokens_of(who, grid), inside.size());
    std::vector<bool> met(inside.size());
    std::vector<index> largest;
    for (index start = 0; start < grid.height * grid.width; ++start) {
        std::vector<index> region;
        const auto meet = [&](index n) {
            const auto at = static_cast<std::size_t>(n);
            if (inside[at] == 0 || met[at]) return;
            met[at] = true;
            region.push_back(n);
        };
        meet(start);
        for (std::size_t next = 0; next < region.size(); ++next) {
            const index row = region[next] / grid.width, column = region[next] % grid.width;
            for (index r = std::max<index>(row - 1, 0); r <= std::min(row + 1, grid.height - 1); ++r)
                for (index c = std::max<index>(column - 1, 0); c <= std::min(column + 1, grid.width - 1); ++c)
                    meet(r * grid.width + c);
        }
        if (region.size() > largest.size()) largest = std::move(region);
    }
    std::sort(largest.begin(), largest.end());
    return largest;
}

/// The tokens of the object that a word names: word maps are averaged over layers, smoothed, scaled to [0, 1]
/// and compared with a threshold, and the largest connected region above it is returned. Empty where nothing
/// exceeds the threshold.
/// Shapes:   maps [layers, height, width] from make_word_map; the result: token numbers in the whole sequence
///           (first_token added), the `keep` of inject_keys_values. Subtract first_token for the numbers
///           among the image tokens that inject_values and moved_tokens take.
/// Throws:   invalid_config on no map or part of one, a number that is not finite, first_token < 0, a
///           threshold outside [0, 1), range_floor < 0, and on what make_smoothed_map refuses.
/// Source:   wtybest/FreeFlux editing/utils.py, derive_fg_mask_from_attn and editing/add_object.
///
///     std::vector<double> maps;                                  // at step freeflux::object_step
///     for (int layer : freeflux::object_layers) {                // q, k of the target, rotated
///         const auto map = make_word_map(q[layer], k[layer], {.image = {512, 4096}, .word = sail});
///         maps.insert(maps.end(), map.begin(), map.end());
///     }
///     const auto keep = make_object_tokens(maps, {.grid = {64, 64}, .first_token = 512});
inline std::vector<index> make_object_tokens(std::span<const double> maps, const object_region& cut) {
    constexpr const char* who = "make_object_tokens";
    const std::size_t each = detail::tokens_of(who, cut.grid);
    detail::require(!maps.empty() && maps.size() % each == 0, who,
                    "maps must hold grid.height x grid.width numbers a layer", maps.size());
    detail::require(cut.first_token >= 0, who, "first_token must be >= 0", cut.first_token);
    detail::require(cut.threshold >= 0 && cut.threshold < 1, who, "threshold must be in [0, 1)",
                    cut.threshold);
    detail::require(cut.range_floor >= 0 && std::isfinite(cut.range_floor), who,
                    "range_floor must be finite and >= 0", cut.range_floor);
    for (const double m : maps) detail::require(std::isfinite(m), who, "maps must be finite", m);

    std::vector<double> mean(each);
    for (std::size_t i = 0; i < maps.size(); ++i)
        mean[i % each] += maps[i] * static_cast<double>(each) / static_cast<double>(maps.size());
    // Smoothing is linear, so once after the mean gives the same as map by map.
    const auto map = make_smoothed_map(mean, cut.grid, cut.sigma);
    const auto [least, most] = std::minmax_element(map.begin(), map.end());
    const double range = *most - *least + cut.range_floor;
    std::vector<std::uint8_t> inside(each);
    for (std::size_t i = 0; i < each; ++i) inside[i] = map[i] - *least > cut.threshold * range ? 1 : 0;
    auto tokens = largest_region(inside, cut.grid);
    for (index& n : tokens) n += cut.first_token;
    return tokens;
}

}  // namespace ROPEWALK_NAMESPACE::kv_injection
