// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/multimodal.hpp>

#include <algorithm>
#include <limits>
#include <string>

#include <ropewalk/positions/mrope.hpp>
#include <ropewalk/positions/tmrope.hpp>
#include <ropewalk/positions/video_rope.hpp>
#include <ropewalk/positions/vrope.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

const std::vector<media_segment> conversation{
    {.tokens = 3},
    {.kind = media::video, .frames = 3, .height = 4, .width = 5},
    {.tokens = 2},
    {.kind = media::image, .height = 2, .width = 3},
    {.kind = media::video, .frames = 2, .height = 1, .width = 1, .temporal_scale = 0.7},
    {.tokens = 6},
};

/// Text in pieces, everything else whole.
std::vector<media_segment> in_pieces(const std::vector<media_segment>& segments) {
    std::vector<media_segment> pieces;
    for (const auto& s : segments) {
        if (s.kind != media::text) {
            pieces.push_back(s);
            continue;
        }
        for (rw::index n = 0; n < s.tokens; ++n) pieces.push_back({.tokens = 1});
    }
    return pieces;
}

/// `seconds` a frame of the videos.
template <class Rule>
void chunks_equal_the_whole(const Rule& rule, double seconds = 1) {
    auto spoken = conversation;
    for (auto& s : spoken)
        if (s.kind == media::video) s.seconds_per_frame = seconds;
    const auto whole = make_stream(rule, std::span<const media_segment>(spoken));
    stream_builder<Rule> builder(rule);
    rw::index before = 0;
    for (const auto& piece : in_pieces(spoken)) {
        builder.append(piece);
        const auto now = builder.stream();
        REQUIRE(now.tokens == builder.tokens());
        // What is there never changes, so each chunk is the slice of the whole.
        const auto chunk = slice_tokens(now.positions, before, now.tokens - before);
        REQUIRE(chunk.values() == slice_tokens(whole.positions, before, now.tokens - before).values());
        before = now.tokens;
    }
    const auto end = builder.stream();
    CHECK(end.positions.values() == whole.positions.values());
    CHECK(end.next_position == whole.next_position);
    CHECK(end.positions.segments().size() == whole.positions.segments().size());
    CHECK(whole.tokens == 3 + 60 + 2 + 6 + 2 + 6);
}

template <class Rule>
void text_is_plain(const Rule& rule, double step) {
    const auto s = make_stream(rule, {{.tokens = 5}, {.tokens = 0}, {.tokens = 4}});
    for (rw::index n = 0; n < 9; ++n)
        for (rw::index a = 0; a < s.positions.axes(); ++a)
            CHECK(s.positions.at(n, a) == step * static_cast<double>(n));
    CHECK(s.next_position == 9 * step);
    CHECK(s.position_step == step);
    CHECK(s.delta(delta_length::padded) == 0);
    const auto decoded = s.decode_positions(2, 3);
    for (rw::index a = 0; a < s.positions.axes(); ++a) {
        CHECK(decoded.at(0, a) == 12 * step);
        CHECK(decoded.at(1, a) == 13 * step);
    }
}

}  // namespace

TEST_CASE("stream_builder: chunks equal the whole under every rule", "[positions][multimodal]") {
    chunks_equal_the_whole(mrope_rule{});
    chunks_equal_the_whole(mrope_rule{.transition = block_transition::spatial_max});
    chunks_equal_the_whole(
        mrope_rule{.clock = {.tokens_per_second = 2, .quantization = time_quantization::none}}, 0.7);
    chunks_equal_the_whole(baseline_rule{.kind = baseline::vanilla});
    chunks_equal_the_whole(baseline_rule{.kind = baseline::time});
    chunks_equal_the_whole(baseline_rule{.kind = baseline::tad});
    chunks_equal_the_whole(vrope_rule{});
    chunks_equal_the_whole(vrope_rule{.time_axes = 1});
    chunks_equal_the_whole(video_rope_rule{.spacing = 0.7});
    chunks_equal_the_whole(video_rope_rule::as_printed(1.1));
}

TEST_CASE("stream_builder: text alone is plain RoPE under every rule", "[positions][multimodal][reduces]") {
    text_is_plain(mrope_rule{}, 1);
    text_is_plain(tmrope_rule{}, 1);
    text_is_plain(baseline_rule{.kind = baseline::vanilla}, 1);
    text_is_plain(baseline_rule{.kind = baseline::time, .axis_count = 3}, 1);
    text_is_plain(baseline_rule{.kind = baseline::tad}, 2);
    text_is_plain(vrope_rule{}, 1);
    text_is_plain(video_rope_rule{}, 1);
    text_is_plain(hope_video_rule(0.75), 1);
}

