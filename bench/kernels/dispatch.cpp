// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What the run-time dispatch costs: the same rotation of one head by a direct call and through the unit of
// these flags. dispatch_ns: the difference of a call.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <string>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

#define BENCH_NAME2(x) #x
#define BENCH_NAME(x) BENCH_NAME2(x)

void dispatch_case(benchmark::State& state, rw::index heads) {
    auto x = bench::normal_numbers<float>(static_cast<std::size_t>(heads * 128));
    const auto table = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 128}),
                                               rw::position_ids::text(1, 5000));
    const auto rows = table.rows();
    const rw::heads_view<float> view(x.data(), 1, heads, 128);
    const bool same_unit = ropewalk_use_unit(BENCH_NAME(ROPEWALK_ISA)) == ROPEWALK_OK;
    const auto call = rw::dispatch::make_rotate_call(rw::half_split{}, view, rows);
    bench::compare(
        state,
        {.bytes = 2.0 * static_cast<double>(x.size() * sizeof(float)),
         .roof = [&] { bench::roof_pass(x); },
         .contenders = {{"kernel", [&] { benchmark::DoNotOptimize(rw::dispatch::run(call)); }},
                        {"direct", [&] { rw::rotate(rw::pair_layout(rw::half_split{}), view, rows); }}}});
    const double dispatch = state.counters["kernel_ns"];
    state.counters["dispatch_ns"] = dispatch - dispatch * state.counters["direct_over_kernel"];
    state.SetLabel(std::string(ropewalk_unit()) + (same_unit ? "" : ", another unit than the direct call's"));
}

const int registered = [] {
    for (rw::index heads : {1, 40})
        benchmark::RegisterBenchmark(
            ("dispatch/half_split/f32/tokens:1/heads:" + std::to_string(heads) + "/dim:128").c_str(),
            [=](benchmark::State& state) { dispatch_case(state, heads); })
            ->UseManualTime()
            ->Iterations(4 * bench::turns);
    return 0;
}();

}  // namespace
