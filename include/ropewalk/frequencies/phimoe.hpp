// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <optional>
#include <vector>

#include <ropewalk/frequencies/longrope.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// Who decides between short and long. per_sequence: the length of the sequence, for factors and magnitude
/// (Hugging Face until spring 2026). magnitude_only: the length decides the magnitude, the factors stay short
/// (the sources of August 2026, which lost the length on the way). per_engine: the longest length an engine
/// is started for, given as context_length, for every position (vLLM).
enum class phimoe_choice : std::uint8_t { per_sequence, magnitude_only, per_engine };

struct phimoe_config {
    index rotary_dim = 0;
    double base = 1e4;
    std::vector<double> short_factors = {};  ///< one divisor a pair, up to original_context
    std::vector<double> long_factors = {};   ///< one divisor a pair, beyond it
    double original_context = 0;
    double max_context = 0;                              ///< read where a magnitude is not given
    std::optional<double> short_mscale = {};             ///< magnitude up to original_context
    std::optional<double> long_mscale = {};              ///< and beyond it; not given: LongRoPE's formula
    phimoe_choice choice = phimoe_choice::per_sequence;  ///< which magnitude a position gets
};

/// PhiMoE's LongRoPE: two magnitudes from the config in place of one formula.
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
    // The plain scheme switches on the length itself: hand it a length on the wanted side.
    if (!long_factors) plain.long_factors = plain.short_factors;
    return longrope(plain, context_length);
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
