// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// The search for elite pairs, and the rotation of packed heads (every head its own frequencies) against a
// partial rotation of the same width (one table for all heads); and a decode step over an elite cache beside
// one over full keys and values (full_over_kernel above 1: the elite cache is faster).

#include <random>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <ropewalk/compression/elite_attention.hpp>
#include <ropewalk/compression/row_attention.hpp>
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

/// Eight sequences of one head. layer_minutes: what twelve rounds over 2000 sequences of 32 heads take at the
/// kernel's time a candidate.
void search(benchmark::State& state) {
    const auto tokens = static_cast<index>(state.range(0)), dim = static_cast<index>(state.range(1)),
               rounds = static_cast<index>(state.range(2)), queries = static_cast<index>(state.range(3));
    constexpr index sequences = 8;
    const heads_shape shape{.batches = sequences, .tokens = tokens, .heads = 1, .channels = dim};
    const auto q = noise(sequences * tokens * dim, 1), k = noise(sequences * tokens * dim, 2);
    const std::vector<double> wide_q(q.begin(), q.end()), wide_k(k.begin(), k.end());
    const auto omega = frequencies::geometric({.rotary_dim = dim});
    const auto rank = [&](const auto& a, const auto& b) {
        benchmark::DoNotOptimize(make_elite_ranking(heads_view(a.data(), shape), heads_view(b.data(), shape),
                                                    omega, {.rounds = rounds, .queries = queries}));
    };
    bench::compare(state,
                   {.contenders = {{"kernel", [&] { rank(q, k); }}, {"f64", [&] { rank(wide_q, wide_k); }}}});
    const auto candidates = [&](index of) {  // of all rounds
        double sum = 0;
        for (index r = 0; r < of; ++r) sum += static_cast<double>(dim / 2 - r);
        return sum;
    };
    state.counters["layer_minutes"] = state.counters["kernel_ns"] / static_cast<double>(sequences) /
                                      candidates(rounds) * candidates(12) * 2000 * 32 / 6e10;
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

template <class E>
void decode(benchmark::State& state) {
    constexpr index heads = 32, dim = 128, hidden = 64;
    const auto tokens = static_cast<index>(state.range(0)), count = static_cast<index>(state.range(1)),
               latent = static_cast<index>(state.range(2));
    std::vector<index> elite;
    for (index h = 0; h < heads; ++h)
        for (index i = 0; i < count; ++i) elite.push_back(i);
    elite_weights<float> w{.layout = elite_layout(elite, heads, dim)};
    const auto fill = [](auto& m, index rows, index cols, unsigned seed) {
        const auto x = noise(rows * cols, seed);
        m = Eigen::Map<const elite_weights<float>::matrix>(x.data(), rows, cols) * 0.1f;
    };
    fill(w.queries, heads * dim, hidden, 1), fill(w.rope_keys, heads * 2 * count, hidden, 2);
    fill(w.down, latent, hidden, 3), fill(w.up_keys, heads * (dim - 2 * count), latent, 4);
    fill(w.up_values, heads * dim, latent, 5);
    const double ratio = elite_cache_ratio(w.layout, latent);
    elite_attention<float> layer(std::move(w), frequencies::geometric({.rotary_dim = dim}));
    auto cache = layer.template make_cache<E>();
    {
        const auto raw = noise(tokens * cache.width(), 6);
        cache.append(raw.data(), tokens);
    }
    const auto absorbed = noise(heads * (latent + 2 * count), 7), q = noise(heads * dim, 8);
    const auto k = bench::normal_numbers<E>(static_cast<std::size_t>(tokens * heads * dim), 9);
    std::vector<float> latents(static_cast<std::size_t>(heads * latent)),
        out(static_cast<std::size_t>(heads * dim));
    const auto v = k;
    const heads_view<const E> keys(k.data(), tokens, heads, dim), values(v.data(), tokens, heads, dim);
    const heads_view<const float> query(q.data(), 1, heads, dim);
    row_attention<float> rows({.heads = heads, .key_channels = dim, .value_channels = dim});
    std::vector<std::byte> workspace(
        static_cast<std::size_t>(attention::attend_workspace(query, keys, values)));
    const heads_view<float> to(out.data(), 1, heads, dim);
    bench::compare(
        state, {.contenders = {
                    {"kernel", [&] { layer.attend(absorbed.data(), cache, tokens, latents.data()); }},
                    {"full", [&] { rows.attend(query, keys, values, to, {.scale = 0.1, .count = tokens}); }},
                    {"full_tiled", [&] {
                         attention::attend(attention::full_mask{}, query, keys, values, to,
                                           std::span(workspace));
                     }}}});
    state.counters["cache_ratio"] = ratio;
}

/// Tokens, pairs of 64 that rotate, and the latent's width: half of the full cache's bytes, and a quarter.
void decode_cases(benchmark::internal::Benchmark* cases) {
    for (const auto& [elite, latent] : {std::pair{24, 2560}, {32, 2048}, {48, 1024}, {56, 512}, {8, 1536}})
        cases->Args({8192, elite, latent});
    cases->UseManualTime()->Iterations(7);
}
BENCHMARK(decode<float>)
    ->Name("cache/elite_decode/f32/heads:32/dim:128/tokens/elite/latent")
    ->Apply(decode_cases);
BENCHMARK(decode<bf16>)
    ->Name("cache/elite_decode/bf16/heads:32/dim:128/tokens/elite/latent")
    ->Apply(decode_cases);
BENCHMARK(search)
    ->Name("cache/elite_search/f32/tokens/dim/rounds/queries")
    ->Args({512, 64, 16, 0})
    ->Args({2048, 128, 1, 0})
    ->Args({2048, 128, 1, 64})
    ->Args({2048, 128, 1, 16})
    ->UseManualTime()
    ->Iterations(7);
BENCHMARK(rotation)
    ->Name("cache/elite_rotate/f32/heads:32/dim:128/elite:12/tokens")
    ->Arg(1)
    ->Arg(512)
    ->UseManualTime()
    ->Iterations(bench::turns);

}  // namespace
