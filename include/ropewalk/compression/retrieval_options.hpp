// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Options of retrieval_cache: window, sinks, top K and the storage of keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// Whether the keys that a decode step reads were rotated when they were stored, or are rotated when they are
/// read (only those that are attended to).
enum class cached_keys : std::uint8_t { rotated, unrotated };

/// Which tokens a decode step over a long cache attends to.
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS, whose defaults these are.
struct retrieval_options {
    index heads = 0;                          ///< query heads; 0: as many as kv heads
    index window = 64;                        ///< w: tokens closer than this are always attended to
    double relative_position = 2048;          ///< b: the distance in positions at which all others are scored
    index sinks = 8;                          ///< first tokens, always attended to
    double top_fraction = 0.03;               ///< K as a share of all cached tokens, rounded down
    std::optional<index> top_count = {};      ///< K itself, instead of top_fraction
    cached_keys keys = cached_keys::rotated;  ///< whether the cache stores keys rotated
    index value_channels = 0;                 ///< 0: as many as the keys have
    std::int64_t context_length = 1;          ///< the context length of the scheme's frequencies
    index batches = 1;                        ///< sequences, which may have different lengths
    index parts = 1;                          ///< threads that attend at once, each with its own memory

    /// K for a cache of `tokens`.
    index top_of(index tokens) const noexcept {
        const double share = top_fraction * static_cast<double>(tokens);
        return std::min(top_count.value_or(static_cast<index>(std::floor(share))), tokens);
    }
    /// Tokens below this one are sinks.
    index sinks_end(index tokens) const noexcept { return std::min(sinks, tokens); }
    /// Tokens from this one on are in the window; the top K are chosen among those between sinks and window.
    index window_begin(index tokens) const noexcept { return std::max(sinks_end(tokens), tokens - window); }
    /// Throws: invalid_config naming `who` on a negative count, top_fraction outside [0, 1] or a
    ///         relative_position that is not finite.
    void require_valid(const char* who) const {
        detail::require(window >= 0, who, "window must be >= 0", window);
        detail::require(sinks >= 0, who, "sinks must be >= 0", sinks);
        // Each batch and part has memory of its own.
        detail::require(batches >= 1 && batches <= 1 << 20, who, "batches must be in 1 .. 2^20", batches);
        detail::require(parts >= 1 && parts <= 1 << 16, who, "parts must be in 1 .. 2^16", parts);
        detail::require(value_channels >= 0, who, "value_channels must be >= 0", value_channels);
        detail::require(top_fraction >= 0 && top_fraction <= 1, who, "top_fraction must be in [0, 1]",
                        top_fraction);
        detail::require(top_count.value_or(0) >= 0, who, "top_count must be >= 0", top_count.value_or(0));
        detail::require(std::isfinite(relative_position), who, "relative_position must be finite",
                        relative_position);
    }
};

}  // namespace ROPEWALK_NAMESPACE
