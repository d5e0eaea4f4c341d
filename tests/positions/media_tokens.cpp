// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/positions/media_tokens.hpp>

#include <ropewalk/positions/mrope.hpp>
#include <ropewalk/positions/tmrope.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

namespace {

constexpr std::int64_t I = 151655, V = 151656, S = 151652, E = 151653;
using ids_type = std::vector<std::int64_t>;
using grids_type = std::vector<rw::index>;

}  // namespace

TEST_CASE("find_media: text, images and videos in order", "[positions][media_tokens]") {
    const ids_type ids{7, S, I, I, E, S, V, V, V, V, E, 8, 9};
    const grids_type images{1, 2, 4}, videos{2, 2, 4};
    const auto found = find_media({.input_ids = ids, .image_grids = images, .video_grids = videos});
    REQUIRE(found.size() == 1);
    const auto& s = found[0].segments;
    REQUIRE(s.size() == 5);
    CHECK(s[0].tokens == 2);
    CHECK(s[1].kind == media::image);
    CHECK(s[1].width == 2);
    CHECK(s[2].tokens == 2);
    CHECK(s[3].kind == media::video);
    CHECK(s[3].frames == 2);
    CHECK(s[4].tokens == 3);
}

TEST_CASE("find_media: grids run on over the batch, masked tokens are padding", "[positions][media_tokens]") {
    const ids_type ids{0, 0, S, I, E, S, I, I, I, 0};  // 0 = pad
    const ids_type mask{0, 0, 1, 1, 1, 1, 1, 1, 1, 0};
    const grids_type images{1, 2, 2, 1, 2, 6};
    const auto found =
        find_media({.batches = 2, .input_ids = ids, .attention_mask = mask, .image_grids = images});
    const auto streams = make_streams(mrope_rule{}, found, 1.0);
    REQUIRE(streams.size() == 2);
    CHECK(streams[0].positions.values() == std::vector<double>{1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 2, 2, 2});
    CHECK(streams[1].positions.values() == std::vector<double>{0, 0, 0, 1, 1, 1, 1, 1, 2, 1, 1, 3, 1, 1, 1});
    CHECK(streams[0].tokens == 3);
    CHECK(streams[0].delta(delta_length::padded) == 3 - 5);
    CHECK(streams[0].delta(delta_length::unpadded) == 0);
}

TEST_CASE("find_media: adjacent blocks of one kind", "[positions][media_tokens]") {
    const ids_type ids{I, I, I, V, I};
    const grids_type images{1, 2, 2, 1, 2, 4, 1, 2, 2}, videos{1, 2, 2};
    const auto found = find_media({.input_ids = ids, .image_grids = images, .video_grids = videos});
    REQUIRE(found[0].segments.size() == 4);
    CHECK(found[0].segments[1].width == 2);
    CHECK(found[0].segments[2].kind == media::video);
    CHECK(found[0].segments[3].kind == media::image);
}

TEST_CASE("find_media: Qwen3-VL's frames are blocks of their own", "[positions][media_tokens]") {
    const ids_type ids{5, 6, S, V, V, E, 5, 6, S, V, V, E, 1};
    const grids_type videos{2, 2, 4};
    const auto whole =
        find_media({.input_ids = ids, .video_grids = videos}, {.blocks = video_blocks::frame_by_frame});
    REQUIRE(whole[0].segments.size() == 5);
    CHECK(whole[0].segments[3].frames == 1);
    const auto s = make_streams(mrope_rule{}, whole);
    CHECK(s[0].positions.at(9, 0) == s[0].positions.at(10, 0));  // time is carried by the text between
    CHECK_THROWS_WITH(
        find_media({.input_ids = ids, .video_grids = videos}),
        "find_media: video 0 (2 x 1 x 2 after merging) must have 4 tokens in sequence 0, got 2");
}

TEST_CASE("find_media: seconds, scales and messages count videos, whatever the blocks",
          "[positions][media_tokens]") {
    const media_tokens frames{.blocks = video_blocks::frame_by_frame};
    // Video 0 of two frames with an image between them, video 1 of one.
    const ids_type ids{V, 5, I, 5, V, 5, V, V};
    const grids_type images{1, 2, 2}, videos{2, 2, 2, 1, 2, 4};
    const std::vector<double> seconds{0.5, 2}, scales{0.75, 1, 1.5};
    const auto s = find_media({.input_ids = ids,
                               .image_grids = images,
                               .video_grids = videos,
                               .seconds_per_grid = seconds,
                               .temporal_scales = scales},
                              frames)[0]
                       .segments;
    REQUIRE(s.size() == 7);
    for (const auto& segment : s) CHECK(segment.frames == 1);
    CHECK(s[0].temporal_scale == 0.75);
    CHECK(s[2].temporal_scale == 1);
    CHECK(s[4].temporal_scale == 0.75);
    CHECK(s[6].temporal_scale == 1.5);
    CHECK(s[0].seconds_per_frame == 0.5);
    CHECK(s[4].seconds_per_frame == 0.5);
    CHECK(s[6].seconds_per_frame == 2);
    const ids_type one{V, 5}, short_frame{V, V, 5, V, 5}, none{5};
    const grids_type wide{3, 2, 4}, two{1, 2, 2, 3, 2, 4}, endless{support::huge(40), 2, 2};
    const auto refuse = [&](const ids_type& in, const grids_type& grids) {
        find_media({.input_ids = in, .video_grids = grids}, frames);
    };
    CHECK_THROWS_WITH(
        refuse(short_frame, wide),
        "find_media: video 0, frame 1 (1 x 1 x 2 after merging) must have 2 tokens in sequence 0, got 1");
    CHECK_THROWS_WITH(refuse(one, two),
                      "find_media: video_grids must belong to video tokens of input_ids, got 2 for 1 videos");
    CHECK_THROWS_WITH(refuse(one, {2, 2, 2}), "find_media: video 0 must have tokens for 2 frames, got 1");
    CHECK_THROWS_WITH(refuse(one, endless), "find_media: video 0 must have tokens for " +
                                                std::to_string(support::huge(40)) + " frames, got 1");
    CHECK_THROWS_WITH(refuse(none, wide),
                      "find_media: video_grids must belong to video tokens of input_ids, got 1 for 0 videos");
}