TEST_CASE("stream_builder: shared text does not move what follows", "[positions][multimodal]") {
    const auto s = make_stream(vrope_rule{}, {{.tokens = 4},
                                              {.kind = media::shared_text, .tokens = 3},
                                              {.kind = media::shared_text, .tokens = 2},
                                              {.tokens = 1}});
    std::vector<double> first_axis;
    for (rw::index n = 0; n < s.tokens; ++n) first_axis.push_back(s.positions.at(n));
    CHECK(first_axis == std::vector<double>{0, 1, 2, 3, 4, 5, 6, 4, 5, 4});
    CHECK(s.next_position == 5);
    CHECK(
        make_stream(mrope_rule{}, {{.tokens = 4}, {.kind = media::shared_text, .tokens = 3}}).next_position ==
        4);
}

TEST_CASE("stream_builder: decoding token by token adds no segments", "[positions][multimodal]") {
    stream_builder builder(mrope_rule{});
    builder.append({.tokens = 2}).append({.kind = media::image, .height = 3, .width = 3});
    for (int i = 0; i < 1000; ++i) builder.append({.tokens = 1});
    CHECK(builder.stream().positions.segments().size() == 3);
    CHECK(builder.stream().next_position == 1005);
}

TEST_CASE("stream_builder: past 2^31 tokens every number is exact", "[positions][multimodal]") {
    // Where an index has 32 bits, as many as it lets pass.
    const auto many = static_cast<rw::index>(
        std::min<std::int64_t>(std::int64_t{3} << 30, rw::detail::limit_of_bits(53) / 4));
    const auto first = static_cast<double>(many);
    const auto s = make_stream(
        mrope_rule{},
        {{.tokens = many}, {.kind = media::video, .frames = 5, .height = 7, .width = 3}, {.tokens = many}});
    CHECK(s.tokens == 2 * many + 105);
    CHECK(s.positions.at(many - 1) == first - 1);
    CHECK(s.positions.at(many + 104, 1) == first + 6);
    CHECK(s.next_position == 2 * first + 7);
    CHECK(s.positions.at(s.tokens - 1, 2) == 2 * first + 6);
    CHECK(s.delta(delta_length::unpadded) == -98);
}

TEST_CASE("pad_streams: left and right, deltas of both conventions", "[positions][multimodal]") {
    const std::vector<position_stream> raw{
        make_stream(mrope_rule{}, {{.tokens = 2}, {.kind = media::image, .height = 2, .width = 2}}),
        make_stream(mrope_rule{}, {{.tokens = 3}})};
    const auto left = pad_streams(raw, {.side = padding_side::left, .position = 1});
    CHECK(join_batch(left).tokens() == 12);
    CHECK(left[0].positions.values() == raw[0].positions.values());
    CHECK(left[1].positions.values() ==
          std::vector<double>{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2});
    CHECK(left[1].delta(delta_length::padded) == 3 - 6);
    CHECK(left[1].delta(delta_length::unpadded) == 0);
    CHECK(left[0].delta(delta_length::padded) == 4 - 6);
    CHECK(left[1].next_position == 3);
    const auto right = pad_streams(raw, {.side = padding_side::right, .tokens = 8});
    CHECK(right[0].positions.tokens() == 8);
    CHECK(right[0].positions.touched(5));
    CHECK_FALSE(right[0].positions.touched(6));
    CHECK_THROWS_WITH(pad_streams(raw, {.tokens = 5}),
                      "pad_streams: tokens must be >= the longest sequence's, got 5");
    CHECK_THROWS_WITH(join_batch(raw),
                      "join_batch: sequences must have one length: pad them first: wanted 6, got 3");
}

TEST_CASE("pad_streams: the published delta of TAD is that of time", "[positions][multimodal]") {
    // What the code adds to 2 * (tokens before it, pads counted); next_position is right behind the prompt.
    const std::vector<media_segment> prompt{
        {.tokens = 2}, {.kind = media::video, .frames = 2, .height = 1, .width = 3}, {.tokens = 1}};
    const auto padded = [&](baseline kind, padding_side side) {
        return pad_streams({make_stream(baseline_rule{.kind = kind}, std::span<const media_segment>(prompt))},
                           {.side = side, .tokens = 13})[0];
    };
    for (const auto side : {padding_side::left, padding_side::right}) {
        const auto tad = padded(baseline::tad, side), time = padded(baseline::time, side);
        CHECK(time.next_position == 5);
        CHECK(time.delta(delta_length::padded) == 5 - 13);
        CHECK(tad.next_position == 9 + 5);
        const double published = 2 * 13 + time.delta(delta_length::padded);
        CHECK(published == tad.next_position + (13 - 9));  // one too far for every pad
        CHECK(2 * 13 + tad.delta(delta_length::padded) == tad.next_position);
        CHECK(2 * 9 + tad.delta(delta_length::unpadded) == tad.next_position);
        CHECK(tad.delta(delta_length::unpadded) == time.delta(delta_length::unpadded));
    }
}

