// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Merges rope_parameters and rope_scaling where a config.json has both.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/huggingface_rope.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Merges the two rope dictionaries that a config may have into one.
/// Source: huggingface/transformers modeling_rope_utils.py, standardize_rope_params.
struct huggingface_merge {
    json_object& top;
    const model_rules& rules;
    bool strict;
    std::vector<std::string>& ignored;

    static bool is_keyed_by_layer_type(const nlohmann::json& dict) {
        bool any = false, named = false;
        for (const auto& [key, value] : dict.items()) {
            any = any || value.is_object();
            named = named || (value.is_null() && key.ends_with("_attention"));
        }
        return any || named;
    }

    /// rope_parameters with the keys that rope_scaling adds to it, or adds to its full_attention where it is
    /// keyed by layer type. Where the two disagree, strict reading refuses and lenient reading keeps
    /// rope_parameters. Nothing is taken from a rope_scaling of another type.
    nlohmann::json merged(nlohmann::json now, const nlohmann::json& old) {
        const bool by_type = is_keyed_by_layer_type(now) && !is_keyed_by_layer_type(old);
        const bool fits = !by_type || (rules.rule == layer_rule::by_type && now.contains("full_attention") &&
                                       now["full_attention"].is_object());
        auto& into = by_type && fits ? now["full_attention"] : now;
        const auto type_of = [](const nlohmann::json& dict) {
            for (const char* key : {"rope_type", "type"})
                if (dict.contains(key) && !dict[key].is_null()) return key;
            return "";
        };
        const std::string type = type_of(into), old_type = type_of(old);
        const bool agree =
            type.empty() || old_type.empty() || huggingface_rope::same_scaling(into[type], old[old_type]);
        if (!fits || !agree) {
            if (strict && fits)
                top.reject("rope_scaling." + old_type, "what rope_parameters says", old[old_type]);
            if (strict && !old.empty()) top.reject("rope_scaling", "what rope_parameters says", old);
            if (!old.empty()) ignored.push_back(top.path_of("rope_scaling"));
            return now;
        }
        for (const auto& [key, value] : old.items()) {
            if (value.is_null() || (!type.empty() && key == old_type)) continue;
            auto& there = into[key];
            if (there.is_null()) {
                there = value;
            } else if (there != value) {
                if (strict) top.reject("rope_scaling." + key, "what rope_parameters says", value);
                ignored.push_back(top.path_of("rope_scaling." + key));
            }
        }
        return now;
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail
