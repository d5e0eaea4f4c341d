// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/multimodal_config.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using ids_type = std::vector<std::int64_t>;
using grids_type = std::vector<ropewalk::index>;

namespace {

multimodal_config read(const char* text) { return from_multimodal(json::parse(text)); }
const positions::mrope_rule& by_frame(const multimodal_config& c) {
    return std::get<positions::mrope_rule>(c.rule);
}
const positions::tmrope_rule& by_time(const multimodal_config& c) {
    return std::get<positions::tmrope_rule>(c.rule);
}

}  // namespace

TEST_CASE("multimodal_config: Qwen2-VL counts frames, Qwen2.5-VL seconds", "[models][multimodal]") {
    const auto two = read(R"({"model_type": "qwen2_vl", "image_token_id": 7, "video_token_id": 8,
                              "vision_config": {"spatial_merge_size": 4}})");
    CHECK(two.tokens.image == 7);
    CHECK(two.tokens.video == 8);
    CHECK(two.tokens.spatial_merge == 4);
    CHECK(two.tokens.blocks == positions::video_blocks::whole);
    CHECK(by_frame(two).clock.tokens_per_second == 0);
    CHECK_FALSE(two.audio);
    const auto half = read(R"({"model_type": "qwen2_5_vl", "vision_config": {"tokens_per_second": 2}})");
    CHECK(half.tokens.image == 151655);
    CHECK(half.tokens.video == 151656);
    CHECK(half.tokens.spatial_merge == 2);
    CHECK(by_frame(half).clock.tokens_per_second == 2);
    // What the class has where the config is silent.
    CHECK(by_frame(read(R"({"model_type": "qwen2_5_vl"})")).clock.tokens_per_second == 4);
    CHECK(by_frame(read(R"({"model_type": "qwen2_5_vl", "vision_config": {}})")).clock.tokens_per_second ==
          4);

    // 4 frames of 2 seconds at 2 positions a second behind 2 tokens of text: 0, 4, 8, 12 from 2, then 15.
    const ids_type ids{1, 2, 151656, 151656, 151656, 151656, 3};
    const grids_type video{4, 2, 2};
    const std::vector<double> seconds{2};
    const positions::token_batch batch{.input_ids = ids, .video_grids = video, .seconds_per_grid = seconds};
    const auto streams = make_streams(half, batch);
    for (ropewalk::index f = 0; f < 4; ++f)
        CHECK(streams[0].positions.at(2 + f, 0) == 2 + 4 * static_cast<double>(f));
    CHECK(streams[0].positions.at(6, 0) == 15);
    CHECK(streams[0].next_position == 16);
    // The same batch is none of Qwen2-VL's.
    CHECK_REFUSES(
        "position_stream: segment 1 (video 4 x 1 x 1): seconds_per_frame must not be given to a rule "
        "that counts frames (clock.tokens_per_second 0), got 2",
        make_streams(read(R"({"model_type": "qwen2_vl"})"), batch));
}

TEST_CASE("multimodal_config: the reference's clock is of single precision", "[models][multimodal]") {
    // 0.7 seconds at 2 positions a second: frame 45 is 63 in f32, 62 in f64.
    CHECK(by_frame(read(R"({"model_type": "qwen2_5_vl", "vision_config": {"tokens_per_second": 2}})"))
              .clock.at(45, 0.7) == 63);
    const auto omni = read(R"({"model_type": "qwen2_5_omni", "thinker_config": {}})");
    CHECK(by_time(omni).clock.at(29, 0.08) == 58);
}

TEST_CASE("multimodal_config: Qwen3-VL and Qwen3.5 give every frame a block", "[models][multimodal]") {
    for (
        const char* config :
        {R"({"model_type": "qwen3_vl", "image_token_id": 151655, "vision_config": {"spatial_merge_size": 2}})",
         R"({"model_type": "qwen3_vl_moe"})"}) {
        const auto three = read(config);
        CHECK(three.tokens.image == 151655);
        CHECK(three.tokens.blocks == positions::video_blocks::frame_by_frame);
        CHECK(by_frame(three).clock.tokens_per_second == 0);
    }
    CHECK(read(R"({"model_type": "qwen3_5_moe"})").tokens.video == 248057);
    // A video of two frames between time stamps: the second block starts behind the text.
    const ids_type ids{9, 151656, 9, 151656, 9};
    const grids_type video{2, 2, 2};
    const auto streams =
        make_streams(read(R"({"model_type": "qwen3_vl"})"), {.input_ids = ids, .video_grids = video});
    for (ropewalk::index n = 0; n < 5; ++n) CHECK(streams[0].positions.at(n, 0) == static_cast<double>(n));
}

