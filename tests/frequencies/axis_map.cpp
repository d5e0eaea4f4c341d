// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include <algorithm>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
using rw::frequencies::assign_axes;

TEST_CASE("axis_map: sections follow each other", "[frequencies][axis_map]") {
    CHECK(rw::axis_map::sections({2, 0, 3}) == std::vector<int>{0, 0, 2, 2, 2});
    CHECK(rw::axis_map::sections({}).empty());
    // Qwen2-VL: mrope_section [16, 24, 24] over 64 pairs.
    const auto qwen = rw::axis_map::sections({16, 24, 24});
    CHECK(qwen.size() == 64);
    CHECK(qwen[15] == 0);
    CHECK(qwen[16] == 1);
    CHECK(qwen[39] == 1);
    CHECK(qwen[40] == 2);
    REQUIRE_THROWS_WITH(rw::axis_map::sections({2, -1}), "axis_map::sections: sections must be >= 0, got -1");
}

TEST_CASE("axis_map: assign_axes keeps frequencies and magnitude of a scaled spectrum",
          "[frequencies][axis_map]") {
    const auto yarn =
        rw::frequencies::yarn({.rotary_dim = 16, .base = 1e4, .factor = 8, .original_context = 64});
    const std::vector<int> map = {0, 1, 2, 0, 1, 2, 0, 1};
    const auto s = assign_axes(yarn, map);
    CHECK(s.axes() == 3);
    CHECK(s.pairs() == 8);
    CHECK(s.magnitude() == yarn.magnitude());
    for (rw::index i = 0; i < 8; ++i) {
        const int axis = map[static_cast<std::size_t>(i)];
        CHECK(s.axis_of(0, i) == axis);
        CHECK(s.omega(0, axis, i) == Approx(yarn.omega(i)).epsilon(1e-15));
        CHECK(s.omega(0, (axis + 1) % 3, i) == 0);
    }
}

TEST_CASE("axis_map: all pairs on axis 0 is the one-axis spectrum", "[frequencies][axis_map][reduces]") {
    const auto plain = rw::frequencies::geometric({.rotary_dim = 8});
    const auto s = assign_axes(plain, std::vector<int>(4, 0));
    CHECK(s.axes() == 1);
    for (rw::index i = 0; i < 4; ++i) CHECK(s.omega(i) == Approx(plain.omega(i)).epsilon(1e-15));
}

TEST_CASE("axis_map: axes that no pair reads are kept when asked for", "[frequencies][axis_map]") {
    const auto plain = rw::frequencies::geometric({.rotary_dim = 4});
    const auto s = assign_axes(plain, std::vector<int>{1, 0}, 4);
    CHECK(s.axes() == 4);
    CHECK(s.omega(0, 3, 0) == 0);
    CHECK(assign_axes(rw::spectrum(), std::vector<int>{}).axes() == 1);
}

TEST_CASE("axis_map: every head keeps its own frequencies", "[frequencies][axis_map]") {
    const double omega[] = {1, 2, 3, 4};
    const auto s = assign_axes(rw::spectrum::selected(omega, {}, 1, 2), std::vector<int>{1, 0});
    CHECK(s.heads() == 2);
    CHECK(s.omega(1, 1, 0) == Approx(3).epsilon(1e-15));
    CHECK(s.omega(1, 0, 1) == Approx(4).epsilon(1e-15));
    CHECK(s.omega(1, 0, 0) == 0);
}

TEST_CASE("axis_map: bad maps are refused with the parameter and its value", "[frequencies][axis_map]") {
    const auto plain = rw::frequencies::geometric({.rotary_dim = 8});
    REQUIRE_THROWS_WITH(assign_axes(plain, std::vector<int>{0, 1}),
                        "assign_axes: axis_of_pair must have one entry a pair, got 2");
    REQUIRE_THROWS_AS(assign_axes(plain, std::vector<int>{0, 1, 2, -1}), rw::invalid_config);
    REQUIRE_THROWS_AS(assign_axes(plain, std::vector<int>{0, 1, 2, 3}, 3), rw::invalid_config);
    const double omega[] = {1, 2};
    REQUIRE_THROWS_WITH(assign_axes(rw::spectrum::mixed(omega, 1, 1), std::vector<int>{0, 0}),
                        "assign_axes: spectrum must be of the selected form, got a mixed one");
}

TEST_CASE("axis_map: interleaved sections spread the axes over the ladder", "[frequencies][axis_map]") {
    using rw::axis_map::interleaved_sections;
    CHECK(interleaved_sections({4, 2, 2}) == std::vector<int>{0, 1, 2, 0, 1, 2, 0, 0});
    const auto qwen3 = interleaved_sections({24, 20, 20});
    REQUIRE(qwen3.size() == 64);
    for (int p = 0; p < 60; ++p) CHECK(qwen3[p] == p % 3);
    for (int p = 60; p < 64; ++p) CHECK(qwen3[p] == 0);
    const auto newer = interleaved_sections({11, 11, 10});
    for (int p = 0; p < 30; ++p) CHECK(newer[p] == p % 3);
    CHECK(newer[30] == 0);
    CHECK(newer[31] == 1);
    for (const auto& sections : {std::vector<rw::index>{24, 20, 20}, std::vector<rw::index>{11, 11, 10}}) {
        const auto map = interleaved_sections(sections);
        for (int a = 0; a < 3; ++a) CHECK(std::count(map.begin(), map.end(), a) == sections[a]);
    }
    REQUIRE_THROWS_WITH(interleaved_sections({2, 3}),
                        "axis_map::interleaved_sections: sections must be three numbers, got 2");
    REQUIRE_THROWS_WITH(interleaved_sections({0, 4, 0}),
                        "axis_map::interleaved_sections: sections[1] must be <= (pairs + 1) / 3, got 4");
    REQUIRE_THROWS_WITH(interleaved_sections({0, 1, 3}),
                        "axis_map::interleaved_sections: sections[2] must be <= pairs / 3, got 3");
}
