// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Pair index (a real number) at which a pair makes `rotations` full turns over the original context.
inline double correction_pair(double rotations, index rotary_dim, double base, double original_context) {
    return static_cast<double>(rotary_dim) * std::log(original_context / (2 * std::numbers::pi * rotations)) /
           (2 * std::log(base));
}

struct ramp_bounds {
    double low;
    double high;
};

/// The two ends of the ramp. Low is clamped from below and high from above only, as the official code
/// has it; `rounded` is its truncate = true.
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

/// 0 up to low, 1 from high on, linear in the pair index between.
inline double ramp(double pair, ramp_bounds bounds) {
    const double high = bounds.low == bounds.high ? bounds.high + 0.001 : bounds.high;
    return std::clamp((pair - bounds.low) / (high - bounds.low), 0.0, 1.0);
}

}  // namespace detail

namespace frequencies {

/// YaRN's temperature as a factor on q and on k: 0.1 m ln(s) + 1, and 1 for s <= 1.
/// Source: YaRN, Peng et al. 2023, eq. 22; jquesnelle/yarn.
inline double yarn_mscale(double factor, double mscale = 1.0) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

/// How strictly YaRN's ramp bounds are read. `literal` keeps the official code's clamps whatever they
/// give; `upward` refuses bounds that would make the ramp run the wrong way; `strict` also those past the last
/// pair.
enum class bounds_check { literal, upward, strict };

struct yarn_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;            ///< s, the context extension
    double original_context = 0;  ///< L0, the context the model was trained at
    double beta_fast = 32;        ///< turns over L0 above which a pair is left alone
    double beta_slow = 1;         ///< turns over L0 below which a pair is fully interpolated
    bool truncate = true;         ///< round the ramp's ends outwards to whole pairs (gpt-oss: false)
    double extrapolation_factor = 1;
    std::optional<double> attention_factor = {};  ///< given: it is the magnitude, also when it is 1
    double mscale = 0;                            ///< both mscale and mscale_all_dim not 0: magnitude is the
    double mscale_all_dim = 0;                    ///< ratio of their two temperatures
    double attn_factor = 1;                       ///< multiplies the magnitude that the rules above give
                                                  ///< (jquesnelle/yarn); never a replacement for it
    bounds_check bounds = bounds_check::literal;  ///< how strictly the ramp's ends are read
};

}  // namespace frequencies

namespace detail {

/// What does not depend on the factor, checked: the ramp's ends, and a magnitude that is given.
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

/// attention_factor where given, else the ratio of the two mscales where both are there, else mscale(s);
/// attn_factor on top.
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

/// YaRN: high frequencies stay, low ones are divided by `factor`, a ramp over the pair index between.
/// Units:    radians per position; the magnitude is part of the result.
/// Throws:   invalid_config on an odd rotary_dim, base <= 0 or 1, factor, original_context or a beta <= 0,
///           attention_factor <= 0, mscales whose magnitude is not > 0, attn_factor 0, or (upward, strict)
///           beta_fast < beta_slow or low > high, or (strict) bounds that leave 0 <= low <= high <= pairs - 1.
/// Cost:     one pow a pair.
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

/// What a dynamic YaRN model was trained with: plain = the plain ladder, extended = YaRN at
/// max_context / original_context (the official code's finetuned = True).
enum class yarn_training { plain, extended };

struct dynamic_yarn_config {
    yarn_config yarn;                              ///< its factor is not read: the length decides it
    double max_context = 0;                        ///< up to here the spectrum does not move
    yarn_training trained = yarn_training::plain;  ///< what the model was trained with
};

/// Dynamic YaRN as a pure function of the length: beyond max_context the factor is context_length /
/// original_context; up to it the plain ladder with magnitude 1, or for an extended model YaRN at
/// max_context / original_context.
/// Throws:   what yarn throws; invalid_config on max_context <= 0 or context_length < 1.
/// Source:   jquesnelle/yarn LlamaDynamicYaRNScaledRotaryEmbedding.
inline spectrum dynamic_yarn(dynamic_yarn_config c, std::int64_t context_length) {
    detail::require_length("dynamic_yarn", context_length);
    detail::require_factor("dynamic_yarn", "max_context must be > 0", c.max_context);
    detail::require_factor("dynamic_yarn", "original_context must be > 0", c.yarn.original_context);
    detail::yarn_ramp(c.yarn);  // refused at every length alike
    const auto n = static_cast<double>(context_length);
    if (n <= c.max_context && c.trained == yarn_training::plain)
        return geometric({.rotary_dim = c.yarn.rotary_dim, .base = c.yarn.base});
    c.yarn.factor = std::max(n, c.max_context) / c.yarn.original_context;
    return yarn(c.yarn);
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
