// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// NTK-aware scaling of the base (static and dynamic) and NTK-by-parts.
#pragma once

#include <algorithm>
#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// base * alpha^(d / (d - 2)). An error names the parameter that alpha comes from.
inline double moved_base(const char* parameter_must, index rotary_dim, double base, double alpha,
                         double got) {
    require_ladder("ntk", rotary_dim, base);
    require(rotary_dim > 2, "ntk", "rotary_dim must be > 2", rotary_dim);
    const auto d = static_cast<double>(rotary_dim);
    const double moved = base * std::pow(alpha, d / (d - 2));
    require(std::isfinite(moved) && moved > 0, "ntk", parameter_must, got);
    return moved;
}

}  // namespace detail

namespace frequencies {

struct ntk_config {
    index rotary_dim = 0;
    double base = 1e4;
    double alpha = 1;  ///< the divisor of the slowest pair
};

/// The base that keeps the frequency of the fastest pair and divides that of the slowest by `alpha`: base *
/// alpha^(rotary_dim / (rotary_dim - 2)).
/// Throws:   invalid_config on an odd rotary_dim, rotary_dim 2 (the exponent has a pole there), and base or
///           alpha <= 0 or so extreme that the new base is not a finite double > 0.
/// Source:   NTK-aware scaled RoPE, bloc97 2023; jquesnelle/yarn LlamaNTKScaledRotaryEmbedding.
inline double ntk_base(const ntk_config& c) {
    detail::require_factor("ntk", "alpha must be finite and > 0", c.alpha);
    return detail::moved_base("alpha must leave the base finite and > 0", c.rotary_dim, c.base, c.alpha,
                              c.alpha);
}

/// The alpha with which the last position of a context `factor` times as long rotates the slowest pair as far
/// as the last trained position did: (original_context * factor - 1) / (original_context - 1).
/// Throws:   invalid_config on a factor that is not > 0 or an original_context <= 1.
/// Source:   Wiselnn570/VideoRoPE videorope_plus, rotary_embedding.py ("videorope++_v1").
inline double ntk_alpha_to_last(double factor, double original_context) {
    constexpr const char* who = "ntk_alpha_to_last";
    detail::require_factor(who, "factor must be finite and > 0", factor);
    detail::require(std::isfinite(original_context) && original_context > 1, who,
                    "original_context must be finite and > 1", original_context);
    return (original_context * factor - 1) / (original_context - 1);
}

/// Static NTK-aware scaling: RoFormer's frequencies with ntk_base as the base. `alpha` is `factor` of Hugging
/// Face's "ntk" and `alpha` of Hunyuan's "dynamic".
/// Units:    radians per position; magnitude 1.
/// Throws:   as ntk_base.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative to the frequencies of the new base.
/// Source:   jquesnelle/yarn LlamaNTKScaledRotaryEmbedding.
inline spectrum ntk(const ntk_config& c) {
    return geometric({.rotary_dim = c.rotary_dim, .base = ntk_base(c)});
}

struct dynamic_ntk_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;
    double max_context = 0;  ///< the trained length (Hugging Face: max_position_embeddings)
};

/// The alpha of dynamic NTK: factor n / max_context - (factor - 1) with n = max(context_length, max_context);
/// exactly 1 up to the trained length.
/// Throws:   invalid_config on factor or max_context <= 0 or context_length < 1.
/// Source:   Hugging Face "dynamic"; jquesnelle/yarn LlamaDynamicScaledRotaryEmbedding.
inline double dynamic_ntk_alpha(const dynamic_ntk_config& c, std::int64_t context_length) {
    detail::require_factor("dynamic_ntk", "factor must be finite and > 0", c.factor);
    detail::require_factor("dynamic_ntk", "max_context must be > 0", c.max_context);
    detail::require_length("dynamic_ntk", context_length);
    const auto n = static_cast<double>(context_length);
    return n <= c.max_context ? 1.0 : c.factor * n / c.max_context - (c.factor - 1);
}

/// Dynamic NTK as a pure function of the length. Engines differ in when they evaluate it: Hugging Face keeps
/// the longest length seen, vLLM fixes context_length = factor * max_context once. That choice is the
/// caller's; keys cached under another length need a rebase.
/// Units:    radians per position; magnitude 1.
/// Throws:   as ntk_base and dynamic_ntk_alpha.
/// Source:   Hugging Face "dynamic".
inline spectrum dynamic_ntk(const dynamic_ntk_config& c, std::int64_t context_length) {
    const double alpha = dynamic_ntk_alpha(c, context_length);
    return geometric({.rotary_dim = c.rotary_dim,
                      .base = detail::moved_base("factor must leave the base finite and > 0", c.rotary_dim,
                                                 c.base, alpha, c.factor)});
}

