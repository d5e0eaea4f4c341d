// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/golden_directions.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("golden: the inverse error function against erf", "[frequencies][golden_directions]") {
    for (const double z : {1e-12, 1e-6, 0.01, 0.2, 0.49, 0.5, 0.51, 0.75, 0.99, 1 - 1e-9}) {
        const long double x = ropewalk::detail::inverse_erf_of_share(z);
        // erfc(-x) / 2 is the share of the normal distribution below sqrt(2) x.
        CHECK(double(std::erfc(-x) / 2) == Approx(z).epsilon(1e-13));
    }
}

TEST_CASE("golden: published directions and ratios", "[frequencies][golden_directions]") {
    CHECK(frequencies::golden_ratio(2) == Approx(1.3247179943111884).epsilon(1e-15));
    CHECK(frequencies::golden_ratio(3) == Approx(1.2207440862420311).epsilon(1e-15));
    const auto u = frequencies::golden_directions({.heads = 1, .axes = 2, .pairs = 8});
    CHECK(u[0] == Approx(0.96897902).epsilon(1e-7));
    CHECK(u[1] == Approx(0.24714299).epsilon(1e-7));
    CHECK(u[2] == Approx(0.02260129).epsilon(1e-6));
    CHECK(u[3] == Approx(-0.99974456).epsilon(1e-7));
}

TEST_CASE("golden: unit directions times a ladder behind the resting pairs",
          "[frequencies][golden_directions]") {
    for (const rw::index axes : {1, 2, 3}) {
        const frequencies::golden_directions_config c{
            .heads = 3, .axes = axes, .pairs = 8, .slowest = 0.5, .fastest = 10, .resting_share = 0.3};
        const auto u = frequencies::golden_directions(c);
        const auto s = frequencies::golden(c);
        for (rw::index h = 0; h < 3; ++h)
            for (rw::index i = 0; i < 8; ++i) {
                long double length = 0, speed = 0;
                for (rw::index a = 0; a < axes; ++a) {
                    length += std::pow((long double)u[(h * 8 + i) * axes + a], 2);
                    speed += std::pow((long double)s.omega(h, a, i), 2);
                }
                CHECK(double(length) == Approx(1).epsilon(1e-14));
                // 0.3 of 8 pairs is 2.4: two rest; the other six climb from 0.5 to 10.
                const long double want = i < 2 ? 0.0L : 0.5L * std::pow(20.0L, (i - 2) / 5.0L);
                CHECK(double(std::sqrt(speed)) == Approx(double(want)).epsilon(1e-13));
            }
    }
}

TEST_CASE("golden: directions cover the circle evenly", "[frequencies][golden_directions]") {
    const rw::index count = 400;
    const auto u = frequencies::golden_directions({.heads = 4, .axes = 2, .pairs = count / 4});
    int in_sector[8] = {};
    for (rw::index n = 0; n < count; ++n) {
        const double angle = std::atan2(u[2 * n + 1], u[2 * n]) + std::acos(-1.0);
        ++in_sector[std::min(7, int(angle / (std::acos(-1.0) / 4)))];
    }
    for (const int n : in_sector) {  // 50 each, were it perfect
        CHECK(n >= 40);
        CHECK(n <= 60);
    }
}

TEST_CASE("golden: a share that rests all pairs, and one turning pair", "[frequencies][golden_directions]") {
    const auto all = frequencies::golden({.heads = 1, .axes = 2, .pairs = 4, .resting_share = 1});
    for (rw::index i = 0; i < 4; ++i) CHECK(all.omega(0, 0, i) == 0);
    const auto one = frequencies::golden({.heads = 1, .axes = 1, .pairs = 1, .slowest = 3});
    CHECK(std::abs(one.omega(0, 0, 0)) == Approx(3).epsilon(1e-15));
}

TEST_CASE("golden: refuses bad numbers", "[frequencies][golden_directions][errors]") {
    CHECK_REFUSES("golden_directions: heads must be >= 1, got 0",
                  frequencies::golden({.heads = 0, .pairs = 4}));
    CHECK_REFUSES("golden_directions: axes must be >= 1, got 0",
                  frequencies::golden({.axes = 0, .pairs = 4}));
    CHECK_REFUSES("golden_directions: slowest must be finite and > 0, got 0",
                  frequencies::golden({.pairs = 4, .slowest = 0}));
    CHECK_REFUSES("golden_directions: resting_share must be in [0, 1], got 1.5",
                  frequencies::golden({.pairs = 4, .resting_share = 1.5}));
    CHECK_REFUSES("golden_directions: heads and pairs must be >= 0, got an overflowing size",
                  frequencies::golden({.heads = support::huge(40), .pairs = support::huge(40)}));
}
