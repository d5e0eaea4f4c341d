// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The operator beside ggml's own, in graphs of ggml's CPU backend: every mode, type, direction and place, parts of
// heads, scaling, views with gaps, threads. Then both are timed, alternately.
//     ggml_op [--time]
#include <ggml-backend.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "rope.hpp"

namespace {

using rw::ggml::rope_mode;

/// A graph of one or more rotations of one tensor, on some threads of the CPU backend.
class engine {
  public:
    engine() {
        ggml_backend_load_all();
        backend_ = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
        GGML_ASSERT(backend_ != nullptr);
        const auto device = ggml_backend_get_device(backend_);
        set_threads_ = reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
        GGML_ASSERT(set_threads_ != nullptr);
    }
    ~engine() { ggml_backend_free(backend_); }
    engine(const engine&) = delete;
    engine& operator=(const engine&) = delete;

    void run(ggml_cgraph* graph, int threads) {
        set_threads_(backend_, threads);
        GGML_ASSERT(ggml_backend_graph_compute(backend_, graph) == GGML_STATUS_SUCCESS);
    }

  private:
    ggml_backend_t backend_ = nullptr;
    ggml_backend_set_n_threads_t set_threads_ = nullptr;
};

/// Memory of tensors and graphs, gone with its scope.
struct memory {
    ggml_context* context;
    explicit memory(std::size_t bytes) : context(ggml_init({bytes, nullptr, false})) {}
    ~memory() { ggml_free(context); }
    memory(const memory&) = delete;
    memory& operator=(const memory&) = delete;
};

struct rotation {
    rw::ggml::rope_ext p;
    ggml_type type = GGML_TYPE_F32;
    bool backward = false, in_place = false;
};

/// ggml's own operator for the same.
ggml_tensor* own(ggml_context* c, const rotation& r, ggml_tensor* x, ggml_tensor* at, ggml_tensor* factors) {
    const auto& p = r.p;
    const int dims = static_cast<int>(p.n_dims), mode = static_cast<int>(p.mode);
    int sections[4];
    std::copy(p.sections.begin(), p.sections.end(), sections);
    if (rw::ggml::is_multi(p.mode)) {
        const auto call = r.backward   ? ggml_rope_multi_back
                          : r.in_place ? ggml_rope_multi_inplace
                                       : ggml_rope_multi;
        return call(c, x, at, factors, dims, sections, mode, p.n_ctx_orig, p.freq_base, p.freq_scale,
                    p.ext_factor, p.attn_factor, p.beta_fast, p.beta_slow);
    }
    const auto call = r.backward ? ggml_rope_ext_back : r.in_place ? ggml_rope_ext_inplace : ggml_rope_ext;
    return call(c, x, at, factors, dims, mode, p.n_ctx_orig, p.freq_base, p.freq_scale, p.ext_factor,
                p.attn_factor, p.beta_fast, p.beta_slow);
}

float number(const ggml_tensor* x, std::int64_t c, std::int64_t h, std::int64_t t, std::int64_t b) {
    const char* at = static_cast<const char*>(x->data) + c * std::int64_t(x->nb[0]) +
                     h * std::int64_t(x->nb[1]) + t * std::int64_t(x->nb[2]) + b * std::int64_t(x->nb[3]);
    if (x->type == GGML_TYPE_F32) return *reinterpret_cast<const float*>(at);
    return ggml_fp16_to_fp32(*reinterpret_cast<const ggml_fp16_t*>(at));
}

void fill(ggml_tensor* x, std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < ggml_nelements(x); ++i) {
        const float value = normal(random);
        if (x->type == GGML_TYPE_F32)
            static_cast<float*>(x->data)[i] = value;
        else
            static_cast<ggml_fp16_t*>(x->data)[i] = ggml_fp32_to_fp16(value);
    }
}

/// Channels of a head: vision rotates all of them.
rw::index channels_of(const rw::ggml::rope_ext& p) {
    return p.mode == rope_mode::vision ? 2 * p.n_dims : 128;
}

