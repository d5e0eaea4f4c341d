// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/model_config.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// What one rope dictionary is read with: its own keys and what the config around it said.
struct huggingface_rope_context {
    json_object& keys;
    json_object& top;
    strictness read;
    double max_context;       // 0: not said
    double original_context;  // of the top level, which overrides the dictionary's
    bool latent_attention;
    std::vector<std::string>& ignored;
};

/// Reads the scaling of one rope_scaling or rope_parameters dictionary.
/// Source: huggingface/transformers modeling_rope_utils.py.
class huggingface_rope {
  public:
    explicit huggingface_rope(const huggingface_rope_context& context) : c_(context) {}
    void read_into(rope_parameters& p) { read_scaling(p); }

    /// Whether two words name one known scaling ("su" and "longrope").
    static bool same_scaling(const nlohmann::json& a, const nlohmann::json& b) {
        if (!a.is_string() || !b.is_string() || a == b) return a == b;
        const auto scaling = scaling_of(a.get<std::string>());
        return scaling && scaling == scaling_of(b.get<std::string>());
    }

  private:
    bool strict() const noexcept { return c_.read == strictness::strict; }

    static std::optional<rope_scaling> scaling_of(const std::string& word) {
        static const std::map<std::string, rope_scaling> names = {
            {"default", rope_scaling::none},
            {"mrope", rope_scaling::none},
            {"linear", rope_scaling::linear},
            {"dynamic", rope_scaling::dynamic_ntk},
            {"ntk", rope_scaling::ntk},
            {"dynamic-linear", rope_scaling::dynamic_linear},
            {"yarn", rope_scaling::yarn},
            {"dynamic-yarn", rope_scaling::dynamic_yarn},
            {"longrope", rope_scaling::longrope},
            {"su", rope_scaling::longrope},
            {"llama3", rope_scaling::llama3},
            {"proportional", rope_scaling::proportional},
            {"ntk-by-parts", rope_scaling::ntk_by_parts},
        };
        const auto at = names.find(word);
        if (at == names.end()) return {};
        return at->second;
    }

    rope_scaling type_of() {
        const auto now = c_.keys.word("rope_type");
        const auto old = c_.keys.word("type");
        const char* key = now ? "rope_type" : "type";
        if (!now && !old) return rope_scaling::none;
        auto scaling = scaling_of(now ? *now : *old);
        if (!scaling) {
            if (strict()) c_.keys.reject(key, "a scaling that is known here", *c_.keys.find(key));
            c_.ignored.push_back(c_.keys.path_of(key));
            return rope_scaling::none;
        }
        if (now && old && scaling_of(*old) != scaling) {
            if (strict()) c_.keys.reject("type", "what rope_type says", *c_.keys.find("type"));
            c_.ignored.push_back(c_.keys.path_of("type"));
        }
        // Phi-3's first configs said "yarn" (then "su") for what is LongRoPE.
        if (scaling == rope_scaling::yarn && c_.keys.has("short_factor")) scaling = rope_scaling::longrope;
        return *scaling;
    }

    /// The c_.keys that the scaling cannot do without.
    double required(const char* key) {
        const auto v = c_.keys.number(key);
        if (!v) c_.keys.missing(key);
        return *v;
    }

    /// L0: the top-level key, the dictionary's, or (lenient) max_position_embeddings.
    void read_original_context(rope_parameters& p) {
        const auto inside = c_.keys.number("original_max_position_embeddings");
        p.original_context = c_.original_context != 0 ? c_.original_context : inside.value_or(0);
        if (p.original_context != 0) return;
        if (strict() || c_.max_context == 0) c_.keys.missing("original_max_position_embeddings");
        p.original_context = c_.max_context;
    }
    void require_max_context() {
        if (c_.max_context == 0) c_.top.missing("max_position_embeddings");
    }

