// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Qwen-1's dynamic NTK in steps, and its logn attention scale.
#pragma once

#include <algorithm>
#include <cmath>

#include <ropewalk/frequencies/ntk.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

struct qwen1_config {
    index rotary_dim = 0;
    double base = 1e4;
    double trained_context = 2048;  ///< seq_length of the config
};

/// The alpha of Qwen-1's dynamic NTK, a step function of the length: 1 up to the trained context, then 3, 7,
/// 15, ... at its doublings. The model evaluates it at a prefill and keeps it for the tokens decoded
/// afterwards.
/// Throws:   invalid_config on trained_context <= 0 or context_length < 1.
/// Source:   QwenLM/Qwen modeling_qwen.py get_ntk_alpha.
inline double qwen1_alpha(const qwen1_config& c, std::int64_t context_length) {
    detail::require_factor("qwen1", "trained_context must be finite and > 0", c.trained_context);
    detail::require_length("qwen1", context_length);
    const double doublings = std::log2(static_cast<double>(context_length) / c.trained_context) + 1;
    return std::max(std::exp2(std::ceil(doublings)) - 1, 1.0);
}

/// The base for that alpha: base * alpha^(rotary_dim / (rotary_dim - 2)).
/// Throws:   invalid_config as qwen1_alpha and ntk_base.
/// Source:   QwenLM/Qwen modeling_qwen.py RotaryEmbedding.
inline double qwen1_base(const qwen1_config& c, std::int64_t context_length) {
    return ntk_base({.rotary_dim = c.rotary_dim, .base = c.base, .alpha = qwen1_alpha(c, context_length)});
}

/// Qwen-1's spectrum at a length. Keys in a cache keep the alpha with which they were written.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config as qwen1_base.
/// Source:   QwenLM/Qwen modeling_qwen.py.
inline spectrum qwen1(const qwen1_config& c, std::int64_t context_length) {
    return geometric({.rotary_dim = c.rotary_dim, .base = qwen1_base(c, context_length)});
}

/// The factor of the query at position p (from 0) in a model with logn attention: ln(p + 1) / ln(L), and 1
/// while p + 1 <= L, where L is the trained context. Ports that index the table with p, where the model uses
/// p + 1, are off by one token.
/// Throws:   invalid_config on trained_context <= 1 or a negative position.
/// Source:   QwenLM/Qwen modeling_qwen.py logn_tensor; chunked attention scaling, Su 2021.
inline double log_n_scale(std::int64_t position, double trained_context) {
    detail::require(std::isfinite(trained_context) && trained_context > 1, "log_n_scale",
                    "trained_context must be finite and > 1", trained_context);
    detail::require(position >= 0, "log_n_scale", "position must be >= 0", position);
    const double n = static_cast<double>(position) + 1;
    return n > trained_context ? std::log(n) / std::log(trained_context) : 1.0;
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
