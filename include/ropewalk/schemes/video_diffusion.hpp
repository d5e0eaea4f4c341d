// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The 3-D rotary schemes and positions of the video diffusion models LTX-2 and Cosmos.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// LTX-2's 3-D RoPE: positions are fractions of a fixed extent, and the frequencies rise over the whole width
/// of the model.
namespace ROPEWALK_NAMESPACE::ltx2 {

struct clip_config {
    index frames = 1;                                       ///< latent frames
    index height = 1;                                       ///< latent rows
    index width = 1;                                        ///< latent columns
    double fps = 24;                                        ///< frames per second of the video
    std::array<double, 3> pixels_per_latent = {8, 32, 32};  ///< for frames, rows and columns
    bool causal_fix = true;  ///< the first latent frame covers one pixel frame instead of eight
};

/// The middle of every latent patch: seconds, pixel rows, pixel columns.
/// Shapes:   frames * height * width tokens in that order, three axes.
/// Throws:   invalid_config on counts < 1, fps or sizes that are not finite and > 0.
/// Source:   Lightricks/LTX-2 patchifiers.py.
inline position_ids middle_positions(const clip_config& c) {
    constexpr const char* who = "ltx2::middle_positions";
    detail::require(c.frames >= 1 && c.height >= 1 && c.width >= 1, who,
                    "frames, height and width must be >= 1", std::min({c.frames, c.height, c.width}));
    detail::checked_product(who, "frames, height and width must be >= 1", {c.frames, c.height, c.width});
    detail::require(std::isfinite(c.fps) && c.fps > 0, who, "fps must be finite and > 0", c.fps);
    for (const double p : c.pixels_per_latent)
        detail::require(std::isfinite(p) && p > 0, who, "pixels_per_latent must be finite and > 0", p);
    const auto middles = [&](index count, double pixels) {
        std::vector<double> at(static_cast<std::size_t>(count));
        for (index i = 0; i < count; ++i)
            at[static_cast<std::size_t>(i)] = (static_cast<double>(i) + 0.5) * pixels;
        return at;
    };
    const double pixels = c.pixels_per_latent[0];
    std::vector<double> seconds(static_cast<std::size_t>(c.frames));
    for (index f = 0; f < c.frames; ++f) {
        double begin = static_cast<double>(f) * pixels, end = static_cast<double>(f + 1) * pixels;
        if (c.causal_fix) {
            begin = std::max(begin + 1 - pixels, 0.0);
            end = std::max(end + 1 - pixels, 0.0);
        }
        seconds[static_cast<std::size_t>(f)] = (begin / c.fps + end / c.fps) / 2;
    }
    position_ids ids(3);
    ids.append(grid_block{{c.frames, c.height, c.width},
                          {{seconds, {}, {}},
                           {{}, middles(c.height, c.pixels_per_latent[1]), {}},
                           {{}, {}, middles(c.width, c.pixels_per_latent[2])}},
                          {}});
    return ids;
}

/// Positions for make_scheme: 2 middle / extent - 1, so that the middle of the extent has angle 0.
/// Throws:   invalid_config unless there is one extent > 0 per axis.
/// Source:   Lightricks/LTX-2 rope.py.
inline position_ids fractions(const position_ids& middles, std::span<const double> extents) {
    constexpr const char* who = "ltx2::fractions";
    detail::require_equal(who, "extents must be one number an axis", middles.axes(), extents.size());
    for (const double e : extents)
        detail::require(std::isfinite(e) && e > 0, who, "extents must be finite and > 0", e);
    auto values = middles.values();
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = 2 * (values[i] / extents[i % extents.size()]) - 1;
    return position_ids::from_tokens_axes(values, middles.axes());
}

struct model_config {
    index heads = 1;
    index head_dim = 0;
    double base = 1e4;
    index axes = 3;                     ///< 1 for audio and cross attention
    pair_layout layout = half_split{};  ///< interleaved for checkpoints of the older layout
};

/// LTX-2's scheme. Over the width of all heads, angle number axes k + axis is g_k times the position on that
/// axis (as made by `fractions`), with the rising frequencies g_k = pi / 2 * base^(k / (K - 1)) and K =
/// floor(width / (2 axes)). Surplus pairs come first and have frequency 0. Each head has other frequencies.
/// Throws:   invalid_config on heads or axes < 1, an odd head_dim, or a base that is not > 0.
/// Accuracy: angles reach base * pi / 2; formed and reduced in f64.
/// Source:   Lightricks/LTX-2 rope.py.
inline rotary_scheme make_scheme(const model_config& c) {
    constexpr const char* who = "ltx2::make_scheme";
    detail::require(c.heads >= 1, who, "heads must be >= 1", c.heads);
    detail::require(c.axes >= 1, who, "axes must be >= 1", c.axes);
    detail::require_ladder(who, c.head_dim, c.base);
    const index all =
        detail::checked_product(who, "heads and head_dim must be >= 1", {c.heads, c.head_dim}) / 2;
    const index steps = all / c.axes;
    std::vector<double> omega(static_cast<std::size_t>(all - steps * c.axes), 0.0);
    std::vector<int> axis_of(omega.size(), 0);
    for (index k = 0; k < steps; ++k) {
        const double share = steps > 1 ? static_cast<double>(k) / static_cast<double>(steps - 1) : 0.0;
        for (index a = 0; a < c.axes; ++a) {
            omega.push_back(std::numbers::pi / 2 * std::pow(c.base, share));
            axis_of.push_back(static_cast<int>(a));
        }
    }
    return make_fixed_scheme({.name = "ltx2", .head_dim = c.head_dim, .layout = c.layout},
                             spectrum::selected(omega, axis_of, c.axes, c.heads));
}

}  // namespace ROPEWALK_NAMESPACE::ltx2

