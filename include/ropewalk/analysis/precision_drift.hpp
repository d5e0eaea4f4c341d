// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A study of 16-bit rounding in RoPE: how scores drift when all positions are shifted.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

/// Measures how 16-bit arithmetic violates the property that a score depends only on the distance of two
/// positions. It rotates the same vectors at shifted positions, with rounding at different points.
/// Source: Wang et al. 2024 (arXiv 2411.13476); cast points of Hugging Face's Llama.
namespace ROPEWALK_NAMESPACE::drift {

/// Which values are rounded to which type. omega is given in f32, as models store inv_freq. The first six
/// emulate element-wise tensor code: every product and every sum is rounded, and nothing is fused. The last
/// two are this library.
enum class mode : std::uint8_t {
    exact,                ///< everything in f64
    all_f32,              ///< angle = f32(position) f32(omega), rotation in f32
    table_f32_out_bf16,   ///< as all_f32, with the result stored as bf16
    table_bf16_math_f32,  ///< cos and sin rounded to bf16, products and sum in f32, stored as bf16
    table_bf16,           ///< cos and sin bf16, each product and the sum rounded to bf16 (Hugging Face)
    pos_bf16,             ///< position, omega and their product bf16 too (an old and common mistake)
    kernel_f32,           ///< make_rotation_table and rotate on f32 data
    kernel_bf16           ///< make_rotation_table and rotate on bf16 data
};
/// Every mode, in order.
inline constexpr mode all_modes[] = {
    mode::exact,      mode::all_f32,  mode::table_f32_out_bf16, mode::table_bf16_math_f32,
    mode::table_bf16, mode::pos_bf16, mode::kernel_f32,         mode::kernel_bf16};

/// The enumerator's name.
constexpr std::string_view name_of(mode m) noexcept {
    constexpr std::string_view names[] = {
        "exact",      "all_f32",  "table_f32_out_bf16", "table_bf16_math_f32",
        "table_bf16", "pos_bf16", "kernel_f32",         "kernel_bf16"};
    return names[static_cast<std::size_t>(m)];
}
/// The mode of a name. Throws: invalid_config on an unknown name.
inline mode mode_named(std::string_view name) {
    const auto found =
        std::find_if(std::begin(all_modes), std::end(all_modes), [&](mode m) { return name_of(m) == name; });
    detail::require(found != std::end(all_modes), "drift::mode_named", "name must be a mode's",
                    std::string(name));
    return *found;
}

/// The frequencies, and the pair layout of a vector.
struct rotary {
    std::span<const float> omega;  ///< [pairs]
    pair_layout layout = half_split{};
};

}  // namespace ROPEWALK_NAMESPACE::drift

