// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE {

namespace axis_map {

/// Contiguous sections: the first sections[0] pairs read axis 0, the next sections[1] axis 1, ...
/// (mrope_section of Qwen2-VL, axes_dim / 2 of FLUX).
/// Throws: invalid_config on a negative section.
/// Source: Qwen2-VL, Wang et al. 2024; Hugging Face mrope_section.
inline std::vector<int> sections(std::span<const index> pairs_of_axis) {
    std::vector<int> axis_of;
    for (std::size_t a = 0; a < pairs_of_axis.size(); ++a) {
        detail::require(pairs_of_axis[a] >= 0, "axis_map::sections", "sections must be >= 0",
                        pairs_of_axis[a]);
        axis_of.insert(axis_of.end(), static_cast<std::size_t>(pairs_of_axis[a]), static_cast<int>(a));
    }
    return axis_of;
}
inline std::vector<int> sections(std::initializer_list<index> pairs_of_axis) {
    return sections(std::span<const index>(pairs_of_axis.begin(), pairs_of_axis.size()));
}

/// The sections spread over the whole ladder: of pairs 3k, 3k + 1, 3k + 2 the second reads axis 1 while
/// 3k + 1 < 3 sections[1], the third axis 2 while 3k + 2 < 3 sections[2], everything else axis 0.
/// Throws: invalid_config unless there are three sections and each axis gets exactly its section.
/// Source: Qwen3-VL, transformers apply_interleaved_mrope.
inline std::vector<int> interleaved_sections(std::span<const index> pairs_of_axis) {
    constexpr const char* who = "axis_map::interleaved_sections";
    detail::require(pairs_of_axis.size() == 3, who, "sections must be three numbers", pairs_of_axis.size());
    for (index n : pairs_of_axis) detail::require(n >= 0, who, "sections must be >= 0", n);
    const index pairs = pairs_of_axis[0] + pairs_of_axis[1] + pairs_of_axis[2];
    detail::require(3 * pairs_of_axis[1] <= pairs + 1, who, "sections[1] must be <= (pairs + 1) / 3",
                    pairs_of_axis[1]);
    detail::require(3 * pairs_of_axis[2] <= pairs, who, "sections[2] must be <= pairs / 3", pairs_of_axis[2]);
    std::vector<int> axis_of(static_cast<std::size_t>(pairs));
    for (index p = 0; p < pairs; ++p) {
        const auto axis = static_cast<std::size_t>(p % 3);
        if (p < 3 * pairs_of_axis[axis]) axis_of[static_cast<std::size_t>(p)] = static_cast<int>(axis);
    }
    return axis_of;
}
inline std::vector<int> interleaved_sections(std::initializer_list<index> pairs_of_axis) {
    return interleaved_sections(std::span<const index>(pairs_of_axis.begin(), pairs_of_axis.size()));
}

}  // namespace axis_map

namespace frequencies {

/// Any one-axis spectrum over several axes: pair i keeps its frequency and reads axis_of_pair[i]. Every
/// scaling method composes with every axis map through this.
/// Requires: a selected spectrum. axes 0 means: one more than the largest axis named.
/// Throws:   invalid_config when the map's length is not the number of pairs.
/// Source:   design of this library.
inline spectrum assign_axes(const spectrum& s, std::span<const int> axis_of_pair, index axes = 0) {
    const auto count = static_cast<index>(axis_of_pair.size());
    detail::require(!s.is_mixed(), "assign_axes", "spectrum must be of the selected form", "a mixed one");
    detail::require(count == s.pairs(), "assign_axes", "axis_of_pair must have one entry a pair", count);
    if (axes == 0)
        for (int a : axis_of_pair) axes = std::max<index>(axes, a + 1);
    axes = std::max<index>(axes, 1);
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < s.heads(); ++h)
        for (index i = 0; i < s.pairs(); ++i) {
            omega.push_back(s.omega(h, s.axis_of(h, i), i));
            axis_of.push_back(axis_of_pair[static_cast<std::size_t>(i)]);
        }
    return spectrum::selected(omega, axis_of, axes, s.heads(), s.magnitude());
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
