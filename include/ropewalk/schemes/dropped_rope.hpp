// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The scheme of DroPE (dropping positional embeddings): a model whose rotation is removed after pretraining.
#pragma once

#include <cmath>
#include <optional>
#include <span>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

/// DroPE (dropping positional embeddings): a model is pretrained with RoPE, then all rotation is removed and
/// a short recalibration follows. Its scheme rotates nothing. It is unrelated to DRoPE for headings of agents
/// (schemes/drope.hpp).
/// Source: SakanaAI/DroPE custom_models/attention.py; arXiv 2512.12167.
namespace ROPEWALK_NAMESPACE::dropped_rope {

struct scheme_config {
    index head_dim = 0;
    std::optional<double> softmax_scale = {};  ///< replaces 1 / sqrt(head_dim) where the model names one
};

/// Rotates nothing; softmax_scale, where given, becomes the scheme's logit_scale.
/// Throws:   invalid_config on head_dim < 1 or a softmax_scale that is not finite and > 0.
/// Source:   SakanaAI/DroPE custom_models/attention.py.
inline rotary_scheme make_scheme(const scheme_config& config) {
    constexpr const char* who = "dropped_rope::make_scheme";
    detail::require(config.head_dim >= 1, who, "head_dim must be >= 1", config.head_dim);
    rotary_scheme rope;
    rope.name = "dropped_rope";
    rope.head_dim = config.head_dim;
    rope.rotates = false;
    if (config.softmax_scale) {
        const double scale = *config.softmax_scale;
        detail::require(std::isfinite(scale) && scale > 0, who, "softmax_scale must be finite and > 0",
                        scale);
        rope.logit_scale = scale * std::sqrt(static_cast<double>(config.head_dim));
    }
    return rope;
}

/// RMS norm over all heads of a token together: the model's q_norm and k_norm. x <- x / sqrt(mean of x^2 +
/// epsilon) * weight, over heads * channels numbers per token.
/// Shapes:   x [batches, tokens, heads, channels] in place; weight [heads * channels].
/// Throws:   invalid_config when weight has another size or epsilon is not finite and >= 0.
/// Accuracy: sums in f64.
/// Source:   SakanaAI/DroPE custom_models/attention.py (OLMo-2's norms).
template <class T>
void normalize_tokens(heads_view<T> x, std::span<const compute_t<T>> weight, double epsilon) {
    constexpr const char* who = "normalize_tokens";
    detail::require_writable(who, "x", x);
    detail::require_equal(who, "weight must hold heads * channels numbers", x.heads() * x.channels(),
                          weight.size());
    detail::require(std::isfinite(epsilon) && epsilon >= 0, who, "epsilon must be finite and >= 0", epsilon);
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n) {
            double sum = 0;
            for (index h = 0; h < x.heads(); ++h)
                for (index c = 0; c < x.channels(); ++c) {
                    const auto v = static_cast<double>(
                        static_cast<compute_t<T>>(reinterpret_cast<stored_t<T>*>(x.at(b, n, h))[c]));
                    sum += v * v;
                }
            const double by = 1 / std::sqrt(sum / static_cast<double>(x.heads() * x.channels()) + epsilon);
            for (index h = 0; h < x.heads(); ++h)
                for (index c = 0; c < x.channels(); ++c) {
                    auto& stored = reinterpret_cast<stored_t<T>*>(x.at(b, n, h))[c];
                    const auto w =
                        static_cast<double>(weight[static_cast<std::size_t>(h * x.channels() + c)]);
                    stored = static_cast<stored_t<T>>(static_cast<compute_t<T>>(
                        static_cast<double>(static_cast<compute_t<T>>(stored)) * by * w));
                }
        }
}

}  // namespace ROPEWALK_NAMESPACE::dropped_rope
