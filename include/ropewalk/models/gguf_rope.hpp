// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads the rope.* keys and rotary tensors of a GGUF file into rope_parameters.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <ropewalk/models/gguf_keys.hpp>
#include <ropewalk/models/gguf_models.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/strictness.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The scaling type and factor of a file: rope.scaling.type, and s = 1 / freq_scale.
/// Source: ggml-org/ggml docs/gguf.md; llama.cpp's loader.
struct gguf_scale {
    std::string type;
    double factor;
};

/// Reads them. A file without a type interpolates by its factor; the type none, a missing factor and a factor
/// of 0 all mean 1.
inline gguf_scale gguf_scale_of(gguf_keys& keys) {
    const auto type = keys.word("rope.scaling.type").value_or("linear");
    if (type != "none" && type != "linear" && type != "yarn" && type != "longrope")
        keys.wrong("rope.scaling.type", "none, linear, yarn or longrope");
    const auto factor = keys.not_negative("rope.scaling.factor");
    const auto legacy = keys.not_negative("rope.scale_linear");
    const double s = factor ? *factor : legacy.value_or(0);
    return {type, type == "none" || s == 0 ? 1 : s};
}

/// Makes p LongRoPE with the divisors of the two tensors. They divide the angle before rope.scaling scales
/// it, so that scale is multiplied into them.
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

/// Shortens a tensor for `stored` channels to `rotary_dim` channels: layers that rotate fewer channels read
/// its first numbers.
inline void cut_tensor(std::vector<float>& tensor, index stored, index rotary_dim) {
    if (static_cast<index>(tensor.size()) == stored / 2)
        tensor.resize(static_cast<std::size_t>(rotary_dim / 2));
}

/// Reads the rotary tensors: rope_freqs takes precedence; else the context length chooses between the other
/// two. Phi-3's files have those two without a rope.scaling.type, so the tensors decide, not the type.
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

/// The rotary embedding that the keys describe, before the rotary tensors.
inline rope_parameters gguf_rope(gguf_keys& keys, const gguf_architecture& rules, const gguf_scale& scale,
                                 index rotary_dim) {
    rope_parameters p;
    p.base = keys.positive("rope.freq_base").value_or(1e4);
    p.max_context = static_cast<double>(keys.count("context_length").value_or(0));
    p.original_context = keys.not_negative("rope.scaling.original_context_length").value_or(0);
    p.attn_factor = keys.positive("rope.scaling.attn_factor").value_or(1);
    p.beta_fast = keys.positive("rope.scaling.yarn_beta_fast").value_or(rules.beta_fast);
    p.beta_slow = keys.positive("rope.scaling.yarn_beta_slow").value_or(1);
    if (keys.flag("rope.scaling.finetuned").value_or(false)) p.trained = frequencies::yarn_training::extended;
    const double unblended = keys.positive("rope.scaling.yarn_attn_factor").value_or(1);
    const double multiplier = keys.number("rope.scaling.yarn_log_multiplier").value_or(0);
    const double blend = keys.number("rope.scaling.yarn_ext_factor").value_or(-1);
    if (const double alpha = keys.not_negative("rope.scaling.alpha").value_or(0); alpha > 0)
        p.base = frequencies::ntk_base({.rotary_dim = rotary_dim, .base = p.base, .alpha = alpha});

    // A blend below 0 means not set: 1 where the type is yarn, else 0. Whatever the type, a blend other than
    // 0 brings YaRN's temperature, which overwrites yarn_attn_factor; a blend of 0 is interpolation without a
    // temperature.
    p.extrapolation_factor = blend >= 0 ? blend : scale.type == "yarn" ? 1 : 0;
    if (p.extrapolation_factor == 0) p.attn_factor *= unblended;
    if (scale.factor != 1) {
        p.scaling = p.extrapolation_factor == 0 ? rope_scaling::linear : rope_scaling::yarn;
        p.factor = scale.factor;
    }
    if (p.scaling == rope_scaling::yarn && multiplier != 0) {
        // Conversions of DeepSeek store 0.1 * mscale_all_dim, those of Mistral 3 mscale_all_dim itself.
        p.mscale_all_dim = rules.latent ? multiplier / 0.1 : multiplier;
        p.mscale = rules.latent ? p.mscale_all_dim : 1;
        const double m = frequencies::yarn_mscale(scale.factor, p.mscale_all_dim);
        if (rules.latent) p.logit_scale = m * m;
    }
    if (!rules.note.empty()) p.notes.emplace_back(rules.note);
    return p;
}

/// Reads rope.dimension_sections: the numbers of pairs of t, h, w and of a fourth axis, which is 0 in most
/// files. A 0 in between is an axis that no pair reads; it remains an axis. Returns whether the file has
/// sections.
inline bool read_gguf_sections(gguf_keys& keys, const gguf_architecture& rules, strictness reading,
                               index pairs, model_config& config, rope_parameters& p) {
    const std::string key = "rope.dimension_sections", path = config.model_type + "." + key;
    auto sections = keys.counts(key, pairs);
    const bool any = std::any_of(sections.begin(), sections.end(), [](std::int64_t n) { return n != 0; });
    if (rules.sections == gguf_sections::none) {
        // All pairs on the first axis: one position, whatever the order (drafts for models with sections).
        const bool one_axis =
            any && sections.front() == pairs &&
            std::all_of(sections.begin() + 1, sections.end(), [](std::int64_t n) { return n == 0; });
        if (!any || one_axis) return false;
        if (reading == strictness::strict)
            keys.wrong(key, "absent: the order of sections is known of other architectures only");
        config.ignored.push_back(path);
        return false;
    }
    if (!any && rules.plain_without_sections) return false;
    if (!any) fail("from_gguf: " + path + " must be given, got nothing");
    while (sections.size() > 3 && sections.back() == 0) sections.pop_back();
    p.sections.assign(sections.begin(), sections.end());
    if (rules.sections == gguf_sections::interleaved) p.order = section_order::interleaved;
    return true;
}

}  // namespace ROPEWALK_NAMESPACE::detail
