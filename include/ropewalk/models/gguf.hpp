// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// from_gguf: reads the rotary embedding of a model from the keys of its GGUF file.
#pragma once

#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ropewalk/models/gguf_keys.hpp>
#include <ropewalk/models/gguf_models.hpp>
#include <ropewalk/models/gguf_rope.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/strictness.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a GGUF file is read.
struct gguf_reading {
    strictness keys = strictness::strict;  ///< what happens to a key that would be ignored
    /// Overrides the layout of the architecture; for architectures that are not in the table.
    std::optional<pair_layout> layout = {};
};

namespace detail {

/// The highest frequency (radians per position) and the largest magnitude that a file may have. Published
/// models stay below 2 radians per position; beyond this a rotation by millions of positions would need more
/// digits than a double has.
inline constexpr double most_radians = 65536;
inline constexpr double most_magnitude = 1e6;

/// The width of the heads where the file does not give it.
inline index gguf_shared_width(gguf_keys& keys, index heads) {
    const index width = keys.required_count("embedding_length", 1);
    require(heads >= 1, "from_gguf", "attention.head_count must be >= 1", heads);
    if (width % heads != 0 || width / heads > longest_head)
        keys.wrong("embedding_length",
                   "the width of " + text(heads) + " heads of up to " + text(longest_head) + " channels");
    return width / heads;
}

/// The width of a head: given by the file, or the model's width divided by the heads. 0 where the file does
/// not give it and nothing rotates.
inline index gguf_head_dim(gguf_keys& keys, index heads, bool rotates) {
    const auto latent = keys.count("attention.key_length_mla", 1, longest_head);
    const auto length = keys.count("attention.key_length", 1, longest_head);
    if (latent) return *latent;
    if (length) return *length;
    if (!rotates && (heads == 0 || !keys.has("embedding_length"))) return 0;
    return gguf_shared_width(keys, heads);
}

/// The factor on q.k where it is not 1/sqrt(head_dim): the file's, or that of the 27B sizes of Gemma 2 and 3,
/// which divide by the root of the model's width per head and whose files do not say so.
/// Source: ggml-org/llama.cpp, the attention scale of its models.
inline std::optional<double> gguf_softmax_scale(gguf_keys& keys, const model_config& config) {
    const auto scale = keys.not_negative("attention.scale");
    if (scale && *scale != 0) return scale;  // 0 counts as absent
    const bool gemma_27b = (config.model_type == "gemma2" && config.layers == 46) ||
                           (config.model_type == "gemma3" && config.layers == 62);
    if (!gemma_27b) return {};
    const auto width = keys.count("embedding_length", 1);
    if (!width || config.query_heads < 1 || *width < config.query_heads) return {};
    return 1 / std::sqrt(static_cast<double>(*width / config.query_heads));
}

/// The number of layers. Models that do not rotate may count the blocks of their parts instead.
inline index gguf_layers(gguf_keys& keys, bool rotates) {
    if (!rotates && !keys.has("block_count"))
        for (const char* part : {"vision.", "audio.", "posnet.", "convnext."})
            if (const auto n = keys.count(std::string(part) + "block_count", 1, 65536)) return *n;
    return keys.required_count("block_count", 1, 65536);
}

/// Reads rotary keys of a model that does not rotate: their types are checked as in any other model.
inline void read_unused_rope(gguf_keys& keys) {
    for (const char* key :
         {"rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear",
          "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.alpha",
          "rope.scaling.original_context_length", "rope.scaling.yarn_ext_factor",
          "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
          "rope.scaling.yarn_log_multiplier"})
        keys.number(key);
    keys.word("rope.scaling.type");
    keys.flag("rope.scaling.finetuned");
}

/// Reads which layers differ from the global ones: sliding layers, and layers that do not rotate.
class gguf_layer_reader {
  public:
    gguf_layer_reader(gguf_keys& keys, const gguf_architecture& rules, model_config& config)
        : keys_(keys), rules_(rules), config_(config) {
        extra_ = keys.count("nextn_predict_layers", 0, config.layers - 1).value_or(0);
        const bool asks = rules.window_decides || rules.zero_window_rotates_all;
        const index window =
            asks ? keys.count("attention.sliding_window").value_or(-1) : -1;  // -1: not given
        every_layer_rotates_ = rules.zero_window_rotates_all && window == 0;
        const bool alternates = rules.name.empty()     ? keys.has(pattern)
                                : rules.listed_sliding ? true
                                : rules.window_decides ? window > 0 || has_layers(rules.window_layers)
                                                       : rules.global_every > 0;
        slides_ = alternates;
        if (!alternates) return;
        slides_at_ = keys.of_layers(pattern, config.layers, extra_);
        if (slides_at_ != nullptr) return;
        if (rules.listed_sliding) {
            if (keys.has(pattern)) keys.wrong(pattern, "an array with one number a layer");
            fail("from_gguf: " + config.model_type + "." + pattern + " must be given, got nothing");
        }
        global_every_ = keys.count(pattern, 1).value_or(rules.global_every);
    }

