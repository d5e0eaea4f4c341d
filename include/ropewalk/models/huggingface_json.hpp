// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// from_huggingface: reads the rotary embedding of a model from its config.json.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/huggingface_layers.hpp>
#include <ropewalk/models/huggingface_merge.hpp>
#include <ropewalk/models/huggingface_rope.hpp>
#include <ropewalk/models/huggingface_sizes.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/model_types_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a config.json is read.
struct huggingface_reading {
    strictness keys = strictness::strict;    ///< whether a rope key that would be ignored is an error
    std::optional<pair_layout> layout = {};  ///< overrides the class's: for a model_type not in the table
};

namespace detail {

/// Reads one config: its keys, the rules of its class, and the results so far.
class huggingface_reader {
  public:
    huggingface_reader(const nlohmann::json& node, std::string path, const huggingface_reading& reading,
                       std::string_view wrapper)
        : reading_(reading), top_(who, node, std::move(path)), wrapper_(wrapper) {}

    model_config read() {
        find_model();
        refuse_other_rules();
        read_sizes(size_context());
        read_softmax_scale(size_context(), known_);
        read_dual_chunk(size_context());
        layers_ = huggingface_layers({top_, rules_, known_, strict(), config_.layers}).read();
        config_.because.insert(config_.because.end(), layers_.because.begin(), layers_.because.end());
        read_indexer();
        read_ropes();
        for (const auto& key : top_.unread_rotary()) pass_over(top_, key);
        // Two kinds of layers that share a dictionary list its keys twice.
        std::set<std::string> seen;
        std::erase_if(config_.ignored, [&](const auto& key) { return !seen.insert(key).second; });
        return std::move(config_);
    }

  private:
    static constexpr const char* who = "from_huggingface";
    static constexpr std::size_t most_ropes = 256;  // different sets of parameters in one model
    static constexpr std::size_t most_channels = std::size_t{1} << 20;  // of all of them together

    bool strict() const noexcept { return reading_.keys == strictness::strict; }
    /// Handles a key that has no effect: an error in strict reading, else it is listed as ignored.
    void pass_over(const json_object& object, const std::string& key) {
        const auto& value = object.node().at(key);
        if (value.is_null()) return;
        if (strict())
            fail(std::string(who) + ": " + object.path_of(key) +
                 " must be a key that is read here (it would be ignored), got " + json_text(value));
        config_.ignored.push_back(object.path_of(key));
    }

    huggingface_sizes size_context() {
        return {.top = top_, .rules = rules_, .strict = strict(), .config = config_, .found = sizes_};
    }

    void find_model() {
        const auto type = top_.word("model_type");
        config_.model_type = type.value_or("");
        const auto* rules = find_model_rules(type.value_or(std::string(wrapper_)));
        // The protein encoder of Evolla writes its class as "".
        if (type == std::string() && top_.node().contains("emb_layer_norm_before"))
            rules = find_model_rules("esm");
        if (rules == nullptr && !wrapper_.empty() && type.value_or("").empty())
            rules = find_model_rules(wrapper_);
        known_ = rules != nullptr;
        if (known_) {
            rules_ = *rules;
            if (config_.model_type.empty()) config_.model_type = rules_.model_type;
            config_.because.push_back("class " + std::string(rules_.model_type));
        } else {
            rules_.honours_partial = true;
            if (strict() && !reading_.layout) {
                if (!type) top_.missing("model_type");
                top_.reject("model_type", "one whose pair layout is known here (or pass a layout)",
                            *top_.find("model_type"));
            }
            if (type) config_.ignored.push_back(top_.path_of("model_type"));
        }
        choose_layouts();
    }

    void choose_layouts() {
        auto order = rules_.pairs;
        const auto says = [&](const char* key) -> std::optional<bool> {
            return top_.has(key) ? top_.flag(key) : std::optional<bool>{};
        };
        // Keys that give the pair layout; one that agrees with the class has no effect.
        for (const char* key : {"rope_interleave", "rope_interleaved", "rotary_emb_interleaved"}) {
            const auto interleaved_pairs = says(key);
            if (!interleaved_pairs) continue;
            if (!*interleaved_pairs)
                order = pair_order::half;
            else if (order == pair_order::half)
                order = rules_.place == slice_place::behind_nope ? pair_order::adjacent_to_half
                                                                 : pair_order::adjacent;
        }
        const auto layout_of = [](bool half) {
            return half ? pair_layout(half_split{}) : pair_layout(interleaved{});
        };
        config_.read_layout = reading_.layout.value_or(layout_of(order == pair_order::half));
        config_.write_layout = reading_.layout.value_or(layout_of(order != pair_order::adjacent));
        if (rules_.keys == key_names::chatglm) {
            // ChatGLM-6B: the first half of a head rotates with the position in the text, the second with
            // that in the block; each half is half-split within itself.
            top_.flag("original_rope");
            sizes_.two_positions = top_.flag("position_encoding_2d").value_or(false);
        }
    }

