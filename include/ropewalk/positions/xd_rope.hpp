// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// XD-RoPE's positions of HunyuanVL and HunyuanOCR: token, column, row and image number.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <ropewalk/positions/visual_rules.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// What an axis of XD-RoPE counts: the token in the sequence, the column, the row or the image.
enum class xd_axis : std::uint8_t { token, column, row, image };

/// XD-RoPE of HunyuanVL and HunyuanOCR. An image of H x W patches is 2 + H (W + 1) tokens: a begin marker, H
/// rows that each end in a row-end token (column W), and an end marker. The begin and end markers and text
/// have their index in the sequence on every axis; patches have their column, their row and the number of the
/// image (from 0 in this sequence). Text goes on at the number of tokens.
/// Throws:   invalid_config on audio, video, or an empty order.
/// Source:   vllm-project/vllm hunyuan_vision.py; huggingface/transformers models/hunyuan_vl.
struct xd_rope_rule {
    /// The axes in the order of their sections; {column, row, image} is the form with three axes.
    std::vector<xd_axis> order = {xd_axis::token, xd_axis::column, xd_axis::row, xd_axis::image};

    index axes() const noexcept { return static_cast<index>(order.size()); }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        detail::require(!order.empty(), "xd_rope_rule", "order must name an axis", "none");
        for (const xd_axis a : order)
            detail::require(a <= xd_axis::image, "xd_rope_rule", "order must hold axes", static_cast<int>(a));
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        detail::require_segment(s.frames == 1, number, s, "frames must be 1", s.frames);
        const auto is_picture = [](const position_segment& part) { return part.grid() != nullptr; };
        const auto before = std::count_if(state.segments.begin(), state.segments.end(), is_picture);
        state.add_text(1);
        const index columns = s.width + 1;
        grid_block grid{{s.height, columns}, {}, {}};
        for (const xd_axis a : order) {
            grid.origin.push_back(a == xd_axis::token   ? state.next
                                  : a == xd_axis::image ? static_cast<double>(before)
                                                        : 0.0);
            std::vector<std::vector<double>> levels(2);
            if (a == xd_axis::token) levels[0] = evenly_spaced(s.height, 0, static_cast<double>(columns));
            if (a == xd_axis::row) levels[0] = evenly_spaced(s.height);
            if (a == xd_axis::token || a == xd_axis::column) levels[1] = evenly_spaced(columns);
            grid.coordinates.push_back(std::move(levels));
        }
        state.add(std::move(grid), s.height * columns);
        state.next += static_cast<double>(s.height * columns);
        state.highest = std::max(state.highest, state.next - 1);
        state.add_text(1);
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions
