// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/schemes/gguf_keys.hpp>
#include <ropewalk/schemes/gguf_models.hpp>
#include <ropewalk/schemes/model_config.hpp>
#include <ropewalk/schemes/strictness.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

inline rope_scaling gguf_scaling(gguf_keys& keys, std::optional<double> factor) {
    const auto type = keys.word("rope.scaling.type");
    if (!type) return factor ? rope_scaling::linear : rope_scaling::none;
    if (*type == "none") return rope_scaling::none;
    if (*type == "linear") return factor ? rope_scaling::linear : rope_scaling::none;
    if (*type == "yarn") return rope_scaling::yarn;
    if (*type == "longrope") return rope_scaling::longrope;
    keys.wrong("rope.scaling.type", "none, linear, yarn or longrope");
}

/// The scaling of the global layers.
inline rope_parameters gguf_rope(const gguf_metadata& file, gguf_keys& keys,
                                 const std::string& architecture) {
    const auto wide = [](const std::vector<float>& v) { return std::vector<double>(v.begin(), v.end()); };
    rope_parameters p;
    p.base = keys.number("rope.freq_base").value_or(1e4);
    p.max_context = static_cast<double>(keys.count("context_length").value_or(0));
    p.original_context = keys.number("rope.scaling.original_context_length").value_or(0);
    auto factor = keys.number("rope.scaling.factor");
    const auto legacy = keys.number("rope.scale_linear");
    if (!factor) factor = legacy;
    if (factor == 0.0) factor.reset();
    p.scaling = gguf_scaling(keys, factor);
    p.factor = factor;
    p.attn_factor = keys.number("rope.scaling.attn_factor").value_or(1) *
                    keys.number("rope.scaling.yarn_attn_factor").value_or(1);
    const auto alpha = keys.number("rope.scaling.alpha");
    const auto log_multiplier = keys.number("rope.scaling.yarn_log_multiplier").value_or(0);
    const auto extrapolation = keys.number("rope.scaling.yarn_ext_factor");
    p.beta_fast = keys.number("rope.scaling.yarn_beta_fast").value_or(32);
    p.beta_slow = keys.number("rope.scaling.yarn_beta_slow").value_or(1);
    if (keys.flag("rope.scaling.finetuned").value_or(false)) p.trained = frequencies::yarn_training::extended;
    p.pair_factors = wide(file.rope_freqs);
    if (p.scaling == rope_scaling::yarn) {
        if (!p.factor) p.factor = 1;
        if (extrapolation && *extrapolation >= 0) p.extrapolation_factor = *extrapolation;
        // Conversions of DeepSeek store 0.1 * mscale_all_dim, those of Mistral 3 mscale_all_dim itself.
        p.mscale_all_dim = architecture == "deepseek2" ? log_multiplier / 0.1 : log_multiplier;
        p.mscale = architecture == "deepseek2" ? p.mscale_all_dim : p.mscale_all_dim != 0 ? 1 : 0;
        if (architecture == "deepseek2" && p.mscale_all_dim != 0) {
            const double m = frequencies::yarn_mscale(*p.factor, p.mscale_all_dim);
            p.logit_scale = m * m;
        }
    } else if (p.scaling == rope_scaling::longrope) {
        if (file.rope_factors_long.empty() || file.rope_factors_short.empty())
            fail(
                "from_gguf: rope_factors_long.weight and rope_factors_short.weight must be given with "
                "longrope, "
                "got nothing");
        p.short_factors = wide(file.rope_factors_short);
        p.long_factors = wide(file.rope_factors_long);
        p.attention_factor = p.attn_factor;  // the conversion stored the whole magnitude
        p.factor.reset();
    } else if (alpha && *alpha > 0) {
        p.scaling = rope_scaling::ntk;
        p.factor = alpha;
    }
    return p;
}

}  // namespace detail

/// Reads the rotary keys of a GGUF file. freq_scale = 1 / rope.scaling.factor; the magnitude is the net one
/// that llama.cpp arrives at, and rope_freqs divide every angle. Long factors are chosen by the length asked
/// of the scheme (llama.cpp chooses once, from the allocated context).
/// Throws:   invalid_config naming the key and the value; in strict reading also on an unknown architecture
///           and on rotary keys that would be ignored.
/// Source:   ggml-org/ggml docs/gguf.md; llama.cpp's loader and context (read through copies of it).
inline model_config from_gguf(const gguf_metadata& file, strictness reading = strictness::strict) {
    const auto named = file.values.find("general.architecture");
    const auto* architecture =
        named == file.values.end() ? nullptr : std::get_if<std::string>(&named->second);
    if (architecture == nullptr)
        detail::fail("from_gguf: general.architecture must be a string, got nothing");
    const auto* known = detail::find_gguf_architecture(*architecture);
    const bool strict = reading == strictness::strict;
    detail::require(known != nullptr || !strict, "from_gguf",
                    "general.architecture must be one whose pair layout is known here", *architecture);
    const detail::gguf_architecture rules = known != nullptr ? *known : detail::gguf_architecture{};

    detail::gguf_keys keys(file, *architecture);
    model_config config;
    config.model_type = *architecture;
    if (known == nullptr) config.ignored.push_back("general.architecture");
    config.layers = keys.required_count("block_count");
    config.query_heads = keys.count_or_first("attention.head_count").value_or(0);
    config.key_heads = keys.count_or_first("attention.head_count_kv").value_or(config.query_heads);
    const auto length = keys.count("attention.key_length_mla");
    const auto key_length = keys.count("attention.key_length");
    if (length || key_length) {
        config.head_dim = length ? *length : *key_length;
    } else {
        const index width = keys.required_count("embedding_length");
        detail::require(config.query_heads >= 1, "from_gguf", "attention.head_count must be >= 1",
                        config.query_heads);
        config.head_dim = width / config.query_heads;
    }
    const index turning = keys.count("rope.dimension_count").value_or(config.head_dim);
    config.rotary_channels = turning;
    config.first_channel = rules.latent ? config.head_dim - turning : 0;
    config.read_layout = rules.half_split ? pair_layout(half_split{}) : pair_layout(interleaved{});
    config.write_layout = config.read_layout;

    auto global = detail::gguf_rope(file, keys, *architecture);
    for (std::int64_t n : keys.counts("rope.dimension_sections"))
        if (n > 0) global.sections.push_back(static_cast<index>(n));
    const auto local_base = keys.number("rope.freq_base_swa");
    const auto period = keys.count("attention.sliding_window_pattern");
    config.ropes.push_back(global);
    const index global_every = period.value_or(rules.global_every);
    if (global_every > 0 && (local_base || rules.local_base != 0)) {
        rope_parameters local;
        local.name = "sliding_attention";
        local.base = local_base.value_or(rules.local_base);
        local.max_context = global.max_context;
        config.ropes.front().name = "full_attention";
        config.ropes.push_back(std::move(local));
    }
    if (global_every > 0 || rules.nope_every > 0) {
        detail::require(config.layers <= 65536, "from_gguf", "block_count must be <= 65536", config.layers);
        for (index l = 1; l <= config.layers; ++l) {
            const bool slides = global_every > 0 && l % global_every != 0;
            const bool rests =
                (rules.nope_every > 0 && l % rules.nope_every == 0) || (rules.nope_global && !slides);
            config.rope_of_layer.push_back(rests ? -1 : slides && config.ropes.size() > 1 ? 1 : 0);
        }
    }
    for (const auto& key : keys.unread()) {
        if (strict)
            detail::fail("from_gguf: " + key +
                         " must be a key that is read here, got one that would be ignored");
        config.ignored.push_back(key);
    }
    make_model_schemes(config);
    return config;
}

}  // namespace ROPEWALK_NAMESPACE
