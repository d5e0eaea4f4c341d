// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads from a config.json which layers have attention, which type each has, and which are NoPE.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/model_types.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// What a config and its class state about each layer.
struct layer_reading {
    bool typed = false;                       ///< whether the config or the class has layer types
    std::vector<std::string> kinds = {};      ///< [layers], the layer type
    std::vector<bool> nope = {};              ///< [layers]
    std::vector<double> theta = {};           ///< [layers] or empty
    std::vector<double> partial = {};         ///< [layers] or empty
    std::vector<std::int64_t> head_dim = {};  ///< [layers] or empty
    std::vector<std::string> because = {};    ///< which rules decided, in words
};

/// The inputs of huggingface_layers.
struct layer_context {
    json_object& top;
    const model_rules& rules;
    bool known;  ///< whether the class is in the table; only understood keys of other classes are read
    bool strict;
    std::int64_t layers;  ///< 0: unknown
};

/// Reads which layers have attention, which type each one is, and which of them are NoPE.
/// Source: huggingface/transformers models/*/configuration_*.py, layer_types and what came before it.
class huggingface_layers {
  public:
    explicit huggingface_layers(const layer_context& context) : c_(context) {}

    /// The length of the list of layer types, for configs that do not give the number of layers.
    static std::int64_t counted(json_object& top) {
        for (const char* key : {"layer_types", "layers_block_type"}) {
            const auto* list = top.find(key);
            if (list != nullptr && list->is_array()) return static_cast<std::int64_t>(list->size());
        }
        const auto* pattern = top.find("hybrid_override_pattern");
        if (pattern == nullptr || !pattern->is_string()) return 0;
        return static_cast<std::int64_t>(pattern->get_ref<const std::string&>().size());
    }

    layer_reading read() {
        const auto n = static_cast<std::size_t>(c_.layers);
        r_.nope.assign(n, false);
        r_.typed = read_types() || read_numbers() || read_indices();
        if (!r_.typed) take_default_map();
        if (c_.rules.last_is_full) r_.kinds.back() = full;
        silence_types();
        read_lists();
        read_switches();
        read_per_layer_config();
        return std::move(r_);
    }

    static bool has_attention(std::string_view kind) {
        static constexpr std::array<std::string_view, 10> without = {
            "linear_attention", "mamba", "mamba2", "conv", "recurrent", "moe", "mlp", "ssm", "kda", "linear"};
        return std::find(without.begin(), without.end(), kind) == without.end();
    }

  private:
    static constexpr const char* full = "full_attention";
    static constexpr const char* sliding = "sliding_attention";
    static constexpr const char* linear = "linear_attention";

    std::size_t size() const noexcept { return static_cast<std::size_t>(c_.layers); }
    void say(std::string text) { r_.because.push_back(std::move(text)); }

    static bool is_known_kind(std::string_view kind) {
        return !has_attention(kind) || kind.ends_with("attention") || kind.starts_with("hybrid");
    }

    /// Reads lists of words, one per layer; "block_types" is repeated until all layers have one.
    bool read_types() {
        bool found = false;
        for (const char* key : {"layer_types", "layers_block_type", "block_types"}) {
            const auto* list = c_.top.find(key);
            if (list == nullptr || found) continue;
            auto words = c_.top.words(key);
            if (words.empty()) continue;
            const bool cycles = std::string_view(key) == "block_types";
            if (!cycles && words.size() != size())
                c_.top.reject(key, "as long as num_hidden_layers", words.size());
            for (const auto& word : words)
                if (c_.strict && !is_known_kind(word))
                    c_.top.reject(key, "of layer types that are known here", word);
            r_.kinds.resize(size());
            for (std::size_t l = 0; l < size(); ++l)
                r_.kinds[l] = cycles ? words[l % words.size()] : std::move(words[l]);
            say(std::string("layer types from ") + key);
            found = true;
        }
        const auto pattern = c_.top.find("hybrid_override_pattern") != nullptr
                                 ? c_.top.word("hybrid_override_pattern")
                                 : std::optional<std::string>{};
        if (found || !pattern) return found;
        if (pattern->size() != size())
            c_.top.reject("hybrid_override_pattern", "as long as num_hidden_layers", pattern->size());
        for (char letter : *pattern) r_.kinds.emplace_back(letter == '*' ? full : linear);
        say("layer types from hybrid_override_pattern");
        return true;
    }

