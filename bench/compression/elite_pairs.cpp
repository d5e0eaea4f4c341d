// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// The search for elite pairs, and the rotation of packed heads (every head its own frequencies) against a
// partial rotation of the same width (one table for all heads).

#include <random>

#include <benchmark/benchmark.h>

#include <ropewalk/compression/elite_layout.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/measure.hpp"

namespace {

using namespace ropewalk;
using ropewalk::index;

std::vector<float> noise(index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& v : x) v = normal(engine);
    return x;
}

void search(benchmark::State& state) {
    const auto tokens = static_cast<index>(state.range(0)), dim = static_cast<index>(state.range(1));
    const auto q = noise(tokens * dim, 1), k = noise(tokens * dim, 2);
    const auto omega = frequencies::geometric({.rotary_dim = dim});
    for (auto _ : state)
        benchmark::DoNotOptimize(make_elite_ranking(heads_view(q.data(), tokens, 1, dim),
                                                    heads_view(k.data(), tokens, 1, dim), omega,
                                                    {.rounds = static_cast<index>(state.range(2))}));
}

void rotation(benchmark::State& state) {
    const auto tokens = static_cast<index>(state.range(0));
    constexpr index heads = 32, dim = 128, count = 12;
    std::vector<index> elite;
    for (index h = 0; h < heads; ++h)
        for (index i = 0; i < count; ++i) elite.push_back((i * 5 + h) % 64);
    const auto omega = frequencies::geometric({.rotary_dim = dim});
    const elite_layout layout(elite, heads, dim);
    const auto packed = layout.scheme(omega, heads);
    const auto partial = make_fixed_scheme({.head_dim = dim, .first_channel = dim - 2 * count},
                                           frequencies::geometric({.rotary_dim = 2 * count}));
    const auto where = position_ids::text(tokens);
    const auto own = make_rotation_table(packed.spectrum_for(1), where);
    const auto shared = make_rotation_table(partial.spectrum_for(1), where);
    auto x = noise(tokens * heads * dim, 3), y = x;
    bench::compare(
        state,
        {.roof = {},
         .contenders = {
             {"kernel", [&] { rotate(packed, heads_view(x.data(), tokens, heads, dim), own); }},
             {"partial", [&] { rotate(partial, heads_view(y.data(), tokens, heads, dim), shared); }}}});
}

BENCHMARK(search)
    ->Name("cache/elite_search/tokens/dim/rounds")
    ->Args({512, 64, 16})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(rotation)
    ->Name("cache/elite_rotate/f32/heads:32/dim:128/elite:12/tokens")
    ->Arg(1)
    ->Arg(512)
    ->UseManualTime()
    ->Iterations(bench::turns);

}  // namespace
