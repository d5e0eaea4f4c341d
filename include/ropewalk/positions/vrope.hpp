// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// VRoPE's symmetric positions for video, which count each frame from its four corners.
#pragma once

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/positions/multimodal.hpp>

namespace ROPEWALK_NAMESPACE::positions {

struct vrope_block_config {
    index frames = 1;
    std::vector<index> extents = {};  ///< of the dimensions inside a frame, outermost first: {height, width}
    double start = 0;                 ///< where the block begins
    index time_axes = 0;              ///< 1: one more axis, the middle of the index range of the frame
};

/// The positions that a frame takes: sum of the extents minus their number, plus one.
/// Throws: invalid_config on extents < 1, or if the frame has more tokens than fit.
/// Source: VRoPE, johncaged/VRoPE vrope.py.
inline index vrope_frame_length(std::span<const index> extents) {
    constexpr const char* who = "vrope_frame_length";
    index length = 1, tokens = 1;
    for (const index n : extents) {
        detail::require(n >= 1, who, "extents must be >= 1", n);
        detail::require(n <= detail::limit_of_bits(53) / tokens, who,
                        "extents must multiply to at most " ROPEWALK_DETAIL_LIMIT_53 " tokens", n);
        tokens *= n;
        length += n - 1;  // never more than the number of tokens
    }
    return length;
}

/// The symmetric positions of one block in any number n of dimensions: 2^n axes, each counting every
/// dimension forwards or backwards (the first dimension is the highest bit of the axis number, 1 =
/// backwards). Each frame begins vrope_frame_length after the one before.
/// Shapes:   axes 2^n + time_axes.
/// Throws:   invalid_config on frames or extents < 1, more than 8 dimensions, or time_axes other than 0 and
///           1.
/// Source:   VRoPE, Liu et al. 2025; johncaged/VRoPE vrope.py generate_nd_positions.
inline grid_block vrope_block(const vrope_block_config& config) {
    constexpr const char* who = "vrope_block";
    const std::size_t n = config.extents.size();
    detail::require(n >= 1 && n <= 8, who, "extents must name 1 to 8 dimensions", n);
    detail::require(config.frames >= 1, who, "frames must be >= 1", config.frames);
    for (const index extent : config.extents)
        detail::require(extent >= 1, who, "extents must be >= 1", extent);
    detail::require(config.time_axes == 0 || config.time_axes == 1, who, "time_axes must be 0 or 1",
                    config.time_axes);
    const index length = vrope_frame_length(config.extents);
    grid_block block{{config.frames}, {}, {}};
    block.extents.insert(block.extents.end(), config.extents.begin(), config.extents.end());
    const auto times = evenly_spaced(config.frames, 0, static_cast<double>(length));
    for (std::size_t stream = 0; stream < (std::size_t{1} << n); ++stream) {
        std::vector<std::vector<double>> levels{times};
        for (std::size_t d = 0; d < n; ++d) {
            const index extent = config.extents[d];
            const bool mirrored = (stream >> (n - 1 - d) & 1) != 0;
            levels.push_back(mirrored ? evenly_spaced(extent, static_cast<double>(extent - 1), -1)
                                      : evenly_spaced(extent));
        }
        block.coordinates.push_back(std::move(levels));
        block.origin.push_back(config.start);
    }
    if (config.time_axes == 1) {
        std::vector<std::vector<double>> levels(n + 1);
        levels[0] = times;
        block.coordinates.push_back(std::move(levels));
        block.origin.push_back(config.start + static_cast<double>(length / 2));
    }
    return block;
}

/// VRoPE: four axes that count a frame from its four corners, so that no corner is nearer to the text than
/// another. Frames and text follow each other on one line.
/// Units:    a frame takes height + width - 1 positions; a text or generated token takes one.
/// Throws:   invalid_config on time_axes other than 0 and 1, or on audio.
/// Source:   VRoPE, Liu et al. 2025; johncaged/VRoPE vrope.py (the released code has no time axis).
struct vrope_rule {
    index time_axes = 0;  ///< 1: one more axis, the middle of the index range of the frame

    index axes() const noexcept { return 4 + time_axes; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        detail::require(time_axes == 0 || time_axes == 1, "vrope_rule", "time_axes must be 0 or 1",
                        time_axes);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (s.kind == media::text) return state.add_text(s.tokens);
        if (s.kind == media::shared_text) return state.add_shared_text(s.tokens);
        detail::require_silent(number, s);
        const std::vector<index> extents{s.height, s.width};
        const index length = vrope_frame_length(extents) * s.frames;
        state.add(vrope_block({s.frames, extents, state.next, time_axes}), s.frames * s.height * s.width);
        state.next += static_cast<double>(length);
    }
};

/// One prefix followed by several continuations that each start right after it (VRoPE's GroupedRoPE).
/// Throws:   invalid_config on a negative length.
/// Source:   johncaged/VRoPE vrope.py GroupedRoPE.
inline position_ids grouped_text(index prefix, std::span<const index> groups) {
    position_ids ids;
    ids.append(text_run{prefix, 0, 1});
    for (const index tokens : groups) ids.append(text_run{tokens, static_cast<double>(prefix), 1});
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::positions
