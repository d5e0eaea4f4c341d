// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <array>
#include <string_view>

#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// What a Hugging Face config does not say, because the class of its model_type does: how channels pair
/// up, and the values of missing keys.
/// Source: huggingface/transformers models/*/configuration_*.py and modeling_*.py.
struct huggingface_model {
    enum class layer_rule {
        all,             ///< every layer turns alike
        layer_types,     ///< the config's layer_types (or sliding_window_pattern) choose the parameters
        no_rope_layers,  ///< a list of 0 and 1, or every n-th layer is NoPE
        sliding_only,    ///< full-attention layers are NoPE
        attention_only,  ///< linear-attention layers have no rotary embedding
    };
    enum class key_names { usual, gpt_neox, gpt_j, chatglm, falcon };

    std::string_view model_type;
    bool interleaved_pairs = false;
    double default_theta = 1e4;
    double default_partial = 1;
    layer_rule rule = layer_rule::all;
    int every = 0;  ///< the period of the rule where the config has none: every n-th layer is the other kind
    key_names keys = key_names::usual;
    int default_head_dim = 0;  ///< 0: hidden_size / num_attention_heads
    double local_theta = 0;    ///< base of sliding layers where the config has none
    bool interleaved_sections = false;
    /// mrope_section where the config has none: such a model is never one of a single axis. All 0: none.
    std::array<int, 3> default_sections = {};
    bool latent_attention = false;  ///< DeepSeek: heads are [nope, rope] channels, written half-split
};

inline constexpr auto huggingface_models = [] {
    using m = huggingface_model;
    using rule = m::layer_rule;
    using keys = m::key_names;
    const auto qwen2_vl = [](std::string_view type) {
        return m{.model_type = type, .default_theta = 1e6, .default_sections = {16, 24, 24}};
    };
    const auto qwen3_vl = [](std::string_view type) {
        return m{.model_type = type,
                 .default_theta = 5e6,
                 .default_head_dim = 128,
                 .interleaved_sections = true,
                 .default_sections = {24, 20, 20}};
    };
    const auto qwen3_5 = [](std::string_view type) {
        return m{.model_type = type,
                 .default_theta = 1e7,
                 .default_partial = 0.25,
                 .rule = rule::attention_only,
                 .every = 4,
                 .default_head_dim = 256,
                 .interleaved_sections = true,
                 .default_sections = {11, 11, 10}};
    };
    return std::to_array<m>({
        {.model_type = "llama"},
        {.model_type = "mistral"},
        {.model_type = "ministral"},
        {.model_type = "ministral3", .default_head_dim = 128},
        {.model_type = "mixtral", .default_theta = 1e6},
        {.model_type = "qwen", .keys = keys::gpt_neox},
        {.model_type = "qwen2"},
        {.model_type = "qwen2_moe"},
        {.model_type = "qwen3", .default_head_dim = 128},
        {.model_type = "qwen3_moe"},
        {.model_type = "qwen3_next",
         .default_partial = 0.25,
         .rule = rule::attention_only,
         .every = 4,
         .default_head_dim = 256},
        qwen2_vl("qwen2_vl"),
        qwen2_vl("qwen2_vl_text"),
        qwen2_vl("qwen2_5_vl"),
        qwen2_vl("qwen2_5_vl_text"),
        qwen2_vl("qwen2_5_omni"),
        qwen2_vl("qwen2_5_omni_thinker"),
        qwen2_vl("qwen2_5_omni_text"),
        qwen3_vl("qwen3_vl"),
        qwen3_vl("qwen3_vl_text"),
        qwen3_vl("qwen3_vl_moe"),
        qwen3_vl("qwen3_vl_moe_text"),
        qwen3_5("qwen3_5"),
        qwen3_5("qwen3_5_text"),
        qwen3_5("qwen3_5_moe"),
        qwen3_5("qwen3_5_moe_text"),
        {.model_type = "gemma", .default_head_dim = 256},
        {.model_type = "gemma2", .default_head_dim = 256},
        {.model_type = "gemma3",
         .default_theta = 1e6,
         .rule = rule::layer_types,
         .every = 6,
         .default_head_dim = 256,
         .local_theta = 1e4},
        {.model_type = "gemma3_text",
         .default_theta = 1e6,
         .rule = rule::layer_types,
         .every = 6,
         .default_head_dim = 256,
         .local_theta = 1e4},
        {.model_type = "gemma4_text",
         .default_theta = 1e6,
         .rule = rule::layer_types,
         .every = 6,
         .default_head_dim = 256,
         .local_theta = 1e4},
        {.model_type = "phi", .default_partial = 0.5},
        {.model_type = "phi3"},
        {.model_type = "gpt_neox", .default_partial = 0.25, .keys = keys::gpt_neox},
        {.model_type = "gptj", .interleaved_pairs = true, .keys = keys::gpt_j},
        {.model_type = "codegen", .interleaved_pairs = true, .keys = keys::gpt_j},
        {.model_type = "falcon", .keys = keys::falcon},
        {.model_type = "stablelm", .default_partial = 0.25},
        {.model_type = "olmo"},
        {.model_type = "olmo2"},
        {.model_type = "olmo3", .default_theta = 5e5, .rule = rule::layer_types, .every = 4},
        {.model_type = "starcoder2"},
        {.model_type = "internlm2"},
        {.model_type = "granite"},
        {.model_type = "apertus", .default_theta = 1.2e7},
        {.model_type = "nemotron", .default_partial = 0.5},
        {.model_type = "hunyuan_v1_dense"},
        {.model_type = "hunyuan_v1_moe"},
        {.model_type = "cohere", .interleaved_pairs = true, .default_theta = 5e5},
        {.model_type = "cohere2", .interleaved_pairs = true, .rule = rule::sliding_only, .every = 4},
        {.model_type = "glm", .interleaved_pairs = true, .default_partial = 0.5, .default_head_dim = 128},
        {.model_type = "glm4", .interleaved_pairs = true, .default_partial = 0.5, .default_head_dim = 128},
        {.model_type = "chatglm", .interleaved_pairs = true, .default_partial = 0.5, .keys = keys::chatglm},
        {.model_type = "helium", .interleaved_pairs = true, .default_theta = 1e5, .default_head_dim = 128},
        {.model_type = "ernie4_5", .interleaved_pairs = true, .default_theta = 5e5, .default_head_dim = 128},
        {.model_type = "roformer", .interleaved_pairs = true},
        {.model_type = "gpt_oss", .default_theta = 150000, .default_head_dim = 64},
        {.model_type = "smollm3", .default_theta = 2e6, .rule = rule::no_rope_layers, .every = 4},
        {.model_type = "llama4_text",
         .interleaved_pairs = true,
         .default_theta = 5e5,
         .rule = rule::no_rope_layers,
         .every = 4,
         .default_head_dim = 128},
        {.model_type = "deepseek_v2", .interleaved_pairs = true, .latent_attention = true},
        {.model_type = "deepseek_v3", .interleaved_pairs = true, .latent_attention = true},
    });
}();

inline const huggingface_model* find_huggingface_model(std::string_view model_type) noexcept {
    for (const auto& model : huggingface_models)
        if (model.model_type == model_type) return &model;
    return nullptr;
}

}  // namespace ROPEWALK_NAMESPACE::detail
