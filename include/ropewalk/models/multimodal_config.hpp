// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// from_multimodal: reads how an M-RoPE model gives positions to text, images, video and sound.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/positions/media_tokens.hpp>
#include <ropewalk/positions/tmrope.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a model of the M-RoPE family gives positions to text, images, video and sound: the part of its config
/// that from_huggingface does not read.
/// Source: huggingface/transformers, the configurations of Qwen2-VL and its successors.
struct multimodal_config {
    std::string model_type = {};
    positions::media_tokens tokens = {};            ///< ids, merge and blocks, for find_media
    std::optional<std::int64_t> audio = {};         ///< the id of an audio token, in models with audio
    std::optional<std::int64_t> vision_start = {};  ///< the id of the marker before an image or a video
    std::optional<std::int64_t> vision_end = {};    ///< after an image or a video
    std::optional<std::int64_t> audio_start = {};   ///< before sound
    std::optional<std::int64_t> audio_end = {};     ///< after sound
    /// Image tokens between these two markers are frames of a video (GLM-4.1V); absent: video tokens have an
    /// id of their own.
    std::optional<std::int64_t> video_start = {};
    std::optional<std::int64_t> video_end = {};  ///< after a video's frames
    index temporal_merge = 1;  ///< frames of a video's grid that become one (ERNIE 4.5 VL: 2)
    /// The position rule: media count by frames (mrope_rule), or frames and sound by their time
    /// (tmrope_rule).
    std::variant<positions::mrope_rule, positions::tmrope_rule> rule = {};
};

