// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// oneDNN has no rope; this is what composing it from three of its primitives a tensor gets: the swapped
// halves (concat of strided halves), times sines of which the first half is negated, and x * cos with that
// as its post-op. (Binary primitives over the strided halves themselves run in its reference loops and take
// hundreds of times as long as these.) The rows of cos and sin are gathered beforehand.
#include <dlfcn.h>

#include <unordered_map>
#include <utility>

#include <oneapi/dnnl/dnnl.hpp>

#include "peers/peer.hpp"

namespace {

namespace rw = ropewalk;
using dnnl::memory;

class onednn_work {
  public:
    using layout = rw::half_split;
    using element = float;

    explicit onednn_work(peers::layer<float>& x) : x_(x), swapped_(x.q.size()) {
        // Its threads are those of whichever OpenMP it was built with, if any; it has no setting of its own.
        if (void* const limit = dlsym(RTLD_DEFAULT, "omp_set_num_threads"))
            reinterpret_cast<void (*)(int)>(limit)(1);
        for (const std::int32_t position : x.positions) {
            const auto cos = x.angles.cos_row(position), sin = x.angles.sin_row(position);
            for (int half = 0; half < 2; ++half) cos_.insert(cos_.end(), cos.begin(), cos.end());
            for (const float s : sin) sin_.push_back(-s);
            sin_.insert(sin_.end(), sin.begin(), sin.end());
        }
        compose(x.q.data(), peers::q_heads);
        compose(x.k.data(), peers::k_heads);
    }

    void run() {
        for (const auto& [primitive, memories] : steps_) primitive.execute(stream_, memories);
        stream_.wait();
    }
    const float* q() const { return x_.q.data(); }
    const float* k() const { return x_.k.data(); }

  private:
    using arguments = std::unordered_map<int, memory>;

    void compose(float* data, rw::index heads) {
        const auto f32 = memory::data_type::f32;
        const memory::dims strides{heads * peers::dim, peers::dim, 1};
        const memory::desc all({x_.tokens, heads, peers::dim}, f32, strides);
        const memory::desc half({x_.tokens, heads, peers::pairs}, f32, strides);
        const memory::desc row({x_.tokens, 1, peers::dim}, f32, memory::dims{peers::dim, peers::dim, 1});
        const auto over = [&](const memory::desc& shape, float* at) { return memory(shape, engine_, at); };
        const memory x = over(all, data), swapped = over(all, swapped_.data());

        constexpr int channels = 2;  // the axis
        steps_.emplace_back(dnnl::concat(dnnl::concat::primitive_desc(engine_, all, channels, {half, half})),
                            arguments{{DNNL_ARG_MULTIPLE_SRC, over(half, data + peers::pairs)},
                                      {DNNL_ARG_MULTIPLE_SRC + 1, over(half, data)},
                                      {DNNL_ARG_DST, swapped}});
        const auto times = dnnl::algorithm::binary_mul;
        steps_.emplace_back(dnnl::binary(dnnl::binary::primitive_desc(engine_, times, all, row, all)),
                            arguments{{DNNL_ARG_SRC_0, swapped},
                                      {DNNL_ARG_SRC_1, over(row, sin_.data())},
                                      {DNNL_ARG_DST, swapped}});
        dnnl::post_ops then;
        then.append_binary(dnnl::algorithm::binary_add, all);
        dnnl::primitive_attr and_add;
        and_add.set_post_ops(then);
        steps_.emplace_back(
            dnnl::binary(dnnl::binary::primitive_desc(engine_, times, all, row, all, and_add)),
            arguments{{DNNL_ARG_SRC_0, x},
                      {DNNL_ARG_SRC_1, over(row, cos_.data())},
                      {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, swapped},
                      {DNNL_ARG_DST, x}});
    }

    dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream_{engine_};
    peers::layer<float>& x_;
    bench::tensor<float> cos_, sin_, swapped_;
    std::vector<std::pair<dnnl::primitive, arguments>> steps_;
};

std::string version() {
    const dnnl_version_t* const v = dnnl_version();
    return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

const int registered = [] {
    peers::add<onednn_work>({.name = "onednn", .version = version(), .most_apart = 1e-5});
    return 0;
}();

}  // namespace
