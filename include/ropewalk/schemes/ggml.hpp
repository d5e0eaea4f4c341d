// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary embedding of ggml and llama.cpp under their own parameter names, exact or bit-compatible.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/per_pair.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE::ggml {

/// GGML_ROPE_TYPE_*. normal and neox belong to ggml_rope_ext and take one position per token. The other modes
/// belong to ggml_rope_multi and take four positions per token (time, row, column and one more). vision:
/// n_dims is half of the head, the whole head rotates, and the frequencies start again in each section.
/// imrope: the pairs read time, row and column in turn instead of section after section.
enum class rope_mode : int { normal = 0, neox = 2, mrope = 8, vision = 24, imrope = 40 };

/// Whether a mode reads four positions per token.
constexpr bool is_multi(rope_mode mode) noexcept { return (static_cast<int>(mode) & 8) != 0; }

/// checked: parameters for which YaRN is undefined are refused. literal: compute what ggml computes from
/// them. With n_ctx_orig 0, for example, its ramp ends before it starts and every pair but the first is
/// interpolated.
enum class reading : std::uint8_t { checked, literal };

/// The parameters of ggml_rope_ext and ggml_rope_multi, named as there.
/// Source: ggml-org/ggml include/ggml.h.
struct rope_ext {
    index n_dims = 0;                    ///< channels that rotate; vision: half of them
    rope_mode mode = rope_mode::normal;  ///< normal: interleaved pairs; all others: half-split
    std::int32_t n_ctx_orig = 0;         ///< read with ext_factor != 0 only
    float freq_base = 10000.0f;
    float freq_scale = 1.0f;   ///< 1 / s
    float ext_factor = 0.0f;   ///< 1 switches YaRN on, 0 off
    float attn_factor = 1.0f;  ///< multiplies YaRN's magnitude, does not replace it
    float beta_fast = 32.0f;
    float beta_slow = 1.0f;
    index n_offs = 0;                      ///< first channel that rotates
    std::vector<float> freq_factors = {};  ///< divisor of each pair's angle, one per pair or none
    /// ggml_rope_multi's sections: the number of pairs of each axis. They repeat when they sum to fewer than
    /// all pairs and are cut off when they sum to more.
    std::array<index, 4> sections = {};
    reading read = reading::checked;  ///< how YaRN's parameters are read

    /// Pairs of channels that rotate.
    constexpr index pairs() const noexcept { return mode == rope_mode::vision ? n_dims : n_dims / 2; }
};

/// The pair layout of a mode: interleaved for normal, half-split for the others.
/// Source: ggml-org/ggml GGML_ROPE_TYPE_NEOX.
inline pair_layout layout_of(rope_mode mode) noexcept {
    return mode == rope_mode::normal ? pair_layout(interleaved{}) : pair_layout(half_split{});
}

}  // namespace ROPEWALK_NAMESPACE::ggml

