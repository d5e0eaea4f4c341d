// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/axial.hpp>

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using rw::frequencies::axial;

TEST_CASE("axial: FLUX blocks [4, 6, 6] by hand", "[frequencies][axial]") {
    const auto s = axial({.channels = {4, 6, 6}});
    REQUIRE(s.pairs() == 8);
    REQUIRE(s.axes() == 3);
    const double want[] = {1, 0.01, 1, 0.0464158883, 0.00215443469, 1, 0.0464158883, 0.00215443469};
    const int axis[] = {0, 0, 1, 1, 1, 2, 2, 2};
    for (rw::index i = 0; i < 8; ++i) {
        CHECK(s.omega(i) == Approx(want[i]).epsilon(1e-8));
        CHECK(s.axis_of(0, i) == axis[i]);
    }
    // FLUX.2: the first step of a ladder of 32 channels and base 2000
    CHECK(axial({.channels = {32, 32, 32, 32}, .base = 2000}).omega(1) == Approx(0.621850).epsilon(1e-6));
}

TEST_CASE("axial: one block is the plain ladder", "[frequencies][axial][reduces]") {
    const auto one = axial({.channels = {64}, .base = 500});
    const auto plain = rw::frequencies::geometric({.rotary_dim = 64, .base = 500});
    CHECK(one.axes() == 1);
    CHECK(one.omegas() == plain.omegas());
}

TEST_CASE("axial: blocks read the axis they are given", "[frequencies][axial]") {
    const auto s = axial({.channels = {4, 4}, .base = 100, .axis_of_block = {1, 0}});
    CHECK(s.omega(0, 1, 0) == Approx(1));
    CHECK(s.omega(0, 0, 0) == 0);
    CHECK(s.omega(0, 0, 3) == Approx(0.1));
    CHECK(axial({.channels = {4}, .axis_of_block = {1}, .axes = 3}).axes() == 3);
    CHECK(axial({.channels = {0, 4}}).pairs() == 2);
    CHECK(axial({}).pairs() == 0);
}

TEST_CASE("axial: bad blocks are refused", "[frequencies][axial]") {
    CHECK_REFUSES("axial: channels must be even and >= 0, got 3", axial({.channels = {4, 3}}));
    CHECK_REFUSES("axial: channels must be even and >= 0, got -2", axial({.channels = {-2}}));
    CHECK_REFUSES("axial: base must be finite and > 0, got 0", axial({.channels = {4}, .base = 0}));
    CHECK_REFUSES("axial: axis_of_block must be empty or one axis a block, got 1",
                  axial({.channels = {4, 4}, .axis_of_block = {0}}));
    CHECK_REFUSES("axial: axis_of_block must name an axis below axes, got 2",
                  axial({.channels = {4}, .axis_of_block = {2}, .axes = 2}));
    CHECK_REFUSES("axial: axis_of_block must name an axis below axes, got -1",
                  axial({.channels = {4}, .axis_of_block = {-1}}));
}
