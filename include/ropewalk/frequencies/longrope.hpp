// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// LongRoPE: a searched divisor for every pair, for short and for long sequences.
#pragma once

#include <cmath>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/frequencies/per_pair.hpp>
#include <ropewalk/frequencies/yarn.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// The attention factor that a LongRoPE checkpoint was trained with. su: sqrt(1 + ln s / ln L0), as in Phi-3
/// and Hugging Face. yarn: 0.1 ln s + 1. Both are 1 for s <= 1.
enum class longrope_magnitude { su, yarn };

struct longrope_config {
    index rotary_dim = 0;
    double base = 1e4;
    std::vector<double> short_factors = {};  ///< one divisor per pair, up to original_context
    std::vector<double> long_factors = {};   ///< one divisor per pair, beyond original_context
    double original_context = 0;
    double max_context = 0;             ///< the extended length; used if `factor` is not given
    std::optional<double> factor = {};  ///< s; default max_context / original_context
    std::optional<double> attention_factor = {};
    /// The rule of the magnitude if attention_factor is not given.
    longrope_magnitude policy = longrope_magnitude::su;
};

/// LongRoPE's magnitude: attention_factor if given, otherwise the rule of `policy` for s. It does not depend
/// on the length of the sequence and is the same for short and long factors.
/// Throws:   invalid_config on attention_factor or factor <= 0, original_context <= 1, or neither factor nor
///           max_context.
/// Source:   microsoft/LongRoPE rope/longrope.py; Hugging Face "longrope".
inline double longrope_attention_factor(const longrope_config& c) {
    if (c.attention_factor) {
        detail::require_factor("longrope", "attention_factor must be finite and > 0", *c.attention_factor);
        return *c.attention_factor;
    }
    detail::require(std::isfinite(c.original_context) && c.original_context > 1, "longrope",
                    "original_context must be > 1", c.original_context);
    const double s = c.factor ? *c.factor : c.max_context / c.original_context;
    detail::require_factor("longrope", c.factor ? "factor must be finite and > 0" : "max_context must be > 0",
                           s);
    if (s <= 1) return 1;
    if (c.policy == longrope_magnitude::yarn) return yarn_mscale(s);
    return std::sqrt(1 + std::log(s) / std::log(c.original_context));
}

/// LongRoPE: every pair has its own divisor. A sequence of exactly original_context tokens still uses the
/// short factors. With one token more it uses the long ones, and keys cached before need a rebase.
/// Units:    radians per position; the magnitude is part of the result.
/// Throws:   invalid_config on an odd rotary_dim, factors that are not > 0 or not one per pair,
///           original_context <= 1, context_length < 1.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   LongRoPE, Ding et al. 2024; microsoft/LongRoPE rope/longrope.py; Hugging Face "longrope".
inline spectrum longrope(const longrope_config& c, std::int64_t context_length) {
    detail::require_length("longrope", context_length);
    const double magnitude = longrope_attention_factor(c);
    detail::require_factor("longrope", "original_context must be > 0", c.original_context);
    const auto plain = geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    detail::require_pair_factors("longrope", "short_factors must hold one number > 0 a pair", plain.pairs(),
                                 c.short_factors);
    detail::require_pair_factors("longrope", "long_factors must hold one number > 0 a pair", plain.pairs(),
                                 c.long_factors);
    const bool is_long = static_cast<double>(context_length) > c.original_context;
    return divide_pairs(plain, is_long ? c.long_factors : c.short_factors).with_magnitude(magnitude);
}

struct dynamic_longrope_config {
    index rotary_dim = 0;
    double base = 1e4;
    std::vector<double> factors = {};  ///< searched at max_context, one per pair
    double original_context = 0;
    double max_context = 0;
    std::optional<double> attention_factor = {};
    /// The rule of the magnitude if attention_factor is not given.
    longrope_magnitude policy = longrope_magnitude::su;
};

/// Microsoft's dynamic rescale: the divisors grow linearly with the length, from 1 at original_context to the
/// searched ones at max_context. As in the official code they are not clamped: below original_context pairs
/// rotate a little faster than without scaling.
/// Throws:   invalid_config as longrope, on max_context <= original_context, and if a divisor would not be >
///           0.
/// Source:   microsoft/LongRoPE DynamicLongRoPEScaledRotaryEmbedding.
inline spectrum dynamic_longrope(const dynamic_longrope_config& c, std::int64_t context_length) {
    detail::require_length("dynamic_longrope", context_length);
    detail::require_factor("dynamic_longrope", "original_context must be > 0", c.original_context);
    detail::require(std::isfinite(c.max_context) && c.max_context > c.original_context, "dynamic_longrope",
                    "max_context must be > original_context", c.max_context);
    const auto plain = geometric({.rotary_dim = c.rotary_dim, .base = c.base});
    detail::require_pair_factors("dynamic_longrope", "factors must hold one number > 0 a pair", plain.pairs(),
                                 c.factors);
    const double now = static_cast<double>(context_length) / c.original_context;
    const double share = (now - 1) / (c.max_context / c.original_context - 1);
    std::vector<double> moved(c.factors);
    for (double& f : moved) f = 1 + (f - 1) * share;
    const double magnitude = longrope_attention_factor({.original_context = c.original_context,
                                                        .max_context = c.max_context,
                                                        .attention_factor = c.attention_factor,
                                                        .policy = c.policy});
    return divide_pairs(plain, moved).with_magnitude(magnitude);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
