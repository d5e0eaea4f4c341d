// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// YaRN and dynamic YaRN: high frequencies kept, low ones interpolated, and a temperature on the logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The pair index (a real number) whose pair makes `rotations` full turns over the original context.
inline double correction_pair(double rotations, index rotary_dim, double base, double original_context) {
    return static_cast<double>(rotary_dim) * std::log(original_context / (2 * std::numbers::pi * rotations)) /
           (2 * std::log(base));
}

struct ramp_bounds {
    double low;
    double high;
};

/// The two ends of the ramp. As in the official code, low is clamped only from below and high only from
/// above; `rounded` is its truncate = true.
inline ramp_bounds correction_range(double fast, double slow, index rotary_dim, double base,
                                    double original_context, bool rounded) {
    double low = correction_pair(fast, rotary_dim, base, original_context);
    double high = correction_pair(slow, rotary_dim, base, original_context);
    if (rounded) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(rotary_dim - 1));
    return {low, high};
}

/// 0 up to low, 1 from high on, and linear in the pair index between them.
inline double ramp(double pair, ramp_bounds bounds) {
    const double high = bounds.low == bounds.high ? bounds.high + 0.001 : bounds.high;
    return std::clamp((pair - bounds.low) / (high - bounds.low), 0.0, 1.0);
}

}  // namespace detail

namespace frequencies {

/// YaRN's temperature as a factor of both q and k: 0.1 m ln(s) + 1, and 1 for s <= 1.
/// Source: YaRN, Peng et al. 2023, eq. 22; jquesnelle/yarn.
inline double yarn_mscale(double factor, double mscale = 1.0) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

/// How strictly the ends of YaRN's ramp are checked. `literal` accepts whatever the official code's clamps
/// give; `upward` refuses ends that would make the ramp run the wrong way; `strict` also refuses ends past
/// the last pair.
enum class bounds_check { literal, upward, strict };

struct yarn_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;            ///< s, the context extension
    double original_context = 0;  ///< L0, the context the model was trained at
    double beta_fast = 32;        ///< turns over L0 above which a pair keeps its frequency
    double beta_slow = 1;         ///< turns over L0 below which a pair is fully interpolated
    bool truncate = true;         ///< round the ends of the ramp outwards to whole pairs (gpt-oss: false)
    double extrapolation_factor = 1;
    std::optional<double> attention_factor = {};  ///< if given, the magnitude, even if it is 1
    double mscale = 0;                            ///< if mscale and mscale_all_dim are both not 0,
    double mscale_all_dim = 0;                    ///< the magnitude is the ratio of their temperatures
    double attn_factor = 1;                       ///< factor of the magnitude from the rules above
                                                  ///< (jquesnelle/yarn); never a replacement for it
    bounds_check bounds = bounds_check::literal;  ///< how strictly the ends of the ramp are checked
};

}  // namespace frequencies

namespace detail {

/// The part that does not depend on the factor, checked: the ends of the ramp, and a magnitude that is given.
inline ramp_bounds yarn_ramp(const frequencies::yarn_config& c) {
    require_ladder("yarn", c.rotary_dim, c.base);
    require(c.base != 1, "yarn", "base must not be 1", c.base);
    require(std::isfinite(c.original_context) && c.original_context > 0, "yarn",
            "original_context must be > 0", c.original_context);
    require(c.beta_fast > 0, "yarn", "beta_fast must be > 0", c.beta_fast);
    require(c.beta_slow > 0, "yarn", "beta_slow must be > 0", c.beta_slow);
    require(std::isfinite(c.extrapolation_factor), "yarn", "extrapolation_factor must be finite",
            c.extrapolation_factor);
    if (c.attention_factor)
        require_factor("yarn", "attention_factor must be finite and > 0", *c.attention_factor);
    require(std::isfinite(c.mscale), "yarn", "mscale must be finite", c.mscale);
    require(std::isfinite(c.mscale_all_dim), "yarn", "mscale_all_dim must be finite", c.mscale_all_dim);
    require(std::isfinite(c.attn_factor) && c.attn_factor != 0, "yarn",
            "attn_factor must be finite and not 0", c.attn_factor);
    const auto bounds =
        correction_range(c.beta_fast, c.beta_slow, c.rotary_dim, c.base, c.original_context, c.truncate);
    if (c.bounds == frequencies::bounds_check::literal) return bounds;
    require(c.beta_fast >= c.beta_slow, "yarn", "beta_fast must be >= beta_slow", c.beta_fast);
    require(bounds.low <= bounds.high, "yarn",
            "original_context must let the ramp run upwards: low must be <= high", bounds.low);
    if (c.bounds == frequencies::bounds_check::upward) return bounds;
    require(bounds.high <= static_cast<double>(c.rotary_dim / 2 - 1), "yarn",
            "original_context must let the ramp end at a pair: high must be <= pairs - 1", bounds.high);
    return bounds;
}

/// attention_factor if given, else the ratio of the temperatures if both mscales are not 0, else
/// yarn_mscale(s); then multiplied by attn_factor.
inline double yarn_magnitude(const frequencies::yarn_config& c) {
    using frequencies::yarn_mscale;
    if (c.attention_factor) return *c.attention_factor * c.attn_factor;
    if (c.mscale == 0 || c.mscale_all_dim == 0) return yarn_mscale(c.factor) * c.attn_factor;
    const double ratio = yarn_mscale(c.factor, c.mscale) / yarn_mscale(c.factor, c.mscale_all_dim);
    require_factor("yarn", "mscale and mscale_all_dim must give a magnitude that is finite and > 0", ratio);
    return ratio * c.attn_factor;
}

}  // namespace detail

