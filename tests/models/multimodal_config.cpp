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
}
