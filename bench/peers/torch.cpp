// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// libtorch's operators, called eagerly on one thread, compute what the reference implementations write:
// q * cos + rotate_half(q) * sin over [1, heads, tokens, dim], a view of [tokens, heads, dim]. The rows of
// cos and sin are gathered and in the tensors' type beforehand. Source: Hugging Face transformers,
// apply_rotary_pos_emb.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/api/include/torch/version.h>

#include "peers/peer.hpp"

namespace {

namespace rw = ropewalk;

template <class T>
class torch_work {
  public:
    using layout = rw::half_split;
    using element = T;

    explicit torch_work(peers::layer<T>& x) {
        at::set_num_threads(1);
        const at::NoGradGuard no_gradients;
        at::Tensor rows = at::empty({2, 1, 1, x.tokens, peers::dim}, at::kFloat);
        float* to = rows.data_ptr<float>();
        for (const bool sine : {false, true})
            for (const std::int32_t position : x.positions)
                for (int half = 0; half < 2; ++half) {
                    const auto row = sine ? x.angles.sin_row(position) : x.angles.cos_row(position);
                    to = std::copy(row.begin(), row.end(), to);
                }
        cos_ = rows[0].to(type);
        sin_ = rows[1].to(type);
        q_ = heads_first(x.q.data(), x.tokens, peers::q_heads);
        k_ = heads_first(x.k.data(), x.tokens, peers::k_heads);
    }

    void run() {
        const at::NoGradGuard no_gradients;
        rotated_q_ = q_ * cos_ + rotate_half(q_) * sin_;
        rotated_k_ = k_ * cos_ + rotate_half(k_) * sin_;
    }
    const T* q() { return tokens_first(rotated_q_); }
    const T* k() { return tokens_first(rotated_k_); }

  private:
    static constexpr at::ScalarType type = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

    static at::Tensor heads_first(T* data, rw::index tokens, rw::index heads) {
        return at::from_blob(data, {1, tokens, heads, peers::dim}, at::TensorOptions(type)).transpose(1, 2);
    }
    static at::Tensor rotate_half(const at::Tensor& x) {
        return at::cat({-x.slice(-1, peers::pairs), x.slice(-1, 0, peers::pairs)}, -1);
    }
    const T* tokens_first(at::Tensor& x) {
        x = x.transpose(1, 2).contiguous();
        return static_cast<const T*>(x.data_ptr());
    }

    at::Tensor cos_, sin_, q_, k_, rotated_q_, rotated_k_;
};

// In bf16 cos, sin, each product and the sum are rounded, and ours once: seven roundings by half an ulp,
// 2^-9, of numbers of up to 5.5 (the sums: 7.8).
const int registered = [] {
    const peers::description torch{.name = "torch", .version = TORCH_VERSION, .most_apart = 1e-5};
    peers::add<torch_work<float>>(torch);
    peers::add<torch_work<rw::bf16>>({torch.name, torch.version, 8e-2});
    return 0;
}();

}  // namespace
