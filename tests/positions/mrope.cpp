// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/mrope.hpp>

#include <limits>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

std::vector<double> axis(const rw::position_ids& ids, rw::index a) {
    std::vector<double> v;
    for (rw::index n = 0; n < ids.tokens(); ++n) v.push_back(ids.at(n, a));
    return v;
}

std::vector<double> frame_times(const mrope_rule& rule, rw::index frames, double seconds) {
    return axis(
        make_stream(
            rule,
            {{.kind = media::video, .frames = frames, .height = 1, .width = 1, .seconds_per_frame = seconds}})
            .positions,
        0);
}

}  // namespace

TEST_CASE("mrope: the worked example", "[positions][mrope]") {
    const auto s = make_stream(
        mrope_rule{},
        {{.tokens = 3}, {.kind = media::video, .frames = 2, .height = 2, .width = 3}, {.tokens = 3}});
    CHECK(axis(s.positions, 0) == std::vector<double>{0, 1, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 6, 7, 8});
    CHECK(axis(s.positions, 1) == std::vector<double>{0, 1, 2, 3, 3, 3, 4, 4, 4, 3, 3, 3, 4, 4, 4, 6, 7, 8});
    CHECK(axis(s.positions, 2) == std::vector<double>{0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8});
    CHECK(s.next_position == 9);
}

TEST_CASE("mrope: both transition rules", "[positions][mrope]") {
    // The video of huggingface/transformers issue 45381: 84 grids from 15, 16 columns, text at 31.
    const std::vector<media_segment> prompt{
        {.tokens = 15}, {.kind = media::video, .frames = 84, .height = 9, .width = 16}, {.tokens = 1}};
    const auto spatial = make_stream(mrope_rule{.transition = block_transition::spatial_max},
                                     std::span<const media_segment>(prompt));
    CHECK(spatial.positions.at(spatial.tokens - 1) == 31);
    CHECK(spatial.next_position == 15 + 84);  // generation goes on past the largest position
    const auto all = make_stream(mrope_rule{}, std::span<const media_segment>(prompt));
    CHECK(all.positions.at(all.tokens - 1) == 99);
    CHECK(all.next_position == 100);
    // On an image they agree.
    const auto image = [](block_transition t) {
        return make_stream(mrope_rule{.transition = t},
                           {{.kind = media::image, .height = 3, .width = 5}, {.tokens = 2}})
            .positions.values();
    };
    CHECK(image(block_transition::spatial_max) == image(block_transition::max_plus_one));
}

