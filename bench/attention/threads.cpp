// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Attention on one thread and on two that take a part each: the time of one over that of the slower of the two
// (one_over_kernel, bound 1.8 on two cores). By the threads' own CPU clocks, so that other work on the machine
// does not count and a split that is uneven or slowed down by shared memory does.

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include <ropewalk/attention/tiled.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
namespace attention = ropewalk::attention;

void two_threads(benchmark::State& state, rw::index tokens) {
    constexpr rw::index heads = 8, channels = 128;
    const auto count = static_cast<std::size_t>(tokens * heads * channels);
    const auto q = bench::normal_numbers<float>(count, 1), k = bench::normal_numbers<float>(count, 2),
               v = bench::normal_numbers<float>(count, 3);
    bench::tensor<float> out(count);
    const auto view = [&](const bench::tensor<float>& x) {
        return rw::heads_view<const float>(x.data(), tokens, heads, channels);
    };
    const rw::heads_view<float> to(out.data(), tokens, heads, channels);
    const auto bytes = static_cast<std::size_t>(attention::attend_workspace(view(q), view(k), view(v)));
    bench::tensor<std::byte> room[2] = {bench::tensor<std::byte>(bytes), bench::tensor<std::byte>(bytes)};
    const auto run = [&](rw::index part, rw::index parts) {
        attention::attend(attention::causal_mask{}, view(q), view(k), view(v), to,
                          std::span<std::byte>(room[part]), {.part = {parts, part}});
    };
    const auto timed = [&](rw::index part, rw::index parts) {
        const double start = bench::thread_ns();
        run(part, parts);
        return bench::thread_ns() - start;
    };
    std::vector<double> ratios;
    for (auto _ : state) {
        const double one = timed(0, 1);
        double second = 0;
        std::thread other([&] { second = timed(1, 2); });
        const double first = timed(0, 2);
        other.join();
        ratios.push_back(one / std::max(first, second));
        state.SetIterationTime(1e-9 * std::max(first, second));
    }
    state.counters["one_over_kernel"] = bench::median(ratios);
}

const int registered = [] {
    for (const rw::index tokens : {1024, 4096})
        benchmark::RegisterBenchmark(("tiled/two_threads/" + std::to_string(tokens) + "/causal/f32").c_str(),
                                     [=](benchmark::State& s) { two_threads(s, tokens); })
            ->UseManualTime()
            ->Iterations(9);
    return 0;
}();

}  // namespace
