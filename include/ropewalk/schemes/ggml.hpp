// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/per_pair.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE::ggml {

/// GGML_ROPE_TYPE_*, the modes that ggml_rope_ext takes. (MROPE 8, VISION 24 and IMROPE 40 belong to
/// ggml_rope_multi, which reads four positions a token.)
enum class rope_mode : int { normal = 0, neox = 2 };

/// The parameters of ggml_rope_ext, named as there.
/// Source: ggml-org/ggml include/ggml.h.
struct rope_ext {
    index n_dims = 0;                    ///< channels that turn
    rope_mode mode = rope_mode::normal;  ///< normal: interleaved pairs; neox: half-split
    std::int32_t n_ctx_orig = 0;         ///< read with ext_factor != 0 only
    float freq_base = 10000.0f;
    float freq_scale = 1.0f;   ///< 1 / s
    float ext_factor = 0.0f;   ///< 1 switches YaRN on, 0 off
    float attn_factor = 1.0f;  ///< multiplies the magnitude, never replaces it
    float beta_fast = 32.0f;
    float beta_slow = 1.0f;
    index n_offs = 0;                      ///< first channel that turns
    std::vector<float> freq_factors = {};  ///< divisor of each pair's angle, [n_dims / 2] or none
};

/// Normal pairs neighbours, neox pairs halves.
/// Source: ggml-org/ggml GGML_ROPE_TYPE_NEOX.
inline pair_layout layout_of(rope_mode mode) noexcept {
    return mode == rope_mode::neox ? pair_layout(half_split{}) : pair_layout(interleaved{});
}

}  // namespace ROPEWALK_NAMESPACE::ggml

