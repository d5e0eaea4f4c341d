// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The gradient of a loss with respect to learned frequencies.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/core/simd_wide.hpp>
#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The first channels of all pairs, then the second ones: in the head itself if they lie so, else copied to
/// `room`, which holds 4 * pairs numbers.
template <class E>
const compute_t<E>* halves_of(pair_layout layout, const E* head, index pairs, compute_t<E>* room) noexcept {
    using C = compute_t<E>;
    const auto* const stored = reinterpret_cast<const stored_t<E>*>(head);
    const C* numbers = nullptr;
    if constexpr (std::is_same_v<stored_t<E>, C>) {
        numbers = stored;
    } else {
        constexpr index lanes = simd::lanes<C>;
        index c = 0;
        for (; c + lanes <= 2 * pairs; c += lanes) simd::store(room + 2 * pairs + c, simd::load(stored + c));
        for (; c < 2 * pairs; ++c) room[2 * pairs + c] = static_cast<C>(stored[c]);
        numbers = room + 2 * pairs;
    }
    if (layout == pair_layout(half_split{})) return numbers;
    if (layout == pair_layout(interleaved{})) {  // a loop that compilers vectorise with shuffles
        for (index i = 0; i < pairs; ++i) {
            room[i] = numbers[2 * i];
            room[pairs + i] = numbers[2 * i + 1];
        }
    } else {
        for (index i = 0; i < pairs; ++i) {
            room[i] = numbers[layout.first(i, pairs)];
            room[pairs + i] = numbers[layout.second(i, pairs)];
        }
    }
    return room;
}

/// One head of some tokens: halves of the rotated numbers and of their upstream gradients, and positions.
template <class X, class G>
struct angle_rows {
    static constexpr index most = 16;
    index count = 0;
    std::array<const X*, std::size_t{most}> x;
    std::array<const G*, std::size_t{most}> g;
    std::array<const double*, std::size_t{most}> position;
};

/// Adds the tokens' position * (gradient of the angle) to [axes, pairs], Axes of them from `axis` on.
template <std::size_t Axes, class X, class G>
void add_angle_gradients(const angle_rows<X, G>& rows, index pairs, index axis, double* to) noexcept {
    constexpr index lanes = simd::lanes<double>;
    index i = 0;
    for (; i + lanes <= pairs; i += lanes) {
        simd::pack<double> sum[Axes];
        for (std::size_t a = 0; a < Axes; ++a)
            sum[a] = simd::load(static_cast<const double*>(to + (axis + static_cast<index>(a)) * pairs + i));
        for (std::size_t t = 0; t < static_cast<std::size_t>(rows.count); ++t) {
            const X* const x = rows.x[t] + i;
            const G* const g = rows.g[t] + i;
            const simd::pack<double> each = simd::load_wide(g + pairs) * simd::load_wide(x) -
                                            simd::load_wide(g) * simd::load_wide(x + pairs);
            for (std::size_t a = 0; a < Axes; ++a)
                sum[a] =
                    simd::fma(simd::broadcast(rows.position[t][axis + static_cast<index>(a)]), each, sum[a]);
        }
        for (std::size_t a = 0; a < Axes; ++a)
            simd::store(to + (axis + static_cast<index>(a)) * pairs + i, sum[a]);
    }
    for (; i < pairs; ++i)
        for (std::size_t t = 0; t < static_cast<std::size_t>(rows.count); ++t) {
            const X* const x = rows.x[t] + i;
            const G* const g = rows.g[t] + i;
            const double each = static_cast<double>(g[pairs]) * static_cast<double>(x[0]) -
                                static_cast<double>(g[0]) * static_cast<double>(x[pairs]);
            for (std::size_t a = 0; a < Axes; ++a)
                to[(axis + static_cast<index>(a)) * pairs + i] +=
                    rows.position[t][axis + static_cast<index>(a)] * each;
        }
}

}  // namespace detail

