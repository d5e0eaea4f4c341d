// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// xPos: rotations with a magnitude that decays with the distance between query and key.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/simd_exp.hpp>
#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE {

/// Which side the rows are for: queries have the magnitude zeta^e, keys its inverse.
enum class xpos_side : std::uint8_t { query, key };

/// How a code centres the exponents. half_down: floor(keys / 2) for q and k (x-transformers). half_up:
/// ceil(keys / 2) (torchscale). own_half_down: half of the array itself, so q uses the number of queries;
/// decoding with a cache then gives other logits than one pass (rotary-embedding-torch; kept for comparison).
enum class xpos_convention : std::uint8_t { half_down, half_up, own_half_down };

/// The centre for an array of `own` tokens in a call with `keys` keys.
/// Throws: invalid_config on counts < 0.
/// Source: microsoft/torchscale xpos_relative_position.py; lucidrains/x-transformers;
///         lucidrains/rotary-embedding-torch get_scale.
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
    double scale_base = 512;  ///< number of positions over which zeta is applied once
    double centre =
        0;  ///< the position of magnitude 1; q and k of one cache must use the same centre throughout
};

/// zeta, the decay of each pair over scale_base positions: (2 i + 0.4 d) / (1.4 d).
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

namespace detail {

/// ln zeta of every pair (negative), padded to whole registers.
inline aligned_vector<double> xpos_logs(index rotary_dim) {
    constexpr index lanes = simd::lanes<double>;
    const auto zeta = xpos_decay(rotary_dim);
    aligned_vector<double> logs(static_cast<std::size_t>((rotary_dim / 2 + lanes - 1) / lanes * lanes));
    for (std::size_t i = 0; i < zeta.size(); ++i) logs[i] = std::log(zeta[i]);
    return logs;
}
inline void require_xpos(const xpos_config& c, const position_ids& positions) {
    require_factor("xpos", "scale_base must be finite and > 0", c.scale_base);
    require(std::isfinite(c.centre), "xpos", "centre must be finite", c.centre);
    require(positions.axes() == 1, "xpos", "positions must have one axis", positions.axes());
}
/// The exponent of zeta at a position.
inline double xpos_exponent(const xpos_config& c, xpos_side side, double position) {
    const double e = (position - c.centre) / c.scale_base;
    return side == xpos_side::query ? e : -e;
}
/// zeta^exponent: the exponential of a negative number, or its reciprocal.
ROPEWALK_ALWAYS_INLINE simd::pack<double> xpos_magnitude(simd::pack<double> log, double exponent) noexcept {
    const auto power = simd::exp_of_negative(log * simd::broadcast(std::abs(exponent)));
    return exponent < 0 ? simd::broadcast(1.0) / power : power;
}

}  // namespace detail

/// The magnitude of every row and pair: zeta^((p - centre) / scale_base), inverted for keys.
/// Shapes:   [tokens, pairs]; 1 for untouched tokens.
/// Throws:   invalid_config on an odd rotary_dim, scale_base that is not finite and > 0, a centre that is not
///           finite, or positions of several axes.
/// Accuracy: 2^-52 (2 + |ln of the magnitude|), relative; from 2^1022 on infinite or 0.
/// Source:   Sun et al. 2022, algorithm 1.
inline std::vector<double> xpos_magnitudes(const xpos_config& c, xpos_side side,
                                           const position_ids& positions) {
    detail::require_xpos(c, positions);
    constexpr index lanes = simd::lanes<double>;
    const auto logs = detail::xpos_logs(c.rotary_dim);
    std::vector<double> all, row(logs.size());
    for (index n = 0; n < positions.tokens(); ++n) {
        const double e = positions.touched(n) ? detail::xpos_exponent(c, side, positions.at(n)) : 0.0;
        for (index i = 0; i < static_cast<index>(logs.size()); i += lanes)
            simd::store(row.data() + i, detail::xpos_magnitude(simd::load(logs.data() + i), e));
        all.insert(all.end(), row.begin(), row.begin() + c.rotary_dim / 2);
    }
    return all;
}

/// xPos rows: a rotation times a magnitude that decays for queries and grows for keys, so that q.k is
/// multiplied by zeta^(distance / scale_base). For causal attention only: for keys after the query the factor
/// grows.
/// The inverse of a query row is the transpose of the key row at the same position, and the other way round.
/// To undo rotate(q, query rows) use rotate_gradient(q, key rows), or unrotate with the query rows, which
/// divides by the magnitude of each pair. rotate_gradient with the query rows is the gradient.
/// Shapes:   [tokens, 1, pairs].
/// Throws:   invalid_config as xpos_magnitudes, and if |p - centre| / scale_base is so large that T cannot
///           hold a magnitude or its inverse (f32: about 69).
/// Cost:     twice make_rotation_table: one exponential per pair and row.
/// Accuracy: cos and sin as make_rotation_table, times magnitudes as xpos_magnitudes.
/// Source:   A Length-Extrapolatable Transformer, Sun et al. 2022 (arXiv 2212.10554).
template <class T = float>
[[nodiscard]] rotation_table<T> make_xpos_table(const xpos_config& c, xpos_side side,
                                                const position_ids& positions) {
    detail::require_xpos(c, positions);
    constexpr index lanes = simd::lanes<double>;
    const auto logs = detail::xpos_logs(c.rotary_dim);
    const auto turning = frequencies::geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    detail::aligned_vector<double> turns(logs.size());
    std::copy(turning.turns_data().begin(), turning.turns_data().end(), turns.begin());
    const index pairs = turning.pairs();
    std::vector<std::int32_t> row_of_token = detail::touched_rows(positions);
    index rows = 0;
    for (index n = 0; n < positions.tokens(); ++n) rows += positions.touched(n);
    rotation_table<T> table(rows, 1, pairs);
    // The magnitude of the first pair decays fastest.
    const double most = -std::log(static_cast<double>(std::numeric_limits<T>::min())) / std::abs(logs[0]);
    T cos[static_cast<std::size_t>(lanes)], sin[static_cast<std::size_t>(lanes)];
    index row = 0;
    for (index n = 0; n < positions.tokens(); ++n) {
        if (!positions.touched(n)) continue;
        const double position = positions.at(n), e = detail::xpos_exponent(c, side, position);
        detail::require(std::abs(e) <= most, "make_xpos_table",
                        "centre must be near enough for magnitudes that the table's type holds, position",
                        position);
        T* const to_cos = table.cos_data(row);
        T* const to_sin = table.sin_data(row++);
        for (index i = 0; i < pairs; i += lanes) {
            const auto m = detail::xpos_magnitude(simd::load(logs.data() + i), e);
            const auto angle =
                detail::cos_sin_of<T>(simd::broadcast(4 * position), simd::load(turns.data() + i), m);
            if (i + lanes <= pairs) {
                detail::store_row(to_cos + i, angle.first);
                detail::store_row(to_sin + i, angle.second);
            } else {
                detail::store_row(cos, angle.first);
                detail::store_row(sin, angle.second);
                std::copy_n(cos, pairs - i, to_cos + i);
                std::copy_n(sin, pairs - i, to_sin + i);
            }
        }
    }
    if (!row_of_token.empty()) table.address_tokens(std::move(row_of_token));
    return table;
}

}  // namespace ROPEWALK_NAMESPACE
