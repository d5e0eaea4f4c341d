// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Norm and rotation in one pass, beside the norm by itself (the same vector loop) followed by rotate.
// unfused_over_kernel: how many times longer the two passes take.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index q_heads = 32, k_heads = 8, dim = 128;

template <class T>
void fused_case(benchmark::State& state, rw::index tokens, rw::norm_extent extent) {
    auto q = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * q_heads * dim), 1);
    auto k = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * k_heads * dim), 2);
    const rw::heads_view<T> qv(q.data(), tokens, q_heads, dim), kv(k.data(), tokens, k_heads, dim);
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = dim}), 8192,
                                    {.max_rows = 8192});
    std::vector<std::int32_t> positions;
    for (rw::index n = 0; n < tokens; ++n)
        positions.push_back(static_cast<std::int32_t>((n * 5077 + 5000) % 8192));
    const auto rows = table.rows(positions);
    const rw::rotation_table<float> no_pairs(tokens, 1, 0);
    const bool whole = extent == rw::norm_extent::token;
    const rw::head_norm<float> norm_q({.heads = q_heads, .channels = dim, .extent = extent},
                                      std::vector<float>(std::size_t(whole ? q_heads * dim : dim), 1));
    const rw::head_norm<float> norm_k({.heads = k_heads, .channels = dim, .extent = extent},
                                      std::vector<float>(std::size_t(whole ? k_heads * dim : dim), 1));
    bench::compare(
        state,
        {.bytes = 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(T)),
         .roof = [&] { bench::roof_pass(q), bench::roof_pass(k); },
         .contenders = {
             {"kernel", [&] { rw::normalize_and_rotate(rw::half_split{}, qv, kv, norm_q, norm_k, rows); }},
             {"unfused", [&] {
                  rw::normalize_and_rotate(rw::half_split{}, qv, kv, norm_q, norm_k, no_pairs,
                                           {.untouched = rw::untouched_tokens::normalised});
                  rw::rotate(rw::half_split{}, qv, kv, rows);
              }}}});
    if (!bench::still_normal(q)) state.SkipWithError("the data left their range");
}

template <class T>
void add(rw::norm_extent extent, const char* name) {
    for (rw::index tokens : {1, 512, 4096})
        benchmark::RegisterBenchmark(
            ("normalize_and_rotate/half_split/" + std::string(bench::dtype_name<T>()) + "/" + name +
             "/tokens:" + std::to_string(tokens) + "/q_heads:32/k_heads:8/dim:128")
                .c_str(),
            [=](benchmark::State& state) { fused_case<T>(state, tokens, extent); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}
const int registered = [] {
    add<float>(rw::norm_extent::head, "head");
    add<rw::bf16>(rw::norm_extent::head, "head");
    add<float>(rw::norm_extent::token, "token");
    return 0;
}();

}  // namespace
