// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Presets: the rotary schemes of published models by name.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ropewalk/models/presets_llama.hpp>

namespace ROPEWALK_NAMESPACE {

/// The rotary embedding of published models. A function returns one rotary_scheme where all layers are alike,
/// and model_schemes (layer -> scheme) where they differ. Each equals what from_huggingface makes of the
/// model's config text. "config.json of X" in a Source line is the file published with the weights X on
/// Hugging Face; "copied in Y" means its copy published with the weights Y.
/// Throws: invalid_config when there are no weights of that origin.
namespace presets {

// ---- Qwen

/// Qwen2.5 7B Instruct and larger: base 1e6, 32768 tokens (the base weights' config: 131072).
/// Source: Lightning-AI/litgpt litgpt/config.py; config.json copied in osllmai-community/Qwen2.5-7B-Instruct.
inline rotary_scheme qwen25_7b(weights origin) {
    return detail::unscaled_scheme(
        {"qwen2", 28, 128, detail::layout_or_throw("qwen25_7b", origin, half_split{})}, 1e6, 32768);
}
/// Qwen2.5's long-context recipe: YaRN by 4 over 32768 tokens, magnitude 1.13863.
/// Source: config.json of Qwen/Qwen2.5-7B-Instruct, revision d1e200f.
inline rotary_scheme qwen25_7b_yarn(weights origin) {
    return detail::uniform_scheme(
        {"qwen2", 28, 128, detail::layout_or_throw("qwen25_7b_yarn", origin, half_split{})},
        {.scaling = rope_scaling::yarn,
         .base = 1e6,
         .factor = 4,
         .original_context = 32768,
         .max_context = 32768});
}
/// Qwen3 8B: q and k are normalised before the rotation; base 1e6, 40960 tokens.
/// Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme qwen3_8b(weights origin) {
    return detail::unscaled_scheme(
        {"qwen3", 36, 128, detail::layout_or_throw("qwen3_8b", origin, half_split{})}, 1e6, 40960);
}
/// Qwen3's long-context recipe: YaRN by 4 over 32768 tokens, magnitude 1.13863.
/// Source: QwenLM/Qwen3 docs/source/inference/transformers.md.
inline rotary_scheme qwen3_8b_yarn(weights origin) {
    return detail::uniform_scheme(
        {"qwen3", 36, 128, detail::layout_or_throw("qwen3_8b_yarn", origin, half_split{})},
        {.scaling = rope_scaling::yarn,
         .base = 1e6,
         .factor = 4,
         .original_context = 32768,
         .max_context = 40960});
}
/// Qwen3-Next 80B: 64 of 256 channels rotate, base 1e7, in every 4th layer; the others are linear attention.
/// Source: huggingface/transformers models/qwen3_next (partial rotary, layers);
/// AI-Hypercomputer/maxtext src/maxtext/configs/models/qwen3-next-80b-a3b.yml (base).
inline model_schemes qwen3_next_80b(weights origin) {
    model_config c = detail::uniform_config(
        {"qwen3_next", 48, 256, detail::layout_or_throw("qwen3_next_80b", origin, half_split{})},
        {.base = 1e7, .partial_rotary_factor = 0.25, .max_context = 262144});
    for (index l = 1; l <= c.layers; ++l) c.rope_of_layer.push_back(l % 4 == 0 ? 0 : -1);
    return make_model_schemes(c);
}

// ---- Gemma

/// Gemma 7B, the first: heads of 256 channels, base 1e4, 8192 tokens.
/// Source: huggingface/transformers models/gemma (its class defaults are the 7B).
inline rotary_scheme gemma_7b(weights origin) {
    return detail::unscaled_scheme(
        {"gemma", 28, 256, detail::layout_or_throw("gemma_7b", origin, half_split{})}, 1e4, 8192);
}
/// Gemma 2 9B: heads of 256 channels, base 1e4, 8192 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme gemma2_9b(weights origin) {
    return detail::unscaled_scheme(
        {"gemma2", 42, 256, detail::layout_or_throw("gemma2_9b", origin, half_split{})}, 1e4, 8192);
}