    /// Reads lists of numbers, one per layer, whose 1 or 0 gives the kind of the layer.
    bool read_numbers() {
        struct list {
            const char* key;
            const char* zero;
            const char* other;
        };
        static constexpr std::array<list, 3> lists = {{{"attn_type_list", linear, full},
                                                       {"hybrid_layer_pattern", full, sliding},
                                                       {"compress_ratios", sliding, "sparse_attention"}}};
        for (const auto& one : lists) {
            if (!c_.top.has(one.key)) continue;
            const auto numbers = c_.top.counts(one.key);
            if (numbers.size() < size())  // numbers of layers that predict further tokens may follow
                c_.top.reject(one.key, "as long as num_hidden_layers", numbers.size());
            for (std::size_t l = 0; l < size(); ++l)
                r_.kinds.emplace_back(numbers[l] == 0 ? one.zero : one.other);
            say(std::string("layer types from ") + one.key);
            return true;
        }
        return false;
    }

    /// Reads lists of the indices of layers that have attention.
    bool read_indices() {
        for (const char* key : {"attn_layer_indices", "hybrid_layer_ids", "full_attn_idxs"}) {
            if (!c_.top.has(key)) continue;
            r_.kinds.assign(size(), linear);
            for (const auto l : c_.top.counts(key)) {
                if (l >= c_.layers) c_.top.reject(key, "indices below num_hidden_layers", l);
                r_.kinds[static_cast<std::size_t>(l)] = full;
            }
            say(std::string("layers with attention from ") + key);
            return true;
        }
        return false;
    }

    /// The period of the layer map: the config's, under any of its names, or the class's.
    std::size_t period() {
        std::int64_t every = c_.rules.every;
        for (const char* key :
             {"sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval",
              "global_attn_every_n_layers", "layer_switch", "no_rope_layer_interval"}) {
            const auto* value = c_.top.find(key);
            if (value == nullptr) continue;
            const bool word = value->is_string();  // "LLLG": the last of them is global
            const auto n = word ? static_cast<std::int64_t>(value->get_ref<const std::string&>().size())
                                : c_.top.count(key).value_or(every);
            if (n < 1) c_.top.reject(key, "a period >= 1", *value);
            if (c_.rules.every != 0) every = n;
        }
        return static_cast<std::size_t>(every);
    }

    /// Whether layer l is marked by the class's map.
    bool is_marked(std::size_t l, std::size_t every) const {
        switch (c_.rules.map) {
            case layer_map::every_last: return every != 0 && (l + 1) % every == 0;
            case layer_map::every_first: return every != 0 && l % every == 0;
            case layer_map::every_first_and_last: return l == 0 || (every != 0 && (l + 1) % every == 0);
            case layer_map::every_last_but_one: return every != 0 && (l + 2) % every == 0;
            case layer_map::listed: break;
        }
        for (const auto marked : *c_.rules.listed) {
            if (marked < 0) break;
            if (marked == static_cast<std::int64_t>(l)) return true;
        }
        return false;
    }

    void take_default_map() {
        const auto every = period();
        const bool two_kinds = c_.rules.every != 0 || c_.rules.map == layer_map::listed;
        const auto rule = c_.rules.rule;
        const bool cross = rule == layer_rule::cross_is_nope || rule == layer_rule::no_rope_list;
        const char* other = rule == layer_rule::attention_only ? linear : sliding;
        r_.kinds.assign(size(), full);
        if (c_.rules.local_theta == 1e4 && c_.rules.flat == flat_scaling::compressed_only) return;
        r_.typed = two_kinds || rule == layer_rule::by_type;
        if (!two_kinds || cross) return;
        for (std::size_t l = 0; l < size(); ++l)
            if (!is_marked(l, every)) r_.kinds[l] = other;
        say("layer types from the class: every " + text(static_cast<std::int64_t>(every)) + ". layer");
    }

    void silence_types() {
        const auto rule = c_.rules.rule;
        bool full_is_nope = rule == layer_rule::full_is_nope;
        if (rule == layer_rule::full_is_nope_by_window) {
            const auto at = c_.top.node().find("sliding_window");
            full_is_nope = at == c_.top.node().end() || !at->is_null();
        }
        if (full_is_nope) say("full-attention layers are NoPE in this class");
        for (std::size_t l = 0; l < size(); ++l)
            r_.nope[l] = rule == layer_rule::none || !has_attention(r_.kinds[l]) ||
                         (full_is_nope && r_.kinds[l] == full);
        if (rule == layer_rule::none) say("no layer of this class rotates");
    }