    /// Refuses rules that this reader does not follow, and rules whose meaning is unknown for an unknown class.
    void refuse_other_rules() {
        if (top_.has("use_mrope")) {
            const bool on = top_.flag("use_mrope").value_or(false);
            const auto* dict = top_.find("rope_scaling");
            if (on && (dict == nullptr || !dict->is_object() || !dict->contains("mrope_section")))
                pass_over_with("use_mrope", "false where there is no mrope_section");
        }
        if (known_) return;
        if (strict() && !top_.has("rope_theta") && !has_dictionary()) top_.missing("rope_theta");
        for (const char* key :
             {"attn_layer_period", "linear_attn_config", "per_layer_config", "qk_rope_head_dim", "kda_layers",
              "layer_switch", "sliding_window_pattern", "_sliding_window_pattern",
              "global_attn_every_n_layers", "no_rope_layer_interval", "full_attention_interval",
              "use_dynamic_ntk", "use_logn_attn"})
            if (const auto* value = top_.find(key); value != nullptr && *value != false)
                pass_over_with(key,
                               "absent in a model_type that is not known (its class gives it a meaning)");
    }
    bool has_dictionary() {
        for (const char* key : {"rope_parameters", "rope_scaling"})
            if (const auto* dict = top_.find(key); dict != nullptr && dict->is_object())
                for (const auto& [name, value] : dict->items())
                    if (name == "rope_theta" || value.is_object()) return true;
        return false;
    }
    void pass_over_with(const char* key, const char* must) {
        if (strict()) top_.reject(key, must, *top_.find(key));
        config_.ignored.push_back(top_.path_of(key));
    }

    void read_indexer() {
        if (rules_.indexer == indexer_kind::none) return;
        config_.rotates_output_back = rules_.place == slice_place::back;
        config_.indexer_dim = saturated(top_.count("index_head_dim").value_or(128));
        auto order = rules_.indexer;
        if (top_.flag("indexer_rope_interleave") == false) order = indexer_kind::half;
        config_.indexer_layout =
            order == indexer_kind::half ? pair_layout(half_split{}) : pair_layout(interleaved{});
        config_.because.push_back("a sparse indexer rotates heads of its own");
    }

    // ---- the rope dictionaries

    void read_ropes() {
        const nlohmann::json* now = top_.find("rope_parameters");
        const nlohmann::json* old = top_.find("rope_scaling");
        for (const auto& [key, node] : {std::pair("rope_parameters", now), std::pair("rope_scaling", old)})
            if (node != nullptr && !node->is_object()) top_.reject(key, "an object or null", *node);
        if (old != nullptr && now == nullptr && rules_.ignores_rope_scaling) {
            config_.ignored.push_back(top_.path_of("rope_scaling"));
            config_.because.push_back("the official code of this class does not look at rope_scaling");
            old = nullptr;
        }
        nlohmann::json both;
        if (now != nullptr && old != nullptr) {
            both = huggingface_merge({top_, rules_, strict(), config_.ignored}).merged(*now, *old);
            now = &both;
        }
        dict_ = now != nullptr ? now : old;
        name_ = now != nullptr ? "rope_parameters" : "rope_scaling";
        by_type_ = dict_ != nullptr && huggingface_merge::is_keyed_by_layer_type(*dict_);
        if (by_type_) pass_over_flat_keys();
        if (!known_ && !by_type_) require_one_kind();
        // Layers with the same type, base, rotary share and size share one rope.
        std::map<std::string, int> plain;
        const bool lists = !layers_.theta.empty() || !layers_.partial.empty() || !layers_.head_dim.empty();
        if (!lists && (by_type_ || rules_.rule == layer_rule::by_type))
            for (std::size_t l = 0; l < layers_.kinds.size();
                 ++l)  // the parameters of full layers come first
                if (const auto kind = dictionary_of(layers_.kinds[l]); !layers_.nope[l] && !is_local(kind)) {
                    plain[kind] = rope_of(kind);
                    break;
                }
        for (std::size_t l = 0; l < layers_.kinds.size(); ++l) {
            if (layers_.nope[l]) {
                config_.rope_of_layer.push_back(-1);
                continue;
            }
            layer_ = lists ? static_cast<index>(l) : index{-1};
            const auto kind = dictionary_of(layers_.kinds[l]);
            const auto at = plain.find(kind);
            const int rope = !lists && at != plain.end() ? at->second : rope_of(kind);
            if (!lists) plain[kind] = rope;
            config_.rope_of_layer.push_back(rope);
        }
        check_unused_dictionaries();
        if (std::all_of(config_.rope_of_layer.begin(), config_.rope_of_layer.end(),
                        [](int rope) { return rope == 0; }))
            config_.rope_of_layer.clear();
    }

