// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Positions of frames at a constant rate, as audio models use them.
#pragma once

#include <cmath>

#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE::positions {

struct timeline_config {
    index tokens = 0;
    double start = 0;  ///< position of the first token
    double spacing =
        1;  ///< positions from one token to the next: frame duration of this sequence over that of the unit
};

/// Frames at a constant rate: start, start + spacing, ....
/// Throws:   invalid_config on tokens < 0 or numbers that are not finite.
inline position_ids timeline(const timeline_config& config) {
    detail::require(config.tokens >= 0, "timeline", "tokens must be >= 0", config.tokens);
    detail::require(std::isfinite(config.start), "timeline", "start must be finite", config.start);
    detail::require(std::isfinite(config.spacing), "timeline", "spacing must be finite", config.spacing);
    position_ids ids;
    ids.append(text_run{config.tokens, config.start, config.spacing});
    return ids;
}

/// A sequence stretched to the length of another one of the same duration: token i of `tokens` has position i
/// * (other_tokens / tokens), so both span [0, other_tokens).
/// Throws:   invalid_config on tokens < 1 or other_tokens < 0.
/// Source:   MuseControlLite, Tsai et al. 2025, official code.
inline position_ids timeline_over(index other_tokens, index tokens) {
    detail::require(tokens >= 1, "timeline_over", "tokens must be >= 1", tokens);
    detail::require(other_tokens >= 0, "timeline_over", "other_tokens must be >= 0", other_tokens);
    return timeline(
        {.tokens = tokens, .spacing = static_cast<double>(other_tokens) / static_cast<double>(tokens)});
}

}  // namespace ROPEWALK_NAMESPACE::positions
