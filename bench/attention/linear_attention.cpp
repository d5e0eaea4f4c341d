// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Causal linear attention of several heads beside Eigen's products of the same operations (queries times
// state, keys times values, and inside chunks of 64 tokens scores and their values), and beside causal
// softmax attention of the same tokens.
//     product_over_kernel: 1 is the speed of the products; softmax_over_kernel: above 1 linear is faster.

#include <string>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using rw::index;

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
void prefill(benchmark::State& state, index tokens, index channels) {
    constexpr index heads = 8, chunk = 64;
    const auto count = static_cast<std::size_t>(tokens * heads * channels);
    auto q = bench::normal_numbers<T>(count, 1), k = bench::normal_numbers<T>(count, 2),
         v = bench::normal_numbers<T>(count, 3), out = v;
    const auto view = [&](auto& x) { return rw::heads_view(x.data(), tokens, heads, channels); };
    const auto seen = [&](const auto& x) {
        return rw::heads_view<const T>(x.data(), tokens, heads, channels);
    };
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = channels}),
                                               rw::position_ids::text(tokens));
    const matrix queries = matrix::Random(tokens, channels), keys = matrix::Random(tokens, channels),
                 few = matrix::Random(chunk, channels);
    matrix sums(channels, channels), to(tokens, channels), scores(tokens, chunk);
    bench::tensor<std::byte> workspace(
        static_cast<std::size_t>(attention::attend_workspace(seen(q), seen(k), seen(v))));
    const auto products = [&] {
        for (index h = 0; h < heads; ++h) {
            sums.noalias() = keys.transpose() * queries;
            to.noalias() = queries * sums;
            scores.noalias() = queries * few.transpose();
            to.noalias() += scores * few;
            benchmark::DoNotOptimize(to.data());
        }
    };
    bench::compare(state, {.contenders = {{"kernel",
                                           [&] {
                                               attention::fill_linear_attention<T>(
                                                   rw::half_split{}, attention::causality::causal,
                                                   {seen(q), seen(k), seen(v), view(out)}, table);
                                           }},
                                          {"product", products},
                                          {"softmax", [&] {
                                               attention::attend(attention::causal_mask{}, seen(q), seen(k),
                                                                 seen(v), view(out),
                                                                 std::span<std::byte>(workspace));
                                           }}}});
}

const int registered = [] {
    for (const index tokens : {512, 2048})
        for (const index channels : {64, 128}) {
            const std::string name = "linear_attention/causal/tokens:" + std::to_string(tokens) +
                                     "/channels:" + std::to_string(channels);
            benchmark::RegisterBenchmark((name + "/f32").c_str(),
                                         [=](benchmark::State& s) { prefill<float>(s, tokens, channels); })
                ->UseManualTime()
                ->Iterations(bench::turns);
            benchmark::RegisterBenchmark((name + "/bf16").c_str(),
                                         [=](benchmark::State& s) { prefill<rw::bf16>(s, tokens, channels); })
                ->UseManualTime()
                ->Iterations(bench::turns);
        }
    return 0;
}();

}  // namespace
