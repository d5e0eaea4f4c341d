// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotary schemes of further image encoders and matchers: Kimi K2.5, MiniMax M3, MLCD, LightGlue and others.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/qwen_vl_vision.hpp>

/// Image encoders whose rotation differs from all those that have headers of their own.
/// Source: huggingface/transformers, the models named below.
namespace ROPEWALK_NAMESPACE::vision_towers {

struct axial_config {
    index head_dim = 0;
    double base = 1e4;
};

}  // namespace ROPEWALK_NAMESPACE::vision_towers

namespace ROPEWALK_NAMESPACE::detail {

inline void require_tower(const char* who, const vision_towers::axial_config& config, index least) {
    require(config.head_dim >= least && config.head_dim <= 65536, who,
            ("head_dim must be in " + text(least) + " .. 65536").c_str(), config.head_dim);
    require(std::isfinite(config.base) && config.base > 0, who, "base must be finite and > 0", config.base);
}

/// Uses each of the given frequencies twice, once per axis: pair 2i reads the axis `first`, pair 2i + 1 the
/// other.
inline spectrum alternating(const std::vector<double>& ladder, int first) {
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (const double w : ladder)
        for (const int axis : {first, 1 - first}) {
            omega.push_back(w);
            axis_of.push_back(axis);
        }
    return spectrum::selected(omega, axis_of, 2);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::vision_towers {

/// Kimi K2.5: the axes alternate from pair to pair, column first, both with the frequencies base^(-4 i /
/// head_dim). The pairs are half-split, since transformers permutes the weights.
/// Throws:   invalid_config when head_dim is not a multiple of 4 in 4 .. 65536 or base is not > 0.
/// Source:   huggingface/transformers models/kimi_k25, Kimi_K25VisionRotaryEmbedding.
inline rotary_scheme kimi_k25(const axial_config& config = {.head_dim = 72}) {
    constexpr const char* who = "vision_towers::kimi_k25";
    detail::require_tower(who, config, 4);
    detail::require(config.head_dim % 4 == 0, who, "head_dim must be a multiple of 4", config.head_dim);
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = half_split{}},
                             detail::alternating(detail::ladder(config.head_dim / 2, config.base), 1));
}

/// Muse Glimmer: 2-D axial RoPE, column first, half of the pairs for each axis; half-split pairs.
/// Throws: invalid_config when head_dim is not a multiple of 4 or base is not > 0.
/// Source: huggingface/transformers models/muse_glimmer, MuseGlimmerVisionRotaryEmbedding.
inline rotary_scheme muse_glimmer(const axial_config& config) {
    constexpr const char* who = "vision_towers::muse_glimmer";
    detail::require_tower(who, config, 4);
    return make_axial_scheme({.name = who,
                              .head_dim = config.head_dim,
                              .base = config.base,
                              .first = first_axis::column,
                              .layout = half_split{}});
}

/// MiniMax M3 VL: blocks of head_dim / 6 pairs for time, row and column, each with frequencies of its own.
/// The pairs are half-split within those channels; the other channels of the head are untouched. Its
/// positions are those of time_patches.
/// Throws:   invalid_config on a head_dim outside 6 .. 65536 or a base that is not > 0.
/// Source:   huggingface/transformers models/minimax_m3_vl, MiniMaxM3VLVisionRotaryEmbedding.
inline rotary_scheme minimax_m3_vl(const axial_config& config = {.head_dim = 80}) {
    constexpr const char* who = "vision_towers::minimax_m3_vl";
    detail::require_tower(who, config, 6);
    const index block = 2 * (config.head_dim / 6);
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = half_split{}},
                             frequencies::axial({.channels = {block, block, block}, .base = config.base}));
}

/// Positions (time, row, column) of the patches of images and clips; the patches of each merge x merge block
/// follow one another.
/// Throws:   invalid_config on a side that is negative, too long or not a multiple of merge.
/// Source:   huggingface/transformers get_vision_position_ids with include_temporal.
inline position_ids time_patches(std::span<const qwen_vl_vision::grid_thw> grids, index merge) {
    position_ids ids(3);
    for (const auto& g : grids) {
        detail::require_grid("vision_towers::time_patches", {.height = g.height,
                                                             .width = g.width,
                                                             .frames = g.frames,
                                                             .merge = merge,
                                                             .order = positions::patch_order::merge_blocks});
        const auto blocks = [merge](index side) {
            return positions::evenly_spaced(side / merge, 0, static_cast<double>(merge));
        };
        const auto inside = positions::evenly_spaced(merge);
        ids.append(grid_block{{g.frames, g.height / merge, g.width / merge, merge, merge},
                              {{positions::evenly_spaced(g.frames), {}, {}, {}, {}},
                               {{}, blocks(g.height), {}, inside, {}},
                               {{}, {}, blocks(g.width), {}, inside}},
                              {}});
    }
    return ids;
}