/// Gemma 2 27B: heads of 128 channels, logits scaled by 1/sqrt(144).
/// Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme gemma2_27b(weights origin) {
    auto rope = detail::unscaled_scheme(
        {"gemma2", 46, 128, detail::layout_or_throw("gemma2_27b", origin, half_split{})}, 1e4, 8192);
    rope.logit_scale = detail::logit_scale_of(1 / std::sqrt(144.0), rope.head_dim);
    return rope;
}

}  // namespace presets

namespace detail {

/// The schemes of Gemma 3. `global` is the rope of the global layers without base and name, which all sizes
/// share.
inline model_schemes gemma3(const preset_shape& shape, rope_parameters global,
                            std::optional<double> softmax_scale = {}) {
    model_config c = uniform_config(shape, {.max_context = global.max_context, .name = "sliding_attention"});
    c.softmax_scale = softmax_scale;
    global.base = 1e6;
    global.name = "full_attention";
    c.ropes.push_back(std::move(global));
    return alternating(std::move(c), 6);
}

}  // namespace detail

namespace presets {

/// Gemma 3 4B: every 6th layer is global with base 1e6 and interpolation by 8, the others slide with base
/// 1e4 unscaled. Source: huggingface/transformers models/gemma3; Lightning-AI/litgpt litgpt/config.py.
inline model_schemes gemma3_4b(weights origin) {
    return detail::gemma3(
        {"gemma3_text", 34, 256, detail::layout_or_throw("gemma3_4b", origin, half_split{})},
        {.scaling = rope_scaling::linear, .factor = 8, .max_context = 131072});
}
/// Gemma 3 12B. Source: as gemma3_4b.
inline model_schemes gemma3_12b(weights origin) {
    return detail::gemma3(
        {"gemma3_text", 48, 256, detail::layout_or_throw("gemma3_12b", origin, half_split{})},
        {.scaling = rope_scaling::linear, .factor = 8, .max_context = 131072});
}
/// Gemma 3 27B: heads of 128 channels, logits scaled by 1/sqrt(168). Source: as gemma3_4b.
inline model_schemes gemma3_27b(weights origin) {
    return detail::gemma3(
        {"gemma3_text", 62, 128, detail::layout_or_throw("gemma3_27b", origin, half_split{})},
        {.scaling = rope_scaling::linear, .factor = 8, .max_context = 131072}, 1 / std::sqrt(168.0));
}
/// Gemma 3 1B: no interpolation, 32768 tokens.
/// Source: as gemma3_4b; config.json copied in mlx-community/gemma-3-1b-pt-6bit (tokens).
inline model_schemes gemma3_1b(weights origin) {
    return detail::gemma3(
        {"gemma3_text", 26, 256, detail::layout_or_throw("gemma3_1b", origin, half_split{})},
        {.max_context = 32768});
}
/// Gemma 4: sliding layers have heads of 256 channels and base 1e4; global ones heads of 512 channels of
/// which the quarter of highest frequencies rotates (p-RoPE, base 1e6).
/// Source: huggingface/transformers models/gemma4 (its class defaults).
inline model_schemes gemma4(weights origin) {
    model_config c = detail::uniform_config(
        {"gemma4_text", 30, 256, detail::layout_or_throw("gemma4", origin, half_split{})},
        {.max_context = 131072, .name = "sliding_attention"});
    c.ropes.push_back({.scaling = rope_scaling::proportional,
                       .base = 1e6,
                       .partial_rotary_factor = 0.25,
                       .max_context = 131072,
                       .head_dim = 512,
                       .name = "full_attention"});
    return detail::alternating(std::move(c), 6);
}

// ---- others, half-split

/// GPT-NeoX 20B: a quarter of 96 channels rotates, base 1e4. Source: huggingface/transformers
/// models/gpt_neox.
inline rotary_scheme gpt_neox_20b(weights origin) {
    return detail::uniform_scheme(
        {"gpt_neox", 44, 96, detail::layout_or_throw("gpt_neox_20b", origin, half_split{})},
        {.partial_rotary_factor = 0.25, .max_context = 2048});
}
/// Falcon 7B: heads of 64 channels, base 1e4. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme falcon_7b(weights origin) {
    return detail::unscaled_scheme(
        {"falcon", 32, 64, detail::layout_or_throw("falcon_7b", origin, half_split{})}, 1e4, 2048);
}
/// StableLM 3B 4E1T: 20 of 80 channels rotate.
/// Source: huggingface/transformers models/stablelm (its class defaults are the 3B).
inline rotary_scheme stablelm_3b(weights origin) {
    return detail::uniform_scheme(
        {"stablelm", 32, 80, detail::layout_or_throw("stablelm_3b", origin, half_split{})},
        {.partial_rotary_factor = 0.25, .max_context = 4096});
}
/// StableLM 2 1.6B: 16 of 64 channels rotate. Source: config.json of stabilityai/stablelm-2-1_6b-chat.
inline rotary_scheme stablelm2_1_6b(weights origin) {
    return detail::uniform_scheme(
        {"stablelm", 24, 64, detail::layout_or_throw("stablelm2_1_6b", origin, half_split{})},
        {.partial_rotary_factor = 0.25, .max_context = 4096});
}
/// Phi-1.5: 32 of 64 channels rotate. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme phi1_5(weights origin) {
    return detail::uniform_scheme({"phi", 24, 64, detail::layout_or_throw("phi1_5", origin, half_split{})},
                                  {.partial_rotary_factor = 0.5, .max_context = 2048});
}
/// Phi-2: 32 of 80 channels rotate. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme phi2(weights origin) {
    return detail::uniform_scheme({"phi", 32, 80, detail::layout_or_throw("phi2", origin, half_split{})},
                                  {.partial_rotary_factor = 0.4, .max_context = 2048});
}
/// Phi-3 mini 4k. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme phi3_mini_4k(weights origin) {
    return detail::uniform_scheme(
        {"phi3", 32, 96, detail::layout_or_throw("phi3_mini_4k", origin, half_split{})},
        {.original_context = 4096, .max_context = 4096});
}