TEST_CASE("find_media: seconds and scales go to their blocks", "[positions][media_tokens]") {
    const ids_type ids{V, I, V};
    const grids_type images{1, 2, 2}, videos{1, 2, 2, 1, 2, 2};
    const std::vector<double> seconds{0.5, 2}, scales{0.75, 1, 1.5};
    const auto found = find_media({.input_ids = ids,
                                   .image_grids = images,
                                   .video_grids = videos,
                                   .seconds_per_grid = seconds,
                                   .temporal_scales = scales});
    const auto& s = found[0].segments;
    CHECK(s[0].seconds_per_frame == 0.5);
    CHECK(s[2].seconds_per_frame == 2);
    CHECK(s[0].timed);
    CHECK_FALSE(s[1].timed);
    CHECK_FALSE(
        find_media({.input_ids = ids, .image_grids = images, .video_grids = videos})[0].segments[0].timed);
    CHECK(s[0].temporal_scale == 0.75);
    CHECK(s[1].temporal_scale == 1);
    CHECK(s[2].temporal_scale == 1.5);
}

TEST_CASE("find_media: audio in video inside a batch, for Qwen2.5-Omni and Qwen3-Omni",
          "[positions][media_tokens][tmrope]") {
    for (const auto& tokens : {qwen25_omni_tokens, qwen3_omni_tokens}) {
        const std::int64_t A = tokens.audio, a = tokens.audio_start, z = tokens.audio_end;
        // One sequence with a video that sounds and an image, left-padded; one with sound and a silent video.
        const ids_type ids{0, 0, 0, 5, S, a, V, V, A, A, A, V, V, A, z, E, S, I, E, 6,  //
                           5, a, A, A, z, 6, S, V, V, E, 6, 6, a, z, 6, 6, 0, 0, 0, 0};
        ids_type mask(40, 1);
        for (const std::size_t n : {0, 1, 2, 36, 37, 38, 39}) mask[n] = 0;
        const grids_type images{1, 2, 2}, videos{2, 2, 4, 1, 2, 4}, lengths{4, 2};
        const std::vector<double> seconds{2, 1};
        const token_batch batch{.batches = 2,
                                .input_ids = ids,
                                .attention_mask = mask,
                                .image_grids = images,
                                .video_grids = videos,
                                .seconds_per_grid = seconds,
                                .audio_lengths = lengths};
        const auto found = find_media(batch, tokens);
        const auto& first = found[0].segments;
        REQUIRE(first.size() == 4);
        CHECK(first[1].kind == media::video_with_audio);
        CHECK(first[1].tokens == 4);
        CHECK(first[1].frames == 2);
        CHECK(first[1].seconds_per_frame == 2);
        CHECK(first[2].kind == media::image);
        const auto& second = found[1].segments;
        REQUIRE(second.size() == 5);
        CHECK(second[1].kind == media::audio);
        CHECK(second[1].tokens == 2);
        CHECK(second[3].kind == media::video);
        CHECK(second[3].seconds_per_frame == 1);
        CHECK(second[4].tokens == 6);  // a pair of markers around nothing is text
        // The same streams as segments written by hand; every token of the batch has its place.
        const auto rule = tokens.audio == qwen3_omni_tokens.audio ? tmrope_rule::qwen3_omni() : tmrope_rule{};
        const auto streams = make_streams(rule, found, 1.0);
        const auto by_hand = make_stream(rule, {{.tokens = 1},
                                                {.kind = media::video_with_audio,
                                                 .tokens = 4,
                                                 .frames = 2,
                                                 .height = 1,
                                                 .width = 2,
                                                 .seconds_per_frame = 2},
                                                {.kind = media::image, .height = 1, .width = 1},
                                                {.tokens = 1}});
        REQUIRE(streams[0].positions.tokens() == 20);
        REQUIRE(by_hand.positions.tokens() == 17);
        for (rw::index n = 0; n < 17; ++n)
            for (rw::index axis = 0; axis < 3; ++axis)
                REQUIRE(streams[0].positions.at(n + 3, axis) == by_hand.positions.at(n, axis));
        CHECK(streams[0].positions.at(0) == 1);
        CHECK(streams[0].next_position == by_hand.next_position);
        CHECK(streams[1].tokens == 16);
        CHECK(streams[1].positions.tokens() == 20);
    }
}

