// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Initial weights for converting a trained RoPE layer to PaTH attention.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <ropewalk/path/generation.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// The starting point of the conversion of a layer with RoPE.
struct conversion_options {
    double beta = 0.02;  ///< of every token at the start, in (0, 2): how far transforms are from the identity
    double open_gate = 0.999;  ///< the forget gate of every token at the start, in (0, 1)
    std::uint64_t seed = 0;    ///< of the projection to w
};

/// Owns a generator's weights, with the names of generator_weights.
template <class T>
struct converted_generator {
    generator_config config;     ///< its sizes
    std::vector<T> down;         ///< of the projection to w, its first factor
    std::vector<T> up;           ///< its second factor
    std::vector<T> conv;         ///< of the convolution
    std::vector<T> beta_weight;  ///< of the projection to beta
    std::vector<T> beta_bias;    ///< its bias
    std::vector<T> gate_weight;  ///< of the projection to the forget gate
    std::vector<T> gate_bias;    ///< its bias

    /// The weights for transform_generator, as spans of this object.
    generator_weights<T> weights() const {
        return {down, up, conv, beta_weight, beta_bias, gate_weight, gate_bias};
    }
};

/// A new generator of transforms that converts a layer with RoPE to PaTH: the projections of the layer stay
/// as they are, and the rotation of q and k is removed. Training then updates the generator
/// (transform_generator::fill_gradients after backpropagate). The paper continues the pretraining, and states
/// that published RoPE models can be converted in this way. The start cannot equal RoPE, which would need two
/// reflections per token and pair, where PaTH has one per token. It is near the identity instead, like
/// attention without positions: w comes from a normal projection with variance 1 / inputs, the convolution
/// uses the present token only, and beta and the gate are the same for every token.
/// Throws:   invalid_config on sizes < 1 (heads, rank and conv may be 0), a width that does not fit, beta
///           outside (0, 2) or open_gate outside (0, 1).
/// Accuracy: deterministic for a seed, on every platform up to the rounding of sine and logarithm.
/// Source:   arXiv 2505.16381, which does not specify the start; its numbers are this library's choice.
template <class T>
converted_generator<T> make_converted(const generator_config& config,
                                      const conversion_options& options = {}) {
    constexpr const char* who = "path::make_converted";
    detail::require(config.hidden > 0, who, "hidden must be > 0", config.hidden);
    detail::require(config.kv_heads > 0, who, "kv_heads must be > 0", config.kv_heads);
    detail::require(config.channels > 0, who, "channels must be > 0", config.channels);
    detail::require(config.heads >= 0, who, "heads must be >= 0", config.heads);
    detail::require(config.rank >= 0, who, "rank must be >= 0", config.rank);
    detail::require(config.conv >= 0, who, "conv must be >= 0", config.conv);
    detail::require(options.beta > 0 && options.beta < 2, who, "beta must be in (0, 2)", options.beta);
    detail::require(options.open_gate > 0 && options.open_gate < 1, who, "open_gate must be in (0, 1)",
                    options.open_gate);
    const auto sized = [](index a, index b) {
        return static_cast<std::size_t>(detail::checked_product(who, "sizes must fit", {a, b}));
    };
    std::mt19937_64 engine(options.seed);
    const auto normal = [&](index rows, index inputs) {
        std::vector<T> x(sized(rows, inputs));
        const auto uniform = [&] { return (static_cast<double>(engine() >> 11) + 0.5) * 0x1p-53; };
        for (T& v : x)  // std::normal_distribution differs by platform
            v = static_cast<T>(std::sqrt(-2 * std::log(uniform()) / static_cast<double>(inputs)) *
                               std::cos(6.283185307179586 * uniform()));
        return x;
    };
    const auto logit = [](double p) { return static_cast<T>(std::log(p / (1 - p))); };
    const index width =
        detail::checked_product(who, "kv_heads * channels must fit", {config.kv_heads, config.channels});
    converted_generator<T> g;
    g.config = config;
    if (config.rank > 0) g.down = normal(config.rank, config.hidden);
    g.up = normal(width, config.rank > 0 ? config.rank : config.hidden);
    g.conv.assign(sized(width, config.conv), T(0));
    for (std::size_t last = static_cast<std::size_t>(config.conv); config.conv > 0 && last <= g.conv.size();
         last += static_cast<std::size_t>(config.conv))
        g.conv[last - 1] = 1;
    g.beta_weight.assign(sized(config.kv_heads, config.hidden), T(0));
    g.beta_bias.assign(static_cast<std::size_t>(config.kv_heads), logit(options.beta / 2));
    g.gate_weight.assign(sized(config.heads, config.hidden), T(0));
    g.gate_bias.assign(static_cast<std::size_t>(config.heads), logit(options.open_gate));
    return g;
}

}  // namespace ROPEWALK_NAMESPACE::path
