// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

/// The gradient of a loss with respect to learned frequencies (mixed RoPE): adds, for every head, axis and
/// pair, the sum over tokens of position * (gradient of the angle), which for the rotated pair (x, y) with
/// upstream gradient (gx, gy) is gy x - gx y. Called once for q and once for k, it gives their sum.
/// Shapes:   rotated and upstream [batches, tokens, heads, 2 * pairs], positions [tokens or batches * tokens,
///           axes], gradient [heads, axes, pairs] as spectrum::mixed has its frequencies.
/// Requires: `rotated` as rotate() left it, under the same positions and layout; untouched tokens add
///           nothing.
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     one pass over both views, in f64.
/// Accuracy: against central differences 1e-7 relative in f64.
/// Source:   d/dt (x cos t - y sin t, x sin t + y cos t) = (-y', x').
template <class T>
void accumulate_frequency_gradient(pair_layout layout, heads_view<const T> rotated,
                                   heads_view<const T> upstream, const position_ids& positions,
                                   std::span<double> gradient) {
    constexpr const char* who = "accumulate_frequency_gradient";
    const index pairs = rotated.channels() / 2;
    const index axes = positions.axes();
    detail::require(rotated.channels() % 2 == 0 && layout.fits(pairs), who,
                    "rotated must have channels that the layout can pair", rotated.channels());
    const auto same = [&](const char* what, index a, index b) { detail::require(a == b, who, what, b); };
    same("upstream.batches must be those of rotated", rotated.batches(), upstream.batches());
    same("upstream.tokens must be those of rotated", rotated.tokens(), upstream.tokens());
    same("upstream.heads must be those of rotated", rotated.heads(), upstream.heads());
    same("upstream.channels must be those of rotated", rotated.channels(), upstream.channels());
    same("gradient must hold heads * axes * pairs numbers", rotated.heads() * axes * pairs,
         static_cast<index>(gradient.size()));
    const index tokens = rotated.tokens();
    detail::require(positions.tokens() == tokens || positions.tokens() == rotated.batches() * tokens, who,
                    "positions must have one token a token of rotated", positions.tokens());
    const std::vector<double> position = positions.values();
    const auto number = [](const T* p) {
        return static_cast<double>(static_cast<compute_t<T>>(*reinterpret_cast<const stored_t<T>*>(p)));
    };
    for (index b = 0; b < rotated.batches(); ++b)
        for (index n = 0; n < tokens; ++n) {
            const index token = positions.tokens() == tokens ? n : b * tokens + n;
            if (!positions.touched(token)) continue;
            for (index h = 0; h < rotated.heads(); ++h) {
                const T* x = rotated.at(b, n, h);
                const T* g = upstream.at(b, n, h);
                for (index i = 0; i < pairs; ++i) {
                    const index first = layout.first(i, pairs);
                    const index second = layout.second(i, pairs);
                    const double of_angle =
                        number(g + second) * number(x + first) - number(g + first) * number(x + second);
                    for (index a = 0; a < axes; ++a)
                        gradient[static_cast<std::size_t>((h * axes + a) * pairs + i)] +=
                            position[static_cast<std::size_t>(token * axes + a)] * of_angle;
                }
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE
