// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads sizes, base and rotary share from a config.json under all their spellings.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/models/huggingface_layers.hpp>
#include <ropewalk/models/model_config.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Sizes found in a config, in addition to those in model_config.
/// Source: huggingface/transformers models/*/configuration_*.py.
struct sizes_found {
    double max_context = 0;
    double original_context = 0;
    std::optional<double> theta = {};
    std::optional<double> partial = {};
    index rotary_dim = 0;
    bool two_positions = false;  ///< two positions per token (ChatGLM-6B)
};

/// The inputs of the functions below.
struct huggingface_sizes {
    json_object& top;
    const model_rules& rules;
    bool strict;
    model_config& config;
    sizes_found& found;
};

/// Reads another spelling of a number: the first spelling with a value counts, and others must agree.
inline void take_other_spelling(const huggingface_sizes& c, std::optional<double>& value, const char* key) {
    const auto other = c.top.number(key);
    if (other && value && *other != *value) {
        if (c.strict) c.top.reject(key, "what the key of today says", *c.top.find(key));
        c.config.ignored.push_back(c.top.path_of(key));
    }
    if (!value) value = other;
}

/// Reads top-level keys that replace keys of the rope dictionary.
inline void read_old_keys(const huggingface_sizes& c) {
    auto& top = c.top;
    auto& f = c.found;
    const auto* theta = top.find("rope_theta");
    if (theta == nullptr || !theta->is_array()) f.theta = top.number("rope_theta");
    f.partial = top.number("partial_rotary_factor");
    take_other_spelling(c, f.theta, "rotary_emb_base");
    for (const char* key :
         {"rotary_pct", "rope_pct", "rope_percent", "rotary_percent", "rotary_emb_fraction"})
        take_other_spelling(c, f.partial, key);
    for (const char* key : {"rotary_emb_scale_base", "rotary_scaling_factor"})
        if (top.has(key) && c.strict) top.reject(key, "null (it is not read here)", *top.find(key));
    if (c.rules.keys == key_names::dbrx) {
        if (const auto* inner = top.find("attn_config"); inner != nullptr)
            if (const auto old = top.inner("attn_config", *inner).number("rope_theta"); old && !f.theta)
                f.theta = old;
    }
    if (top.has("rotary_dim")) f.rotary_dim = saturated(top.count("rotary_dim").value_or(0));
    if (c.rules.keys == key_names::gpt_j) {
        if (f.rotary_dim == 0) f.rotary_dim = 64;
        top.find("rotary");  // GPT-J's oldest configs; always true
    }
    if (const auto* width = top.find("attn_rotary_emb"); width != nullptr) {  // Falcon-H1: the whole head
        if (const auto n = top.count("attn_rotary_emb"); n && *n != c.config.head_dim && c.strict)
            top.reject("attn_rotary_emb", "head_dim", *width);
    }
    if (c.rules.keys == key_names::chatglm)
        if (const auto ratio = top.number("rope_ratio")) f.theta = f.theta.value_or(1e4) * *ratio;
}

