// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// p-RoPE and the sizes of partial rotary: only a fraction p of the pairs rotates.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/frequencies/linear.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// Which end of the frequencies p-RoPE keeps. The paper keeps the highest ones; `lowest` is its control
/// experiment.
enum class kept_end { highest, lowest };

struct p_rope_config {
    index head_dim = 0;  ///< all channels of a head: the exponent of the frequencies divides by head_dim
    double base = 1e4;
    double p = 1;                       ///< fraction of the frequencies kept, in [0, 1]
    kept_end keep = kept_end::highest;  ///< which end of the frequencies rotates
    double factor = 1;                  ///< position interpolation in addition (Hugging Face "proportional")
};

/// How many pairs p-RoPE keeps: int(p * head_dim) / 2, rounded down. The paper does not specify the rounding;
/// this is that of Hugging Face and Gemma.
/// Throws:   invalid_config on an odd head_dim or p outside [0, 1].
/// Source:   Hugging Face "proportional"; google-deepmind/gemma rope_proportion.
inline index p_rope_kept_pairs(const p_rope_config& c) {
    detail::require(c.head_dim > 0 && c.head_dim % 2 == 0, "p_rope", "head_dim must be even and > 0",
                    c.head_dim);
    detail::require(c.p >= 0 && c.p <= 1, "p_rope", "p must be in [0, 1]", c.p);
    return static_cast<index>(std::floor(c.p * static_cast<double>(c.head_dim) / 2));
}

/// p-RoPE: RoFormer's frequencies with the lowest fraction 1 - p set to 0, so that those channels carry no
/// position. p = 1 is RoPE, p = 0 is NoPE. This is not partial rotary, which puts all frequencies of a
/// smaller head into the first channels. With half_split the channels that rotate here are 0 .. kept-1 and P
/// .. P + kept-1.
/// Units:    radians per position; magnitude 1; P = pairs = head_dim / 2.
/// Throws:   invalid_config on an odd head_dim, base or factor <= 0, p outside [0, 1].
/// Cost:     one pow per pair.
/// Accuracy: f64, 1e-15 relative.
/// Source:   Round and Round We Go, Barbero et al. 2024; Hugging Face "proportional" (Gemma 4).
inline spectrum p_rope(const p_rope_config& c) {
    const index kept = p_rope_kept_pairs(c);
    const auto full = linear({.rotary_dim = c.head_dim, .base = c.base, .factor = c.factor});
    const index first = c.keep == kept_end::highest ? 0 : full.pairs() - kept;
    std::vector<std::uint8_t> keep(static_cast<std::size_t>(full.pairs()));
    for (index i = first; i < first + kept; ++i) keep[static_cast<std::size_t>(i)] = 1;
    return keep_pairs(full, keep);
}

/// Partial rotary as a spectrum of the whole head: the frequencies of a head of int(p * head_dim) channels
/// for the first pairs, 0 for the others. These are the frequencies of GPT-NeoX's rotary_pct, for comparison
/// with p_rope. A model that uses partial rotary slices the channels instead (its pairs are those of the
/// slice).
/// Throws:   invalid_config as p_rope.
/// Source:   GPT-NeoX rotary_pct; Round and Round We Go, Barbero et al. 2024, section 6 (RoPE-partial).
inline spectrum partial_ladder(const p_rope_config& c) {
    const index rotated = p_rope_kept_pairs(c);
    detail::require_ladder("partial_ladder", c.head_dim, c.base);
    detail::require_factor("partial_ladder", "factor must be finite and > 0", c.factor);
    std::vector<double> omega(static_cast<std::size_t>(c.head_dim / 2));
    if (rotated > 0) {
        const auto ladder = linear({.rotary_dim = 2 * rotated, .base = c.base, .factor = c.factor}).omegas();
        std::copy(ladder.begin(), ladder.end(), omega.begin());
    }
    return spectrum::from_omega(omega);
}

/// Channels that rotate under partial rotary: int(head_dim * factor), truncated towards 0.
/// Throws:   invalid_config on head_dim < 1, a factor outside [0, 1] or an odd result.
/// Source:   Hugging Face partial_rotary_factor, rotary_pct.
inline index partial_rotary_dim(index head_dim, double partial_rotary_factor) {
    constexpr const char* who = "partial_rotary_dim";
    detail::require(head_dim >= 1, who, "head_dim must be >= 1", head_dim);
    detail::require(partial_rotary_factor >= 0 && partial_rotary_factor <= 1, who,
                    "partial_rotary_factor must be in [0, 1]", partial_rotary_factor);
    const auto channels = static_cast<index>(static_cast<double>(head_dim) * partial_rotary_factor);
    detail::require(channels % 2 == 0, who, "head_dim * partial_rotary_factor must be even", channels);
    return channels;
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
