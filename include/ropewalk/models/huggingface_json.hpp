// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/huggingface_models.hpp>
#include <ropewalk/models/huggingface_rope.hpp>
#include <ropewalk/models/model_config.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a config is read.
struct huggingface_reading {
    strictness keys = strictness::strict;    ///< whether a rope key that would be ignored is an error
    std::optional<pair_layout> layout = {};  ///< overrides the class's: for a model_type not in the table
};

namespace detail {

/// The keys of one config, what its class adds, and what is found out on the way.
class huggingface_reader {
  public:
    huggingface_reader(const nlohmann::json& node, std::string path, const huggingface_reading& reading)
        : reading_(reading), top_(who, node, std::move(path)) {}

    model_config read() {
        find_model();
        read_sizes();
        read_layers();
        for (const auto& key : top_.unread())
            if (key.find("rope") != std::string::npos || key.find("rotary") != std::string::npos ||
                (key == "use_dynamic_ntk" && top_.node().at(key) != false))
                pass_over(top_, key);
        return std::move(config_);
    }

  private:
    using rule = huggingface_model::layer_rule;
    using key_names = huggingface_model::key_names;
    static constexpr const char* who = "from_huggingface";

    bool strict() const noexcept { return reading_.keys == strictness::strict; }
    /// A key that changes nothing here: an error, or on the list of what was ignored.
    void pass_over(const json_object& object, const std::string& key) {
        if (strict())
            fail(std::string(who) + ": " + object.path_of(key) +
                 " must be a key that is read here (it would be ignored), got " +
                 object.node().at(key).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
        config_.ignored.push_back(object.path_of(key));
    }

    void find_model() {
        const auto type = top_.word("model_type");
        config_.model_type = type.value_or("");
        if (const auto* known = find_huggingface_model(config_.model_type)) {
            model_ = *known;
        } else if (strict() && !reading_.layout) {
            if (!type) top_.missing("model_type");
            top_.reject("model_type", "one whose pair layout is known here (or pass a layout)",
                        *top_.find("model_type"));
        } else if (type && !reading_.layout) {
            config_.ignored.push_back(top_.path_of("model_type"));
        }
        pair_layout read = model_.interleaved_pairs ? pair_layout(interleaved{}) : pair_layout(half_split{});
        pair_layout write = model_.latent_attention ? pair_layout(half_split{}) : read;
        if (model_.latent_attention && top_.flag("rope_interleave") == false) read = half_split{};
        config_.read_layout = reading_.layout.value_or(read);
        config_.write_layout = reading_.layout.value_or(write);
    }

    void read_sizes() {
        const auto hidden = top_.count_of({"hidden_size", "n_embd"});
        const auto heads = top_.count_of({"num_attention_heads", "n_head"});
        config_.query_heads = heads.value_or(0);
        config_.key_heads = top_.count_of({"num_key_value_heads", "num_kv_heads", "multi_query_group_num"})
                                .value_or(config_.query_heads);
        config_.layers = top_.count_of({"num_hidden_layers", "n_layer", "num_layers"}).value_or(0);
        if (config_.layers == 0) {
            if (strict()) top_.missing("num_hidden_layers");
            config_.layers = 1;
        }
        if (config_.layers > 65536)
            top_.reject("num_hidden_layers", "a number of layers <= 65536", config_.layers);
        max_context_ = static_cast<double>(
            top_.count_of({"max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"})
                .value_or(0));
        original_context_ = static_cast<double>(top_.count("original_max_position_embeddings").value_or(0));
        if (model_.latent_attention) {
            const auto rope = top_.count("qk_rope_head_dim");
            if (!rope) top_.missing("qk_rope_head_dim");
            config_.rotary_channels = *rope;
            config_.first_channel = top_.count("qk_nope_head_dim", 0).value_or(0);
            config_.head_dim = config_.first_channel + config_.rotary_channels;
            top_.find("head_dim");  // written as qk_rope_head_dim by some converters; the pair above decides
        } else if (const auto dim = top_.count_of({"head_dim", "kv_channels"})) {
            config_.head_dim = *dim;
        } else if (model_.default_head_dim != 0) {
            config_.head_dim = model_.default_head_dim;
        } else {
            if (!hidden) top_.missing("hidden_size");
            if (!heads) top_.missing("num_attention_heads");
            if (*hidden % *heads != 0)
                top_.reject("hidden_size", "a multiple of num_attention_heads", *hidden);
            config_.head_dim = *hidden / *heads;
        }
        if (config_.head_dim > 65536)
            top_.reject("head_dim", "a number of channels <= 65536", config_.head_dim);
        read_defaults();
    }

    /// The top-level keys that stand for keys of the rope dictionary.
    void read_defaults() {
        theta_ = top_.number("rope_theta");
        partial_ = top_.number("partial_rotary_factor");
        const auto legacy = [this](std::optional<double>& value, const char* key) {
            const auto old = top_.number(key);
            if (old && value && *old != *value) {
                if (strict()) top_.reject(key, "what the key of today says", *top_.find(key));
                config_.ignored.push_back(top_.path_of(key));
            }
            if (!value) value = old;
        };
        if (model_.keys == key_names::gpt_neox) {
            legacy(theta_, "rotary_emb_base");
            legacy(partial_, "rotary_pct");
        }
        if (model_.model_type == "stablelm") legacy(partial_, "rope_pct");
        if (model_.keys == key_names::gpt_j) {
            rotary_dim_ = top_.count("rotary_dim").value_or(64);
            top_.flag("rotary");  // GPT-J's oldest configs; always true
        }
        if (model_.keys == key_names::chatglm) {
            top_.flag("original_rope");
            // ChatGLM-6B: the first half of a head turns with the position, the second with the one in the
            // block, each half-split in itself.
            two_positions_ = top_.flag("position_encoding_2d").value_or(false);
            if (two_positions_ && !reading_.layout)
                config_.read_layout = config_.write_layout = pair_layout::blocked_by(config_.head_dim / 2);
            if (const auto ratio = top_.number("rope_ratio")) theta_ = theta_.value_or(1e4) * *ratio;
        }
    }

    void read_layers() {
        auto kinds = layer_kinds();
        const nlohmann::json* now = top_.find("rope_parameters");
        const nlohmann::json* old = top_.find("rope_scaling");
        for (const auto& [key, node] : {std::pair("rope_parameters", now), std::pair("rope_scaling", old)})
            if (node != nullptr && !node->is_object()) top_.reject(key, "an object or null", *node);
        nlohmann::json both;
        if (now != nullptr && old != nullptr) {
            both = merged(*now, *old);
            now = &both;
        }
        const nlohmann::json* dict = now != nullptr ? now : old;
        const std::string name = now != nullptr ? "rope_parameters" : "rope_scaling";
        std::map<std::string, int> rope_of_kind;
        if (dict != nullptr && is_keyed_by_layer_type(*dict)) {
            for (const auto& [kind, value] : dict->items())
                rope_of_kind[kind] =
                    value.is_null() ? -1 : add_rope(&value, top_.path_of(name + "." + kind), kind);
        } else {
            add_flat(dict, top_.path_of(name), rope_of_kind);
        }
        for (std::size_t l = 0; l < kinds.size(); ++l) {
            const auto at = rope_of_kind.find(kinds[l]);
            const auto any = rope_of_kind.find("");
            if (at == rope_of_kind.end() && any == rope_of_kind.end())
                top_.missing(kinds[l].empty() ? "layer_types" : name + "." + kinds[l]);
            config_.rope_of_layer.push_back(at != rope_of_kind.end() ? at->second : any->second);
        }
        silence_layers(kinds);
        if (std::all_of(config_.rope_of_layer.begin(), config_.rope_of_layer.end(),
                        [](int rope) { return rope == 0; }))
            config_.rope_of_layer.clear();
    }

    /// rope_parameters with what rope_scaling adds to it: where the first is keyed by layer type, to its
    /// full_attention. What the two say differently is refused, or leniently as rope_parameters has it;
    /// nothing is taken from a rope_scaling of another type.
    nlohmann::json merged(nlohmann::json now, const nlohmann::json& old) {
        const bool by_type = is_keyed_by_layer_type(now) && !is_keyed_by_layer_type(old);
        const bool fits = !by_type || (model_.rule == rule::layer_types && now.contains("full_attention") &&
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
            if (strict() && fits)
                top_.reject("rope_scaling." + old_type, "what rope_parameters says", old[old_type]);
            if (strict() && !old.empty()) top_.reject("rope_scaling", "what rope_parameters says", old);
            if (!old.empty()) config_.ignored.push_back(top_.path_of("rope_scaling"));
            return now;
        }
        for (const auto& [key, value] : old.items()) {
            if (value.is_null() || (!type.empty() && key == old_type)) continue;
            auto& there = into[key];
            if (there.is_null()) {
                there = value;
            } else if (there != value) {
                if (strict()) top_.reject("rope_scaling." + key, "what rope_parameters says", value);
                config_.ignored.push_back(top_.path_of("rope_scaling." + key));
            }
        }
        return now;
    }

    /// One set of parameters for all layers, or the two that the class derives from it.
    void add_flat(const nlohmann::json* dict, const std::string& path,
                  std::map<std::string, int>& rope_of_kind) {
        if (model_.rule != rule::layer_types) {
            rope_of_kind[""] = add_rope(dict, path, "");
            return;
        }
        const auto local = top_.number("rope_local_base_freq");
        static const nlohmann::json proportional = {{"rope_type", "proportional"},
                                                    {"partial_rotary_factor", 0.25}};
        if (dict == nullptr && model_.model_type == "gemma4_text") dict = &proportional;
        rope_of_kind["full_attention"] = add_rope(dict, path, "full_attention");
        rope_parameters sliding;
        sliding.name = "sliding_attention";
        sliding.max_context = max_context_;
        sliding.base =
            model_.local_theta != 0 ? local.value_or(model_.local_theta) : config_.ropes.front().base;
        rope_of_kind["sliding_attention"] = static_cast<int>(config_.ropes.size());
        config_.ropes.push_back(std::move(sliding));
    }

    std::vector<std::string> layer_kinds() {
        const auto layers = static_cast<std::size_t>(config_.layers);
        auto kinds = top_.words("layer_types");
        if (!kinds.empty()) {
            if (kinds.size() != layers)
                top_.reject("layer_types", "as long as num_hidden_layers", kinds.size());
            if (model_.model_type == "gemma4_text") kinds.back() = "full_attention";
            return kinds;
        }
        kinds.assign(layers, "");
        if (model_.rule != rule::layer_types && model_.rule != rule::sliding_only &&
            model_.rule != rule::attention_only)
            return kinds;
        const char* other = model_.rule == rule::attention_only ? "linear_attention" : "sliding_attention";
        const auto every = static_cast<std::size_t>(
            top_.count_of({"sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval"})
                .value_or(model_.every));
        for (std::size_t l = 0; l < layers; ++l) kinds[l] = (l + 1) % every != 0 ? other : "full_attention";
        if (model_.model_type == "gemma4_text") kinds.back() = "full_attention";
        return kinds;
    }

    /// NoPE layers.
    void silence_layers(const std::vector<std::string>& kinds) {
        auto& rope_of = config_.rope_of_layer;
        if (model_.keys == key_names::falcon && top_.flag("alibi") == true)
            rope_of.assign(rope_of.size(), -1);
        for (std::size_t l = 0; l < kinds.size(); ++l)
            if (kinds[l] == "linear_attention" ||
                (model_.rule == rule::sliding_only && kinds[l] == "full_attention"))
                rope_of[l] = -1;
        if (model_.rule != rule::no_rope_layers) return;
        const auto every =
            static_cast<std::size_t>(top_.count("no_rope_layer_interval").value_or(model_.every));
        const auto listed = top_.counts("no_rope_layers");
        if (!listed.empty() && listed.size() < rope_of.size())
            top_.reject("no_rope_layers", "as long as num_hidden_layers", listed.size());
        for (std::size_t l = 0; l < rope_of.size(); ++l)
            if (listed.empty() ? (l + 1) % every == 0 : listed[l] == 0) rope_of[l] = -1;
    }

    static bool is_keyed_by_layer_type(const nlohmann::json& dict) {
        for (const auto& [key, value] : dict.items())
            if (key.find("attention") == std::string::npos || !(value.is_null() || value.is_object()))
                return false;
        return !dict.empty();
    }

    int add_rope(const nlohmann::json* dict, const std::string& path, const std::string& kind) {
        static const nlohmann::json empty = nlohmann::json::object();
        json_object keys(who, dict != nullptr ? *dict : empty, path);
        rope_parameters p;
        p.name = kind;
        p.max_context = max_context_;
        p.base = base_of(keys, kind);
        p.partial_rotary_factor =
            keys.number("partial_rotary_factor").value_or(partial_.value_or(model_.default_partial));
        p.rotary_dim = rotary_dim_;
        if (two_positions_) {
            p.ladders = 2;
            p.partial_rotary_factor = 1;
        }
        if (model_.model_type == "gemma4_text" && kind == "full_attention")
            p.head_dim = top_.count("global_head_dim").value_or(512);
        huggingface_rope({.keys = keys,
                          .top = top_,
                          .read = reading_.keys,
                          .max_context = max_context_,
                          .original_context = original_context_,
                          .latent_attention = model_.latent_attention,
                          .ignored = config_.ignored})
            .read_into(p);
        read_sections(keys, p);
        if (model_.model_type == "llama4_text" && top_.flag("attn_temperature_tuning").value_or(true))
            p.notes.push_back(
                "queries of NoPE layers are multiplied by a factor of the position "
                "(attn_temperature_tuning)");
        if (model_.model_type == "roformer" && top_.flag("rotary_value").value_or(false))
            p.notes.push_back("values turn as well (rotary_value)");
        if (top_.flag("use_logn_attn").value_or(false))
            p.notes.push_back(
                "queries beyond the trained length are multiplied by the logarithm of their position to its "
                "base (use_logn_attn)");
        for (const auto& key : keys.unread()) pass_over(keys, key);
        config_.ropes.push_back(std::move(p));
        return static_cast<int>(config_.ropes.size()) - 1;
    }

    double base_of(json_object& keys, const std::string& kind) {
        const auto inside = keys.number("rope_theta");
        if (inside && theta_ && *inside != *theta_ && kind.empty()) {
            if (strict())
                keys.reject("rope_theta", "what the top-level rope_theta says", *keys.find("rope_theta"));
            config_.ignored.push_back(top_.path_of("rope_theta"));
        }
        if (inside) return *inside;
        return theta_.value_or(kind == "sliding_attention" && model_.local_theta != 0 ? model_.local_theta
                                                                                      : model_.default_theta);
    }

    void read_sections(json_object& keys, rope_parameters& p) {
        p.sections = keys.counts("mrope_section");
        if (p.sections.empty() && model_.default_sections != std::array<int, 3>{})
            p.sections.assign(model_.default_sections.begin(), model_.default_sections.end());
        const bool spread = keys.flag("mrope_interleaved").value_or(model_.interleaved_sections);
        p.order = spread ? section_order::interleaved : section_order::contiguous;
        if (p.sections.empty()) return;
        index pairs = 0;
        for (index n : p.sections) pairs += n;
        const auto channels = frequencies::partial_rotary_dim(config_.head_dim, p.partial_rotary_factor);
        if (2 * pairs != channels)
            keys.reject("mrope_section", ("sections of " + text(channels / 2) + " pairs in all").c_str(),
                        pairs);
    }

    huggingface_reading reading_;
    json_object top_;
    huggingface_model model_;
    model_config config_;
    double max_context_ = 0;
    double original_context_ = 0;
    std::optional<double> theta_;
    std::optional<double> partial_;
    index rotary_dim_ = 0;
    bool two_positions_ = false;
};

}  // namespace detail

/// Reads a model's own config.json: the keys of Hugging Face transformers v4 (rope_scaling, rope_theta and
/// their older spellings) and v5 (rope_parameters, also one dictionary a layer type). A config with a
/// text_config is read through it, one with a thinker_config (Qwen2.5-Omni) through that; one that has both
/// rope_parameters and rope_scaling is read as the two merged. The schemes are built once to check every
/// value.
/// Throws:   invalid_config naming the key path and the value: a wrong type, a missing key, an impossible
///           number; in strict reading also an unknown model_type or rope_type, a YaRN ramp whose ends lie
///           outside the pairs, two keys that disagree and any rope key that would be ignored.
/// Cost:     under a millisecond a config.
/// Source:   huggingface/transformers modeling_rope_utils.py and models/*/configuration_*.py.
inline model_config from_huggingface(const nlohmann::json& config, const huggingface_reading& reading = {}) {
    const nlohmann::json* node = &config;
    std::string path;
    for (const char* inner : {"thinker_config", "text_config"}) {
        if (!node->is_object() || !node->contains(inner) || !(*node)[inner].is_object()) continue;
        node = &(*node)[inner];
        path += (path.empty() ? "" : ".") + std::string(inner);
    }
    detail::huggingface_reader reader(*node, path, reading);
    auto read = reader.read();
    make_model_schemes(read);
    return read;
}

}  // namespace ROPEWALK_NAMESPACE
