// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/axis_orders.hpp>

#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("axis_orders: cyclic, MM-RoPE and Ernie", "[frequencies][axis_orders]") {
    CHECK(axis_map::cyclic(7) == std::vector<int>{0, 1, 2, 0, 1, 2, 0});
    CHECK(axis_map::cyclic(3, 1) == std::vector<int>{0, 0, 0});
    CHECK(axis_map::mm_rope(11) == std::vector<int>{0, 0, 1, 2, 1, 2, 1, 2, 0, 0, 1});
    const std::vector<rw::index> h_w_t{22, 22, 20};
    const auto ernie = axis_map::ernie(h_w_t);
    for (int p = 0; p < 64; ++p) CHECK(ernie[p] == (p >= 44 ? 0 : p % 2 == 0 ? 1 : 2));
    CHECK_REFUSES("axis_map::cyclic: axes must be >= 1, got 0", axis_map::cyclic(3, 0));
    CHECK_REFUSES("axis_map::mm_rope: pairs must be >= 0, got -1", axis_map::mm_rope(-1));
    CHECK_REFUSES("axis_map::ernie: sections must be three numbers, got 2",
                  axis_map::ernie(std::vector<rw::index>{1, 2}));
}

TEST_CASE("axis_orders: a head an axis, each with the full ladder", "[frequencies][axis_orders]") {
    const std::vector<rw::index> sections{1, 2, 1};
    const auto axis_of = frequencies::axes_of_heads(sections, 5);
    CHECK(axis_of == std::vector<int>{0, 1, 1, 2, -1});
    const auto ladder = frequencies::geometric({.rotary_dim = 8});
    const auto keys = frequencies::assign_axes_to_heads(ladder, axis_of);
    const auto queries = frequencies::assign_axes_to_heads(ladder, axis_of, {.group = 3});
    CHECK(keys.heads() == 5);
    CHECK(queries.heads() == 15);
    for (rw::index h = 0; h < 15; ++h)
        for (rw::index i = 0; i < 4; ++i)
            for (rw::index a = 0; a < 3; ++a) {
                const double want = axis_of[h / 3] == a ? ladder.omega(i) : 0.0;
                CHECK(queries.omega(h, a, i) == want);
                CHECK(keys.omega(h / 3, a, i) == want);
            }
}

TEST_CASE("axis_orders: one axis for all heads is RoPE", "[frequencies][axis_orders][reduces]") {
    const auto ladder = frequencies::geometric({.rotary_dim = 8}).with_magnitude(2);
    const auto s = frequencies::assign_axes_to_heads(ladder, std::vector<int>{0, 0}, {.axes = 1});
    CHECK(s.magnitude() == 2);
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index i = 0; i < 4; ++i) CHECK(s.omega(h, 0, i) == ladder.omega(i));
}

TEST_CASE("axis_orders: refuses heads that do not fit", "[frequencies][axis_orders][errors]") {
    const auto ladder = frequencies::geometric({.rotary_dim = 8});
    CHECK_REFUSES("axes_of_heads: sections must sum to at most kv_heads, got 4",
                  frequencies::axes_of_heads(std::vector<rw::index>{2, 2}, 3));
    CHECK_REFUSES("assign_axes_to_heads: axis_of_head must be -1 or below axes, got 3",
                  frequencies::assign_axes_to_heads(ladder, std::vector<int>{3}));
    CHECK_REFUSES("assign_axes_to_heads: group must be >= 1, got 0",
                  frequencies::assign_axes_to_heads(ladder, std::vector<int>{0}, {.group = 0}));
    CHECK_REFUSES("assign_axes_to_heads: magnitude must be 1 where a head rests, got 2",
                  frequencies::assign_axes_to_heads(ladder.with_magnitude(2), std::vector<int>{-1}));
    CHECK_REFUSES("assign_axes_to_heads: axis_of_head must name a head, got none",
                  frequencies::assign_axes_to_heads(ladder, {}));
}