/// The searched divisors of a LongRoPE checkpoint: rope_scaling.short_factor and long_factor of its config.
/// Source: LongRoPE, Ding et al. 2024.
struct longrope_factors {
    std::vector<double> short_factors;
    std::vector<double> long_factors;
};
/// Phi-3 and 3.5 mini 128k: LongRoPE from 4096 to 131072 tokens with the checkpoint's own 48 + 48 divisors,
/// magnitude 1.19024. Source: config.json of microsoft/Phi-3-mini-128k-instruct.
inline rotary_scheme phi3_mini_128k(weights origin, longrope_factors factors) {
    return detail::uniform_scheme(
        {"phi3", 32, 96, detail::layout_or_throw("phi3_mini_128k", origin, half_split{})},
        {.scaling = rope_scaling::longrope,
         .original_context = 4096,
         .max_context = 131072,
         .short_factors = std::move(factors.short_factors),
         .long_factors = std::move(factors.long_factors)});
}
/// Phi-4 mini: LongRoPE over 96 of 128 channels.
/// Source: AI-Hypercomputer/maxtext src/maxtext/configs/models/phi4-mini-instruct.yml.
inline rotary_scheme phi4_mini(weights origin, longrope_factors factors) {
    return detail::uniform_scheme(
        {"phi3", 32, 128, detail::layout_or_throw("phi4_mini", origin, half_split{})},
        {.scaling = rope_scaling::longrope,
         .partial_rotary_factor = 0.75,
         .original_context = 4096,
         .max_context = 131072,
         .short_factors = std::move(factors.short_factors),
         .long_factors = std::move(factors.long_factors)});
}
/// Phi-4 14B: base 250000, 16384 tokens. Source: config.json of microsoft/phi-4.
inline rotary_scheme phi4_14b(weights origin) {
    return detail::uniform_scheme(
        {"phi3", 40, 128, detail::layout_or_throw("phi4_14b", origin, half_split{})},
        {.base = 250000, .original_context = 16384, .max_context = 16384});
}
/// OLMo 7B, the first: base 1e4, 2048 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme olmo_7b(weights origin) {
    return detail::unscaled_scheme(
        {"olmo", 32, 128, detail::layout_or_throw("olmo_7b", origin, half_split{})}, 1e4, 2048);
}
/// OLMo 2 7B: base 5e5, 4096 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme olmo2_7b(weights origin) {
    return detail::unscaled_scheme(
        {"olmo2", 32, 128, detail::layout_or_throw("olmo2_7b", origin, half_split{})}, 5e5, 4096);
}
/// OLMo 3 7B: YaRN by 8 over 8192 tokens in every 4th (full-attention) layer, plain in the sliding ones.
/// Source: huggingface/transformers models/olmo3.
inline model_schemes olmo3_7b(weights origin) {
    model_config c =
        detail::uniform_config({"olmo3", 32, 128, detail::layout_or_throw("olmo3_7b", origin, half_split{})},
                               {.base = 5e5, .max_context = 65536, .name = "sliding_attention"});
    c.ropes.push_back({.scaling = rope_scaling::yarn,
                       .base = 5e5,
                       .factor = 8,
                       .original_context = 8192,
                       .max_context = 65536,
                       .attention_factor = 1.2079441541679836,
                       .name = "full_attention"});
    return detail::alternating(std::move(c), 4);
}
/// The scaling of gpt-oss as plain data.
/// Source: openai/gpt-oss gpt_oss/torch/model.py.
inline rope_parameters gpt_oss_parameters() {
    return {.scaling = rope_scaling::yarn,
            .base = 150000,
            .factor = 32,
            .original_context = 4096,
            .max_context = 131072,
            .truncate = false};
}
/// gpt-oss 20B and 120B: heads of 64 channels, base 150000, YaRN by 32 over 4096 tokens with its ramp not
/// rounded, magnitude 1.34657. Source: openai/gpt-oss gpt_oss/torch/model.py.
inline rotary_scheme gpt_oss_20b(weights origin) {
    return detail::uniform_scheme(
        {"gpt_oss", 24, 64, detail::layout_or_throw("gpt_oss_20b", origin, half_split{})},
        gpt_oss_parameters());
}