inline void read_head(const huggingface_sizes& c, std::optional<std::int64_t> hidden,
                      std::optional<std::int64_t> heads) {
    auto& top = c.top;
    auto& config = c.config;
    const auto sized = [&](const char* key, std::optional<std::int64_t> n) {
        if (n && *n > longest_head) top.reject(key, "a number of channels <= 65536", *n);
        return n;
    };
    if (c.rules.place == slice_place::behind_nope) {
        config.rotary_channels =
            saturated(sized("qk_rope_head_dim", top.count("qk_rope_head_dim", 0)).value_or(c.rules.rope_dim));
        config.first_channel =
            saturated(sized("qk_nope_head_dim", top.count("qk_nope_head_dim", 0)).value_or(c.rules.nope_dim));
        if (c.rules.rule == layer_rule::none && config.rotary_channels == 0) config.rotary_channels = 2;
        if (config.rotary_channels == 0) top.reject("qk_rope_head_dim", "a number of channels >= 1", 0);
        config.head_dim = config.first_channel + config.rotary_channels;
        top.find("head_dim");  // some converters write qk_rope_head_dim here; the two keys above decide
        return;
    }
    auto dim = sized("head_dim", top.count("head_dim"));
    for (const char* key : {"attention_head_dim", "kv_channels"})
        if (const auto other = sized(key, top.count(key)); other && !dim) dim = other;
    if (!dim && c.rules.head_dim != 0) dim = c.rules.head_dim;
    if (!dim) {
        if (!hidden) top.missing("hidden_size");
        if (!heads) top.missing("num_attention_heads");
        if (c.strict && !c.rules.floors_head_dim && *hidden % *heads != 0)
            top.reject("hidden_size", "a multiple of num_attention_heads", *hidden);
        dim = *hidden / *heads;
        if (*dim == 0) top.reject("hidden_size", "at least num_attention_heads", *hidden);
        if (c.rules.keys == key_names::zamba)
            dim = *dim * 2;  // attention reads the embeddings concatenated with the states
        if (*dim > longest_head) top.reject("hidden_size", "that of heads of <= 65536 channels", *hidden);
    }
    config.head_dim = saturated(*dim);
}

/// Reads counts and widths under all their names.
inline void read_sizes(const huggingface_sizes& c) {
    auto& top = c.top;
    auto& config = c.config;
    const bool dbrx = c.rules.keys == key_names::dbrx, moonshine = c.rules.keys == key_names::moonshine;
    auto hidden = top.count_of({"hidden_size", "n_embd", "d_model"});
    auto heads = top.count_of({"num_attention_heads", "n_head", "n_heads"});
    if (moonshine && !heads)
        heads = top.count_of({"decoder_num_attention_heads", "encoder_num_attention_heads"});
    if (dbrx && !hidden) hidden = 2048;
    if (dbrx && !heads) heads = 16;
    if (moonshine && !heads) heads = 8;
    config.query_heads = saturated(heads.value_or(0));
    config.key_heads =
        saturated(top.count_of({"num_key_value_heads", "num_kv_heads", "multi_query_group_num"})
                      .value_or(config.query_heads));
    auto layers = top.count_of({"num_hidden_layers", "n_layer", "n_layers", "num_layers"});
    if (moonshine && !layers)
        layers = top.count_of({"decoder_num_hidden_layers", "encoder_num_hidden_layers"});
    if (dbrx && !layers) layers = 24;
    if (moonshine && !layers) layers = 6;
    if (c.rules.model_type == "hrm_text")  // its num_hidden_layers counts every pass through a stack
        if (const auto each = top.count("num_layers_per_stack")) layers = each;
    config.layers = saturated(layers.value_or(huggingface_layers::counted(top)));
    if (config.layers == 0) {
        if (c.strict) top.missing("num_hidden_layers");
        config.layers = 1;
    }
    if (config.layers > 65536) top.reject("num_hidden_layers", "a number of layers <= 65536", config.layers);
    c.found.max_context =
        static_cast<double>(top.count_of({"max_position_embeddings", "n_positions", "seq_length",
                                          "max_sequence_length", "max_seq_len"})
                                .value_or(0));
    c.found.original_context = static_cast<double>(top.count("original_max_position_embeddings").value_or(0));
    read_head(c, hidden, heads);
    read_old_keys(c);
    if (c.found.two_positions && config.read_layout == pair_layout(interleaved{}))
        config.read_layout = config.write_layout = pair_layout::blocked_by(config.head_dim / 2);
}

/// Reads the factor on q.k of classes that have a key for it; in any other known class the key has no effect.
/// Source: huggingface/transformers models/gemma2, gemma3, vaultgemma, t5gemma2, granite, hyperclovax.
inline void read_softmax_scale(const huggingface_sizes& c, bool known) {
    const auto read = [&](const char* key, std::initializer_list<std::string_view> classes) {
        const bool is_read =
            !known || std::any_of(classes.begin(), classes.end(), [&](std::string_view name) {
                return c.rules.model_type.starts_with(name);
            });
        const auto value = is_read ? c.top.number(key) : std::optional<double>{};
        if (value && *value <= 0) c.top.reject(key, "a number > 0", *value);
        return value;
    };
    if (const auto channels =
            read("query_pre_attn_scalar", {"gemma2", "gemma3_text", "vaultgemma", "t5gemma", "t5_gemma"}))
        c.config.softmax_scale = 1 / std::sqrt(*channels);
    if (const auto factor = read("attention_multiplier", {"granite", "hyperclovax"}))
        c.config.softmax_scale = *factor;
}