/// The largest difference of the two operators on heads of 128 channels in a wider tensor, over all numbers.
double difference(engine& cpu, const rotation& r, int threads) {
    constexpr std::int64_t heads = 3, tokens = 5, batches = 2;
    const std::int64_t channels = channels_of(r.p);
    memory of(16 << 20);
    std::mt19937 random(7);
    ggml_tensor* const wide = ggml_new_tensor_4d(of.context, r.type, channels, heads + 2, tokens, batches);
    fill(wide, random);
    ggml_tensor* const copy = ggml_dup_tensor(of.context, wide);
    std::memcpy(copy->data, wide->data, ggml_nbytes(wide));
    const std::int64_t axes = rw::ggml::is_multi(r.p.mode) ? 4 : 1;
    ggml_tensor* const at = ggml_new_tensor_1d(of.context, GGML_TYPE_I32, axes * tokens);
    for (std::int64_t i = 0; i < axes * tokens; ++i)
        static_cast<std::int32_t*>(at->data)[i] = static_cast<std::int32_t>(random() % 100);
    ggml_tensor* factors = nullptr;
    if (!r.p.freq_factors.empty()) {
        factors = ggml_new_tensor_1d(of.context, GGML_TYPE_F32, std::int64_t(r.p.freq_factors.size()));
        std::copy(r.p.freq_factors.begin(), r.p.freq_factors.end(), static_cast<float*>(factors->data));
    }
    const auto heads_of = [&](ggml_tensor* x) {  // without the first and the last
        return ggml_view_4d(of.context, x, channels, heads, tokens, batches, x->nb[1], x->nb[2], x->nb[3],
                            x->nb[1]);
    };
    rope_op op(r.p, r.backward ? rope_op::backward : rope_op::forward);
    ggml_tensor* const theirs = own(of.context, r, heads_of(wide), at, factors);
    ggml_tensor* const ours =
        r.in_place ? op.in_place(of.context, heads_of(copy), at) : op(of.context, heads_of(copy), at);
    ggml_cgraph* const graph = ggml_new_graph(of.context);
    ggml_build_forward_expand(graph, theirs);
    ggml_build_forward_expand(graph, ours);
    cpu.run(graph, threads);
    double most = 0;
    const auto compare = [&](const ggml_tensor* a, const ggml_tensor* b) {
        for (std::int64_t n = 0; n < b->ne[3]; ++n)
            for (std::int64_t t = 0; t < b->ne[2]; ++t)
                for (std::int64_t h = 0; h < b->ne[1]; ++h)
                    for (std::int64_t c = 0; c < b->ne[0]; ++c) {
                        const double d =
                            std::abs(double(number(a, c, h, t, n)) - double(number(b, c, h, t, n)));
                        most = std::isfinite(d) ? std::max(most, d) : INFINITY;
                    }
    };
    compare(theirs, ours);
    compare(wide, copy);  // heads beside the view, and what is out of place, are as they were
    return most;
}

/// Every mode, type, direction and place under every scaling and section; the cases that differ by too much.
int compare_all(engine& cpu) {
    const float yarn_scale = 0.25f;
    std::vector<rw::ggml::rope_ext> cases;
    for (const auto mode :
         {rope_mode::normal, rope_mode::neox, rope_mode::mrope, rope_mode::vision, rope_mode::imrope})
        for (const rw::index dims : {128, 64, 32})
            for (const auto& sections : {std::array<rw::index, 4>{16, 24, 24, 0},
                                         {42, 42, 42, 0},
                                         {24, 20, 20, 0},
                                         {8, 4, 4, 0},
                                         {3, 2, 2, 1}})
                for (const int scaling : {0, 1, 2, 3, 4}) {
                    rw::ggml::rope_ext p{.n_dims = dims,
                                         .mode = mode,
                                         .sections = sections,
                                         .read = rw::ggml::reading::literal};
                    const bool fit =
                        sections[0] + sections[1] + sections[2] <= channels_of(p);  // ggml insists
                    if (rw::ggml::is_multi(mode) ? !fit : sections[0] != 16) continue;
                    if (scaling >= 1) p.freq_scale = yarn_scale, p.attn_factor = 1.25f;
                    if (scaling >= 2) p.ext_factor = 1, p.n_ctx_orig = 4096;
                    if (scaling == 3) p.n_ctx_orig = 0, p.ext_factor = 0.7465f;  // as ggml's own test has it
                    if (scaling == 4)
                        for (rw::index i = 0; i < p.pairs(); ++i)
                            p.freq_factors.push_back(1 + 0.05f * static_cast<float>(i));
                    cases.push_back(p);
                }
    int wrong = 0;
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16}) {
        double most = 0;
        int count = 0;
        for (const auto& p : cases)
            for (const int kind : {0, 1, 2}) {
                const rotation r{.p = p, .type = type, .backward = kind == 1, .in_place = kind == 2};
                const double off = difference(cpu, r, 1 + count++ % 2);
                // ggml's angles are products of floats; numbers are below 5 and the magnitude below 1.5.
                if (off > (type == GGML_TYPE_F32 ? 1e-4 : 4.1e-3)) {
                    ++wrong;
                    std::printf(
                        "mode %d, %td dims, sections %td %td %td %td, scale %g, ext %g, %s: off by %g\n",
                        int(p.mode), p.n_dims, p.sections[0], p.sections[1], p.sections[2], p.sections[3],
                        double(p.freq_scale), double(p.ext_factor),
                        kind == 1   ? "backward"
                        : kind == 2 ? "in place"
                                    : "forward",
                        off);
                }
                most = std::max(most, off);
            }
        std::printf("%s: %d cases, largest difference %.1e\n", ggml_type_name(type), count, most);
    }
    return wrong;
}

