// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <array>
#include <string_view>

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// How an architecture deals rope.dimension_sections to the pairs; none: it is not known to have any.
enum class gguf_sections { none, contiguous, interleaved };

/// What llama.cpp knows of an architecture and the file does not say.
/// Source: llama.cpp's architecture table (pair layouts) and its per-model layer rules.
struct gguf_architecture {
    std::string_view name;
    bool half_split = false;
    int nope_every = 0;           ///< every n-th layer is NoPE
    int turning_every = 0;        ///< every n-th layer turns, the others are linear attention
    int global_every = 0;         ///< every n-th layer is global, the others slide
    bool window_decides = false;  ///< layers slide in files with attention.sliding_window only
    bool plain_sliding = false;   ///< sliding layers take no scaling and no rope_freqs
    double local_base = 0;        ///< base of sliding layers without rope.freq_base_swa; 0 = rope.freq_base
    bool nope_global = false;     ///< global layers are NoPE
    bool latent = false;          ///< multi-head latent attention: the rotary slice ends the head
    gguf_sections sections = gguf_sections::none;
};

inline constexpr auto gguf_architectures = std::to_array<gguf_architecture>({
    {.name = "llama"},
    {.name = "llama4", .nope_every = 4},
    {.name = "deepseek2", .latent = true},
    {.name = "command-r"},
    {.name = "cohere2", .global_every = 4, .nope_global = true},
    {.name = "chatglm"},
    {.name = "glm4"},
    {.name = "gptj"},
    {.name = "olmo"},
    {.name = "baichuan"},
    {.name = "internlm2"},
    {.name = "minicpm"},
    {.name = "granite"},
    {.name = "mistral3"},
    {.name = "smollm3", .nope_every = 4},
    {.name = "ernie4_5"},
    {.name = "qwen", .half_split = true},
    {.name = "qwen2", .half_split = true},
    {.name = "qwen2moe", .half_split = true},
    {.name = "qwen3", .half_split = true},
    {.name = "qwen3moe", .half_split = true},
    {.name = "qwen3next", .half_split = true, .turning_every = 4},
    {.name = "qwen2vl", .half_split = true, .sections = gguf_sections::contiguous},
    {.name = "qwen3vl", .half_split = true, .sections = gguf_sections::interleaved},
    {.name = "qwen3vlmoe", .half_split = true, .sections = gguf_sections::interleaved},
    {.name = "gemma", .half_split = true},
    {.name = "gemma2", .half_split = true, .global_every = 2},
    {.name = "gemma3", .half_split = true, .global_every = 6, .plain_sliding = true, .local_base = 1e4},
    {.name = "gemma3n", .half_split = true, .global_every = 5, .plain_sliding = true, .local_base = 1e4},
    {.name = "gemma4", .half_split = true, .global_every = 6, .plain_sliding = true, .local_base = 1e4},
    {.name = "gemma-embedding",
     .half_split = true,
     .global_every = 6,
     .plain_sliding = true,
     .local_base = 1e4},
    {.name = "phi2", .half_split = true},
    {.name = "phi3", .half_split = true},
    {.name = "phimoe", .half_split = true},
    {.name = "falcon", .half_split = true},
    {.name = "gptneox", .half_split = true},
    {.name = "stablelm", .half_split = true},
    {.name = "olmo2", .half_split = true, .global_every = 4, .window_decides = true, .plain_sliding = true},
    {.name = "starcoder2", .half_split = true},
    {.name = "gpt-oss", .half_split = true, .global_every = 2},
    {.name = "exaone", .half_split = true},
    {.name = "nemotron", .half_split = true},
    {.name = "apertus", .half_split = true},
    {.name = "hunyuan-dense", .half_split = true},
    {.name = "hunyuan-moe", .half_split = true},
});

inline const gguf_architecture* find_gguf_architecture(std::string_view name) noexcept {
    for (const auto& architecture : gguf_architectures)
        if (architecture.name == name) return &architecture;
    return nullptr;
}

}  // namespace ROPEWALK_NAMESPACE::detail
