// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Multi-head latent attention at DeepSeek's sizes of a head, the hidden state small so that its projections
// do not hide what is measured. Decode: one absorbed step beside one pass over the cached rows. Prefill: the
// chosen form beside the naive reading and beside each of the two forms (above 1: the choice is faster).

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <ropewalk/compression/latent_attention.hpp>

#include "support/measure.hpp"

namespace {

using namespace ropewalk;
using ropewalk::index;
using layer = latent_attention<float>;

mla::config sizes(index heads) { return {.hidden = 64, .heads = heads, .query_rank = 0}; }

layer::matrix normal(index rows, index columns) {
    static std::mt19937 engine(1);
    std::normal_distribution<float> draw(0, 0.1f);
    return layer::matrix::NullaryExpr(rows, columns, [&] { return draw(engine); });
}

layer make_layer(const mla::config& c) {
    latent_weights<float> w;
    w.wq = normal(c.heads * (c.nope_dim + c.rope_dim), c.hidden);
    w.wkv_a = normal(c.latent + c.rope_dim, c.hidden);
    w.key_norm.assign(static_cast<std::size_t>(c.latent), 1.f);
    w.wkv_b = normal(c.heads * (c.nope_dim + c.value_dim), c.latent);
    return layer(c, std::move(w));
}

template <class E>
void decode(benchmark::State& state) {
    const auto heads = static_cast<index>(state.range(0)), tokens = static_cast<index>(state.range(1));
    const mla::config c = sizes(heads);
    layer attention = make_layer(c);
    latent_cache<E> cache(c);
    attention.append(normal(tokens, c.hidden), cache);
    const index width = cache.width();
    const auto absorbed = normal(1, heads * width);
    std::vector<float> out(static_cast<std::size_t>(heads * c.latent));
    // As integers: codes and 16-bit numbers read as floats would be near-denormal.
    const auto* const words = reinterpret_cast<const std::uint64_t*>(cache.keys().data);
    const index count = tokens * width * static_cast<index>(sizeof(E)) / 8;
    const auto read_once = [&] {
        std::uint64_t sum = 0;
        for (index i = 0; i < count; ++i) sum += words[i];
        benchmark::DoNotOptimize(sum);
    };
    bench::compare(
        state,
        {.bytes = static_cast<double>(tokens * width) * sizeof(E),
         .roof = {},
         .contenders = {{"kernel", [&] { attention.attend(absorbed.data(), cache, tokens, out.data()); }},
                        {"read_once", read_once}}});
    const double products = static_cast<double>(heads * tokens * (width + c.latent));
    state.counters["multiply_adds_per_ns"] = products / state.counters["kernel_ns"];
}

void prefill(benchmark::State& state) {
    const auto cached = static_cast<index>(state.range(0)), tokens = static_cast<index>(state.range(1));
    const mla::config c = sizes(16);
    const layer attention = make_layer(c);
    latent_cache<float> cache(c);
    attention.append(normal(cached, c.hidden), cache);
    const auto x = normal(tokens, c.hidden);
    const auto through = [&](auto&& call) {
        return [&, call] {
            benchmark::DoNotOptimize(call());
            cache.erase(cached, tokens);
        };
    };
    bench::compare(
        state,
        {.contenders = {
             {"kernel", through([&] { return attention.forward(x, cache); })},
             {"naive", through([&] { return attention.forward_naive(x, cache); })},
             {"absorbed", through([&] { return attention.forward(x, cache, latent_form::absorbed); })},
             {"expanded", through([&] { return attention.forward(x, cache, latent_form::expanded); })}}});
    state.counters["expanded"] = cheaper_form(c, cached, tokens) == latent_form::expanded;
}

BENCHMARK(decode<float>)
    ->Name("compression/latent_attention/f32/heads/tokens")
    ->ArgsProduct({{1, 16, 128}, {4096}})
    ->UseManualTime()
    ->Iterations(bench::turns);
BENCHMARK(decode<bf16>)
    ->Name("compression/latent_attention/bf16/heads/tokens")
    ->ArgsProduct({{16, 128}, {4096}})
    ->UseManualTime()
    ->Iterations(bench::turns);
BENCHMARK(decode<f8_e4m3>)
    ->Name("compression/latent_attention/e4m3/heads/tokens")
    ->ArgsProduct({{16, 128}, {4096}})
    ->UseManualTime()
    ->Iterations(bench::turns);
BENCHMARK(prefill)
    ->Name("compression/latent_prefill/f32/heads:16/cached/tokens")
    ->Args({0, 128})
    ->Args({0, 512})
    ->Args({0, 1024})
    ->Args({2048, 1})
    ->Args({2048, 64})
    ->Args({2048, 128})
    ->Args({2048, 256})
    ->Args({2048, 512})
    ->UseManualTime()
    ->Iterations(9);

}  // namespace
