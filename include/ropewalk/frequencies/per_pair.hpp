// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Frequencies divided pair by pair, as in GGUF's rope_freqs.weight and LongRoPE.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

inline void require_pair_factors(const char* function, const char* parameter_must, index pairs,
                                 std::span<const double> factors) {
    require(static_cast<index>(factors.size()) == pairs, function, parameter_must,
            text(factors.size()) + " numbers for " + text(pairs) + " pairs");
    for (double f : factors) require(std::isfinite(f) && f > 0, function, parameter_must, f);
}

}  // namespace detail

namespace frequencies {

/// Divides the frequency of every pair by its own factor: GGUF's rope_freqs.weight and rope_factors_*,
/// ggml_rope_ext's freq_factors, LongRoPE's rescale factors.
/// Throws:   invalid_config unless there is one finite divisor > 0 per pair.
/// Source:   ggml-org/ggml ggml_rope_ext; LongRoPE, Ding et al. 2024.
inline spectrum divide_pairs(const spectrum& s, std::span<const double> factors) {
    detail::require_pair_factors("divide_pairs", "factors must hold one number > 0 a pair", s.pairs(),
                                 factors);
    return map_omega(
        s, [factors](double omega, index i) { return omega / factors[static_cast<std::size_t>(i)]; });
}

/// The divisors from spectrum `from` to spectrum `to`, pair by pair: what a converter writes to
/// rope_freqs.weight. A pair of frequency 0 in both has divisor 1.
/// Requires: two selected spectra of one head.
/// Throws:   invalid_config if the numbers of pairs differ or a pair has frequency 0 in only one of the two.
/// Source:   llama.cpp's conversion of Llama 3.1 (rope_freqs = omega / scaled omega).
inline std::vector<double> pair_factors(const spectrum& from, const spectrum& to) {
    detail::require_equal("pair_factors", "pairs must be equal", from.pairs(), to.pairs());
    std::vector<double> factors(static_cast<std::size_t>(from.pairs()));
    for (index i = 0; i < from.pairs(); ++i) {
        const double a = from.omega(i);
        const double b = to.omega(i);
        detail::require((a == 0) == (b == 0), "pair_factors", "a pair must rest in both spectra or in none",
                        i);
        factors[static_cast<std::size_t>(i)] = b == 0 ? 1.0 : a / b;
    }
    return factors;
}

}  // namespace frequencies
}  // namespace ROPEWALK_NAMESPACE
