// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Building rows: what a table of 64 pairs costs a row, beside libm in f32 and the roof over the same bytes.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

void table_build(benchmark::State& state) {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 128});
    constexpr rw::index rows = 512, pairs = 64;
    bench::tensor<float> values(static_cast<std::size_t>(rows * 2 * pairs));
    std::vector<float> omega(static_cast<std::size_t>(pairs));
    for (rw::index i = 0; i < pairs; ++i)
        omega[static_cast<std::size_t>(i)] = static_cast<float>(rope.omega(i));
    const auto build = [&] {
        for (rw::index r = 0; r < rows; ++r)
            rw::fill_cos_sin(static_cast<double>(r + 100000), rope.turns_data().data(), 1.0, pairs,
                             values.data() + r * 2 * pairs, values.data() + r * 2 * pairs + pairs);
    };
    const auto libm = [&] {
        for (rw::index r = 0; r < rows; ++r)
            for (rw::index i = 0; i < pairs; ++i) {
                const float angle = static_cast<float>(r + 100000) * omega[static_cast<std::size_t>(i)];
                values[static_cast<std::size_t>(r * 2 * pairs + i)] = std::cos(angle);
                values[static_cast<std::size_t>(r * 2 * pairs + pairs + i)] = std::sin(angle);
            }
    };
    bench::compare(state, {.bytes = static_cast<double>(values.size() * sizeof(float)),
                           .roof = [&] { bench::roof_pass(values); },
                           .contenders = {{"kernel", build}, {"libm_f32", libm}}});
    state.counters["ns_a_row"] = state.counters["kernel_ns"] / static_cast<double>(rows);
}
BENCHMARK(table_build)->Name("table_build/pairs:64")->UseManualTime()->Iterations(bench::turns);

}  // namespace
