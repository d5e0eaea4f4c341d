// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The table of llama.cpp's architectures: what their rotary embedding does that a GGUF file does not state.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <ropewalk/core/version.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Whether an architecture rotates: always; never (no position encoding, ALiBi or a recurrence); or only in
/// files that have a rope key. llama.cpp assigns a layout to BERT and StarCoder but rotates nothing in them
/// (their positions are learned, and their files have no rope keys). It does not run GPT-J, whose files have
/// rope keys.
enum class gguf_rotation : std::uint8_t { always, never, where_said };

/// How an architecture assigns rope.dimension_sections to the pairs; none: it is not known to have sections.
enum class gguf_sections : std::uint8_t { none, contiguous, interleaved };

/// What sliding layers share with global ones, apart from the base. same: everything; without_tensors: all
/// but the rotary tensors; plain: neither the rotary tensors nor the scaling.
enum class gguf_sliding : std::uint8_t { same, without_tensors, plain };

/// What llama.cpp knows about an architecture and the file does not state. Layers are counted from 1.
/// Source: llama.cpp's architecture table (pair layouts) and its per-model layer rules.
struct gguf_architecture {
    std::string_view name;
    bool half_split = false;
    gguf_rotation rotates = gguf_rotation::always;
    int nope_every = 0;                         ///< every n-th layer is NoPE
    int attending_every = 0;                    ///< every n-th layer has softmax attention, others linear
    int global_every = 0;                       ///< every n-th layer is global, the others slide
    bool global_first = false;                  ///< the first layer of each n is the global one, not the last
    bool listed_sliding = false;                ///< the file must list which layers slide
    bool window_decides = false;                ///< layers slide in files with attention.sliding_window only
    int window_layers = 0;                      ///< ... or in models of this many layers
    bool zero_window_rotates_all = false;       ///< attention.sliding_window 0: no layer is NoPE
    gguf_sliding sliding = gguf_sliding::same;  ///< what sliding layers share with global ones
    double local_base = 0;     ///< base of sliding layers without rope.freq_base_swa; 0 = rope.freq_base
    bool half_global = false;  ///< global layers rotate half of rope.dimension_count
    bool nope_global = false;  ///< global layers are NoPE
    int alibi_layers = 0;      ///< models of this many layers have ALiBi instead
    bool finetuned_decides = false;  ///< rope.scaling.finetuned false: no layer rotates
    bool latent = false;             ///< multi-head latent attention: the rotary slice comes last
    gguf_sections sections = gguf_sections::none;
    bool plain_without_sections = false;  ///< a file without sections is that of a text model
    double beta_fast = 32;                ///< used where the file has no rope.scaling.yarn_beta_fast
    std::string_view note = {};           ///< what else the model rotates
};

inline constexpr std::string_view sparse_indexer_note =
    "the sparse indexer rotates queries and keys of its own (attention.indexer.*)";