TEST_CASE("find_media: sound without its markers or lengths is refused",
          "[positions][media_tokens][errors]") {
    const auto& tokens = qwen25_omni_tokens;
    const std::int64_t A = tokens.audio, a = tokens.audio_start, z = tokens.audio_end;
    const grids_type video{1, 2, 2}, three{3}, two{1, 1};
    const auto refuse = [&](const ids_type& ids, const grids_type& lengths = {}, bool has_video = false) {
        token_batch batch{.input_ids = ids, .audio_lengths = lengths};
        if (has_video) batch.video_grids = video;
        find_media(batch, tokens);
    };
    CHECK_THROWS_WITH(refuse({5, A}), "find_media: audio token 1 of sequence 0 must follow audio_start");
    CHECK_THROWS_WITH(refuse({V}, {}, true),
                      "find_media: video token 0 of sequence 0 must follow vision_start");
    CHECK_THROWS_WITH(refuse({a, A, A}),
                      "find_media: audio 0 must be followed by audio_end in sequence 0, got its end");
    CHECK_THROWS_WITH(refuse({a, A, A, 5}),
                      "find_media: audio 0 must be followed by audio_end in sequence 0, got id 5");
    CHECK_THROWS_WITH(refuse({S, a, A, V, z, 5}, {}, true),
                      "find_media: video 0 must be followed by vision_end in sequence 0, got id 5");
    CHECK_THROWS_WITH(refuse({S, V, V, E}, {}, true),
                      "find_media: video 0 must be followed by vision_end in sequence 0, got id 151656");
    CHECK_THROWS_WITH(refuse({a, A, A, z}, three),
                      "find_media: audio 0 must have 3 tokens in sequence 0, got 2");
    CHECK_THROWS_WITH(refuse({a, A, z, a, A, z, a, A, z}, two),
                      "find_media: audio 2 must have a length in sequence 0, got 1");
    CHECK_THROWS_WITH(refuse({a, A, z}, two),
                      "find_media: audio_lengths must belong to sounds of input_ids, got 2 for 1 sounds");
    const ids_type plain{5};
    CHECK_THROWS_WITH(find_media({.input_ids = plain, .audio_lengths = two}),
                      "find_media: audio_lengths must be empty where tokens have no audio, got 2");
    auto frames = tokens;
    frames.blocks = video_blocks::frame_by_frame;
    CHECK_THROWS_WITH(find_media({.input_ids = plain}, frames),
                      "find_media: blocks must be whole where tokens have audio, got 1");
}

TEST_CASE("find_media: bad input names the block", "[positions][media_tokens][errors]") {
    const ids_type ids{S, I, I, E};
    const auto refuse = [&](const token_batch& batch) { find_media(batch); };
    const grids_type small{1, 2, 2}, large{1, 4, 4}, odd{1, 2, 3}, zero{0, 2, 2}, two{1, 2, 4, 1, 2, 2},
        cut{1, 2};
    CHECK_THROWS_WITH(refuse({.input_ids = ids}),
                      "find_media: image token 1 of sequence 0 must be one of the tokens of the grids, got 0 image grids");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = small}),
                      "find_media: image token 2 of sequence 0 must be one of the tokens of the grids, got 1 image grids");
    CHECK_THROWS_WITH(
        refuse({.input_ids = ids, .image_grids = large}),
        "find_media: image 0 (1 x 2 x 2 after merging) must have 4 tokens in sequence 0, got 2");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = odd}),
                      "find_media: image 0: width must be a multiple of spatial_merge, got 3");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = zero}),
                      "find_media: image 0: frames must be >= 1, got 0");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = two}),
                      "find_media: image_grids must belong to image tokens of input_ids, got 2 for 1 images");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = cut}),
                      "find_media: image_grids must hold three numbers a grid, got 2");
    const ids_type mask{1, 1};
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .attention_mask = mask}),
                      "find_media: attention_mask must be empty or as long as input_ids, got 2");
    CHECK_THROWS_WITH(refuse({.batches = 3, .input_ids = ids}),
                      "find_media: input_ids must hold batches * tokens ids, got 4");
    const grids_type wide{1, 2, 4};
    const std::vector<double> scales{-1};
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = wide, .temporal_scales = scales}),
                      "find_media: temporal_scales must be finite and > 0, got -1");
    CHECK_THROWS_WITH(refuse({.input_ids = ids, .image_grids = wide, .seconds_per_grid = scales}),
                      "find_media: seconds_per_grid must be empty or one number a video, got 1");
    CHECK_THROWS_WITH(find_media({.input_ids = ids}, {.spatial_merge = 0}),
                      "find_media: spatial_merge must be >= 1, got 0");
}
