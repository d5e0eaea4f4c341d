// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// PaTH attention, and how its w and beta come about.

#include <ropewalk/path/generation.hpp>
#include <ropewalk/path/prefill.hpp>

#include "runner.hpp"

namespace golden {
namespace {

template <class T>
void attend_in(const golden_case& c, auto&& check) {
    auto q = c.input<T>("q"), k = c.input<T>("k"), v = c.input<T>("v"), w = c.input<T>("w");
    const auto beta = c.input<T>("beta");
    const auto gate = c.has_input("g_log") ? c.input<T>("g_log") : tensor<T>{};
    const heads_view<T> qv = view_of(q), kv = view_of(k), vv = view_of(v), wv = view_of(w);
    shape_type out_shape = q.shape;
    out_shape.back() = vv.channels();
    std::vector<T> out(static_cast<std::size_t>(qv.batches() * qv.tokens() * qv.heads() * vv.channels()));
    shape_type logit_shape{qv.heads(), qv.tokens(), qv.tokens()};
    if (q.rank() == 4) logit_shape.insert(logit_shape.begin(), qv.batches());
    std::vector<T> logits(static_cast<std::size_t>(qv.batches() * qv.heads() * qv.tokens() * qv.tokens()));
    path::attend_options<T> options{.block = c.integer("chunk_size", 64), .logits = logits};
    if (c.has("scale")) options.scale = c.number("scale");
    if (c.flag("use_forget_gate", c.has_input("g_log"))) options.log_gate = gate.values;
    heads_shape of_out = qv.shape;
    of_out.channels = vv.channels();
    path::attend(qv, kv, vv, wv, beta.values, heads_view<T>(out.data(), of_out), options);
    check("o", out_shape, out, max_abs(v.values));
    check("logits", logit_shape, logits, max_abs(logits));
    std::vector<T> cache(k.values.size());
    path::fill_key_cache(kv, wv, beta.values, heads_view<T>(cache.data(), kv.shape), options);
    check("k_cache", k.shape, cache, max_abs(k.values));
}

void attention(const golden_case& c, results& out) {
    attend_in<double>(c, [&](const char* name, const shape_type& shape, const auto& values, double) {
        out.check(name, shape, values);
    });
    attend_in<float>(c, [&](const char* name, const shape_type& shape, const auto& values, double scale) {
        out.check_f32(name, shape, values, scale);
    });
}

template <class T>
void generate_in(const golden_case& c, auto&& check) {
    const auto x = c.input<T>("x");
    const auto given = [&](const char* name) {
        return c.has_input(name) ? c.input<T>(name).values : std::vector<T>{};
    };
    const bool low_rank = c.has_input("w_down");
    const auto down = given("w_down"), up = given(low_rank ? "w_up" : "w_proj"), conv = given("conv");
    const auto beta_weight = given("beta_weight"), beta_bias = given("beta_bias");
    const index heads = c.integer("num_kv_heads"), channels = c.integer("head_dim");
    const path::transform_generator<T> generator(
        {.hidden = c.integer("hidden_size"),
         .kv_heads = heads,
         .channels = channels,
         .rank = low_rank ? c.integer("low_rank", 32) : 0,
         .conv = conv.empty() ? 0 : c.integer("conv_size", 3),
         .epsilon = c.number("l2_eps", 1e-6)},
        {.down = down, .up = up, .conv = conv, .beta_weight = beta_weight, .beta_bias = beta_bias});
    const index tokens = x.count() / c.integer("hidden_size");
    std::vector<T> w(static_cast<std::size_t>(tokens * heads * channels)),
        beta(static_cast<std::size_t>(tokens * heads));
    generator.fill_transforms(x.values, {.w = w, .beta = beta});
    check("w", shape_type{tokens, heads, channels}, w);
    check("beta", shape_type{tokens, heads}, beta);
}

void generation(const golden_case& c, results& out) {
    generate_in<double>(c, [&](const char* name, const shape_type& shape, const auto& values) {
        out.check(name, shape, values);
    });
    // w is a vector of at most unit length and beta a sigmoid times 2, whatever x: in f32 the logit and the
    // projection are off by some units in the last place of x, the results rounded at their own size, 1 to 2.
    const double scale = std::max(1.0, max_abs(c.input("x").values));
    generate_in<float>(c, [&](const char* name, const shape_type& shape, const auto& values) {
        out.check_f32(name, shape, values, scale);
    });
}

const registration systems[] = {
    {"PaTH attention", attention},
    {"PaTH w/beta generation", generation},
};

}  // namespace
}  // namespace golden
