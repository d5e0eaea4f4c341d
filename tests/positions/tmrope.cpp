// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/tmrope.hpp>

#include <limits>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

std::vector<double> axis(const rw::position_ids& ids, rw::index a) {
    std::vector<double> v;
    for (rw::index n = 0; n < ids.tokens(); ++n) v.push_back(ids.at(n, a));
    return v;
}

/// The rule token by token, as the reference walks: all t, then which token goes where.
struct token {
    double t, h, w;
};
std::vector<token> chunked(const media_segment& s, const tmrope_rule& rule, double start) {
    const double chunk = std::trunc(rule.clock.tokens_per_second * rule.seconds_per_chunk);
    std::vector<token> video, sound;
    for (rw::index f = 0; f < s.frames; ++f)
        for (rw::index r = 0; r < s.height; ++r)
            for (rw::index c = 0; c < s.width; ++c)
                video.push_back({start + rule.clock.at(f, s.seconds_per_frame), start + r, start + c});
    for (rw::index i = 0; i < s.tokens; ++i) sound.push_back({start + i, start + i, start + i});
    const auto split = [&](const std::vector<token>& all) {
        std::vector<std::vector<token>> chunks(1);
        for (const auto& one : all) {
            if (one.t - start >= chunk * chunks.size()) chunks.emplace_back();
            chunks.back().push_back(one);
        }
        return chunks;
    };
    const auto v = split(video), a = split(sound);
    std::vector<token> out;
    for (std::size_t i = 0; i < std::max(v.size(), a.size()); ++i) {
        if (i < v.size()) out.insert(out.end(), v[i].begin(), v[i].end());
        if (i < a.size()) out.insert(out.end(), a[i].begin(), a[i].end());
    }
    return out;
}

}  // namespace

TEST_CASE("tmrope: markers, audio, images and video", "[positions][tmrope]") {
    const auto s = make_stream(tmrope_rule{}, {{.tokens = 1},
                                               {.kind = media::audio, .tokens = 3},
                                               {.kind = media::image, .height = 1, .width = 2},
                                               {.kind = media::video, .frames = 2, .height = 1, .width = 1},
                                               {.tokens = 1}});
    CHECK(axis(s.positions, 0) == std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7, 7, 9, 10, 11, 36, 37, 38});
    CHECK(axis(s.positions, 2) == std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 37, 38});
    CHECK(s.tokens == 15);
    CHECK(s.next_position == 39);
}

TEST_CASE("tmrope: video and sound in chunks, as a walk over tokens has them", "[positions][tmrope]") {
    // Seconds that cut chunks at frames, inside frames (several chunks to one frame) and not at all.
    const double seconds = GENERATE(0.04, 0.5, 1.0, 2.0, 5.0, 9.0);
    const rw::index tokens = GENERATE(1, 50, 51, 263);
    const media_segment both{.kind = media::video_with_audio,
                             .tokens = tokens,
                             .frames = 6,
                             .height = 2,
                             .width = 3,
                             .seconds_per_frame = seconds};
    const auto s = make_stream(tmrope_rule{}, {{.tokens = 4}, both, {.tokens = 1}});
    const auto want = chunked(both, tmrope_rule{}, 5);
    REQUIRE(s.tokens == 4 + 2 + static_cast<rw::index>(want.size()) + 2 + 1);
    CHECK(s.positions.at(4) == 4);  // both start markers
    CHECK(s.positions.at(5) == 4);
    for (std::size_t i = 0; i < want.size(); ++i) {
        REQUIRE(s.positions.at(6 + i, 0) == want[i].t);
        REQUIRE(s.positions.at(6 + i, 1) == want[i].h);
        REQUIRE(s.positions.at(6 + i, 2) == want[i].w);
    }
    CHECK(s.positions.at(s.tokens - 3) == s.positions.at(s.tokens - 2));
    CHECK(s.positions.at(s.tokens - 1) == s.positions.at(s.tokens - 2) + 1);
}

TEST_CASE("tmrope: text goes on after the last chunk, not after the block", "[positions][tmrope]") {
    // Video to t = 100, then 10 sound tokens of the second chunk: the last piece is the frame at 100.
    const auto s = make_stream(tmrope_rule{}, {{.kind = media::video_with_audio,
                                                .tokens = 60,
                                                .frames = 2,
                                                .height = 1,
                                                .width = 1,
                                                .seconds_per_frame = 2}});
    // 0 0 | frame 0, sound 0-49, frame 1 at 50, sound 50-59 | 61 61
    CHECK(s.positions.at(s.tokens - 1) == 61);
    CHECK(s.next_position == 62);
}

