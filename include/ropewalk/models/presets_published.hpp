// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Presets of published models whose class has rotary rules of its own, each written as a config text.
#pragma once

#include <string_view>

#include <ropewalk/models/config_text.hpp>
#include <ropewalk/models/huggingface_json.hpp>
#include <ropewalk/models/presets_llama.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// A preset from the keys of its config that concern rotation; its class adds the others.
inline model_schemes preset_of(const char* name, weights origin, std::string_view keys) {
    require(origin == weights::hugging_face, name,
            "weights must be hugging_face (the layout of others is not "
            "the class's)",
            origin == weights::meta ? "meta" : "gguf");
    return make_model_schemes(from_huggingface(parse_config(keys)));
}

}  // namespace detail

/// The rotary embedding of published models whose class has rules of its own. Each is a config text; what the
/// text omits comes from the line of its class in model_types_table.hpp.
/// Throws: invalid_config where the weights are not Hugging Face's.
/// Cost:   under a millisecond.
/// Source: config.json of the model named, on Hugging Face; its class in huggingface/transformers.
namespace presets {

/// AFMoE (Trinity): full-attention layers, every 4th, are NoPE.
inline model_schemes afmoe(weights origin) {
    return detail::preset_of("afmoe", origin, R"({"model_type":"afmoe","num_hidden_layers":32})");
}
/// DeepSeek-V3.2: latent attention with a sparse indexer that rotates half-split.
inline model_schemes deepseek_v32(weights origin) {
    return detail::preset_of("deepseek_v32", origin, R"({"model_type":"deepseek_v32","num_hidden_layers":61,
        "index_head_dim":128,"max_position_embeddings":163840,"rope_scaling":{"type":"yarn","factor":40,
        "beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":4096}})");
}
/// DeepSeek-V4-Pro: the last 64 of 512 channels, base 160000 under YaRN by 16, output rotated back.
inline model_schemes deepseek_v4_pro(weights origin) {
    return detail::preset_of("deepseek_v4_pro", origin, R"({"model_type":"deepseek_v4","num_hidden_layers":61,
        "max_position_embeddings":1048576,"rope_scaling":{"type":"yarn","factor":16,"beta_fast":32,"beta_slow":1,
        "original_max_position_embeddings":65536}})");
}
/// ERNIE-4.5-21B-A3B: interleaved pairs.
inline model_schemes ernie45_21b(weights origin) {
    return detail::preset_of("ernie45_21b", origin, R"({"model_type":"ernie4_5_moe","num_hidden_layers":28,
        "head_dim":128,"max_position_embeddings":131072})");
}
/// ERNIE-4.5-VL-28B-A3B: rows and columns alternate on the fast 44 pairs, time has the slow 20.
inline model_schemes ernie45_vl_28b(weights origin) {
    return detail::preset_of("ernie45_vl_28b", origin, R"({"model_type":"ernie4_5_vl_moe_text",
        "num_hidden_layers":28,"head_dim":128,"max_position_embeddings":131072})");
}
/// EXAONE-4.0-32B: Llama 3's scaling by 16 on sliding layers, full-attention layers NoPE.
inline model_schemes exaone4_32b(weights origin) {
    return detail::preset_of("exaone4_32b", origin, R"({"model_type":"exaone4","num_hidden_layers":64,
        "head_dim":128,"rope_theta":1000000,"sliding_window":4096,"max_position_embeddings":131072,
        "rope_scaling":{"rope_type":"llama3","factor":16.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":8192}})");
}
/// Falcon-H1-7B: base 1e11.
inline model_schemes falcon_h1_7b(weights origin) {
    return detail::preset_of("falcon_h1_7b", origin, R"({"model_type":"falcon_h1","num_hidden_layers":44,
        "head_dim":128,"rope_theta":100000000000.0,"max_position_embeddings":262144})");
}
/// Gemma 3n E4B: every 5th layer has base 1e6, the others 1e4.
inline model_schemes gemma3n_e4b(weights origin) {
    return detail::preset_of("gemma3n_e4b", origin, R"({"model_type":"gemma3n_text","num_hidden_layers":35,
        "max_position_embeddings":32768})");
}
/// GLM-4.5: half-split, 64 of 128 channels, base 1e6.
inline model_schemes glm45(weights origin) {
    return detail::preset_of("glm45", origin,
                             R"({"model_type":"glm4_moe","num_hidden_layers":92,"head_dim":128,
        "rope_theta":1000000,"partial_rotary_factor":0.5,"max_position_embeddings":131072})");
}
/// GLM-4.7-Flash: latent attention, base 1e6.
inline model_schemes glm47_flash(weights origin) {
    return detail::preset_of("glm47_flash", origin, R"({"model_type":"glm4_moe_lite","num_hidden_layers":47,
        "rope_theta":1000000,"max_position_embeddings":202752})");
}
/// GLM-5: latent attention, base 1e6, with a sparse indexer that rotates interleaved pairs.
inline model_schemes glm5(weights origin) {
    return detail::preset_of("glm5", origin, R"({"model_type":"glm_moe_dsa","num_hidden_layers":78,
        "rope_theta":1000000,"max_position_embeddings":202752})");
}
/// Granite 4.0 micro: every layer attends, base 1e7, logits scaled by 1/64.
inline model_schemes granite4_micro(weights origin) {
    return detail::preset_of("granite4_micro", origin, R"({"model_type":"granite","num_hidden_layers":40,
        "head_dim":64,"rope_theta":10000000,"max_position_embeddings":131072,
        "attention_multiplier":0.015625})");
}
/// Kimi K2: DeepSeek-V3's rotation with base 5e4 and YaRN by 32, whose ramp is a step.
inline model_schemes kimi_k2(weights origin) {
    return detail::preset_of("kimi_k2", origin, R"({"model_type":"deepseek_v3","num_hidden_layers":61,
        "rope_theta":50000,"max_position_embeddings":131072,"rope_scaling":{"type":"yarn","factor":32,
        "beta_fast":1,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":4096}})");
}
/// LongCat-Flash: latent attention, base 1e7.
inline model_schemes longcat_flash(weights origin) {
    return detail::preset_of("longcat_flash", origin, R"({"model_type":"longcat_flash","num_layers":28})");
}
/// MiMo-V2-Flash: 64 of 192 channels; base 5e6 on layer 0 and every 6th, 1e4 on sliding layers.
inline model_schemes mimo_v2_flash(weights origin) {
    return detail::preset_of("mimo_v2_flash", origin, R"({"model_type":"mimo_v2_flash","num_hidden_layers":48,
        "max_position_embeddings":262144})");
}
/// MiniMax-M2: 64 of 128 channels, base 5e6.
inline model_schemes minimax_m2(weights origin) {
    return detail::preset_of("minimax_m2", origin, R"({"model_type":"minimax_m2","num_hidden_layers":62,
        "rotary_dim":64,"max_position_embeddings":204800})");
}
/// ModernBERT base: base 160000 on every 3rd layer from the first, 1e4 on the others.
inline model_schemes modernbert_base(weights origin) {
    return detail::preset_of("modernbert_base", origin, R"({"model_type":"modernbert","num_hidden_layers":22,
        "head_dim":64,"max_position_embeddings":8192})");
}
/// Nomic Embed 1.5: base 1000.
inline model_schemes nomic_embed_v15(weights origin) {
    return detail::preset_of("nomic_embed_v15", origin,
                             R"({"model_type":"nomic_bert","n_layer":12,"n_head":12,
        "n_embd":768,"n_positions":8192})");
}
/// Qwen3-Omni 30B, the thinker's text: three position axes spread over the pairs.
inline model_schemes qwen3_omni_30b(weights origin) {
    return detail::preset_of("qwen3_omni_30b", origin, R"({"model_type":"qwen3_omni_moe_text",
        "num_hidden_layers":48,"head_dim":128,"max_position_embeddings":65536})");
}

}  // namespace presets
}  // namespace ROPEWALK_NAMESPACE