/// Falcon 3 7B: heads of 256 channels, base 1000042. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme falcon3_7b(weights origin) {
    return detail::unscaled_scheme({"llama", 28, 256, detail::llama_like_layout("falcon3_7b", origin)},
                                   1000042, 32768);
}
/// ChatGLM 6B, the first: two positions per token (in the text, in the block being written), each rotating
/// half of the channels, half-split within that half. Source: config.json and modeling_chatglm.py of
/// THUDM/chatglm-6b.
inline rotary_scheme chatglm_6b(weights origin) {
    return detail::uniform_scheme(
        {"chatglm", 28, 128, detail::layout_or_throw("chatglm_6b", origin, pair_layout::blocked_by(64))},
        {.max_context = 2048, .ladders = 2});
}

// ---- interleaved everywhere

/// RoFormer base: base 1e4, 64 channels, values are not rotated. Source: ZhuiyiTechnology/roformer;
/// huggingface/transformers models/roformer.
inline rotary_scheme roformer_base(weights origin) {
    return detail::unscaled_scheme(
        {"roformer", 12, 64, detail::layout_or_throw("roformer_base", origin, interleaved{})}, 1e4, 1536);
}
/// GPT-J 6B: the first 64 of 256 channels rotate. Source: huggingface/transformers models/gptj.
inline rotary_scheme gpt_j_6b(weights origin) {
    return detail::uniform_scheme(
        {"gptj", 28, 256, detail::layout_or_throw("gpt_j_6b", origin, interleaved{})},
        {.max_context = 2048, .rotary_dim = 64});
}
/// CodeGen 350M: the first 32 of 64 channels rotate. Source: config.json of Salesforce/codegen-350M-mono.
inline rotary_scheme codegen_350m(weights origin) {
    return detail::uniform_scheme(
        {"codegen", 20, 64, detail::layout_or_throw("codegen_350m", origin, interleaved{})},
        {.max_context = 2048, .rotary_dim = 32});
}
/// ChatGLM 3 6B: the first 64 of 128 channels rotate.
/// Source: config.json of THUDM/chatglm3-6b; NVIDIA/NeMo nemo/collections/llm/gpt/model/chatglm.py (layout).
inline rotary_scheme chatglm3_6b(weights origin) {
    return detail::uniform_scheme(
        {"chatglm", 28, 128, detail::layout_or_throw("chatglm3_6b", origin, interleaved{})},
        {.partial_rotary_factor = 0.5, .max_context = 8192});
}
/// GLM-4 9B (0414): the first half of the channels rotates, base 1e4.
/// Source: huggingface/transformers models/glm (layout) and models/glm4 (partial rotary, sizes);
/// Xinference documentation, models/builtin/llm/glm4-0414 (tokens).
inline rotary_scheme glm4_9b_0414(weights origin) {
    return detail::uniform_scheme(
        {"glm4", 40, 128, detail::layout_or_throw("glm4_9b_0414", origin, interleaved{})},
        {.partial_rotary_factor = 0.5, .max_context = 32768});
}
/// GLM-4 9B chat: rope_ratio 500, so base 5e6. Source: config.json of THUDM/glm-4-9b-chat;
/// as glm4_9b_0414 (layout).
inline rotary_scheme glm4_9b_chat(weights origin) {
    return detail::uniform_scheme(
        {"chatglm", 40, 128, detail::layout_or_throw("glm4_9b_chat", origin, interleaved{})},
        {.base = 5e6, .partial_rotary_factor = 0.5, .max_context = 131072});
}
/// Command-R 35B: base 8e6. The 131072 tokens are its config's model_max_length; max_position_embeddings says
/// 8192 there.
/// Source:   huggingface/transformers models/cohere (layout); ggml-org/llama.cpp conversion/command_r.py
///           (tokens); config.json copied in TechxGenus/c4ai-command-r-v01-AWQ.
inline rotary_scheme command_r_35b(weights origin) {
    return detail::unscaled_scheme(
        {"cohere", 40, 128, detail::layout_or_throw("command_r_35b", origin, interleaved{})}, 8e6, 131072);
}
/// Command-R+ 104B: base 7.5e7.
/// Source: as command_r_35b; config.json copied in FriendliAI/c4ai-command-r-plus-fp8.
inline rotary_scheme command_r_plus(weights origin) {
    return detail::unscaled_scheme(
        {"cohere", 64, 128, detail::layout_or_throw("command_r_plus", origin, interleaved{})}, 7.5e7, 131072);
}
/// Command-R7B: base 5e4 in the sliding layers; every 4th layer is full attention without position.
/// Source: huggingface/transformers models/cohere2 (layers, layout);
/// config.json copied in huihui-ai/c4ai-command-r7b-12-2024-abliterated (base).
inline model_schemes command_r7b(weights origin) {
    return detail::alternating(
        detail::uniform_config(
            {"cohere2", 32, 128, detail::layout_or_throw("command_r7b", origin, interleaved{})},
            {.base = 5e4, .max_context = 8192}),
        4);
}

}  // namespace presets

