// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/positions/media_tokens.hpp>
#include <ropewalk/positions/tmrope.hpp>

namespace ROPEWALK_NAMESPACE {

/// How a model of the M-RoPE family places text, images, video and sound: the part of its config that
/// from_huggingface does not read.
/// Source: huggingface/transformers, the configurations of Qwen2-VL and its successors.
struct multimodal_config {
    std::string model_type = {};
    positions::media_tokens tokens = {};            ///< ids, merge and blocks, for find_media
    std::optional<std::int64_t> audio = {};         ///< the id of an audio token, in models that hear
    std::optional<std::int64_t> vision_start = {};  ///< the ids of the markers around media, where said
    std::optional<std::int64_t> vision_end = {};
    std::optional<std::int64_t> audio_start = {};
    std::optional<std::int64_t> audio_end = {};
    /// Where tokens stand: by the frame, or by the time of frames and sound alike.
    std::variant<positions::mrope_rule, positions::tmrope_rule> rule = {};
};

namespace detail {

enum class media_clock : std::uint8_t { frames, seconds, aligned };

/// What the classes of a model_type know and their configs may leave out.
struct multimodal_family {
    std::string_view model_type;
    media_clock clock = media_clock::frames;
    bool frame_by_frame = false;  ///< each frame of a video is a block of its own
    bool by_time = false;         ///< frames and sound merge by their time, not in chunks
    std::int64_t image = 151655;
    std::int64_t video = 151656;
    std::int64_t audio = -1;       ///< -1: hears nothing
    double tokens_per_second = 0;  ///< where the config has none
};

inline constexpr auto multimodal_families = std::to_array<multimodal_family>({
    {.model_type = "qwen2_vl"},
    {.model_type = "qwen2_5_vl", .clock = media_clock::seconds, .tokens_per_second = 4},
    {.model_type = "qwen3_vl", .frame_by_frame = true},
    {.model_type = "qwen3_vl_moe", .frame_by_frame = true},
    {.model_type = "qwen3_5", .frame_by_frame = true, .image = 248056, .video = 248057},
    {.model_type = "qwen3_5_moe", .frame_by_frame = true, .image = 248056, .video = 248057},
    {.model_type = "qwen2_5_omni", .clock = media_clock::aligned, .audio = 151646, .tokens_per_second = 25},
    {.model_type = "qwen3_omni_moe",
     .clock = media_clock::aligned,
     .by_time = true,
     .audio = 151646,
     .tokens_per_second = 13},
});

inline const multimodal_family* find_multimodal_family(std::string_view model_type) noexcept {
    if (model_type.ends_with("_thinker")) model_type.remove_suffix(8);
    for (const auto& family : multimodal_families)
        if (family.model_type == model_type) return &family;
    return nullptr;
}

/// The id of a token, under the key of transformers 4 or of 5.
inline std::optional<std::int64_t> token_id_of(json_object& keys, const std::string& kind) {
    const auto id = keys.count(kind + "_token_id", 0), index = keys.count(kind + "_token_index", 0);
    if (id && index && *id != *index)
        keys.reject(kind + "_token_index", ("what " + kind + "_token_id says").c_str(),
                    *keys.find(kind + "_token_index"));
    return id ? id : index;
}

}  // namespace detail

/// Reads which tokens of a prompt stand for media, how patches merge and how time passes: spatial_merge_size
/// and tokens_per_second of vision_config, position_id_per_seconds, image_token_id and its like. A config
/// with a thinker_config is read through it.
/// Throws:   invalid_config naming the key path and the value: an unknown model_type, a wrong type, a number
///           out of range, two ids that disagree, or a clock in a model that counts frames.
/// Source:   huggingface/transformers models/qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, qwen2_5_omni,
///           qwen3_omni_moe.
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
    if (family->audio >= 0) read.audio = detail::token_id_of(top, "audio").value_or(family->audio);
    read.vision_start = detail::token_id_of(top, "vision_start");
    read.vision_end = detail::token_id_of(top, "vision_end");
    read.audio_start = detail::token_id_of(top, "audio_start");
    read.audio_end = detail::token_id_of(top, "audio_end");
    if (family->frame_by_frame) read.tokens.blocks = positions::video_blocks::frame_by_frame;

    double rate = family->tokens_per_second;
    if (const auto* vision = top.find("vision_config")) {
        detail::json_object keys(who, *vision, top.path_of("vision_config"));
        read.tokens.spatial_merge = keys.count("spatial_merge_size").value_or(2);
        detail::require(read.tokens.spatial_merge <= 4096, who, "spatial_merge_size must be <= 4096",
                        read.tokens.spatial_merge);
        const auto said = keys.number("tokens_per_second");
        if (said && family->clock == detail::media_clock::frames && *said != 0)
            keys.reject("tokens_per_second", "absent: this model counts frames",
                        *keys.find("tokens_per_second"));
        if (said && family->clock == detail::media_clock::seconds) rate = *said;
        if (family->clock == detail::media_clock::seconds && rate <= 0)
            keys.reject("tokens_per_second", "a number > 0", *keys.find("tokens_per_second"));
    }
    if (family->clock != detail::media_clock::aligned) {
        // The reference multiplies in f32.
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

/// The streams of a batch of such a model, read from its token ids.
/// Throws: as find_media and make_streams, which find seconds and grids that do not belong.
/// Source: huggingface/transformers get_rope_index.
inline std::vector<positions::position_stream> make_streams(const multimodal_config& config,
                                                            const positions::token_batch& batch,
                                                            std::optional<double> padding_position = {}) {
    const auto found = positions::find_media(batch, config.tokens);
    return std::visit(
        [&](const auto& rule) { return positions::make_streams(rule, found, padding_position); },
        config.rule);
}

}  // namespace ROPEWALK_NAMESPACE
