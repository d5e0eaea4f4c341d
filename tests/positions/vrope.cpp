// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/vrope.hpp>

#include <limits>
#include <string>

#include <ropewalk/positions/mrope.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

std::vector<double> axis(const rw::position_ids& ids, rw::index a, rw::index first, rw::index count) {
    std::vector<double> v;
    for (rw::index n = first; n < first + count; ++n) v.push_back(ids.at(n, a));
    return v;
}

position_stream clip(rw::index frames, rw::index h, rw::index w) {
    return make_stream(
        vrope_rule{},
        {{.tokens = 2}, {.kind = media::video, .frames = frames, .height = h, .width = w}, {.tokens = 1}});
}

}  // namespace

TEST_CASE("vrope: the worked example", "[positions][vrope]") {
    const auto s = clip(2, 2, 3);
    const std::vector<std::vector<double>> frame{
        {2, 3, 4, 3, 4, 5}, {4, 3, 2, 5, 4, 3}, {3, 4, 5, 2, 3, 4}, {5, 4, 3, 4, 3, 2}};
    for (rw::index a = 0; a < 4; ++a) {
        CHECK(axis(s.positions, a, 2, 6) == frame[a]);
        for (rw::index p = 0; p < 6; ++p) CHECK(s.positions.at(8 + p, a) == frame[a][p] + 4);
        CHECK(s.positions.at(14, a) == 10);
    }
    CHECK(s.next_position == 11);
}

TEST_CASE("vrope: no corner is nearer to the text", "[positions][vrope]") {
    const rw::index h = GENERATE(1, 2, 5), w = GENERATE(1, 4, 7), frames = 3;
    const auto s = clip(frames, h, w);
    const double length = static_cast<double>(h + w - 1);
    for (rw::index f = 0; f < frames; ++f) {
        const double base = 2 + static_cast<double>(f) * length;
        double least = 1e9, most = -1e9;
        for (rw::index r = 0; r < h; ++r)
            for (rw::index c = 0; c < w; ++c) {
                const auto at = [&](rw::index row, rw::index column, rw::index a) {
                    return s.positions.at(2 + (f * h + row) * w + column, a);
                };
                CHECK(at(r, c, 0) + at(r, c, 3) == 2 * base + length - 1);
                CHECK(at(r, c, 1) + at(r, c, 2) == 2 * base + length - 1);
                for (rw::index a = 0; a < 4; ++a) {
                    least = std::min(least, at(r, c, a));
                    most = std::max(most, at(r, c, a));
                    CHECK(at(r, w - 1 - c, a) == at(r, c, a ^ 1));  // left-right swaps 0,1 and 2,3
                    CHECK(at(h - 1 - r, c, a) == at(r, c, a ^ 2));  // top-bottom swaps 0,2 and 1,3
                }
            }
        CHECK(least == base);
        CHECK(most == base + length - 1);
    }
    CHECK(s.positions.at(s.tokens - 1) == 2 + static_cast<double>(frames) * length);
}

TEST_CASE("vrope: one patch a frame is 1-D RoPE", "[positions][vrope][reduces]") {
    const auto s = clip(5, 1, 1);
    for (rw::index n = 0; n < 8; ++n)
        for (rw::index a = 0; a < 4; ++a) CHECK(s.positions.at(n, a) == static_cast<double>(n));
}

TEST_CASE("vrope: three dimensions have eight axes", "[positions][vrope]") {
    rw::position_ids ids(8);
    ids.append(vrope_block({.frames = 2, .extents = {2, 3, 4}, .start = 10}));
    CHECK(vrope_frame_length(std::vector<rw::index>{2, 3, 4}) == 7);
    // Token (1, 2, 3) of the second frame: forwards everywhere, backwards in the last, backwards in the
    // first.
    const rw::index last = 47;
    CHECK(ids.at(last, 0) == 10 + 7 + 1 + 2 + 3);
    CHECK(ids.at(last, 1) == 10 + 7 + 1 + 2 + 0);
    CHECK(ids.at(last, 4) == 10 + 7 + 0 + 2 + 3);
    CHECK(ids.at(last, 7) == 10 + 7);
}

TEST_CASE("vrope: the time axis is the middle of the frame", "[positions][vrope]") {
    const auto s = make_stream(vrope_rule{.time_axes = 1},
                               {{.tokens = 1}, {.kind = media::video, .frames = 2, .height = 3, .width = 4}});
    CHECK(s.positions.axes() == 5);
    CHECK(s.positions.at(0, 4) == 0);
    CHECK(s.positions.at(1, 4) == 1 + 3);
    CHECK(s.positions.at(24, 4) == 1 + 6 + 3);
    // Of an odd length of 5 it is the exact middle, 2 past the first.
    const auto odd =
        make_stream(vrope_rule{.time_axes = 1},
                    {{.tokens = 1}, {.kind = media::video, .frames = 2, .height = 3, .width = 3}});
    CHECK(odd.positions.at(1, 4) == 1 + 2);
    CHECK(odd.positions.at(18, 4) == 1 + 5 + 2);
}

TEST_CASE("vrope: what a frame of 24 x 24 takes of the positions", "[positions][vrope]") {
    // Video of 24 x 24 patches: VRoPE 47 positions a frame, M-RoPE one (past the first frame), vanilla 576.
    const auto a_frame = [](const auto& rule) {
        const auto next = [&](rw::index frames) {
            return make_stream(rule, {{.kind = media::video, .frames = frames, .height = 24, .width = 24}})
                .next_position;
        };
        return next(101) - next(100);
    };
    CHECK(a_frame(vrope_rule{}) == 47);
    CHECK(a_frame(mrope_rule{}) == 1);
    CHECK(a_frame(baseline_rule{}) == 576);
    CHECK(vrope_frame_length(std::vector<rw::index>{24, 24}) == 47);
}

TEST_CASE("vrope: grouped continuations restart after the prefix", "[positions][vrope]") {
    const std::vector<rw::index> groups{2, 3};
    CHECK(grouped_text(3, groups).values() == std::vector<double>{0, 1, 2, 3, 4, 3, 4, 5});
}

TEST_CASE("vrope: refuses blocks without size", "[positions][vrope][errors]") {
    CHECK_THROWS_WITH(vrope_block({.frames = 0, .extents = {2}}), "vrope_block: frames must be >= 1, got 0");
    CHECK_THROWS_WITH(vrope_block({.extents = {2, -1}}), "vrope_block: extents must be >= 1, got -1");
    CHECK_THROWS_WITH(vrope_block({.extents = {}}),
                      "vrope_block: extents must name 1 to 8 dimensions, got 0");
    CHECK_THROWS_WITH(vrope_block({.extents = {2}, .time_axes = 2}),
                      "vrope_block: time_axes must be 0 or 1, got 2");
    const rw::index most = std::numeric_limits<rw::index>::max();
    const std::string too_many = "vrope_frame_length: extents must multiply to at most " +
                                 support::limit(53) + " tokens, got " + std::to_string(most);
    CHECK_THROWS_WITH(vrope_frame_length(std::vector<rw::index>{most, 3}), too_many);
    CHECK_THROWS_WITH(vrope_block({.extents = {3, most}}), too_many);
    CHECK_THROWS_WITH(vrope_frame_length(std::vector<rw::index>{2, 0}),
                      "vrope_frame_length: extents must be >= 1, got 0");
    CHECK_THROWS_WITH(stream_builder(vrope_rule{.time_axes = 2}),
                      "vrope_rule: time_axes must be 0 or 1, got 2");
}