TEST_CASE("multimodal_config: the Omni models align sound and picture", "[models][multimodal]") {
    const auto half = read(R"({"model_type": "qwen2_5_omni", "thinker_config": {
        "model_type": "qwen2_5_omni_thinker", "image_token_index": 11, "video_token_index": 12,
        "audio_token_index": 13, "audio_start_token_id": 14, "audio_end_token_id": 15,
        "vision_start_token_id": 16, "position_id_per_seconds": 25, "seconds_per_chunk": 2,
        "vision_config": {"spatial_merge_size": 2, "tokens_per_second": 25}}})");
    CHECK(half.tokens.image == 11);
    CHECK(half.tokens.video == 12);
    CHECK(half.audio == 13);
    CHECK(half.audio_start == 14);
    CHECK(half.audio_end == 15);
    CHECK(half.vision_start == 16);
    CHECK_FALSE(half.vision_end);
    CHECK(by_time(half).clock.tokens_per_second == 25);
    CHECK(by_time(half).order == positions::sound_order::chunks);
    CHECK(by_time(half).clock.quantization == positions::time_quantization::trunc_after_product);
    const auto three =
        read(R"({"model_type": "qwen3_omni_moe", "thinker_config": {"position_id_per_seconds": 13}})");
    CHECK(three.audio == 151646);
    CHECK(by_time(three).clock.tokens_per_second == 13);
    CHECK(by_time(three).order == positions::sound_order::by_time);
    CHECK(by_time(three).clock.quantization == positions::time_quantization::none);
    // A config that is silent gets what the class has.
    CHECK(by_time(read(R"({"model_type": "qwen3_omni_moe"})")).clock.tokens_per_second == 25);
}

TEST_CASE("multimodal_config: the Omni models' ids of sound reach find_media", "[models][multimodal]") {
    const auto silent = read(R"({"model_type": "qwen2_5_omni"})");
    const auto& known = positions::qwen25_omni_tokens;
    CHECK(silent.tokens.audio == known.audio);
    CHECK(silent.tokens.audio_start == known.audio_start);
    CHECK(silent.tokens.audio_end == known.audio_end);
    CHECK(silent.tokens.vision_start == known.vision_start);
    CHECK(silent.tokens.vision_end == known.vision_end);
    // As the released Qwen3-Omni writes them, but for the end of sound, which its config does not have.
    const auto three = read(R"({"model_type": "qwen3_omni_moe", "thinker_config": {
        "audio_token_id": 151675, "audio_start_token_id": 151669, "vision_start_token_id": 151652,
        "position_id_per_seconds": 13}})");
    const auto& released = positions::qwen3_omni_tokens;
    CHECK(three.tokens.audio == released.audio);
    CHECK(three.tokens.audio_start == released.audio_start);
    CHECK(three.tokens.audio_end == released.audio_end);
    CHECK(three.tokens.vision_end == released.vision_end);
    CHECK(read(R"({"model_type": "qwen2_vl"})").tokens.audio == positions::media_tokens::no_audio);

    // Text, a sound of two tokens in its markers, text: without the ids it would be six tokens of text with
    // the same positions, so a length that does not belong tells them apart.
    const ids_type ids{5, 151669, 151675, 151675, 151670, 6};
    const std::vector<ropewalk::index> heard{2}, too_long{3};
    const auto streams = make_streams(three, {.input_ids = ids, .audio_lengths = heard});
    for (ropewalk::index n = 0; n < 6; ++n) CHECK(streams[0].positions.at(n, 0) == static_cast<double>(n));
    CHECK_REFUSES("find_media: audio 0 must have 3 tokens in sequence 0, got 2",
                  make_streams(three, {.input_ids = ids, .audio_lengths = too_long}));
    // An image of one row and two columns behind its marker: both tokens stand at time 2.
    const ids_type seen{5, 151652, 151655, 151655, 151653, 6};
    const grids_type grid{1, 2, 4};
    const auto picture = make_streams(three, {.input_ids = seen, .image_grids = grid});
    CHECK(picture[0].positions.at(2, 0) == 2);
    CHECK(picture[0].positions.at(3, 0) == 2);
    CHECK(picture[0].positions.at(3, 2) == 3);
    CHECK(picture[0].positions.at(4, 0) == 4);
}