/// MLCD: 2-D axial RoPE, row first, half of the pairs for each axis, half-split pairs. The class token, which
/// comes first, is rotated by learned angles: it has an axis of its own whose frequencies are those angles.
/// See mlcd_patches.
/// Shapes:   class_angles [head_dim / 2] (class_pos_emb), radians.
/// Throws:   invalid_config on another number of angles, a head_dim that is not a multiple of 4, or numbers
///           that are not finite.
/// Source:   huggingface/transformers models/mlcd.
inline rotary_scheme mlcd(const axial_config& config, std::span<const double> class_angles) {
    constexpr const char* who = "vision_towers::mlcd";
    detail::require_tower(who, config, 4);
    detail::require(config.head_dim % 4 == 0, who, "head_dim must be a multiple of 4", config.head_dim);
    const auto pairs = static_cast<std::size_t>(config.head_dim / 2);
    detail::require_equal(who, "class_angles must hold one angle a pair", pairs, class_angles.size());
    const auto ladder = detail::ladder(config.head_dim / 2, config.base);
    std::vector<double> omega(3 * pairs, 0);
    for (std::size_t i = 0; i < pairs / 2; ++i) {
        omega[i] = ladder[i];                      // row
        omega[pairs + pairs / 2 + i] = ladder[i];  // column
    }
    for (std::size_t i = 0; i < pairs; ++i) {
        detail::require(std::isfinite(class_angles[i]), who, "class_angles must be finite", class_angles[i]);
        omega[2 * pairs + i] = class_angles[i];
    }
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = half_split{}},
                             spectrum::mixed(omega, 1, 3));
}

/// Positions (row, column, class) of MLCD's tokens: the class token at (0, 0, 1), then the patches row by
/// row.
/// Shapes:   [1 + height * width, 3].
/// Throws:   invalid_config on a side that is negative or too long.
/// Source:   huggingface/transformers models/mlcd.
inline position_ids mlcd_patches(index height, index width) {
    detail::require_grid("vision_towers::mlcd_patches", {.height = height, .width = width});
    position_ids ids(3);
    ids.append(listed_run{{0, 0, 1}});
    ids.append(
        grid_block{{height, width},
                   {{positions::evenly_spaced(height), {}}, {{}, positions::evenly_spaced(width)}, {{}, {}}},
                   {}});
    return ids;
}

/// EfficientLoFTR: all channels are rotated as one head, before they are split into heads. The axes alternate
/// from pair to pair, row first, both with the frequencies base^(-4 i / channels); interleaved pairs. Its
/// aggregated features are at 1, 2, ... on both axes: see loftr_patches.
/// Throws:   invalid_config when head_dim (here the width of all heads) is not a multiple of 4 or base is not
///           > 0.
/// Source:   huggingface/transformers models/efficientloftr.
inline rotary_scheme efficientloftr(const axial_config& config = {.head_dim = 256}) {
    constexpr const char* who = "vision_towers::efficientloftr";
    detail::require_tower(who, config, 4);
    detail::require(config.head_dim % 4 == 0, who, "head_dim must be a multiple of 4", config.head_dim);
    return make_fixed_scheme({.name = who, .head_dim = config.head_dim, .layout = interleaved{}},
                             detail::alternating(detail::ladder(config.head_dim / 2, config.base), 0));
}

/// Positions of EfficientLoFTR's aggregated features.
/// Throws: invalid_config on a side that is negative or too long.
/// Source: huggingface/transformers models/efficientloftr, compute_embeddings.
inline position_ids loftr_patches(index height, index width) {
    detail::require_grid("vision_towers::loftr_patches", {.height = height, .width = width});
    return positions::grid({.height = height, .width = width}, positions::evenly_spaced(height, 1),
                           positions::evenly_spaced(width, 1));
}

