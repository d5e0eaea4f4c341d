// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/video_rope.hpp>

#include <limits>

#include <ropewalk/positions/mrope.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

std::vector<double> axis(const rw::position_ids& ids, rw::index a, rw::index first, rw::index count) {
    std::vector<double> v;
    for (rw::index n = first; n < first + count; ++n) v.push_back(ids.at(n, a));
    return v;
}

}  // namespace

TEST_CASE("video_rope: the worked example", "[positions][video_rope]") {
    const auto s = make_stream(
        video_rope_rule{},
        {{.tokens = 3}, {.kind = media::video, .frames = 2, .height = 2, .width = 3}, {.tokens = 1}});
    CHECK(axis(s.positions, 0, 3, 12) == std::vector<double>{3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5});
    CHECK(axis(s.positions, 1, 3, 12) == std::vector<double>{3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6});
    CHECK(axis(s.positions, 2, 3, 12) == std::vector<double>{2, 3, 4, 2, 3, 4, 4, 5, 6, 4, 5, 6});
    CHECK(s.positions.at(15) == 6);
    CHECK(s.next_position == 7);
}

TEST_CASE("video_rope: the centre of a frame is a text token, the frame keeps its shape",
          "[positions][video_rope]") {
    const double spacing = GENERATE(0.5, 1.5, 2.0);
    const rw::index frames = 4, h = GENERATE(1, 4, 5), w = GENERATE(1, 6, 7);
    const auto s =
        make_stream(video_rope_rule{.spacing = spacing},
                    {{.tokens = 2}, {.kind = media::video, .frames = frames, .height = h, .width = w}});
    for (rw::index f = 0; f < frames; ++f) {
        const rw::index centre = 2 + (f * h + (h - 1) / 2) * w + (w - 1) / 2;
        const double t = 2 + spacing * f;
        for (rw::index a = 0; a < 3; ++a) CHECK(s.positions.at(centre, a) == t);
        for (rw::index p = 0; p < h * w; ++p) {
            const rw::index n = 2 + f * h * w + p;
            CHECK(s.positions.at(n, 1) - t == s.positions.at(2 + p, 1) - 2);
            CHECK(s.positions.at(n, 2) - t == s.positions.at(2 + p, 2) - 2);
        }
    }
    CHECK(s.next_position == 2 + spacing * (frames - 1) + 1);
}

TEST_CASE("video_rope: positions near the start are negative", "[positions][video_rope]") {
    const auto s = make_stream(video_rope_rule{}, {{.kind = media::image, .height = 5, .width = 9}});
    CHECK(s.positions.at(0, 0) == 0);
    CHECK(s.positions.at(0, 1) == -2);
    CHECK(s.positions.at(0, 2) == -4);
    CHECK(s.next_position == 1);
}

TEST_CASE("video_rope: spacing 1 and one patch is time RoPE", "[positions][video_rope][reduces]") {
    const std::vector<media_segment> prompt{
        {.tokens = 3}, {.kind = media::video, .frames = 6, .height = 1, .width = 1}, {.tokens = 2}};
    CHECK(make_stream(video_rope_rule{.spacing = 1}, std::span<const media_segment>(prompt))
              .positions.values() == make_stream(baseline_rule{.kind = baseline::time, .axis_count = 3},
                                                 std::span<const media_segment>(prompt))
                                         .positions.values());
}

TEST_CASE("video_rope: the printed formula", "[positions][video_rope]") {
    const auto s = make_stream(video_rope_rule::as_printed(2),
                               {{.tokens = 1}, {.kind = media::video, .frames = 2, .height = 1, .width = 4}});
    CHECK(axis(s.positions, 2, 1, 4) == std::vector<double>{-1, 0, 1, 2});  // -2 .. 1 around 1
    CHECK(s.positions.at(1, 1) == 0.5);
    CHECK(s.next_position == 5);
    const auto code = make_stream(video_rope_rule{}, {{.kind = media::image, .height = 1, .width = 4}});
    CHECK(axis(code.positions, 2, 0, 4) == std::vector<double>{-1, 0, 1, 2});  // -1 .. 2 around 0
}

TEST_CASE("video_rope: a block brings its own scale", "[positions][video_rope][hope]") {
    const auto s =
        make_stream(hope_video_rule(0.75),
                    {{.kind = media::video, .frames = 3, .height = 1, .width = 1},
                     {.kind = media::video, .frames = 3, .height = 1, .width = 1, .temporal_scale = 1.25},
                     {.tokens = 1}});
    for (rw::index a = 0; a < 3; ++a)
        CHECK(axis(s.positions, a, 0, 7) == std::vector<double>{0, 0.75, 1.5, 2.5, 3.75, 5, 6});
}

TEST_CASE("video_rope: refuses a spacing that is not a number > 0", "[positions][video_rope][errors]") {
    CHECK_THROWS_WITH(stream_builder(video_rope_rule{.spacing = 0}),
                      "video_rope_rule: spacing must be finite and > 0, got 0");
    CHECK_THROWS_WITH(stream_builder(video_rope_rule{.spacing = std::numeric_limits<double>::infinity()}),
                      "video_rope_rule: spacing must be finite and > 0, got inf");
    CHECK_THROWS_WITH(make_stream(video_rope_rule{}, {{.kind = media::audio, .tokens = 1}}),
                      "position_stream: segment 0 (audio): kind must be text, image or video "
                      "(tmrope_rule places audio), got audio");
}

TEST_CASE("video_rope: a step that overflows is that of a segment", "[positions][video_rope][errors]") {
    CHECK_THROWS_WITH(
        make_stream(video_rope_rule{},
                    {{.kind = media::video, .frames = 9, .height = 1, .width = 1, .temporal_scale = 1e308}}),
        "position_stream: segment 0 (video 9 x 1 x 1): the step of a frame must give every frame a finite "
        "position, got 1e+308");
}
