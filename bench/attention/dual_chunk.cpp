// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Dual chunk attention against plain attention of the same tokens, keys rotated as they are read against keys
// rotated before, and decode over the keys that an indexer chose against as many neighbours.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/sparse_index.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/attention/tiled_dual_chunk.hpp>
#include <ropewalk/attention/tiled_rotated_keys.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include <string>

#include "support/measure.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;

namespace {

constexpr rw::index heads = 4, kv_heads = 2, dim = 128;

template <class T>
struct tensors {
    rw::index queries, keys;
    decltype(bench::normal_numbers<T>(1, 1)) q, k, v, out;

    tensors(rw::index queries_, rw::index keys_) : queries(queries_), keys(keys_) {
        const auto numbers = [](rw::index n, unsigned seed) {
            return bench::normal_numbers<T>(static_cast<std::size_t>(n * dim), seed);
        };
        q = numbers(queries * heads, 1), k = numbers(keys * kv_heads, 2), v = numbers(keys * kv_heads, 3);
        out = q;
    }
    rw::heads_view<const T> q_view() const { return {q.data(), queries, heads, dim}; }
    rw::heads_view<const T> k_view() const { return {k.data(), keys, kv_heads, dim}; }
    rw::heads_view<const T> v_view() const { return {v.data(), keys, kv_heads, dim}; }
    rw::heads_view<T> out_view() { return {out.data(), queries, heads, dim}; }
    std::vector<std::byte> workspace() const {
        return std::vector<std::byte>(
            static_cast<std::size_t>(attention::attend_workspace(q_view(), k_view(), v_view())));
    }
    void plain(std::vector<std::byte>& memory) {
        attention::attend(attention::causal_mask{}, q_view(), k_view(), v_view(), out_view(), memory);
    }
};

template <class T>
void dual_chunk(benchmark::State& state, rw::index queries, rw::index keys, rw::index period) {
    tensors<T> t(queries, keys);
    const rw::dual_chunk chunks({.chunk_size = period + period / 8, .local_size = period / 8});
    const rw::dual_chunk_queries<const T> q{t.q_view(), t.q_view(), t.q_view()};
    auto memory = t.workspace();
    std::vector<std::byte> larger(
        static_cast<std::size_t>(attention::attend_dual_chunk_workspace(q, t.v_view())));
    bench::compare(state, {.roof = {},
                           .contenders = {{"kernel",
                                           [&] {
                                               attention::attend_dual_chunk(attention::causal_mask{}, chunks,
                                                                            q, t.k_view(), t.v_view(),
                                                                            t.out_view(), larger);
                                           }},
                                          {"plain", [&] { t.plain(memory); }}}});
}

void rotated_keys(benchmark::State& state, rw::index queries, rw::index keys) {
    tensors<float> t(queries, keys);
    const auto rows = rw::make_rotation_table<float>(rw::frequencies::geometric({.rotary_dim = dim}),
                                                     rw::position_ids::text(keys));
    auto memory = t.workspace();
    bench::compare(state, {.roof = {},
                           .contenders = {{"kernel",
                                           [&] {
                                               attention::attend_rotating_keys(
                                                   attention::causal_mask{}, rw::half_split{}, t.q_view(),
                                                   t.k_view(), rows, t.v_view(), t.out_view(), memory);
                                           }},
                                          {"rotated_before", [&] { t.plain(memory); }}}});
}

void chosen_rows(benchmark::State& state) {
    constexpr rw::index keys = 16384, count = 2048;
    tensors<float> t(1, keys);
    const auto scores = bench::normal_numbers<float>(keys, 4);
    const auto chosen = rw::sparse_index::select(std::span<const float>(scores), keys,
                                                 rw::sparse_index::visible_tokens(1, keys - 1), count);
    const auto rows = rw::sparse_index::ascending_rows(chosen);
    rw::row_attention<float> decode({.heads = heads, .key_channels = dim, .value_channels = dim});
    const auto run = [&](const std::int32_t* listed) {
        decode.attend(t.q_view(), t.k_view(), t.v_view(), t.out_view(),
                      {.scale = 0.1, .listed = listed, .count = count});
    };
    bench::compare(state, {.roof = {},
                           .contenders = {{"kernel", [&] { run(rows.data()); }},
                                          {"neighbours", [&] { run(nullptr); }}}});
}

const int registered = [] {
    const auto add = [](const std::string& name, auto run) {
        benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Iterations(bench::turns);
    };
    for (const rw::index period : {256, 1024})
        add("dual_chunk/prefill/2048/f32/period:" + std::to_string(period),
            [period](benchmark::State& s) { dual_chunk<float>(s, 2048, 2048, period); });
    add("dual_chunk/decode/8192/bf16", [](benchmark::State& s) { dual_chunk<rw::bf16>(s, 1, 8192, 1024); });
    add("rotated_keys/prefill/2048/f32", [](benchmark::State& s) { rotated_keys(s, 2048, 2048); });
    add("rotated_keys/decode/8192/f32", [](benchmark::State& s) { rotated_keys(s, 1, 8192); });
    add("sparse_index/decode/2048_of_16384/f32", chosen_rows);
    return 0;
}();

}  // namespace
