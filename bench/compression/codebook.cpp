// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/codebook.hpp>

#include <random>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;

/// 300 steps over batches beside 300 steps over all keys, and how much the result is worse.
void calibrate(benchmark::State& state) {
    const index keys = state.range(0), codewords = state.range(1), channels = 64, batch = 2 * codewords;
    std::mt19937 engine(1);
    std::normal_distribution<double> normal;
    Eigen::MatrixXd centres(codewords / 2, channels), x(keys, channels);
    for (double& c : centres.reshaped()) c = normal(engine);
    for (index n = 0; n < keys; ++n) {
        const auto centre = static_cast<Eigen::Index>(engine() % static_cast<unsigned>(centres.rows()));
        for (index c = 0; c < channels; ++c) x(n, c) = centres(centre, c) + 0.5 * normal(engine);
    }
    const auto metric = rw::make_plain_metric(channels);
    double objective[2] = {};
    const auto train = [&](index of, double& to) {
        to = rw::make_codebook<float>(x, metric, {.codewords = codewords, .tolerance = 0, .batch = of})
                 .objective;
    };
    bench::compare(state, {.roof = {},
                           .contenders = {{"kernel", [&] { train(batch, objective[0]); }},
                                          {"all_keys", [&] { train(0, objective[1]); }}}});
    state.counters["objective_over_all_keys"] = objective[0] / objective[1];
}

BENCHMARK(calibrate)
    ->Name("compression/codebook/f32/dim:64/steps:300/keys_codewords")
    ->Args({10000, 512})
    ->UseManualTime()
    ->Iterations(3);

}  // namespace
