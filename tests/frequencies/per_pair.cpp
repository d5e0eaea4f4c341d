// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/per_pair.hpp>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("divide_pairs: every pair by its own number, whatever axis it reads", "[frequencies][per_pair]") {
    const auto s = frequencies::assign_axes(frequencies::geometric({.rotary_dim = 8}).with_magnitude(1.5),
                                            std::vector<int>{0, 1, 0, 1});
    const std::vector<double> factors{1, 2, 4, 8};
    const auto divided = frequencies::divide_pairs(s, factors);
    CHECK(divided.magnitude() == 1.5);
    for (ropewalk::index i = 0; i < 4; ++i) {
        CHECK(divided.omega(i) == s.omega(i) / factors[i]);
        CHECK(divided.axis_of(0, i) == i % 2);
    }
}

TEST_CASE("pair_factors: the divisors between two spectra; pairs at rest have 1", "[frequencies][per_pair]") {
    const auto from = frequencies::geometric({.rotary_dim = 8});
    const std::vector<double> factors{1, 2, 4, 8};
    CHECK(frequencies::pair_factors(from, frequencies::divide_pairs(from, factors)) == factors);
    const std::vector<std::uint8_t> keep{1, 1, 0, 0};
    const auto still = frequencies::keep_pairs(from, keep);
    CHECK(frequencies::pair_factors(still, still) == std::vector<double>(4, 1.0));
    CHECK_REFUSES("pair_factors: a pair must rest in both spectra or in none, got 2",
                  frequencies::pair_factors(from, still));
    CHECK_REFUSES("pair_factors: pairs must be equal: wanted 4, got 2",
                  frequencies::pair_factors(from, frequencies::geometric({.rotary_dim = 4})));
}

TEST_CASE("divide_pairs: refuses lists that are not one number > 0 a pair",
          "[frequencies][per_pair][errors]") {
    const auto s = frequencies::geometric({.rotary_dim = 4});
    CHECK_REFUSES("divide_pairs: factors must hold one number > 0 a pair, got 1 numbers for 2 pairs",
                  frequencies::divide_pairs(s, std::vector<double>{1}));
    CHECK_REFUSES("divide_pairs: factors must hold one number > 0 a pair, got -1",
                  frequencies::divide_pairs(s, std::vector<double>{1, -1}));
}
