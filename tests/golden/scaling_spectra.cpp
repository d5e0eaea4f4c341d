// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Every scaling's spectrum: Hugging Face rope_parameters through the config reader, the classes of
// jquesnelle/yarn and microsoft/LongRoPE through frequencies/.

#include <algorithm>

#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/schemes/huggingface_json.hpp>

#include "runner.hpp"

namespace golden {
namespace {

void check_spectrum(results& out, const spectrum& s) {
    const std::vector<double> omega = s.omegas();
    out.check("inv_freq", omega);
    out.check("inv_freq_f32", std::vector<float>(omega.begin(), omega.end()));
    out.check_scalar("attention_factor", s.magnitude());
}

/// Hugging Face builds a spectrum without a length as for the shortest sequence.
std::int64_t length_of(const golden_case& c) { return std::max<index>(c.integer("seq_len", 1), 1); }

void huggingface(const golden_case& c, results& out) {
    json text = c.config();
    if (!text.contains("model_type")) text["model_type"] = "llama";
    if (!text.contains("num_hidden_layers")) text["num_hidden_layers"] = 1;
    const auto layers = make_model_schemes(from_huggingface(text, {.keys = strictness::lenient}));
    check_spectrum(out, layers[0].spectrum_for(length_of(c)));
}

void static_ntk(const golden_case& c, results& out) {
    check_spectrum(out, frequencies::ntk({.rotary_dim = c.integer("dim"),
                                          .base = c.number("base", 1e4),
                                          .alpha = c.number("alpha", 1)}));
}

/// ntk false: interpolation by length; true or a number: dynamic NTK with that factor.
void dynamic_scaled(const golden_case& c, results& out) {
    const json ntk = c.has("ntk") ? c.config().at("ntk") : json(false);
    const double factor = ntk.is_boolean() ? (ntk.get<bool>() ? 1.0 : 0.0) : ntk.get<double>();
    const index dim = c.integer("dim");
    const double base = c.number("base", 1e4);
    const double max_context = c.number("max_position_embeddings", 2048);
    check_spectrum(
        out, factor != 0
                 ? frequencies::dynamic_ntk(
                       {.rotary_dim = dim, .base = base, .factor = factor, .max_context = max_context},
                       length_of(c))
                 : frequencies::dynamic_linear({.rotary_dim = dim, .base = base, .max_context = max_context},
                                               length_of(c)));
}

void by_parts(const golden_case& c, results& out) {
    check_spectrum(out, frequencies::ntk_by_parts(
                            {.rotary_dim = c.integer("dim"),
                             .base = c.number("base", 1e4),
                             .factor = c.number("scale", 1),
                             .original_context = c.number("original_max_position_embeddings", 2048),
                             .ntk_factor = c.number("ntk_factor", 1),
                             .extrapolation_factor = c.number("extrapolation_factor", 1),
                             .beta_fast = c.number("beta_0", 1.25),
                             .beta_slow = c.number("beta_1", 0.75),
                             .gamma_fast = c.number("gamma_0", 16),
                             .gamma_slow = c.number("gamma_1", 2)}));
}

frequencies::yarn_config yarn_of(const golden_case& c) {
    return {.rotary_dim = c.integer("dim"),
            .base = c.number("base", 1e4),
            .factor = c.number("scale", 1),
            .original_context = c.number("original_max_position_embeddings", 2048),
            .beta_fast = c.number("beta_fast", 32),
            .beta_slow = c.number("beta_slow", 1),
            .extrapolation_factor = c.number("extrapolation_factor", 1),
            .attn_factor = c.number("attn_factor", 1)};
}

void static_yarn(const golden_case& c, results& out) { check_spectrum(out, frequencies::yarn(yarn_of(c))); }

void dynamic_yarn(const golden_case& c, results& out) {
    using frequencies::yarn_training;
    check_spectrum(
        out, frequencies::dynamic_yarn(
                 {.yarn = yarn_of(c),
                  .max_context = c.number("max_position_embeddings", 2048),
                  .trained = c.flag("finetuned", false) ? yarn_training::extended : yarn_training::plain},
                 length_of(c)));
}

void dynamic_longrope(const golden_case& c, results& out) {
    check_spectrum(
        out, frequencies::dynamic_longrope({.rotary_dim = c.integer("dim"),
                                            .base = c.number("base", 1e4),
                                            .factors = c.numbers("rescale_factors"),
                                            .original_context = c.number("original_max_position_embeddings"),
                                            .max_context = c.number("max_position_embeddings")},
                                           length_of(c)));
}

void p_rope(const golden_case& c, results& out) {
    frequencies::p_rope_config config{
        .head_dim = c.integer("head_dim"), .base = c.number("base", 1e4), .p = c.number("p")};
    out.check("inv_freq_p", frequencies::p_rope(config).omegas());
    out.check("inv_freq_partial", frequencies::partial_ladder(config).omegas());
    config.keep = frequencies::kept_end::lowest;
    out.check("inv_freq_reversed", frequencies::p_rope(config).omegas());
}

const registration scalings[] = {
    {"RoPE scaling: default", huggingface},
    {"RoPE scaling: linear", huggingface},
    {"RoPE scaling: dynamic", huggingface},
    {"RoPE scaling: yarn", huggingface},
    {"RoPE scaling: longrope", huggingface},
    {"RoPE scaling: llama3", huggingface},
    {"RoPE scaling: proportional", huggingface},
    {"RoPE scaling: LlamaNTKScaledRotaryEmbedding", static_ntk},
    {"RoPE scaling: LlamaDynamicScaledRotaryEmbedding", dynamic_scaled},
    {"RoPE scaling: LlamaPartNTKScaledRotaryEmbedding", by_parts},
    {"RoPE scaling: LlamaYaRNScaledRotaryEmbedding", static_yarn},
    {"RoPE scaling: LlamaDynamicYaRNScaledRotaryEmbedding", dynamic_yarn},
    {"LongRoPE dynamic rescale", dynamic_longrope},
    {"p-RoPE", p_rope},
};

}  // namespace
}  // namespace golden