/// Times 32 heads of 128 channels, alternately: prints the median of ours, and of ggml's own over it. Layers of a
/// step share their memory as they do in an engine, so that a token stands in the first cache.
void time_both(engine& cpu, const rotation& r, std::int64_t tokens) {
    const int layers = tokens == 1 ? 32 : 1, samples = tokens == 1 ? 500 : tokens == 512 ? 60 : 15;
    memory of(std::size_t(tokens) * 4 * 32 * 128 * sizeof(float) + (16 << 20));
    ggml_tensor* const at = ggml_new_tensor_1d(of.context, GGML_TYPE_I32, tokens);
    for (std::int64_t i = 0; i < tokens; ++i)
        static_cast<std::int32_t*>(at->data)[i] = static_cast<std::int32_t>(i + 1000);
    rope_op op(r.p);
    std::mt19937 random(1);
    std::array<ggml_cgraph*, 2> graphs{};
    for (std::size_t who = 0; who < 2; ++who) {
        graphs[who] = ggml_new_graph(of.context);
        ggml_tensor* const x = ggml_new_tensor_3d(of.context, r.type, 128, 32, tokens);
        fill(x, random);
        ggml_tensor* first = nullptr;
        for (int layer = 0; layer < layers; ++layer) {
            ggml_tensor* const y = who == 0     ? own(of.context, r, x, at, nullptr)
                                   : r.in_place ? op.in_place(of.context, x, at)
                                                : op(of.context, x, at);
            if (layer == 0) first = y;
            y->data = first->data;
            ggml_build_forward_expand(graphs[who], y);
        }
    }
    std::vector<double> ratios, ours;
    for (int sample = 0; sample < samples; ++sample) {
        double took[2];
        for (std::size_t who = 0; who < 2; ++who) {
            const auto start = std::chrono::steady_clock::now();
            cpu.run(graphs[who], 1);
            const std::chrono::duration<double, std::micro> passed = std::chrono::steady_clock::now() - start;
            took[who] = passed.count() / layers;
        }
        ratios.push_back(took[0] / took[1]);
        ours.push_back(took[1]);
    }
    const auto median = [](std::vector<double>& x) {
        std::nth_element(x.begin(), x.begin() + std::ptrdiff_t(x.size() / 2), x.end());
        return x[x.size() / 2];
    };
    std::printf("%s %-12s %4td tokens: %8.2f us, ggml's own takes %.1f times as long\n",
                ggml_type_name(r.type), r.in_place ? "in place" : "out of place", std::ptrdiff_t(tokens),
                median(ours), median(ratios));
}

}  // namespace

int main(int count, char** arguments) {
    engine cpu;
    const int wrong = compare_all(cpu);
    const rw::ggml::rope_ext neox{.n_dims = 128, .mode = rope_mode::neox, .freq_base = 5e5f};
    if (count > 1 && std::strcmp(arguments[1], "--time") == 0)
        for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16})
            for (const bool in_place : {false, true})
                for (const std::int64_t tokens : {1, 512, 4096})
                    time_both(cpu, {.p = neox, .type = type, .in_place = in_place}, tokens);
    return wrong == 0 ? 0 : 1;
}