TEST_CASE("mrope: a block at the start, adjacent blocks, a one-token image", "[positions][mrope]") {
    const auto s = make_stream(mrope_rule{}, {{.kind = media::image, .height = 2, .width = 2},
                                              {.kind = media::video, .frames = 1, .height = 1, .width = 4},
                                              {.kind = media::image, .height = 1, .width = 1},
                                              {.tokens = 1}});
    CHECK(axis(s.positions, 0) == std::vector<double>{0, 0, 0, 0, 2, 2, 2, 2, 6, 7});
    CHECK(axis(s.positions, 2) == std::vector<double>{0, 1, 0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("mrope: time of Qwen2.5-VL under every quantisation", "[positions][mrope]") {
    const auto at = [](double tokens_per_second, time_quantization q, time_arithmetic a) {
        return mrope_rule{.clock = {tokens_per_second, q, a}};
    };
    using enum time_quantization;
    const auto f64 = time_arithmetic::float64, f32 = time_arithmetic::float32;
    CHECK(frame_times(at(2, trunc_after_product, f64), 4, 0.7) == std::vector<double>{0, 1, 2, 4});
    CHECK(frame_times(at(2, trunc_interval_first, f64), 3, 0.5) == std::vector<double>{0, 0, 0});
    CHECK(frame_times(at(2, trunc_interval_first, f64), 3, 1.5) == std::vector<double>{0, 2, 4});
    CHECK(frame_times(at(2, none, f64), 3, 0.75) == std::vector<double>{0, 1.5, 3});
    // The documentation's example: fps 1, temporal patch 2, 25 tokens a second.
    CHECK(frame_times(at(25, trunc_after_product, f64), 3, 2) == std::vector<double>{0, 50, 100});
    // Where f32 and f64 truncate differently.
    CHECK(frame_times(at(25, trunc_after_product, f32), 6, 0.08)[5] == 9);
    CHECK(frame_times(at(25, trunc_after_product, f64), 6, 0.08)[5] == 10);
    CHECK(frame_times(at(25, trunc_after_product, f32), 15, 0.7)[14] == 245);
    CHECK(frame_times(at(25, trunc_after_product, f64), 15, 0.7)[14] == 244);
    CHECK(frame_times(at(2, trunc_after_product, f32), 46, 0.7)[45] == 63);
    CHECK(frame_times(at(2, trunc_after_product, f64), 46, 0.7)[45] == 62);
    // An interval of one position is Qwen2-VL.
    CHECK(frame_times(at(2, trunc_after_product, f64), 9, 0.5) == frame_times(mrope_rule{}, 9, 1));
    // Text after a slow video starts past its last frame.
    CHECK(make_stream(at(25, trunc_after_product, f64),
                      {{.kind = media::video, .frames = 3, .height = 4, .width = 4, .seconds_per_frame = 2}})
              .next_position == 101);
}

TEST_CASE("mrope: images know no time", "[positions][mrope]") {
    const auto s = make_stream(mrope_rule{.clock = {.tokens_per_second = 25}},
                               {{.tokens = 5}, {.kind = media::image, .height = 2, .width = 2}});
    for (rw::index n = 5; n < 9; ++n) CHECK(s.positions.at(n, 0) == 5);
}

TEST_CASE("mrope: refuses a clock that is not a number", "[positions][mrope][errors]") {
    CHECK_THROWS_WITH(
        stream_builder(mrope_rule{.clock = {.tokens_per_second = std::numeric_limits<double>::quiet_NaN()}}),
        "mrope_rule: tokens_per_second must be finite and >= 0, got nan");
    CHECK_THROWS_WITH(stream_builder(mrope_rule{.clock = {.tokens_per_second = -2}}),
                      "mrope_rule: tokens_per_second must be finite and >= 0, got -2");
    // A time that overflows is that of a segment.
    const media_segment slow{
        .kind = media::video, .frames = 3, .height = 1, .width = 1, .seconds_per_frame = 1e300};
    CHECK_THROWS_WITH(make_stream(mrope_rule{.clock = {.tokens_per_second = 1e300}}, {{.tokens = 1}, slow}),
                      "position_stream: segment 1 (video 3 x 1 x 1): seconds_per_frame must give every frame "
                      "a finite position, got 1e+300");
    const mrope_rule in_f32{.clock = {.tokens_per_second = 2, .arithmetic = time_arithmetic::float32}};
    CHECK_THROWS_WITH(make_stream(in_f32, {slow}),
                      "position_stream: segment 0 (video 3 x 1 x 1): seconds_per_frame must give every frame "
                      "a finite position, got 1e+300");
}

TEST_CASE("baselines: vanilla, time and their sum", "[positions][mrope]") {
    const std::vector<media_segment> prompt{
        {.tokens = 2}, {.kind = media::video, .frames = 2, .height = 1, .width = 3}, {.tokens = 2}};
    const auto of = [&](baseline kind) {
        return make_stream(baseline_rule{.kind = kind}, std::span<const media_segment>(prompt));
    };
    const auto vanilla = of(baseline::vanilla), time = of(baseline::time), tad = of(baseline::tad);
    CHECK(vanilla.positions.values() == rw::position_ids::text(10).values());
    CHECK(vanilla.positions.segments().size() == 1);
    CHECK(time.positions.values() == std::vector<double>{0, 1, 2, 2, 2, 3, 3, 3, 4, 5});
    CHECK(time.next_position == 6);
    for (rw::index n = 0; n < 10; ++n)
        CHECK(tad.positions.at(n) == vanilla.positions.at(n) + time.positions.at(n));
    CHECK(tad.next_position == vanilla.next_position + time.next_position);
    CHECK(tad.position_step == 2);
    // Decode: 2 * cache position + the delta of time.
    CHECK(tad.decode_positions(1, 4).at(0) == 2 * 14 + time.delta(delta_length::padded));
    CHECK(tad.delta(delta_length::padded) == time.delta(delta_length::padded));
    CHECK_THROWS_WITH(stream_builder(baseline_rule{.axis_count = 0}),
                      "baseline_rule: axis_count must be >= 1, got 0");
}

TEST_CASE("mrope: seconds without a clock are refused, however they come", "[positions][mrope][errors]") {
    const media_segment slow{
        .kind = media::video, .frames = 4, .height = 1, .width = 1, .seconds_per_frame = 2};
    CHECK_THROWS_WITH(
        make_stream(mrope_rule{}, {slow}),
        "position_stream: segment 0 (video 4 x 1 x 1): seconds_per_frame must not be given to a "
        "rule that counts frames (clock.tokens_per_second 0), got 2");
    // 4 frames of 2 seconds at 2 positions a second: the last at 12, text behind it at 13.
    CHECK(make_stream(mrope_rule{.clock = {.tokens_per_second = 2}}, {slow}).next_position == 13);
    auto given = slow;
    given.seconds_per_frame = 1;
    CHECK(make_stream(mrope_rule{}, {given}).next_position == 4);
    given.timed = true;  // as find_media marks what seconds_per_grid says
    CHECK_THROWS_WITH(
        make_stream(mrope_rule{}, {given}),
        "position_stream: segment 0 (video 4 x 1 x 1): seconds_per_frame must not be given to a "
        "rule that counts frames (clock.tokens_per_second 0), got 1");
}
