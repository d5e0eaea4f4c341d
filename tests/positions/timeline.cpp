// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/timeline.hpp>

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace positions = ropewalk::positions;

TEST_CASE("timeline: start and spacing", "[positions][timeline]") {
    CHECK(positions::timeline({.tokens = 3, .start = -1, .spacing = 0.25}).values() ==
          std::vector<double>{-1, -0.75, -0.5});
    CHECK(positions::timeline({}).tokens() == 0);
}

TEST_CASE("timeline_over: both sequences span the same time", "[positions][timeline]") {
    CHECK(positions::timeline_over(6, 3).values() == std::vector<double>{0, 2, 4});
    CHECK(positions::timeline_over(1024, 1024).at(1023) == 1023);
    CHECK(positions::timeline_over(4096, 1).values() == std::vector<double>{0});
    // MuseControlLite: latent frame f is query f + 1 of 1025 over 1024 condition frames.
    CHECK(positions::timeline_over(1024, 1025).at(1) == Approx(1024.0 / 1025));
}

TEST_CASE("timeline: bad numbers are refused", "[positions][timeline]") {
    CHECK_REFUSES("timeline: tokens must be >= 0, got -1", positions::timeline({.tokens = -1}));
    CHECK_REFUSES("timeline: spacing must be finite, got inf",
                  positions::timeline({.tokens = 1, .spacing = std::numeric_limits<double>::infinity()}));
    CHECK_REFUSES("timeline_over: tokens must be >= 1, got 0", positions::timeline_over(3, 0));
    CHECK_REFUSES("timeline_over: other_tokens must be >= 0, got -2", positions::timeline_over(-2, 1));
}
