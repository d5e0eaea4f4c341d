// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE {

/// Queries carry zeta^e, keys its inverse.
enum class xpos_side : std::uint8_t { query, key };

/// Where the exponents of a code are centred. half_down: floor(keys / 2) for q and k (x-transformers).
/// half_up: ceil(keys / 2) (torchscale). own_half_down: half of the array at hand, the queries' own for q, so
/// that decode with a cache gets other logits than one pass (rotary-embedding-torch; kept for comparisons).
enum class xpos_convention : std::uint8_t { half_down, half_up, own_half_down };

/// The centre of an array of `own` tokens in a call over `keys` keys.
/// Throws: invalid_config on counts < 0.
/// Source: microsoft/torchscale xpos_relative_position.py; lucidrains/x-transformers; lucidrains/
///         rotary-embedding-torch get_scale.
inline double xpos_centre(xpos_convention convention, index own, index keys) {
    detail::require(own >= 0, "xpos_centre", "own must be >= 0", own);
    detail::require(keys >= 0, "xpos_centre", "keys must be >= 0", keys);
    switch (convention) {
        case xpos_convention::half_up: return static_cast<double>((keys + 1) / 2);
        case xpos_convention::own_half_down: return static_cast<double>(own / 2);
        default: return static_cast<double>(keys / 2);
    }
}

struct xpos_config {
    index rotary_dim = 0;
    double base = 1e4;
    double scale_base = 512;  ///< positions over which zeta decays once
    double centre = 0;        ///< where the magnitude is 1; q and k of one cache need the same, for its life
};

/// The decay of each pair over scale_base positions: (2 i + 0.4 d) / (1.4 d).
/// Shapes:   [pairs], in (0, 1).
/// Throws:   invalid_config on an odd rotary_dim.
/// Source:   A Length-Extrapolatable Transformer, Sun et al. 2022 (arXiv 2212.10554).
inline std::vector<double> xpos_decay(index rotary_dim) {
    detail::require_ladder("xpos", rotary_dim, 1.0);
    const auto d = static_cast<double>(rotary_dim);
    std::vector<double> zeta(static_cast<std::size_t>(rotary_dim / 2));
    for (std::size_t i = 0; i < zeta.size(); ++i)
        zeta[i] = (2 * static_cast<double>(i) + 0.4 * d) / (1.4 * d);
    return zeta;
}

/// The magnitude of every row and pair: zeta^((p - centre) / scale_base), inverted for keys.
/// Shapes:   [tokens, pairs]; 1 for untouched tokens.
/// Throws:   invalid_config on an odd rotary_dim, scale_base that is not finite and > 0, a centre that is not
///           finite, or positions of several axes.
/// Source:   Sun et al. 2022, algorithm 1.
inline std::vector<double> xpos_magnitudes(const xpos_config& c, xpos_side side,
                                           const position_ids& positions) {
    detail::require_factor("xpos", "scale_base must be finite and > 0", c.scale_base);
    detail::require(std::isfinite(c.centre), "xpos", "centre must be finite", c.centre);
    detail::require(positions.axes() == 1, "xpos", "positions must have one axis", positions.axes());
    const auto zeta = xpos_decay(c.rotary_dim);
    std::vector<double> all;
    for (index n = 0; n < positions.tokens(); ++n) {
        const double e = positions.touched(n) ? (positions.at(n) - c.centre) / c.scale_base : 0.0;
        for (const double z : zeta) all.push_back(std::pow(z, side == xpos_side::query ? e : -e));
    }
    return all;
}

/// xPos rows: rotation times a magnitude that decays for queries and grows for keys, so that q.k carries
/// zeta^(distance / scale_base). For causal attention: towards later keys it grows.
/// The inverse of a query row is the transpose of the key row of the same position, and the other way round:
/// undo rotate(q, query rows) with rotate_gradient(q, key rows). unrotate knows one magnitude for all pairs
/// and is not for these rows; rotate_gradient with their own rows is the gradient.
/// Shapes:   [tokens, 1, pairs].
/// Throws:   invalid_config as xpos_magnitudes, and where |p - centre| / scale_base is so large that T cannot
///           hold a magnitude or its inverse (f32: about 69).
/// Cost:     one pow a pair and row beside make_rotation_table.
/// Source:   A Length-Extrapolatable Transformer, Sun et al. 2022 (arXiv 2212.10554).
template <class T = float>
[[nodiscard]] rotation_table<T> make_xpos_table(const xpos_config& c, xpos_side side,
                                                const position_ids& positions) {
    const auto magnitudes = xpos_magnitudes(c, side, positions);
    const auto turning = frequencies::geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    const auto unit = make_rotation_table<double>(turning, positions);
    rotation_table<T> table(unit.row_count(), 1, turning.pairs());
    std::vector<std::int32_t> row_of_token;
    index row = 0;
    for (index n = 0; n < positions.tokens(); ++n) {
        row_of_token.push_back(positions.touched(n) ? static_cast<std::int32_t>(row) : untouched_row);
        if (!positions.touched(n)) continue;
        for (index i = 0; i < turning.pairs(); ++i) {
            const double m = magnitudes[static_cast<std::size_t>(n * turning.pairs() + i)];
            constexpr auto least = static_cast<double>(std::numeric_limits<T>::min());
            detail::require(m >= least && m <= 1 / least, "make_xpos_table",
                            "centre must be near enough for magnitudes that the table's type holds, position",
                            positions.at(n));
            const auto at = static_cast<std::size_t>(i);
            table.cos_data(row)[i] = static_cast<T>(m * unit.cos_row(row)[at]);
            table.sin_data(row)[i] = static_cast<T>(m * unit.sin_row(row)[at]);
        }
        ++row;
    }
    if (!positions.all_touched()) table.address_tokens(std::move(row_of_token));
    return table;
}

}  // namespace ROPEWALK_NAMESPACE
