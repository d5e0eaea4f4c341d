// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Quantised keys and RoPE: codes before the rotation (KVQuant, RotateKV) or of rotated pairs (PolarQuant).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <span>
#include <vector>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

/// Quantisation of keys before or after the rotation. KVQuant and RotateKV quantise keys before the rotation
/// and rotate each decoded key at its own position; PolarQuant quantises rotated keys, pair by pair.
/// Source:   KVQuant, arXiv 2401.18079; RotateKV, arXiv 2501.16383; PolarQuant, arXiv 2502.00527.
namespace ROPEWALK_NAMESPACE::key_codes {

namespace detail_codes {

inline void require_bits(const char* who, index bits, const char* must) {
    detail::require(bits >= 1 && bits <= 8, who, must, bits);
}
template <class T>
void require_one_batch(const char* who, heads_view<T> x) {
    detail::require_readable(who, "keys", x);
    detail::require(x.batches() == 1, who, "batches must be 1", x.batches());
    for (index n = 0; n < x.tokens(); ++n)
        for (index h = 0; h < x.heads(); ++h)
            for (index c = 0; c < x.channels(); ++c)
                detail::require(std::isfinite(static_cast<double>(x.at(0, n, h)[c])), who,
                                "keys must be finite", static_cast<double>(x.at(0, n, h)[c]));
}

}  // namespace detail_codes

struct channel_config {
    index bits = 4;          ///< of a code, 1 .. 8
    index exact_tokens = 0;  ///< first tokens that are not quantised (attention sinks)
};

/// Keys quantised before the rotation, channel by channel over the tokens. Before the rotation each channel
/// has a range of its own; the rotation would mix the ranges of the two channels of a pair.
/// Shapes:   codes [tokens - exact, heads * channels]; low and step per channel.
/// Source:   KVQuant, arXiv 2401.18079 (uniform and asymmetric codes with an offset that is not rounded).
struct channel_codes {
    std::vector<std::uint8_t> codes;  ///< see Shapes
    std::vector<double> low;          ///< [heads * channels], the smallest value
    std::vector<double> step;         ///< [heads * channels]; 0: the channel is constant
};

/// Encodes keys. Throws: invalid_config on bits outside 1 .. 8, exact_tokens outside 0 .. tokens, or keys
/// that are not finite.
template <class T>
channel_codes encode_channels(const channel_config& c, heads_view<const T> k) {
    constexpr const char* who = "key_codes::encode_channels";
    detail_codes::require_bits(who, c.bits, "bits must be in 1 .. 8");
    detail_codes::require_one_batch(who, k);
    detail::require(c.exact_tokens >= 0 && c.exact_tokens <= k.tokens(), who,
                    "exact_tokens must be in 0 .. tokens", c.exact_tokens);
    const double top = std::exp2(static_cast<double>(c.bits)) - 1;
    const index width = k.heads() * k.channels(), coded = k.tokens() - c.exact_tokens;
    channel_codes out;
    out.codes.resize(static_cast<std::size_t>(coded * width));
    for (index i = 0; i < width; ++i) {
        const auto value = [&](index n) {
            return static_cast<double>(k.at(0, c.exact_tokens + n, i / k.channels())[i % k.channels()]);
        };
        double low = coded > 0 ? value(0) : 0, high = low;
        for (index n = 0; n < coded; ++n) low = std::min(low, value(n)), high = std::max(high, value(n));
        const double step = (high - low) / top;
        out.low.push_back(low);
        out.step.push_back(step);
        const double per_unit = step > 0 ? top / (high - low) : 0;
        for (index n = 0; n < coded && step > 0; ++n)
            out.codes[static_cast<std::size_t>(n * width + i)] = static_cast<std::uint8_t>(
                std::clamp(std::nearbyint(per_unit * value(n) - low * per_unit), 0.0, top));
    }
    return out;
}

/// Decodes into `out`. Its first exact_tokens tokens, which have no codes, are not changed.
/// Shapes:   out [1, tokens, heads, channels], to be rotated afterwards at the tokens' own positions.
/// Throws:   invalid_config on sizes that disagree.
template <class T>
void decode_channels(const channel_config& c, const channel_codes& codes, heads_view<T> out) {
    constexpr const char* who = "key_codes::decode_channels";
    detail::require_writable(who, "out", out);
    detail::require(c.exact_tokens >= 0 && c.exact_tokens <= out.tokens(), who,
                    "exact_tokens must be in 0 .. tokens", c.exact_tokens);
    const index width = out.heads() * out.channels();
    detail::require(out.batches() == 1, who, "batches must be 1", out.batches());
    detail::require(static_cast<index>(codes.low.size()) == width && codes.step.size() == codes.low.size(),
                    who, "low and step must hold heads * channels numbers", codes.low.size());
    detail::require_equal(who, "codes must hold (tokens - exact) * heads * channels numbers",
                          (out.tokens() - c.exact_tokens) * width, codes.codes.size());
    for (index n = c.exact_tokens; n < out.tokens(); ++n)
        for (index i = 0; i < width; ++i) {
            const auto code =
                static_cast<double>(codes.codes[static_cast<std::size_t>((n - c.exact_tokens) * width + i)]);
            const auto at = static_cast<std::size_t>(i);
            out.at(0, n, i / out.channels())[i % out.channels()] =
                static_cast<T>(codes.low[at] + code * codes.step[at]);
        }
}

struct group_config {
    index bits = 4;         ///< of a code, 1 .. 8
    index group = 64;       ///< channels with a step of their own
    double clip_ratio = 1;  ///< factor on both ends of the range
};

/// RotateKV's codes of each token's reordered channels: groups of channels with an integer zero point and
/// step (max - min) clip / (bits^2 - 1), as in its code (which is correct for 2 and 4 bits; at 3 bits the
/// largest values are clipped).
/// Shapes:   codes [tokens, width]; low, step and zero [tokens, width / group].
/// Source:   ZunhaiSu/RotateKV RotateKV_fake_quant/fake_quant.py.
struct group_codes {
    std::vector<std::uint8_t> codes;  ///< see Shapes
    std::vector<double> low;          ///< smallest value of each group
    std::vector<double> step;         ///< from a code to the next
    std::vector<double> zero;         ///< the code of 0
};

/// RotateKV's order of channels: ascending by their sum over calibration tokens.
/// Shapes:   rows [tokens, width] -> [width].
/// Throws:   invalid_config when rows are not a multiple of width.
/// Source:   ZunhaiSu/RotateKV k_reordering_calibration.py.
inline std::vector<index> channel_order(std::span<const double> rows, index width) {
    detail::require(width >= 1 && static_cast<index>(rows.size()) % width == 0, "key_codes::channel_order",
                    "rows must hold tokens * width numbers", rows.size());
    std::vector<double> sums(static_cast<std::size_t>(width));
    for (std::size_t i = 0; i < rows.size(); ++i) sums[i % sums.size()] += rows[i];
    std::vector<index> order(sums.size());
    std::iota(order.begin(), order.end(), index{0});
    std::stable_sort(order.begin(), order.end(), [&](index a, index b) {
        return sums[static_cast<std::size_t>(a)] < sums[static_cast<std::size_t>(b)];
    });
    return order;
}

/// Encodes rows. Throws: invalid_config on bits outside 2 .. 8, a group that does not divide width, a
///         clip_ratio outside (0, 1], an order of another width, or numbers that are not finite.
inline group_codes encode_groups(const group_config& c, std::span<const double> rows,
                                 std::span<const index> order) {
    constexpr const char* who = "key_codes::encode_groups";
    const auto width = static_cast<index>(order.size());
    detail::require(c.bits >= 2 && c.bits <= 8, who, "bits must be in 2 .. 8", c.bits);
    detail::require(width >= 1 && static_cast<index>(rows.size()) % width == 0, who,
                    "rows must hold tokens * width numbers", rows.size());
    detail::require(c.group >= 1 && width % c.group == 0, who, "group must divide the width", c.group);
    detail::require(c.clip_ratio > 0 && c.clip_ratio <= 1, who, "clip_ratio must be in (0, 1]", c.clip_ratio);
    for (const index i : order) detail::require(i >= 0 && i < width, who, "order must hold channels", i);
    for (const double v : rows) detail::require(std::isfinite(v), who, "keys must be finite", v);
    const auto bits = static_cast<double>(c.bits);
    const double top = std::exp2(bits) - 1;
    group_codes out;
    for (index n = 0; n < static_cast<index>(rows.size()) / width; ++n)
        for (index g = 0; g < width; g += c.group) {
            const auto value = [&](index i) {
                return rows[static_cast<std::size_t>(n * width + order[static_cast<std::size_t>(g + i)])];
            };
            double low = value(0), high = low;
            for (index i = 0; i < c.group; ++i)
                low = std::min(low, value(i)), high = std::max(high, value(i));
            const double step = (high - low) * c.clip_ratio / (bits * bits - 1);
            const double zero = step > 0 ? std::nearbyint(-low * c.clip_ratio / step) : 0;
            out.low.push_back(low);
            out.step.push_back(step);
            out.zero.push_back(zero);
            for (index i = 0; i < c.group; ++i)
                out.codes.push_back(static_cast<std::uint8_t>(
                    step > 0 ? std::clamp(std::nearbyint(value(i) / step) + zero, 0.0, top) : 0.0));
        }
    return out;
}

/// Decodes the channels into their original order; a constant group is exact.
/// Shapes:   [tokens, width].
/// Throws:   invalid_config on sizes that disagree.
inline std::vector<double> decode_groups(const group_config& c, const group_codes& codes,
                                         std::span<const index> order) {
    constexpr const char* who = "key_codes::decode_groups";
    const auto width = static_cast<index>(order.size());
    detail::require(width >= 1 && c.group >= 1 && width % c.group == 0, who, "group must divide the width",
                    c.group);
    for (const index i : order) detail::require(i >= 0 && i < width, who, "order must hold channels", i);
    const auto numbers = static_cast<index>(codes.codes.size());
    detail::require(numbers % width == 0 && static_cast<index>(codes.step.size()) * c.group == numbers &&
                        codes.zero.size() == codes.step.size() && codes.low.size() == codes.step.size(),
                    who, "codes must hold tokens * width numbers", numbers);
    std::vector<double> out(codes.codes.size());
    for (index i = 0; i < numbers; ++i) {
        const auto g = static_cast<std::size_t>(i / c.group), at = static_cast<std::size_t>(i);
        out[static_cast<std::size_t>(i / width * width + order[static_cast<std::size_t>(i % width)])] =
            codes.step[g] > 0 ? codes.step[g] * (static_cast<double>(codes.codes[at]) - codes.zero[g])
                              : codes.low[g];
    }
    return out;
}

struct polar_config {
    index group = 128;      ///< consecutive tokens that share a range
    index radius_bits = 4;  ///< radius_bits + angle_bits <= 8: one byte per pair
    index angle_bits = 4;   ///< of an angle's code
    pair_layout layout = half_split{};
};

/// PolarQuant: the pairs of a rotated key as radius and angle in [0, 2 pi), each with a range per group of
/// tokens, head and pair; decoded to the middle of a step. Moving keys to other positions changes only
/// angle_low.
/// Shapes:   codes [groups * group, heads, pairs], radius code << angle_bits | angle code; ranges [groups,
///           heads, pairs]. Tokens after the last whole group have no codes.
/// Source:   ericshwu/PolarQuant models/modeling_llama_polar.py.
struct polar_codes {
    std::vector<std::uint8_t> codes;  ///< see Shapes
    std::vector<double> radius_low;   ///< least radius of each group, head and pair
    std::vector<double> radius_step;  ///< from a code to the next
    std::vector<double> angle_low;    ///< least angle, radians
    std::vector<double> angle_step;   ///< from a code to the next
};

/// Encodes rotated keys. Throws: invalid_config on a group < 1, bits < 1 or more than 8 together, a layout
///         that does not fit, or keys that are not finite.
template <class T>
polar_codes encode_polar(const polar_config& c, heads_view<const T> k) {
    constexpr const char* who = "key_codes::encode_polar";
    detail::require(c.group >= 1, who, "group must be >= 1", c.group);
    detail_codes::require_bits(who, c.radius_bits, "radius_bits must be in 1 .. 8");
    detail_codes::require_bits(who, c.angle_bits, "angle_bits must be in 1 .. 8");
    detail::require(c.radius_bits + c.angle_bits <= 8, who, "radius_bits + angle_bits must be <= 8",
                    c.radius_bits + c.angle_bits);
    detail_codes::require_one_batch(who, k);
    const index pairs = k.channels() / 2, groups = k.tokens() / c.group;
    detail::require(k.channels() % 2 == 0 && c.layout.fits(pairs), who, "channels must be whole pairs",
                    k.channels());
    polar_codes out;
    out.codes.resize(static_cast<std::size_t>(groups * c.group * k.heads() * pairs));
    std::vector<double> radius(static_cast<std::size_t>(c.group)), angle(radius);
    const auto ranged = [](const std::vector<double>& v, index bits, std::vector<double>& low,
                           std::vector<double>& step) {
        const auto [least, most] = std::minmax_element(v.begin(), v.end());
        low.push_back(*least);
        step.push_back((*most - *least) / std::exp2(static_cast<double>(bits)));
    };
    const auto code = [](double v, double low, double step, index bits) {
        return step > 0 ? static_cast<unsigned>(std::clamp(std::floor((v - low) / step), 0.0,
                                                           std::exp2(static_cast<double>(bits)) - 1))
                        : 0u;
    };
    for (index g = 0; g < groups; ++g)
        for (index h = 0; h < k.heads(); ++h)
            for (index i = 0; i < pairs; ++i) {
                for (index t = 0; t < c.group; ++t) {
                    const T* const head = k.at(0, g * c.group + t, h);
                    const auto x = static_cast<double>(head[c.layout.first(i, pairs)]),
                               y = static_cast<double>(head[c.layout.second(i, pairs)]);
                    const double a = std::atan2(y, x);
                    radius[static_cast<std::size_t>(t)] = std::sqrt(x * x + y * y);
                    angle[static_cast<std::size_t>(t)] = a < 0 ? a + 2 * std::numbers::pi : a;
                }
                ranged(radius, c.radius_bits, out.radius_low, out.radius_step);
                ranged(angle, c.angle_bits, out.angle_low, out.angle_step);
                for (index t = 0; t < c.group; ++t) {
                    const auto at = static_cast<std::size_t>(t);
                    const unsigned r =
                        code(radius[at], out.radius_low.back(), out.radius_step.back(), c.radius_bits);
                    const unsigned a =
                        code(angle[at], out.angle_low.back(), out.angle_step.back(), c.angle_bits);
                    out.codes[static_cast<std::size_t>(((g * c.group + t) * k.heads() + h) * pairs + i)] =
                        static_cast<std::uint8_t>(r << c.angle_bits | a);
                }
            }
    return out;
}

/// Decodes whole groups into `out`; the tokens after them are not changed.
/// Throws: invalid_config on sizes that disagree.
template <class T>
void decode_polar(const polar_config& c, const polar_codes& codes, heads_view<T> out) {
    constexpr const char* who = "key_codes::decode_polar";
    detail::require_writable(who, "out", out);
    detail_codes::require_bits(who, c.angle_bits, "angle_bits must be in 1 .. 8");
    const index pairs = out.channels() / 2;
    detail::require(out.batches() == 1, who, "batches must be 1", out.batches());
    detail::require(c.group >= 1 && out.channels() % 2 == 0 && c.layout.fits(pairs), who,
                    "channels must be whole pairs", out.channels());
    const index groups = out.tokens() / c.group, ranges = groups * out.heads() * pairs;
    detail::require_equal(who, "codes must hold whole groups of tokens * heads * pairs", ranges * c.group,
                          codes.codes.size());
    for (const auto* range : {&codes.radius_low, &codes.radius_step, &codes.angle_low, &codes.angle_step})
        detail::require_equal(who, "ranges must hold groups * heads * pairs numbers", ranges, range->size());
    const unsigned mask = (1u << c.angle_bits) - 1;
    for (index n = 0; n < groups * c.group; ++n)
        for (index h = 0; h < out.heads(); ++h)
            for (index i = 0; i < pairs; ++i) {
                const unsigned code =
                    codes.codes[static_cast<std::size_t>((n * out.heads() + h) * pairs + i)];
                const auto at = static_cast<std::size_t>((n / c.group * out.heads() + h) * pairs + i);
                const double radius =
                    (static_cast<double>(code >> c.angle_bits) + 0.5) * codes.radius_step[at] +
                    codes.radius_low[at];
                const double angle =
                    (static_cast<double>(code & mask) + 0.5) * codes.angle_step[at] + codes.angle_low[at];
                out.at(0, n, h)[c.layout.first(i, pairs)] = static_cast<T>(radius * std::cos(angle));
                out.at(0, n, h)[c.layout.second(i, pairs)] = static_cast<T>(radius * std::sin(angle));
            }
}

}  // namespace ROPEWALK_NAMESPACE::key_codes
