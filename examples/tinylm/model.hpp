// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <memory>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/models/model_config.hpp>
#include <ropewalk/models/safetensors.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "files.hpp"

/// A small Llama on the CPU, written to show where rotation sits in an engine: load_model, a kv_cache of
/// any storage type, and forward (prefill and decode are the same call).
namespace tinylm {

namespace rw = ropewalk;
using rw::index;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using tokens_view = std::span<const std::uint8_t>;

struct layer_weights {
    matrix input_norm, q, k, v, o, post_norm, gate, up, down;
};

struct model {
    nlohmann::json config;
    index layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;
    float norm_epsilon;
    matrix embedding, final_norm, head;
    std::vector<layer_weights> layer;
};

inline index count_in(const nlohmann::json& config, const char* key) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_number_integer() || *found < 1 || *found > 1'000'000)
        throw bad_file(std::string("config.json: ") + key + " must be an integer from 1 to 1000000");
    return found->get<index>();
}

/// Reads config.json and model.safetensors of a LlamaForCausalLM. Throws bad_file, and invalid_config for
/// weights that are not what the config says.
inline model load_model(const std::filesystem::path& folder) {
    const auto path = folder / "config.json";
    model m{};
    m.config = parse_json(path.string(), read_file(path));
    if (!m.config.is_object()) throw bad_file(path.string() + ": not a JSON object");
    m.layers = count_in(m.config, "num_hidden_layers");
    m.hidden = count_in(m.config, "hidden_size");
    m.intermediate = count_in(m.config, "intermediate_size");
    m.heads = count_in(m.config, "num_attention_heads");
    m.kv_heads =
        m.config.contains("num_key_value_heads") ? count_in(m.config, "num_key_value_heads") : m.heads;
    m.head_dim = m.config.contains("head_dim") ? count_in(m.config, "head_dim") : m.hidden / m.heads;
    m.vocabulary = count_in(m.config, "vocab_size");
    const auto epsilon = m.config.value("rms_norm_eps", nlohmann::json(1e-6));
    if (!epsilon.is_number() || !(epsilon.get<float>() > 0))
        throw bad_file(path.string() + ": rms_norm_eps must be a number > 0");
    m.norm_epsilon = epsilon.get<float>();
    if (m.vocabulary > 256) throw bad_file(path.string() + ": vocab_size must be <= 256, tokens are bytes");
    if (m.heads % m.kv_heads != 0)
        throw bad_file(path.string() + ": num_key_value_heads must divide num_attention_heads");
    const nlohmann::json only{{"hidden_act", "silu"}, {"attention_bias", false}, {"mlp_bias", false}};
    for (const auto& [key, wanted] : only.items())
        if (m.config.contains(key) && m.config[key] != wanted)
            throw bad_file(path.string() + ": " + key + " must be " + wanted.dump());

    const auto weights = rw::read_safetensors_file((folder / "model.safetensors").string());
    const auto load = [&](const std::string& name, index rows, index columns = 0) {
        const std::array<index, 2> shape{rows, columns};
        const auto values = weights.numbers<float>(name, std::span(shape).first(columns ? 2 : 1));
        return matrix(Eigen::Map<const matrix>(values.data(), columns ? rows : 1, columns ? columns : rows));
    };
    const index q_width = m.heads * m.head_dim, kv_width = m.kv_heads * m.head_dim;
    m.embedding = load("model.embed_tokens.weight", m.vocabulary, m.hidden);
    for (index l = 0; l < m.layers; ++l) {
        const std::string at = "model.layers." + std::to_string(l) + ".";
        m.layer.push_back({.input_norm = load(at + "input_layernorm.weight", m.hidden),
                           .q = load(at + "self_attn.q_proj.weight", q_width, m.hidden),
                           .k = load(at + "self_attn.k_proj.weight", kv_width, m.hidden),
                           .v = load(at + "self_attn.v_proj.weight", kv_width, m.hidden),
                           .o = load(at + "self_attn.o_proj.weight", m.hidden, q_width),
                           .post_norm = load(at + "post_attention_layernorm.weight", m.hidden),
                           .gate = load(at + "mlp.gate_proj.weight", m.intermediate, m.hidden),
                           .up = load(at + "mlp.up_proj.weight", m.intermediate, m.hidden),
                           .down = load(at + "mlp.down_proj.weight", m.hidden, m.intermediate)});
    }
    m.final_norm = load("model.norm.weight", m.hidden);
    m.head = m.config.value("tie_word_embeddings", nlohmann::json(false)) == true
                 ? m.embedding
                 : load("lm_head.weight", m.vocabulary, m.hidden);
    return m;
}

/// Rotated keys and values of all layers, [tokens, kv heads, channels] each, in C = float or bf16.
template <class C = float>
struct kv_cache {
    struct keys_and_values {
        std::vector<C> k, v;
    };
    index tokens = 0;  ///< how many are in it
    index capacity, heads, channels;
    std::vector<keys_and_values> layer;

