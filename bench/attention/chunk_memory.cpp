// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Chunked attention with a recurrent memory beside one causal attention over the same tokens of each chunk
// and its memory rows: what is seen, once (bound 1.2). And HiRoPE's banded attention beside plain attention.
//     kernel_over_causal: time over that of the one attention; plain_over_kernel: 1 is the speed of plain.

#include <string>
#include <vector>

#include <ropewalk/attention/banded.hpp>
#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/measure.hpp"

namespace {

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using rw::index;

template <class T>
void chunk(benchmark::State& state, index tokens, index slots) {
    constexpr index heads = 8, channels = 128;
    const auto count = [&](index rows) { return static_cast<std::size_t>(rows * heads * channels); };
    auto q = bench::normal_numbers<T>(count(tokens), 1),
         k = bench::normal_numbers<T>(count(tokens + slots), 2),
         v = bench::normal_numbers<T>(count(tokens + slots), 3), out = q;
    const auto view = [](auto& x, index first, index rows) {
        return rw::heads_view<const T>(x.data() + first * heads * channels, rows, heads, channels);
    };
    const rw::heads_view<T> to(out.data(), tokens, heads, channels);
    const auto omega = rw::frequencies::geometric({.rotary_dim = channels});
    const std::vector<double> logits{0.2, 0.1, -0.3};
    const attention::chunk_config config{.chunk = tokens, .local_window = 64};
    // Memory rows first, so that a causal mask lets every query see them.
    const auto whole_k = view(k, 0, tokens + slots), whole_v = view(v, 0, tokens + slots);
    const auto queries = view(q, 0, tokens);
    bench::tensor<std::byte> workspace(
        static_cast<std::size_t>(attention::attend_workspace(queries, whole_k, whole_v)));
    bench::compare(state, {.contenders = {{"kernel",
                                           [&] {
                                               attention::attend_chunk<T>(config, omega,
                                                                          {.q = queries,
                                                                           .k = view(k, slots, tokens),
                                                                           .v = view(v, slots, tokens),
                                                                           .memory_k = view(k, 0, slots),
                                                                           .memory_v = view(v, 0, slots),
                                                                           .out = to},
                                                                          3, logits);
                                           }},
                                          {"causal", [&] {
                                               attention::attend(attention::causal_mask{}, queries, whole_k,
                                                                 whole_v, to,
                                                                 std::span<std::byte>(workspace));
                                           }}}});
    state.counters["kernel_over_causal"] = 1 / state.counters["causal_over_kernel"];
}

void banded(benchmark::State& state, index tokens, index window) {
    constexpr index heads = 4, channels = 128;
    const auto count = static_cast<std::size_t>(tokens * heads * channels);
    const auto x = bench::normal_numbers<float>(count, 1), y = bench::normal_numbers<float>(count, 2),
               far_x = bench::normal_numbers<float>(count, 3), far_y = bench::normal_numbers<float>(count, 4),
               v = bench::normal_numbers<float>(count, 5);
    auto out = v;
    const auto view = [&](const auto& of) {
        return rw::heads_view<const float>(of.data(), tokens, heads, channels);
    };
    const rw::heads_view<float> to(out.data(), tokens, heads, channels);
    const attention::banded_copies<const float, const float> copies{view(x), view(y), view(far_x),
                                                                    view(far_y)};
    bench::tensor<std::byte> workspace(
        static_cast<std::size_t>(attention::attend_banded_workspace(copies, view(v))));
    const attention::causal_mask mask;
    bench::compare(state, {.contenders = {{"kernel",
                                           [&] {
                                               attention::attend_banded(mask, copies, {.window = window},
                                                                        view(v), to,
                                                                        std::span<std::byte>(workspace));
                                           }},
                                          {"plain", [&] {
                                               attention::attend(mask, view(x), view(y), view(v), to,
                                                                 std::span<std::byte>(workspace));
                                           }}}});
}

const int registered = [] {
    for (const index tokens : {512, 2048}) {
        const std::string name = "chunk_memory/tokens:" + std::to_string(tokens) + "/slots:64";
        benchmark::RegisterBenchmark((name + "/f32").c_str(),
                                     [=](benchmark::State& s) { chunk<float>(s, tokens, 64); })
            ->UseManualTime()
            ->Iterations(bench::turns);
        benchmark::RegisterBenchmark((name + "/bf16").c_str(),
                                     [=](benchmark::State& s) { chunk<rw::bf16>(s, tokens, 64); })
            ->UseManualTime()
            ->Iterations(bench::turns);
    }
    for (const index tokens : {1024, 4096})
        for (const index window : {64, 512})
            benchmark::RegisterBenchmark(
                ("banded/tokens:" + std::to_string(tokens) + "/window:" + std::to_string(window) + "/f32")
                    .c_str(),
                [=](benchmark::State& s) { banded(s, tokens, window); })
                ->UseManualTime()
                ->Iterations(bench::turns);
    return 0;
}();

}  // namespace
