// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Resizes a learned absolute position embedding to another grid of patches, for models that have one too.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE::rope_vit {

/// Sizes of the trained and of the wanted grid of patches; tokens before the patches keep their rows.
struct resize_config {
    index from_height = 0;    ///< rows of patches in training
    index from_width = 0;     ///< columns of patches in training
    index to_height = 0;      ///< rows of patches wanted
    index to_width = 0;       ///< columns of patches wanted
    index prefix_tokens = 0;  ///< rows before the patches
};

}  // namespace ROPEWALK_NAMESPACE::rope_vit

namespace ROPEWALK_NAMESPACE::detail {

/// Four neighbours and their weights for one point of the new grid.
struct cubic_taps {
    std::array<index, 4> at;
    std::array<double, 4> weight;
};

/// Cubic convolution with a = -3/4, corners not aligned, the border repeated.
inline cubic_taps cubic_taps_of(index place, index from, index to) noexcept {
    constexpr double a = -0.75;
    const double source =
        (static_cast<double>(place) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const double whole = std::floor(source), t = source - whole, s = 1 - t;
    const auto outer = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };  // 1 .. 2
    const auto inner = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };        // 0 .. 1
    cubic_taps taps{{}, {outer(1 + t), inner(t), inner(s), outer(1 + s)}};
    for (index i = 0; i < 4; ++i)
        taps.at[static_cast<std::size_t>(i)] =
            std::clamp(static_cast<index>(whole) + i - 1, index{0}, from - 1);
    return taps;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::rope_vit {

/// Resizes a learned absolute position embedding (APE) to another grid of patches: bicubic interpolation (a =
/// -3/4, align_corners = false, no antialiasing). Models that use both APE and RoPE need it at another
/// resolution; RoPE itself needs no such step.
/// Shapes:   embedding [prefix + from_height * from_width, channels] -> [prefix + to_height * to_width,
///           channels].
/// Throws:   invalid_config on sizes that are not positive or an embedding of the wrong length.
/// Accuracy: f64 sums; the same grid gives the same numbers.
/// Source:   RoPE-ViT, Heo et al. 2024, APE models; cubic convolution, Keys 1981.
template <class T>
std::vector<T> resize_absolute_embedding(std::span<const T> embedding, const resize_config& c) {
    constexpr const char* who = "resize_absolute_embedding";
    for (const index size : {c.from_height, c.from_width, c.to_height, c.to_width})
        detail::require(size >= 1, who, "grids must have sides >= 1", size);
    detail::require(c.prefix_tokens >= 0, who, "prefix_tokens must be >= 0", c.prefix_tokens);
    const index from = detail::checked_product(who, "the grid must fit", {c.from_height, c.from_width}),
                to = detail::checked_product(who, "the new grid must fit", {c.to_height, c.to_width}),
                held = static_cast<index>(embedding.size());
    detail::require(c.prefix_tokens <= held && from <= held && held % (c.prefix_tokens + from) == 0, who,
                    "embedding must hold the same channels for every token", held);
    const index channels = held / (c.prefix_tokens + from);
    detail::checked_product(who, "the result must fit", {to, channels});
    std::vector<T> out(embedding.begin(), embedding.begin() + c.prefix_tokens * channels);
    out.resize(static_cast<std::size_t>((c.prefix_tokens + to) * channels));
    const T* const patches = embedding.data() + c.prefix_tokens * channels;
    T* row = out.data() + c.prefix_tokens * channels;
    std::vector<double> sum(static_cast<std::size_t>(channels));
    for (index y = 0; y < c.to_height; ++y) {
        const auto vertical = detail::cubic_taps_of(y, c.from_height, c.to_height);
        for (index x = 0; x < c.to_width; ++x, row += channels) {
            const auto across = detail::cubic_taps_of(x, c.from_width, c.to_width);
            std::fill(sum.begin(), sum.end(), 0.0);
            for (std::size_t i = 0; i < 4; ++i)
                for (std::size_t j = 0; j < 4; ++j) {
                    const double weight = vertical.weight[i] * across.weight[j];
                    const T* const patch =
                        patches + (vertical.at[i] * c.from_width + across.at[j]) * channels;
                    for (index k = 0; k < channels; ++k)
                        sum[static_cast<std::size_t>(k)] += weight * static_cast<double>(patch[k]);
                }
            for (index k = 0; k < channels; ++k) row[k] = static_cast<T>(sum[static_cast<std::size_t>(k)]);
        }
    }
    return out;
}
template <class T>
std::vector<T> resize_absolute_embedding(const std::vector<T>& embedding, const resize_config& c) {
    return resize_absolute_embedding(std::span<const T>(embedding), c);
}

}  // namespace ROPEWALK_NAMESPACE::rope_vit