namespace ROPEWALK_NAMESPACE::cosmos {

struct model_config {
    index head_dim = 0;
    double base = 1e4;
    std::array<double, 3> scale = {2, 1, 1};  ///< NTK's alpha on t, h and w
};

/// Channels of t, h and w: 2 floor(head_dim / 6) for rows and for columns, the others for time.
/// Source: huggingface/diffusers transformer_cosmos.py.
constexpr std::array<index, 3> axes_channels(index head_dim) noexcept {
    const index space = head_dim / 6 * 2;
    return {head_dim - 2 * space, space, space};
}

/// The scheme of Cosmos: pairs of t, then h, then w, half-split over the whole head. The frequencies of each
/// axis are NTK-scaled: geometric with base * scale^(d / (d - 2)), where d is the number of channels of the
/// axis.
/// Throws:   invalid_config on an odd head_dim, one too small for three axes (fewer than four channels each),
///           base or a scale that is not > 0.
/// Source:   huggingface/diffusers transformer_cosmos.py CosmosRotaryPosEmbed.
inline rotary_scheme make_scheme(const model_config& c) {
    constexpr const char* who = "cosmos::make_scheme";
    detail::require(c.head_dim >= 12 && c.head_dim % 2 == 0, who, "head_dim must be even and >= 12",
                    c.head_dim);
    detail::require_ladder(who, c.head_dim, c.base);
    const auto channels = axes_channels(c.head_dim);
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (std::size_t a = 0; a < 3; ++a) {
        detail::require_factor(who, "scale must be finite and > 0", c.scale[a]);
        const auto d = static_cast<double>(channels[a]);
        const auto ladder = detail::ladder(channels[a], c.base * std::pow(c.scale[a], d / (d - 2)));
        omega.insert(omega.end(), ladder.begin(), ladder.end());
        axis_of.insert(axis_of.end(), ladder.size(), static_cast<int>(a));
    }
    return make_fixed_scheme({.name = "cosmos", .head_dim = c.head_dim},
                             spectrum::selected(omega, axis_of, 3));
}

struct clip_config {
    index frames = 1;
    index height = 1;
    index width = 1;
    std::optional<double> fps = {};  ///< not given: images; frames count by their number
    double base_fps = 24;            ///< frames per second that the model was trained at
};

/// Patches at (frame / fps * base_fps, row, column).
/// Shapes:   frames * height * width tokens in that order, three axes.
/// Throws:   invalid_config on counts < 1, fps or base_fps not > 0.
/// Source:   huggingface/diffusers transformer_cosmos.py.
inline position_ids grid(const clip_config& c) {
    constexpr const char* who = "cosmos::grid";
    detail::require(c.frames >= 1 && c.height >= 1 && c.width >= 1, who,
                    "frames, height and width must be >= 1", std::min({c.frames, c.height, c.width}));
    detail::checked_product(who, "frames, height and width must be >= 1", {c.frames, c.height, c.width});
    detail::require_factor(who, "fps must be finite and > 0", c.fps.value_or(1));
    detail::require_factor(who, "base_fps must be finite and > 0", c.base_fps);
    const auto counted = [](index count, double step) {
        std::vector<double> at(static_cast<std::size_t>(count));
        for (index i = 0; i < count; ++i) at[static_cast<std::size_t>(i)] = static_cast<double>(i) * step;
        return at;
    };
    position_ids ids(3);
    ids.append(grid_block{{c.frames, c.height, c.width},
                          {{counted(c.frames, c.fps ? c.base_fps / *c.fps : 1), {}, {}},
                           {{}, counted(c.height, 1), {}},
                           {{}, {}, counted(c.width, 1)}},
                          {}});
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::cosmos
