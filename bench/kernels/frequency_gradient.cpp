// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The gradient of learned two-dimensional frequencies beside one pass over the rotated tensor and its
// upstream gradient (x_roof: bound 3).

#include <string>
#include <vector>

#include <ropewalk/kernels/frequency_gradient.hpp>
#include <ropewalk/positions/grid.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;

template <class T>
void gradient(benchmark::State& state, rw::pair_layout layout, index batches, index side) {
    constexpr index heads = 6, channels = 64;
    const rw::heads_shape shape{batches, side * side, heads, channels};
    const auto count = static_cast<std::size_t>(batches * side * side * heads * channels);
    auto x = bench::normal_numbers<T>(count, 1), g = bench::normal_numbers<T>(count, 2);
    const auto where = rw::positions::grid({.height = side, .width = side});
    std::vector<double> omega(static_cast<std::size_t>(heads * 2 * channels / 2));
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(count * sizeof(T)),
                           .roof = [&] { bench::roof_pass(x), bench::roof_pass(g); },
                           .contenders = {{"kernel", [&] {
                                               rw::accumulate_omega_gradient(
                                                   layout, rw::heads_view<const T>(x.data(), shape),
                                                   rw::heads_view<const T>(g.data(), shape), where, omega);
                                           }}}});
}

template <class T>
void add(const std::string& name, rw::pair_layout layout) {
    for (const index batches : {1, 64})
        benchmark::RegisterBenchmark(("frequency_gradient/" + name + "/" + bench::dtype_name<T>() +
                                      "/14x14/batches:" + std::to_string(batches))
                                         .c_str(),
                                     [=](benchmark::State& s) { gradient<T>(s, layout, batches, 14); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}

const int registered = [] {
    add<float>("half_split", rw::half_split{});
    add<rw::bf16>("half_split", rw::half_split{});
    add<float>("interleaved", rw::interleaved{});
    return 0;
}();

}  // namespace
