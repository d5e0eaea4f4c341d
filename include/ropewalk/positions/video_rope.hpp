// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// VideoRoPE's diagonal positions, and those of HoPE for video.
#pragma once

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/positions/multimodal.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// Which patch of a frame has the position of the frame. patch: number (n - 1) / 2, rounded down (the code).
/// point: n / 2, between two patches if n is odd (the printed formula).
enum class frame_centre : std::uint8_t { patch, point };

/// Where text goes on after T frames. last_frame: one past the last frame (the code). all_frames: after T
/// whole steps (the printed formula).
enum class frame_transition : std::uint8_t { last_frame, all_frames };

/// VideoRoPE's diagonal: axes t, h, w with t = cur + spacing * frame, and rows and columns relative to the
/// centre of the frame, plus t. HoPE uses it too, with a scale drawn or chosen for each block as the spacing
/// (media_segment::temporal_scale). Positions may be fractional, lower than those of earlier text, or
/// negative.
/// Units:    text and generated tokens go on from the temporal axis alone.
/// Throws:   invalid_config on a spacing that is not finite and > 0, or on audio.
/// Source:   VideoRoPE, Wei et al. 2025; Wiselnn570/VideoRoPE get_t_scale_rope_index; HoPE, hrlics/HoPE
///           get_dynamic_rope_index.
struct video_rope_rule {
    double spacing = 2;                         ///< positions from one frame to the next
    frame_centre centre = frame_centre::patch;  ///< which point of a frame lies on the diagonal
    /// Where the text after a block goes on.
    frame_transition transition = frame_transition::last_frame;

    /// The formula as printed in the paper, which differs from its code in both options.
    static constexpr video_rope_rule as_printed(double spacing = 2) noexcept {
        return {spacing, frame_centre::point, frame_transition::all_frames};
    }

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        detail::require(std::isfinite(spacing) && spacing > 0, "video_rope_rule",
                        "spacing must be finite and > 0", spacing);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (s.kind == media::text) return state.add_text(s.tokens);
        if (s.kind == media::shared_text) return state.add_shared_text(s.tokens);
        detail::require_silent(number, s);
        const double frame_step = s.temporal_scale > 0 ? s.temporal_scale : spacing;
        const auto frames = static_cast<double>(s.frames);
        detail::require_segment(std::isfinite(frame_step * frames), number, s,
                                "the step of a frame must give every frame a finite position", frame_step);
        const auto times = evenly_spaced(s.frames, 0, frame_step);
        state.add(grid_block{{s.frames, s.height, s.width},
                             {{times, {}, {}},
                              {times, evenly_spaced(s.height, -middle(s.height)), {}},
                              {times, {}, evenly_spaced(s.width, -middle(s.width))}},
                             {state.next, state.next, state.next}},
                  s.frames * s.height * s.width);
        state.next +=
            transition == frame_transition::all_frames ? frame_step * frames : frame_step * (frames - 1) + 1;
    }

  private:
    double middle(index n) const noexcept {
        return centre == frame_centre::patch ? static_cast<double>((n - 1) / 2) : static_cast<double>(n) / 2;
    }
};

/// HoPE's positions: those of VideoRoPE with one scale for all blocks, unless a block has its own. There is
/// no default: the authors choose the scale by task (0.75 in their needle test).
/// Throws:   as video_rope_rule, by the builder.
/// Source:   HoPE, hrlics/HoPE modeling_hope.py.
constexpr video_rope_rule hope_video_rule(double scale) noexcept { return {.spacing = scale}; }

}  // namespace ROPEWALK_NAMESPACE::positions
