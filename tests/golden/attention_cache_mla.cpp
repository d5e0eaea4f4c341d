// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// DeepSeek's multi-head latent attention and its decoupled rotation.

#include <ropewalk/compression/latent_attention.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "runner.hpp"

namespace golden {
namespace {

template <class T>
typename latent_weights<T>::matrix matrix_of(const golden_case& c, const std::string& name) {
    const auto t = c.input<T>(name);
    require(t.rank() == 2, name + " must have rank 2");
    return Eigen::Map<const typename latent_weights<T>::matrix>(t.values.data(), t.extent(0), t.extent(1));
}

mla::config sizes_of(const golden_case& c) {
    const mla::config defaults;
    mla::config m;
    m.hidden = c.integer("dim", defaults.hidden);
    m.heads = c.integer("n_heads", defaults.heads);
    m.query_rank = c.integer("q_lora_rank", 0);
    m.latent = c.integer("kv_lora_rank", defaults.latent);
    m.nope_dim = c.integer("qk_nope_head_dim", defaults.nope_dim);
    m.rope_dim = c.integer("qk_rope_head_dim", defaults.rope_dim);
    m.value_dim = c.integer("v_head_dim", defaults.value_dim);
    m.base = c.number("rope_theta", defaults.base);
    m.factor = c.number("rope_factor", defaults.factor);
    m.original_context = c.number("original_seq_len", defaults.original_context);
    m.max_context = c.number("max_seq_len", m.original_context);
    m.beta_fast = c.number("beta_fast", defaults.beta_fast);
    m.beta_slow = c.number("beta_slow", defaults.beta_slow);
    m.mscale = c.number("mscale", defaults.mscale);
    m.rms_epsilon = c.number("rms_eps", defaults.rms_epsilon);
    return m;
}

pair_layout layout_of(const golden_case& c) {
    return c.has("pair_layout") ? c.layout("pair_layout") : pair_layout(interleaved{});
}

template <class T>
void layer(const golden_case& c, results& out) {
    const mla::config m = sizes_of(c);
    latent_weights<T> w;
    if (m.query_rank == 0) {
        w.wq = matrix_of<T>(c, "wq");
    } else {
        w.wq_a = matrix_of<T>(c, "wq_a");
        w.wq_b = matrix_of<T>(c, "wq_b");
        w.query_norm = c.input<T>("q_norm").values;
    }
    w.wkv_a = matrix_of<T>(c, "wkv_a");
    w.wkv_b = matrix_of<T>(c, "wkv_b");
    w.key_norm = c.input<T>("kv_norm").values;
    latent_attention<T> attention(m, w, c.number("softmax_scale", mla::softmax_scale(m)));
    const auto x = matrix_of<T>(c, "x");
    const index tokens = x.rows(), width = mla::cached_channels(m);

    latent_cache<T> cache(m), naive_cache(m);
    std::vector<T> scores(static_cast<std::size_t>(m.heads * tokens * tokens));
    const auto o = attention.forward(x, cache);
    const auto naive = attention.forward_naive(x, naive_cache, std::span<T>(scores));
    const auto queries = attention.make_queries(x, 0);
    const auto absorbed = attention.make_absorbed(queries);
    const auto sliced = [](const T* data, index rows, index stride, index first, index count) {
        std::vector<T> values;
        for (index r = 0; r < rows; ++r)
            values.insert(values.end(), data + r * stride + first, data + r * stride + first + count);
        return values;
    };
    const double scale = max_abs(c.input("x").values);
    const auto check = [&](const std::string& name, const shape_type& shape, const std::vector<T>& values) {
        if constexpr (std::is_same_v<T, double>) {
            out.check(name, shape, values);
        } else {
            out.check_f32(name, shape, values, scale);
        }
    };
    const T* const cached = cache.keys().data;
    check("c_kv", {tokens, m.latent}, sliced(cached, tokens, width, 0, m.latent));
    check("k_pe", {tokens, m.rope_dim}, sliced(cached, tokens, width, m.latent, m.rope_dim));
    check("q_pe", {tokens, m.heads, m.rope_dim},
          sliced(queries.data(), tokens * m.heads, m.nope_dim + m.rope_dim, m.nope_dim, m.rope_dim));
    check("q_absorbed", {tokens, m.heads, m.latent},
          sliced(absorbed.data(), tokens * m.heads, width, 0, m.latent));
    check("scores", {m.heads, tokens, tokens}, scores);
    for (const auto* result : {&o, &naive})
        check("o", {tokens, m.heads, m.value_dim},
              std::vector<T>(result->data(), result->data() + result->size()));
    if constexpr (std::is_same_v<T, double>)
        out.check_scalar("kv_cache_floats_per_token", static_cast<double>(cache.width()));
}

void attention(const golden_case& c, results& out) {
    require(layout_of(c) == pair_layout(interleaved{}),
            "config.pair_layout: latent attention pairs its channels interleaved, as DeepSeek does");
    layer<double>(c, out);
    layer<float>(c, out);
}

void decoupled(const golden_case& c, results& out) {
    const mla::config m = sizes_of(c);
    const spectrum omega = mla::make_spectrum(m);
    out.check("inv_freq_f64", omega.omegas());
    out.check_scalar("softmax_scale", mla::softmax_scale(m));
    const auto where = position_ids::from(c.numbers("positions"));
    const auto run = [&]<class T>(T, const rotary_scheme& rope, const std::string& suffix) {
        auto q = c.input<T>("q_pe"), k = c.input<T>("k_pe");
        const auto rows = make_rotation_table<T>(omega, where);
        require_fits(rope, view_of(q), rows);
        require_fits(rope, view_of(k), rows);
        rotate(rope, view_of(q), view_of(k), rows);
        for (const auto& [name, t] : {std::pair("q_pe", &q), std::pair("k_pe", &k)}) {
            const double scale = max_abs(c.input(name).values);
            if constexpr (std::is_same_v<T, double>) {
                out.check(name + suffix, t->shape, t->values);
            } else {
                if (c.has_output(name + suffix)) out.check_f32(name + suffix, t->shape, t->values, scale);
                if (suffix == "_f64") out.check(name + std::string("_f32"), *t);  // the official f32 numbers
            }
        }
    };
    rotary_scheme own = mla::make_scheme(m), half = mla::make_half_split_scheme(m);
    own.read_layout = own.write_layout = half.read_layout = layout_of(c);
    run(double{}, own, "_f64");
    run(float{}, own, "_f64");
    run(double{}, half, "_halfsplit_f64");
    run(float{}, half, "_halfsplit_f64");
}

const registration r1{"DeepSeek MLA attention", attention};
const registration r2{"DeepSeek MLA decoupled RoPE", decoupled};

}  // namespace
}  // namespace golden
