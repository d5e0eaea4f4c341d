// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

/// The gradient of a loss with respect to learned frequencies (mixed RoPE): adds, for every head, axis and
/// pair, the sum over tokens of position * (gradient of the angle), which for the rotated pair (x, y) with
/// upstream gradient (gx, gy) is gy x - gx y. Called once for q and once for k, it gives their sum.
/// Shapes:   rotated and upstream [batches, tokens, heads, 2 * pairs], of any element types; positions
/// [tokens
///           or batches * tokens, axes]; omega_gradient [heads, axes, pairs], the order of spectrum::mixed.
///           (That of weights is another: accumulate_frequency_gradient.)
/// Requires: `rotated` as rotate() left it, under the same positions and layout; untouched tokens add
///           nothing.
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     one pass over both views, in f64.
/// Accuracy: against central differences 1e-7 relative in f64.
/// Source:   d/dt (x cos t - y sin t, x sin t + y cos t) = (-y', x').
template <class X, class G>
void accumulate_omega_gradient(pair_layout layout, heads_view<X> rotated, heads_view<G> upstream,
                               const position_ids& positions, std::span<double> omega_gradient) {
    constexpr const char* who = "accumulate_omega_gradient";
    const index pairs = rotated.channels() / 2;
    const index axes = positions.axes();
    detail::require(rotated.channels() % 2 == 0 && layout.fits(pairs), who,
                    "rotated must have channels that the layout can pair", rotated.channels());
    const auto same = [&](const char* what, index a, index b) { detail::require(a == b, who, what, b); };
    same("upstream.batches must be those of rotated", rotated.batches(), upstream.batches());
    same("upstream.tokens must be those of rotated", rotated.tokens(), upstream.tokens());
    same("upstream.heads must be those of rotated", rotated.heads(), upstream.heads());
    same("upstream.channels must be those of rotated", rotated.channels(), upstream.channels());
    same("omega_gradient must hold heads * axes * pairs numbers",
         detail::checked_product(who, "heads, axes and pairs must fit", {rotated.heads(), axes, pairs}),
         static_cast<index>(omega_gradient.size()));
    const index tokens = rotated.tokens();
    detail::require(positions.tokens() == tokens || positions.tokens() == rotated.batches() * tokens, who,
                    "positions must have one token a token of rotated", positions.tokens());
    const std::vector<double> position = positions.values();
    const auto number = []<class T>(const T* p) {
        return static_cast<double>(static_cast<compute_t<T>>(*reinterpret_cast<const stored_t<T>*>(p)));
    };
    for (index b = 0; b < rotated.batches(); ++b)
        for (index n = 0; n < tokens; ++n) {
            const index token = positions.tokens() == tokens ? n : b * tokens + n;
            if (!positions.touched(token)) continue;
            for (index h = 0; h < rotated.heads(); ++h) {
                const X* x = rotated.at(b, n, h);
                const G* g = upstream.at(b, n, h);
                for (index i = 0; i < pairs; ++i) {
                    const index first = layout.first(i, pairs);
                    const index second = layout.second(i, pairs);
                    const double of_angle =
                        number(g + second) * number(x + first) - number(g + first) * number(x + second);
                    for (index a = 0; a < axes; ++a)
                        omega_gradient[static_cast<std::size_t>((h * axes + a) * pairs + i)] +=
                            position[static_cast<std::size_t>(token * axes + a)] * of_angle;
                }
            }
        }
}

/// The same in the order of the weights that frequencies::mixed reads: added to one layer of them, so that an
/// optimiser steps weights and gradient number by number.
/// Shapes:   as accumulate_omega_gradient; gradient [axes, depth, heads, pairs] as the weights of `config`.
/// Requires, Throws, Cost, Accuracy: as accumulate_omega_gradient; invalid_config also on a config of other
/// heads,
///           axes or pairs, or a layer that is not there.
/// Source:   as frequencies::mixed.
///
///     const frequencies::mixed_config config{.heads = 6, .pairs = 32};
///     const auto learned = frequencies::mixed(config, weights);
///     accumulate_frequency_gradient(half_split{}, q, q_upstream, where, config, gradient);
template <class X, class G>
void accumulate_frequency_gradient(pair_layout layout, heads_view<X> rotated, heads_view<G> upstream,
                                   const position_ids& positions, const frequencies::mixed_config& config,
                                   std::span<double> gradient) {
    constexpr const char* who = "accumulate_frequency_gradient";
    const auto same = [&](const char* what, index want, index got) {
        detail::require(want == got, who, what, got);
    };
    same("config.heads must be those of rotated", rotated.heads(), config.heads);
    same("config.pairs must be those of rotated", rotated.channels() / 2, config.pairs);
    same("config.axes must be those of positions", positions.axes(), config.axes);
    detail::require(config.depth >= 1, who, "config.depth must be >= 1", config.depth);
    detail::require(config.layer >= 0 && config.layer < config.depth, who, "config.layer must be below depth",
                    config.layer);
    same("gradient must hold axes * depth * heads * pairs numbers",
         detail::checked_product(who, "axes, depth, heads and pairs must be >= 0",
                                 {config.axes, config.depth, config.heads, config.pairs}),
         static_cast<index>(gradient.size()));
    std::vector<double> omega(static_cast<std::size_t>(config.heads * config.axes * config.pairs));
    accumulate_omega_gradient(layout, rotated, upstream, positions, omega);
    auto from = omega.begin();
    for (index h = 0; h < config.heads; ++h)
        for (index a = 0; a < config.axes; ++a) {
            const index first = detail::mixed_weights_at(config, h, a);
            for (index i = 0; i < config.pairs; ++i) gradient[static_cast<std::size_t>(first + i)] += *from++;
        }
}

}  // namespace ROPEWALK_NAMESPACE
