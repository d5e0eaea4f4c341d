// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/backpropagate.hpp>

#include <cmath>
#include <string>

#include <ropewalk/path/prefill.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
using rw::index;

/// The backward pass beside the forward one, of the same block.
void backward(benchmark::State& state, index tokens, index heads, index kv_heads, index channels,
              index block) {
    const auto count = [](index a, index b) { return static_cast<std::size_t>(a * b); };
    auto q = bench::normal_numbers<float>(count(tokens, heads * channels), 1), d_out = q;
    auto k = bench::normal_numbers<float>(count(tokens, kv_heads * channels), 2), w = k;
    auto v = bench::normal_numbers<float>(count(tokens, kv_heads * channels), 3);
    for (auto row = w.begin(); row != w.end(); row += channels) {
        float sum = 0;
        for (auto x = row; x != row + channels; ++x) sum += *x * *x;
        for (auto x = row; x != row + channels; ++x) *x /= std::sqrt(sum);
    }
    std::vector<float> beta(count(tokens, kv_heads), 1.2f), log_weight(count(tokens, heads)),
        d_beta(beta.size());
    auto out = q, dq = q, dk = k, dv = k, dw = k;
    const auto wide = [&](auto& x) { return rw::heads_view<float>(x.data(), tokens, heads, channels); };
    const auto narrow = [&](auto& x) { return rw::heads_view<float>(x.data(), tokens, kv_heads, channels); };
    const rw::path::attend_options<float> options{.block = block, .log_weight = log_weight};
    std::vector<std::byte> memory(
        static_cast<std::size_t>(rw::path::backpropagate_workspace(wide(q), narrow(k), narrow(v), options)));
    const auto forward = [&] {
        rw::path::attend(wide(q), narrow(k), narrow(v), narrow(w), beta, wide(out), options);
    };
    forward();
    bench::compare(
        state, {.roof = {},
                .contenders = {{"kernel",
                                [&] {
                                    rw::path::backpropagate(
                                        rw::attention::gradient_tensors{wide(q), narrow(k), narrow(v),
                                                                        wide(out), wide(d_out),
                                                                        std::span<const float>(log_weight),
                                                                        wide(dq), narrow(dk), narrow(dv)},
                                        {narrow(w), beta, narrow(dw),
                                         rw::heads_view<float>(d_beta.data(), tokens, kv_heads, 1)},
                                        memory, options);
                                }},
                               {"forward", forward}}});
    state.counters["forwards"] = 1 / static_cast<double>(state.counters["forward_over_kernel"]);
    state.counters["workspace_per_q"] =
        static_cast<double>(memory.size()) / static_cast<double>(q.size() * sizeof(float));
}

const bool added = [] {
    for (const auto& [tokens, heads, kv_heads, channels, block] :
         {std::tuple<index, index, index, index, index>{1024, 1, 1, 64, 64},
          {1024, 4, 1, 64, 64},
          {1024, 2, 2, 128, 64},
          {1024, 2, 2, 128, 128},
          {4096, 1, 1, 64, 64},
          {256, 4, 4, 64, 64}}) {
        const std::string name = "path/backpropagate/f32/tokens:" + std::to_string(tokens) +
                                 "/q_heads:" + std::to_string(heads) +
                                 "/k_heads:" + std::to_string(kv_heads) + "/dim:" + std::to_string(channels) +
                                 "/block:" + std::to_string(block);
        benchmark::RegisterBenchmark(
            name.c_str(),
            [=](benchmark::State& state) { backward(state, tokens, heads, kv_heads, channels, block); })
            ->UseManualTime()
            ->Iterations(5);
    }
    return true;
}();

}  // namespace
