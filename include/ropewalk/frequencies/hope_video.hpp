// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// HoPE for video and language: VideoRoPE's axis map without temporal rotation.
#pragma once

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// HoPE for video and language: VideoRoPE's axis map with the slow temporal pairs at frequency 0, for text
/// too, so that their part of q.k does not depend on distance. Applies to any one-axis spectrum; sections t,
/// h, w in pairs. This is not the HoPE that keeps the high frequencies of text models (arXiv 2410.21216).
/// Throws:   invalid_config unless the three sections sum to the number of pairs of the spectrum, or if its
///           magnitude is not 1: it would scale the pairs of frequency 0, which the method leaves unchanged.
/// Accuracy: pairs of frequency 0 keep every finite value (a zero may lose its sign).
/// Cost:     a pair of frequency 0 is rotated by angle 0, at the cost of any other pair. In the half-split
///           layout such pairs lie at the end of both halves of a head, so no slice of the head leaves them
///           out.
/// Source:   HoPE: Hybrid of Position Embedding, 2025; hrlics/HoPE apply_hybrid_multimodal_rotary_pos_emb.
inline spectrum hope_video(const spectrum& s, std::span<const index> sections) {
    detail::require_sections("hope_video", sections, s.pairs());
    const auto axis_of = axis_map::video_rope(sections);
    detail::require(s.magnitude() == 1, "hope_video", "magnitude must be 1", s.magnitude());
    std::vector<std::uint8_t> keep(axis_of.size(), 1);
    for (std::size_t i = 0; i < axis_of.size(); ++i) keep[i] = axis_of[i] != 0;
    return keep_pairs(assign_axes(s, axis_of, 3), keep);
}
inline spectrum hope_video(const spectrum& s, std::initializer_list<index> sections) {
    return hope_video(s, std::span<const index>(sections.begin(), sections.size()));
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
