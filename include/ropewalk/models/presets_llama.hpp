// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Presets of Llama and similar models, and the origin of weights that decides their pair layout.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ropewalk/models/model_config.hpp>

namespace ROPEWALK_NAMESPACE {

/// The origin of a checkpoint, which decides the order of its q and k channels. For the Llama family, Hugging
/// Face's conversions are half-split; Meta's own files and GGUF are interleaved. There is no default, because
/// a wrong layout causes no error, only wrong outputs.
/// Source: convert_llama_weights_to_hf; llama.cpp's conversion.
enum class weights : std::uint8_t { hugging_face, meta, gguf };

namespace detail {

inline pair_layout layout_or_throw(const char* preset, weights origin, pair_layout elsewhere) {
    require(origin != weights::meta, preset, "weights must be hugging_face or gguf (Meta never published it)",
            "meta");
    return elsewhere;
}

/// Half-split at Hugging Face, interleaved in Meta's files and in GGUF (the conversion permutes the weights).
inline pair_layout llama_layout(weights origin) {
    return origin == weights::hugging_face ? pair_layout(half_split{}) : pair_layout(interleaved{});
}

/// Half-split at Hugging Face, interleaved in GGUF under the architecture "llama" (Mistral, Yi, ...).
inline pair_layout llama_like_layout(const char* preset, weights origin) {
    layout_or_throw(preset, origin, half_split{});
    return llama_layout(origin);
}

struct preset_shape {
    const char* name;
    index layers;
    index head_dim;
    pair_layout layout;
};

inline model_config uniform_config(const preset_shape& shape, rope_parameters rope) {
    model_config c;
    c.model_type = shape.name;
    c.layers = shape.layers;
    c.head_dim = shape.head_dim;
    c.read_layout = c.write_layout = shape.layout;
    c.ropes.push_back(std::move(rope));
    return c;
}
inline rotary_scheme uniform_scheme(const preset_shape& shape, rope_parameters rope) {
    return make_model_schemes(uniform_config(shape, std::move(rope)))[0];
}

/// A scheme without scaling. It equals make_scheme's for the same numbers, but does not compile the scalings
/// in.
inline rotary_scheme unscaled_scheme(const preset_shape& shape, double base, std::int64_t max_context) {
    rotary_scheme s;
    s.name = shape.name;
    s.head_dim = s.rotary_dim = shape.head_dim;
    s.read_layout = s.write_layout = shape.layout;
    s.original_context = s.max_context = max_context;
    s.frequencies = [ladder = frequencies::geometric({.rotary_dim = shape.head_dim, .base = base})](
                        std::int64_t) { return ladder; };
    return s;
}

/// Every `every`-th layer uses ropes[1], or is NoPE where there is no second one.
inline model_schemes alternating(model_config c, index every) {
    for (index l = 1; l <= c.layers; ++l)
        c.rope_of_layer.push_back(l % every != 0 ? 0 : c.ropes.size() > 1 ? 1 : -1);
    return make_model_schemes(c);
}

}  // namespace detail

/// Llama and similar models; see presets.hpp.
/// Source: given at each function.
namespace presets {

// ---- Llama and its like

/// Llama 3.1's scaling as plain data, to modify or to put in a config of your own.
/// Source: meta-llama/llama-models models/llama3/model.py.
inline rope_parameters llama31_parameters(double factor = 8) {
    return {.scaling = rope_scaling::llama3,
            .base = 5e5,
            .factor = factor,
            .original_context = 8192,
            .max_context = 131072,
            .low_freq_factor = 1,
            .high_freq_factor = 4};
}

/// Llama 1, 7B to 65B: 128 channels, base 1e4, 2048 tokens.
/// Source: huggingface/transformers models/llama/configuration_llama.py (its defaults are the 7B).
inline rotary_scheme llama1_7b(weights origin) {
    return detail::unscaled_scheme({"llama", 32, 128, detail::llama_layout(origin)}, 1e4, 2048);
}
/// Llama 2, 7B to 70B: base 1e4, 4096 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama2_7b(weights origin) {
    return detail::unscaled_scheme({"llama", 32, 128, detail::llama_layout(origin)}, 1e4, 4096);
}
/// Code Llama 7B: base 1e6, 16384 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme code_llama_7b(weights origin) {
    return detail::unscaled_scheme({"llama", 32, 128, detail::llama_layout(origin)}, 1e6, 16384);
}
/// Llama 3 8B: base 5e5, 8192 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama3_8b(weights origin) {
    return detail::unscaled_scheme({"llama", 32, 128, detail::llama_layout(origin)}, 5e5, 8192);
}
/// Llama 3 70B. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama3_70b(weights origin) {
    return detail::unscaled_scheme({"llama", 80, 128, detail::llama_layout(origin)}, 5e5, 8192);
}
/// Llama 3.1 8B (and 3.3): base 5e5 with Llama-3 scaling by 8 over 8192 tokens.
/// Source: meta-llama/llama-models models/llama3/model.py (scaling); Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama31_8b(weights origin) {
    return detail::uniform_scheme({"llama", 32, 128, detail::llama_layout(origin)}, llama31_parameters(8));
}
/// Llama 3.2 1B: heads of 64 channels, scaling by 32. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama32_1b(weights origin) {
    return detail::uniform_scheme({"llama", 16, 64, detail::llama_layout(origin)}, llama31_parameters(32));
}
/// Llama 3.2 3B: scaling by 32. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme llama32_3b(weights origin) {
    return detail::uniform_scheme({"llama", 28, 128, detail::llama_layout(origin)}, llama31_parameters(32));
}
/// Llama 4 Scout: interleaved everywhere, Llama-3 scaling by 16, every 4th layer NoPE. The band is empty
/// (low = high = 1), as in the published config.
/// Source: huggingface/transformers models/llama4 (layers, layout, base);
/// IMvision12/KerasFormers kerasformers/models/llama4/config.py (scaling).
inline model_schemes llama4_scout(weights) {
    auto rope = llama31_parameters(16);
    rope.high_freq_factor = 1;
    rope.max_context = 10485760;
    rope.notes.push_back(
        "queries of NoPE layers are multiplied by a factor of the position (attn_temperature_tuning)");
    return detail::alternating(detail::uniform_config({"llama4_text", 48, 128, interleaved{}}, rope), 4);
}
/// Mistral 7B v0.1: base 1e4, sliding window 4096. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme mistral_7b(weights origin) {
    return detail::unscaled_scheme({"mistral", 32, 128, detail::llama_like_layout("mistral_7b", origin)}, 1e4,
                                   32768);
}
/// Mistral 7B from v0.2 on: base 1e6, no sliding window.
/// Source: NVIDIA-NeMo/Megatron-Bridge src/megatron/bridge/models/mistral/mistral_provider.py (v0.3).
inline rotary_scheme mistral_7b_v02(weights origin) {
    return detail::unscaled_scheme({"mistral", 32, 128, detail::llama_like_layout("mistral_7b_v02", origin)},
                                   1e6, 32768);
}
/// Mixtral 8x7B: base 1e6, 32768 tokens. Source: Lightning-AI/litgpt litgpt/config.py.
inline rotary_scheme mixtral_8x7b(weights origin) {
    return detail::unscaled_scheme({"mixtral", 32, 128, detail::llama_like_layout("mixtral_8x7b", origin)},
                                   1e6, 32768);
}
/// Mistral Nemo 12B: heads of 128 channels with a width of 5120, base 1e6; 131072 tokens, though the first
/// revision of its config has 1024000.
/// Source:   NVIDIA/NeMo nemo/collections/llm/gpt/model/mistral.py; config.json copied in
///           riple-saanvi-lab/Saanvi-C0-12B (tokens).
inline rotary_scheme mistral_nemo(weights origin) {
    return detail::unscaled_scheme({"mistral", 40, 128, detail::llama_like_layout("mistral_nemo", origin)},
                                   1e6, 131072);
}
/// Mistral Small 3 24B: base 1e8, 32768 tokens.
/// Source: NVIDIA-NeMo/Megatron-Bridge src/megatron/bridge/models/mistral/mistral_provider.py.
inline rotary_scheme mistral_small3(weights origin) {
    return detail::unscaled_scheme({"mistral", 40, 128, detail::llama_like_layout("mistral_small3", origin)},
                                   1e8, 32768);
}
/// Ministral 3: YaRN by 16 over 16384 tokens with mscale = mscale_all_dim = 1, so magnitude 1; queries also
/// have a factor that depends on the position, which is not in the table (see notes).
/// Source: huggingface/transformers models/ministral3 (its class defaults are the 8B).
inline rotary_scheme ministral3_8b(weights origin) {
    return detail::uniform_scheme(
        {"ministral3", 34, 128, detail::llama_like_layout("ministral3_8b", origin)},
        {.scaling = rope_scaling::yarn,
         .base = 1e6,
         .factor = 16,
         .original_context = 16384,
         .max_context = 262144,
         .mscale = 1,
         .mscale_all_dim = 1,
         .notes = {"queries are multiplied by 1 + 0.1 ln(1 + floor(position / original context)) "
                   "(llama_4_scaling_beta)"}});
}
/// Yi 34B 200K as released in November 2023: base 5e6. The weights of March 2024 have another base: read
/// their config. Source: config.json of 01-ai/Yi-34B-200K, revision d1466f8.
inline rotary_scheme yi_34b_200k(weights origin) {
    return detail::unscaled_scheme({"llama", 60, 128, detail::llama_like_layout("yi_34b_200k", origin)}, 5e6,
                                   200000);
}
/// InternLM 2 7B: base 1e6, dynamic NTK beyond 32768 tokens, by 2 (by 1 in its first revision; the 20B by 3).
/// Source: config.json of internlm/internlm2-chat-7b-sft and internlm/internlm2-chat-20b-sft.
inline rotary_scheme internlm2_7b(weights origin, double factor = 2) {
    return detail::uniform_scheme(
        {"internlm2", 32, 128, detail::llama_like_layout("internlm2_7b", origin)},
        {.scaling = rope_scaling::dynamic_ntk, .base = 1e6, .factor = factor, .max_context = 32768});
}
/// SmolLM3 3B: base 5e6, every 4th layer NoPE.
/// Source: huggingface/transformers models/smollm3 (layers, sizes); README.md of
/// HuggingFaceTB/SmolLM3-3B-Base (tokens); huggingface/candle candle-transformers/src/models/smol (base).
inline model_schemes smollm3_3b(weights origin) {
    return detail::alternating(
        detail::uniform_config({"smollm3", 36, 128, detail::llama_like_layout("smollm3_3b", origin)},
                               {.base = 5e6, .max_context = 65536}),
        4);
}
/// SmolLM3's long-context recipe: YaRN by 2 over 65536 tokens, magnitude 1.06931.
/// Source: as smollm3_3b.
inline model_schemes smollm3_3b_yarn(weights origin) {
    return detail::alternating(
        detail::uniform_config({"smollm3", 36, 128, detail::llama_like_layout("smollm3_3b_yarn", origin)},
                               {.scaling = rope_scaling::yarn,
                                .base = 5e6,
                                .factor = 2,
                                .original_context = 65536,
                                .max_context = 65536}),
        4);
}
/// Apertus 8B: base 1.2e7, Llama-3 scaling by 8 over 8192 tokens.
/// Source: huggingface/transformers models/apertus (its class defaults are the 8B).
inline rotary_scheme apertus_8b(weights origin) {
    auto rope = llama31_parameters(8);
    rope.base = 1.2e7;
    rope.max_context = 65536;
    return detail::uniform_scheme(
        {"apertus", 32, 128, detail::layout_or_throw("apertus_8b", origin, half_split{})}, rope);
}

}  // namespace presets
}  // namespace ROPEWALK_NAMESPACE
