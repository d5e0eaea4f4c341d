// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Perplexity over the answer tokens of long-context retrieval prompts (LongRoPE2), and over all tokens.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_NAMESPACE {

/// exp of the mean loss over the answer's tokens only, all rows pooled; LongRoPE2's search minimises it. The
/// loss of the surrounding text, which a model predicts from nearby tokens, would otherwise dominate.
/// Shapes:   losses and answers [rows * tokens] (negative log-likelihoods in nats; answers not 0 = a token of
///           the answer).
/// Throws:   invalid_config when the sizes differ or no token belongs to an answer.
/// Source:   LongRoPE2, Shang et al. 2025 (arXiv 2502.20082); J-shang/LongRoPE
/// utils/tokenize_needle_dataset.py.
inline double needle_perplexity(std::span<const double> losses, std::span<const std::uint8_t> answers) {
    constexpr const char* who = "needle_perplexity";
    detail::require_equal(who, "answers must be as many as losses", losses.size(), answers.size());
    double sum = 0, count = 0;
    for (std::size_t i = 0; i < losses.size(); ++i)
        if (answers[i] != 0) sum += losses[i], ++count;
    detail::require(count > 0, who, "answers must name a token", "none");
    return std::exp(sum / count);
}

/// exp of the mean loss over all tokens.
/// Throws:   invalid_config when there are none.
/// Source:   Jelinek et al. 1977.
inline double full_perplexity(std::span<const double> losses) {
    detail::require(!losses.empty(), "full_perplexity", "losses must not be empty", "none");
    double sum = 0;
    for (const double loss : losses) sum += loss;
    return std::exp(sum / static_cast<double>(losses.size()));
}

}  // namespace ROPEWALK_NAMESPACE