namespace ROPEWALK_NAMESPACE::detail {

/// What the ramp of YaRN is made of.
inline void require_rope_ext_ramp(const char* who, const ggml::rope_ext& p) {
    require(p.n_dims > 0 && p.n_dims % 2 == 0, who, "n_dims must be even and > 0", p.n_dims);
    require(p.n_ctx_orig > 0, who, "n_ctx_orig must be > 0 with YaRN", p.n_ctx_orig);
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
    require(p.mode == rope_mode::normal || p.mode == rope_mode::neox, who,
            "mode must be 0 (normal) or 2 (neox)", static_cast<int>(p.mode));
    require(std::isfinite(p.freq_base) && p.freq_base > 0, who, "freq_base must be > 0", p.freq_base);
    require(std::isfinite(p.freq_scale) && p.freq_scale > 0, who, "freq_scale must be > 0", p.freq_scale);
    require(std::isfinite(p.ext_factor), who, "ext_factor must be finite", p.ext_factor);
    require(std::isfinite(p.attn_factor) && p.attn_factor != 0, who, "attn_factor must be finite and not 0",
            p.attn_factor);
    require(p.n_offs >= 0, who, "n_offs must be >= 0", p.n_offs);
    if (p.ext_factor != 0) {
        require_rope_ext_ramp(who, p);
        require(1 + 0.1 * std::log(1 / static_cast<double>(p.freq_scale)) > 0, who,
                "freq_scale must be below e^10 with YaRN (its magnitude is 1 - 0.1 ln freq_scale)",
                p.freq_scale);
    }
    if (!p.freq_factors.empty()) {
        const std::vector<double> wide(p.freq_factors.begin(), p.freq_factors.end());
        require_pair_factors(who, "freq_factors must hold one number > 0 a pair", p.n_dims / 2, wide);
    }
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
/// Throws: invalid_config naming the one of them that is not finite and > 0 (n_dims also: even; freq_base
///         also: not 1).
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

/// cos and sin exactly as ggml's CPU backend makes them: the angle is a running f32 product, so it drifts
/// from the exact one (1.3e-2 rad at position 131071 of a 128-channel head). For parity with ggml; exact
/// tables come from the spectrum of make_scheme.
/// Shapes:   positions [tokens]; the table has a row a token.
/// Throws:   invalid_config naming the parameter.
/// Accuracy: ggml's own, up to the libm's last bit.
/// Source:   ggml-org/ggml src/ggml-cpu/ops.cpp rope_yarn, ggml_rope_cache_init.
template <class T = float>
rotation_table<T> make_table(const rope_ext& p, std::span<const std::int32_t> positions) {
    detail::require_rope_ext(p);
    const index pairs = p.n_dims / 2;
    const float theta_scale = std::pow(p.freq_base, -2.0f / static_cast<float>(p.n_dims));
    const bool yarn = p.ext_factor != 0;
    const correction_pairs bounds = yarn ? make_correction_pairs(p) : correction_pairs{0, 0};
    const float magnitude =
        yarn ? p.attn_factor * (1.0f + 0.1f * std::log(1.0f / p.freq_scale)) : p.attn_factor;
    rotation_table<T> table(static_cast<index>(positions.size()), 1, pairs, static_cast<double>(magnitude));
    for (index n = 0; n < table.row_count(); ++n) {
        auto running = static_cast<float>(positions[static_cast<std::size_t>(n)]);
        for (index i = 0; i < pairs; ++i) {
            const float plain =
                p.freq_factors.empty() ? running : running / p.freq_factors[static_cast<std::size_t>(i)];
            float angle = p.freq_scale * plain;
            if (yarn) {
                const float along =
                    (static_cast<float>(i) - bounds.low) / std::max(0.001f, bounds.high - bounds.low);
                const float keep = (1 - std::clamp(along, 0.0f, 1.0f)) * p.ext_factor;
                angle = angle * (1 - keep) + plain * keep;
            }
            table.cos_data(n)[i] = static_cast<T>(std::cos(angle) * magnitude);
            table.sin_data(n)[i] = static_cast<T>(std::sin(angle) * magnitude);
            running *= theta_scale;
        }
    }
    return table;
}

/// The same parameters as a scheme with exact frequencies and any position.
/// Throws:   invalid_config naming the parameter.
/// Accuracy: f64; differs from ggml by ggml's f32 rounding only (and where both bounds fall on one side of
///           the pairs, a config without meaning).
/// Source:   ggml-org/ggml ggml_rope_ext.
inline rotary_scheme make_scheme(const rope_ext& p) {
    detail::require_rope_ext(p);
    const double factor = 1 / static_cast<double>(p.freq_scale);
    const bool with_yarn = p.ext_factor != 0;
    spectrum s = frequencies::geometric({.rotary_dim = p.n_dims, .base = static_cast<double>(p.freq_base)});
    if (with_yarn) {
        s = frequencies::yarn({.rotary_dim = p.n_dims,
                               .base = static_cast<double>(p.freq_base),
                               .factor = factor,
                               .original_context = static_cast<double>(p.n_ctx_orig),
                               .beta_fast = static_cast<double>(p.beta_fast),
                               .beta_slow = static_cast<double>(p.beta_slow),
                               .extrapolation_factor = static_cast<double>(p.ext_factor),
                               .attention_factor = 1 + 0.1 * std::log(factor),
                               .attn_factor = static_cast<double>(p.attn_factor)});
    } else {
        s = map_omega(s, [&p](double omega, index) {
                return omega * static_cast<double>(p.freq_scale);
            }).with_magnitude(static_cast<double>(p.attn_factor));
    }
    if (!p.freq_factors.empty())
        s = frequencies::divide_pairs(s, std::vector<double>(p.freq_factors.begin(), p.freq_factors.end()));
    rotary_scheme scheme;
    scheme.name = "ggml_rope_ext";
    scheme.first_channel = p.n_offs;
    scheme.rotary_dim = p.n_dims;
    scheme.head_dim = p.n_offs + p.n_dims;
    scheme.read_layout = scheme.write_layout = layout_of(p.mode);
    scheme.original_context = p.n_ctx_orig;
    scheme.frequencies = [s](std::int64_t) { return s; };
    return scheme;
}

}  // namespace ROPEWALK_NAMESPACE::ggml
