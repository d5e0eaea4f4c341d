// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Every scaling's spectrum: Hugging Face rope_parameters through the config reader, the classes of
// jquesnelle/yarn and microsoft/LongRoPE through frequencies/.

#include <algorithm>

#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/models/huggingface_json.hpp>

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

/// The layer types that rope_parameters is keyed by, if it is.
std::vector<std::string> layer_types_of(const golden_case& c) {
    std::vector<std::string> kinds;
    if (!c.has("rope_parameters")) return kinds;
    const json& dict = c.config().at("rope_parameters");
    require(dict.is_object(), "config.rope_parameters must be an object");
    for (const auto& [key, value] : dict.items()) {
        if (!value.is_object() && !(value.is_null() && key.find("attention") != std::string::npos)) return {};
        kinds.push_back(key);
    }
    return kinds;
}
/// config.layer_type, else the first type whose scaling is the one the system names.
index layer_of(const golden_case& c, const std::vector<std::string>& kinds) {
    const std::string wanted = c.system().substr(c.system().rfind(' ') + 1);
    for (std::size_t l = 0; l < kinds.size(); ++l) {
        const json& rope = c.config().at("rope_parameters").at(kinds[l]);
        const bool named = c.has("layer_type") && c.word("layer_type") == kinds[l];
        const bool alike =
            rope.is_object() && rope.value("rope_type", rope.value("type", std::string("default"))) == wanted;
        if (named || (alike && !c.has("layer_type"))) return static_cast<index>(l);
    }
    throw error("rope_parameters must have a layer type with rope_type " + wanted);
}

void huggingface(const golden_case& c, results& out) {
    json text = c.config();
    // A class whose code does what the keys say: Llama's own passes a partial factor by.
    const bool partial = text.contains("partial_rotary_factor") ||
                         (text.contains("rope_parameters") && text["rope_parameters"].contains("partial_rotary_factor"));
    if (!text.contains("model_type")) text["model_type"] = partial ? "stablelm" : "llama";
    const auto kinds = layer_types_of(c);
    index layer = 0;
    if (!kinds.empty()) {  // one layer of each type, and the one that the file is about
        text["layer_types"] = kinds;
        text["num_hidden_layers"] = kinds.size();
        layer = layer_of(c, kinds);
    } else if (!text.contains("num_hidden_layers")) {
        text["num_hidden_layers"] = 1;
    }
    const auto layers = make_model_schemes(from_huggingface(text, {.keys = strictness::lenient}));
    check_spectrum(out, layers[layer].spectrum_for(length_of(c)));
}

// The one number of the classes of jquesnelle/yarn that no method has: the context of their constructors.
constexpr double yarn_classes_context = 2048;

void static_ntk(const golden_case& c, results& out) {
    frequencies::ntk_config config{.rotary_dim = c.integer("dim")};
    config.base = c.number("base", config.base);
    config.alpha = c.number("alpha", config.alpha);
    check_spectrum(out, frequencies::ntk(config));
}

/// ntk false: interpolation by length; true or a number: dynamic NTK with that factor.
void dynamic_scaled(const golden_case& c, results& out) {
    const json ntk = c.has("ntk") ? c.config().at("ntk") : json(false);
    require(ntk.is_boolean() || ntk.is_number(), "config.ntk must be a number, true or false");
    const double factor = ntk.is_boolean() ? (ntk.get<bool>() ? 1.0 : 0.0) : ntk.get<double>();
    frequencies::dynamic_ntk_config config{
        .rotary_dim = c.integer("dim"),
        .factor = factor,
        .max_context = c.number("max_position_embeddings", yarn_classes_context)};
    config.base = c.number("base", config.base);
    check_spectrum(out, factor != 0 ? frequencies::dynamic_ntk(config, length_of(c))
                                    : frequencies::dynamic_linear({.rotary_dim = config.rotary_dim,
                                                                   .base = config.base,
                                                                   .max_context = config.max_context},
                                                                  length_of(c)));
}

void by_parts(const golden_case& c, results& out) {
    frequencies::ntk_by_parts_config p{
        .rotary_dim = c.integer("dim"),
        .original_context = c.number("original_max_position_embeddings", yarn_classes_context)};
    p.base = c.number("base", p.base);
    p.factor = c.number("scale", p.factor);
    p.ntk_factor = c.number("ntk_factor", p.ntk_factor);
    p.extrapolation_factor = c.number("extrapolation_factor", p.extrapolation_factor);
    p.beta_fast = c.number("beta_0", p.beta_fast);
    p.beta_slow = c.number("beta_1", p.beta_slow);
    p.gamma_fast = c.number("gamma_0", p.gamma_fast);
    p.gamma_slow = c.number("gamma_1", p.gamma_slow);
    check_spectrum(out, frequencies::ntk_by_parts(p));
}

frequencies::yarn_config yarn_of(const golden_case& c) {
    frequencies::yarn_config p{
        .rotary_dim = c.integer("dim"),
        .original_context = c.number("original_max_position_embeddings", yarn_classes_context)};
    p.base = c.number("base", p.base);
    p.factor = c.number("scale", p.factor);
    p.beta_fast = c.number("beta_fast", p.beta_fast);
    p.beta_slow = c.number("beta_slow", p.beta_slow);
    p.extrapolation_factor = c.number("extrapolation_factor", p.extrapolation_factor);
    p.attn_factor = c.number("attn_factor", p.attn_factor);
    return p;
}

void static_yarn(const golden_case& c, results& out) { check_spectrum(out, frequencies::yarn(yarn_of(c))); }

void dynamic_yarn(const golden_case& c, results& out) {
    using frequencies::yarn_training;
    check_spectrum(
        out, frequencies::dynamic_yarn(
                 {.yarn = yarn_of(c),
                  .max_context = c.number("max_position_embeddings", yarn_classes_context),
                  .trained = c.flag("finetuned", false) ? yarn_training::extended : yarn_training::plain},
                 length_of(c)));
}

void dynamic_longrope(const golden_case& c, results& out) {
    frequencies::dynamic_longrope_config p{.rotary_dim = c.integer("dim"),
                                           .factors = c.numbers("rescale_factors"),
                                           .original_context = c.number("original_max_position_embeddings"),
                                           .max_context = c.number("max_position_embeddings")};
    p.base = c.number("base", p.base);
    if (c.has("attention_factor")) p.attention_factor = c.number("attention_factor");
    check_spectrum(out, frequencies::dynamic_longrope(p, length_of(c)));
}

void p_rope(const golden_case& c, results& out) {
    frequencies::p_rope_config config{.head_dim = c.integer("head_dim")};
    config.base = c.number("base", config.base);
    config.p = c.number("p", config.p);
    require(c.integer("kept_pairs", frequencies::p_rope_kept_pairs(config)) ==
                frequencies::p_rope_kept_pairs(config),
            "kept_pairs must be what p keeps, got " + std::to_string(c.integer("kept_pairs", 0)));
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
