// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/hope.hpp>

#include <limits>
#include <random>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;
using positions::media;

namespace {

rw::rotary_scheme text32() {
    rw::rotary_scheme text;
    text.head_dim = text.rotary_dim = 32;
    const auto s = rw::frequencies::geometric({.rotary_dim = 32});
    text.frequencies = [s](std::int64_t) { return s; };
    return text;
}

}  // namespace

TEST_CASE("hope: channels of the temporal pairs keep every number, text included", "[schemes][hope]") {
    const auto scheme = rw::hope_video::over(text32(), {.sections = {4, 6, 6}, .scale = 0.75});
    const auto stream = positions::make_stream(
        scheme.rule,
        {{.tokens = 40}, {.kind = media::video, .frames = 5, .height = 6, .width = 7}, {.tokens = 3}});
    std::vector<float> fresh(static_cast<std::size_t>(stream.tokens * 32));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& v : fresh) v = normal(random);
    // A zero stays one, of either sign; an infinity leaves its own pair alone.
    fresh[12] = -0.0f;
    fresh[32 + 13] = std::numeric_limits<float>::infinity();
    auto x = fresh;
    rw::rotate(scheme.rope, rw::heads_view(x.data(), stream.tokens, 1, 32),
               rw::make_factored_table(scheme.rope.spectrum_for(1), stream.positions));
    for (rw::index n = 0; n < stream.tokens; ++n)
        for (rw::index c = 0; c < 32; ++c)
            if (c % 16 >= 12 && !(n == 1 && c == 16 + 13)) REQUIRE(x[n * 32 + c] == fresh[n * 32 + c]);
    CHECK(x != fresh);
}

TEST_CASE("hope: frames stand one scale apart in rows and columns", "[schemes][hope]") {
    const double scale = GENERATE(0.5, 0.75, 1.0, 1.25, 1.5);
    const auto scheme = rw::hope_video::over(text32(), {.sections = {4, 6, 6}, .scale = scale});
    const auto s =
        positions::make_stream(scheme.rule, {{.kind = media::video, .frames = 3, .height = 2, .width = 2}});
    for (rw::index n = 0; n < 8; ++n)
        for (rw::index a = 1; a < 3; ++a) CHECK(s.positions.at(n + 4, a) - s.positions.at(n, a) == scale);
}

TEST_CASE("hope: the scale has no default", "[schemes][hope][errors]") {
    CHECK_THROWS_WITH(rw::hope_video::over(text32(), {.sections = {4, 6, 6}}),
                      "hope_video::over: scale must be finite and > 0, got 0");
    CHECK_THROWS_WITH(rw::hope_video::over(text32(), {.sections = {4, 6, 6},
                                                      .scale = std::numeric_limits<double>::infinity()}),
                      "hope_video::over: scale must be finite and > 0, got inf");
}
