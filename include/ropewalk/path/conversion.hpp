// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <ropewalk/path/generation.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// Where the conversion of a layer with RoPE begins.
struct conversion_options {
    double beta =
        0.02;  ///< of every token at the start, in (0, 2): how far the transforms are from the identity
    double open_gate = 0.999;  ///< the forget gate of every token at the start, in (0, 1)
    std::uint64_t seed = 0;    ///< of the projection to w
};

/// Owner of a generator's weights, as generator_weights names them.
template <class T>
struct converted_generator {
    generator_config config;     ///< its sizes
    std::vector<T> down;         ///< of the projection to w, its first factor
    std::vector<T> up;           ///< its second factor
    std::vector<T> conv;         ///< of the convolution
    std::vector<T> beta_weight;  ///< of the projection to beta
    std::vector<T> beta_bias;    ///< beside it
    std::vector<T> gate_weight;  ///< of the projection to the forget gate
    std::vector<T> gate_bias;    ///< beside it

    /// For transform_generator; spans of this object.
    generator_weights<T> weights() const {
        return {down, up, conv, beta_weight, beta_bias, gate_weight, gate_bias};
    }
};

/// What a layer with RoPE is given to become one with PaTH: its projections stay as they are, the rotation of q and
/// k goes, and this generator of transforms is new. Training then moves it (transform_generator::fill_gradients
/// behind backpropagate); the paper continues the pretraining, and says that published RoPE models can be converted
/// so. Nothing equals RoPE at the start: two reflections a token and pair would be needed, and PaTH has one a token.
/// It starts near the identity, as attention without positions: w from a normal projection with a variance of 1 /
/// inputs, the convolution on the present token alone, beta and the gate the same for every token.
/// Throws:   invalid_config on sizes < 1 (heads, rank and conv may be 0), a width that does not fit, beta outside
///           (0, 2) or open_gate outside (0, 1).
/// Accuracy: deterministic for a seed, on every platform up to the rounding of sine and logarithm.
/// Source:   arXiv 2505.16381, which leaves the start open: its numbers are ours.
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