struct ntk_by_parts_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;
    double original_context = 0;
    double ntk_factor = 1;  ///< weight of the NTK ramp: 1 full, 0 none
    double extrapolation_factor = 1;
    double beta_fast = 1.25;  ///< beta_0: turns over L0 at which linear scaling begins to give way to NTK
    double beta_slow = 0.75;  ///< beta_1
    double gamma_fast = 16;   ///< gamma_0: turns over L0 above which a pair keeps its frequency
    double gamma_slow = 2;    ///< gamma_1
};

/// NTK-by-parts, the blend that preceded YaRN: slow pairs are scaled linearly, middle ones by NTK, fast ones
/// not at all. Its four bounds are numbers of turns over original_context; the pair indices computed from
/// them are always rounded outwards.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config on an odd rotary_dim or 2, base <= 0 or 1, factor or original_context <= 0,
///           bounds <= 0 or a fast bound below its slow one, ntk_factor or extrapolation_factor not finite.
/// Cost:     two pows per pair.
/// Accuracy: f64, 1e-15 relative to each branch.
/// Source:   jquesnelle/yarn LlamaPartNTKScaledRotaryEmbedding.
inline spectrum ntk_by_parts(const ntk_by_parts_config& c) {
    constexpr const char* who = "ntk_by_parts";
    detail::require_ladder(who, c.rotary_dim, c.base);
    detail::require(c.base != 1, who, "base must not be 1", c.base);
    detail::require_factor(who, "factor must be finite and > 0", c.factor);
    detail::require_factor(who, "original_context must be > 0", c.original_context);
    detail::require_factor(who, "beta_slow must be > 0", c.beta_slow);
    detail::require(c.beta_fast >= c.beta_slow, who, "beta_fast must be >= beta_slow", c.beta_fast);
    detail::require_factor(who, "gamma_slow must be > 0", c.gamma_slow);
    detail::require(c.gamma_fast >= c.gamma_slow, who, "gamma_fast must be >= gamma_slow", c.gamma_fast);
    const auto beta =
        detail::correction_range(c.beta_fast, c.beta_slow, c.rotary_dim, c.base, c.original_context, true);
    const auto gamma =
        detail::correction_range(c.gamma_fast, c.gamma_slow, c.rotary_dim, c.base, c.original_context, true);
    detail::require(std::isfinite(c.ntk_factor), who, "ntk_factor must be finite", c.ntk_factor);
    detail::require(std::isfinite(c.extrapolation_factor), who, "extrapolation_factor must be finite",
                    c.extrapolation_factor);
    const double base = detail::moved_base("factor must leave the base finite and > 0", c.rotary_dim, c.base,
                                           c.factor, c.factor);
    const auto moved = detail::ladder(c.rotary_dim, base);
    auto omega = detail::ladder(c.rotary_dim, c.base);
    for (std::size_t i = 0; i < omega.size(); ++i) {
        const double ntk_share = (1 - detail::ramp(static_cast<double>(i), beta)) * c.ntk_factor;
        const double kept = (1 - detail::ramp(static_cast<double>(i), gamma)) * c.extrapolation_factor;
        const double blend = omega[i] / c.factor * (1 - ntk_share) + moved[i] * ntk_share;
        omega[i] = blend * (1 - kept) + omega[i] * kept;
    }
    return spectrum::from_omega(omega);
}

/// NTK-by-parts with the factor context_length / original_context beyond original_context, and RoFormer's
/// frequencies up to it. `factor` of the configuration is not read.
/// Throws:   as ntk_by_parts; invalid_config on context_length < 1.
/// Source:   jquesnelle/yarn LlamaDynamicPartNTKScaledRotaryEmbedding (not fine-tuned).
inline spectrum dynamic_ntk_by_parts(ntk_by_parts_config c, std::int64_t context_length) {
    detail::require_length("dynamic_ntk_by_parts", context_length);
    detail::require_factor("dynamic_ntk_by_parts", "original_context must be > 0", c.original_context);
    const auto n = static_cast<double>(context_length);
    if (n <= c.original_context) return geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    c.factor = n / c.original_context;
    return ntk_by_parts(c);
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
