// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rules that place visual blocks differently from M-RoPE: MRoPE-I, OmniRoPE, MM-RoPE, V2PE, Ernie-4.5-VL.
// Text has the same position on all three axes (t, h, w); `cur` is where a block begins.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include <ropewalk/positions/mrope.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// A T x H x W block whose axes start and step as given.
inline grid_block stepped_block(const positions::media_segment& s, std::array<double, 3> origin,
                                std::array<double, 3> step) {
    return {{s.frames, s.height, s.width},
            {{positions::evenly_spaced(s.frames, 0, step[0]), {}, {}},
             {{}, positions::evenly_spaced(s.height, 0, step[1]), {}},
             {{}, {}, positions::evenly_spaced(s.width, 0, step[2])}},
            {origin[0], origin[1], origin[2]}};
}
inline double last_of(index count, double step) { return static_cast<double>(count - 1) * step; }

/// Places text, and refuses audio. Returns false if the segment is a block that the rule must place.
inline bool placed_as_text(stream_state& state, const positions::media_segment& s, index number) {
    if (s.kind == positions::media::text) {
        state.add_text(s.tokens);
        return true;
    }
    if (s.kind == positions::media::shared_text) {
        state.add_shared_text(s.tokens);
        return true;
    }
    require_silent(number, s);
    return false;
}
inline void require_step(const char* who, const char* must, double step) {
    require(std::isfinite(step) && step >= 0, who, must, step);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// Rows and columns counted from 0 in every block, time from cur: t = cur + frame * step, h = row, w =
/// column. Text goes on at cur + max((T - 1) step, H - 1, W - 1) + 1: the end marker in MRoPE-I and MHRoPE,
/// the next token in OmniRoPE and IL-RoPE, which is the same position. Scores inside an image do not depend
/// on its position in the sequence.
/// Throws:   invalid_config on audio and on a temporal_step that is not finite and >= 0.
/// Source:   Revisiting Multimodal Positional Encoding, arXiv 2510.23095; JJJYmmm/Multimodal-RoPEs
///           pos_design.
struct spatial_reset_rule {
    double temporal_step = 1;  ///< from one frame to the next

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        detail::require_step("spatial_reset_rule", "temporal_step must be finite and >= 0", temporal_step);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        state.add(detail::stepped_block(s, {state.next, 0, 0}, {temporal_step, 1, 1}),
                  s.frames * s.height * s.width);
        state.next += std::max({detail::last_of(s.frames, temporal_step), detail::last_of(s.height, 1),
                                detail::last_of(s.width, 1)}) +
                      1;
        state.highest = std::max(state.highest, state.next - 1);
    }
};

/// MM-RoPE: M-RoPE with a scale for each axis (4, 8, 8 in Lumos-1). Text goes on one past the largest
/// position of the block.
/// Throws:   invalid_config on audio and on scales or a temporal_step that are not finite and >= 0.
/// Source:   Lumos-1, arXiv 2507.08801; JJJYmmm/Multimodal-RoPEs pos_design.
struct mm_rope_rule {
    std::array<double, 3> scale = {1, 1, 1};  ///< of t, h and w
    double temporal_step = 1;                 ///< from one frame to the next, before scale[0]

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        for (const double a : scale) detail::require_step("mm_rope_rule", "scale must be finite and >= 0", a);
        detail::require_step("mm_rope_rule", "temporal_step must be finite and >= 0", temporal_step);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        const std::array<double, 3> steps{temporal_step * scale[0], scale[1], scale[2]};
        state.add(detail::stepped_block(s, {state.next, state.next, state.next}, steps),
                  s.frames * s.height * s.width);
        state.next += std::max({detail::last_of(s.frames, steps[0]), detail::last_of(s.height, steps[1]),
                                detail::last_of(s.width, steps[2])}) +
                      1;
        state.highest = std::max(state.highest, state.next - 1);
    }
};

/// V2PE: the patches of a block share `span` positions evenly, in reading order: cur - 1 + (k + 1) span / N.
/// Text goes on at the next whole number past the end. All axes have the same position.
/// Throws:   invalid_config on audio, a span that is not finite and > 0, or axis_count < 1.
/// Source:   V2PE, arXiv 2412.09616; JJJYmmm/Multimodal-RoPEs pos_design.
struct v2pe_rule {
    double span = 16;      ///< positions that a block takes, whatever its number of patches
    index axis_count = 1;  ///< axes, all with the same position

    index axes() const noexcept { return axis_count; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        detail::require(std::isfinite(span) && span > 0, "v2pe_rule", "span must be finite and > 0", span);
        detail::require(axis_count >= 1, "v2pe_rule", "axis_count must be >= 1", axis_count);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        const index patches = s.frames * s.height * s.width;
        const double each = span / static_cast<double>(patches);
        const auto row = static_cast<double>(s.width), frame = static_cast<double>(s.height) * row;
        const auto count = static_cast<std::size_t>(axis_count);
        const std::vector<std::vector<double>> levels{evenly_spaced(s.frames, 0, frame * each),
                                                      evenly_spaced(s.height, 0, row * each),
                                                      evenly_spaced(s.width, each, each)};
        state.add(grid_block{{s.frames, s.height, s.width},
                             std::vector<std::vector<std::vector<double>>>(count, levels),
                             std::vector<double>(count, state.next - 1)},
                  patches);
        state.next = std::ceil(state.next - 1 + span) + 1;
        state.highest = std::max(state.highest, state.next - 1);
    }
};

/// Ernie-4.5-VL: M-RoPE positions, but text goes on at cur + max(H, W), whatever the number of frames: a long
/// clip reaches past the text that follows it.
/// Throws:   invalid_config on audio.
/// Source:   huggingface/transformers models/ernie4_5_vl_moe.
struct ernie_rule {
    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    static void check() {}
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        state.add(detail::stepped_block(s, {state.next, state.next, state.next}, {1, 1, 1}),
                  s.frames * s.height * s.width);
        state.highest = std::max(state.highest, state.next + detail::last_of(s.frames, 1));
        state.next += static_cast<double>(std::max(s.height, s.width));
        state.highest = std::max(state.highest, state.next - 1);
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions
