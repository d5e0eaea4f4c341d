// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/gguf_keys.hpp>
#include <ropewalk/models/gguf_models.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/strictness.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// How long a head is: said by the file, or the width shared by the heads.
inline index gguf_head_dim(gguf_keys& keys, index heads) {
    const auto latent = keys.count("attention.key_length_mla", 1, longest_head);
    const auto length = keys.count("attention.key_length", 1, longest_head);
    if (latent) return *latent;
    if (length) return *length;
    const index width = keys.required_count("embedding_length", 1);
    require(heads >= 1, "from_gguf", "attention.head_count must be >= 1", heads);
    if (width % heads != 0 || width / heads > longest_head)
        keys.wrong("embedding_length",
                   "the width of " + text(heads) + " heads of up to " + text(longest_head) + " channels");
    return width / heads;
}

/// rope.scaling.type, and s = 1 / freq_scale.
struct gguf_scale {
    std::string type;
    double factor;
};

/// A file without a type interpolates by its factor; type none, a missing factor and the factor 0 mean 1.
inline gguf_scale gguf_scale_of(gguf_keys& keys) {
    const auto type = keys.word("rope.scaling.type").value_or("linear");
    if (type != "none" && type != "linear" && type != "yarn" && type != "longrope")
        keys.wrong("rope.scaling.type", "none, linear, yarn or longrope");
    const auto factor = keys.not_negative("rope.scaling.factor");
    const auto legacy = keys.not_negative("rope.scale_linear");
    const double s = factor ? *factor : legacy.value_or(0);
    return {type, type == "none" || s == 0 ? 1 : s};
}

/// Makes p LongRoPE with the divisors of the two tensors. They divide the angle before whatever
/// rope.scaling does to it, so that is folded into them.
inline void read_length_factors(rope_parameters& p, const gguf_metadata& file, index rotary_dim) {
    const auto plain = frequencies::geometric({.rotary_dim = rotary_dim, .base = p.base});
    const auto scaled = make_spectrum(p, rotary_dim, 1);
    const auto scale = frequencies::pair_factors(plain, scaled);
    const auto fold = [&](const std::vector<float>& tensor, const char* must) {
        std::vector<double> factors(tensor.begin(), tensor.end());
        require_pair_factors("from_gguf", must, plain.pairs(), factors);
        for (std::size_t i = 0; i < factors.size(); ++i) factors[i] *= scale[i];
        return factors;
    };
    p.short_factors =
        fold(file.rope_factors_short, "rope_factors_short.weight must hold one number > 0 a pair");
    p.long_factors = fold(file.rope_factors_long, "rope_factors_long.weight must hold one number > 0 a pair");
    p.scaling = rope_scaling::longrope;
    p.attention_factor = scaled.magnitude();
    p.attn_factor = 1;
    p.factor.reset();
}

/// The rotary tensors: rope_freqs wins, else the length chooses between the other two. Phi-3's files have
/// those without a rope.scaling.type, so the tensors decide and not the type.
inline void read_tensors(rope_parameters& p, const gguf_metadata& file, index rotary_dim,
                         const std::string& type) {
    if (!file.rope_freqs.empty()) {
        p.pair_factors.assign(file.rope_freqs.begin(), file.rope_freqs.end());
        require_pair_factors("from_gguf", "rope_freqs.weight must hold one number > 0 a pair", rotary_dim / 2,
                             p.pair_factors);
        return;
    }
    const bool has_long = !file.rope_factors_long.empty();
    const bool has_short = !file.rope_factors_short.empty();
    require(has_long == has_short, "from_gguf",
            "rope_factors_long.weight and rope_factors_short.weight must be given together",
            has_long ? "the long one" : "the short one");
    require(has_long || type != "longrope", "from_gguf",
            "rope_factors_long.weight and rope_factors_short.weight must be given with longrope", "nothing");
    if (has_long) read_length_factors(p, file, rotary_dim);
}

/// The rotary embedding of the global layers.
inline rope_parameters gguf_rope(const gguf_metadata& file, gguf_keys& keys, const gguf_architecture& rules,
                                 index rotary_dim) {
    rope_parameters p;
    p.base = keys.positive("rope.freq_base").value_or(1e4);
    p.max_context = static_cast<double>(keys.count("context_length").value_or(0));
    p.original_context = keys.not_negative("rope.scaling.original_context_length").value_or(0);
    p.attn_factor = keys.positive("rope.scaling.attn_factor").value_or(1);
    p.beta_fast = keys.positive("rope.scaling.yarn_beta_fast").value_or(32);
    p.beta_slow = keys.positive("rope.scaling.yarn_beta_slow").value_or(1);
    if (keys.flag("rope.scaling.finetuned").value_or(false)) p.trained = frequencies::yarn_training::extended;
    const auto [type, factor] = gguf_scale_of(keys);
    const double unblended = keys.positive("rope.scaling.yarn_attn_factor").value_or(1);
    const double multiplier = keys.number("rope.scaling.yarn_log_multiplier").value_or(0);
    const double blend = keys.number("rope.scaling.yarn_ext_factor").value_or(-1);
    if (const double alpha = keys.not_negative("rope.scaling.alpha").value_or(0); alpha > 0)
        p.base = frequencies::ntk_base({.rotary_dim = rotary_dim, .base = p.base, .alpha = alpha});

    // A blend below 0 is not set: 1 where the type is yarn, else 0. Whatever the type, any blend brings
    // YaRN's temperature, which overwrites yarn_attn_factor, and no blend is interpolation without one.
    p.extrapolation_factor = blend >= 0 ? blend : type == "yarn" ? 1 : 0;
    if (p.extrapolation_factor == 0) p.attn_factor *= unblended;
    if (factor != 1) {
        p.scaling = p.extrapolation_factor == 0 ? rope_scaling::linear : rope_scaling::yarn;
        p.factor = factor;
    }
    if (p.scaling == rope_scaling::yarn && multiplier != 0) {
        // Conversions of DeepSeek store 0.1 * mscale_all_dim, those of Mistral 3 mscale_all_dim itself.
        p.mscale_all_dim = rules.latent ? multiplier / 0.1 : multiplier;
        p.mscale = rules.latent ? p.mscale_all_dim : 1;
        const double m = frequencies::yarn_mscale(factor, p.mscale_all_dim);
        if (rules.latent) p.logit_scale = m * m;
    }
    read_tensors(p, file, rotary_dim, type);
    return p;
}

/// Adds the rotary embedding of the layers that slide, where it is not that of the global ones.
inline void read_sliding_rope(gguf_keys& keys, const gguf_architecture& rules, model_config& config) {
    const auto base = keys.positive("rope.freq_base_swa");
    const auto head_dim = keys.count("attention.key_length_swa", 1, longest_head);
    const auto turning = keys.count("rope.dimension_count_swa", 1, head_dim.value_or(config.head_dim));
    if (!base && !head_dim && !turning && !rules.plain_sliding) return;
    rope_parameters& global = config.ropes.front();
    rope_parameters local = rules.plain_sliding ? rope_parameters{} : global;
    local.base = base ? *base : rules.local_base != 0 ? rules.local_base : global.base;
    local.max_context = global.max_context;
    if (head_dim || turning) {
        local.head_dim = head_dim.value_or(0);
        local.rotary_dim = turning ? *turning : *head_dim;
        global.rotary_dim = config.rotary_channels;
        config.rotary_channels = 0;
    }
    global.name = "full_attention";
    local.name = "sliding_attention";
    config.ropes.push_back(std::move(local));
}

/// Which layers slide, and which have no rotary embedding.
inline void read_layers(gguf_keys& keys, const gguf_architecture& rules, model_config& config) {
    const char* pattern = "attention.sliding_window_pattern";
    const bool alternates = rules.name.empty()     ? keys.has(pattern)
                            : rules.window_decides ? keys.count("attention.sliding_window").value_or(0) > 0
                                                   : rules.global_every > 0;
    const auto* slides_at = alternates ? keys.of_layers(pattern, config.layers) : nullptr;
    const index global_every =
        !alternates || slides_at != nullptr ? 0 : keys.count(pattern, 1).value_or(rules.global_every);
    if (alternates) read_sliding_rope(keys, rules, config);
    const auto* linear_at =
        rules.turning_every > 0 ? keys.of_layers("attention.recurrent_layers", config.layers) : nullptr;
    const index turning_every = rules.turning_every > 0 && linear_at == nullptr
                                    ? keys.count("full_attention_interval", 1).value_or(rules.turning_every)
                                    : 0;
    if (!alternates && rules.nope_every == 0 && rules.turning_every == 0) return;
    const auto marked = [](const std::vector<std::int64_t>* of_layer, index l) {
        return of_layer != nullptr && (*of_layer)[static_cast<std::size_t>(l - 1)] != 0;
    };
    const auto in_between = [](index every, index l) { return every > 0 && l % every != 0; };
    for (index l = 1; l <= config.layers; ++l) {
        const bool slides = marked(slides_at, l) || in_between(global_every, l);
        const bool is_linear = marked(linear_at, l) || in_between(turning_every, l);
        const bool rests = is_linear || (rules.nope_every > 0 && l % rules.nope_every == 0) ||
                           (rules.nope_global && !slides);
        config.rope_of_layer.push_back(rests ? -1 : slides && config.ropes.size() > 1 ? 1 : 0);
    }
}

/// rope.dimension_sections: the pairs of t, h, w and of a fourth axis that most files leave at 0. A 0 in
/// between is an axis that no pair reads, and stays one.
inline void read_gguf_sections(gguf_keys& keys, const gguf_architecture& rules, strictness reading,
                               model_config& config, rope_parameters& p) {
    const std::string key = "rope.dimension_sections", path = config.model_type + "." + key;
    auto sections = keys.counts(key, config.rotary_channels / 2);
    const bool any = std::any_of(sections.begin(), sections.end(), [](std::int64_t n) { return n != 0; });
    if (rules.sections == gguf_sections::none) {
        if (!any) return;
        if (reading == strictness::strict)
            keys.wrong(key, "absent: the order of sections is known of other architectures only");
        config.ignored.push_back(path);
        return;
    }
    if (!any) fail("from_gguf: " + path + " must be given, got nothing");
    while (sections.size() > 3 && sections.back() == 0) sections.pop_back();
    p.sections.assign(sections.begin(), sections.end());
    if (rules.sections == gguf_sections::interleaved) p.order = section_order::interleaved;
}

}  // namespace detail

/// Reads the rotary keys of a GGUF file. freq_scale = 1 / rope.scaling.factor; the magnitude is the net one
/// that llama.cpp arrives at, and rope_freqs divide every angle; without them long and short factors do,
/// chosen by the length asked of the scheme (llama.cpp chooses once, from the allocated context).
/// Throws:   invalid_config naming the key and the value, also where an architecture of sections has none; in
///           strict reading also on an unknown architecture and on rotary keys that would be ignored, such as
///           sections of an architecture whose order is not known here.
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
    config.layers = keys.required_count("block_count", 1, 65536);
    config.query_heads = keys.count_or_first("attention.head_count").value_or(0);
    config.key_heads = keys.count_or_first("attention.head_count_kv").value_or(config.query_heads);
    config.head_dim = detail::gguf_head_dim(keys, config.query_heads);
    const index turning = keys.count("rope.dimension_count", 1, config.head_dim).value_or(config.head_dim);
    if (turning % 2 != 0 && keys.has("rope.dimension_count")) keys.wrong("rope.dimension_count", "even");
    config.rotary_channels = turning;
    config.first_channel = rules.latent ? config.head_dim - turning : 0;
    config.read_layout = rules.half_split ? pair_layout(half_split{}) : pair_layout(interleaved{});
    config.write_layout = config.read_layout;

    auto global = detail::gguf_rope(file, keys, rules, turning);
    if (strict) global.bounds = frequencies::bounds_check::strict;
    detail::read_gguf_sections(keys, rules, reading, config, global);
    config.ropes.push_back(std::move(global));
    detail::read_layers(keys, rules, config);
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
