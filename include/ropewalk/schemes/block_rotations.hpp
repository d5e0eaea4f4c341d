// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Learned rotations of blocks of channels: LieRE, whose axes do not commute, and ComRoPE, whose axes do.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/angles/rotation_blocks.hpp>
#include <ropewalk/core/fit_view.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Adds the outer products g x^T of all heads that share a matrix to the block's gradient.
template <class T>
void add_outer(std::span<double> direction, const T* g, const T* x, index size) {
    for (index r = 0; r < size; ++r)
        for (index c = 0; c < size; ++c)
            direction[static_cast<std::size_t>(r * size + c)] +=
                static_cast<double>(g[r]) * static_cast<double>(x[c]);
}
inline void require_sizes(const char* who, std::initializer_list<index> sizes, const char* must,
                          std::size_t got) {
    require(static_cast<index>(got) == checked_product(who, "extents must be >= 0", sizes), who, must, got);
}
inline void require_block(const char* who, index axes, index heads, index blocks, index size) {
    require(axes >= 1, who, "axes must be >= 1", axes);
    require(heads >= 1, who, "heads must be >= 1", heads);
    require(blocks >= 0, who, "blocks must be >= 0", blocks);
    require(size >= 1 && size <= max_block_size, who, "size must be in 1 .. 64", size);
}
template <class T>
void require_gradient_shapes(const char* who, heads_view<const T> x, heads_view<const T> g, index tokens,
                             index channels) {
    require_readable(who, "x", x);
    require_readable(who, "gradient", g);
    require(x.batches() * x.tokens() == tokens, who, "x must have one token a position", x.tokens());
    require(x.channels() >= channels, who, "x.channels must hold the blocks", x.channels());
    const bool same = g.batches() == x.batches() && g.tokens() == x.tokens() && g.heads() == x.heads() &&
                      g.channels() == x.channels();
    require(same, who, "gradient must have x's shape, tokens", g.tokens());
}

}  // namespace ROPEWALK_NAMESPACE::detail

