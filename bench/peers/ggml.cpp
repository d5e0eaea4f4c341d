// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// ggml's rope over the same queries and keys in the same run: a graph of two in-place nodes, one thread, what
// an engine built on it computes a layer. Checked against rotate before it is timed.
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cmath>

#include <ggml-cpu.h>
#include <ggml.h>

#include "support/measure.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index q_heads = 32, k_heads = 8, dim = 128;

/// q and k [tokens, heads, dim] as ggml's tensors over our memory, and the graph that ropes both.
class ggml_work {
  public:
    ggml_work(ggml_type type, void* q, void* k, std::vector<std::int32_t>& positions, int mode) {
        context_ = ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = true});
        const auto tokens = static_cast<std::int64_t>(positions.size());
        ggml_tensor* const at = ggml_new_tensor_1d(context_, GGML_TYPE_I32, tokens);
        at->data = positions.data();
        graph_ = ggml_new_graph(context_);
        for (const auto& [data, heads] : {std::pair(q, q_heads), std::pair(k, k_heads)}) {
            ggml_tensor* const x = ggml_new_tensor_3d(context_, type, dim, heads, tokens);
            x->data = data;
            ggml_tensor* const y = ggml_rope_ext_inplace(context_, x, at, nullptr, dim, mode, 0, 10000.0f,
                                                         1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
            y->data = data;
            ggml_build_forward_expand(graph_, y);
        }
        plan_ = ggml_graph_plan(graph_, 1, nullptr);
        buffer_.resize(plan_.work_size + 64);
        plan_.work_data = buffer_.data();
    }
    ~ggml_work() { ggml_free(context_); }
    ggml_work(const ggml_work&) = delete;
    ggml_work& operator=(const ggml_work&) = delete;
    void run() { ggml_graph_compute(graph_, &plan_); }

  private:
    ggml_context* context_ = nullptr;
    ggml_cgraph* graph_ = nullptr;
    ggml_cplan plan_{};
    std::vector<std::uint8_t> buffer_;
};

template <class Layout, class T>
void peer_case(benchmark::State& state, rw::index tokens, double most) {
    auto q = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * q_heads * dim), 1);
    auto k = bench::normal_numbers<T>(static_cast<std::size_t>(tokens * k_heads * dim), 2);
    auto their_q = q, their_k = k;
    rw::position_table<float> table(rw::frequencies::geometric({.rotary_dim = dim}), 8192, rw::growth::fixed);
    std::vector<std::int32_t> positions;
    for (rw::index n = 0; n < tokens; ++n)
        positions.push_back(static_cast<std::int32_t>((n * 5077 + 5000) % 8192));
    const auto rows = table.rows(positions);
    const rw::heads_view<T> qv(q.data(), tokens, q_heads, dim), kv(k.data(), tokens, k_heads, dim);
    ggml_work theirs(std::is_same_v<T, float> ? GGML_TYPE_F32 : GGML_TYPE_F16, their_q.data(), their_k.data(),
                     positions,
                     std::is_same_v<Layout, rw::half_split> ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL);
    rw::rotate<Layout>(qv, kv, rows);
    theirs.run();
    double apart = 0;
    for (std::size_t i = 0; i < q.size(); ++i)
        apart = std::max(apart,
                         std::abs(double(static_cast<float>(q[i])) - double(static_cast<float>(their_q[i]))));
    state.counters["ggml_apart"] = apart;
    if (!(apart <= most)) {
        state.SkipWithError("ggml computed something else");
        return;
    }
    bench::compare(state, {.bytes = 2.0 * static_cast<double>((q.size() + k.size()) * sizeof(T)),
                           .roof = [&] { bench::roof_pass(q), bench::roof_pass(k); },
                           .contenders = {{"kernel", [&] { rw::rotate<Layout>(qv, kv, rows); }},
                                          {"ggml", [&] { theirs.run(); }}}});
}

template <class Layout, class T>
void add(const std::string& layout, double most) {
    for (rw::index tokens : {1, 512, 4096})
        benchmark::RegisterBenchmark(
            ("peer_ggml/" + layout + "/" + bench::dtype_name<T>() + "/tokens:" + std::to_string(tokens) +
             "/q_heads:32/k_heads:8/dim:128")
                .c_str(),
            [=](benchmark::State& state) { peer_case<Layout, T>(state, tokens, most); })
            ->UseManualTime()
            ->Iterations(bench::turns);
}
// Its angle is a product of floats made by a recurrence: up to 3e-3 off at position 8191, times the numbers.
const int registered = [] {
    add<rw::half_split, float>("half_split", 2e-2);
    add<rw::interleaved, float>("interleaved", 2e-2);
    add<rw::half_split, rw::f16>("half_split", 3e-2);
    return 0;
}();

}  // namespace
