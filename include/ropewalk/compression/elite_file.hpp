// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads converted EliteKV models: sizes from config.json and weights from safetensors files.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>

#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/safetensors.hpp>

namespace ROPEWALK_NAMESPACE {

/// The sizes in a converted model's config.json.
/// Source: CiaranZhou/EliteKV convert/convert.py and modeling_llama_EliteKV.py.
struct elite_model {
    index layers = 0;            ///< num_hidden_layers
    index hidden = 0;            ///< hidden_size
    index heads = 0;             ///< num_attention_heads: queries, keys and values have as many
    index half_of_rope_dim = 0;  ///< pairs of a head that rotate
    index kv_dim = 0;            ///< channels of the latent

    index head_dim() const noexcept { return heads > 0 ? hidden / heads : 0; }
};

/// The sizes of a converted model from the text of its config.json.
/// Throws:   invalid_config naming the key: one missing or of another type; heads that do not divide
///           hidden_size; another num_key_value_heads than heads (grouped models are not converted) or an
///           attention_bias; half_of_rope_dim beyond half a head; kv_dim beyond the joint matrix's smaller
///           side.
/// Source:   as elite_model.
inline elite_model read_elite_model(std::string_view config) {
    constexpr const char* who = "read_elite_model";
    const auto parsed = parse_config(config);
    detail::json_object keys(who, parsed, "");
    const auto count = [&](const char* key, std::int64_t least, index most) {
        const auto v = keys.count(key, least);
        if (!v) keys.missing(key);
        if (*v > most) keys.reject(key, ("at most " + detail::text(most)).c_str(), keys.node().at(key));
        return static_cast<index>(*v);
    };
    elite_model m;
    m.layers = count("num_hidden_layers", 1, 65536);
    m.hidden = count("hidden_size", 1, index{1} << 20);
    m.heads = count("num_attention_heads", 1, 65536);
    if (m.hidden % m.heads != 0 || m.hidden / m.heads % 2 != 0)
        keys.reject("num_attention_heads", "a divisor of hidden_size into even heads",
                    keys.node().at("num_attention_heads"));
    if (keys.count("num_key_value_heads").value_or(m.heads) != m.heads)
        keys.reject("num_key_value_heads", "num_attention_heads", keys.node().at("num_key_value_heads"));
    if (keys.flag("attention_bias").value_or(false))
        keys.reject("attention_bias", "false", keys.node().at("attention_bias"));
    m.half_of_rope_dim = count("half_of_rope_dim", 0, m.head_dim() / 2);
    m.kv_dim = count("kv_dim", 1, std::min(m.hidden, m.heads * 2 * (m.head_dim() - m.half_of_rope_dim)));
    return m;
}

/// One layer of a converted model: q_nope_proj, q_rope_proj, k_rope_proj, kv_a_proj and kv_b_proj below
/// model.layers.N.self_attn, of any real type. The file does not state which pairs rotate: `elite` [heads,
/// half_of_rope_dim] are those of the ranking used in the conversion (RoPElite's, in any order, or
/// make_uniform_ranking's).
/// Throws:   invalid_config naming the tensor: one that is missing, of another shape, or with numbers that
///           are not finite; as elite_layout on the pairs.
/// Cost:     O(layer).
/// Source:   CiaranZhou/EliteKV convert/convert.py.
///
///     const auto model = read_elite_model(config_text);
///     const auto layer = read_elite_weights<float>(read_safetensors_file(path), 0, model, elite);
template <class T = float>
elite_weights<T> read_elite_weights(const safetensors& file, index layer, const elite_model& model,
                                    std::span<const index> elite) {
    constexpr const char* who = "read_elite_weights";
    detail::require(layer >= 0 && layer < model.layers, who, "layer must be one of the model's", layer);
    detail::require_equal(who, "elite must hold heads x half_of_rope_dim pairs",
                          model.heads * model.half_of_rope_dim, elite.size());
    using matrix = typename elite_weights<T>::matrix;
    elite_weights<T> w{.layout = elite_layout(elite, model.heads, model.head_dim())};
    const index d = model.head_dim(), rope = w.layout.rope_channels(), nope = w.layout.nope_channels();
    const auto read = [&](const char* of, index rows, index columns) {
        const std::string name = "model.layers." + std::to_string(layer) + ".self_attn." + of + ".weight";
        const index extents[] = {rows, columns};
        const auto numbers = file.numbers<T>(name, extents);
        for (const T v : numbers)
            if (!std::isfinite(v))
                detail::fail(std::string(who) + ": " + file.called() + ": " + name +
                             " must hold finite numbers, got " + detail::text(v));
        return matrix(Eigen::Map<const matrix>(numbers.data(), rows, columns));
    };
    const matrix q_nope = read("q_nope_proj", model.heads * nope, model.hidden),
                 q_rope = read("q_rope_proj", model.heads * rope, model.hidden);
    w.rope_keys = read("k_rope_proj", model.heads * rope, model.hidden);
    w.down = read("kv_a_proj", model.kv_dim, model.hidden);
    const matrix up = read("kv_b_proj", model.heads * (nope + d), model.kv_dim);
    w.queries.resize(model.heads * d, model.hidden);
    w.up_keys.resize(model.heads * nope, model.kv_dim);
    w.up_values.resize(model.heads * d, model.kv_dim);
    for (index h = 0; h < model.heads; ++h) {
        w.queries.middleRows(h * d, nope) = q_nope.middleRows(h * nope, nope);
        w.queries.middleRows(h * d + nope, rope) = q_rope.middleRows(h * rope, rope);
        w.up_keys.middleRows(h * nope, nope) = up.middleRows(h * (nope + d), nope);
        w.up_values.middleRows(h * d, d) = up.middleRows(h * (nope + d) + nope, d);
    }
    return w;
}

}  // namespace ROPEWALK_NAMESPACE