    /// An unknown class may treat its layer types differently, so only one type of attention is accepted.
    void require_one_kind() {
        for (const auto& kind : layers_.kinds)
            if (huggingface_layers::has_attention(kind) && kind != layers_.kinds.front() &&
                huggingface_layers::has_attention(layers_.kinds.front()) && top_.has("layer_types"))
                return pass_over_with("layer_types",
                                      "of one type of attention in a model_type that is not known, where the "
                                      "rope dictionary is not keyed by them");
    }

    /// The dictionary, or set of class defaults, of a layer type; "" where the class has only one.
    std::string dictionary_of(const std::string& kind) const {
        if (rules_.flat == flat_scaling::compressed_only)
            return kind == "sliding_attention" ? "main" : "compress";
        if (by_type_ || rules_.rule == layer_rule::by_type)
            return kind == "full_attention" && !rules_.first_type.empty() ? std::string(rules_.first_type)
                                                                          : kind;
        return "";
    }
    bool is_local(const std::string& kind) const {
        return kind == "sliding_attention" || kind == "main" || kind == "hybrid_sliding" ||
               kind == "local_attention";
    }

    int rope_of(const std::string& kind) {
        if (by_type_) {
            const auto at = dict_->find(kind);
            if (!layers_.typed) top_.missing("layer_types");
            if (at == dict_->end()) {
                if (!dict_->contains("full_attention") || rules_.rule == layer_rule::by_type)
                    top_.missing(name_ + "." + kind);
                return rope_of("full_attention");
            }
            if (at->is_null()) return -1;
            return add_rope(&*at, top_.path_of(name_ + "." + kind), kind);
        }
        const bool flat_applies = rules_.rule != layer_rule::by_type ||
                                  rules_.flat == flat_scaling::everywhere || !is_local(kind) ||
                                  !applies_to_full_only();
        return add_rope(flat_applies ? dict_ : nullptr, top_.path_of(name_), kind);
    }
    /// Step-3.5 lists the layer types to which its scaling applies.
    bool applies_to_full_only() {
        const auto only = top_.words("yarn_only_types");
        return only.empty() || std::find(only.begin(), only.end(), "sliding_attention") == only.end();
    }

    /// Dictionaries of types that no layer has: their keys are not checked, so they are only reported.
    void check_unused_dictionaries() {
        if (!by_type_ || known_) return;
        for (const auto& [kind, value] : dict_->items())
            if (value.is_object() &&
                std::find(layers_.kinds.begin(), layers_.kinds.end(), kind) == layers_.kinds.end())
                config_.ignored.push_back(top_.path_of(name_ + "." + kind));
    }
    /// Keys beside the dictionaries of layer types: every type has its own dictionary, so they have no
    /// effect.
    void pass_over_flat_keys() {
        for (const auto& [key, value] : dict_->items())
            if (!value.is_object() && !value.is_null())
                config_.ignored.push_back(top_.path_of(name_ + "." + key));
    }

    int add_rope(const nlohmann::json* dict, const std::string& path, const std::string& kind) {
        static const nlohmann::json empty = nlohmann::json::object();
        json_object keys(who, dict != nullptr ? *dict : empty, path);
        huggingface_rope_numbers numbers{.keys = keys,
                                         .top = top_,
                                         .rules = rules_,
                                         .strict = strict(),
                                         .known = known_,
                                         .kind = kind,
                                         .local = is_local(kind),
                                         .layer = layer_,
                                         .layers = layers_,
                                         .sizes = sizes_,
                                         .config = config_};
        rope_parameters p = read_numbers(numbers);
        if (rules_.scaling != nullptr && !is_local(kind) && !has_type(keys)) {
            take_default_scaling(numbers, p, *rules_.scaling);
            for (const char* key : {"partial_rotary_factor", "rope_theta"}) keys.find(key);
        } else {
            huggingface_rope({.keys = keys,
                              .top = top_,
                              .read = reading_.keys,
                              .max_context = sizes_.max_context,
                              .original_context = sizes_.original_context,
                              .latent_attention = rules_.place == slice_place::behind_nope,
                              .rules = rules_,
                              .by_type = by_type_,
                              .ignored = config_.ignored})
                .read_into(p);
        }
        read_stepped_ntk(p);
        settle_share(numbers, p);
        read_sections(numbers, p);
        note_other_factors(numbers, p);
        for (const char* inert : {"max_position_embeddings", "apply_yarn_scaling"}) keys.find(inert);
        for (const auto& key : keys.unread()) pass_over(keys, key);
        return place_of(std::move(p), path);
    }

