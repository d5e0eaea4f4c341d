// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/xd_rope.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

TEST_CASE("xd_rope: the worked example, twice", "[positions][xd_rope]") {
    const media_segment image{.kind = media::image, .height = 2, .width = 3};
    const auto s = make_stream(xd_rope_rule{}, {{.tokens = 2}, image, {.tokens = 2}, image, {.tokens = 1}});
    const auto& at = s.positions;
    REQUIRE(at.tokens() == 2 + 10 + 2 + 10 + 1);
    CHECK(s.next_position == 25);
    for (rw::index n = 0; n < at.tokens(); ++n) {
        CHECK(at.at(n, 0) == n);
        const bool first = n >= 3 && n <= 10, second = n >= 15 && n <= 22;
        const rw::index k = n - (first ? 3 : 15);
        CHECK(at.at(n, 1) == (first || second ? k % 4 : n));  // w = 0 1 2 3 0 1 2 3
        CHECK(at.at(n, 2) == (first || second ? k / 4 : n));
        CHECK(at.at(n, 3) == (first ? 0 : second ? 1 : n));
    }
}

TEST_CASE("xd_rope: three axes are the last three of four", "[positions][xd_rope][reduces]") {
    const std::vector<media_segment> prompt{
        {.tokens = 1}, {.kind = media::image, .height = 1, .width = 2}, {.tokens = 2}};
    const auto four = make_stream(xd_rope_rule{}, prompt).positions;
    const auto three =
        make_stream(xd_rope_rule{.order = {xd_axis::column, xd_axis::row, xd_axis::image}}, prompt).positions;
    CHECK(three.axes() == 3);
    for (rw::index n = 0; n < four.tokens(); ++n)
        for (rw::index a = 0; a < 3; ++a) CHECK(three.at(n, a) == four.at(n, a + 1));
    // Text counts tokens on every axis.
    const auto text = make_stream(xd_rope_rule{}, {{.tokens = 5}}).positions;
    CHECK(text.values() == make_stream(baseline_rule{.axis_count = 4}, {{.tokens = 5}}).positions.values());
}

TEST_CASE("xd_rope: refuses video and no axes", "[positions][xd_rope][errors]") {
    CHECK_REFUSES(
        "position_stream: segment 0 (video 2 x 1 x 1): frames must be 1, got 2",
        make_stream(xd_rope_rule{}, {{.kind = media::video, .frames = 2, .height = 1, .width = 1}}));
    CHECK_REFUSES("xd_rope_rule: order must name an axis, got none",
                  make_stream(xd_rope_rule{.order = {}}, {{.tokens = 1}}));
}
