// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Further axis maps: cyclic, MM-RoPE's, Ernie-4.5-VL's, and MHRoPE's, which gives each head one axis.
#pragma once

#include <array>
#include <span>
#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>

namespace ROPEWALK_NAMESPACE::axis_map {

/// Pair p reads axis p mod axes, without sections.
/// Throws: invalid_config on pairs < 0 or axes < 1.
/// Source: GRAPE-3D in JJJYmmm/Multimodal-RoPEs freq_allocation.
inline std::vector<int> cyclic(index pairs, index axes = 3) {
    detail::require(pairs >= 0, "axis_map::cyclic", "pairs must be >= 0", pairs);
    detail::require(axes >= 1, "axis_map::cyclic", "axes must be >= 1", axes);
    std::vector<int> axis_of;
    for (index p = 0; p < pairs; ++p) axis_of.push_back(static_cast<int>(p % axes));
    return axis_of;
}

/// MM-RoPE's pattern of eight pairs, t t h w h w h w, repeated; an incomplete last group follows the pattern
/// too.
/// Throws: invalid_config on pairs < 0.
/// Source: Lumos-1, arXiv 2507.08801; JJJYmmm/Multimodal-RoPEs freq_allocation.
inline std::vector<int> mm_rope(index pairs) {
    detail::require(pairs >= 0, "axis_map::mm_rope", "pairs must be >= 0", pairs);
    constexpr std::array<int, 8> pattern{0, 0, 1, 2, 1, 2, 1, 2};
    std::vector<int> axis_of;
    for (index p = 0; p < pairs; ++p) axis_of.push_back(pattern[static_cast<std::size_t>(p % 8)]);
    return axis_of;
}

/// Ernie-4.5-VL's map over its sections h, w, t (in this order): rows and columns alternate over the fast
/// pairs, the slowest sections[2] pairs read time. The frequencies themselves are not permuted.
/// Throws: invalid_config unless there are three sections in 0 .. 65536.
/// Source: huggingface/transformers models/ernie4_5_vl_moe; vllm-project/vllm ernie45_vl_rope.py.
inline std::vector<int> ernie(std::span<const index> h_w_t) {
    detail::require(h_w_t.size() == 3, "axis_map::ernie", "sections must be three numbers", h_w_t.size());
    const std::array<index, 3> t_h_w{h_w_t[2], h_w_t[0], h_w_t[1]};
    return video_rope(t_h_w);
}

}  // namespace ROPEWALK_NAMESPACE::axis_map

namespace ROPEWALK_NAMESPACE::frequencies {

/// The axis of every key head: the first sections[0] heads read axis 0, the next sections[1] heads axis 1,
/// and so on; a head past the sections is not rotated (-1).
/// Shapes:   [kv_heads].
/// Throws:   invalid_config on a section < 0, or sections that sum to more than kv_heads.
/// Source:   MHRoPE, arXiv 2510.23095; JJJYmmm/Multimodal-RoPEs freq_allocation.
inline std::vector<int> axes_of_heads(std::span<const index> sections, index kv_heads) {
    constexpr const char* who = "axes_of_heads";
    detail::require_counts(who, sections);
    detail::require(kv_heads >= 0, who, "kv_heads must be >= 0", kv_heads);
    auto axis_of = axis_map::sections(sections);
    const auto named = static_cast<index>(axis_of.size());
    detail::require(named <= kv_heads, who, "sections must sum to at most kv_heads", named);
    axis_of.resize(static_cast<std::size_t>(kv_heads), -1);
    return axis_of;
}

struct head_axes_config {
    index axes = 3;   ///< axes of the positions
    index group = 1;  ///< heads that share an entry: 1 for keys, query heads / key heads for queries
};

/// MHRoPE: every head has the full ladder of frequencies on one axis; -1 leaves a head unrotated.
/// Shapes:   a selected spectrum [axis_of_head.size() * group heads, axes, pairs].
/// Requires: a selected spectrum of one head.
/// Throws:   invalid_config on a spectrum with several heads, axes or group < 1, an axis out of range, or a
///           magnitude other than 1 together with heads that do not rotate, which it would scale.
/// Source:   MHRoPE, arXiv 2510.23095.
inline spectrum assign_axes_to_heads(const spectrum& s, std::span<const int> axis_of_head,
                                     const head_axes_config& config = {}) {
    constexpr const char* who = "assign_axes_to_heads";
    detail::require(s.heads() == 1 && !s.is_mixed(), who, "spectrum must be one ladder for all heads",
                    s.heads());
    detail::require(config.axes >= 1, who, "axes must be >= 1", config.axes);
    detail::require(config.group >= 1, who, "group must be >= 1", config.group);
    detail::require(!axis_of_head.empty(), who, "axis_of_head must name a head", "none");
    const index heads = detail::checked_product(who, "heads and group must be >= 1",
                                                {static_cast<index>(axis_of_head.size()), config.group});
    const auto ladder = s.omegas();
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < heads; ++h) {
        const int axis = axis_of_head[static_cast<std::size_t>(h / config.group)];
        detail::require(axis >= -1 && axis < config.axes, who, "axis_of_head must be -1 or below axes", axis);
        detail::require(axis >= 0 || s.magnitude() == 1, who, "magnitude must be 1 where a head rests",
                        s.magnitude());
        for (const double w : ladder) {
            omega.push_back(axis < 0 ? 0.0 : w);
            axis_of.push_back(axis < 0 ? 0 : axis);
        }
    }
    return spectrum::selected(omega, axis_of, config.axes, heads, s.magnitude());
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
