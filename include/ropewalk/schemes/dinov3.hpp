// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme of DINOv3: 2-D axial RoPE over patch centres in [-1, 1], given by periods.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// DINOv3: 2-D axial RoPE, row first, half-split pairs. Patch centres lie in [-1, 1], and the model names
/// periods instead of frequencies.
/// Source: DINOv3, Simeoni et al. 2025; facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
namespace ROPEWALK_NAMESPACE::dinov3 {

struct periods_config {
    index head_dim = 64;
    std::optional<double> base = {};  ///< periods base^(4 i / head_dim); 100 unless the next two are given
    double min_period = 0;  ///< > 0: periods from min_period to max_period, both included, geometric
    double max_period = 0;  ///< the longest period; both or none
};

/// The periods [head_dim / 4], in coordinate units per turn.
/// Throws: invalid_config when head_dim is not a multiple of 4, when both base and periods are given, when
///         only one of min_period and max_period is given, or when a parameter is not > 0.
/// Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py, _init_weights.
inline std::vector<double> periods(const periods_config& config) {
    constexpr const char* who = "dinov3::periods";
    detail::require(config.head_dim > 0 && config.head_dim % 4 == 0, who,
                    "head_dim must be a multiple of 4 and > 0", config.head_dim);
    const bool ranged = config.min_period != 0 || config.max_period != 0;
    std::vector<double> period(static_cast<std::size_t>(config.head_dim / 4));
    if (!ranged) {
        const double base = config.base.value_or(100);
        detail::require_ladder(who, config.head_dim / 2, base);
        const auto ladder = detail::ladder(config.head_dim / 2, base);
        for (std::size_t i = 0; i < period.size(); ++i) period[i] = 1 / ladder[i];
        return period;
    }
    detail::require(!config.base, who, "base must not be given beside min_period and max_period",
                    config.base.value_or(0));
    detail::require(std::isfinite(config.min_period) && config.min_period > 0, who,
                    "min_period must be finite and > 0 beside max_period", config.min_period);
    detail::require(std::isfinite(config.max_period) && config.max_period > 0, who,
                    "max_period must be finite and > 0 beside min_period", config.max_period);
    for (std::size_t i = 0; i < period.size(); ++i) {
        const double part =
            period.size() == 1 ? 0 : static_cast<double>(i) / static_cast<double>(period.size() - 1);
        period[i] = config.min_period * std::pow(config.max_period / config.min_period, part);
    }
    return period;
}

/// The same periods rounded to bfloat16, as released weights store them.
/// Source: a note in timm.
inline std::vector<double> rounded_to_bf16(std::vector<double> periods) {
    for (double& p : periods) p = static_cast<double>(static_cast<float>(bf16(static_cast<float>(p))));
    return periods;
}

/// The scheme of a model from its periods (its checkpoint's, or periods()).
/// Shapes: periods [head_dim / 4], used for rows and for columns.
/// Throws: invalid_config when there is no period, or one is not > 0.
/// Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
inline rotary_scheme axial(std::span<const double> periods) {
    detail::require(!periods.empty(), "dinov3::axial", "periods must not be empty", periods.size());
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (int axis = 0; axis < 2; ++axis)
        for (const double p : periods) {
            detail::require(std::isfinite(p) && p > 0, "dinov3::axial", "periods must be finite and > 0", p);
            omega.push_back(2 * std::numbers::pi / p);
            axis_of.push_back(axis);
        }
    return make_fixed_scheme({.name = "dinov3::axial", .layout = half_split{}},
                             spectrum::selected(omega, axis_of, 2));
}

/// What patch coordinates are divided by. separate: each axis by its own side; max, min: both by the longer
/// or the shorter side.
enum class normalisation : std::uint8_t { separate, max, min };

/// Training-time augmentation of the coordinates, drawn by the caller; the defaults change nothing.
/// The shift is added first; then the coordinates are multiplied by jitter and rescale.
struct augmentation {
    double shift_row = 0;      ///< added to the rows
    double shift_column = 0;   ///< added to the columns
    double jitter_row = 1;     ///< factor on the rows
    double jitter_column = 1;  ///< factor on the columns
    double rescale = 1;        ///< factor on both
};

struct patches_config {
    index height = 0;
    index width = 0;
    normalisation by = normalisation::separate;  ///< what the sides are divided by
    index prefix_tokens = 5;                     ///< class and register tokens, not rotated
    augmentation augment = {};                   ///< of the coordinates, in training
};

/// Positions of the tokens of an image: 2 (i + 1/2) / n - 1 on each axis.
/// Throws: invalid_config on height or width < 1, prefix_tokens < 0, or augmentation that is not finite.
/// Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py, forward.
inline position_ids patches(const patches_config& config) {
    constexpr const char* who = "dinov3::patches";
    detail::require_count(who, "height", config.height, 1);
    detail::require_count(who, "width", config.width, 1);
    detail::require_count(who, "prefix_tokens", config.prefix_tokens);
    detail::require(config.by <= normalisation::min, who, "by must be a normalisation",
                    static_cast<int>(config.by));
    const augmentation& drawn = config.augment;
    detail::require_finite(who, "augment.shift_row", drawn.shift_row);
    detail::require_finite(who, "augment.shift_column", drawn.shift_column);
    detail::require_finite(who, "augment.jitter_row", drawn.jitter_row);
    detail::require_finite(who, "augment.jitter_column", drawn.jitter_column);
    detail::require_finite(who, "augment.rescale", drawn.rescale);
    const auto centres = [&](index side, double shift, double jitter) {
        index n = side;
        if (config.by == normalisation::max) n = std::max(config.height, config.width);
        if (config.by == normalisation::min) n = std::min(config.height, config.width);
        std::vector<double> at(static_cast<std::size_t>(side));
        for (std::size_t i = 0; i < at.size(); ++i)
            at[i] = (2 * (static_cast<double>(i) + 0.5) / static_cast<double>(n) - 1 + shift) * jitter *
                    config.augment.rescale;
        return at;
    };
    return positions::grid(
        {.height = config.height, .width = config.width, .prefix_tokens = config.prefix_tokens},
        centres(config.height, config.augment.shift_row, config.augment.jitter_row),
        centres(config.width, config.augment.shift_column, config.augment.jitter_column));
}

}  // namespace ROPEWALK_NAMESPACE::dinov3