TEST_CASE("multimodal_config: GLM tells a video from images by its markers", "[models][multimodal]") {
    struct family {
        const char* name;
        std::int64_t image, video, start;
    };
    for (const auto& f :
         {family{"glm4v", 151343, 151344, 151341}, family{"glm46v", 151343, 151344, 151361},
          family{"glm4v_moe", 151363, 151364, 151341}, family{"glm_ocr", 59280, 59281, 59258}}) {
        INFO(f.name);
        const auto glm = from_multimodal(json{{"model_type", f.name}});
        CHECK(glm.tokens.image == f.image);
        CHECK(glm.tokens.video == f.video);
        CHECK(glm.video_start == f.start);
        CHECK(glm.video_end == f.start + 1);
        CHECK(glm.tokens.blocks == positions::video_blocks::frame_by_frame);
        CHECK(by_frame(glm).clock.tokens_per_second == 0);
    }
    const auto glm = read(R"({"model_type": "glm4v", "image_token_id": 7, "video_token_id": 8,
        "video_start_token_id": 1, "video_end_token_id": 2, "vision_config": {"spatial_merge_size": 2}})");
    // An image of 1 x 2, then a video of two frames of 1 x 2, a time stamp (9) behind each frame.
    const ids_type ids{9, 7, 7, 1, 7, 7, 9, 7, 7, 9, 2, 9};
    const grids_type image{1, 2, 4}, video{2, 2, 4};
    const auto streams = make_streams(glm, {.input_ids = ids, .image_grids = image, .video_grids = video});
    // t and h stand still in a block, w counts; text goes on one past the largest.
    const std::vector<double> t{0, 1, 1, 3, 4, 4, 6, 7, 7, 9, 10, 11};
    const std::vector<double> w{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    for (std::size_t n = 0; n < ids.size(); ++n) {
        INFO("token " << n);
        CHECK(streams[0].positions.at(static_cast<ropewalk::index>(n), 0) == t[n]);
        CHECK(streams[0].positions.at(static_cast<ropewalk::index>(n), 1) == t[n]);
        CHECK(streams[0].positions.at(static_cast<ropewalk::index>(n), 2) == w[n]);
    }
    CHECK(streams[0].next_position == 12);
    // A marker of padding opens no video, and one of the row before does not reach into the next.
    const ids_type padded{1, 7, 7, 9};
    const std::vector<std::int64_t> mask{0, 1, 1, 1};
    CHECK(make_streams(glm, {.input_ids = padded, .attention_mask = mask, .image_grids = image})[0]
              .positions.at(2, 2) == 1);
    const ids_type rows{9, 9, 1, 7, 7, 9};
    CHECK(make_streams(glm, {.batches = 2, .input_ids = rows, .image_grids = image})[1].positions.at(1, 2) ==
          1);
    CHECK_REFUSES("from_multimodal: video_end_token_id must be another than that of the start, got 4",
                  read(R"({"model_type": "glm4v", "video_start_token_id": 4, "video_end_token_id": 4})"));
    CHECK_REFUSES("make_streams: input_ids must hold batches * tokens ids: wanted 4, got 6",
                  make_streams(glm, {.batches = 4, .input_ids = rows}));
}

