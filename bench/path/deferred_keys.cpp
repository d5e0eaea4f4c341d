// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/deferred_keys.hpp>

#include <cmath>
#include <string>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;

constexpr index kv_heads = 8, block = 256;

/// A decode step in the middle of a block (a token appended, its scores), beside a pass that reads and writes the
/// key cache once, and beside update_keys_and_score, which is such a pass. The write of the cache at the end of a
/// block is timed by itself; x_roof_with_settle has its share of a step.
template <class K>
void step(benchmark::State& state, bool heads_first, index tokens, index heads, index channels) {
    auto keys = bench::normal_numbers<K>(static_cast<std::size_t>((tokens + block) * kv_heads * channels));
    const auto q = bench::normal_numbers<float>(static_cast<std::size_t>(heads * channels), 2),
               k = bench::normal_numbers<float>(static_cast<std::size_t>(kv_heads * channels), 3);
    auto w = k;
    for (index h = 0; h < kv_heads; ++h) {
        float sum = 0;
        for (index c = 0; c < channels; ++c) sum += w.data()[h * channels + c] * w.data()[h * channels + c];
        for (index c = 0; c < channels; ++c) w.data()[h * channels + c] /= std::sqrt(sum);
    }
    const std::vector<float> beta(kv_heads, 2.f);  // reflections: the keys keep their size
    std::vector<float> scores(static_cast<std::size_t>(heads * (tokens + block)));
    const rw::heads_shape shape{1, tokens + block, kv_heads, channels};
    const auto view = heads_first ? rw::heads_view<K>::heads_first(keys.data(), shape)
                                  : rw::heads_view<K>(keys.data(), shape);
    const rw::heads_view<const float> queries(q.data(), 1, heads, channels),
        key(k.data(), 1, kv_heads, channels);
    const rw::path::step_transform<float> transform{{w.data(), 1, kv_heads, channels}, beta};
    rw::path::deferred_keys<K> cache(
        {.kv_heads = kv_heads, .channels = channels, .block = block, .heads = heads});
    cache.start_at(tokens);
    for (index n = 0; n < block / 2; ++n) cache.append(view, key, transform);
    const auto half_full = cache;
    const auto one = [&] {
        if (cache.tokens() - cache.stored() >= block * 5 / 8) cache = half_full;
        cache.append(view, key, transform);
        cache.fill_scores({view.data, view.shape, view.strides}, queries,
                          std::span(scores).first(static_cast<std::size_t>(heads * cache.tokens())));
    };
    const auto settle = [&] {
        cache.start_at(tokens);
        cache.append(view, key, transform);
        cache.settle(view);
    };
    const auto eager = [&] {
        rw::path::update_keys_and_score(view.token_slice(0, tokens), transform, queries, scores);
    };
    const auto roof = [&] { bench::roof_pass(keys); };
    bench::compare(state, {.bytes = 2.0 * static_cast<double>(keys.size() * sizeof(K)),
                           .roof = roof,
                           .contenders = {{"kernel", one}, {"settle", settle}, {"eager", eager}}});
    const double x = static_cast<double>(state.counters["x_roof"]);
    state.counters["x_roof_with_settle"] =
        x * (1 + static_cast<double>(state.counters["settle_over_kernel"]) / static_cast<double>(block));
}

template <class K>
void add(const char* type) {
    for (bool heads_first : {true, false})
        for (index heads : {8, 32})
            for (index tokens : {1000, 30000})
                benchmark::RegisterBenchmark(
                    ("path/deferred/" + std::string(type) + (heads_first ? "/heads_first" : "/tokens_first") +
                     "/tokens:" + std::to_string(tokens) + "/q_heads:" + std::to_string(heads) +
                     "/k_heads:8/dim:64")
                        .c_str(),
                    [=](benchmark::State& state) { step<K>(state, heads_first, tokens, heads, 64); })
                    ->UseManualTime()
                    ->Iterations(bench::turns);
}
const bool added = [] {
    add<float>("f32");
    add<rw::bf16>("bf16");
    return true;
}();

}  // namespace
