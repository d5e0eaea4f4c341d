// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/frequency_gradient.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/positions/grid.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("frequency gradient: equals central differences", "[kernels][mixed]") {
    const rw::heads_shape shape{2, 7, 2, 8};
    const auto where = rw::positions::grid({.height = 2, .width = 3, .prefix_tokens = 1});
    support::heads_buffer<double> x(shape, 1), g(shape, 2);
    x.fill(1);
    g.fill(2);
    std::vector<double> weights(16);
    for (std::size_t i = 0; i < 16; ++i) weights[i] = 0.3 + 0.11 * static_cast<double>(i);
    const auto rotated = [&](const std::vector<double>& w, rw::pair_layout layout) {
        support::heads_buffer<double> y = x;
        const auto table = rw::make_rotation_table<double>(rw::spectrum::mixed(w, 2, 2), where);
        for (rw::index b = 0; b < 2; ++b) rw::rotate(layout, y.view().batch_slice(b, 1), table);
        return y;
    };
    // The loss: the sum of g * rotated(x).
    const auto loss = [&](const std::vector<double>& w, rw::pair_layout layout) {
        auto y = rotated(w, layout).numbers();
        const auto up = g.numbers();
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += up[i] * y[i];
        return sum;
    };
    for (const auto layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                              rw::pair_layout::blocked_by(4)}) {
        std::vector<double> gradient(16);
        auto y = rotated(weights, layout);
        rw::accumulate_frequency_gradient<double>(layout, y.view(), g.view(), where, gradient);
        for (std::size_t i = 0; i < 16; ++i) {
            constexpr double step = 1e-5;
            auto up = weights, down = weights;
            up[i] += step;
            down[i] -= step;
            const double numeric = (loss(up, layout) - loss(down, layout)) / (2 * step);
            CHECK(gradient[i] == Approx(numeric).epsilon(1e-7).margin(1e-7));
        }
        // A second call adds.
        auto twice = gradient;
        rw::accumulate_frequency_gradient<double>(layout, y.view(), g.view(), where, twice);
        for (std::size_t i = 0; i < 16; ++i) CHECK(twice[i] == Approx(2 * gradient[i]));
    }
}

TEST_CASE("frequency gradient: sizes that disagree are refused", "[kernels][mixed]") {
    support::heads_buffer<float> x({1, 2, 1, 4}), wide({1, 2, 1, 8});
    const auto where = rw::position_ids::text(2);
    std::vector<double> gradient(2), wrong(3);
    const rw::pair_layout layout = rw::half_split{};
    CHECK_REFUSES(
        "accumulate_frequency_gradient: upstream.channels must be those of rotated, got 8",
        (rw::accumulate_frequency_gradient<float>(layout, x.view(), wide.view(), where, gradient), 0));
    CHECK_REFUSES("accumulate_frequency_gradient: gradient must hold heads * axes * pairs numbers, got 3",
                  (rw::accumulate_frequency_gradient<float>(layout, x.view(), x.view(), where, wrong), 0));
    CHECK_REFUSES("accumulate_frequency_gradient: positions must have one token a token of rotated, got 3",
                  (rw::accumulate_frequency_gradient<float>(layout, x.view(), x.view(),
                                                            rw::position_ids::text(3), gradient),
                   0));
}