    kv_cache(const model& m, index room)
        : capacity(room), heads(m.kv_heads), channels(m.head_dim), layer(m.layer.size()) {
        const auto size = static_cast<std::size_t>(room * heads * channels);
        for (auto& l : layer) l.k.resize(size), l.v.resize(size);
    }
    /// Behind the present tokens, rounded to C.
    void append(std::vector<C>& to, const matrix& x) const {
        std::transform(x.data(), x.data() + x.size(), to.begin() + tokens * heads * channels,
                       [](float value) { return C(value); });
    }
    rw::heads_view<const C> view(const std::vector<C>& x, index count) const {
        return {x.data(), count, heads, channels};
    }
};

/// What happens to the queries and keys of a layer between their projections and the cache. An example
/// that wants to look at them, or to rotate in another way, passes its own.
using rotate_hook = std::function<void(index layer, rw::heads_view<float> q, rw::heads_view<float> k,
                                       std::span<const std::int32_t> positions)>;

/// What stands in the place of causal attention: queries as the rotate_hook left them, keys and values of all
/// tokens so far. Threads may share one.
using attention_hook = std::function<void(index layer, rw::heads_view<float> q, rw::heads_view<const float> k,
                                          rw::heads_view<const float> v, rw::heads_view<float> out)>;

/// The usual hook: one scheme and one table a kind of layer.
class rotary {
  public:
    rotary(const rw::model_schemes& schemes, std::int64_t context_length) : schemes_(schemes) {
        for (const auto& rope : schemes.distinct()) {
            if (rope.logit_scale != 1) throw bad_file("config.json: a Llama has no logit scale of its own");
            tables_.emplace_back(rope.spectrum_for(context_length), std::min<index>(context_length, 1024));
        }
    }
    void operator()(index layer, rw::heads_view<float> q, rw::heads_view<float> k,
                    std::span<const std::int32_t> positions) {
        const auto start = std::chrono::steady_clock::now();
        auto& table = tables_[static_cast<std::size_t>(schemes_.scheme_of(layer))];
        rw::rotate(schemes_[layer], q, k, table.rows(positions));
        nanoseconds +=
            std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    }
    double nanoseconds = 0;  ///< spent in here, all layers

  private:
    rw::model_schemes schemes_;
    std::vector<rw::position_table<float>> tables_;
};

/// A hook that owns its rotary: one for each thread.
inline rotate_hook make_hook(const rw::model_schemes& schemes, std::int64_t context_length) {
    return [own = std::make_shared<rotary>(schemes, context_length)](
               index layer, auto q, auto k, auto positions) { (*own)(layer, q, k, positions); };
}

inline matrix normalized(const matrix& x, const matrix& weight, float epsilon) {
    const Eigen::ArrayXf scale =
        (x.rowwise().squaredNorm().array() / static_cast<float>(x.cols()) + epsilon).rsqrt();
    return (x.array().colwise() * scale).rowwise() * weight.row(0).array();
}

/// The next tokens of a sequence, behind those already in the cache: logits [tokens, vocabulary].
/// A whole prompt is a prefill, one token a decode step.
template <class C>
matrix forward(const model& m, tokens_view tokens, kv_cache<C>& cache, const rotate_hook& rotate,
               const attention_hook& attention = {}) {
    const auto n = static_cast<index>(tokens.size()), first = cache.tokens, all = first + n;
    if (all > cache.capacity)
        throw std::length_error("the cache holds " + std::to_string(cache.capacity) + " tokens");
    std::vector<std::int32_t> positions(tokens.size());
    matrix x(n, m.hidden);
    for (index i = 0; i < n; ++i) {
        if (tokens[static_cast<std::size_t>(i)] >= m.vocabulary)
            throw bad_file("the text holds a byte outside the vocabulary");
        x.row(i) = m.embedding.row(tokens[static_cast<std::size_t>(i)]);
        positions[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(first + i);
    }
    for (index l = 0; l < m.layers; ++l) {
        const auto& w = m.layer[static_cast<std::size_t>(l)];
        auto& cached = cache.layer[static_cast<std::size_t>(l)];
        matrix h = normalized(x, w.input_norm, m.norm_epsilon);
        matrix q = h * w.q.transpose(), k = h * w.k.transpose(), v = h * w.v.transpose(), mixed(n, q.cols());
        const rw::heads_view queries(q.data(), n, m.heads, m.head_dim);
        rotate(l, queries, rw::heads_view(k.data(), n, m.kv_heads, m.head_dim), positions);
        cache.append(cached.k, k);
        cache.append(cached.v, v);
        const auto keys = cache.view(cached.k, all), values = cache.view(cached.v, all);
        const rw::heads_view attended(mixed.data(), n, m.heads, m.head_dim);
        if constexpr (std::is_same_v<C, float>) {
            if (attention)
                attention(l, queries, keys, values, attended);
            else
                rw::attend(queries, keys, values, attended, {.causal = true});
        } else {
            rw::attend(queries, keys, values, attended, {.causal = true});
        }
        x.noalias() += mixed * w.o.transpose();
        h = normalized(x, w.post_norm, m.norm_epsilon);
        const matrix gate = h * w.gate.transpose(), up = h * w.up.transpose();
        const matrix inner = gate.array() / ((-gate.array()).exp() + 1) * up.array();
        x.noalias() += inner * w.down.transpose();
    }
    cache.tokens = all;
    return normalized(x, m.final_norm, m.norm_epsilon) * m.head.transpose();
}

}  // namespace tinylm
