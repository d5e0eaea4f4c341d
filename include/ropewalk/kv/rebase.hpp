// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Position-independent caching: tables that move cached keys, their drift, and CacheBlend's choice.
// Values do not depend on positions and are not changed.
// Source: CacheBlend (YaoJiayi/CacheBlend), LMCache, Block-Attention (TemporaryLoRA/Block-Attention).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/core/fit_view.hpp>

namespace ROPEWALK_NAMESPACE {

/// The rows that move keys rotated at `old` with one spectrum to `now` with another: angle now * omega_to -
/// old * omega_from, computed and reduced in f64, magnitude m_to / m_from. One rotation with them replaces
/// unrotate and rotate. Two passes over a scheme's own table would instead leave the square of the magnitude
/// in the keys.
/// Shapes:   old, now [tokens, axes]; the table has one row per token, for rotate on the slice that rotates.
/// Requires: spectra with the same heads, axes and pairs.
/// Throws:   invalid_config if they differ, or if the positions differ in tokens or axes. A token that is
///           untouched in either is left alone.
/// Cost:     with one spectrum as make_rotation_table, because positions are subtracted; with two, one more
///           angle per pair.
/// Accuracy: with old = now and one spectrum, cos is 1 and sin 0, which changes nothing but the sign of a
///           zero. Otherwise as make_rotation_table, for both angles, plus the rounding of now - old.
/// Source:   R(a)^-1 R(b) = R(b - a).
template <class T = float>
[[nodiscard]] rotation_table<T> make_move_table(const spectrum& from, const spectrum& to,
                                                const position_ids& old, const position_ids& now) {
    constexpr const char* who = "make_move_table";
    detail::require_equal(who, "spectra must have the same heads", from.heads(), to.heads());
    detail::require_equal(who, "spectra must have the same axes", from.axes(), to.axes());
    detail::require_equal(who, "spectra must have the same pairs", from.pairs(), to.pairs());
    detail::require(old.axes() == from.axes() && now.axes() == from.axes(), who,
                    "positions must have the spectra's axes", now.axes());
    detail::require_equal(who, "positions must be of the same tokens", old.tokens(), now.tokens());
    const index axes = to.axes(), pairs = to.pairs();
    bool same = from.is_mixed() == to.is_mixed() && std::ranges::equal(from.turns_data(), to.turns_data());
    for (index h = 0; h < to.heads() && same && !to.is_mixed(); ++h)
        for (index i = 0; i < pairs; ++i) same = same && from.axis_of(h, i) == to.axis_of(h, i);
    std::vector<std::int32_t> row_of_token;
    std::int32_t rows = 0;
    for (index n = 0; n < now.tokens(); ++n)
        row_of_token.push_back(old.touched(n) && now.touched(n) ? rows++ : untouched_row);
    rotation_table<T> table(rows, to.heads(), pairs, to.magnitude() / from.magnitude());
    const spectrum unit = to.with_magnitude(table.magnitude());
    detail::row_filler<T> filler(unit, angle_arithmetic::exact);
    std::vector<double> at(static_cast<std::size_t>(axes)), before(at),
        reduced(static_cast<std::size_t>(pairs));
    for (index n = 0; n < now.tokens(); ++n) {
        const index row = row_of_token[static_cast<std::size_t>(n)];
        if (row < 0) continue;
        for (index a = 0; a < axes; ++a) {
            const auto k = static_cast<std::size_t>(a);
            at[k] = now.at(n, a), before[k] = old.at(n, a);
            if (same) at[k] -= before[k];
        }
        for (index h = 0; h < to.heads(); ++h) {
            if (same) {
                filler.fill(at.data(), h, table.cos_data(row, h), table.sin_data(row, h));
                continue;
            }
            for (index i = 0; i < pairs; ++i)
                reduced[static_cast<std::size_t>(i)] =
                    detail::reduced_at(to, at.data(), h, i) - detail::reduced_at(from, before.data(), h, i);
            fill_cos_sin_reduced(reduced.data(), unit.magnitude(), pairs, table.cos_data(row, h),
                                 table.sin_data(row, h));
        }
    }
    if (rows < now.tokens()) table.address_tokens(std::move(row_of_token));
    return table;
}

/// Keys as int8 with one scale per token and head: value = code * scale.
struct int8_keys {
    std::vector<std::int8_t> codes;  ///< [tokens, heads, channels]
    std::vector<double> scales;      ///< [tokens, heads]
};

/// Symmetric int8 codes of every head of every token: scale = largest magnitude / 127, rounded to nearest,
/// halves to even. A head of zeros has scale 0.
/// Shapes:   x [1, tokens, heads, channels].
/// Throws:   invalid_config on more than one batch or a number that is not finite.
/// Source:   absmax quantisation.
template <class T>
int8_keys quantize_int8(heads_view<const T> x) {
    detail::require_readable("quantize_int8", "x", x);
    detail::require(x.batches() == 1, "quantize_int8", "batches must be 1", x.batches());
    int8_keys out;
    for (index n = 0; n < x.tokens(); ++n)
        for (index h = 0; h < x.heads(); ++h) {
            double most = 0;
            for (index c = 0; c < x.channels(); ++c) {
                const auto v = static_cast<double>(x.at(0, n, h)[c]);
                detail::require(std::isfinite(v), "quantize_int8", "keys must be finite", v);
                most = std::max(most, std::abs(v));
            }
            const double scale = most / 127;
            out.scales.push_back(scale);
            for (index c = 0; c < x.channels(); ++c)
                // Clamped: for subnormal numbers the scale itself is rounded.
                out.codes.push_back(static_cast<std::int8_t>(
                    scale == 0 ? 0.0
                               : std::clamp(std::nearbyint(static_cast<double>(x.at(0, n, h)[c]) / scale),
                                            -127.0, 127.0)));
        }
    return out;
}
/// The values of int8 keys, written to x.
/// Throws:   invalid_config if the sizes are not those of x.
/// Source:   absmax quantisation.
template <class T>
void dequantize_int8(const int8_keys& keys, heads_view<T> x) {
    constexpr const char* who = "dequantize_int8";
    detail::require_writable(who, "x", x);
    detail::require(x.batches() == 1, who, "batches must be 1", x.batches());
    detail::require_equal(who, "scales must hold tokens * heads numbers", x.tokens() * x.heads(),
                          keys.scales.size());
    detail::require_equal(who, "codes must hold tokens * heads * channels numbers",
                          x.tokens() * x.heads() * x.channels(), keys.codes.size());
    for (index n = 0; n < x.tokens(); ++n)
        for (index h = 0; h < x.heads(); ++h)
            for (index c = 0; c < x.channels(); ++c)
                x.at(0, n, h)[c] = static_cast<T>(
                    static_cast<double>(
                        keys.codes[static_cast<std::size_t>((n * x.heads() + h) * x.channels() + c)]) *
                    keys.scales[static_cast<std::size_t>(n * x.heads() + h)]);
}

/// How a cache stores keys between shifts: as numbers, or as codes with one scale per token and head (int8),
/// with a constant scale (f8), or with one scale per block of 32 channels (q8_0, q4_0).
enum class shifted_storage : std::uint8_t { f32, f16, bf16, int8, f8_e4m3, f8_e5m2, q8_0, q4_0 };

/// How far one more shift may move a key from its exact value, relative to its norm. For f16 and f8: if the
/// numbers are normal in that format.
/// Throws:   invalid_config on channels < 1.
/// Source:   f32: 4 * 2^-24 for rows and arithmetic in f32; 16 bits: twice half an ulp; codes: half a step of
///           every channel, a step being the largest number / 127 (int8, and q8_0, whose scale is rounded to
///           f16) or, for q4_0, where one sign is clipped, / 4.
inline double shift_drift(shifted_storage storage, index channels) {
    detail::require(channels >= 1, "shift_drift", "channels must be >= 1", channels);
    const double int8 = std::sqrt(static_cast<double>(channels)) / 254;
    switch (storage) {
        case shifted_storage::f16: return 0x1p-10;
        case shifted_storage::bf16: return 0x1p-8;
        case shifted_storage::int8: return 1.001 * int8;
        case shifted_storage::f8_e4m3: return 1.001 * 0x1p-4;
        case shifted_storage::f8_e5m2: return 1.001 * 0x1p-3;
        case shifted_storage::q8_0: return std::sqrt(32.0) * (1.0 / 254 + 0x1p-10);
        case shifted_storage::q4_0: return std::sqrt(32.0) * (1.0 / 8 + 0x1p-10);
        default: return 4 * 0x1p-24;
    }
}

/// How far `shifts` consecutive rotations may move a key from one rotation by their sum, relative to its
/// norm: n d (1 + d)^n, where d is the drift of one shift. The error grows linearly: pairs that rotate by
/// less than half a unit in the last place do not move at all, and the norms do not show it. Keep the
/// original keys and the sum of the shifts instead.
/// Throws:   invalid_config on shifts < 0 or channels < 1.
/// Source:   one rounding per shift, of keys that earlier roundings have made longer.
inline double shift_drift_bound(shifted_storage storage, std::int64_t shifts, index channels = 128) {
    detail::require(shifts >= 0, "shift_drift_bound", "shifts must be >= 0", shifts);
    const auto n = static_cast<double>(shifts);
    const double d = shift_drift(storage, channels);
    return n * d * std::pow(1 + d, n);
}

/// The rows that move blocks of cached keys, one row per block instead of one per token: the distance of a
/// block from where it was computed is the same for all of its tokens. For shift_keys with a plan of the
/// tokens of the blocks in order, in a paged cache of any format, and for rotate.
/// Shapes:   lengths [blocks]; deltas [blocks, axes], where an untouched one leaves its block alone; rows()
///           has one entry per token.
/// Throws:   invalid_config on a negative length, a number of deltas other than that of blocks, or axes that
///           differ.
/// Cost:     one row per block and one index per token.
/// Accuracy: as make_rotation_table, magnitude 1.
/// Source:   R(p + d) = R(d) R(p); MEPIC, arXiv 2512.16822; TemporaryLoRA/Block-Attention.
template <class T = float>
[[nodiscard]] rotation_table<T> make_block_move_table(const spectrum& s, std::span<const index> lengths,
                                                      const position_ids& deltas) {
    constexpr const char* who = "make_block_move_table";
    detail::require_equal(who, "deltas must be one a block", lengths.size(), deltas.tokens());
    auto table = make_rotation_table<T>(s.with_magnitude(1), deltas);
    const auto of_blocks = detail::touched_rows(deltas);
    std::vector<std::int32_t> row_of_token;
    for (std::size_t block = 0; block < lengths.size(); ++block) {
        detail::require(lengths[block] >= 0, who, "lengths must be >= 0", lengths[block]);
        row_of_token.insert(row_of_token.end(), static_cast<std::size_t>(lengths[block]),
                            of_blocks.empty() ? static_cast<std::int32_t>(block) : of_blocks[block]);
    }
    table.address_tokens(std::move(row_of_token));
    return table;
}

/// Positions of tokens inside their own block: each block counts 0, 1, ....
/// Shapes:   lengths [blocks] -> [sum of lengths].
/// Throws:   invalid_config on a negative length.
/// Source:   TemporaryLoRA/Block-Attention block_generate.py.
inline position_ids block_positions(std::span<const index> lengths) {
    position_ids all;
    for (const index n : lengths) {
        detail::require(n >= 0, "block_positions", "lengths must be >= 0", n);
        all.append(text_run{n, 0, 1});
    }
    return all;
}

struct blend_config {
    double ratio = 0.16;  ///< share of the tokens before the suffix that is recomputed
    index suffix = 0;     ///< last tokens, which are always recomputed
};

/// Which tokens of concatenated caches are recomputed.
struct blend_choice {
    std::vector<double> difference;  ///< of each token before the suffix
    std::vector<index> recomputed;   ///< ascending, the suffix included
};

/// CacheBlend's choice: the floor(count * ratio) tokens before the suffix whose values differ most from the
/// cached ones (sum of squares over heads and channels), and all of the suffix. Of equal differences the
/// earlier token is chosen.
/// Shapes:   computed, cached [1, tokens, heads, channels].
/// Throws:   invalid_config on shapes that differ, a ratio outside [0, 1], or a suffix outside 0 .. tokens.
/// Source:   YaoJiayi/CacheBlend vllm_blend attention/backends/xformers.py.
template <class T>
blend_choice choose_recomputed(const blend_config& c, heads_view<const T> computed,
                               heads_view<const T> cached) {
    constexpr const char* who = "choose_recomputed";
    detail::require_readable(who, "computed", computed);
    detail::require_readable(who, "cached", cached);
    const bool same = computed.batches() == 1 && cached.batches() == 1 &&
                      computed.tokens() == cached.tokens() && computed.heads() == cached.heads() &&
                      computed.channels() == cached.channels();
    detail::require(same, who, "cached must have computed's shape, tokens", cached.tokens());
    detail::require(c.ratio >= 0 && c.ratio <= 1, who, "ratio must be in [0, 1]", c.ratio);
    detail::require(c.suffix >= 0 && c.suffix <= computed.tokens(), who, "suffix must be in 0 .. tokens",
                    c.suffix);
    const index count = computed.tokens() - c.suffix;
    blend_choice out;
    for (index n = 0; n < count; ++n) {
        double sum = 0;
        for (index h = 0; h < computed.heads(); ++h)
            for (index i = 0; i < computed.channels(); ++i) {
                const double d =
                    static_cast<double>(computed.at(0, n, h)[i]) - static_cast<double>(cached.at(0, n, h)[i]);
                sum += d * d;
            }
        out.difference.push_back(sum);
    }
    std::vector<index> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), index{0});
    std::stable_sort(order.begin(), order.end(), [&](index a, index b) {
        return out.difference[static_cast<std::size_t>(a)] > out.difference[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(std::floor(static_cast<double>(count) * c.ratio)));
    std::sort(order.begin(), order.end());
    out.recomputed = std::move(order);
    for (index n = count; n < computed.tokens(); ++n) out.recomputed.push_back(n);
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
