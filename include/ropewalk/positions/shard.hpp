// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The tokens that each rank holds under context parallelism: contiguous, striped and zigzag shards.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/positions/documents.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// How the tokens of a sequence are distributed over ranks.
/// contiguous: one run of tokens for each rank.
/// striped:    runs of `stripe` tokens, assigned to the ranks in round-robin order; causal work is balanced
///             (Striped Attention).
/// zigzag:     2 * ranks runs, rank r holds runs r and 2 * ranks - 1 - r; causal work is balanced, and each
///             rank holds only two runs (Llama 3, ring-flash-attention).
enum class sharding : std::uint8_t { contiguous, striped, zigzag };

struct shard_config {
    index tokens = 0;
    index ranks = 1;                       ///< ranks that share the sequence
    sharding kind = sharding::contiguous;  ///< which tokens a rank holds
    index stripe = 1;                      ///< tokens in a run, striped only
};

/// The tokens of the whole sequence that a rank holds, in its local order: rows of a table for the whole
/// sequence, or the argument of select_tokens. Every token belongs to exactly one rank. Runs differ by at
/// most one token in length, so no padding is needed.
/// Shapes:   [tokens of this rank].
/// Throws:   invalid_config on tokens < 0, ranks < 1, stripe < 1 or a rank that is not below ranks.
/// Source:   Ring Attention, Liu et al. 2023; Striped Attention, Brandon et al. 2023; Llama 3, 2024, 3.3.2.
///
///     rotate(rope, my_q, my_k, whole_table.rows(positions::shard_tokens({.tokens = n, .ranks = 8}, rank)));
inline std::vector<std::int32_t> shard_tokens(const shard_config& config, index rank) {
    constexpr const char* who = "shard_tokens";
    detail::require(config.tokens >= 0 && config.tokens <= std::numeric_limits<std::int32_t>::max(), who,
                    "tokens must be >= 0 and fit in 32 bits", config.tokens);
    detail::require(config.ranks >= 1, who, "ranks must be >= 1", config.ranks);
    detail::require(config.stripe >= 1, who, "stripe must be >= 1", config.stripe);
    detail::require(rank >= 0 && rank < config.ranks, who, "rank must be below ranks", rank);
    std::vector<std::int32_t> tokens;
    const auto add_run = [&](index run, index runs) {
        for (index t = config.tokens * run / runs; t < config.tokens * (run + 1) / runs; ++t)
            tokens.push_back(static_cast<std::int32_t>(t));
    };
    switch (config.kind) {
        case sharding::contiguous: add_run(rank, config.ranks); break;
        case sharding::zigzag:
            add_run(rank, 2 * config.ranks);
            add_run(2 * config.ranks - 1 - rank, 2 * config.ranks);
            break;
        case sharding::striped:
            for (index start = rank * config.stripe; start < config.tokens;
                 start += config.ranks * config.stripe)
                for (index t = start; t < std::min(config.tokens, start + config.stripe); ++t)
                    tokens.push_back(static_cast<std::int32_t>(t));
    }
    return tokens;
}

/// The same for documents packed into one sequence: each document is distributed over all ranks separately,
/// so that each rank holds a share of each.
/// Shapes:   offsets [documents + 1]; config.tokens is not read.
/// Throws:   invalid_config as shard_tokens and documents.
/// Source:   Transformer Engine's context parallelism for packed sequences.
template <class I>
std::vector<std::int32_t> shard_tokens(std::span<const I> offsets, shard_config config, index rank) {
    detail::require_offsets("shard_tokens", offsets);
    std::vector<std::int32_t> tokens;
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d) {
        config.tokens = static_cast<index>(offsets[d + 1] - offsets[d]);
        for (const std::int32_t t : shard_tokens(config, rank))
            tokens.push_back(t + static_cast<std::int32_t>(offsets[d]));
    }
    return tokens;
}

}  // namespace ROPEWALK_NAMESPACE::positions
