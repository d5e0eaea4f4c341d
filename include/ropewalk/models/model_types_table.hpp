// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The table of model_types with their rotary rules, one line per class of Hugging Face transformers.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include <ropewalk/models/model_types.hpp>

namespace ROPEWALK_NAMESPACE::detail {

inline constexpr default_scaling llama3_by_8 = {
    .kind = rope_scaling::llama3, .factor = 8, .original_context = 8192};
inline constexpr default_scaling llama3_by_16 = {
    .kind = rope_scaling::llama3, .factor = 16, .original_context = 8192};
inline constexpr default_scaling llama3_by_32 = {.kind = rope_scaling::llama3,
                                                 .factor = 32,
                                                 .original_context = 1024,
                                                 .low_freq_factor = 0.125,
                                                 .high_freq_factor = 0.5};
inline constexpr default_scaling yarn_by_32 = {
    .kind = rope_scaling::yarn, .factor = 32, .original_context = 4096, .truncate = false};
inline constexpr default_scaling yarn_by_16 = {
    .kind = rope_scaling::yarn, .factor = 16, .original_context = 16384, .mscale = 1};
inline constexpr default_scaling yarn_by_128 = {
    .kind = rope_scaling::yarn, .factor = 128, .original_context = 8192, .mscale = 1};
inline constexpr default_scaling proportional_ladder = {.kind = rope_scaling::proportional};

inline constexpr std::array<std::int16_t, 12> bamba_attention = {9, 18, 27, -1};
inline constexpr std::array<std::int16_t, 12> zamba2_attention = {6, 12, 18, 24, 30, 36, 42, 47, 51, -1};

// One line per class.
// clang-format off

/// The rotary rules of every class with a text model.
/// Source: as model_rules.
inline constexpr auto model_types = [] {
    using enum pair_order;
    using enum layer_rule;
    using enum slice_place;
    using k = key_names;
    using o = section_order;
    using m = layer_map;
    return std::to_array<model_rules>({
        // ---- half-split pairs, every layer alike
        {.model_type = "llama"},
        {.model_type = "arcee"},
        {.model_type = "aria_text"},
        {.model_type = "baichuan"},
        {.model_type = "bitnet", .theta = 5e5},
        {.model_type = "chameleon"},
        {.model_type = "csm", .theta = 5e5},
        {.model_type = "csm_depth_decoder_model", .theta = 5e5},
        {.model_type = "cwm", .theta = 1e6, .head_dim = 128, .scaling = &llama3_by_16},
        {.model_type = "apertus", .theta = 1.2e7, .scaling = &llama3_by_8},
        {.model_type = "bailing_moe", .honours_partial = true},
        {.model_type = "dbrx", .keys = k::dbrx},
        {.model_type = "deepseek"},
        {.model_type = "deepseek_ocr2_text"},
        {.model_type = "dia_encoder", .head_dim = 128},
        {.model_type = "dia_decoder", .head_dim = 128},
        {.model_type = "diffllama"},
        {.model_type = "doge"},
        {.model_type = "dots1"},
        {.model_type = "emu3_text_model", .theta = 1e6},
        {.model_type = "esm", .reads_position_type = true},
        {.model_type = "eurobert"},
        {.model_type = "evolla", .theta = 5e5},
        {.model_type = "exaone"},
        {.model_type = "falcon", .keys = k::falcon},
        {.model_type = "falcon_h1"},
        {.model_type = "flex_olmo", .theta = 5e5},
        {.model_type = "gemma", .head_dim = 256},
        {.model_type = "gemma2", .head_dim = 256},
        {.model_type = "glm4_moe", .partial = 0.5, .honours_partial = true, .floors_head_dim = true},
        {.model_type = "gpt_neox", .partial = 0.25, .honours_partial = true, .keys = k::gpt_neox},
        {.model_type = "gpt_neox_japanese", .keys = k::gpt_neox},
        {.model_type = "gpt_oss", .theta = 150000, .head_dim = 64, .scaling = &yarn_by_32},
        {.model_type = "granite"},
        {.model_type = "granite_swa"},
        {.model_type = "granitemoe"},
        {.model_type = "granitemoe_swa"},
        {.model_type = "granitemoeshared"},
        {.model_type = "higgs_audio_v2", .theta = 5e5, .head_dim = 128, .scaling = &llama3_by_32},
        {.model_type = "hrm_text", .head_dim = 128},
        {.model_type = "hunyuan_v1_dense"},
        {.model_type = "hunyuan_v1_moe"},
        {.model_type = "hy_v3", .theta = 11158840, .head_dim = 128},
        {.model_type = "hyperclovax"},
        {.model_type = "idefics"},
        {.model_type = "internlm"},
        {.model_type = "internlm2"},
        {.model_type = "internlm3"},
        {.model_type = "jais2"},
        {.model_type = "jetmoe", .head_dim = 128},
        {.model_type = "jina_embeddings_v3", .theta = 2e4},
        {.model_type = "kyutai_speech_to_text"},
        {.model_type = "mimo"},
        {.model_type = "minicpm"},
        {.model_type = "minimax_m2", .theta = 5e6, .head_dim = 128, .honours_partial = true},
        {.model_type = "minimax_m3_vl_text", .theta = 5e6, .head_dim = 128, .honours_partial = true},
        {.model_type = "ministral"},
        {.model_type = "ministral3", .theta = 1e6, .head_dim = 128, .scaling = &yarn_by_16},
        {.model_type = "mistral"},
        {.model_type = "mixtral", .theta = 1e6},
        {.model_type = "moshi"},
        {.model_type = "nanochat", .backward = true},
        {.model_type = "nemotron", .partial = 0.5, .honours_partial = true},
        {.model_type = "nomic_bert", .theta = 1000, .keys = k::gpt_neox},
        {.model_type = "olmo"},
        {.model_type = "olmo2"},
        {.model_type = "olmoe"},
        {.model_type = "persimmon", .partial = 0.5, .honours_partial = true},
        {.model_type = "phi", .partial = 0.5, .honours_partial = true},
        {.model_type = "phi3", .honours_partial = true},
        {.model_type = "phi3small"},
        {.model_type = "phi4mm", .honours_partial = true},
        {.model_type = "phi4_multimodal", .honours_partial = true},
        {.model_type = "phimoe", .theta = 1e6},
        {.model_type = "qwen", .keys = k::qwen},
        {.model_type = "qwen2"},
        {.model_type = "qwen2_moe"},
        {.model_type = "qwen3", .head_dim = 128},
        {.model_type = "qwen3_moe"},
        {.model_type = "qwen3_omni_moe_talker_code_predictor", .head_dim = 128},
        {.model_type = "seed_oss", .head_dim = 128},
        {.model_type = "solar_open", .theta = 1e6, .head_dim = 128, .honours_partial = true},
        {.model_type = "stablelm", .partial = 0.25, .honours_partial = true, .keys = k::gpt_neox},
        {.model_type = "starcoder2"},
        {.model_type = "t5_gemma_module", .head_dim = 256},
        {.model_type = "telechat3"},
        {.model_type = "vaultgemma", .head_dim = 256},
        {.model_type = "voxtral_realtime_encoder", .head_dim = 64},
        {.model_type = "voxtral_realtime_text"},
        {.model_type = "xverse"},
        // ---- interleaved pairs, every layer alike
        {.model_type = "blt_local_encoder", .pairs = adjacent, .theta = 5e5},
        {.model_type = "blt_local_decoder", .pairs = adjacent, .theta = 5e5},
        {.model_type = "blt_global_transformer", .pairs = adjacent, .theta = 5e5},
        {.model_type = "blt_patcher", .pairs = adjacent},
        {.model_type = "chatglm", .pairs = adjacent, .partial = 0.5, .honours_partial = true, .keys = k::chatglm},
        {.model_type = "codegen", .pairs = adjacent, .keys = k::gpt_j},
        {.model_type = "cohere", .pairs = adjacent, .theta = 5e5},
        {.model_type = "ernie4_5", .pairs = adjacent, .theta = 5e5, .head_dim = 128},
        {.model_type = "ernie4_5_moe", .pairs = adjacent, .theta = 5e5},
        {.model_type = "glm", .pairs = adjacent, .partial = 0.5, .head_dim = 128, .honours_partial = true},
        {.model_type = "glm4", .pairs = adjacent, .partial = 0.5, .head_dim = 128, .honours_partial = true},
        {.model_type = "gptj", .pairs = adjacent, .keys = k::gpt_j},
        {.model_type = "helium", .pairs = adjacent, .theta = 1e5, .head_dim = 128},
        {.model_type = "moonshine", .pairs = adjacent, .partial = 0.9, .honours_partial = true, .keys = k::moonshine},
        {.model_type = "openai_privacy_filter", .pairs = adjacent, .theta = 150000, .head_dim = 64, .scaling = &yarn_by_32},
        {.model_type = "roformer", .pairs = adjacent},
        // ---- latent attention
        {.model_type = "axk1", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "axk2", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 64, .rope_dim = 32},
        {.model_type = "deepseek_v2", .pairs = adjacent, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "deepseek_v3", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "deepseek_v32", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 128, .rope_dim = 64, .indexer = indexer_kind::half},
        {.model_type = "glm4_moe_lite", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 192, .rope_dim = 64},
        {.model_type = "glm_moe_dsa", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 192, .rope_dim = 64, .indexer = indexer_kind::adjacent},
        {.model_type = "kimi_k2", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "kimi_linear", .rule = none, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "longcat_flash", .pairs = adjacent_to_half, .theta = 1e7, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        {.model_type = "minicpm3", .place = behind_nope, .nope_dim = 64, .rope_dim = 32},
        {.model_type = "mistral4", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 64, .rope_dim = 64, .scaling = &yarn_by_128},
        {.model_type = "youtu", .pairs = adjacent_to_half, .place = behind_nope, .nope_dim = 128, .rope_dim = 64},
        // ---- several position axes
        {.model_type = "cohere_compass_text", .head_dim = 128, .rule = by_type, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "cosmos3_edge_text", .theta = 1e8, .head_dim = 128, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "ernie4_5_vl_moe_text", .pairs = adjacent, .theta = 5e5, .sections = {22, 22, 20}, .order = o::rows_and_columns},
        {.model_type = "glm4v_text", .pairs = adjacent, .partial = 0.5, .sections = {8, 12, 12}, .honours_partial = true},
        {.model_type = "glm4v_moe_text", .partial = 0.5, .head_dim = 128, .sections = {8, 12, 12}, .honours_partial = true},
        {.model_type = "glm_image_text", .partial = 0.5, .sections = {8, 12, 12}, .honours_partial = true},
        {.model_type = "glm_ocr_text", .pairs = adjacent, .sections = {8, 12, 12}, .honours_partial = true},
        {.model_type = "hunyuan_vl_text", .sections = {16, 16, 16, 16}, .order = o::doubled_channels},
        {.model_type = "paddleocr_vl_text", .theta = 5e5, .head_dim = 128, .sections = {16, 24, 24}, .length = length_rule::kept},
        {.model_type = "qwen2_vl_text", .theta = 1e6, .sections = {16, 24, 24}, .length = length_rule::refused},
        {.model_type = "qwen2_5_vl_text", .theta = 1e6, .sections = {16, 24, 24}, .length = length_rule::refused},
        {.model_type = "qwen2_5_omni_text", .theta = 1e6, .sections = {16, 24, 24}, .length = length_rule::refused},
        {.model_type = "qwen2_5_omni_talker", .theta = 1e6, .head_dim = 128, .sections = {16, 24, 24}, .length = length_rule::refused},
        {.model_type = "qwen3_vl_text", .theta = 5e5, .head_dim = 128, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "qwen3_vl_moe_text", .theta = 5e5, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "qwen3_omni_moe_text", .theta = 1e6, .head_dim = 128, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "qwen3_omni_moe_talker_text", .head_dim = 128, .sections = {24, 20, 20}, .order = o::interleaved},
        {.model_type = "qwen3_5_text", .partial = 0.25, .head_dim = 256, .rule = attention_only, .every = 4, .sections = {11, 11, 10}, .order = o::interleaved, .honours_partial = true},
        {.model_type = "qwen3_5_moe_text", .partial = 0.25, .head_dim = 256, .rule = attention_only, .every = 4, .sections = {11, 11, 10}, .order = o::interleaved, .honours_partial = true},
        // ---- parameters by layer type
        {.model_type = "deepseek_v4", .pairs = adjacent, .theta = 160000, .partial = 0.125, .head_dim = 512, .rule = by_type, .local_theta = 1e4, .honours_partial = true, .place = back, .rope_dim = 64, .indexer = indexer_kind::adjacent_back, .flat = flat_scaling::compressed_only, .first_type = "compress"},
        {.model_type = "gemma3_text", .theta = 1e6, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4},
        {.model_type = "gemma3n_text", .theta = 1e6, .head_dim = 256, .rule = by_type, .every = 5, .local_theta = 1e4},
        {.model_type = "t5gemma2_text", .theta = 1e6, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4},
        {.model_type = "t5gemma2_decoder", .theta = 1e6, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4},
        {.model_type = "gemma4_text", .theta = 1e6, .partial = 0.25, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4, .local_partial = 1, .honours_partial = true, .scaling = &proportional_ladder, .global_head_dim = 512, .last_is_full = true},
        {.model_type = "gemma4_unified_text", .theta = 1e6, .partial = 0.25, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4, .local_partial = 1, .honours_partial = true, .scaling = &proportional_ladder, .global_head_dim = 512, .last_is_full = true},
        {.model_type = "diffusion_gemma_text", .theta = 1e6, .partial = 0.25, .head_dim = 256, .rule = by_type, .every = 6, .local_theta = 1e4, .local_partial = 1, .honours_partial = true, .scaling = &proportional_ladder, .global_head_dim = 512, .last_is_full = true},
        {.model_type = "laguna", .theta = 5e5, .partial = 0.5, .head_dim = 128, .rule = by_type, .local_theta = 1e4, .local_partial = 1, .honours_partial = true},
        {.model_type = "mellum", .theta = 5e5, .head_dim = 128, .rule = by_type, .local_theta = 1e4},
        {.model_type = "mimo_v2_flash", .theta = 5e6, .partial = 0.334, .head_dim = 192, .rule = by_type, .every = 6, .map = m::every_first_and_last, .local_theta = 1e4, .honours_partial = true},
        {.model_type = "modernbert", .theta = 160000, .rule = by_type, .every = 3, .map = m::every_first, .local_theta = 1e4, .flat = flat_scaling::everywhere},
        {.model_type = "modernbert-decoder", .theta = 160000, .rule = by_type, .every = 3, .map = m::every_first, .local_theta = 1e4, .flat = flat_scaling::everywhere},
        {.model_type = "olmo3", .theta = 5e5, .rule = by_type, .every = 4},
        {.model_type = "step3p5", .head_dim = 128, .rule = by_type, .honours_partial = true},
        {.model_type = "zaya", .theta = 5e6, .partial = 0.5, .head_dim = 128, .rule = by_type, .local_theta = 1e4, .honours_partial = true, .first_type = "hybrid"},
        // ---- NoPE layers
        {.model_type = "afmoe", .head_dim = 128, .rule = full_is_nope, .every = 4},
        {.model_type = "cohere2", .pairs = adjacent, .rule = full_is_nope, .every = 4},
        {.model_type = "cohere2_moe", .pairs = adjacent, .head_dim = 128, .rule = full_is_nope, .every = 4, .ignores_rope_scaling = true},
        {.model_type = "exaone4", .rule = full_is_nope_by_window, .every = 4},
        {.model_type = "exaone4_5_text", .rule = full_is_nope_by_window, .every = 4},
        {.model_type = "exaone_moe", .rule = full_is_nope_by_window, .every = 4},
        {.model_type = "llama4_text", .pairs = adjacent, .theta = 5e5, .head_dim = 128, .rule = no_rope_list, .every = 4},
        {.model_type = "mllama_text_model", .theta = 5e5, .rule = cross_is_nope, .every = 5, .map = m::every_last_but_one},
        {.model_type = "muse_glimmer_text", .head_dim = 128, .rule = full_is_nope, .every = 4},
        {.model_type = "muse_glimmer_assistant", .theta = 5e5, .head_dim = 128},
        {.model_type = "smollm3", .theta = 2e6, .rule = no_rope_list, .every = 4},
        // ---- layers without attention
        {.model_type = "bamba", .partial = 0.5, .rule = attention_only, .map = m::listed, .honours_partial = true, .listed = &bamba_attention},
        {.model_type = "granitemoehybrid", .rule = attention_only, .every = 6, .reads_position_type = true},
        {.model_type = "lfm2", .theta = 1e6},
        {.model_type = "lfm2_moe", .theta = 1e6, .rule = attention_only, .every = 3},
        {.model_type = "minimax", .theta = 1e6, .rule = attention_only, .every = 2, .map = m::every_first},
        {.model_type = "minimax_m1", .theta = 1e7, .rule = attention_only, .every = 8},
        {.model_type = "olmo_hybrid", .rule = attention_only, .every = 4},
        {.model_type = "qwen3_next", .partial = 0.25, .head_dim = 256, .rule = attention_only, .every = 4, .honours_partial = true},
        {.model_type = "recurrent_gemma", .partial = 0.5, .head_dim = 256, .rule = attention_only, .every = 3, .honours_partial = true},
        {.model_type = "zamba2", .rule = attention_only, .map = m::listed, .keys = k::zamba, .listed = &zamba2_attention},
        {.model_type = "jamba", .rule = none},
        {.model_type = "nemotron_h", .head_dim = 128, .rule = none},
    });
}();

/// The classes that wrap a text model.
/// Source: as model_rules.
inline constexpr auto composite_types = std::to_array<composite_type>({
    {"aria", "aria_text"}, {"audioflamingo3", "qwen2"}, {"aya_vision", "cohere2"},
    {"blt", "blt_global_transformer"}, {"cohere_compass", "cohere_compass_text"},
    {"colmodernvbert", "modernbert"}, {"colpali", "gemma"}, {"colqwen2", "qwen2_vl_text"},
    {"cosmos3_edge", "cosmos3_edge_text"}, {"cosmos3_omni", "qwen3_vl_text"},
    {"deepseek_ocr2", "deepseek_ocr2_text"}, {"deepseek_ref", "deepseek_v4"}, {"deepseek_vl", "llama"},
    {"deepseek_vl_v2", "deepseek_v2"}, {"diffusion_gemma", "diffusion_gemma_text"},
    {"emu3", "emu3_text_model"}, {"ernie4_5_vl_moe", "ernie4_5_vl_moe_text"}, {"exaone4_5", "exaone4"},
    {"fast_vlm", "qwen2"}, {"fuyu", "persimmon"}, {"gemma3", "gemma3_text"}, {"gemma3n", "gemma3n_text"},
    {"gemma4", "gemma4_text"}, {"gemma4_unified", "gemma4_unified_text"}, {"glm46v", "glm4v_text"},
    {"glm4v", "glm4v_text"}, {"glm4v_moe", "glm4v_moe_text"}, {"glm_image", "glm_image_text"},
    {"glm_ocr", "glm_ocr_text"}, {"glmasr", "llama"}, {"got_ocr2", "qwen2"},
    {"granite4_vision_text", "granite"}, {"granite_speech", "granite"}, {"granite_speech_plus", "granite"},
    {"hunyuan_vl", "hunyuan_vl_text"}, {"idefics2", "mistral"}, {"idefics3", "llama"}, {"internvl", "qwen2"},
    {"internvl_chat", "llama"}, {"janus", "llama"}, {"kimi_k25", "deepseek_v3"}, {"kimi_k3", "kimi_linear"},
    {"lighton_ocr", "qwen3"}, {"llama4", "llama4_text"}, {"llava", "llama"}, {"llava_next", "llama"},
    {"llava_next_video", "llama"}, {"llava_onevision", "qwen2"}, {"minicpmv4_6", "qwen3_5_text"},
    {"minimax_m3_vl", "minimax_m3_vl_text"}, {"mistral3", "mistral"}, {"mllama", "mllama_text_model"},
    {"modernvbert", "modernbert"}, {"muse_glimmer", "muse_glimmer_text"}, {"musicflamingo", "qwen2"},
    {"ovis2", "qwen2"}, {"paddleocr_vl", "paddleocr_vl_text"}, {"paligemma", "gemma"},
    {"perception_lm", "llama"}, {"pp_chart2table", "qwen2"}, {"qwen2_5_omni", "qwen2_5_omni_text"},
    {"qwen2_5_omni_thinker", "qwen2_5_omni_text"}, {"qwen2_5_vl", "qwen2_5_vl_text"},
    {"qwen2_audio", "qwen2"}, {"qwen2_vl", "qwen2_vl_text"}, {"qwen3_5", "qwen3_5_text"},
    {"qwen3_5_moe", "qwen3_5_moe_text"}, {"qwen3_asr", "qwen3"}, {"qwen3_omni_moe", "qwen3_omni_moe_text"},
    {"qwen3_omni_moe_thinker", "qwen3_omni_moe_text"}, {"qwen3_vl", "qwen3_vl_text"},
    {"qwen3_vl_moe", "qwen3_vl_moe_text"}, {"smolvlm", "llama"}, {"step3p7", "step3p5"},
    {"t5gemma2", "t5gemma2_text"}, {"t5gemma2_encoder", "t5gemma2_text"}, {"video_llama_3", "qwen2"},
    {"video_llava", "llama"}, {"vipllava", "llama"}, {"voxtral", "llama"},
    {"voxtral_realtime", "voxtral_realtime_text"},
});

// clang-format on

/// The rules of a model_type, or of the text model that it wraps; null: unknown.
inline const model_rules* find_model_rules(std::string_view model_type) noexcept {
    for (const auto& wrapped : composite_types)
        if (wrapped.model_type == model_type) model_type = wrapped.text_type;
    const auto at = std::find_if(model_types.begin(), model_types.end(),
                                 [=](const model_rules& m) { return m.model_type == model_type; });
    return at == model_types.end() ? nullptr : &*at;
}

/// The keys under which a config may hold the config of its text model, in the order in which they are tried.
inline constexpr std::array<std::string_view, 6> text_config_keys = {
    "vlm_config", "thinker_config", "llm_config", "language_config", "text_config", "language_model_config"};

}  // namespace ROPEWALK_NAMESPACE::detail