TEST_CASE("multimodal_config: ERNIE 4.5 VL merges the frames of a video", "[models][multimodal]") {
    const auto ernie = read(R"({"model_type": "ernie4_5_vl_moe", "vision_config": {"spatial_merge_size": 2,
        "temporal_merge_size": 2}})");
    CHECK(ernie.tokens.image == 100295);
    CHECK(ernie.tokens.video == 103367);
    CHECK(ernie.temporal_merge == 2);
    CHECK(read(R"({"model_type": "ernie4_5_vl_moe"})").temporal_merge == 2);
    CHECK(by_frame(ernie).clock.tokens_per_second == 0);
    // A video of 4 frames of 2 x 4 patches: 2 x 1 x 2 tokens; an image is not merged in time.
    const ids_type ids{3, 103367, 103367, 103367, 103367, 3, 100295, 100295};
    const grids_type video{4, 2, 4}, image{1, 2, 4}, odd{3, 2, 4};
    const auto streams = make_streams(ernie, {.input_ids = ids, .image_grids = image, .video_grids = video});
    const std::vector<double> t{0, 1, 1, 2, 2, 3, 4, 4}, w{0, 1, 2, 1, 2, 3, 4, 5};
    for (std::size_t n = 0; n < ids.size(); ++n) {
        INFO("token " << n);
        CHECK(streams[0].positions.at(static_cast<ropewalk::index>(n), 0) == t[n]);
        CHECK(streams[0].positions.at(static_cast<ropewalk::index>(n), 2) == w[n]);
    }
    CHECK_REFUSES("make_streams: video 0: frames must be a multiple of temporal_merge, 2, got 3",
                  make_streams(ernie, {.input_ids = ids, .image_grids = image, .video_grids = odd}));
    CHECK_REFUSES(
        "from_multimodal: vision_config.temporal_merge_size must be a whole number in [1, 2^63), got "
        "0",
        read(R"({"model_type": "ernie4_5_vl_moe", "vision_config": {"temporal_merge_size": 0}})"));
}

TEST_CASE("multimodal_config: PaddleOCR-VL has a clock where its config has one", "[models][multimodal]") {
    const auto bare = read(R"({"model_type": "paddleocr_vl", "vision_config": {"spatial_merge_size": 2}})");
    CHECK(bare.tokens.image == 100295);
    CHECK(bare.tokens.video == 100296);
    CHECK(bare.tokens.spatial_merge == 2);
    CHECK(by_frame(bare).clock.tokens_per_second == 0);
    const auto timed = read(R"({"model_type": "paddleocr_vl", "vision_config": {"tokens_per_second": 2}})");
    CHECK(by_frame(timed).clock.tokens_per_second == 2);
    CHECK_REFUSES("mrope_rule: tokens_per_second must be finite and >= 0, got -2",
                  read(R"({"model_type": "paddleocr_vl", "vision_config": {"tokens_per_second": -2}})"));
}

TEST_CASE("multimodal_config: what is wrong is refused by key path", "[models][multimodal][errors]") {
    const std::string of = "from_multimodal: ";
    CHECK_REFUSES(of + "the config must be an object, got []", read("[]"));
    CHECK_REFUSES(of + "model_type must be given, got nothing", read("{}"));
    CHECK_REFUSES(of + "model_type must be one whose media are placed here, got llama",
                  read(R"({"model_type": "llama"})"));
    CHECK_REFUSES(of + "vision_config.tokens_per_second must be absent: this model counts frames, got 2",
                  read(R"({"model_type": "qwen2_vl", "vision_config": {"tokens_per_second": 2}})"));
    for (const char* rate : {"0", "-1"})
        CHECK_REFUSES(of + "vision_config.tokens_per_second must be a number > 0, got " + rate,
                      from_multimodal(json{{"model_type", "qwen2_5_vl"},
                                           {"vision_config", {{"tokens_per_second", std::stoi(rate)}}}}));
    CHECK_REFUSES(of + "image_token_id must be a whole number in [0, 2^63), got \"x\"",
                  read(R"({"model_type": "qwen2_vl", "image_token_id": "x"})"));
    CHECK_REFUSES(of + "image_token_index must be what image_token_id says, got 2",
                  read(R"({"model_type": "qwen2_vl", "image_token_id": 1, "image_token_index": 2})"));
    CHECK_REFUSES(of + "video_token_id must be another than that of images, got 5",
                  read(R"({"model_type": "qwen2_vl", "image_token_id": 5, "video_token_id": 5})"));
    CHECK_REFUSES(of + "spatial_merge_size must be <= 4096, got 4097",
                  read(R"({"model_type": "qwen2_vl", "vision_config": {"spatial_merge_size": 4097}})"));
    CHECK_REFUSES(
        "tmrope_rule: tokens_per_second must be > 0, got 0",
        read(R"({"model_type": "qwen2_5_omni", "thinker_config": {"position_id_per_seconds": 0}})"));
    CHECK_REFUSES(of + "thinker_config.audio_end_token_id must be another than audio_token_id, got 9",
                  read(R"({"model_type": "qwen2_5_omni",
                           "thinker_config": {"audio_token_id": 9, "audio_end_token_id": 9}})"));
}