/// The gradient of a loss with respect to learned frequencies (mixed RoPE). For every head, axis and pair it
/// adds the sum over tokens of position * (gradient of the angle). For the rotated pair (x, y) with upstream
/// gradient (gx, gy) the gradient of the angle is gy x - gx y. Calls for q and for k add up if k has as many
/// heads as q; with fewer heads it needs a gradient of its own.
/// Shapes:   rotated and upstream [batches, tokens, heads, 2 * pairs], of any element types (with a scheme
///           that rotates a slice, its slice(x)); positions [tokens or batches * tokens, axes];
///           omega_gradient [heads, axes, pairs] with the heads of the views, the order of spectrum::mixed
///           (weights have another order: see accumulate_frequency_gradient). The gradient of frequencies
///           that heads share is the sum over the heads.
/// Requires: `rotated` as rotate() wrote it, with the same positions and layout; untouched tokens add
///           nothing.
/// Throws:   invalid_config on sizes that disagree.
/// Cost:     one pass over both views, in f64; a batch larger than the caches takes about the time of reading
///           it.
/// Accuracy: 1e-7 relative in f64, against central differences.
/// Source:   d/dt (x cos t - y sin t, x sin t + y cos t) = (-y', x').
template <class X, class G>
void accumulate_omega_gradient(pair_layout layout, heads_view<X> rotated, heads_view<G> upstream,
                               const position_ids& positions, std::span<double> omega_gradient) {
    constexpr const char* who = "accumulate_omega_gradient";
    detail::require_readable(who, "rotated", rotated);
    detail::require_readable(who, "upstream", upstream);
    const index pairs = rotated.channels() / 2;
    const index axes = positions.axes();
    detail::require(rotated.channels() % 2 == 0 && layout.fits(pairs), who,
                    "rotated must have channels that the layout can pair", rotated.channels());
    detail::require_equal(who, "upstream.batches must be those of rotated", rotated.batches(),
                          upstream.batches());
    detail::require_equal(who, "upstream.tokens must be those of rotated", rotated.tokens(),
                          upstream.tokens());
    detail::require_equal(who, "upstream.heads must be those of rotated", rotated.heads(), upstream.heads());
    detail::require_equal(who, "upstream.channels must be those of rotated", rotated.channels(),
                          upstream.channels());
    detail::require_equal(
        who, "omega_gradient must hold heads * axes * pairs numbers",
        detail::checked_product(who, "heads, axes and pairs must fit", {rotated.heads(), axes, pairs}),
        omega_gradient.size());
    const index tokens = rotated.tokens();
    detail::require(positions.tokens() == tokens || positions.tokens() == rotated.batches() * tokens, who,
                    "positions must have one token a token of rotated", positions.tokens());
    const std::vector<double> position = positions.values();
    using rows_type = detail::angle_rows<compute_t<X>, compute_t<G>>;
    const auto room = [pairs]<class T>(T) {
        return std::vector<T>(static_cast<std::size_t>(rows_type::most * 4 * pairs));
    };
    auto x_room = room(compute_t<X>{});
    auto g_room = room(compute_t<G>{});
    // Some tokens at a time, so that a head's sums stay in registers past them. (Token by token, loaded and
    // stored: 2.8 to 7.6 passes over a batch in the L2 cache; as plain loops of f32 numbers widened to f64,
    // 3.6 to 10.)
    for (index b = 0; b < rotated.batches(); ++b)
        for (index n = 0; n < tokens;) {
            rows_type rows{};
            std::array<index, std::size_t{rows_type::most}> own{};
            for (; n < tokens && rows.count < rows_type::most; ++n) {
                const index token = positions.tokens() == tokens ? n : b * tokens + n;
                if (!positions.touched(token)) continue;
                const auto t = static_cast<std::size_t>(rows.count++);
                own[t] = n;
                rows.position[t] = position.data() + token * axes;
            }
            for (index h = 0; h < rotated.heads(); ++h) {
                for (index t = 0; t < rows.count; ++t) {
                    const auto i = static_cast<std::size_t>(t);
                    rows.x[i] = detail::halves_of(layout, rotated.at(b, own[i], h), pairs,
                                                  x_room.data() + t * 4 * pairs);
                    rows.g[i] = detail::halves_of(layout, upstream.at(b, own[i], h), pairs,
                                                  g_room.data() + t * 4 * pairs);
                }
                double* const to = omega_gradient.data() + h * axes * pairs;
                index a = 0;  // each angle once for two axes: images
                for (; a + 2 <= axes; a += 2) detail::add_angle_gradients<2>(rows, pairs, a, to);
                if (a < axes) detail::add_angle_gradients<1>(rows, pairs, a, to);
            }
        }
}

/// The same in the order of the weights that frequencies::mixed reads. It is added to one layer of them, so
/// that an optimiser can update the weights element by element.
/// Shapes:   as accumulate_omega_gradient; gradient [axes, depth, heads, pairs], as the weights of `config`.
/// Requires, Cost, Accuracy: as accumulate_omega_gradient.
/// Throws:   as accumulate_omega_gradient; invalid_config on a config with other heads, axes or pairs, or a
///           layer that does not exist.
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
    detail::require_equal(who, "config.heads must be those of rotated", rotated.heads(), config.heads);
    detail::require_equal(who, "config.pairs must be those of rotated", rotated.channels() / 2, config.pairs);
    detail::require_equal(who, "config.axes must be those of positions", positions.axes(), config.axes);
    detail::require(config.depth >= 1, who, "config.depth must be >= 1", config.depth);
    detail::require(config.layer >= 0 && config.layer < config.depth, who, "config.layer must be below depth",
                    config.layer);
    detail::require_equal(who, "gradient must hold axes * depth * heads * pairs numbers",
                          detail::checked_product(who, "axes, depth, heads and pairs must be >= 0",
                                                  {config.axes, config.depth, config.heads, config.pairs}),
                          gradient.size());
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
