// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads the context scaling of one rope_scaling or rope_parameters dictionary of a config.json.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/model_types.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The inputs of huggingface_rope: the dictionary's own keys and what the config around it gives.
struct huggingface_rope_context {
    json_object& keys;
    json_object& top;
    strictness read;
    double max_context;       // 0: unknown
    double original_context;  // the top level's, which overrides the dictionary's
    bool latent_attention;
    const model_rules& rules = no_rules;
    bool by_type = false;  // whether the dictionary is the one of a layer type
    std::vector<std::string>& ignored;
};

/// Reads the scaling of one rope_scaling or rope_parameters dictionary.
/// Source: huggingface/transformers modeling_rope_utils.py.
class huggingface_rope {
  public:
    explicit huggingface_rope(const huggingface_rope_context& context) : c_(context) {}
    void read_into(rope_parameters& p) { read_scaling(p); }

    /// Whether two words name the same known scaling ("su" and "longrope").
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
            {"xdrope", rope_scaling::dynamic_ntk},
            {"telechat3-yarn", rope_scaling::yarn},
            {"deepseek_yarn", rope_scaling::yarn},
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

    rope_scaling type_of(rope_parameters& p) {
        const auto now = c_.keys.word("rope_type");
        auto old = c_.keys.word("type");
        if (old && !now && c_.rules.rule == layer_rule::by_type && !c_.by_type &&
            c_.rules.flat != flat_scaling::compressed_only && scaling_of(*old) != rope_scaling::none) {
            // It is also written into dictionaries whose rope_type is "default".
            follow_quirk(p, "type",
                         "the official code of this class looks at rope_type only and does not scale");
            for (const auto& [key, value] : c_.keys.node().items()) c_.keys.find(key);
            return rope_scaling::none;
        }
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
        // Phi-3's first configs call LongRoPE "yarn", later ones "su".
        if (scaling == rope_scaling::yarn && c_.keys.has("short_factor")) scaling = rope_scaling::longrope;
        return *scaling;
    }

    /// Every key of a rope dictionary that is read here, whichever scaling it belongs to.
    static bool is_known(const std::string& key) {
        static const std::set<std::string> known = {"alpha",
                                                    "apply_yarn_scaling",
                                                    "attention_factor",
                                                    "attn_factor",
                                                    "beta_fast",
                                                    "beta_slow",
                                                    "extrapolation_factor",
                                                    "factor",
                                                    "finetuned",
                                                    "high_freq_factor",
                                                    "interleaved",
                                                    "llama_4_scaling_beta",
                                                    "long_factor",
                                                    "long_mscale",
                                                    "low_freq_factor",
                                                    "max_position_embeddings",
                                                    "mixed_b",
                                                    "mrope_interleaved",
                                                    "mrope_section",
                                                    "mscale",
                                                    "mscale_all_dim",
                                                    "original_max_position_embeddings",
                                                    "partial_rotary_factor",
                                                    "rope_theta",
                                                    "rope_type",
                                                    "short_factor",
                                                    "short_mscale",
                                                    "truncate",
                                                    "type",
                                                    "xdrope_section"};
        return known.contains(key);
    }

    /// Refuses a dictionary without a key that the scaling requires. A misspelt key is the likely reason, so
    /// strict reading names a key that is not known first.
    [[noreturn]] void missing(const json_object& where, const char* key) const {
        if (strict())
            for (const auto& other : c_.keys.unread())
                if (const auto& value = c_.keys.node().at(other); !is_known(other) && !value.is_null())
                    c_.keys.reject(other, "a key that is read here (it would be ignored)", value);
        where.missing(key);
    }

    /// A key that the scaling requires.
    double required(const char* key) {
        const auto v = c_.keys.number(key);
        if (!v) missing(c_.keys, key);
        return *v;
    }

    /// Reads the original context L0: the top-level key, the dictionary's, or (lenient)
    /// max_position_embeddings.
    void read_original_context(rope_parameters& p) {
        const auto inside = c_.keys.number("original_max_position_embeddings");
        p.original_context = c_.original_context != 0 ? c_.original_context : inside.value_or(0);
        if (p.original_context != 0) return;
        if (strict() || c_.max_context == 0) missing(c_.keys, "original_max_position_embeddings");
        p.original_context = c_.max_context;
    }
    void require_max_context() {
        if (c_.max_context == 0) missing(c_.top, "max_position_embeddings");
    }