namespace detail {

inline rotary_scheme deepseek(const char* name, index layers, double mscale, weights origin) {
    model_config c = uniform_config({name, layers, 192, layout_or_throw(name, origin, interleaved{})}, {});
    c.first_channel = 128;
    c.rotary_channels = 64;
    const bool writes_half = std::string_view(name) != "deepseek_v2" && origin == weights::hugging_face;
    if (writes_half) c.write_layout = half_split{};
    const double m = frequencies::yarn_mscale(40, mscale);
    c.ropes.front() = {.scaling = rope_scaling::yarn,
                       .factor = 40,
                       .original_context = 4096,
                       .max_context = 163840,
                       .mscale = mscale,
                       .mscale_all_dim = mscale,
                       .logit_scale = m * m};
    return make_model_schemes(c)[0];
}

}  // namespace detail

namespace presets {

/// DeepSeek-V3 and R1: the last 64 of 192 channels rotate, read interleaved and written half-split (valid,
/// since q and k agree), YaRN by 40 over 4096 tokens with magnitude 1. The logits have the factor 1.87385
/// instead, because it also applies to the 128 channels that do not rotate.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py; huggingface/transformers models/deepseek_v3.
inline rotary_scheme deepseek_v3(weights origin) { return detail::deepseek("deepseek_v3", 61, 1.0, origin); }
/// DeepSeek-V2: as V3 with mscale = mscale_all_dim = 0.707, written interleaved as it is read.
/// Source: config.json of deepseek-ai/DeepSeek-V2-Chat.
inline rotary_scheme deepseek_v2(weights origin) {
    return detail::deepseek("deepseek_v2", 60, 0.707, origin);
}

}  // namespace presets
}  // namespace ROPEWALK_NAMESPACE
