// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("make_angles: position times omega, not reduced", "[angles][make_angles]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 4, .base = 100});
    const auto angles = rw::make_angles(rope, rw::position_ids::from(std::vector<double>{0, 1000, -2.5}));
    REQUIRE(angles.size() == 6);
    CHECK(angles[0] == 0);
    CHECK(angles[2] == Approx(1000).epsilon(1e-15));
    CHECK(angles[3] == Approx(100).epsilon(1e-15));
    CHECK(angles[5] == Approx(-0.25).epsilon(1e-15));
    CHECK_THROWS_WITH(rw::make_angles(rope, rw::position_ids(3)), ContainsSubstring("got 3"));
}
