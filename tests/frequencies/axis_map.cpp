// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include <algorithm>
#include <limits>
#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

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
                        "assign_axes: axis_of_pair must have one entry per pair, 4, got 2");
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

TEST_CASE("video_rope: rows and columns alternate on the fast pairs, time has the slow ones",
          "[frequencies][axis_map][video_rope]") {
    const auto map = rw::axis_map::video_rope({16, 24, 24});
    REQUIRE(map.size() == 64);
    CHECK(map[0] == 1);
    CHECK(map[1] == 2);
    CHECK(map[47] == 2);
    CHECK(map[48] == 0);
    CHECK(map[63] == 0);
    // Only h + w matters; rows get the odd one.
    CHECK(rw::axis_map::video_rope({1, 5, 0}) == std::vector<int>{1, 2, 1, 2, 1, 0});
    CHECK(rw::axis_map::video_rope({1, 0, 5}) == rw::axis_map::video_rope({1, 5, 0}));
    CHECK_THROWS_WITH(rw::axis_map::video_rope({1, 2}),
                      "axis_map::video_rope: sections must be three numbers, got 2");
    CHECK_THROWS_WITH(rw::axis_map::video_rope({1, -2, 3}),
                      "axis_map::video_rope: sections must be >= 0, got -2");
}

TEST_CASE("vrope: corners cycle at the fast end", "[frequencies][axis_map][vrope]") {
    CHECK(rw::axis_map::vrope({.pairs = 10}) == std::vector<int>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1});
    CHECK(rw::axis_map::vrope({.pairs = 7, .time_pairs = 2}) == std::vector<int>{0, 1, 2, 3, 0, 4, 4});
    CHECK(rw::axis_map::vrope({.pairs = 3, .dimensions = 1}) == std::vector<int>{0, 1, 0});
    CHECK_THROWS_WITH(rw::axis_map::vrope({.pairs = 4, .time_pairs = 4}),
                      "axis_map::vrope: time_pairs must be >= 0 and < pairs, got 4");
    CHECK_THROWS_WITH(rw::axis_map::vrope({.pairs = 4, .dimensions = 0}),
                      "axis_map::vrope: dimensions must be in 1 .. 8, got 0");
}

TEST_CASE("axes_of_pairs: a pair at rest reads none", "[frequencies][axis_map]") {
    const std::vector<double> omega{1, 0, 0.5};
    const std::vector<int> map{2, 1, 0};
    CHECK(rw::frequencies::axes_of_pairs(rw::spectrum::selected(omega, map, 3)) ==
          std::vector<int>{2, -1, 0});
    CHECK_THROWS_WITH(rw::frequencies::axes_of_pairs(rw::spectrum::mixed(omega, 1, 3)),
                      "axes_of_pairs: spectrum must be of the selected form, got a mixed one");
    const auto two_heads =
        rw::spectrum::selected(std::vector<double>{1, 2, 3, 0}, std::vector<int>{0, 1, 1, 0}, 2, 2);
    CHECK(rw::frequencies::axes_of_pairs(two_heads, 1) == std::vector<int>{1, -1});
    for (const rw::index head : {-1, 2})
        CHECK_THROWS_WITH(rw::frequencies::axes_of_pairs(two_heads, head),
                          "axes_of_pairs: head must be one of the spectrum's, got " + std::to_string(head));
}

TEST_CASE("join_axes: text reads the one-axis spectrum", "[frequencies][axis_map][reduces]") {
    const auto text = rw::frequencies::geometric({.rotary_dim = 12}).with_magnitude(1.5);
    const auto joined =
        rw::frequencies::join_axes(rw::frequencies::assign_axes(text, rw::axis_map::sections({1, 2, 3})));
    CHECK(joined.axes() == 1);
    CHECK(joined.magnitude() == 1.5);
    for (rw::index i = 0; i < 6; ++i) CHECK(joined.omega(i) == Approx(text.omega(i)).epsilon(1e-15));
    // Mixed: the sum over the axes.
    const std::vector<double> omega{1, 2, 10, 20};
    CHECK(rw::frequencies::join_axes(rw::spectrum::mixed(omega, 1, 2)).omega(1) == Approx(22));
}

TEST_CASE("take_axis: only the pairs of one axis change", "[frequencies][axis_map]") {
    const auto map = rw::axis_map::video_rope({2, 2, 2});
    const auto base = rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 12}), map);
    const auto other =
        rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 12, .base = 500}), map);
    const auto taken = rw::frequencies::take_axis(base, other, 0);
    for (rw::index i = 0; i < 6; ++i) CHECK(taken.omega(i) == (i < 4 ? base : other).omega(i));
    CHECK(rw::frequencies::axes_of_pairs(taken) == map);
    CHECK_THROWS_WITH(rw::frequencies::take_axis(base, other, 3),
                      "take_axis: axis must be one of the spectrum's, got 3");
    CHECK_THROWS_WITH(rw::frequencies::take_axis(
                          base,
                          rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 12}),
                                                       rw::axis_map::sections({2, 2, 2})),
                          0),
                      "take_axis: spectra must have the same axis map, pair, got 0");
}

TEST_CASE("axis_map: sections that no head has are refused, not summed", "[frequencies][axis_map][errors]") {
    const rw::index huge = support::huge(62), most = std::numeric_limits<rw::index>::max();
    CHECK_THROWS_WITH(
        rw::axis_map::interleaved_sections({0, huge, 0}),
        "axis_map::interleaved_sections: sections must be <= 65536, got " + std::to_string(huge));
    CHECK_THROWS_WITH(rw::axis_map::sections({huge}),
                      "axis_map::sections: sections must be <= 65536, got " + std::to_string(huge));
    CHECK_THROWS_WITH(rw::axis_map::video_rope({1, huge, huge}),
                      "axis_map::video_rope: sections must be <= 65536, got " + std::to_string(huge));
    const std::vector<rw::index> wrapping{most, most, 18};  // 16 in two's complement
    CHECK_THROWS_WITH(rw::detail::require_sections("over", wrapping, 16),
                      "over: sections must be <= the 16 pairs, got " + support::largest_index());
}
