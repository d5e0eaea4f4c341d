// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/decay.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("decay: the published curve, which falls as a trend only", "[analysis][decay]") {
    const auto s = frequencies::geometric({.rotary_dim = 128});
    const std::vector<double> distances{0, 1, 10, 50, 100, 200};
    const double published[] = {32.5, 31.5382, 17.9541, 12.6295, 10.2273, 7.2448};
    const auto curve = analysis::make_decay_curve(s, distances);
    for (std::size_t i = 0; i < curve.size(); ++i) CHECK(std::abs(curve[i] - published[i]) < 5.1e-5);
    std::vector<double> every(400);
    for (std::size_t i = 0; i < every.size(); ++i) every[i] = static_cast<double>(i);
    const auto fine = analysis::make_decay_curve(s, every);
    int rises = 0;
    for (std::size_t i = 1; i < fine.size(); ++i) rises += fine[i] > fine[i - 1];
    CHECK(rises > 0);
    CHECK(analysis::mean_partial_sum(s, -50) == Approx(analysis::mean_partial_sum(s, 50)).epsilon(1e-14));
    CHECK(analysis::mean_partial_sum(spectrum{}, 5) == 0);
    CHECK_REFUSES("make_decay_curve: spectrum must have one axis, got 2",
                  analysis::make_decay_curve(
                      spectrum::selected(std::vector<double>{1, 2}, std::vector<int>{0, 1}, 2), distances));
}