TEST_CASE("tmrope: by time each frame follows the sound before it", "[positions][tmrope]") {
    const tmrope_rule rule{.clock = {.tokens_per_second = 2, .quantization = time_quantization::none},
                           .order = sound_order::by_time};
    const auto s = make_stream(rule, {{.kind = media::video_with_audio,
                                       .tokens = 4,
                                       .frames = 3,
                                       .height = 1,
                                       .width = 2,
                                       .seconds_per_frame = 0.75}});
    // Frames at 2, 3.5 and 5; sound at 2, 3, 4, 5: the frame goes first where both start.
    // The markers stand one behind the other.
    CHECK(axis(s.positions, 0) == std::vector<double>{0, 1, 2, 2, 2, 3, 3.5, 3.5, 4, 5, 5, 5, 6, 7});
}

TEST_CASE("tmrope: a chunk longer than the clip loses no sound", "[positions][tmrope]") {
    // 3e14 seconds of 25 positions are within 2^53, and no clip fills them.
    const auto s =
        make_stream(tmrope_rule{.seconds_per_chunk = 3e14},
                    {{.kind = media::video_with_audio, .tokens = 5, .frames = 3, .height = 1, .width = 1}});
    CHECK(axis(s.positions, 0) == std::vector<double>{0, 0, 1, 26, 51, 1, 2, 3, 4, 5, 6, 6});
}

TEST_CASE("tmrope: frames further off than any count come after all sound", "[positions][tmrope]") {
    const double seconds = GENERATE(1e17, 1e18, 1e300);
    // f32 has no times that far.
    const tmrope_rule rule{.clock = {.tokens_per_second = 25, .arithmetic = time_arithmetic::float64},
                           .order = sound_order::by_time};
    const auto s = make_stream(rule, {{.kind = media::video_with_audio,
                                       .tokens = 3,
                                       .frames = 2,
                                       .height = 1,
                                       .width = 1,
                                       .seconds_per_frame = seconds}});
    const auto t = axis(s.positions, 0);
    REQUIRE(t.size() == 2 + 5 + 2);
    CHECK(std::vector<double>(t.begin(), t.begin() + 6) == std::vector<double>{0, 1, 2, 2, 3, 4});
    CHECK(t[6] == Approx(25 * seconds));
}

TEST_CASE("tmrope: the clock is the reference's f32 by default, and the exact one rounds fractions",
          "[positions][tmrope]") {
    const auto frame = [](rw::index f, double seconds, time_arithmetic a) {
        return frame_clock{.tokens_per_second = 25, .arithmetic = a}.at(f, seconds);
    };
    using enum time_arithmetic;
    CHECK(tmrope_rule{}.clock.arithmetic == float32);
    CHECK(frame(29, 0.08, exact) == 58);  // 29 * 2 / 25 * 25
    CHECK(frame(29, 0.08, float32) == 58);
    CHECK(frame(29, 0.08, float64) == 57);
    CHECK(frame(69, 2.0 / 30, exact) == 115);
    CHECK(frame(69, 2.0 / 30, float32) == 115);
    CHECK(frame(69, 2.0 / 30, float64) == 114);
    CHECK(frame(14, 0.7, exact) == 245);
    // Frame rates as they are sampled, two frames a grid step, against whole-number division.
    for (const rw::index fps : {1, 2, 3, 7, 12, 15, 24, 25, 30, 50, 60})
        for (rw::index f = 0; f < 3000; ++f)
            REQUIRE(frame(f, 2.0 / static_cast<double>(fps), exact) == static_cast<double>(f * 50 / fps));
    // Whole frames a reference in f32 still has right at these rates.
    for (const rw::index fps : {15, 30})
        for (rw::index f = 0; f < 768; ++f)
            REQUIRE(frame(f, 2.0 / static_cast<double>(fps), float32) == static_cast<double>(f * 50 / fps));
    // The quotient is rounded once where nothing is truncated; a rate may be a fraction too.
    const frame_clock clock{
        .tokens_per_second = 12.5, .quantization = time_quantization::none, .arithmetic = exact};
    CHECK(clock.at(7, 0.08) == 7);
    CHECK(clock.at(1, 1.0 / 3) == 12.5 / 3);
    // No fraction of a small denominator: as float64. Nor is what would overflow.
    const double irrational = std::sqrt(2.0);
    CHECK(frame(5, irrational, exact) == std::trunc(5 * irrational * 25));
    CHECK(frame(support::huge(60), 3, exact) == static_cast<double>(support::huge(60)) * 75);
    CHECK(frame(3, 1e300, exact) == Approx(7.5e301));
    CHECK(frame(3, 0, exact) == 0);
    CHECK(frame(3, 1e-300, exact) == 0);
}

TEST_CASE("tmrope: Qwen3-Omni's rule merges by time, keeps fractions and counts both markers",
          "[positions][tmrope]") {
    const auto rule = tmrope_rule::qwen3_omni();
    CHECK(rule.clock.tokens_per_second == 13);
    const auto s = make_stream(rule, {{.tokens = 2},
                                      {.kind = media::video_with_audio,
                                       .tokens = 15,
                                       .frames = 3,
                                       .height = 1,
                                       .width = 2,
                                       .seconds_per_frame = 0.5},
                                      {.kind = media::audio, .tokens = 1},
                                      {.tokens = 1}});
    // text 0 1, markers 2 3; frames at 4, 10.5, 17, sound at 4 .. 18; markers 19 20; audio 21 .. 23
    CHECK(axis(s.positions, 0) == std::vector<double>{0,  1,  2,    3,    4,  4,  4,  5,  6,  7,  8,
                                                      9,  10, 10.5, 10.5, 11, 12, 13, 14, 15, 16, 17,
                                                      17, 17, 18,   19,   20, 21, 22, 23, 24});
    CHECK(s.positions.at(13, 2) == 4);
    CHECK(s.positions.at(14, 2) == 5);
    CHECK(s.next_position == 25);
}

TEST_CASE("tmrope: audio tokens of Qwen3-Omni come in windows of a hundred frames", "[positions][tmrope]") {
    const std::vector<std::pair<rw::index, rw::index>> known{
        {0, 0}, {1, 1}, {8, 1}, {9, 2}, {40, 5}, {99, 13}, {100, 13}, {101, 14}, {200, 26}, {640, 83}};
    for (const auto& [frames, tokens] : known)
        CHECK(audio_tokens(frames, audio_encoder::qwen3_omni) == tokens);
    CHECK(audio_tokens(std::numeric_limits<rw::index>::max(), audio_encoder::qwen3_omni) > 0);
    CHECK_THROWS_WITH(audio_tokens(-1, audio_encoder::qwen3_omni),
                      "audio_tokens: mel_frames must be >= 0, got -1");
}

TEST_CASE("tmrope: audio tokens of mel frames", "[positions][tmrope]") {
    // Halved twice: 1 to 2 frames are too short, then one token for every four.
    const std::vector<std::pair<rw::index, rw::index>> known{
        {0, 0}, {1, 0}, {2, 0}, {3, 1}, {6, 1}, {7, 2}, {10, 2}, {11, 3}, {100, 25}, {3000, 750}};
    for (const auto& [frames, tokens] : known) CHECK(audio_tokens(frames) == tokens);
    CHECK(audio_tokens(std::numeric_limits<rw::index>::max()) > 0);
}

TEST_CASE("tmrope: refuses what has no time", "[positions][tmrope][errors]") {
    CHECK_THROWS_WITH(stream_builder(tmrope_rule{.clock = {}}),
                      "tmrope_rule: tokens_per_second must be > 0, got 0");
    const std::string chunk = "tmrope_rule: seconds_per_chunk must cover 1 to 2^53 positions, got ";
    CHECK_THROWS_WITH(stream_builder(tmrope_rule{.seconds_per_chunk = 0.01}), chunk + "0.01");
    CHECK_THROWS_WITH(stream_builder(tmrope_rule{.seconds_per_chunk = 1e300}), chunk + "1e+300");
    CHECK_THROWS_WITH(
        stream_builder(tmrope_rule{.clock = {.tokens_per_second = 1e200}, .seconds_per_chunk = 1e200}),
        chunk + "1e+200");
    CHECK_THROWS_WITH(
        stream_builder(tmrope_rule{.seconds_per_chunk = std::numeric_limits<double>::quiet_NaN()}),
        chunk + "nan");
    CHECK_THROWS_WITH(audio_tokens(-1), "audio_tokens: mel_frames must be >= 0, got -1");
    CHECK_THROWS_WITH(
        make_stream(tmrope_rule{}, {{.kind = media::video_with_audio, .height = 1, .width = 1}}),
        "position_stream: segment 0 (video with audio 1 x 1 x 1): tokens must be >= 1, got 0");
}