namespace ROPEWALK_NAMESPACE::detail {

inline float drift_bf16(float x) noexcept { return static_cast<float>(bf16(x)); }
// By way of f64: a product and a sum of two floats are then each rounded once and never contracted.
inline float drift_product(float x, float y) noexcept {
    return static_cast<float>(static_cast<double>(x) * static_cast<double>(y));
}
inline float drift_sum(float x, float y) noexcept {
    return static_cast<float>(static_cast<double>(x) + static_cast<double>(y));
}

/// One pair in f32 or bf16 arithmetic.
inline void drift_rotate(drift::mode m, double position, float omega, float& x, float& y) {
    using drift::mode;
    auto at = static_cast<float>(position);
    if (m == mode::pos_bf16) at = drift_bf16(at), omega = drift_bf16(omega);
    float angle = drift_product(at, omega);
    if (m == mode::pos_bf16) angle = drift_bf16(angle);
    auto c = static_cast<float>(std::cos(static_cast<double>(angle)));
    auto s = static_cast<float>(std::sin(static_cast<double>(angle)));
    const bool bf16_table = m == mode::table_bf16_math_f32 || m == mode::table_bf16 || m == mode::pos_bf16;
    if (bf16_table) c = drift_bf16(c), s = drift_bf16(s);
    const bool bf16_math = m == mode::table_bf16 || m == mode::pos_bf16;
    const auto product = [&](float u, float v) {
        return bf16_math ? drift_bf16(drift_product(u, v)) : drift_product(u, v);
    };
    const float first = drift_sum(product(x, c), product(-y, s)),
                second = drift_sum(product(y, c), product(x, s));
    x = m == mode::all_f32 ? first : drift_bf16(first);
    y = m == mode::all_f32 ? second : drift_bf16(second);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::drift {

/// x at `position` under a mode, as f64 numbers. x [2 * pairs] should hold numbers of the mode's type.
/// Throws:   invalid_config when x is not two channels per pair, or on a position that is not finite or
///           beyond f32's numbers.
/// Source:   Hugging Face, apply_rotary_pos_emb (table_bf16); the other modes differ by one rounding each.
inline std::vector<double> rotated(mode m, std::span<const double> x, double position, const rotary& rope) {
    const auto pairs = static_cast<index>(rope.omega.size());
    detail::require_equal("drift::rotated", "x must hold two channels a pair", 2 * pairs, x.size());
    detail::require(rope.layout.fits(pairs), "drift::rotated", "layout's group must divide the channels",
                    rope.layout.group);
    detail::require(std::abs(position) <= static_cast<double>(std::numeric_limits<float>::max()),
                    "drift::rotated", "position must be finite and fit in f32", position);
    std::vector<double> out(x.begin(), x.end());
    if (m == mode::exact || m == mode::kernel_f32 || m == mode::kernel_bf16) {
        const auto s = spectrum::from_omega(std::vector<double>(rope.omega.begin(), rope.omega.end()));
        const auto run = [&]<class T>(T) {
            std::vector<T> own;
            for (double v : x)
                if constexpr (std::is_same_v<T, double>) {
                    own.push_back(v);
                } else {
                    own.push_back(T(static_cast<float>(v)));
                }
            const auto table = make_rotation_table<compute_t<T>>(s, position_ids::text(1, position));
            rotate(rope.layout, heads_view<T>(own.data(), 1, 1, 2 * pairs), table);
            for (std::size_t c = 0; c < own.size(); ++c)
                out[c] = static_cast<double>(static_cast<compute_t<T>>(own[c]));
        };
        m == mode::exact ? run(double{}) : m == mode::kernel_f32 ? run(float{}) : run(bf16{});
        return out;
    }
    for (index i = 0; i < pairs; ++i) {
        const auto a = static_cast<std::size_t>(rope.layout.first(i, pairs)),
                   b = static_cast<std::size_t>(rope.layout.second(i, pairs));
        auto first = static_cast<float>(x[a]), second = static_cast<float>(x[b]);
        detail::drift_rotate(m, position, rope.omega[static_cast<std::size_t>(i)], first, second);
        out[a] = first;
        out[b] = second;
    }
    return out;
}

/// The scores of pairs of vectors at positions (shift + offset, shift), and how much they change with the
/// shift.
struct shift_table {
    std::vector<double> logits;  ///< [shifts, vectors, offsets], q . k / sqrt(channels), product in f64
    std::vector<double> mean;    ///< [shifts], of |logit(shift) - logit(first shift)|; 0 when exact
    std::vector<double> max;     ///< like mean
};

/// Shapes:   q, k [vectors, 2 * pairs].
/// Throws:   invalid_config on sizes that disagree, or positions that `rotated` refuses.
/// Source:   the paper's experiment on single vectors instead of trained heads.
inline shift_table make_shift_table(mode m, std::span<const double> q, std::span<const double> k,
                                    const rotary& rope, std::span<const double> shifts,
                                    std::span<const double> offsets) {
    constexpr const char* who = "drift::make_shift_table";
    const std::size_t channels = 2 * rope.omega.size();
    detail::require(channels > 0, who, "omega must not be empty, pairs", channels);
    detail::require(q.size() % channels == 0, who, "q must hold vectors * channels numbers", q.size());
    detail::require_equal(who, "k must be as long as q", q.size(), k.size());
    for (const auto& positions : {shifts, offsets})
        for (double p : positions)
            detail::require(std::isfinite(p), who, "shifts and offsets must be finite", p);
    shift_table t;
    const std::size_t vectors = q.size() / channels;
    for (double shift : shifts)
        for (std::size_t p = 0; p < vectors; ++p) {
            const auto key = rotated(m, k.subspan(p * channels, channels), shift, rope);
            for (double offset : offsets) {
                const auto query = rotated(m, q.subspan(p * channels, channels), shift + offset, rope);
                double dot = 0;
                for (std::size_t c = 0; c < channels; ++c) dot += query[c] * key[c];
                t.logits.push_back(dot / std::sqrt(static_cast<double>(channels)));
            }
        }
    const std::size_t each = vectors * offsets.size();
    for (std::size_t s = 0; s < shifts.size(); ++s) {
        double sum = 0, most = 0;
        for (std::size_t i = 0; i < each; ++i) {
            const double moved = std::abs(t.logits[s * each + i] - t.logits[i]);
            sum += moved;
            if (!(moved <= most || std::isnan(most))) most = moved;  // a NaN propagates, as in the mean
        }
        t.mean.push_back(each == 0 ? 0 : sum / static_cast<double>(each));
        t.max.push_back(most);
    }
    return t;
}

/// The drift of each key: for key j, the mean over the queries i >= j of the change in logit and softmax
/// weight between two shifts of all positions.
struct column_table {
    std::vector<double> logits;   ///< [tokens]
    std::vector<double> weights;  ///< [tokens]
};

/// Shapes:   q, k [tokens, 2 * pairs], one head, causal; scale 1 / sqrt(channels).
/// Throws:   invalid_config on sizes that disagree, or positions that `rotated` refuses.
/// Source:   Wang et al. 2024, section 3 (the first token carries most); averaging over causal rows is this
///           library's choice.
inline column_table make_column_table(mode m, std::span<const double> q, std::span<const double> k,
                                      const rotary& rope, double shift_1, double shift_2) {
    constexpr const char* who = "drift::make_column_table";
    const std::size_t channels = 2 * rope.omega.size();
    detail::require(channels > 0, who, "omega must not be empty, pairs", channels);
    detail::require(q.size() % channels == 0, who, "q must hold tokens * channels numbers", q.size());
    detail::require_equal(who, "k must be as long as q", q.size(), k.size());
    for (double shift : {shift_1, shift_2})
        detail::require(std::isfinite(shift), who, "shifts must be finite", shift);
    const std::size_t tokens = q.size() / channels;
    column_table t{std::vector<double>(tokens, 0.0), std::vector<double>(tokens, 0.0)};
    std::vector<double> logits[2], weights[2];
    const double shifts[2] = {shift_1, shift_2};
    for (int side = 0; side < 2; ++side) {
        std::vector<std::vector<double>> keys;
        for (std::size_t i = 0; i < tokens; ++i) {
            const double position = shifts[side] + static_cast<double>(i);
            keys.push_back(rotated(m, k.subspan(i * channels, channels), position, rope));
            const auto query = rotated(m, q.subspan(i * channels, channels), position, rope);
            std::vector<double> row;
            for (const auto& key : keys) {
                double dot = 0;
                for (std::size_t c = 0; c < channels; ++c) dot += query[c] * key[c];
                row.push_back(dot / std::sqrt(static_cast<double>(channels)));
            }
            logits[side].insert(logits[side].end(), row.begin(), row.end());
            const double peak = *std::max_element(row.begin(), row.end());
            double sum = 0;
            for (double& v : row) sum += v = std::exp(v - peak);
            for (double v : row) weights[side].push_back(v / sum);
        }
    }
    for (std::size_t i = 0, at = 0; i < tokens; ++i)
        for (std::size_t j = 0; j <= i; ++j, ++at) {
            const auto rows = static_cast<double>(tokens - j);
            t.logits[j] += std::abs(logits[0][at] - logits[1][at]) / rows;
            t.weights[j] += std::abs(weights[0][at] - weights[1][at]) / rows;
        }
    return t;
}

}  // namespace ROPEWALK_NAMESPACE::drift