    /// Adds the rotary embedding of sliding layers, where it differs from that of the global ones.
    /// `untouched` is the global one before the rotary tensors.
    void read_sliding_rope(const rope_parameters& untouched) {
        if (!slides_) return;
        const auto base = keys_.positive("rope.freq_base_swa");
        const auto head_dim = keys_.count("attention.key_length_swa", 1, longest_head);
        const auto rotated = keys_.count("rope.dimension_count_swa", 1, head_dim.value_or(config_.head_dim));
        const bool is_plain = rules_.sliding == gguf_sliding::plain;
        if (!base && !head_dim && !rotated && rules_.sliding == gguf_sliding::same &&
            rules_.local_base == 0 && !rules_.half_global)
            return;
        rope_parameters& global = config_.ropes.front();
        rope_parameters local = is_plain                                          ? rope_parameters{}
                                : rules_.sliding == gguf_sliding::without_tensors ? untouched
                                                                                  : global;
        local.base = base ? *base : rules_.local_base != 0 ? rules_.local_base : global.base;
        local.max_context = global.max_context;
        if (head_dim || rotated || rules_.half_global) {
            local.head_dim = head_dim.value_or(0);
            local.rotary_dim = rotated ? *rotated : head_dim ? *head_dim : config_.rotary_channels;
            global.rotary_dim = config_.rotary_channels / (rules_.half_global ? 2 : 1);
            config_.rotary_channels = 0;
        }
        global.name = "full_attention";
        local.name = "sliding_attention";
        config_.ropes.push_back(std::move(local));
    }

    /// Fills rope_of_layer where layers differ.
    void read_rope_of_layer() {
        const auto* recurrent = rules_.attending_every > 0
                                    ? keys_.of_layers("attention.recurrent_layers", config_.layers, extra_)
                                    : nullptr;
        const index attending_every =
            rules_.attending_every > 0 && recurrent == nullptr
                ? keys_.count("full_attention_interval", 1).value_or(rules_.attending_every)
                : 0;
        const auto* heads = keys_.of_layers("attention.head_count", config_.layers, extra_);
        const auto* key_heads = keys_.of_layers("attention.head_count_kv", config_.layers, extra_);
        bool differ = slides_;
        std::vector<int> rope_of_layer;
        for (index l = 0; l < config_.layers; ++l) {
            const bool predicts = l >= config_.layers - extra_;  // further tokens: always by attention
            const bool slides = slides_ && (slides_at_ != nullptr ? entry(slides_at_, l, 0) != 0
                                                                  : global_every_ > 0 && !is_global(l));
            const bool is_linear = recurrent != nullptr
                                       ? entry(recurrent, l, 0) != 0
                                       : !predicts && attending_every > 0 && (l + 1) % attending_every != 0;
            const bool attends = !is_linear && entry(heads, l, 1) != 0 && entry(key_heads, l, 1) != 0;
            const bool is_nope =
                !every_layer_rotates_ && ((rules_.nope_every > 0 && (l + 1) % rules_.nope_every == 0) ||
                                          (rules_.nope_global && slides_ && !slides));
            rope_of_layer.push_back(!attends || is_nope ? -1 : slides && config_.ropes.size() > 1 ? 1 : 0);
            differ = differ || rope_of_layer.back() != 0;
        }
        if (differ) config_.rope_of_layer = std::move(rope_of_layer);
    }

  private:
    static constexpr const char* pattern = "attention.sliding_window_pattern";