namespace frequencies {

/// YaRN: high frequencies are kept, low ones are divided by `factor`, and between them a ramp over the pair
/// index blends the two.
/// Units:    radians per position; the magnitude is part of the result.
/// Throws:   invalid_config on an odd rotary_dim, base <= 0 or 1, factor, original_context or a beta <= 0,
///           attention_factor <= 0, mscales whose magnitude is not > 0, attn_factor 0, or (upward, strict)
///           beta_fast < beta_slow or low > high, or (strict) ends outside 0 <= low <= high <= pairs - 1.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   YaRN, Peng et al. 2023; jquesnelle/yarn LlamaYaRNScaledRotaryEmbedding; Hugging Face "yarn".
inline spectrum yarn(const yarn_config& c) {
    detail::require(std::isfinite(c.factor) && c.factor > 0, "yarn", "factor must be > 0", c.factor);
    const auto bounds = detail::yarn_ramp(c);
    auto omega = detail::ladder(c.rotary_dim, c.base);
    for (std::size_t i = 0; i < omega.size(); ++i) {
        const double keep = (1 - detail::ramp(static_cast<double>(i), bounds)) * c.extrapolation_factor;
        omega[i] = omega[i] / c.factor * (1 - keep) + omega[i] * keep;
    }
    return spectrum::from_omega(omega, detail::yarn_magnitude(c));
}

/// What a dynamic YaRN model was trained with: plain = RoFormer's frequencies, extended = YaRN with the
/// factor max_context / original_context (the official code's finetuned = True).
enum class yarn_training { plain, extended };

struct dynamic_yarn_config {
    yarn_config yarn;                              ///< its factor is not read: the length decides it
    double max_context = 0;                        ///< up to this length the spectrum does not change
    yarn_training trained = yarn_training::plain;  ///< what the model was trained with
};

/// Dynamic YaRN as a pure function of the length. Beyond max_context the factor is context_length /
/// original_context. Up to it a plain model uses RoFormer's frequencies with magnitude 1, and an extended
/// model YaRN with the factor max_context / original_context.
/// Throws:   as yarn; invalid_config on max_context <= 0 or context_length < 1.
/// Source:   jquesnelle/yarn LlamaDynamicYaRNScaledRotaryEmbedding.
inline spectrum dynamic_yarn(dynamic_yarn_config c, std::int64_t context_length) {
    detail::require_length("dynamic_yarn", context_length);
    detail::require_factor("dynamic_yarn", "max_context must be > 0", c.max_context);
    detail::require_factor("dynamic_yarn", "original_context must be > 0", c.yarn.original_context);
    detail::yarn_ramp(c.yarn);  // refused at every length
    const auto n = static_cast<double>(context_length);
    if (n <= c.max_context && c.trained == yarn_training::plain)
        return geometric({.rotary_dim = c.yarn.rotary_dim, .base = c.yarn.base});
    c.yarn.factor = std::max(n, c.max_context) / c.yarn.original_context;
    return yarn(c.yarn);
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