namespace detail {

/// The clock of a model's video positions. `said`: seconds where the config has tokens_per_second, else
/// frames.
enum class media_clock : std::uint8_t { frames, said, seconds, aligned };

/// What the class of a model_type knows and its config may omit.
struct multimodal_family {
    std::string_view model_type;
    media_clock clock = media_clock::frames;
    bool frame_by_frame = false;  ///< each frame of a video is a block of its own
    bool by_time = false;         ///< frames and sound merge by their time, not in chunks
    std::int64_t image = 151655;
    std::int64_t video = 151656;
    std::int64_t audio = -1;        ///< -1: no audio; the ids of its two markers follow it
    double tokens_per_second = 0;   ///< used where the config has none
    std::int64_t video_start = -1;  ///< -1: markers do not distinguish videos from images
    index temporal_merge = 1;
};

inline constexpr auto multimodal_families = std::to_array<multimodal_family>({
    {.model_type = "qwen2_vl"},
    {.model_type = "qwen2_5_vl", .clock = media_clock::seconds, .tokens_per_second = 4},
    {.model_type = "qwen3_vl", .frame_by_frame = true},
    {.model_type = "qwen3_vl_moe", .frame_by_frame = true},
    {.model_type = "qwen3_5", .frame_by_frame = true, .image = 248056, .video = 248057},
    {.model_type = "qwen3_5_moe", .frame_by_frame = true, .image = 248056, .video = 248057},
    {.model_type = "qwen2_5_omni", .clock = media_clock::aligned, .audio = 151646, .tokens_per_second = 25},
    // The class has the rate of its predecessor; every released config has 13.
    {.model_type = "qwen3_omni_moe",
     .clock = media_clock::aligned,
     .by_time = true,
     .audio = 151646,
     .tokens_per_second = 25},
    {.model_type = "glm4v", .frame_by_frame = true, .image = 151343, .video = 151344, .video_start = 151341},
    {.model_type = "glm46v", .frame_by_frame = true, .image = 151343, .video = 151344, .video_start = 151361},
    {.model_type = "glm4v_moe",
     .frame_by_frame = true,
     .image = 151363,
     .video = 151364,
     .video_start = 151341},
    {.model_type = "glm_ocr", .frame_by_frame = true, .image = 59280, .video = 59281, .video_start = 59258},
    {.model_type = "ernie4_5_vl_moe", .image = 100295, .video = 103367, .temporal_merge = 2},
    // transformers counts frames; the published config and the code published with it count seconds.
    {.model_type = "paddleocr_vl", .clock = media_clock::said, .image = 100295, .video = 100296},
});

inline const multimodal_family* find_multimodal_family(std::string_view model_type) noexcept {
    if (model_type.ends_with("_thinker")) model_type.remove_suffix(8);
    for (const auto& family : multimodal_families)
        if (family.model_type == model_type) return &family;
    return nullptr;
}

/// The id of a token, under the key of transformers 4 or 5.
inline std::optional<std::int64_t> token_id_of(json_object& keys, const std::string& kind) {
    const auto id = keys.count(kind + "_token_id", 0), index = keys.count(kind + "_token_index", 0);
    if (id && index && *id != *index)
        keys.reject(kind + "_token_index", ("what " + kind + "_token_id says").c_str(),
                    *keys.find(kind + "_token_index"));
    return id ? id : index;
}

/// Reads the id of sound and of the markers by which find_media finds it.
inline void read_sound_ids(json_object& top, const multimodal_family& family, multimodal_config& read) {
    read.audio = token_id_of(top, "audio").value_or(family.audio);
    auto& t = read.tokens;
    t.audio = *read.audio;
    t.audio_start = read.audio_start.value_or(family.audio + 1);
    t.audio_end = read.audio_end.value_or(t.audio_start + 1);
    t.vision_start = read.vision_start.value_or(151652);
    t.vision_end = read.vision_end.value_or(151653);
    const std::array<std::pair<const char*, std::int64_t>, 7> ids = {{{"image", t.image},
                                                                      {"video", t.video},
                                                                      {"audio", t.audio},
                                                                      {"audio_start", t.audio_start},
                                                                      {"audio_end", t.audio_end},
                                                                      {"vision_start", t.vision_start},
                                                                      {"vision_end", t.vision_end}}};
    for (std::size_t i = 1; i < ids.size(); ++i)
        for (std::size_t j = 0; j < i; ++j)
            if (ids[i].second == ids[j].second)
                fail("from_multimodal: " + top.path_of(std::string(ids[i].first) + "_token_id") +
                     " must be another than " + ids[j].first + "_token_id, got " + text(ids[i].second));
}

/// The parts of a batch that make_streams has to rewrite for some models.
struct media_rewritten {
    std::vector<std::int64_t> input_ids = {};
    std::vector<index> video_grids = {};
};

/// Gives the frames of a video the id of a video.
inline void mark_videos(const multimodal_config& config, positions::token_batch& batch,
                        media_rewritten& mine) {
    constexpr const char* who = "make_streams";
    const auto total = batch.input_ids.size();
    require(batch.batches >= 1, who, "batches must be >= 1", batch.batches);
    const auto length = total / static_cast<std::size_t>(batch.batches);
    require_equal(who, "input_ids must hold batches * tokens ids",
                  length * static_cast<std::size_t>(batch.batches), total);
    require(batch.attention_mask.empty() || batch.attention_mask.size() == total, who,
            "attention_mask must be empty or as long as input_ids", batch.attention_mask.size());
    mine.input_ids.assign(batch.input_ids.begin(), batch.input_ids.end());
    bool inside = false;
    for (std::size_t n = 0; n < total; ++n) {
        if (n % length == 0) inside = false;
        if (!batch.attention_mask.empty() && batch.attention_mask[n] == 0) continue;
        auto& id = mine.input_ids[n];
        if (id == *config.video_start) inside = true;
        if (id == *config.video_end) inside = false;
        if (inside && id == config.tokens.image) id = config.tokens.video;
    }
    batch.input_ids = mine.input_ids;
}

/// Merges the frames of every video.
inline void merge_frames(index merge, positions::token_batch& batch, media_rewritten& mine) {
    mine.video_grids.assign(batch.video_grids.begin(), batch.video_grids.end());
    for (std::size_t i = 0; i < mine.video_grids.size(); i += 3) {
        auto& frames = mine.video_grids[i];
        require(frames >= 1 && frames % merge == 0, "make_streams",
                ("video " + text(i / 3) + ": frames must be a multiple of temporal_merge, " + text(merge))
                    .c_str(),
                frames);
        frames /= merge;
    }
    batch.video_grids = mine.video_grids;
}

}  // namespace detail

