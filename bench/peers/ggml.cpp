// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// ggml's rope: a graph of two in-place nodes, one thread, what an engine built on it computes a layer.
#include <ggml-cpu.h>
#include <ggml.h>

#include "peers/peer.hpp"

namespace {

namespace rw = ropewalk;

/// q and k as ggml's tensors over our memory, and the graph that ropes both.
template <class Layout, class T>
class ggml_work {
  public:
    using layout = Layout;
    using element = T;

    explicit ggml_work(peers::layer<T>& x) : x_(x) {
        constexpr ggml_type type = std::is_same_v<T, float> ? GGML_TYPE_F32 : GGML_TYPE_F16;
        constexpr int mode =
            std::is_same_v<Layout, rw::half_split> ? GGML_ROPE_TYPE_NEOX : GGML_ROPE_TYPE_NORMAL;
        context_ = ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = true});
        ggml_tensor* const at = ggml_new_tensor_1d(context_, GGML_TYPE_I32, x.tokens);
        at->data = x.positions.data();
        graph_ = ggml_new_graph(context_);
        for (const auto& [data, heads] :
             {std::pair(x.q.data(), peers::q_heads), std::pair(x.k.data(), peers::k_heads)}) {
            ggml_tensor* const from = ggml_new_tensor_3d(context_, type, peers::dim, heads, x.tokens);
            from->data = data;
            ggml_tensor* const to =
                ggml_rope_ext_inplace(context_, from, at, nullptr, peers::dim, mode, 0,
                                      static_cast<float>(peers::base), 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
            to->data = data;
            ggml_build_forward_expand(graph_, to);
        }
        // Without one of its own, every call would make and free a pool of threads.
        ggml_threadpool_params threads = ggml_threadpool_params_default(1);
        pool_ = ggml_threadpool_new(&threads);
        plan_ = ggml_graph_plan(graph_, 1, pool_);
        buffer_.resize(plan_.work_size + 64);
        plan_.work_data = buffer_.data();
    }
    ~ggml_work() {
        ggml_threadpool_free(pool_);
        ggml_free(context_);
    }
    ggml_work(const ggml_work&) = delete;
    ggml_work& operator=(const ggml_work&) = delete;

    void run() { ggml_graph_compute(graph_, &plan_); }
    const T* q() const { return x_.q.data(); }
    const T* k() const { return x_.k.data(); }

  private:
    peers::layer<T>& x_;
    ggml_context* context_ = nullptr;
    ggml_cgraph* graph_ = nullptr;
    ggml_threadpool* pool_ = nullptr;
    ggml_cplan plan_{};
    std::vector<std::uint8_t> buffer_;
};

// Its angle is a product of floats made by a recurrence: up to 3e-3 off at position 8191, times the numbers.
const int registered = [] {
    const peers::description ggml{.name = "ggml", .version = BENCH_PEER_VERSION, .most_apart = 2e-2};
    peers::add<ggml_work<rw::half_split, float>>(ggml);
    peers::add<ggml_work<rw::interleaved, float>>(ggml);
    peers::add<ggml_work<rw::half_split, rw::f16>>({ggml.name, ggml.version, 3e-2});
    return 0;
}();

}  // namespace
