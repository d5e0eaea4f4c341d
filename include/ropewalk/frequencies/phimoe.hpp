// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// PhiMoE's LongRoPE, whose two magnitudes come from the config.
#pragma once

#include <optional>
#include <vector>

#include <ropewalk/frequencies/longrope.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// What decides between the short and the long values. per_sequence: the length of the sequence, for factors
/// and magnitude (Hugging Face until spring 2026). magnitude_only: the length decides the magnitude, and the
/// factors stay short (Hugging Face's sources of August 2026, which no longer pass the length on).
/// per_engine: the longest length an engine is started for, given as context_length, for every position
/// (vLLM).
enum class phimoe_choice : std::uint8_t { per_sequence, magnitude_only, per_engine };

struct phimoe_config {
    index rotary_dim = 0;
    double base = 1e4;
    std::vector<double> short_factors = {};  ///< one divisor per pair, up to original_context
    std::vector<double> long_factors = {};   ///< one divisor per pair, beyond original_context
    double original_context = 0;
    double max_context = 0;                   ///< used if a magnitude is not given
    std::optional<double> short_mscale = {};  ///< magnitude up to original_context
    std::optional<double> long_mscale = {};   ///< magnitude beyond it; not given: LongRoPE's formula
    phimoe_choice choice = phimoe_choice::per_sequence;  ///< what decides between short and long
};

/// PhiMoE's LongRoPE: two magnitudes from the config instead of LongRoPE's formula.
/// Units:    radians per position; the magnitude is part of the result.
/// Throws:   invalid_config as longrope.
/// Source:   huggingface/transformers models/phimoe; vllm-project/vllm
///           rotary_embedding/phi3_long_rope_scaled_rope.py.
inline spectrum phimoe(const phimoe_config& c, std::int64_t context_length) {
    detail::require_length("phimoe", context_length);
    const bool is_long = static_cast<double>(context_length) > c.original_context;
    const bool long_factors = is_long && c.choice != phimoe_choice::magnitude_only;
    longrope_config plain{.rotary_dim = c.rotary_dim,
                          .base = c.base,
                          .short_factors = c.short_factors,
                          .long_factors = c.long_factors,
                          .original_context = c.original_context,
                          .max_context = c.max_context,
                          .attention_factor = is_long ? c.long_mscale : c.short_mscale};
    // longrope() chooses by the length itself: pass a length on the wanted side.
    if (!long_factors) plain.long_factors = plain.short_factors;
    return longrope(plain, context_length);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