    /// Reads lists of NoPE layers, and of one base or rotary share per layer.
    void read_lists() {
        const auto rule = c_.rules.rule;
        if (rule == layer_rule::no_rope_list || !c_.known) {
            const auto listed = c_.top.counts("no_rope_layers");
            if (!listed.empty() && listed.size() < size())
                c_.top.reject("no_rope_layers", "as long as num_hidden_layers", listed.size());
            const auto every = period();
            for (std::size_t l = 0; l < size(); ++l)
                if (listed.empty() ? is_marked(l, every) : listed[l] == 0) r_.nope[l] = true;
            if (rule == layer_rule::no_rope_list)
                say(listed.empty() ? "NoPE layers from the class's period"
                                   : "NoPE layers from no_rope_layers");
        }
        if (rule == layer_rule::cross_is_nope || c_.top.has("cross_attention_layers")) {
            const bool given = c_.top.has("cross_attention_layers");
            for (const auto l : c_.top.counts("cross_attention_layers"))
                if (l < c_.layers) r_.nope[static_cast<std::size_t>(l)] = true;
            for (std::size_t l = 0; !given && l < size(); ++l)
                if (is_marked(l, period())) r_.nope[l] = true;
            say("cross-attention layers do not rotate");
        }
        if (const auto* flags = c_.top.find("use_rope_layers"); flags != nullptr) {
            const auto listed = c_.top.counts("use_rope_layers");
            if (!listed.empty() && listed.size() != size())
                c_.top.reject("use_rope_layers", "empty or as long as num_hidden_layers", listed.size());
            for (std::size_t l = 0; l < listed.size(); ++l)
                if (listed[l] == 0) r_.nope[l] = true;
        }
        read_bases();
        r_.partial = list_of("partial_rotary_factors");
    }

    std::vector<double> list_of(const char* key) {
        auto values = c_.top.numbers(key);
        if (!values.empty() && values.size() < size())
            c_.top.reject(key, "as long as num_hidden_layers", values.size());
        return values;
    }

    /// Reads one base per layer; 0 means NoPE. Where all other bases are equal and the config also gives a
    /// single base, the list only marks layers: the official code rotates with the base of the dictionary.
    void read_bases() {
        const auto* list = c_.top.find("rope_theta");
        const char* key = list != nullptr && list->is_array() ? "rope_theta" : "layer_rope_theta";
        r_.theta = list_of(key);
        if (r_.theta.empty()) return;
        double first = 0;
        bool alike = true;
        for (std::size_t l = 0; l < size(); ++l) {
            const double base = r_.theta[l];
            if (base < 0) c_.top.reject(key, "bases > 0, or 0 for NoPE", base);
            // The list decides for every layer with attention, whatever its type.
            r_.nope[l] = base == 0 || !has_attention(r_.kinds[l]);
            if (first == 0) first = base;
            alike = alike && (base == 0 || base == first);
        }
        say(std::string("NoPE layers from ") + key);
        if (alike && says_base(list)) r_.theta.clear();
    }
    bool says_base(const nlohmann::json* theta) {
        if (theta != nullptr) return !theta->is_array();
        for (const char* key : {"rope_parameters", "rope_scaling"})
            if (const auto* dict = c_.top.find(key);
                dict != nullptr && dict->is_object() && dict->contains("rope_theta"))
                return true;
        return false;
    }

    /// Reads keys that switch the rotation of all layers off, or state that it is on.
    void read_switches() {
        bool off = false;
        const auto switched = [&](const char* key, bool on) {
            if (!c_.top.has(key)) return;
            const auto value = c_.top.flag(key);
            if (value && *value != on) off = true, say(std::string(key) + " turns the rotation off");
        };
        switched("use_rotary_pos_emb", true);
        switched("use_rope", true);
        switched("use_mem_rope", true);
        switched("mla_use_nope", false);
        if (c_.rules.keys == key_names::falcon || !c_.known) switched("alibi", false);
        if (const auto* type = c_.top.find("position_embedding_type"); type != nullptr) {
            const auto word = c_.top.word("position_embedding_type").value_or("");
            const bool rotary = word.starts_with("rope") || word == "rotary";
            if (c_.rules.reads_position_type && !rotary)
                off = true, say("position_embedding_type turns the rotation off");
            if (!c_.known && !rotary && c_.strict)
                c_.top.reject("position_embedding_type", "one of rope, rotary", *type);
        }
        if (off) r_.nope.assign(size(), true);
    }

    /// Reads sizes of single layers: {"05": {"head_dim": 512}}.
    void read_per_layer_config() {
        const auto* all = c_.top.find("per_layer_config");
        if (all == nullptr) return;
        if (!all->is_object()) c_.top.reject("per_layer_config", "an object", *all);
        r_.head_dim.assign(size(), 0);
        for (const auto& [name, node] : all->items()) {
            const bool digits =
                !name.empty() && name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos;
            if (!digits || std::stol(name) >= c_.layers)
                c_.top.reject("per_layer_config", "keyed by layer numbers", name);
            auto one = c_.top.inner("per_layer_config." + name, node);
            const auto dim = one.count("head_dim");
            if (dim) r_.head_dim[static_cast<std::size_t>(std::stol(name))] = *dim;
            for (const auto& key : one.unread_rotary())
                if (c_.strict) one.reject(key, "a key that is read here (it would be ignored)", node.at(key));
        }
        say("sizes of single layers from per_layer_config");
    }

    layer_context c_;
    layer_reading r_;
};

}  // namespace ROPEWALK_NAMESPACE::detail
