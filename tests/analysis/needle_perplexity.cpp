// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/needle_perplexity.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("needle_perplexity: the answer's tokens alone", "[analysis][needle_perplexity]") {
    const std::vector<double> loss{9, 0.5, 1.5, 9, 1.0};
    const std::vector<std::uint8_t> answers{0, 1, 1, 0, 2};
    CHECK(needle_perplexity(loss, answers) == Approx(std::exp(1.0)).epsilon(1e-15));
    CHECK(full_perplexity(loss) == Approx(double(std::exp(21.0L / 5))).epsilon(1e-15));
    CHECK(needle_perplexity(loss, std::vector<std::uint8_t>(5, 1)) == full_perplexity(loss));
}

TEST_CASE("needle_perplexity: refuses nothing to look at", "[analysis][needle_perplexity][errors]") {
    const std::vector<double> loss{1, 2};
    CHECK_REFUSES("needle_perplexity: answers must name a token, got none",
                  needle_perplexity(loss, std::vector<std::uint8_t>(2)));
    CHECK_REFUSES("needle_perplexity: answers must be as many as losses: wanted 2, got 3",
                  needle_perplexity(loss, std::vector<std::uint8_t>(3)));
    CHECK_REFUSES("full_perplexity: losses must not be empty, got none", full_perplexity({}));
}
