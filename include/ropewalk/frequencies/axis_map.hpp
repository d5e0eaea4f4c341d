// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Axis maps: which pair reads which axis (sections, VideoRoPE, VRoPE), and spectra over several axes.
#pragma once

#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Refuses counts that no head can have; the limit keeps sums far from overflow.
inline void require_counts(const char* function, std::span<const index> sections) {
    for (const index n : sections) {
        require(n >= 0, function, "sections must be >= 0", n);
        require(n <= 65536, function, "sections must be <= 65536", n);
    }
}

/// Refuses sections that do not sum to the number of pairs.
inline void require_sections(const char* function, std::span<const index> sections, index pairs) {
    require(sections.size() == 3, function, "sections must be three numbers", sections.size());
    for (const index n : sections) {
        require(n >= 0, function, "sections must be >= 0", n);
        require(n <= pairs, function, ("sections must be <= the " + text(pairs) + " pairs").c_str(), n);
    }
    const index sum = sections[0] + sections[1] + sections[2];
    require(sum == pairs, function, ("sections must sum to the " + text(pairs) + " pairs").c_str(), sum);
}

}  // namespace detail

namespace axis_map {

/// Contiguous sections: the first sections[0] pairs read axis 0, the next sections[1] pairs axis 1, and so on
/// (mrope_section of Qwen2-VL, axes_dim / 2 of FLUX).
/// Throws: invalid_config on a section that is negative or above 65536.
/// Source: Qwen2-VL, Wang et al. 2024; Hugging Face mrope_section.
inline std::vector<int> sections(std::span<const index> pairs_of_axis) {
    detail::require_counts("axis_map::sections", pairs_of_axis);
    std::vector<int> axis_of;
    for (std::size_t a = 0; a < pairs_of_axis.size(); ++a)
        axis_of.insert(axis_of.end(), static_cast<std::size_t>(pairs_of_axis[a]), static_cast<int>(a));
    return axis_of;
}
inline std::vector<int> sections(std::initializer_list<index> pairs_of_axis) {
    return sections(std::span<const index>(pairs_of_axis.begin(), pairs_of_axis.size()));
}

/// Sections interleaved over the whole ladder of frequencies: of the pairs 3k, 3k + 1, 3k + 2 the second
/// reads axis 1 while 3k + 1 < 3 sections[1], the third axis 2 while 3k + 2 < 3 sections[2]; all other pairs
/// read axis 0.
/// Throws: invalid_config unless there are three sections and each axis gets exactly its section.
/// Source: Qwen3-VL, transformers apply_interleaved_mrope.
inline std::vector<int> interleaved_sections(std::span<const index> pairs_of_axis) {
    constexpr const char* who = "axis_map::interleaved_sections";
    detail::require(pairs_of_axis.size() == 3, who, "sections must be three numbers", pairs_of_axis.size());
    detail::require_counts(who, pairs_of_axis);
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

/// VideoRoPE's map over the sections t, h, w: the fast pairs alternate between rows (even, axis 1) and
/// columns (odd, axis 2), the slowest sections[0] pairs read time (axis 0). Only h + w matters: the two share
/// these pairs evenly, and rows get the odd one.
/// Throws: invalid_config unless there are three sections in 0 .. 65536.
/// Source: VideoRoPE, Wei et al. 2025; Wiselnn570/VideoRoPE apply_m_modify_multimodal_rotary_pos_emb.
inline std::vector<int> video_rope(std::span<const index> pairs_of_axis) {
    constexpr const char* who = "axis_map::video_rope";
    detail::require(pairs_of_axis.size() == 3, who, "sections must be three numbers", pairs_of_axis.size());
    detail::require_counts(who, pairs_of_axis);
    std::vector<int> axis_of;
    for (index p = 0; p < pairs_of_axis[1] + pairs_of_axis[2]; ++p) axis_of.push_back(p % 2 == 0 ? 1 : 2);
    axis_of.insert(axis_of.end(), static_cast<std::size_t>(pairs_of_axis[0]), 0);
    return axis_of;
}
inline std::vector<int> video_rope(std::initializer_list<index> pairs_of_axis) {
    return video_rope(std::span<const index>(pairs_of_axis.begin(), pairs_of_axis.size()));
}

struct vrope_config {
    index pairs = 0;
    index dimensions = 2;  ///< dimensions of a frame: 2^dimensions axes
    index time_pairs = 0;  ///< the slowest pairs that read one more axis, the time of the frame
};

/// VRoPE's map: pair p reads axis p mod 2^dimensions.
/// Throws: invalid_config on negative counts, more than 8 dimensions or time_pairs >= pairs.
/// Source: VRoPE, johncaged/VRoPE vrope.py (half_time_dim is time_pairs).
inline std::vector<int> vrope(const vrope_config& config) {
    constexpr const char* who = "axis_map::vrope";
    detail::require(config.pairs >= 0, who, "pairs must be >= 0", config.pairs);
    detail::require(config.dimensions >= 1 && config.dimensions <= 8, who, "dimensions must be in 1 .. 8",
                    config.dimensions);
    detail::require(config.time_pairs >= 0 && (config.time_pairs == 0 || config.time_pairs < config.pairs),
                    who, "time_pairs must be >= 0 and < pairs", config.time_pairs);
    const index axes = index{1} << config.dimensions;
    std::vector<int> axis_of;
    for (index p = 0; p < config.pairs; ++p)
        axis_of.push_back(static_cast<int>(p < config.pairs - config.time_pairs ? p % axes : axes));
    return axis_of;
}

}  // namespace axis_map

namespace frequencies {

/// Assigns the pairs of any one-axis spectrum to several axes: pair i keeps its frequency and reads
/// axis_of_pair[i]. Through this function every scaling method composes with every axis map.
/// Requires: a selected spectrum. axes 0 means: one more than the largest axis in the map.
/// Throws:   invalid_config if the length of the map is not the number of pairs.
inline spectrum assign_axes(const spectrum& s, std::span<const int> axis_of_pair, index axes = 0) {
    const auto count = static_cast<index>(axis_of_pair.size());
    detail::require(!s.is_mixed(), "assign_axes", "spectrum must be of the selected form", "a mixed one");
    if (count != s.pairs())
        detail::refuse("assign_axes",
                       ("axis_of_pair must have one entry per pair, " + detail::text(s.pairs())).c_str(),
                       detail::printable(count));
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

/// The axis of each pair of a selected spectrum; -1 for a pair of frequency 0.
/// Shapes: [pairs].
/// Throws: invalid_config on a mixed spectrum, or a head that the spectrum does not have.
inline std::vector<int> axes_of_pairs(const spectrum& s, index head = 0) {
    detail::require(!s.is_mixed(), "axes_of_pairs", "spectrum must be of the selected form", "a mixed one");
    detail::require(head >= 0 && head < s.heads(), "axes_of_pairs", "head must be one of the spectrum's",
                    head);
    std::vector<int> axis_of;
    for (index i = 0; i < s.pairs(); ++i) {
        const index axis = s.axis_of(head, i);
        axis_of.push_back(s.turns(head, axis, i) == 0 ? -1 : static_cast<int>(axis));
    }
    return axis_of;
}

/// The one-axis spectrum of tokens whose position is the same on every axis: text, and every generated token,
/// can use an ordinary position_table made from it.
/// Throws: invalid_config if a sum of frequencies is above the limit of spectrum.
/// Source: text positions of M-RoPE, Wang et al. 2024.
inline spectrum join_axes(const spectrum& s) {
    std::vector<double> omega;
    for (index h = 0; h < s.heads(); ++h)
        for (index i = 0; i < s.pairs(); ++i) {
            double sum = 0;
            for (index a = 0; a < s.axes(); ++a) sum += s.omega(h, a, i);
            omega.push_back(sum);
        }
    return spectrum::selected(omega, {}, 1, s.heads(), s.magnitude());
}

/// The spectrum `s` with the pairs of one axis taken from another spectrum with the same map: a context
/// extension of the temporal pairs alone (YaRN-V of VideoRoPE++, edits like RIFLEx). Keeps the magnitude of
/// `s`.
/// Requires: two selected spectra.
/// Throws:   invalid_config on a mixed spectrum, an axis that does not exist, or if heads, axes, pairs or the
///           axis maps differ.
/// Source:   Wiselnn570/VideoRoPE videorope_plus: spatial pairs keep the frequencies of the base.
inline spectrum take_axis(const spectrum& s, const spectrum& other, index axis) {
    constexpr const char* who = "take_axis";
    detail::require(!s.is_mixed() && !other.is_mixed(), who, "spectra must be of the selected form",
                    "a mixed one");
    detail::require_equal(who, "spectra must have the same pairs", s.pairs(), other.pairs());
    detail::require_equal(who, "spectra must have the same heads", s.heads(), other.heads());
    detail::require_equal(who, "spectra must have the same axes", s.axes(), other.axes());
    detail::require(axis >= 0 && axis < s.axes(), who, "axis must be one of the spectrum's", axis);
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < s.heads(); ++h)
        for (index i = 0; i < s.pairs(); ++i) {
            const index a = s.axis_of(h, i);
            detail::require(other.axis_of(h, i) == a, who, "spectra must have the same axis map, pair", i);
            omega.push_back((a == axis ? other : s).omega(h, a, i));
            axis_of.push_back(static_cast<int>(a));
        }
    return spectrum::selected(omega, axis_of, s.axes(), s.heads(), s.magnitude());
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
