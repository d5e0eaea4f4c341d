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
