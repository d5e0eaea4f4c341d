// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Gradients of RoAd's parameters.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ropewalk/adapters/road.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/core/simd.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Sums over rows of products with the gradient, pair by pair: of g x, k y, g y and k x, where (x, y) are the
/// channels of a pair and (g, k) their gradients. A range of pairs at a time, so that its sums stay in the L1
/// cache for all rows.
struct pair_sums {
    static constexpr index at_once = 256;  ///< pairs; a multiple of the short groups
    std::vector<double> straight_x, straight_y, crossed_x, crossed_y;

    explicit pair_sums(index pairs)
        : straight_x(static_cast<std::size_t>(pairs)),
          straight_y(straight_x),
          crossed_x(straight_x),
          crossed_y(straight_x) {}

    /// Adds one row: its pairs [from, from + at_once).
    template <class T, class D>
    void add(index half, index from, const T* row, const D* gradient) noexcept {
        const auto all = static_cast<index>(straight_x.size());
        const index count = all - from < at_once ? all - from : at_once;
        double x[at_once], y[at_once], g[at_once], k[at_once];
        const auto widen = [&](const auto* of, double* to, double* to_second) {
            switch (half) {  // short groups: with a compile-time length
                case 1: return split<1>(of, from, count, to, to_second);
                case 2: return split<2>(of, from, count, to, to_second);
                case 4: return split<4>(of, from, count, to, to_second);
                case 8: return split<8>(of, from, count, to, to_second);
                default: return split<0>(of, from, count, to, to_second, half);
            }
        };
        widen(row, x, y);
        widen(gradient, g, k);
        double* const sums[4] = {straight_x.data() + from, straight_y.data() + from, crossed_x.data() + from,
                                 crossed_y.data() + from};
        constexpr index n = simd::lanes<double>;
        const auto read = [](const double* p) { return simd::load(p); };
        index i = 0;
        for (; i + n <= count; i += n) {
            const auto u = read(x + i), v = read(y + i), of_u = read(g + i), of_v = read(k + i);
            simd::store(sums[0] + i, simd::fma(of_u, u, read(sums[0] + i)));
            simd::store(sums[1] + i, simd::fma(of_v, v, read(sums[1] + i)));
            simd::store(sums[2] + i, simd::fma(of_u, v, read(sums[2] + i)));
            simd::store(sums[3] + i, simd::fma(of_v, u, read(sums[3] + i)));
        }
        for (; i < count; ++i) {
            sums[0][i] += g[i] * x[i];
            sums[1][i] += k[i] * y[i];
            sums[2][i] += g[i] * y[i];
            sums[3][i] += k[i] * x[i];
        }
    }

  private:
    /// First and second channels of `count` pairs from `from` on, for groups of twice Half, or of twice
    /// `half`.
    template <index Half, class T>
    static void split(const T* row, index from, index count, double* first, double* second,
                      index half = Half) noexcept {
        const auto* const p = reinterpret_cast<const stored_t<T>*>(row);
        const auto number = [&](index c) { return static_cast<double>(static_cast<compute_t<T>>(p[c])); };
        if constexpr (Half != 0) {
            for (index i = 0; i < count; i += Half)
                for (index j = 0; j < Half; ++j) {
                    first[i + j] = number(2 * (from + i) + j);
                    second[i + j] = number(2 * (from + i) + Half + j);
                }
        } else {
            for (index i = 0; i < count;) {  // as far as pairs of a group are contiguous
                const index inside = (from + i) % half, run = std::min(count - i, half - inside);
                const index at = 2 * (from + i) - inside;
                for (index j = 0; j < run; ++j) first[i + j] = number(at + j);
                for (index j = 0; j < run; ++j) second[i + j] = number(at + half + j);
                i += run;
            }
        }
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::road {

/// dL/dtheta and dL/dalpha, each parameter_count long.
/// Source: the chain rule on `columns`.
struct gradient {
    std::vector<double> theta;  ///< [parameter_count]
    std::vector<double> alpha;  ///< [parameter_count]
};

/// The gradient of a loss through y = R h, summed over all rows. dL/dh is mix_pairs of `dy` with the table of
/// make_transpose.
/// Shapes:   h, dy [batches, tokens, heads, channels]; h is the layer's output before the adapter.
/// Throws:   invalid_config when the extents differ.
/// Cost:     one pass over h and dy, eight f64 multiplications and additions per pair and row.
/// Accuracy: sums in f64.
/// Source:   the chain rule on `columns`.
template <class T, class D>
gradient make_gradient(const adapter& a, heads_view<T> h, heads_view<D> dy) {
    constexpr const char* who = "road::make_gradient";
    detail::require_readable(who, "h", h);
    detail::require_readable(who, "dy", dy);
    const adapter_config& config = a.config();
    detail::require_equal(who, "h must have the adapter's channels", config.channels, h.channels());
    detail::require_extents(who, "dy must have h's extents", h.shape, dy.shape);
    const pair_layout layout = a.layout();
    const index pairs = config.channels / 2, half = config.group / 2;
    // For each pair: sums of g_x x, g_y y, g_x y and g_y x.
    detail::pair_sums sums(pairs);
    for (index from = 0; from < pairs; from += detail::pair_sums::at_once)
        for (index b = 0; b < h.batches(); ++b)
            for (index n = 0; n < h.tokens(); ++n)
                for (index head = 0; head < h.heads(); ++head)
                    sums.add(half, from, h.at(b, n, head), dy.at(b, n, head));
    std::vector<double> first(detail::road_at(config.channels)), second(first);
    for (index i = 0; i < pairs; ++i) {
        const auto x = detail::road_at(layout.first(i, pairs)), y = detail::road_at(layout.second(i, pairs));
        const auto at = detail::road_at(i);
        first[x] = sums.straight_x[at], first[y] = sums.straight_y[at];
        second[x] = -sums.crossed_x[at], second[y] = sums.crossed_y[at];
    }
    gradient out{std::vector<double>(a.theta().size(), 0.0), std::vector<double>(a.theta().size(), 0.0)};
    for (index i = 0; i < config.channels; ++i) {
        const auto from = detail::places_of(config, i);
        const auto p = detail::road_at(from.first), q = detail::road_at(from.second);
        out.theta[p] -= first[detail::road_at(i)] * a.alpha()[p] * std::sin(a.theta()[p]);
        out.alpha[p] += first[detail::road_at(i)] * std::cos(a.theta()[p]);
        out.theta[q] += second[detail::road_at(i)] * a.alpha()[q] * std::cos(a.theta()[q]);
        out.alpha[q] += second[detail::road_at(i)] * std::sin(a.theta()[q]);
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::road