/// Reads which tokens of a prompt are media, how patches merge and how time is counted: spatial_merge_size,
/// temporal_merge_size and tokens_per_second of vision_config, position_id_per_seconds, image_token_id and
/// similar keys. A thinker_config is read in place of the config around it. In a model with audio, marker ids
/// that the config omits are those of the released vocabularies: vision 151652 and 151653; the end of sound
/// is the id after its start. A qwen2_5_vl config without tokens_per_second gets 4, the default of transformers'
/// class; the released checkpoints say 2 (positions::qwen25_vl_tokens_per_second), so pass the whole config.
/// Throws:   invalid_config naming the key path and the value: an unknown model_type, a wrong type, a number
///           out of range, two ids that disagree or are equal, or a clock in a model that counts frames.
/// Source:   huggingface/transformers models/qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, qwen2_5_omni,
///           qwen3_omni_moe, glm4v, glm4v_moe, glm46v, glm_ocr, ernie4_5_vl_moe, paddleocr_vl.
///
///     const auto media = from_multimodal(config);
///     const auto streams = make_streams(media, {.input_ids = ids, .video_grids = grids, .seconds_per_grid =
///     s});
inline multimodal_config from_multimodal(const nlohmann::json& config) {
    constexpr const char* who = "from_multimodal";
    const nlohmann::json* node = &config;
    std::string path;
    if (config.is_object() && config.contains("thinker_config") && config["thinker_config"].is_object()) {
        node = &config["thinker_config"];
        path = "thinker_config";
    }
    detail::json_object top(who, *node, path);
    auto type = top.word("model_type");
    if (!type && node != &config) type = detail::json_object(who, config, "").word("model_type");
    if (!type) top.missing("model_type");
    const auto* family = detail::find_multimodal_family(*type);
    if (family == nullptr)
        detail::fail(std::string(who) + ": " + top.path_of("model_type") +
                     " must be one whose media are placed here, got " + *type);

    multimodal_config read;
    read.model_type = *type;
    read.tokens.image = detail::token_id_of(top, "image").value_or(family->image);
    read.tokens.video = detail::token_id_of(top, "video").value_or(family->video);
    if (read.tokens.image == read.tokens.video)
        detail::fail(std::string(who) + ": " + top.path_of("video_token_id") +
                     " must be another than that of images, got " + detail::text(read.tokens.video));
    read.vision_start = detail::token_id_of(top, "vision_start");
    read.vision_end = detail::token_id_of(top, "vision_end");
    read.audio_start = detail::token_id_of(top, "audio_start");
    read.audio_end = detail::token_id_of(top, "audio_end");
    if (family->audio >= 0) detail::read_sound_ids(top, *family, read);
    if (family->video_start >= 0) {
        read.video_start = detail::token_id_of(top, "video_start").value_or(family->video_start);
        read.video_end = detail::token_id_of(top, "video_end").value_or(*read.video_start + 1);
        if (read.video_start == read.video_end)
            detail::fail(std::string(who) + ": " + top.path_of("video_end_token_id") +
                         " must be another than that of the start, got " + detail::text(*read.video_end));
    }
    if (family->frame_by_frame) read.tokens.blocks = positions::video_blocks::frame_by_frame;
    read.temporal_merge = family->temporal_merge;

    double rate = family->tokens_per_second;
    if (const auto* vision = top.find("vision_config")) {
        detail::json_object keys(who, *vision, top.path_of("vision_config"));
        read.tokens.spatial_merge = detail::saturated(keys.count("spatial_merge_size").value_or(2));
        detail::require(read.tokens.spatial_merge <= 4096, who, "spatial_merge_size must be <= 4096",
                        read.tokens.spatial_merge);
        if (family->temporal_merge != 1) {
            read.temporal_merge =
                detail::saturated(keys.count("temporal_merge_size").value_or(family->temporal_merge));
            detail::require(read.temporal_merge <= 4096, who, "temporal_merge_size must be <= 4096",
                            read.temporal_merge);
        }
        const auto said = keys.number("tokens_per_second");
        if (family->clock == detail::media_clock::said) rate = said.value_or(0);
        if (said && family->clock == detail::media_clock::frames && *said != 0)
            keys.reject("tokens_per_second", "absent: this model counts frames",
                        *keys.find("tokens_per_second"));
        if (said && family->clock == detail::media_clock::seconds) rate = *said;
        if (family->clock == detail::media_clock::seconds && rate <= 0)
            keys.reject("tokens_per_second", "a number > 0", *keys.find("tokens_per_second"));
    }
    if (family->clock != detail::media_clock::aligned) {
        // The reference implementation multiplies in f32.
        positions::mrope_rule rule;
        rule.clock = {.tokens_per_second = rate, .arithmetic = positions::time_arithmetic::float32};
        rule.check();
        read.rule = rule;
        return read;
    }
    positions::tmrope_rule rule;
    rule.clock = {.tokens_per_second = top.number("position_id_per_seconds").value_or(rate),
                  .quantization = family->by_time ? positions::time_quantization::none
                                                  : positions::time_quantization::trunc_after_product,
                  .arithmetic = positions::time_arithmetic::float32};
    rule.seconds_per_chunk = top.number("seconds_per_chunk").value_or(2);
    rule.order = family->by_time ? positions::sound_order::by_time : positions::sound_order::chunks;
    rule.check();
    read.rule = rule;
    return read;
}

/// The position streams of a batch, from its token ids. Grids are those of the processor: a video's grid
/// counts frames before any merging, and a video has one grid even where every frame is a block of its own.
/// Throws: as find_media and make_streams (seconds or grids that do not match the tokens), and on frames that
///         do not merge evenly.
/// Source: huggingface/transformers get_rope_index.
inline std::vector<positions::position_stream> make_streams(const multimodal_config& config,
                                                            const positions::token_batch& batch,
                                                            std::optional<double> padding_position = {}) {
    auto read = batch;
    detail::media_rewritten mine;
    if (config.video_start && config.video_end) detail::mark_videos(config, read, mine);
    if (config.temporal_merge != 1) detail::merge_frames(config.temporal_merge, read, mine);
    const auto found = positions::find_media(read, config.tokens);
    return std::visit(
        [&](const auto& rule) { return positions::make_streams(rule, found, padding_position); },
        config.rule);
}

}  // namespace ROPEWALK_NAMESPACE
