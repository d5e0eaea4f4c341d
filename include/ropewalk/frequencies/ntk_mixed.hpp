// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The mixed NTK scaling of gte-multilingual: a divisor that rises from the fastest to the slowest pair.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include <ropewalk/frequencies/per_pair.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

struct ntk_mixed_config {
    index rotary_dim = 0;
    double base = 1e4;
    double factor = 1;                    ///< s: the slowest pair is divided by it
    std::optional<double> exponent = {};  ///< mixed_b; not given: the fixed form, which equals exponent 1
};

/// The divisor of every pair: s^((i + 1) / pairs), or exp(ln(s) ((i + 1) / pairs)^exponent). The last divisor
/// is s in both forms. For s > 1 the first is more than 1, so, unlike NTK-aware scaling, pair 0 slows down
/// too.
/// Shapes:   [pairs].
/// Throws:   invalid_config on an odd rotary_dim, a factor <= 0 or an exponent that is not finite.
/// Source:   vllm-project/vllm rotary_embedding/ntk_scaling_rope.py (gte-multilingual's "ntk").
inline std::vector<double> ntk_mixed_divisors(const ntk_mixed_config& c) {
    detail::require_ladder("ntk_mixed", c.rotary_dim, c.base);
    detail::require_factor("ntk_mixed", "factor must be finite and > 0", c.factor);
    const double exponent = c.exponent.value_or(1);
    detail::require(std::isfinite(exponent), "ntk_mixed", "exponent must be finite", exponent);
    std::vector<double> divisors(static_cast<std::size_t>(c.rotary_dim / 2));
    for (std::size_t i = 0; i < divisors.size(); ++i) {
        const double share = static_cast<double>(i + 1) / static_cast<double>(divisors.size());
        divisors[i] = std::exp(std::log(c.factor) * (exponent == 1 ? share : std::pow(share, exponent)));
    }
    return divisors;
}

/// RoFormer's frequencies with these divisors, the same at every context length.
/// Units:    radians per position; magnitude 1.
/// Throws:   invalid_config as ntk_mixed_divisors, and if a divisor is not a finite double > 0.
/// Source:   vllm-project/vllm rotary_embedding/ntk_scaling_rope.py.
inline spectrum ntk_mixed(const ntk_mixed_config& c) {
    const auto divisors = ntk_mixed_divisors(c);
    return divide_pairs(geometric({.rotary_dim = c.rotary_dim, .base = c.base}), divisors);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
