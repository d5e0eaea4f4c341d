// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <string_view>
#include <vector>

#include "model.hpp"

namespace tinylm {

/// One window of a layer, every view [1, tokens, heads, channels].
struct window_trace {
    rw::heads_view<const float> q, k, rotated_k, v;
    rw::heads_view<const float> last_q() const { return q.token_slice(q.tokens() - 1, 1); }
};

/// What one layer's attention works on, over back-to-back windows of a text: queries and keys before
/// rotation, keys as they are cached, values. Views are [windows, tokens, heads, channels].
struct layer_trace {
    rw::heads_shape q_shape, kv_shape;
    std::vector<float> q_data, k_data, rotated_data, v_data;

    rw::heads_view<const float> q() const { return {q_data.data(), q_shape}; }
    rw::heads_view<const float> k() const { return {k_data.data(), kv_shape}; }
    rw::heads_view<const float> rotated_k() const { return {rotated_data.data(), kv_shape}; }
    rw::heads_view<const float> v() const { return {v_data.data(), kv_shape}; }
    window_trace window(index w) const {
        return {q().batch_slice(w, 1), k().batch_slice(w, 1), rotated_k().batch_slice(w, 1),
                v().batch_slice(w, 1)};
    }
};

/// Every layer's, each window read from position 0.
inline std::vector<layer_trace> trace_layers(const model& m, std::string_view bytes, index context) {
    const tokens_view text(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const index windows = static_cast<index>(text.size()) / context;
    std::vector<layer_trace> traces(static_cast<std::size_t>(m.layers),
                                    {{windows, context, m.heads, m.head_dim},
                                     {windows, context, m.kv_heads, m.head_dim},
                                     {},
                                     {},
                                     {},
                                     {}});
    const auto rope = make_hook(rw::make_model_schemes(rw::from_huggingface(m.config)), context);
    const auto add = [](std::vector<float>& to, const float* from, index count) {
        to.insert(to.end(), from, from + count);
    };
    const index kv_size = context * m.kv_heads * m.head_dim;
    for (index w = 0; w < windows; ++w) {
        kv_cache<> cache(m, context);
        forward(m, text.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context)),
                cache, [&](index layer, auto q, auto k, auto positions) {
                    auto& t = traces[static_cast<std::size_t>(layer)];
                    add(t.q_data, q.data, context * m.heads * m.head_dim);
                    add(t.k_data, k.data, kv_size);
                    rope(layer, q, k, positions);
                });
        for (std::size_t l = 0; l < traces.size(); ++l) {
            add(traces[l].rotated_data, cache.layer[l].k.data(), kv_size);
            add(traces[l].v_data, cache.layer[l].v.data(), kv_size);
        }
    }
    return traces;
}

}  // namespace tinylm