/// LightGlue: learned frequencies over the (x, y) of a keypoint, which all heads share; interleaved pairs.
/// Shapes: weights [head_dim / 2, 2], the projector of the checkpoint.
/// Throws: invalid_config on an odd head_dim, another number of weights or weights that are not finite.
/// Source: LightGlue, Lindenberger et al. 2023; huggingface/transformers models/lightglue.
inline rotary_scheme lightglue(index head_dim, std::span<const double> weights) {
    constexpr const char* who = "vision_towers::lightglue";
    detail::require(head_dim >= 2 && head_dim % 2 == 0 && head_dim <= 65536, who,
                    "head_dim must be even and in 2 .. 65536", head_dim);
    const auto pairs = static_cast<std::size_t>(head_dim / 2);
    detail::require_equal(who, "weights must hold two numbers a pair", 2 * pairs, weights.size());
    std::vector<double> omega(2 * pairs);
    for (std::size_t i = 0; i < pairs; ++i)
        for (std::size_t axis = 0; axis < 2; ++axis) {
            detail::require(std::isfinite(weights[2 * i + axis]), who, "weights must be finite",
                            weights[2 * i + axis]);
            omega[axis * pairs + i] = weights[2 * i + axis];
        }
    return make_fixed_scheme({.name = who, .head_dim = head_dim, .layout = interleaved{}},
                             spectrum::mixed(omega, 1, 2));
}

/// Positions of LightGlue's keypoints: (pixel - size / 2) / (longer side / 2).
/// Shapes: xy [keypoints, 2] in pixels.
/// Throws: invalid_config on an odd number of coordinates or a size that is not > 0.
/// Source: LightGlue, Lindenberger et al. 2023, normalize_keypoints.
inline position_ids lightglue_keypoints(std::span<const double> xy, double height, double width) {
    constexpr const char* who = "vision_towers::lightglue_keypoints";
    detail::require(xy.size() % 2 == 0, who, "xy must hold two numbers a keypoint", xy.size());
    detail::require(std::isfinite(height) && height > 0, who, "height must be finite and > 0", height);
    detail::require(std::isfinite(width) && width > 0, who, "width must be finite and > 0", width);
    std::vector<double> at;
    for (std::size_t i = 0; i < xy.size(); i += 2) {
        at.push_back((xy[i] - width / 2) / (std::max(height, width) / 2));
        at.push_back((xy[i + 1] - height / 2) / (std::max(height, width) / 2));
    }
    return position_ids::from_tokens_axes(at, 2);
}

/// V-JEPA 2's map is not a rotation. In each interleaved pair (2i, 2i + 1) of a block the two channels use
/// different frequencies, number 2i and number 2i + 1 modulo the block's pairs, because the code tiles the
/// angles instead of repeating each. Released weights were trained with it: give this table and the first 2 *
/// pairs channels of a head to mix_pairs, interleaved. There are three blocks of 2 * (head_dim / 6) channels,
/// for frame, row and column, with base 1e4; the other channels are untouched.
/// Shapes:   positions [tokens, 3] as frame, row, column; the table has one row per token and 3 * (head_dim /
///           6) pairs.
/// Throws:   invalid_config on a head_dim outside 6 .. 65536 or positions of another number of axes.
/// Accuracy: f64 angles.
/// Source:   V-JEPA 2, Assran et al. 2025; huggingface/transformers models/vjepa2, rotate_queries_or_keys.
inline pair_matrix_table<float> vjepa2_table(index head_dim, const position_ids& positions) {
    constexpr const char* who = "vision_towers::vjepa2_table";
    detail::require(head_dim >= 6 && head_dim <= 65536, who, "head_dim must be in 6 .. 65536", head_dim);
    detail::require(positions.axes() == 3, who, "positions must have three axes", positions.axes());
    const index block = head_dim / 6;  // pairs
    const auto ladder = detail::ladder(2 * block, 1e4);
    std::vector<float> a, b, c, d;
    for (index n = 0; n < positions.tokens(); ++n)
        for (index axis = 0; axis < 3; ++axis)
            for (index i = 0; i < block; ++i) {
                const double at = positions.touched(n) ? positions.at(n, axis) : 0;
                const double first = at * ladder[static_cast<std::size_t>(2 * i % block)];
                const double second = at * ladder[static_cast<std::size_t>((2 * i + 1) % block)];
                a.push_back(static_cast<float>(std::cos(first)));
                b.push_back(static_cast<float>(-std::sin(first)));
                c.push_back(static_cast<float>(std::sin(second)));
                d.push_back(static_cast<float>(std::cos(second)));
            }
    return {a, b, c, d, 3 * block};
}

}  // namespace ROPEWALK_NAMESPACE::vision_towers