/// Reads the parameters of dual chunk attention, which excludes any other context scaling.
/// Source: vllm-project/vllm rotary_embedding/dual_chunk_rope.py and get_rope.
inline void read_dual_chunk(const huggingface_sizes& c) {
    constexpr const char* name = "dual_chunk_attention_config";
    constexpr std::int64_t longest = std::int64_t{1} << 40;
    const auto* node = c.top.find(name);
    if (node == nullptr) return;
    auto keys = c.top.inner(name, *node);
    dual_chunk_parameters d;
    const auto required = [&](const char* key, std::int64_t least) {
        const auto n = keys.count(key, least);
        if (!n) keys.missing(key);
        if (*n > longest) keys.reject(key, "a number of positions <= 2^40", *keys.find(key));
        return saturated(*n);
    };
    d.chunk_size = required("chunk_size", 1);
    d.local_size = required("local_size", 0);
    if (d.local_size >= d.chunk_size) keys.reject("local_size", "below chunk_size", *keys.find("local_size"));
    const auto original = keys.count("original_max_position_embeddings", 0).value_or(0);
    d.original_context = static_cast<double>(original);
    const auto* const sparse = keys.find("sparse_attention_config");
    if (sparse != nullptr && !sparse->is_object())
        keys.reject("sparse_attention_config", "an object or null", *sparse);
    // A sparse configuration per head switches the sparse variant on where the flag is missing.
    d.sparse = keys.flag("sparse_attention_enabled").value_or(sparse != nullptr && sparse->is_object());
    for (const char* const key : {"sparse_attention_last_q", "sparse_attention_threshold"})
        keys.count(key, 0);
    for (const auto& key : keys.unread()) {
        if (c.strict) keys.reject(key, "a key that is read here (it would be ignored)", node->at(key));
        c.config.ignored.push_back(keys.path_of(key));
    }
    c.config.dual_chunk = d;
}

/// The inputs for reading the numbers of one rope dictionary.
struct huggingface_rope_numbers {
    json_object& keys;
    json_object& top;
    const model_rules& rules;
    bool strict;
    bool known;
    const std::string& kind;
    bool local;
    index layer;  // the layer whose own numbers are read; -1: none
    const layer_reading& layers;
    const sizes_found& sizes;
    model_config& config;
};

/// The base of one kind of layer: the layer's own, its dictionary's, a key of its kind, the top level's or
/// the class's.
inline double base_of(const huggingface_rope_numbers& c) {
    auto& top = c.top;
    const auto inside = c.keys.number("rope_theta");
    const auto& outside = c.sizes.theta;
    if (inside && outside && *inside != *outside && c.kind.empty()) {
        if (c.strict)
            c.keys.reject("rope_theta", "what the top-level rope_theta says", *c.keys.find("rope_theta"));
        c.config.ignored.push_back(top.path_of("rope_theta"));
    }
    std::optional<double> of_kind;
    for (const char* key : {"rope_local_base_freq", "local_rope_theta", "swa_rope_theta"})
        if (const auto base = top.number(key); base && c.local && !of_kind) of_kind = base;
    for (const char* key : {"global_rope_theta", "compress_rope_theta"})
        if (const auto base = top.number(key); base && !c.local && !of_kind) of_kind = base;
    if (c.layer >= 0 && !c.layers.theta.empty()) return c.layers.theta[static_cast<std::size_t>(c.layer)];
    if (inside) return *inside;
    if (of_kind) return *of_kind;
    const bool main = c.rules.flat == flat_scaling::compressed_only;
    if (c.local && c.rules.local_theta != 0 && !main) return c.rules.local_theta;
    if (main && !c.local) return c.rules.theta;
    if (c.local && c.rules.local_theta != 0) return outside.value_or(c.rules.local_theta);
    return outside.value_or(c.rules.theta);
}

