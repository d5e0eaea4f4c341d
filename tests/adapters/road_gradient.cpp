// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/adapters/road_gradient.hpp>

#include "adapters/road_inputs.hpp"
#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;
namespace road = ropewalk::road;
using road::variant;
using road_inputs::expected;
using road_inputs::mix;
using road_inputs::random_adapter;
using support::noise;

TEST_CASE("road: gradients agree with central differences", "[adapters][road]") {
    for (auto kind : {variant::road_1, variant::road_2, variant::road_4}) {
        const road::adapter a = random_adapter({.channels = 12, .group = 6, .variant = kind}, 41);
        auto h = noise(36, 5), g = noise(36, 6);
        const rw::heads_view<double> hv(h.data(), 3, 1, 12), gv(g.data(), 3, 1, 12);
        const auto loss = [&](const road::adapter& at) {
            const auto y = expected(road::make_blocks(at), h);
            double sum = 0;
            for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * g[i];
            return sum;
        };
        const auto gradient = road::make_gradient(a, hv, gv);
        const double step = 1e-6;
        for (std::size_t p = 0; p < a.theta().size(); ++p) {
            auto up = a.theta(), down = a.theta();
            up[p] += step;
            down[p] -= step;
            CHECK(
                gradient.theta[p] ==
                Approx((loss({a.config(), up, a.alpha()}) - loss({a.config(), down, a.alpha()})) / (2 * step))
                    .margin(1e-8));
            up = down = a.alpha();
            up[p] += step;
            down[p] -= step;
            CHECK(
                gradient.alpha[p] ==
                Approx((loss({a.config(), a.theta(), up}) - loss({a.config(), a.theta(), down})) / (2 * step))
                    .margin(1e-8));
        }
        // dL/dh by the transposed table.
        auto dh = g;
        mix(road::make_transpose(road::make_blocks(a)), dh);
        auto moved = h;
        moved[7] += 1;
        const auto change = expected(road::make_blocks(a), moved), before = expected(road::make_blocks(a), h);
        double difference = 0;
        for (std::size_t i = 0; i < g.size(); ++i) difference += (change[i] - before[i]) * g[i];
        CHECK(dh[7] == Approx(difference).epsilon(1e-12));
    }
}

TEMPLATE_TEST_CASE("road: the gradient of any group, type and stride is the plain sum", "[adapters][road]",
                   double, float, rw::bf16) {
    // More pairs than one stretch of sums, and parts of registers.
    for (const auto& [channels, group] : std::initializer_list<std::pair<rw::index, rw::index>>{
             {600, 2}, {600, 4}, {600, 6}, {608, 8}, {608, 16}, {600, 24}, {600, 600}, {1100, 1100}}) {
        CAPTURE(channels, group);
        const road::adapter a =
            random_adapter({.channels = channels, .group = group, .variant = variant::road_4}, 7);
        const rw::index stride = channels + 3;
        auto h = support::as<TestType>(noise(2 * 2 * stride, 8)),
             g = support::as<TestType>(noise(2 * 2 * stride, 9));
        const rw::heads_view<TestType> hv(h.data(), {2, 2, 1, channels}, {2 * stride, stride, stride}),
            gv(g.data(), {2, 2, 1, channels}, {2 * stride, stride, stride});
        const auto got = road::make_gradient(a, hv, gv);
        std::vector<double> theta(a.theta().size(), 0.0), alpha(theta);
        for (rw::index row = 0; row < 4; ++row)
            for (rw::index c = 0; c < channels; ++c) {
                const rw::index inside = c % group,
                                partner = inside < group / 2 ? c + group / 2 : c - group / 2;
                const auto at = [&](const std::vector<TestType>& x, rw::index i) {
                    return support::widened(x[static_cast<std::size_t>(row * stride + i)]);
                };
                const double one = at(g, c) * at(h, c);
                const double two = at(g, c) * at(h, partner) * (inside < group / 2 ? -1 : 1);
                const auto p = static_cast<std::size_t>(2 * (c - inside) + inside),
                           q = p + static_cast<std::size_t>(group);
                theta[p] -= one * a.alpha()[p] * std::sin(a.theta()[p]);
                alpha[p] += one * std::cos(a.theta()[p]);
                theta[q] += two * a.alpha()[q] * std::cos(a.theta()[q]);
                alpha[q] += two * std::sin(a.theta()[q]);
            }
        CHECK(support::worst(got.theta, theta) < 1e-12);
        CHECK(support::worst(got.alpha, alpha) < 1e-12);
    }
}
