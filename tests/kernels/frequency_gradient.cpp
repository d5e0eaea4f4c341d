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
        rw::accumulate_omega_gradient(layout, y.view(), g.view(), where, gradient);
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
        rw::accumulate_omega_gradient(layout, y.view(), g.view(), where, twice);
        for (std::size_t i = 0; i < 16; ++i) CHECK(twice[i] == Approx(2 * gradient[i]));
    }
}

TEST_CASE("frequency gradient: has the order of the weights it is for, and deduces what it is given",
          "[kernels][mixed]") {
    namespace frequencies = rw::frequencies;
    const rw::heads_shape shape{1, 6, 2, 8};
    const auto where = rw::positions::grid({.height = 2, .width = 3});
    support::heads_buffer<double> x(shape, 1), g(shape, 2);
    x.fill(1);
    g.fill(2);
    for (const auto order : {frequencies::weight_axes::x_first, frequencies::weight_axes::as_positions}) {
        const frequencies::mixed_config config{
            .heads = 2, .axes = 2, .pairs = 4, .depth = 3, .layer = 1, .order = order};
        std::vector<double> weights(48);
        for (std::size_t i = 0; i < 48; ++i) weights[i] = 0.3 + 0.07 * static_cast<double>(i % 17);
        const auto rotated = [&](const std::vector<double>& w) {
            support::heads_buffer<double> y = x;
            rw::rotate(rw::half_split{}, y.view(),
                       rw::make_rotation_table<double>(frequencies::mixed(config, w), where));
            return y;
        };
        auto y = rotated(weights);
        std::vector<double> gradient(48, 1.0);  // it adds
        const rw::heads_view<const double> upstream = g.view();
        rw::accumulate_frequency_gradient(rw::half_split{}, y.view(), upstream, where, config, gradient);
        const auto up = g.numbers();
        for (std::size_t i = 0; i < 48; ++i) {
            double numeric = 0;
            for (const double step : {1e-5, -1e-5}) {
                auto moved = weights;
                moved[i] += step;
                const auto out = rotated(moved).numbers();
                for (std::size_t n = 0; n < out.size(); ++n) numeric += up[n] * out[n] / (2 * step);
            }
            CHECK(gradient[i] - 1 == Approx(numeric).epsilon(1e-7).margin(1e-7));
            CHECK((gradient[i] == 1) == (i / 8 % 3 != 1));  // only its layer
        }
        // 16-bit activations with an f32 upstream.
        support::heads_buffer<rw::bf16> half(shape);
        support::heads_buffer<float> single(shape);
        half.fill(1);
        single.fill(2);
        std::vector<double> narrow(48);
        rw::accumulate_frequency_gradient(rw::half_split{}, half.view(), single.view(), where, config,
                                          narrow);
        CHECK(narrow[8] != 0);
    }
}

TEST_CASE("frequency gradient: sizes that disagree are refused", "[kernels][mixed]") {
    support::heads_buffer<float> x({1, 2, 1, 4}), wide({1, 2, 1, 8});
    const auto where = rw::position_ids::text(2);
    std::vector<double> gradient(2), wrong(3);
    const rw::pair_layout layout = rw::half_split{};
    CHECK_REFUSES("accumulate_omega_gradient: upstream.channels must be those of rotated: wanted 4, got 8",
                  (rw::accumulate_omega_gradient(layout, x.view(), wide.view(), where, gradient), 0));
    CHECK_REFUSES(
        "accumulate_omega_gradient: omega_gradient must hold heads * axes * pairs numbers: wanted 2, got 3",
        (rw::accumulate_omega_gradient(layout, x.view(), x.view(), where, wrong), 0));
    CHECK_REFUSES(
        "accumulate_omega_gradient: positions must have one token a token of rotated, got 3",
        (rw::accumulate_omega_gradient(layout, x.view(), x.view(), rw::position_ids::text(3), gradient), 0));
    const auto weighted = [&](const rw::frequencies::mixed_config& config) {
        rw::accumulate_frequency_gradient(layout, x.view(), x.view(), where, config, gradient);
        return 0;
    };
    const std::string who = "accumulate_frequency_gradient: ";
    CHECK(weighted({.heads = 1, .axes = 1, .pairs = 2}) == 0);
    CHECK_REFUSES(who + "config.heads must be those of rotated: wanted 1, got 2",
                  weighted({.heads = 2, .axes = 1, .pairs = 1}));
    CHECK_REFUSES(who + "config.pairs must be those of rotated: wanted 2, got 1",
                  weighted({.axes = 2, .pairs = 1}));
    CHECK_REFUSES(who + "config.axes must be those of positions: wanted 1, got 2",
                  weighted({.axes = 2, .pairs = 2}));
    CHECK_REFUSES(who + "config.layer must be below depth, got 1",
                  weighted({.axes = 1, .pairs = 2, .layer = 1}));
    CHECK_REFUSES(who + "config.depth must be >= 1, got 0", weighted({.axes = 1, .pairs = 2, .depth = 0}));
    CHECK_REFUSES(who + "gradient must hold axes * depth * heads * pairs numbers: wanted 4, got 2",
                  weighted({.axes = 1, .pairs = 2, .depth = 2}));
}

TEMPLATE_TEST_CASE("frequency gradient: any storage, layout and number of axes", "[kernels][mixed]", double,
                   float, rw::bf16, rw::f16) {
    using T = TestType;
    const rw::heads_shape shape{2, 9, 3, 44};  // 22 pairs: no whole registers
    support::heads_buffer<T> x(shape, 1), g(shape, 2);
    x.fill(3);
    g.fill(4);
    const auto number = [](const T& v) { return static_cast<double>(static_cast<rw::compute_t<T>>(v)); };
    for (const rw::index axes : {1, 2, 3})
        for (const auto layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                  rw::pair_layout::blocked_by(4)}) {
            std::vector<double> at(static_cast<std::size_t>(9 * axes));
            for (std::size_t i = 0; i < at.size(); ++i) at[i] = 0.5 * static_cast<double>(i) - 3;
            const auto where = rw::position_ids::from_tokens_axes(at, axes);
            std::vector<double> got(static_cast<std::size_t>(3 * axes * 22)), want = got;
            rw::accumulate_omega_gradient(layout, x.view(), g.view(), where, got);
            for (rw::index b = 0; b < 2; ++b)
                for (rw::index n = 0; n < 9; ++n)
                    for (rw::index h = 0; h < 3; ++h)
                        for (rw::index i = 0; i < 22; ++i) {
                            const rw::index first = layout.first(i, 22), second = layout.second(i, 22);
                            const T *xs = x.view().at(b, n, h), *gs = g.view().at(b, n, h);
                            for (rw::index a = 0; a < axes; ++a)
                                want[static_cast<std::size_t>((h * axes + a) * 22 + i)] +=
                                    at[static_cast<std::size_t>(n * axes + a)] *
                                    (number(gs[second]) * number(xs[first]) -
                                     number(gs[first]) * number(xs[second]));
                        }
            for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(want[i]).margin(1e-12));
        }
}
