// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <cmath>
#include <random>
#include <string>

#include <ropewalk/path/householder.hpp>
#include <ropewalk/path/prefill.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;

template <class T>
std::vector<T> noise(index count, unsigned seed, double centre = 0) {
    std::mt19937 engine(seed);
    std::vector<T> x;
    for (index i = 0; i < count; ++i)
        x.push_back(T(static_cast<float>(centre + static_cast<double>(engine()) / 2147483648.0 - 1.0)));
    return x;
}
template <class T>
std::vector<T> unit_rows(index rows, index channels) {
    auto x = noise<T>(rows * channels, 5);
    for (index r = 0; r < rows; ++r) {
        double sum = 0;
        for (index c = 0; c < channels; ++c)
            sum += std::pow(static_cast<double>(x[static_cast<std::size_t>(r * channels + c)]), 2);
        for (index c = 0; c < channels; ++c)
            x[static_cast<std::size_t>(r * channels + c)] /= static_cast<T>(std::sqrt(sum));
    }
    return x;
}

/// Update and scores of one decode step beside a pass that reads and writes the key cache once (k *= 1).
template <class K>
void decode_step(benchmark::State& state, bool heads_first, index tokens, index heads, index channels) {
    constexpr index kv_heads = 8;
    std::vector<K> keys = noise<K>(tokens * kv_heads * channels, 1);
    const auto w = unit_rows<float>(kv_heads, channels), q = noise<float>(heads * channels, 2);
    const std::vector<float> beta(kv_heads,
                                  2.f);  // reflections: the keys keep their size over any number of calls
    std::vector<float> scores(static_cast<std::size_t>(heads * tokens));
    const rw::heads_shape shape{1, tokens, kv_heads, channels};
    const auto view = heads_first ? rw::heads_view<K>::heads_first(keys.data(), shape)
                                  : rw::heads_view<K>(keys.data(), shape);
    const rw::heads_view<const float> queries(q.data(), 1, heads, channels);
    const rw::path::step_transform<float> step{{w.data(), 1, kv_heads, channels}, beta};
    volatile float one = 1;
    const auto pass = [&] {
        const auto factor = rw::simd::broadcast<float>(one);
        for (index i = 0; i + rw::simd::lanes<float> <= static_cast<index>(keys.size());
             i += rw::simd::lanes<float>)
            rw::simd::store(keys.data() + i, rw::simd::load(static_cast<const K*>(keys.data() + i)) * factor);
    };
    bench::compare(
        state,
        {.bytes = 2.0 * static_cast<double>(keys.size() * sizeof(K)),
         .roof = pass,
         .contenders = {{"kernel", [&] { rw::path::update_keys_and_score(view, step, queries, scores); }}}});
}

/// Blockwise prefill of one head beside the definition and beside decode steps over the whole prompt.
void prefill(benchmark::State& state, index tokens, index channels, index block) {
    const auto q = noise<float>(tokens * channels, 1), k = noise<float>(tokens * channels, 2),
               v = noise<float>(tokens * channels, 3);
    const auto w = unit_rows<float>(tokens, channels), beta = noise<float>(tokens, 4, 1);
    std::vector<float> out(q.size()), keys = k, scores(static_cast<std::size_t>(tokens));
    const auto view = [&](const std::vector<float>& x) {
        return rw::heads_view<const float>(x.data(), tokens, 1, channels);
    };
    const rw::heads_view<float> o(out.data(), tokens, 1, channels), cache(keys.data(), tokens, 1, channels);
    const auto blockwise = [&] {
        rw::path::attend(view(q), view(k), view(v), view(w), beta, o, {.block = block});
    };
    const auto naive = [&] { rw::path::attend_naive(view(q), view(k), view(v), view(w), beta, o); };
    const auto steps = [&] {
        for (index t = 1; t < tokens; ++t)
            rw::path::update_keys_and_score(
                cache.token_slice(0, t),
                {view(w).token_slice(t, 1), std::span(beta).subspan(static_cast<std::size_t>(t), 1)},
                view(q).token_slice(t, 1), scores);
    };
    bench::compare(state, {.roof = {},
                           .contenders = {{"kernel", blockwise}, {"naive", naive}, {"decode_steps", steps}}});
}

template <class K>
void add_decode(const char* type) {
    for (bool heads_first : {true, false})
        for (index heads : {8, 32})
            for (index tokens : {1000, 30000})
                benchmark::RegisterBenchmark(
                    ("path/decode/" + std::string(type) + (heads_first ? "/heads_first" : "/tokens_first") +
                     "/tokens:" + std::to_string(tokens) + "/q_heads:" + std::to_string(heads) +
                     "/k_heads:8/dim:64")
                        .c_str(),
                    [=](benchmark::State& state) { decode_step<K>(state, heads_first, tokens, heads, 64); })
                    ->UseManualTime()
                    ->Iterations(bench::turns);
}
const bool added = [] {
    add_decode<float>("f32");
    add_decode<rw::bf16>("bf16");
    for (index block : {16, 32, 64, 128}) {
        const std::string name = "path/prefill/f32/tokens:1024/dim:64/block:" + std::to_string(block);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) { prefill(state, 1024, 64, block); })
            ->UseManualTime()
            ->Iterations(5);
    }
    return true;
}();

}  // namespace
