// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Golden-direction RoPE: each pair rotates with the projection of the position on its own direction.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The inverse of the error function at 2 z - 1: a rational first guess, then Halley steps on erf or erfc,
/// whichever is accurate there.
inline double inverse_erf_of_share(double z) {
    const double y = 2 * z - 1;
    if (y == 0) return 0;
    const double side = y < 0 ? -1.0 : 1.0;
    const double tail = y < 0 ? 2 * z : 2 * (1 - z);  // 1 - |y|
    const double log_term = std::log(tail * (2 - tail));
    const double half = 2 / (std::numbers::pi * 0.147) + log_term / 2;
    double x = std::sqrt(std::sqrt(half * half - log_term / 0.147) - half);
    for (int step = 0; step < 4; ++step) {
        const double miss = (tail < 0.5 ? tail - std::erfc(x) : std::erf(x) - (1 - tail)) *
                            std::sqrt(std::numbers::pi) / 2 * std::exp(x * x);
        x -= miss / (1 + x * miss);
    }
    return side * x;
}

}  // namespace detail

namespace frequencies {

struct golden_directions_config {
    index heads = 1;
    index axes = 2;
    index pairs = 0;      ///< half of the rotated channels
    double slowest = 1;   ///< min_freq, radians per unit of position
    double fastest = 20;  ///< max_freq, radians per unit of position
    double resting_share =
        0;  ///< p_zero_freqs: this share of the pairs of a head, the first ones, does not rotate
};

/// The generalised golden ratio, which spreads points in `axes` dimensions: ten steps of x = (1 + x)^(1 /
/// (axes + 1)) from 2. The published directions use the same ten steps, which end 1e-8 short of the root.
/// Throws:   invalid_config on axes < 1.
/// Source:   tiiuae/siglino amoe/rope.py; the R sequence, Roberts 2018.
inline double golden_ratio(index axes) {
    detail::require(axes >= 1, "golden_directions", "axes must be >= 1", axes);
    double x = 2;
    for (int step = 0; step < 10; ++step) x = std::pow(1 + x, 1 / (static_cast<double>(axes) + 1));
    return x;
}

/// Unit vectors that cover all directions evenly, for any number of them.
/// Shapes:   [heads, pairs, axes].
/// Throws:   invalid_config on heads or axes < 1, pairs < 0, or sizes that overflow.
/// Accuracy: within 1e-12 of the definition in f64; the released code rounds to f32.
/// Source:   tiiuae/siglino amoe/rope.py; J. Xiong, On N-dimensional rotary positional embeddings.
inline std::vector<double> golden_directions(const golden_directions_config& c) {
    constexpr const char* who = "golden_directions";
    detail::require(c.heads >= 1, who, "heads must be >= 1", c.heads);
    detail::require(c.pairs >= 0, who, "pairs must be >= 0", c.pairs);
    const double phi = golden_ratio(c.axes);
    const index vectors =
        detail::checked_product(who, "heads and pairs must be >= 0", {c.heads, c.pairs, c.axes}) / c.axes;
    std::vector<double> all;
    std::vector<double> v(static_cast<std::size_t>(c.axes));
    for (index n = 1; n <= vectors; ++n) {
        double length = 0;
        for (index k = 0; k < c.axes; ++k) {
            const double along = static_cast<double>(n) * std::pow(phi, -static_cast<double>(k + 1));
            const double x = detail::inverse_erf_of_share(along - std::floor(along));
            v[static_cast<std::size_t>(k)] = x;
            length += x * x;
        }
        for (const double x : v) all.push_back(x / std::sqrt(length));
    }
    return all;
}

/// Golden-direction RoPE: each pair of each head rotates with the projection of the position on its own
/// direction. The first pairs of a head do not rotate (resting_share); the frequencies of the others form a
/// geometric ladder from `slowest` to `fastest`. Shared key heads must be expanded before the rotation,
/// because each query head has its own directions.
/// Shapes:   a mixed spectrum [heads, axes, pairs].
/// Units:    radians per unit of position; positions are fractional, around 0.
/// Throws:   invalid_config as golden_directions, on frequencies that are not finite and > 0 or resting_share
///           outside [0, 1].
/// Source:   tiiuae/siglino amoe/rope.py; tiiuae/Falcon-Perception falcon_perception/rope.py.
inline spectrum golden(const golden_directions_config& c) {
    constexpr const char* who = "golden_directions";
    detail::require(std::isfinite(c.slowest) && c.slowest > 0, who, "slowest must be finite and > 0",
                    c.slowest);
    detail::require(std::isfinite(c.fastest) && c.fastest > 0, who, "fastest must be finite and > 0",
                    c.fastest);
    detail::require(c.resting_share >= 0 && c.resting_share <= 1, who, "resting_share must be in [0, 1]",
                    c.resting_share);
    const auto directions = golden_directions(c);
    const auto resting = static_cast<index>(std::nearbyint(c.resting_share * static_cast<double>(c.pairs)));
    std::vector<double> omega(directions.size());
    for (index h = 0; h < c.heads; ++h)
        for (index i = 0; i < c.pairs; ++i) {
            const index steps = c.pairs - resting - 1;
            const double share =
                steps > 0 ? static_cast<double>(i - resting) / static_cast<double>(steps) : 0.0;
            const double speed = i < resting ? 0.0 : c.slowest * std::pow(c.fastest / c.slowest, share);
            for (index a = 0; a < c.axes; ++a)
                omega[static_cast<std::size_t>((h * c.axes + a) * c.pairs + i)] =
                    speed * directions[static_cast<std::size_t>((h * c.pairs + i) * c.axes + a)];
        }
    return spectrum::mixed(omega, c.heads, c.axes);
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
