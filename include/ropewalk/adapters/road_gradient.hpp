// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <vector>

#include <ropewalk/adapters/road.hpp>

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
/// Accuracy: sums in f64.
/// Source:   the chain rule on `columns`.
template <class T, class D>
gradient make_gradient(const adapter& a, heads_view<T> h, heads_view<D> dy) {
    constexpr const char* who = "road::make_gradient";
    const adapter_config& config = a.config();
    detail::require(h.channels() == config.channels, who, "h must have the adapter's channels", h.channels());
    detail::require(dy.channels() == config.channels, who, "dy must have the adapter's channels",
                    dy.channels());
    detail::require(dy.batches() == h.batches() && dy.tokens() == h.tokens() && dy.heads() == h.heads(), who,
                    "dy must have h's extents, its tokens being", dy.tokens());
    const index half = config.group / 2;
    std::vector<double> first(detail::road_at(config.channels), 0.0), second(first);
    const auto value = [](const auto* p, index i) {
        using U = std::remove_cvref_t<decltype(*p)>;
        return static_cast<double>(static_cast<compute_t<U>>(reinterpret_cast<const stored_t<U>*>(p)[i]));
    };
    for (index b = 0; b < h.batches(); ++b)
        for (index n = 0; n < h.tokens(); ++n)
            for (index head = 0; head < h.heads(); ++head) {
                const auto* x = h.at(b, n, head);
                const auto* g = dy.at(b, n, head);
                for (index i = 0; i < config.channels; ++i) {
                    const bool is_first = i % config.group < half;
                    first[detail::road_at(i)] += value(g, i) * value(x, i);
                    second[detail::road_at(i)] +=
                        value(g, i) * (is_first ? -value(x, i + half) : value(x, i - half));
                }
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