/// LieRE: one learned skew-symmetric matrix (generator) per axis and block; the rotation of a block is
/// exp(sum over axes of position * generator). With more than one axis, blocks of more than two channels do
/// not commute: q.k then depends on absolute positions, and a cached key cannot be moved to another position.
/// Source:   LieRE, arXiv 2406.10322; StanfordMIMI/LieRE models/rope_vit.py.
namespace ROPEWALK_NAMESPACE::liere {

struct model_config {
    index axes = 2;
    index heads = 1;   ///< heads with generators of their own; 1: all heads share them
    index blocks = 0;  ///< of a head
    index size = 2;    ///< channels of a block (generator_dim)
};

/// The generators U - U^T, where U is the strict upper triangle of the learned parameters. Elements outside
/// that triangle are not read.
/// Shapes:   raw and the result [axes, heads * blocks, size, size].
/// Throws:   invalid_config when raw has another size.
/// Source:   StanfordMIMI/LieRE LierePositionEncoder.
inline std::vector<double> make_generators(const model_config& c, std::span<const double> raw) {
    constexpr const char* who = "liere::make_generators";
    detail::require_block(who, c.axes, c.heads, c.blocks, c.size);
    detail::require_sizes(who, {c.axes, c.heads, c.blocks, c.size, c.size},
                          "raw must hold axes * heads * blocks * size * size numbers", raw.size());
    std::vector<double> out(raw.size(), 0.0);
    const index each = c.size * c.size;
    for (index m = 0; m < c.axes * c.heads * c.blocks; ++m)
        for (index r = 0; r < c.size; ++r)
            for (index k = r + 1; k < c.size; ++k) {
                const double v = raw[static_cast<std::size_t>(m * each + r * c.size + k)];
                out[static_cast<std::size_t>(m * each + r * c.size + k)] = v;
                out[static_cast<std::size_t>(m * each + k * c.size + r)] = -v;
            }
    return out;
}

namespace detail_liere {

inline void fill_sum(const model_config& c, std::span<const double> generators, const double* position,
                     index block, std::span<double> s) {
    const index each = c.size * c.size, blocks = c.heads * c.blocks;
    for (index i = 0; i < each; ++i) {
        double sum = 0;
        for (index a = 0; a < c.axes; ++a)
            sum += position[a] * generators[static_cast<std::size_t>((a * blocks + block) * each + i)];
        s[static_cast<std::size_t>(i)] = sum;
    }
}

}  // namespace detail_liere

/// The rotations of all positions. Untouched positions (class tokens) get the identity.
/// Shapes:   generators as make_generators; a table of positions.tokens() rows.
/// Throws:   invalid_config on sizes or axes that disagree, generators that are not skew.
/// Cost:     an exponential per block, head and token.
/// Source:   StanfordMIMI/LieRE models/rope_vit.py.
template <class T = float>
[[nodiscard]] rotation_blocks<T> make_table(const model_config& c, std::span<const double> generators,
                                            const position_ids& positions) {
    constexpr const char* who = "liere::make_table";
    detail::require_block(who, c.axes, c.heads, c.blocks, c.size);
    detail::require_sizes(who, {c.axes, c.heads, c.blocks, c.size, c.size},
                          "generators must hold axes * heads * blocks * size * size numbers",
                          generators.size());
    detail::require_equal(who, "positions must have the generators' axes", c.axes, positions.axes());
    rotation_blocks<T> table({positions.tokens(), c.heads, c.blocks, c.size});
    const auto at = positions.values();
    std::vector<double> m(static_cast<std::size_t>(c.size * c.size));
    for (index n = 0; n < positions.tokens(); ++n)
        for (index b = 0; b < c.heads * c.blocks; ++b) {
            detail_liere::fill_sum(c, generators, at.data() + n * c.axes, b, m);
            fill_rotation_exponential(m, c.size, m);
            table.set(n, b / c.blocks, b % c.blocks, m);
        }
    return table;
}

/// The gradient with respect to the learned parameters, given x before the rotation and the gradient after
/// it.
/// Shapes:   x, gradient [batches, tokens, heads, channels]; the result [axes, heads * blocks, size, size], 0
///           outside the strict upper triangles.
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     an exponential of twice the size per block and token.
/// Source:   derivative of the matrix exponential, Van Loan 1978.
template <class T>
std::vector<double> make_gradient(const model_config& c, std::span<const double> generators,
                                  const position_ids& positions, heads_view<const T> x,
                                  heads_view<const T> gradient) {
    constexpr const char* who = "liere::make_gradient";
    detail::require_block(who, c.axes, c.heads, c.blocks, c.size);
    detail::require_sizes(who, {c.axes, c.heads, c.blocks, c.size, c.size},
                          "generators must hold axes * heads * blocks * size * size numbers",
                          generators.size());
    detail::require_equal(who, "positions must have the generators' axes", c.axes, positions.axes());
    detail::require_gradient_shapes(who, x, gradient, positions.tokens(), c.blocks * c.size);
    detail::require(c.heads == 1 || c.heads == x.heads(), who, "x.heads must be the generators'", x.heads());
    const index each = c.size * c.size;
    std::vector<double> out(generators.size(), 0.0);
    std::vector<double> s(static_cast<std::size_t>(each)), direction(s), gamma(s);
    const auto at = positions.values();
    for (index n = 0; n < positions.tokens(); ++n)
        for (index b = 0; b < c.heads * c.blocks; ++b) {
            detail_liere::fill_sum(c, generators, at.data() + n * c.axes, b, s);
            std::fill(direction.begin(), direction.end(), 0.0);
            for (index h = 0; h < x.heads(); ++h) {
                if (c.heads > 1 && h != b / c.blocks) continue;
                const index first = b % c.blocks * c.size;
                detail::add_outer(std::span<double>(direction),
                                  gradient.at(n / x.tokens(), n % x.tokens(), h) + first,
                                  x.at(n / x.tokens(), n % x.tokens(), h) + first, c.size);
            }
            fill_exponential_gradient(s, direction, c.size, gamma);
            for (index a = 0; a < c.axes; ++a)
                for (index r = 0; r < c.size; ++r)
                    for (index k = r + 1; k < c.size; ++k)
                        out[static_cast<std::size_t>((a * c.heads * c.blocks + b) * each + r * c.size + k)] +=
                            at[static_cast<std::size_t>(n * c.axes + a)] *
                            (gamma[static_cast<std::size_t>(r * c.size + k)] -
                             gamma[static_cast<std::size_t>(k * c.size + r)]);
        }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::liere

/// ComRoPE: one learned skew-symmetric matrix per block, times a factor that is linear in the position. All
/// rotations of a block therefore commute, and scores depend on differences of positions only.
/// Source: ComRoPE, arXiv 2506.03737; Longin-Yu/ComRoPE model.py.
namespace ROPEWALK_NAMESPACE::comrope {

/// axis_partition (AP): block n rotates with axis n mod axes. linearly_dependent (LD): block n rotates with a
/// learned linear combination of all axes, which the heads share.
enum class commuting : std::uint8_t { axis_partition, linearly_dependent };

struct model_config {
    commuting kind = commuting::axis_partition;  ///< which of the two commuting forms
    index axes = 2;
    index heads = 1;
    index blocks = 0;  ///< of a head
    index size = 2;
};

/// The position of a patch on one axis of a grid: (patch + 0.5) / patches. A class token has 0.5 on all axes.
/// Throws:   invalid_config on patches < 1.
/// Source:   Longin-Yu/ComRoPE model.py RoPESelfAttentionBase (axis_scale).
inline double patch_position(index patch, index patches) {
    detail::require(patches >= 1, "comrope::patch_position", "patches must be >= 1", patches);
    return (static_cast<double>(patch) + 0.5) / static_cast<double>(patches);
}

/// The learned parameters of a model.
struct parameters {
    std::span<const double> frequencies;  ///< F [heads, blocks, size, size]; generators are F - F^T
    std::span<const double> multipliers;  ///< m [axes, blocks], linearly_dependent only
};

namespace detail_comrope {

inline void require_valid(const char* who, const model_config& c, const parameters& p,
                          const position_ids& positions) {
    detail::require_block(who, c.axes, c.heads, c.blocks, c.size);
    detail::require_sizes(who, {c.heads, c.blocks, c.size, c.size},
                          "frequencies must hold heads * blocks * size * size numbers", p.frequencies.size());
    detail::require_sizes(who, {c.kind == commuting::linearly_dependent ? c.axes : 0, c.blocks},
                          "multipliers must hold axes * blocks numbers (none where the axes are dealt out)",
                          p.multipliers.size());
    detail::require_equal(who, "positions must have the model's axes", c.axes, positions.axes());
}
/// The factor on the generator of block n at a position.
inline double reach(const model_config& c, const parameters& p, const double* position, index n) {
    if (c.kind == commuting::axis_partition) return position[n % c.axes];
    double sum = 0;
    for (index a = 0; a < c.axes; ++a)
        sum += position[a] * p.multipliers[static_cast<std::size_t>(a * c.blocks + n)];
    return sum;
}
inline void fill_generator(const model_config& c, const parameters& p, index matrix, double by,
                           std::span<double> s) {
    const double* const f = p.frequencies.data() + matrix * c.size * c.size;
    for (index r = 0; r < c.size; ++r)
        for (index k = 0; k < c.size; ++k)
            s[static_cast<std::size_t>(r * c.size + k)] = by * (f[r * c.size + k] - f[k * c.size + r]);
}

}  // namespace detail_comrope

/// The rotations of all positions.
/// Shapes:   a table of positions.tokens() rows and the model's heads.
/// Throws:   invalid_config on sizes or axes that disagree.
/// Cost:     an exponential per block, head and token.
/// Source:   Longin-Yu/ComRoPE model.py ComRoPEAPAttention, ComRoPELDAttention.
template <class T = float>
[[nodiscard]] rotation_blocks<T> make_table(const model_config& c, const parameters& p,
                                            const position_ids& positions) {
    detail_comrope::require_valid("comrope::make_table", c, p, positions);
    rotation_blocks<T> table({positions.tokens(), c.heads, c.blocks, c.size});
    const auto at = positions.values();
    std::vector<double> m(static_cast<std::size_t>(c.size * c.size));
    for (index n = 0; n < positions.tokens(); ++n)
        for (index b = 0; b < c.heads * c.blocks; ++b) {
            const double by = detail_comrope::reach(c, p, at.data() + n * c.axes, b % c.blocks);
            detail_comrope::fill_generator(c, p, b, by, m);
            fill_rotation_exponential(m, c.size, m);
            table.set(n, b / c.blocks, b % c.blocks, m);
        }
    return table;
}

/// Gradients of the learned parameters.
struct gradients {
    std::vector<double> frequencies;  ///< [heads, blocks, size, size]
    std::vector<double> multipliers;  ///< [axes, blocks]; empty for axis_partition
};

/// The gradients of the learned parameters, given x before the rotation and the gradient after it.
/// Shapes:   x, gradient [batches, tokens, heads, channels].
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     an exponential of twice the size per block, head and token.
/// Source:   derivative of the matrix exponential, Van Loan 1978.
template <class T>
gradients make_gradients(const model_config& c, const parameters& p, const position_ids& positions,
                         heads_view<const T> x, heads_view<const T> gradient) {
    constexpr const char* who = "comrope::make_gradients";
    detail_comrope::require_valid(who, c, p, positions);
    detail::require_gradient_shapes(who, x, gradient, positions.tokens(), c.blocks * c.size);
    detail::require_equal(who, "x.heads must be the model's", c.heads, x.heads());
    const index each = c.size * c.size;
    gradients out{std::vector<double>(p.frequencies.size(), 0.0),
                  std::vector<double>(p.multipliers.size(), 0.0)};
    std::vector<double> s(static_cast<std::size_t>(each)), unit(s), direction(s), gamma(s);
    const auto at = positions.values();
    for (index n = 0; n < positions.tokens(); ++n)
        for (index b = 0; b < c.heads * c.blocks; ++b) {
            const double by = detail_comrope::reach(c, p, at.data() + n * c.axes, b % c.blocks);
            detail_comrope::fill_generator(c, p, b, by, s);
            detail_comrope::fill_generator(c, p, b, 1, unit);
            std::fill(direction.begin(), direction.end(), 0.0);
            const index first = b % c.blocks * c.size;
            detail::add_outer(std::span<double>(direction),
                              gradient.at(n / x.tokens(), n % x.tokens(), b / c.blocks) + first,
                              x.at(n / x.tokens(), n % x.tokens(), b / c.blocks) + first, c.size);
            fill_exponential_gradient(s, direction, c.size, gamma);
            double reached = 0;
            for (index r = 0; r < c.size; ++r)
                for (index k = 0; k < c.size; ++k) {
                    const auto i = static_cast<std::size_t>(r * c.size + k);
                    out.frequencies[static_cast<std::size_t>(b * each) + i] +=
                        by * (gamma[i] - gamma[static_cast<std::size_t>(k * c.size + r)]);
                    reached += gamma[i] * unit[i];
                }
            for (index a = 0; a < c.axes && !out.multipliers.empty(); ++a)
                out.multipliers[static_cast<std::size_t>(a * c.blocks + b % c.blocks)] +=
                    at[static_cast<std::size_t>(n * c.axes + a)] * reached;
        }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE::comrope