    void read_scaling(rope_parameters& p) {
        p.scaling = type_of();
        switch (p.scaling) {
            case rope_scaling::none: break;
            case rope_scaling::linear:
            case rope_scaling::ntk_by_parts:
                p.factor = required("factor");
                if (p.scaling == rope_scaling::ntk_by_parts) {
                    read_original_context(p);
                    p.extrapolation_factor = c_.keys.number("extrapolation_factor").value_or(1);
                }
                break;
            case rope_scaling::dynamic_linear: require_max_context(); break;
            case rope_scaling::ntk:
                p.factor = c_.keys.number("alpha");
                if (!p.factor) p.factor = required("factor");
                break;
            case rope_scaling::dynamic_ntk:
                if (const auto alpha =
                        c_.keys.number("alpha")) {  // Hunyuan: static, its other c_.keys are inert
                    p.scaling = rope_scaling::ntk;
                    p.factor = alpha;
                    for (const char* inert : {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
                        c_.keys.find(inert);
                    break;
                }
                p.factor = required("factor");
                require_max_context();
                break;
            case rope_scaling::yarn:
            case rope_scaling::dynamic_yarn: read_yarn(p); break;
            case rope_scaling::longrope:
                read_original_context(p);
                p.factor = c_.keys.number("factor");
                p.attention_factor = c_.keys.number("attention_factor");
                if (!p.factor && !p.attention_factor) require_max_context();
                p.short_factors = factors_of("short_factor");
                p.long_factors = factors_of("long_factor");
                break;
            case rope_scaling::llama3:
                p.factor = required("factor");
                p.low_freq_factor = required("low_freq_factor");
                p.high_freq_factor = required("high_freq_factor");
                read_original_context(p);
                break;
            case rope_scaling::proportional: p.factor = c_.keys.number("factor"); break;
        }
    }

    std::vector<double> factors_of(const char* key) {
        if (!c_.keys.has(key)) c_.keys.missing(key);
        return c_.keys.numbers(key);
    }

    void read_yarn(rope_parameters& p) {
        read_original_context(p);
        if (p.scaling == rope_scaling::yarn && strict() && !c_.keys.node().contains("factor"))
            c_.keys.missing("factor");
        p.factor = c_.keys.number("factor");
        if (!p.factor || p.scaling == rope_scaling::dynamic_yarn) require_max_context();
        const auto nonzero = [this](const char* key, double fallback) {  // zero counts as absent
            const double v = c_.keys.number(key).value_or(fallback);
            return v == 0 ? fallback : v;
        };
        p.attention_factor = c_.keys.number("attention_factor");
        p.mscale = c_.keys.number("mscale").value_or(0);
        p.mscale_all_dim = c_.keys.number("mscale_all_dim").value_or(0);
        p.beta_fast = nonzero("beta_fast", 32);
        p.beta_slow = nonzero("beta_slow", 1);
        p.truncate = c_.keys.flag("truncate").value_or(true);
        p.bounds = strict() ? frequencies::bounds_check::strict : frequencies::bounds_check::literal;
        p.extrapolation_factor = c_.keys.number("extrapolation_factor").value_or(1);
        p.attn_factor = c_.keys.number("attn_factor").value_or(1);
        if (c_.keys.flag("finetuned").value_or(false)) p.trained = frequencies::yarn_training::extended;
        if (strict() && p.beta_fast < p.beta_slow)
            c_.keys.reject("beta_fast", "at least beta_slow", *c_.keys.find("beta_fast"));
        if (const auto beta = c_.keys.number("llama_4_scaling_beta"))
            p.notes.push_back("queries are multiplied by 1 + " + text(*beta) +
                              " ln(1 + floor(position / original context)) (llama_4_scaling_beta)");
        if (c_.latent_attention && p.mscale_all_dim != 0) {
            const double factor = p.factor ? *p.factor : p.max_context / p.original_context;
            const double m = frequencies::yarn_mscale(factor, p.mscale_all_dim);
            p.logit_scale = m * m;
        }
    }

    huggingface_rope_context c_;
};

}  // namespace ROPEWALK_NAMESPACE::detail