/// Reads base, rotary share and sizes of one kind of layer; the scaling is read after them.
inline rope_parameters read_numbers(const huggingface_rope_numbers& c) {
    rope_parameters p;
    p.name = c.kind;
    p.max_context = c.sizes.max_context;
    p.base = base_of(c);
    p.backward = c.rules.backward;
    const auto at = static_cast<std::size_t>(c.layer < 0 ? 0 : c.layer);
    const double of_class = c.local && c.rules.local_partial != 0 ? c.rules.local_partial : c.rules.partial;
    const auto inside = c.keys.number("partial_rotary_factor");
    p.partial_rotary_factor = c.layer >= 0 && !c.layers.partial.empty()
                                  ? c.layers.partial[at]
                                  : inside.value_or(c.sizes.partial.value_or(of_class));
    p.rotary_dim = c.sizes.rotary_dim;
    if (c.sizes.two_positions) {
        p.ladders = 2;
        p.partial_rotary_factor = 1;
    }
    if (c.rules.place == slice_place::back) {
        if (const auto rope = c.top.count("qk_rope_head_dim"); rope && !inside)
            p.rotary_dim = saturated(*rope);
    }
    const auto global = c.top.count("global_head_dim");
    if (c.rules.global_head_dim != 0 && !c.local) {
        p.head_dim = saturated(global.value_or(c.top.has("per_layer_config") ? 0 : c.rules.global_head_dim));
    }
    if (c.layer >= 0 && !c.layers.head_dim.empty() && c.layers.head_dim[at] != 0)
        p.head_dim = saturated(c.layers.head_dim[at]);
    if (p.head_dim > longest_head)
        c.top.reject("global_head_dim", "a number of channels <= 65536", p.head_dim);
    return p;
}

/// Sets the share of a head that rotates, once the scaling is known.
inline void settle_share(const huggingface_rope_numbers& c, rope_parameters& p) {
    const bool latent = c.rules.place == slice_place::behind_nope;
    const index head = latent ? c.config.rotary_channels : p.head_dim != 0 ? p.head_dim : c.config.head_dim;
    if (p.scaling == rope_scaling::proportional) return;
    if (c.known && !c.rules.honours_partial && p.scaling == rope_scaling::none &&
        p.partial_rotary_factor != 1 && p.rotary_dim == 0) {
        const json_object& said = c.keys.node().contains("partial_rotary_factor") ? c.keys : c.top;
        if (c.strict)
            said.reject("partial_rotary_factor",
                        "1 or absent: the official code of this class ignores it and other engines do not",
                        p.partial_rotary_factor);
        c.config.ignored.push_back(said.path_of("partial_rotary_factor"));
        p.partial_rotary_factor = 1;
    }
    if (c.rules.place == slice_place::behind_nope) p.partial_rotary_factor = 1;
    if (p.rotary_dim != 0 && c.sizes.partial &&
        frequencies::partial_rotary_dim(head, *c.sizes.partial) != p.rotary_dim && c.strict)
        c.top.reject("rotary_dim", "what partial_rotary_factor says", p.rotary_dim);
    if (p.rotary_dim == 0 && p.ladders == 1 && std::isfinite(p.partial_rotary_factor) &&
        p.partial_rotary_factor > 0 && p.partial_rotary_factor <= 1) {
        // An odd number n of rotary channels has (n + 1) / 2 frequencies, one more than fits, with exponents
        // over n (GLM-4.5).
        const auto n = static_cast<index>(static_cast<double>(head) * p.partial_rotary_factor);
        if (n % 2 == 1 && n < head) p.exponent_channels = n, p.rotary_dim = n + 1;
    }
    if (c.rules.place == slice_place::back) {
        const index rotary =
            p.rotary_dim != 0 ? p.rotary_dim : frequencies::partial_rotary_dim(head, p.partial_rotary_factor);
        c.config.first_channel = head - rotary;
        c.config.rotary_channels = rotary;
        p.rotary_dim = rotary;
        c.config.indexer_first_channel = c.config.indexer_dim - rotary;
    }
}