TEST_CASE("pad_streams: a left-padded row without images goes on at its own length",
          "[positions][multimodal]") {
    // transformers 4.x takes the maximum over the pads at 1 too: 2 - length for a row of one token.
    const auto row =
        pad_streams({make_stream(mrope_rule{}, {{.tokens = 1}})}, {.tokens = 4, .position = 1})[0];
    CHECK(row.positions.values() == std::vector<double>{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0});
    CHECK(row.next_position == 1);
    CHECK(row.delta(delta_length::padded) == 1 - 4);
}

TEST_CASE("stream_builder: bad segments are refused by number and kind", "[positions][multimodal][errors]") {
    const auto message = [](const media_segment& bad) {
        return [bad] { make_stream(mrope_rule{}, {{.tokens = 1}, bad}); };
    };
    constexpr double inf = std::numeric_limits<double>::infinity();
    CHECK_THROWS_WITH(message({.tokens = -4})(),
                      "position_stream: segment 1 (text): tokens must be >= 0, got -4");
    CHECK_THROWS_WITH(message({.kind = media::video, .frames = 0, .height = 2, .width = 2})(),
                      "position_stream: segment 1 (video 0 x 2 x 2): frames must be >= 1, got 0");
    CHECK_THROWS_WITH(message({.kind = media::image, .height = -2, .width = 2})(),
                      "position_stream: segment 1 (image 1 x -2 x 2): height must be >= 1, got -2");
    CHECK_THROWS_WITH(message({.kind = media::image, .height = 2})(),
                      "position_stream: segment 1 (image 1 x 2 x 0): width must be >= 1, got 0");
    CHECK_THROWS_WITH(message({.kind = media::image, .frames = 2, .height = 2, .width = 2})(),
                      "position_stream: segment 1 (image 2 x 2 x 2): frames of an image must be 1, got 2");
    CHECK_THROWS_WITH(
        message({.kind = media::video, .height = 1, .width = 1, .seconds_per_frame = inf})(),
        "position_stream: segment 1 (video 1 x 1 x 1): seconds_per_frame must be finite and >= 0, got inf");
    CHECK_THROWS_WITH(
        message({.kind = media::video, .height = 1, .width = 1, .temporal_scale = -1})(),
        "position_stream: segment 1 (video 1 x 1 x 1): temporal_scale must be finite and >= 0, got -1");
    CHECK_THROWS_WITH(message({.kind = media::audio, .tokens = 2})(),
                      "position_stream: segment 1 (audio): kind must be text, image or video "
                      "(tmrope_rule places audio), got audio");
    const rw::index huge = rw::index{1} << 29, most = rw::detail::limit_of_bits(53);
    const rw::index largest = std::numeric_limits<rw::index>::max();
    const std::string within = " must keep the sequence within " + support::limit(53) + " tokens, got ";
    const std::string text = "position_stream: segment 1 (text): tokens" + within;
    CHECK_THROWS_WITH(
        message({.kind = media::video, .frames = huge, .height = huge, .width = huge})(),
        "position_stream: segment 1 (video 536870912 x 536870912 x 536870912): frames x height x "
        "width" +
            within + "536870912 x 536870912 x 536870912");
    CHECK_THROWS_WITH(message({.tokens = largest})(), text + std::to_string(largest));
    CHECK_THROWS_WITH(message({.tokens = most})(), text + std::to_string(most));
    CHECK(make_stream(mrope_rule{}, {{.tokens = most}}).tokens == most);
    CHECK_THROWS_WITH(
        make_stream(mrope_rule{}, {{.tokens = most}, {.kind = media::image, .height = 1, .width = 1}}),
        "position_stream: segment 1 (image 1 x 1 x 1): frames x height x width" + within + "1");
    CHECK_THROWS_WITH(make_stream(tmrope_rule{}, {{.kind = media::audio, .tokens = largest}}),
                      "position_stream: segment 0 (audio): tokens" + within + std::to_string(largest));
}
