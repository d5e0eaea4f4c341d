// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPE-Mixed: learned frequencies, with which every pair of every head rotates by all axes.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// The meaning of the first index of a weight array. x_first: weight axis 0 multiplies the column, which is
/// the last position axis, and so on in reverse order (RoPE-ViT and timm checkpoints). as_positions: weight
/// axis a multiplies position axis a.
enum class weight_axes : std::uint8_t { x_first, as_positions };

struct mixed_config {
    index heads = 1;
    index axes = 2;
    index pairs = 0;                           ///< head_dim / 2
    index depth = 1;                           ///< layers in the weights
    index layer = 0;                           ///< the layer to read
    weight_axes order = weight_axes::x_first;  ///< which weight axis belongs to which position axis
};

}  // namespace ROPEWALK_NAMESPACE::frequencies

namespace ROPEWALK_NAMESPACE::detail {

/// Index of the first weight of a head and a position axis.
inline index mixed_weights_at(const frequencies::mixed_config& c, index head, index axis) noexcept {
    const index own = c.order == frequencies::weight_axes::x_first ? c.axes - 1 - axis : axis;
    return ((own * c.depth + c.layer) * c.heads + head) * c.pairs;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::frequencies {

/// Learned frequencies: every pair of every head rotates with every axis, angle = sum over axes of position *
/// weight.
/// Shapes:   weights [axes, depth, heads, pairs] row-major. This covers [2, depth, H * D/2] of RoPE-ViT's
///           models, [2, H * D/2] of its self-attention module, [2, H, D/2] of a Swin block and [2, depth, H,
///           D/2] of timm.
/// Units:    radians per unit of position.
/// Throws:   invalid_config on a wrong number of weights, a layer that does not exist or weights that are not
///           finite.
/// Source:   RoPE-ViT, Heo et al. 2024, RoPE-Mixed; naver-ai/rope-vit models/vit_rope.py.
///
///     const auto learned = frequencies::mixed({.heads = 6, .pairs = 32, .depth = 12, .layer = 3}, weights);
template <class W>
spectrum mixed(const mixed_config& config, std::span<const W> weights) {
    constexpr const char* who = "mixed";
    detail::require(config.heads >= 1, who, "heads must be >= 1", config.heads);
    detail::require(config.axes >= 1, who, "axes must be >= 1", config.axes);
    detail::require(config.pairs >= 0, who, "pairs must be >= 0", config.pairs);
    detail::require(config.depth >= 1, who, "depth must be >= 1", config.depth);
    detail::require(config.layer >= 0 && config.layer < config.depth, who, "layer must be below depth",
                    config.layer);
    const auto count = static_cast<index>(weights.size());
    detail::require_equal(who, "weights must hold axes * depth * heads * pairs numbers",
                          detail::checked_product(who, "axes, depth, heads and pairs must be >= 0",
                                                  {config.axes, config.depth, config.heads, config.pairs}),
                          count);
    std::vector<double> omega;
    for (index h = 0; h < config.heads; ++h)
        for (index a = 0; a < config.axes; ++a) {
            const index first = detail::mixed_weights_at(config, h, a);
            for (index i = 0; i < config.pairs; ++i)
                omega.push_back(static_cast<double>(weights[static_cast<std::size_t>(first + i)]));
        }
    return spectrum::mixed(omega, config.heads, config.axes);
}
template <class W>
spectrum mixed(const mixed_config& config, const std::vector<W>& weights) {
    return mixed(config, std::span<const W>(weights));
}

struct mixed_start_config {
    index head_dim = 0;
    double base = 10;  ///< rope_theta
};

/// The published initialisation: for each head one ladder of frequencies along a random direction, and the
/// same ladder perpendicular to it. With m_j = base^(-4 j / head_dim) the first half of the pairs of a head
/// gets m_j (cos phi, sin phi), the second half m_j (-sin phi, cos phi). phi = 0 is axial RoPE, column first.
/// Shapes:   angles [heads] (one phi per head, in radians) -> weights [2 (x, y), heads, head_dim / 2].
/// Throws:   invalid_config if head_dim is not a multiple of 4, base is not > 0 or an angle is not finite.
/// Source:   naver-ai/rope-vit self-attn/rope_self_attn.py, init_random_2d_freqs.
inline std::vector<double> make_mixed_start(const mixed_start_config& config,
                                            std::span<const double> angles) {
    constexpr const char* who = "make_mixed_start";
    detail::require(config.head_dim > 0 && config.head_dim % 4 == 0, who,
                    "head_dim must be a multiple of 4 and > 0", config.head_dim);
    detail::require_ladder(who, config.head_dim / 2, config.base);
    const auto ladder = detail::ladder(config.head_dim / 2, config.base);
    std::vector<double> weights;
    for (int axis = 0; axis < 2; ++axis)
        for (const double phi : angles) {
            detail::require(std::isfinite(phi), who, "angles must be finite", phi);
            const double along = axis == 0 ? std::cos(phi) : std::sin(phi);
            const double across = axis == 0 ? -std::sin(phi) : std::cos(phi);
            for (const double m : ladder) weights.push_back(m * along);
            for (const double m : ladder) weights.push_back(m * across);
        }
    return weights;
}

/// The same with random angles, uniform on [0, 2 pi). Takes one number per head from a generator of the
/// standard library, without its distributions, so that a seed gives the same angles with every standard
/// library.
/// Throws: as above, and on heads < 1.
/// Source: as above.
template <class Generator>
requires requires(Generator& generator) { generator() - Generator::min(), Generator::max(); }
std::vector<double> make_mixed_start(const mixed_start_config& config, index heads, Generator& generator) {
    detail::require(heads >= 1, "make_mixed_start", "heads must be >= 1", heads);
    const double numbers = static_cast<double>(Generator::max() - Generator::min()) + 1;
    std::vector<double> angles(static_cast<std::size_t>(heads));
    for (double& phi : angles)
        phi = 2 * std::numbers::pi * (static_cast<double>(generator() - Generator::min()) / numbers);
    return make_mixed_start(config, angles);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
