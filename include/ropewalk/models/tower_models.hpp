// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The table of image, video and audio encoders with their rotary rules.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// How an encoder rotates.
/// Source: huggingface/transformers, the models of tower_families.
enum class tower_kind : std::uint8_t {
    merged,     ///< row first, half-split, patches in merge blocks
    row_major,  ///< the same, patches row by row
    pixtral,
    llama4,
    gemma4,
    dinov3,
    kimi,
    muse,
    minimax,
    mlcd,
    efficientloftr,
    lightglue,
    line,       ///< by the number of a frame
    conformer,  ///< the same, applied to the layer's input before the projections, if the config enables it
    clvp,       ///< the same, values too
    music_flamingo,
    sam_memory,  ///< between the frames of a video
    sam3,        ///< windows, and global blocks rescaled to a window
    eva02,
    first_head,  ///< by frame number, the first head only
    still,       ///< nothing is rotated
    vjepa2,      ///< not a rotation
};

/// What the class of a model_type knows and its config may omit.
struct tower_family {
    std::string_view model_type;
    tower_kind kind;
    double base = 1e4;
    double partial = 1;
    bool interleaved = false;
    int head_dim = 0;  ///< 0: width / heads
    int width = 0;     ///< hidden_size
    int heads = 0;
    int merge = 2;  ///< spatial_merge_size
};

