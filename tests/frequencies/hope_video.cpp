// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/hope_video.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("hope_video: VideoRoPE's spectrum with the temporal pairs at rest", "[frequencies][hope]") {
    const auto text = rw::frequencies::geometric({.rotary_dim = 128, .base = 1e6});
    const auto hope = rw::frequencies::hope_video(text, {16, 24, 24});
    const auto video = rw::frequencies::assign_axes(text, rw::axis_map::video_rope({16, 24, 24}));
    REQUIRE(hope.axes() == 3);
    const auto axes = rw::frequencies::axes_of_pairs(hope);
    for (rw::index i = 0; i < 64; ++i) {
        CHECK(hope.omega(i) == (i < 48 ? video.omega(i) : 0.0));
        CHECK(axes[i] == (i >= 48 ? -1 : i % 2 == 0 ? 1 : 2));
    }
}

TEST_CASE("hope_video: refuses other sections and a magnitude", "[frequencies][hope][errors]") {
    const auto text = rw::frequencies::geometric({.rotary_dim = 16});
    CHECK_THROWS_WITH(rw::frequencies::hope_video(text, {2, 3, 4}),
                      "hope_video: sections must sum to the 8 pairs, got 9");
    CHECK_THROWS_WITH(rw::frequencies::hope_video(text.with_magnitude(1.25), {2, 3, 3}),
                      "hope_video: magnitude must be 1, got 1.25");
}