namespace ROPEWALK_NAMESPACE::detail {

/// Checks the parameters of YaRN's ramp.
inline void require_rope_ext_ramp(const char* who, const ggml::rope_ext& p) {
    require(p.n_dims > 0 && p.n_dims % 2 == 0, who, "n_dims must be even and > 0", p.n_dims);
    if (p.read == ggml::reading::literal) {
        require(p.n_ctx_orig >= 0, who, "n_ctx_orig must be >= 0", p.n_ctx_orig);
    } else {
        require(p.n_ctx_orig > 0, who, "n_ctx_orig must be > 0 with YaRN (reading::literal takes 0)",
                p.n_ctx_orig);
    }
    require(std::isfinite(p.freq_base) && p.freq_base > 0 && p.freq_base != 1, who,
            "freq_base must be finite, > 0 and not 1 with YaRN", p.freq_base);
    require(std::isfinite(p.beta_fast) && p.beta_fast > 0, who, "beta_fast must be finite and > 0",
            p.beta_fast);
    require(std::isfinite(p.beta_slow) && p.beta_slow > 0, who, "beta_slow must be finite and > 0",
            p.beta_slow);
}

inline void require_rope_ext(const ggml::rope_ext& p) {
    using ggml::rope_mode;
    constexpr const char* who = "ggml::rope_ext";
    require(p.n_dims > 0 && p.n_dims % 2 == 0, who, "n_dims must be even and > 0", p.n_dims);
    require(p.n_dims <= 65536, who, "n_dims must be <= 65536", p.n_dims);
    require(p.mode == rope_mode::normal || p.mode == rope_mode::neox || p.mode == rope_mode::mrope ||
                p.mode == rope_mode::vision || p.mode == rope_mode::imrope,
            who, "mode must be 0 (normal), 2 (neox), 8 (mrope), 24 (vision) or 40 (imrope)",
            static_cast<int>(p.mode));
    require(std::isfinite(p.freq_base) && p.freq_base > 0, who, "freq_base must be > 0", p.freq_base);
    require(std::isfinite(p.freq_scale) && p.freq_scale > 0, who, "freq_scale must be > 0", p.freq_scale);
    require(std::isfinite(p.ext_factor), who, "ext_factor must be finite", p.ext_factor);
    require(std::isfinite(p.attn_factor) && p.attn_factor != 0, who, "attn_factor must be finite and not 0",
            p.attn_factor);
    require(p.n_offs >= 0 && p.n_offs <= detail::limit_of_bits(53), who,
            "n_offs must be in 0 .. " ROPEWALK_DETAIL_LIMIT_53, p.n_offs);
    if (p.ext_factor != 0) {
        require_rope_ext_ramp(who, p);
        require(1 + 0.1 * std::log(1 / static_cast<double>(p.freq_scale)) > 0, who,
                "freq_scale must be below e^10 with YaRN (its magnitude is 1 - 0.1 ln freq_scale)",
                p.freq_scale);
    }
    if (!p.freq_factors.empty()) {
        const std::vector<double> wide(p.freq_factors.begin(), p.freq_factors.end());
        require_pair_factors(who, "freq_factors must hold one number > 0 a pair", p.pairs(), wide);
    }
    if (!is_multi(p.mode)) return;
    for (const index n : p.sections) {
        require(n >= 0, who, "sections must be >= 0", n);
        require(n <= 65536, who, "sections must be <= 65536", n);
    }
    require(p.sections[0] > 0 || p.sections[1] > 0 || p.sections[2] > 0, who,
            "sections must give one of the first three axes a pair", p.sections[0]);
}

/// The axis that a pair reads and its step among the frequencies: angle = position[axis] * base^(-2 step /
/// n_dims).
struct ggml_pair {
    int axis = 0;
    index step = 0;
};

/// The axis and step of every pair, as ggml assigns them: sections wrap around, and vision restarts the steps
/// where a section begins. Where several sections begin at the same pair, as after an empty one, only the
/// first of them restarts.
inline std::vector<ggml_pair> ggml_pairs(const ggml::rope_ext& p) {
    using ggml::rope_mode;
    const index t = p.sections[0], h = p.sections[1], w = p.sections[2], e = p.sections[3];
    std::vector<ggml_pair> pairs(static_cast<std::size_t>(p.pairs()));
    std::array<index, 4> step = {};
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        const auto number = static_cast<index>(i);
        if (!is_multi(p.mode)) {
            pairs[i] = {0, number};
            continue;
        }
        const index sector = number % (t + h + w + e);
        if (p.mode == rope_mode::vision) {
            if (sector == 0) {
                step[0] = 0;
            } else if (sector == t) {
                step[1] = 0;
            } else if (sector == t + h) {
                step[2] = 0;
            } else if (sector == t + h + w) {
                step[3] = 0;
            }
        }
        int axis = sector < t ? 0 : sector < t + h ? 1 : sector < t + h + w ? 2 : 3;
        if (p.mode == rope_mode::imrope) {
            axis = static_cast<int>(sector % 3);
            if (sector >= 3 * p.sections[static_cast<std::size_t>(axis)]) axis = 3;
        }
        pairs[i] = {axis, step[static_cast<std::size_t>(axis)]};
        for (index& s : step) ++s;
    }
    return pairs;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::ggml {

/// The pairs between which YaRN's ramp runs: [low, high], always whole pairs.
/// Source: ggml-org/ggml ggml_rope_yarn_corr_dims.
struct correction_pairs {
    float low;   ///< first pair that is mixed
    float high;  ///< first pair that is fully interpolated
};
/// The bounds of these parameters, in ggml's f32 arithmetic. Only n_dims, n_ctx_orig, freq_base and the two
/// betas are read.
/// Throws: invalid_config naming the parameter that is not finite and > 0 (n_dims must also be even, and
///         freq_base not 1).
/// Source: ggml-org/ggml ggml_rope_yarn_corr_dims.
inline correction_pairs make_correction_pairs(const rope_ext& p) {
    detail::require_rope_ext_ramp("ggml::make_correction_pairs", p);
    const auto pair_of = [&p](float turns) {
        const float around = turns * 2 * std::numbers::pi_v<float>;
        return static_cast<float>(p.n_dims) * std::log(static_cast<float>(p.n_ctx_orig) / around) /
               (2 * std::log(p.freq_base));
    };
    return {std::max(0.0f, std::floor(pair_of(p.beta_fast))),
            std::min(static_cast<float>(p.n_dims - 1), std::ceil(pair_of(p.beta_slow)))};
}

/// The share of the unscaled angle that a pair keeps under YaRN: ext_factor before the ramp, 0 after it. The
/// ramp counts pairs from the first of the head, whichever axis they read.
/// Source: ggml-org/ggml src/ggml-cpu/ops.cpp rope_yarn_ramp.
inline float make_ramp(const correction_pairs& bounds, index pair, float ext_factor) noexcept {
    const float along = (static_cast<float>(pair) - bounds.low) / std::max(0.001f, bounds.high - bounds.low);
    return (1 - std::clamp(along, 0.0f, 1.0f)) * ext_factor;
}

/// position_ids from the positions of ggml_rope_multi, [4, tokens], or of ggml_rope_ext, [tokens].
/// Throws: invalid_config when a mode of ggml_rope_multi gets a count that is not a multiple of four.
/// Source: ggml-org/ggml include/ggml.h, ggml_rope_multi.
inline position_ids make_positions(rope_mode mode, std::span<const std::int32_t> positions) {
    if (!is_multi(mode)) return position_ids::from(positions);
    detail::require(positions.size() % 4 == 0, "ggml::make_positions",
                    "positions must hold four numbers a token", positions.size());
    return position_ids::from_axes_tokens(positions, 4);
}

/// Cos and sin exactly as ggml's CPU backend computes them, for parity with ggml. The angle is a running f32
/// product, so it drifts from the exact one (by 1.3e-2 rad at position 131071 with 128 channels). Exact
/// tables come from make_spectrum. The backward pass is rotate_gradient with the same table.
/// Shapes:   positions [tokens], or [4, tokens] in the modes of ggml_rope_multi; the table has one row per
///           token.
/// Throws:   invalid_config naming the parameter.
/// Accuracy: ggml's own, up to the libm's last bit.
/// Source:   ggml-org/ggml src/ggml-cpu/ops.cpp rope_yarn, ggml_rope_cache_init, ggml_mrope_cache_init.
template <class T = float>
rotation_table<T> make_table(const rope_ext& p, std::span<const std::int32_t> positions) {
    detail::require_rope_ext(p);
    const std::size_t axes = is_multi(p.mode) ? 4 : 1;
    detail::require(positions.size() % axes == 0, "ggml::make_table",
                    "positions must hold four numbers a token", positions.size());
    const std::size_t tokens = positions.size() / axes;
    const auto pairs = detail::ggml_pairs(p);
    const float theta_scale = std::pow(p.freq_base, -2.0f / static_cast<float>(p.n_dims));
    const bool yarn = p.ext_factor != 0;
    const correction_pairs bounds = yarn ? make_correction_pairs(p) : correction_pairs{0, 0};
    const float magnitude =
        yarn ? p.attn_factor * (1.0f + 0.1f * std::log(1.0f / p.freq_scale)) : p.attn_factor;
    rotation_table<T> table(static_cast<index>(tokens), 1, p.pairs(), static_cast<double>(magnitude));
    for (index n = 0; n < table.row_count(); ++n) {
        float running[4] = {};  // one running product per axis
        for (index i = 0; i < p.pairs(); ++i) {
            const detail::ggml_pair pair = pairs[static_cast<std::size_t>(i)];
            for (std::size_t a = 0; a < axes; ++a) {
                const bool begins = i == 0 || (pair.step == 0 && static_cast<int>(a) == pair.axis);
                if (begins)
                    running[a] = static_cast<float>(positions[a * tokens + static_cast<std::size_t>(n)]);
            }
            const float turned = running[pair.axis];
            const float plain =
                p.freq_factors.empty() ? turned : turned / p.freq_factors[static_cast<std::size_t>(i)];
            float angle = p.freq_scale * plain;
            if (yarn) {
                const float keep = make_ramp(bounds, i, p.ext_factor);
                angle = angle * (1 - keep) + plain * keep;
            }
            table.cos_data(n)[i] = static_cast<T>(std::cos(angle) * magnitude);
            table.sin_data(n)[i] = static_cast<T>(std::sin(angle) * magnitude);
            for (std::size_t a = 0; a < axes; ++a) running[a] *= theta_scale;
        }
    }
    return table;
}

/// The same parameters as exact frequencies, over one axis, or over four in the modes of ggml_rope_multi.
/// Throws:   invalid_config naming the parameter.
/// Accuracy: f64; differs from ggml by ggml's f32 rounding only.
/// Source:   ggml-org/ggml ggml_rope_ext, ggml_rope_multi.
///
///     const auto rows = make_rotation_table(ggml::make_spectrum(p), ggml::make_positions(p.mode, pos));
inline spectrum make_spectrum(const rope_ext& p) {
    detail::require_rope_ext(p);
    const bool with_yarn = p.ext_factor != 0;
    const correction_pairs bounds = with_yarn ? make_correction_pairs(p) : correction_pairs{0, 0};
    const auto scale = static_cast<double>(p.freq_scale);
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (const detail::ggml_pair& pair : detail::ggml_pairs(p)) {
        const auto i = static_cast<index>(omega.size());
        double plain = std::pow(static_cast<double>(p.freq_base),
                                -2 * static_cast<double>(pair.step) / static_cast<double>(p.n_dims));
        if (!p.freq_factors.empty()) plain /= static_cast<double>(p.freq_factors[omega.size()]);
        const double keep = with_yarn ? static_cast<double>(make_ramp(bounds, i, p.ext_factor)) : 0;
        omega.push_back(plain * scale * (1 - keep) + plain * keep);
        axis_of.push_back(pair.axis);
    }
    const double magnitude =
        static_cast<double>(p.attn_factor) * (with_yarn ? 1 + 0.1 * std::log(1 / scale) : 1.0);
    return spectrum::selected(omega, axis_of, is_multi(p.mode) ? 4 : 1, 1, magnitude);
}

/// The same parameters as a scheme: the channels that rotate, their pair layout and exact frequencies.
/// Throws:   invalid_config naming the parameter.
/// Accuracy: that of make_spectrum.
/// Source:   ggml-org/ggml ggml_rope_ext, ggml_rope_multi.
inline rotary_scheme make_scheme(const rope_ext& p) {
    const spectrum s = make_spectrum(p);
    rotary_scheme scheme;
    scheme.name = is_multi(p.mode) ? "ggml_rope_multi" : "ggml_rope_ext";
    scheme.first_channel = p.n_offs;
    scheme.rotary_dim = 2 * p.pairs();
    scheme.head_dim = p.n_offs + scheme.rotary_dim;
    scheme.read_layout = scheme.write_layout = layout_of(p.mode);
    scheme.original_context = p.n_ctx_orig;
    scheme.frequencies = [s](std::int64_t) { return s; };
    return scheme;
}

}  // namespace ROPEWALK_NAMESPACE::ggml
