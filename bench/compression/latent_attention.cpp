// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// One decode step of absorbed multi-head latent attention at DeepSeek-V3's sizes, against one pass over the
// cached rows: every row is read from memory once for all 128 heads, so the rest is arithmetic.

#include <random>

#include <benchmark/benchmark.h>

#include <ropewalk/compression/latent_attention.hpp>
#include <ropewalk/core/simd_permute.hpp>

#include "support/measure.hpp"

namespace {

using namespace ropewalk;
using ropewalk::index;

void decode(benchmark::State& state) {
    const auto heads = static_cast<index>(state.range(0)), tokens = static_cast<index>(state.range(1));
    const mla::config c{.heads = heads};
    const index width = mla::cached_channels(c);
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    const auto noise = [&](index count) {
        std::vector<float> x(static_cast<std::size_t>(count));
        for (float& v : x) v = normal(engine);
        return x;
    };
    latent_cache<float> cache(c);
    const auto raw = noise(tokens * width), norm = noise(c.latent), absorbed = noise(heads * width);
    cache.append(raw.data(), tokens, norm);
    row_attention<float> attention({.heads = heads, .key_channels = width, .value_channels = c.latent});
    std::vector<float> out(static_cast<std::size_t>(heads * c.latent));
    const float* const rows = cache.keys().data;
    const auto read_once = [&] {
        constexpr index n = simd::lanes<float>;
        auto a = simd::broadcast(0.0f), b = a;
        for (index i = 0; i + 2 * n <= tokens * width; i += 2 * n) {
            a = a + simd::load(rows + i);
            b = b + simd::load(rows + i + n);
        }
        benchmark::DoNotOptimize(simd::sum_lanes(a + b));
    };
    bench::compare(state, {.bytes = static_cast<double>(tokens * width) * sizeof(float),
                           .roof = {},
                           .contenders = {{"kernel",
                                           [&] {
                                               attention.attend(
                                                   heads_view<const float>(absorbed.data(), 1, heads, width),
                                                   cache.keys(), cache.latents(),
                                                   heads_view<float>(out.data(), 1, heads, c.latent),
                                                   {.scale = mla::softmax_scale(c), .count = tokens});
                                           }},
                                          {"read_once", read_once}}});
    const double products = static_cast<double>(heads * tokens * (width + c.latent));
    state.counters["multiply_adds_per_ns"] = products / state.counters["kernel_ns"];
}

BENCHMARK(decode)
    ->Name("compression/latent_attention/f32/heads/tokens")
    ->ArgsProduct({{1, 16, 128}, {4096}})
    ->UseManualTime()
    ->Iterations(bench::turns);

}  // namespace