/// Sets the scaling of a class whose config has none.
inline void take_default_scaling(const huggingface_rope_numbers& c, rope_parameters& p,
                                 const default_scaling& d) {
    p.scaling = d.kind;
    if (d.kind != rope_scaling::proportional) p.factor = d.factor;
    p.original_context = d.original_context;
    p.low_freq_factor = d.low_freq_factor;
    p.high_freq_factor = d.high_freq_factor;
    p.truncate = d.truncate;
    p.mscale = p.mscale_all_dim = d.mscale;
    if (c.rules.place == slice_place::behind_nope && d.mscale != 0) {
        const double m = frequencies::yarn_mscale(d.factor, d.mscale);
        p.logit_scale = m * m;
    }
    c.config.because.push_back(std::string("the class's own scaling, ") + to_text(d.kind));
}

/// Notes what else the class does to q and k that a table cannot.
inline void note_other_factors(const huggingface_rope_numbers& c, rope_parameters& p) {
    if (const auto& d = c.config.dual_chunk) {
        if (p.scaling != rope_scaling::none) {
            if (c.strict)
                c.top.reject("dual_chunk_attention_config", "absent beside a scaling, which its code ignores",
                             to_text(p.scaling));
            c.config.ignored.push_back(c.keys.path_of("rope_type"));
            p.scaling = rope_scaling::none;
        }
        p.notes.push_back("keys rotate at their position modulo " + text(d->chunk_size - d->local_size) +
                          ", and queries at one of three: dual chunk attention (attention/dual_chunk.hpp)");
    }
    if (c.rules.model_type == "llama4_text" && c.top.flag("attn_temperature_tuning").value_or(true))
        p.notes.push_back(
            "queries of NoPE layers are multiplied by a factor of the position (attn_temperature_tuning)");
    if (c.rules.model_type == "roformer" && c.top.flag("rotary_value").value_or(false))
        p.notes.push_back("values are rotated as well (rotary_value)");
    if (c.top.flag("use_logn_attn").value_or(false))
        p.notes.push_back(
            "queries beyond the trained length are multiplied by the logarithm of their position to its "
            "base (use_logn_attn)");
    if (c.config.rotates_output_back)
        p.notes.push_back("attention's output is unrotated at the query's position");
    if (p.order == section_order::doubled_channels && !p.sections.empty())
        p.notes.push_back(
            "with unlike position axes the official code multiplies the two channels of a pair with cos and "
            "sin of different axes, which is no rotation; the axis given here is the second channel's");
}

inline void read_sections(const huggingface_rope_numbers& c, rope_parameters& p) {
    auto& keys = c.keys;
    p.sections = keys.counts("mrope_section");
    if (p.sections.empty()) p.sections = keys.counts("xdrope_section");
    if (p.sections.empty())
        for (const auto n : c.rules.sections)
            if (n != 0) p.sections.push_back(n);
    const bool spread = c.rules.order == section_order::interleaved;
    const bool also = keys.flag("interleaved").value_or(spread);
    p.order = c.rules.order;
    if (c.rules.order == section_order::contiguous || spread)
        p.order = keys.flag("mrope_interleaved").value_or(also) ? section_order::interleaved
                                                                : section_order::contiguous;
    if (p.sections.empty()) return;
    if (p.order == section_order::contiguous && p.sections.size() > 3) p.section_axes = 3;
    index pairs = 0;
    for (index n : p.sections) pairs += n;
    const index head = p.head_dim != 0 ? p.head_dim : c.config.head_dim;
    const auto channels = frequencies::partial_rotary_dim(head, p.partial_rotary_factor);
    if (2 * pairs != channels)
        keys.reject("mrope_section", ("sections of " + text(channels / 2) + " pairs in all").c_str(), pairs);
}

}  // namespace ROPEWALK_NAMESPACE::detail