    void read_scaling(rope_parameters& p) {
        p.scaling = type_of(p);
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
            case rope_scaling::fixed_ntk: read_ntk(p); break;
            case rope_scaling::stepped_ntk: break;  // no dictionary names it
            case rope_scaling::dynamic_ntk: read_dynamic(p); break;
            case rope_scaling::yarn:
            case rope_scaling::dynamic_yarn: read_yarn(p); break;
            case rope_scaling::longrope:
                read_original_context(p);
                p.factor = c_.keys.number("factor");
                p.attention_factor = c_.keys.number("attention_factor");
                if (!p.factor && !p.attention_factor) require_max_context();
                p.short_factors = factors_of("short_factor");
                p.long_factors = factors_of("long_factor");
                p.short_mscale = c_.keys.number("short_mscale");
                p.long_mscale = c_.keys.number("long_mscale");
                if (c_.rules.length != length_rule::followed) {
                    keep_length(p, "longrope (the official code of this class keeps the short factors)");
                    p.long_factors = p.short_factors;
                    p.long_mscale = p.short_mscale;
                }
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

    /// Handles a key that only the official code follows: strict reading refuses it, lenient reading follows
    /// it.
    void refuse_quirk(const char* key, const char* must) {
        const auto* value = c_.keys.find(key);
        if (value == nullptr) value = c_.keys.find(key = "type");
        if (strict()) c_.keys.reject(key, must, value != nullptr ? *value : nlohmann::json());
        c_.ignored.push_back(c_.keys.path_of(key));
    }

    void keep_length(rope_parameters& p, const std::string& what) {
        if (c_.rules.length == length_rule::refused)
            return refuse_quirk("rope_type", ("another than " + what).c_str());
        follow_quirk(p, c_.keys.has("rope_type") ? "rope_type" : "type", what.c_str());
    }

    /// The same, but a strict reader follows it too and adds a note.
    void follow_quirk(rope_parameters& p, const char* key, const char* what) {
        c_.ignored.push_back(c_.keys.path_of(key));
        p.notes.emplace_back(what);
    }

    /// Reads NTK: alpha alone is the static form; factor is vLLM's and gte's form, which also scales the
    /// frequencies.
    void read_ntk(rope_parameters& p) {
        p.factor = c_.keys.number("alpha");
        if (p.factor) return;
        p.factor = required("factor");
        p.scaling = rope_scaling::fixed_ntk;
        p.mixed_b = c_.keys.number("mixed_b");
    }

    void read_dynamic(rope_parameters& p) {
        if (const auto alpha = c_.keys.number("alpha")) {
            // Hunyuan: its other keys have no effect up to the trained length.
            for (const char* inert : {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
                c_.keys.find(inert);
            p.factor = c_.keys.number("factor");
            if (!p.factor || c_.max_context == 0) {
                p.scaling = rope_scaling::ntk;
                p.factor = alpha;
                return;
            }
            p.alpha = alpha;
            p.notes.push_back(
                "past max_position_embeddings the official code forgets alpha and goes on as "
                "dynamic NTK by factor; other engines keep alpha");
            return;
        }
        if (c_.keys.word("rope_type").value_or("") == "xdrope" ||
            c_.keys.word("type").value_or("") == "xdrope") {
            p.scaling = rope_scaling::none;
            c_.keys.find("factor");
            return;
        }
        p.factor = required("factor");
        require_max_context();
        if (c_.rules.length == length_rule::followed) return;
        keep_length(p, "dynamic (the official code of this class never updates its frequencies)");
        p.scaling = rope_scaling::none;
    }

    std::vector<double> factors_of(const char* key) {
        if (!c_.keys.has(key)) missing(c_.keys, key);
        return c_.keys.numbers(key);
    }

    void read_yarn(rope_parameters& p) {
        read_original_context(p);
        if (p.scaling == rope_scaling::yarn && strict() && !c_.keys.node().contains("factor"))
            missing(c_.keys, "factor");
        p.factor = c_.keys.number("factor");
        if (!p.factor || p.scaling == rope_scaling::dynamic_yarn) require_max_context();
        const auto nonzero = [this](const char* key, double fallback) {  // zero counts as absent
            const double v = c_.keys.number(key).value_or(fallback);
            return v == 0 ? fallback : v;
        };
        p.attention_factor = c_.keys.number("attention_factor");
        // DeepSeek V4 does not scale cos and sin unless its config has an attention factor.
        if (c_.rules.place == slice_place::back && !p.attention_factor) p.attention_factor = 1;
        p.mscale = c_.keys.number("mscale").value_or(0);
        p.mscale_all_dim = c_.keys.number("mscale_all_dim").value_or(0);
        // The official code clamps a ramp that ends past the last pair. A ramp that runs downward is taken
        // for a mistake: strict reading refuses it.
        p.bounds = strict() ? frequencies::bounds_check::upward : frequencies::bounds_check::literal;
        p.beta_fast = nonzero("beta_fast", 32);
        p.beta_slow = nonzero("beta_slow", 1);
        p.truncate = c_.keys.flag("truncate").value_or(true);
        if (!p.truncate && c_.rules.rule == layer_rule::by_type) {
            p.truncate = true;
            follow_quirk(p, "truncate",
                         "the official code does not look at truncate in the dictionary of a layer type");
        }
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