inline constexpr auto gguf_architectures = std::to_array<gguf_architecture>({
    {.name = "(unknown)", .rotates = gguf_rotation::never},
    {.name = "afmoe", .half_split = true, .nope_every = 4},
    {.name = "apertus", .half_split = true},
    {.name = "arcee"},
    {.name = "arctic"},
    {.name = "arwkv7", .rotates = gguf_rotation::never},
    {.name = "baichuan", .alibi_layers = 40},
    {.name = "bailingmoe"},
    {.name = "bailingmoe2", .half_split = true},
    {.name = "bert", .half_split = true, .rotates = gguf_rotation::where_said},
    {.name = "bitnet", .half_split = true},
    {.name = "bloom", .rotates = gguf_rotation::never},
    {.name = "chameleon"},
    {.name = "chatglm"},
    {.name = "clip", .rotates = gguf_rotation::never},
    {.name = "codeshell", .half_split = true},
    {.name = "cogvlm", .half_split = true},
    {.name = "cohere2", .global_every = 4, .nope_global = true},
    {.name = "command-r"},
    {.name = "dbrx", .half_split = true},
    {.name = "deci"},
    {.name = "deepseek"},
    {.name = "deepseek2", .latent = true},
    {.name = "deepseek2-ocr"},
    {.name = "dflash-draft", .half_split = true},
    {.name = "dots1", .half_split = true},
    {.name = "dream", .half_split = true},
    {.name = "ernie4_5"},
    {.name = "ernie4_5-moe"},
    {.name = "eurobert", .half_split = true},
    {.name = "exaone", .half_split = true},
    {.name = "exaone-moe", .half_split = true, .global_every = 4, .nope_global = true},
    {.name = "exaone4",
     .half_split = true,
     .global_every = 4,
     .window_decides = true,
     .window_layers = 64,
     .nope_global = true},
    {.name = "falcon", .half_split = true},
    {.name = "falcon-h1", .half_split = true},
    {.name = "gemma", .half_split = true},
    {.name = "gemma-embedding",
     .half_split = true,
     .global_every = 6,
     .sliding = gguf_sliding::plain,
     .local_base = 1e4},
    {.name = "gemma2", .half_split = true, .global_every = 2},
    {.name = "gemma3",
     .half_split = true,
     .global_every = 6,
     .sliding = gguf_sliding::plain,
     .local_base = 1e4},
    {.name = "gemma3n",
     .half_split = true,
     .global_every = 5,
     .sliding = gguf_sliding::plain,
     .local_base = 1e4},
    {.name = "gemma4",
     .half_split = true,
     .global_every = 6,
     .sliding = gguf_sliding::plain,
     .local_base = 1e4},
    {.name = "glm-dsa", .latent = true, .note = sparse_indexer_note},
    {.name = "glm4", .sections = gguf_sections::contiguous, .plain_without_sections = true},
    {.name = "glm4moe",
     .half_split = true,
     .sections = gguf_sections::contiguous,
     .plain_without_sections = true},
    {.name = "gpt-oss", .half_split = true, .global_every = 2},
    {.name = "gpt2", .rotates = gguf_rotation::never},
    {.name = "gptj", .rotates = gguf_rotation::where_said},
    {.name = "gptneox", .half_split = true},
    {.name = "granite", .finetuned_decides = true},
    {.name = "granitehybrid", .finetuned_decides = true},
    {.name = "granitemoe", .finetuned_decides = true},
    {.name = "grok", .half_split = true, .beta_fast = 8},
    {.name = "grovemoe", .half_split = true},
    {.name = "hunyuan-dense", .half_split = true},
    {.name = "hunyuan-moe", .half_split = true},
    {.name = "hunyuan_vl",
     .half_split = true,
     .sections = gguf_sections::contiguous,
     .plain_without_sections = true},
    {.name = "internlm2"},
    {.name = "jais", .rotates = gguf_rotation::never},
    {.name = "jais2", .half_split = true},
    {.name = "jamba", .rotates = gguf_rotation::never},
    {.name = "jina-bert-v2", .rotates = gguf_rotation::never},
    {.name = "jina-bert-v3", .half_split = true},
    {.name = "kimi-linear", .rotates = gguf_rotation::never},
    {.name = "lfm2", .half_split = true},
    {.name = "lfm2moe", .half_split = true},
    {.name = "llada"},
    {.name = "llada-moe", .half_split = true},
    {.name = "llama"},
    {.name = "llama-embed"},
    {.name = "llama4", .nope_every = 4, .zero_window_rotates_all = true},
    {.name = "maincoder"},
    {.name = "mamba", .rotates = gguf_rotation::never},
    {.name = "mamba2", .rotates = gguf_rotation::never},
    {.name = "mimo2", .half_split = true, .listed_sliding = true, .local_base = 1e4},
    {.name = "minicpm"},
    {.name = "minicpm3", .half_split = true, .latent = true},
    {.name = "minimax-m2", .half_split = true},
    {.name = "mistral3"},
    {.name = "mistral4", .latent = true},
    {.name = "modern-bert",
     .half_split = true,
     .global_every = 3,
     .global_first = true,
     .window_decides = true,
     .local_base = 1e4},
    {.name = "mpt", .rotates = gguf_rotation::never},
    {.name = "nemotron", .half_split = true},
    {.name = "nemotron_h", .rotates = gguf_rotation::never},
    {.name = "nemotron_h_moe", .rotates = gguf_rotation::never},
    {.name = "neo-bert"},
    {.name = "nomic-bert", .half_split = true},
    {.name = "nomic-bert-moe", .half_split = true},
    {.name = "olmo"},
    {.name = "olmo2",
     .half_split = true,
     .global_every = 4,
     .window_decides = true,
     .sliding = gguf_sliding::plain},
    {.name = "olmoe", .half_split = true},
    {.name = "openelm", .half_split = true},
    {.name = "orion", .half_split = true},
    {.name = "paddleocr", .half_split = true, .sections = gguf_sections::contiguous},
    {.name = "pangu-embedded", .half_split = true},
    {.name = "phi2", .half_split = true},
    {.name = "phi3", .half_split = true},
    {.name = "phimoe", .half_split = true},
    {.name = "plamo", .half_split = true},
    {.name = "plamo2", .half_split = true},
    {.name = "plamo3", .half_split = true, .global_every = 8, .window_decides = true, .local_base = 1e4},
    {.name = "plm", .latent = true},
    {.name = "qwen", .half_split = true},
    {.name = "qwen2", .half_split = true},
    {.name = "qwen2moe", .half_split = true},
    {.name = "qwen2vl", .half_split = true, .sections = gguf_sections::contiguous},
    {.name = "qwen3", .half_split = true},
    {.name = "qwen35", .half_split = true, .attending_every = 4, .sections = gguf_sections::interleaved},
    {.name = "qwen35moe", .half_split = true, .attending_every = 4, .sections = gguf_sections::interleaved},
    {.name = "qwen3moe", .half_split = true},
    {.name = "qwen3next", .half_split = true, .attending_every = 4},
    {.name = "qwen3vl", .half_split = true, .sections = gguf_sections::interleaved},
    {.name = "qwen3vlmoe", .half_split = true, .sections = gguf_sections::interleaved},
    {.name = "refact", .rotates = gguf_rotation::never},
    {.name = "rnd1", .half_split = true},
    {.name = "rwkv6", .rotates = gguf_rotation::never},
    {.name = "rwkv6qwen2", .rotates = gguf_rotation::never},
    {.name = "rwkv7", .rotates = gguf_rotation::never},
    {.name = "seed_oss", .half_split = true},
    {.name = "smallthinker",
     .half_split = true,
     .global_every = 4,
     .global_first = true,
     .window_decides = true,
     .nope_global = true},
    {.name = "smollm3", .nope_every = 4},
    {.name = "stablelm", .half_split = true},
    {.name = "starcoder", .rotates = gguf_rotation::where_said},
    {.name = "starcoder2", .half_split = true},
    {.name = "step35",
     .half_split = true,
     .listed_sliding = true,
     .sliding = gguf_sliding::without_tensors,
     .local_base = 1e4,
     .half_global = true},
    {.name = "t5", .rotates = gguf_rotation::never},
    {.name = "t5encoder", .rotates = gguf_rotation::never},
    {.name = "wavtokenizer-dec", .rotates = gguf_rotation::never},
    {.name = "xverse"},
});

inline const gguf_architecture* find_gguf_architecture(std::string_view name) noexcept {
    for (const auto& architecture : gguf_architectures)
        if (architecture.name == name) return &architecture;
    return nullptr;
}

}  // namespace ROPEWALK_NAMESPACE::detail