    bool has_layers(int count) const { return count > 0 && config_.layers == count; }
    bool is_global(index layer) const {
        return layer % global_every_ == (rules_.global_first ? 0 : global_every_ - 1);
    }
    static std::int64_t entry(const std::vector<std::int64_t>* of_layer, index layer,
                              std::int64_t otherwise) {
        const auto l = static_cast<std::size_t>(layer);
        return of_layer != nullptr && l < of_layer->size() ? (*of_layer)[l] : otherwise;
    }

    gguf_keys& keys_;
    const gguf_architecture& rules_;
    model_config& config_;
    index extra_ = 0;
    index global_every_ = 0;
    bool slides_ = false;
    bool every_layer_rotates_ = false;
    const std::vector<std::int64_t>* slides_at_ = nullptr;
};

/// Checks the keys of an architecture that is not in the table: rope.freq_base is required, and keys of layer
/// rules are refused, since their meaning is unknown.
inline void refuse_unknown_rules(gguf_keys& keys) {
    if (!keys.has("rope.freq_base")) keys.required_count("rope.freq_base");
    for (const char* key :
         {"attention.sliding_window_pattern", "attention.recurrent_layers", "full_attention_interval",
          "attention.key_length_mla", "rope.freq_base_swa", "rope.dimension_count_swa"})
        if (keys.has(key)) keys.wrong(key, "absent: what it means to this architecture is not known here");
}

/// Refuses frequencies above most_radians, for every kind of layer and on both sides of the length at which
/// LongRoPE's factors change.
inline void require_bounded(const model_schemes& layers) {
    for (const auto& rope : layers.distinct()) {
        if (!rope.rotates) continue;
        for (const std::int64_t length : {std::int64_t{1}, rope.original_context + 1}) {
            if (length > 1 && !rope.length_dependent) continue;
            const auto s = rope.spectrum_for(length);
            require(
                std::abs(s.magnitude()) <= most_magnitude && std::abs(s.magnitude()) >= 1 / most_magnitude,
                "from_gguf", "the magnitude must be in [1e-06, 1e+06]", s.magnitude());
            for (index i = 0; i < s.pairs(); ++i)
                require(s.omega(i) <= most_radians, "from_gguf",
                        "the frequencies must be <= 65536 radians a position", s.omega(i));
        }
    }
}

/// Reads a model whose layers do not rotate.
inline void read_without_rotation(gguf_keys& keys, const gguf_metadata& file, strictness reading,
                                  model_config& config) {
    read_unused_rope(keys);
    if (!file.rope_freqs.empty() || !file.rope_factors_long.empty() || !file.rope_factors_short.empty()) {
        require(reading == strictness::lenient, "from_gguf",
                "the rotary tensors must be absent: no layer of this model rotates", config.model_type);
        config.ignored.push_back("rope tensors");
    }
    config.rope_of_layer.assign(static_cast<std::size_t>(config.layers), -1);
}

}  // namespace detail

