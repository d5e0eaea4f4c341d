// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Circle-RoPE: positions that place the patches of an image on a circle around the line of the text.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include <ropewalk/positions/visual_rules.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// Circle-RoPE: the patches of an image lie on a circle around the line of the text, so that every patch is
/// equally far from all text. The angle of a patch blends its direction from the centre with its index in
/// reading order. Text goes on one past the largest coordinate on any axis, so positions become fractional.
/// Each frame of a video is a ring of its own, one after the other.
/// Throws:   invalid_config on audio, on options that are not finite, or on more than 2^24 patches.
/// Source:   Circle-RoPE, arXiv 2505.16416; lose4578/CircleRoPE code/circle_rope.py.
struct circle_rule {
    double radius = 10;                       ///< the radius if radius_times is not given
    std::optional<double> radius_times = {};  ///< "auto-k": radius = k * largest coordinate ("auto": k = 1)
    double alpha = 0.5;  ///< share of the direction in the angle; the remainder is the index in reading order
    bool centred = true;    ///< move_to_origin: coordinates are relative to the middle of the image
    double flat_share = 0;  ///< dff_rate: share of the plain grid in the result
    std::optional<double> above =
        {};  ///< move_to_positive: adds this and the magnitude of the smallest coordinate

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        constexpr const char* who = "circle_rule";
        detail::require(std::isfinite(radius), who, "radius must be finite", radius);
        detail::require(std::isfinite(radius_times.value_or(0)), who, "radius_times must be finite",
                        radius_times.value_or(0));
        detail::require(std::isfinite(alpha), who, "alpha must be finite", alpha);
        detail::require(std::isfinite(flat_share), who, "flat_share must be finite", flat_share);
        detail::require(std::isfinite(above.value_or(0)), who, "above must be finite", above.value_or(0));
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    /// Offsets of the patches of one image from the position where it begins.
    /// Shapes: [height * width, 3] in the order t, h, w, row-major.
    std::vector<double> ring(index height, index width) const {
        const auto patches = static_cast<std::size_t>(height * width);
        std::vector<double> x(patches), y(patches), direction(patches), out(3 * patches);
        const double left = centred ? static_cast<double>(width - 1) / 2 : 0;
        const double top = centred ? static_cast<double>(height - 1) / 2 : 0;
        double largest = -top;
        for (std::size_t k = 0; k < patches; ++k) {
            x[k] = static_cast<double>(static_cast<index>(k) % width) - left;
            y[k] = static_cast<double>(static_cast<index>(k) / width) - top;
            direction[k] = std::atan2(y[k], x[k]);
            largest = std::max({largest, x[k], y[k]});
        }
        const double r = radius_times ? *radius_times * std::abs(largest) : radius;
        const auto [low, high] = std::minmax_element(direction.begin(), direction.end());
        const double from = *low, range = *high - *low;
        constexpr double tau = 2 * std::numbers::pi;
        double smallest = 0;
        for (std::size_t k = 0; k < patches; ++k) {
            const double stretched = range > 0 ? (direction[k] - from) / range * tau : direction[k];
            const double angle =
                alpha * stretched + (1 - alpha) * tau * static_cast<double>(k) / static_cast<double>(patches);
            // u = (-1, 1, 0) / sqrt 2 and v = (-1, -1, 2) / sqrt 6 span the plane perpendicular to (1, 1, 1).
            const double along_u = r * std::cos(angle) / std::sqrt(2.0);
            const double along_v = r * std::sin(angle) / std::sqrt(6.0);
            const double keep = 1 - flat_share;
            const double flat_u = x[k] / std::sqrt(2.0), flat_v = y[k] / std::sqrt(6.0);
            const double u = keep * along_u + flat_share * flat_u;
            const double v = keep * along_v + flat_share * flat_v;
            out[3 * k] = 2 * v;
            out[3 * k + 1] = u - v;
            out[3 * k + 2] = -u - v;
            for (std::size_t a = 0; a < 3; ++a)
                smallest = k == 0 && a == 0 ? out[0] : std::min(smallest, out[3 * k + a]);
        }
        if (above)
            for (double& v : out) v += std::abs(smallest) + *above;
        return out;
    }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (detail::placed_as_text(state, s, number)) return;
        constexpr index most = index{1} << 24;  // every patch of a ring is stored
        detail::require_segment(s.frames * s.height * s.width <= most, number, s,
                                "frames x height x width must be <= 2^24 patches",
                                s.frames * s.height * s.width);
        const auto offsets = ring(s.height, s.width);
        for (index f = 0; f < s.frames; ++f) {
            listed_run run;
            double highest = state.next - 1;
            for (const double offset : offsets) {
                run.values.push_back(state.next + offset);
                highest = std::max(highest, run.values.back());
            }
            state.add(std::move(run), s.height * s.width);
            state.next = highest + 1;
        }
        state.highest = std::max(state.highest, state.next - 1);
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions
