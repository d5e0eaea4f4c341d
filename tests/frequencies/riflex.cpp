// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/riflex.hpp>

#include <ropewalk/frequencies/axial.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// HunyuanVideo's head: time has 8 pairs.
rw::spectrum hunyuan() { return rw::frequencies::axial({.channels = {16, 56, 56}, .base = 256}); }

}  // namespace

TEST_CASE("riflex: one temporal frequency is lowered, no other", "[frequencies][riflex]") {
    const auto base = hunyuan();
    const auto longer = rw::frequencies::riflex(base, {.component = 4, .test_frames = 66});
    for (rw::index i = 0; i < base.pairs(); ++i)
        CHECK(longer.omega(i) == (i == 3 ? Approx(0.9 * 2 * 3.14159265358979 / 66) : Approx(base.omega(i))));
    CHECK(longer.axis_of(0, 3) == 0);
    // 90 % of a period holds all frames.
    CHECK(longer.omega(3) * 66 < 2 * 3.14159265358979);
}

TEST_CASE("riflex: frames that fit change nothing", "[frequencies][riflex]") {
    const auto base = hunyuan();
    // The 4th period is 2 pi 256^(6/16) = 50.3 frames.
    const auto same = rw::frequencies::riflex(base, {.component = 4, .test_frames = 50});
    CHECK(same.omega(3) == base.omega(3));
    CHECK(rw::frequencies::riflex(base, {.component = 4, .test_frames = 51}).omega(3) < base.omega(3));
}

TEST_CASE("riflex: components count the pairs of the axis", "[frequencies][riflex]") {
    const auto base = rw::frequencies::axial({.channels = {8, 8}, .base = 100, .axis_of_block = {1, 0}});
    const auto s = rw::frequencies::riflex(base, {.component = 2, .test_frames = 1000, .axis = 0});
    for (rw::index i = 0; i < 8; ++i) CHECK((s.omega(i) != base.omega(i)) == (i == 5));
}

TEST_CASE("riflex: the component is the period nearest to the first repetition", "[frequencies][riflex]") {
    const auto base = hunyuan();  // periods 6, 13, 25, 50, 101, 201, 402, 804
    CHECK(rw::frequencies::riflex_component(base, 48) == 4);
    CHECK(rw::frequencies::riflex_component(base, 7) == 1);
    CHECK(rw::frequencies::riflex_component(base, 5000) == 8);
}

TEST_CASE("riflex: refuses a component the axis does not have", "[frequencies][riflex][errors]") {
    CHECK_THROWS_WITH(rw::frequencies::riflex(hunyuan(), {.component = 9, .test_frames = 100}),
                      "riflex: component must be one of the axis's pairs, got 9");
    CHECK_THROWS_WITH(rw::frequencies::riflex(hunyuan(), {.component = 0, .test_frames = 100}),
                      "riflex: component must be >= 1, got 0");
    CHECK_THROWS_WITH(rw::frequencies::riflex(hunyuan(), {.component = 1, .test_frames = 0}),
                      "riflex: test_frames must be finite and > 0, got 0");
    CHECK_THROWS_WITH(rw::frequencies::riflex_component(hunyuan(), 0),
                      "riflex_component: repetition_frame must be finite and >= 1, got 0");
    CHECK_THROWS_WITH(rw::frequencies::riflex_component(hunyuan(), 10, 3),
                      "riflex_component: axis must be one that pairs read, got 3");
}