/// Reads the rotary keys of a GGUF file. freq_scale is 1 / rope.scaling.factor, and the magnitude is the one
/// that llama.cpp computes in the end. rope_freqs divide every angle; without them the long or short factors
/// do, chosen by the context length given to the scheme (llama.cpp chooses once, from the allocated context).
/// Layers without key heads, recurrent layers and those that the architecture does not rotate are NoPE.
/// Throws:   invalid_config naming the key and the value, also where an architecture that needs sections has
///           none, and where a pair would rotate by more than 65536 radians per position. Strict reading also
///           refuses an unknown architecture without a layout, and rotary keys that would be ignored, such as
///           sections of an architecture whose section order is unknown. With a layout, an unknown
///           architecture needs rope.freq_base, and keys of layer rules are refused.
/// Source:   ggml-org/ggml docs/gguf.md; llama.cpp's loader, context and per-model graphs (read through
///           copies of them).
inline model_config from_gguf(const gguf_metadata& file, const gguf_reading& reading = {}) {
    const auto named = file.values.find("general.architecture");
    const auto* architecture =
        named == file.values.end() ? nullptr : std::get_if<std::string>(&named->second);
    if (architecture == nullptr)
        detail::fail("from_gguf: general.architecture must be a string, got nothing");
    const auto* known = detail::find_gguf_architecture(*architecture);
    const bool strict = reading.keys == strictness::strict;
    detail::require(known != nullptr || !strict || reading.layout, "from_gguf",
                    "general.architecture must be one whose pair layout is known here (or pass a layout)",
                    *architecture);
    const detail::gguf_architecture rules = known != nullptr ? *known : detail::gguf_architecture{};

    detail::gguf_keys keys(file, *architecture);
    model_config config;
    config.model_type = *architecture;
    if (known == nullptr) config.ignored.push_back("general.architecture");
    if (known == nullptr && strict) detail::refuse_unknown_rules(keys);
    bool rotates = rules.rotates == detail::gguf_rotation::always ||
                   (rules.rotates == detail::gguf_rotation::where_said && keys.has_rope());
    if (rules.finetuned_decides) rotates = keys.flag("rope.scaling.finetuned").value_or(true);
    config.layers = detail::gguf_layers(keys, rotates);
    if (rules.alibi_layers > 0 && config.layers == rules.alibi_layers) rotates = false;
    config.query_heads = keys.count_or_first("attention.head_count").value_or(0);
    config.key_heads = keys.count_or_first("attention.head_count_kv").value_or(config.query_heads);
    config.head_dim = detail::gguf_head_dim(keys, config.query_heads, rotates);
    config.softmax_scale = detail::gguf_softmax_scale(keys, config);
    config.read_layout = rules.half_split ? pair_layout(half_split{}) : pair_layout(interleaved{});

    if (!rotates) {
        detail::read_without_rotation(keys, file, reading.keys, config);
    } else {
        const index stored = keys.count("rope.dimension_count", 1, config.head_dim).value_or(config.head_dim);
        if (stored % 2 != 0 && keys.has("rope.dimension_count")) keys.wrong("rope.dimension_count", "even");
        if (rules.half_global && stored % 4 != 0)
            detail::fail("from_gguf: " + *architecture +
                         ".rope.dimension_count must be a multiple of 4, got " + detail::text(stored));
        const index rotated = rules.half_global ? stored / 2 : stored;  // of the global layers
        config.rotary_channels = stored;
        config.first_channel = rules.latent ? config.head_dim - stored : 0;

        const auto scale = detail::gguf_scale_of(keys);
        auto global = detail::gguf_rope(keys, rules, scale, rotated);
        if (strict) global.bounds = frequencies::bounds_check::strict;
        const bool has_sections =
            detail::read_gguf_sections(keys, rules, reading.keys, rotated / 2, config, global);
        if (has_sections) config.read_layout = half_split{};  // ggml's sections are of half-split pairs
        const auto untouched = global;
        gguf_metadata tensors;
        tensors.rope_freqs = file.rope_freqs;
        tensors.rope_factors_long = file.rope_factors_long;
        tensors.rope_factors_short = file.rope_factors_short;
        if (rules.half_global)
            for (auto* tensor :
                 {&tensors.rope_freqs, &tensors.rope_factors_long, &tensors.rope_factors_short})
                detail::cut_tensor(*tensor, stored, rotated);
        detail::read_tensors(global, tensors, rotated, scale.type);
        if (const auto part = file.values.find("split.count");
            part != file.values.end() && tensors.rope_freqs.empty() && tensors.rope_factors_long.empty())
            if (const auto* parts = std::get_if<std::int64_t>(&part->second); parts != nullptr && *parts > 1)
                global.notes.push_back("one of " + detail::text(*parts) +
                                       " files: rotary tensors of another one are not seen here");
        config.ropes.push_back(std::move(global));
        detail::gguf_layer_reader layers(keys, rules, config);
        layers.read_sliding_rope(untouched);
        layers.read_rope_of_layer();
    }
    config.read_layout = reading.layout.value_or(config.read_layout);
    config.write_layout = config.read_layout;
    for (const auto& key : keys.unread()) {
        if (strict)
            detail::fail("from_gguf: " + key +
                         " must be a key that is read here, got one that would be ignored");
        config.ignored.push_back(key);
    }
    detail::require_bounded(make_model_schemes(config));
    return config;
}
/// The same with the architecture's own layout.
inline model_config from_gguf(const gguf_metadata& file, strictness reading) {
    return from_gguf(file, gguf_reading{.keys = reading});
}

}  // namespace ROPEWALK_NAMESPACE