inline constexpr auto tower_families = std::to_array<tower_family>({
    {.model_type = "qwen2_vl", .kind = tower_kind::merged, .width = 1280, .heads = 16},
    {.model_type = "qwen2_5_vl", .kind = tower_kind::merged, .width = 1280, .heads = 16},
    {.model_type = "qwen3_vl", .kind = tower_kind::merged, .width = 1152, .heads = 16},
    {.model_type = "qwen3_vl_moe", .kind = tower_kind::merged, .width = 1152, .heads = 16},
    {.model_type = "qwen3_5", .kind = tower_kind::merged, .width = 1152, .heads = 16},
    {.model_type = "qwen3_5_moe", .kind = tower_kind::merged, .width = 1152, .heads = 16},
    {.model_type = "qwen2_5_omni_vision_encoder", .kind = tower_kind::merged, .width = 1280, .heads = 16},
    {.model_type = "qwen3_omni_moe_vision_encoder", .kind = tower_kind::merged, .width = 1152, .heads = 16},
    {.model_type = "glm4v_vision", .kind = tower_kind::merged, .width = 1536, .heads = 12},
    {.model_type = "glm4v_moe_vision", .kind = tower_kind::merged, .width = 1536, .heads = 12},
    {.model_type = "glm_ocr_vision", .kind = tower_kind::merged, .width = 1024, .heads = 16},
    {.model_type = "ernie4_5_vl_moe_vision", .kind = tower_kind::merged, .width = 1280, .heads = 16},
    {.model_type = "exaone4_5_vision", .kind = tower_kind::merged},
    // Its processor does not merge the patches of an image and merges those of a video 2 x 2;
    // spatial_merge_size tells which.
    {.model_type = "video_llama_3_vision", .kind = tower_kind::merged, .width = 768, .heads = 12, .merge = 1},
    {.model_type = "paddleocr_vl_vision", .kind = tower_kind::row_major, .width = 1152, .heads = 16},
    {.model_type = "pixtral", .kind = tower_kind::pixtral, .width = 1024, .heads = 16},
    {.model_type = "llama4_vision_model", .kind = tower_kind::llama4, .width = 768, .heads = 16},
    {.model_type = "gemma4_vision", .kind = tower_kind::gemma4, .base = 100, .head_dim = 64},
    {.model_type = "dinov3_vit", .kind = tower_kind::dinov3, .base = 100, .width = 384, .heads = 6},
    {.model_type = "kimi_k25_vision", .kind = tower_kind::kimi, .width = 1152, .heads = 16},
    {.model_type = "moonvit", .kind = tower_kind::kimi, .interleaved = true, .width = 1152, .heads = 16},
    {.model_type = "kimi_vl", .kind = tower_kind::kimi, .interleaved = true, .width = 1152, .heads = 16},
    {.model_type = "muse_glimmer_vision", .kind = tower_kind::muse},
    {.model_type = "minimax_m3_vl_vision", .kind = tower_kind::minimax, .width = 1280, .heads = 16},
    {.model_type = "mlcd_vision_model", .kind = tower_kind::mlcd, .width = 1664, .heads = 16},
    {.model_type = "mlcd", .kind = tower_kind::mlcd, .width = 1664, .heads = 16},
    {.model_type = "efficientloftr",
     .kind = tower_kind::efficientloftr,
     .partial = 4,
     .width = 256,
     .heads = 8},
    {.model_type = "lightglue", .kind = tower_kind::lightglue, .width = 256, .heads = 4},
    {.model_type = "sam2_video", .kind = tower_kind::sam_memory, .width = 256},
    {.model_type = "sam3_tracker_video", .kind = tower_kind::sam_memory, .width = 256},
    {.model_type = "sam3_vit_model", .kind = tower_kind::sam3, .width = 1024, .heads = 16},
    {.model_type = "eva02", .kind = tower_kind::eva02, .head_dim = 64},
    {.model_type = "mimi", .kind = tower_kind::line, .width = 512, .heads = 8},
    {.model_type = "moonshine",
     .kind = tower_kind::line,
     .partial = 0.9,
     .interleaved = true,
     .width = 288,
     .heads = 8},
    {.model_type = "moonshine_streaming_encoder", .kind = tower_kind::still, .width = 320, .heads = 8},
    {.model_type = "qwen2_5_omni_dit", .kind = tower_kind::first_head, .interleaved = true, .head_dim = 64},
    {.model_type = "voxtral_realtime_encoder", .kind = tower_kind::line, .head_dim = 64},
    {.model_type = "glmasr_encoder", .kind = tower_kind::line, .partial = 0.5, .width = 1280, .heads = 20},
    {.model_type = "lasr_encoder", .kind = tower_kind::line, .width = 512, .heads = 8},
    {.model_type = "pe_audio_encoder",
     .kind = tower_kind::line,
     .base = 2e4,
     .interleaved = true,
     .head_dim = 128},
    {.model_type = "pe_video_encoder",
     .kind = tower_kind::line,
     .base = 2e4,
     .interleaved = true,
     .head_dim = 128},
    {.model_type = "pe_audio_video_encoder",
     .kind = tower_kind::line,
     .base = 2e4,
     .interleaved = true,
     .head_dim = 128},
    {.model_type = "timesfm2_5", .kind = tower_kind::line, .head_dim = 80},
    {.model_type = "seamless_m4t", .kind = tower_kind::conformer, .width = 1024, .heads = 16},
    {.model_type = "wav2vec2-conformer", .kind = tower_kind::conformer, .width = 768, .heads = 12},
    {.model_type = "wav2vec2-bert", .kind = tower_kind::conformer, .width = 1024, .heads = 16},
    {.model_type = "clvp_encoder", .kind = tower_kind::clvp, .width = 768, .heads = 12},
    {.model_type = "musicflamingo",
     .kind = tower_kind::music_flamingo,
     .base = 1200,
     .partial = 0.2,
     .width = 1280},
    {.model_type = "vjepa2", .kind = tower_kind::vjepa2},
});

/// The family of an encoder, by its own name or by that of the model it belongs to.
inline const tower_family* find_tower_family(std::string_view model_type) noexcept {
    for (const auto& family : tower_families)
        if (family.model_type == model_type) return &family;
    for (const auto& family : tower_families)  // the tower of kimi_k25 is kimi_k25_vision
        if (model_type.size() < family.model_type.size() && family.model_type.starts_with(model_type) &&
            family.model_type.substr(model_type.size()) == "_vision")
            return &family;
    if (model_type.ends_with("_vision")) {
        model_type.remove_suffix(7);
        for (const auto& family : tower_families)
            if (family.model_type == model_type && family.kind == tower_kind::merged) return &family;
    }
    return nullptr;
}

}  // namespace ROPEWALK_NAMESPACE::detail
