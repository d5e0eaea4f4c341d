// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/geometric.hpp>

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("geometric: the ladder of RoFormer", "[frequencies][geometric]") {
    const auto s = frequencies::geometric({.rotary_dim = 128, .base = 1e4});
    REQUIRE(s.pairs() == 64);
    CHECK(s.magnitude() == 1.0);
    CHECK(s.axes() == 1);
    for (ropewalk::index i = 0; i < 64; ++i)
        CHECK(std::abs(s.omega(i) * std::pow(1e4, i / 64.0) - 1) < 1e-14);
}

TEST_CASE("geometric: one pair turns one radian a position", "[frequencies][geometric]") {
    CHECK(frequencies::geometric({.rotary_dim = 2}).omega(0) == 1.0);
}

TEST_CASE("geometric: refuses what is no ladder", "[frequencies][geometric][errors]") {
    CHECK_REFUSES("geometric: rotary_dim must be even and > 0, got 7",
                  frequencies::geometric({.rotary_dim = 7}));
    CHECK_REFUSES("geometric: rotary_dim must be even and > 0, got 0", frequencies::geometric({}));
    CHECK_REFUSES("geometric: base must be finite and > 0, got -1",
                  frequencies::geometric({.rotary_dim = 8, .base = -1}));
    CHECK_REFUSES("geometric: base must be finite and > 0, got inf",
                  frequencies::geometric({.rotary_dim = 8, .base = std::numeric_limits<double>::infinity()}));
}
