// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// XNNPACK's rope operators over [tokens, heads, dim], in place, without a thread pool. Half-split is all they
// have, and each is given the rows of its tokens: gathering them is not timed.
#include <stdexcept>

#include <xnnpack.h>

#include "peers/peer.hpp"

namespace {

namespace rw = ropewalk;

class xnnpack_work {
  public:
    using layout = rw::half_split;
    using element = float;

    explicit xnnpack_work(peers::layer<float>& x) : x_(x) {
        succeed(xnn_initialize(nullptr));
        for (const std::int32_t position : x.positions) {
            const auto cos = x.angles.cos_row(position), sin = x.angles.sin_row(position);
            rows_.insert(rows_.end(), cos.begin(), cos.end());
            rows_.insert(rows_.end(), sin.begin(), sin.end());
        }
        make(q_rope_, x.q.data(), peers::q_heads);
        make(k_rope_, x.k.data(), peers::k_heads);
    }
    ~xnnpack_work() {
        xnn_delete_operator(q_rope_);
        xnn_delete_operator(k_rope_);
    }
    xnnpack_work(const xnnpack_work&) = delete;
    xnnpack_work& operator=(const xnnpack_work&) = delete;

    void run() {
        xnn_run_operator(q_rope_, nullptr);
        xnn_run_operator(k_rope_, nullptr);
    }
    const float* q() const { return x_.q.data(); }
    const float* k() const { return x_.k.data(); }

  private:
    static void succeed(xnn_status status) {
        if (status != xnn_status_success)
            throw std::runtime_error("status " + std::to_string(static_cast<int>(status)));
    }
    void make(xnn_operator_t& rope, float* data, rw::index heads) {
        succeed(xnn_create_rope_nthc_f32(0, &rope));
        succeed(xnn_reshape_rope_nthc_f32(rope, 1, static_cast<std::size_t>(x_.tokens),
                                          static_cast<std::size_t>(heads), peers::dim, nullptr));
        succeed(xnn_setup_rope_nthc_f32(rope, data, rows_.data(), data));
    }

    peers::layer<float>& x_;
    bench::tensor<float> rows_;  // [tokens, cos and sin of the pairs]
    xnn_operator_t q_rope_ = nullptr, k_rope_ = nullptr;
};

const int registered = [] {
    peers::add<xnnpack_work>({.name = "xnnpack", .version = BENCH_PEER_VERSION, .most_apart = 1e-5});
    return 0;
}();

}  // namespace
