// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoFormer's frequencies: the geometric ladder base^(-2 i / rotary_dim).
#pragma once

#include <cmath>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Refuses sizes and bases from which no ladder of frequencies can be built.
inline void require_ladder(const char* function, index rotary_dim, double base) {
    require(rotary_dim > 0 && rotary_dim % 2 == 0, function, "rotary_dim must be even and > 0", rotary_dim);
    require(std::isfinite(base) && base > 0, function, "base must be finite and > 0", base);
}

/// base^(-2 i / rotary_dim): the only definition of this formula.
inline std::vector<double> ladder(index rotary_dim, double base) {
    std::vector<double> omega(static_cast<std::size_t>(rotary_dim / 2));
    for (std::size_t i = 0; i < omega.size(); ++i)
        omega[i] = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
    return omega;
}

/// Refuses a scale that no spectrum can be divided by.
inline void require_factor(const char* function, const char* parameter_must, double factor) {
    require(std::isfinite(factor) && factor > 0, function, parameter_must, factor);
}

/// Refuses the length of a sequence without tokens.
inline void require_length(const char* function, std::int64_t context_length) {
    require(context_length >= 1, function, "context_length must be >= 1", context_length);
}

}  // namespace detail

namespace frequencies {

struct geometric_config {
    index rotary_dim = 0;  ///< channels that rotate, even; the exponent's denominator (not head_dim)
    double base = 1e4;     ///< rope_theta, freq_base
};

/// RoFormer's ladder of frequencies: omega_i = base^(-2 i / rotary_dim), i = 0 .. rotary_dim/2 - 1.
/// Units:    radians per position.
/// Throws:   invalid_config on an odd or zero rotary_dim or a base that is not > 0.
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   RoFormer, Su et al. 2021, eq. 15; Hugging Face rope_type "default".
inline spectrum geometric(const geometric_config& config) {
    detail::require_ladder("geometric", config.rotary_dim, config.base);
    return spectrum::from_omega(detail::ladder(config.rotary_dim, config.base));
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