    /// The index of the rope with these parameters: layers with equal parameters and name share one. Past 16
    /// ropes names are ignored.
    int place_of(rope_parameters p, const std::string& path) {
        constexpr std::size_t most_named = 16;
        for (std::size_t i = 0; i < config_.ropes.size(); ++i) {
            if (config_.ropes.size() >= most_named) p.name = config_.ropes[i].name;
            if (config_.ropes[i] == p) return static_cast<int>(i);
        }
        const auto channels = static_cast<std::size_t>(std::max(p.head_dim, config_.head_dim));
        if (config_.ropes.size() == std::min(most_ropes, std::max(most_named, most_channels / channels)))
            fail(std::string(who) + ": " + path + " must be one of at most " +
                 text(static_cast<index>(config_.ropes.size())) +
                 " different sets of rope parameters, got more");
        config_.ropes.push_back(std::move(p));
        return static_cast<int>(config_.ropes.size()) - 1;
    }
    bool has_type(json_object& keys) { return keys.has("rope_type") || keys.has("type"); }

    /// Qwen-1's own dynamic NTK; in any other class the key has no effect.
    void read_stepped_ntk(rope_parameters& p) {
        if (!known_ || !top_.flag("use_dynamic_ntk").value_or(false)) return;
        if (rules_.keys != key_names::qwen) return pass_over(top_, "use_dynamic_ntk");
        if (sizes_.max_context == 0) top_.missing("seq_length");
        if (p.scaling == rope_scaling::none) p.scaling = rope_scaling::stepped_ntk;
    }

    huggingface_reading reading_;
    json_object top_;
    std::string wrapper_;
    model_rules rules_;
    model_config config_;
    sizes_found sizes_;
    layer_reading layers_;
    const nlohmann::json* dict_ = nullptr;
    std::string name_;
    bool known_ = false;
    bool by_type_ = false;
    index layer_ = -1;
};

}  // namespace detail

/// Reads a model's own config.json: the keys of Hugging Face transformers v4 (rope_scaling, rope_theta and
/// their older spellings) and v5 (rope_parameters, also one dictionary per layer type). A config that wraps a
/// text model is read through the key that holds it (text_config, thinker_config, vlm_config, llm_config,
/// language_config ...); if it has both rope_parameters and rope_scaling, they are merged. The schemes are
/// built once to check every value.
/// Throws:   invalid_config naming the key path and the value: a wrong type, a missing key, a number out of
///           range, more than 65536 layers or 65536 channels per head, nesting deeper than 64. Strict reading
///           also refuses an unknown model_type or rope_type, a YaRN ramp whose ends lie outside the pairs,
///           two keys that disagree and any rope key that would be ignored.
/// Cost:     under 0.3 ms per config.
/// Source:   huggingface/transformers modeling_rope_utils.py and models/*/configuration_*.py.
inline model_config from_huggingface(const nlohmann::json& config, const huggingface_reading& reading = {}) {
    detail::require_shallow("from_huggingface", config);
    const nlohmann::json* node = &config;
    std::string path, wrapper;
    for (bool deeper = true; deeper && node->is_object();) {
        deeper = false;
        for (const auto key : detail::text_config_keys) {
            const auto inner = node->find(std::string(key));
            if (inner == node->end() || !inner->is_object()) continue;
            const auto type = node->find("model_type");
            if (type != node->end() && type->is_string()) wrapper = type->get<std::string>();
            node = &*inner;
            path += (path.empty() ? "" : ".") + std::string(key);
            deeper = true;
            break;
        }
    }
    detail::huggingface_reader reader(*node, path, reading, wrapper);
    auto read = reader.read();
    make_model_schemes(read);
    return read;
}

}  // namespace ROPEWALK_NAMESPACE
