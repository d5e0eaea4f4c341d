// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotate_into against a copy of the same bytes and against rotate in place of as many numbers: the call of engines
// whose rotation has an output tensor of its own.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

#include <cstring>
#include <numeric>

#include "support/measure.hpp"
#include "support/worst_error.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 40, dim = 128;

template <class Layout, class S, class D>
void into_case(benchmark::State& state, rw::index tokens) {
    const auto size = static_cast<std::size_t>(tokens * heads * dim);
    auto from = bench::normal_numbers<S>(size, 1);
    auto in_place = bench::normal_numbers<D>(size, 1);
    rw::detail::aligned_vector<D> to(size);
    rw::position_table<rw::compute_t<D>> table(rw::frequencies::geometric({.rotary_dim = dim}), 8192);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
    std::iota(positions.begin(), positions.end(), tokens == 1 ? 5000 : 0);
    const auto rows = table.rows(positions);
    const rw::heads_view<S> source(from.data(), tokens, heads, dim);
    const rw::heads_view<D> target(to.data(), tokens, heads, dim), same(in_place.data(), tokens, heads, dim);
    bench::compare(state,
                   {.bytes = static_cast<double>(size * (sizeof(S) + sizeof(D))),
                    .roof = {},
                    .contenders = {{"kernel", [&] { rw::rotate_into(Layout{}, source, target, rows); }},
                                   {"memcpy",
                                    [&] {
                                        std::memcpy(static_cast<void*>(to.data()),
                                                    static_cast<const void*>(from.data()),
                                                    size * std::min(sizeof(S), sizeof(D)));
                                        benchmark::ClobberMemory();
                                    }},
                                   {"in_place", [&] { rw::rotate(Layout{}, same, rows); }}}});
    rw::rotate_into(Layout{}, source, target, rows);
    state.counters["worst_error"] = bench::worst_error(
        Layout{}, bench::as_f64(from.data(), size), bench::as_f64(to.data(), size), heads, dim,
        rw::make_rotation_table<double>(table.frequencies(), rw::position_ids::from(positions)));
}

template <class Layout, class S, class D>
void add(const std::string& name) {
    for (rw::index tokens : {1, 512, 4096})
        benchmark::RegisterBenchmark(("rotate_into/" + name + "/tokens:" + std::to_string(tokens)).c_str(),
                                     [=](benchmark::State& state) { into_case<Layout, S, D>(state, tokens); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}
const int registered = [] {
    add<rw::half_split, float, float>("half_split/f32");
    add<rw::interleaved, float, float>("interleaved/f32");
    add<rw::half_split, rw::bf16, rw::bf16>("half_split/bf16");
    add<rw::half_split, rw::f16, rw::f16>("half_split/f16");
    add<rw::half_split, float, rw::bf16>("half_split/f32_to_bf16");
    return 0;
}();

}  // namespace
