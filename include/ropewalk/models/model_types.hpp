// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary rules of a Hugging Face model_type: what its class does that a config.json does not state.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <ropewalk/core/index.hpp>
#include <ropewalk/models/rope_parameters.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// How a class forms pairs in a head: half-split, adjacent channels, or read adjacent and written half-split.
enum class pair_order : std::uint8_t { half, adjacent, adjacent_to_half };

/// Where the rotary part of a head is.
enum class slice_place : std::uint8_t {
    front,
    behind_nope,  ///< latent attention: qk_nope_head_dim channels, then qk_rope_head_dim
    back,         ///< the last channels of a head (DeepSeek V4)
};

/// Which layers rotate, and with which parameters, where the config has no lists of its own.
enum class layer_rule : std::uint8_t {
    all,                     ///< every layer with attention rotates in the same way
    by_type,                 ///< a dictionary per layer type
    full_is_nope,            ///< only sliding layers rotate
    full_is_nope_by_window,  ///< the same, but all rotate where sliding_window is null
    no_rope_list,            ///< a list of 0 and 1; without one every n-th layer is NoPE
    attention_only,          ///< only the layers of the default map have attention
    cross_is_nope,           ///< layers of the default map attend to another sequence
    none,                    ///< no layer rotates
};

/// Which layers are the marked ones ("full_attention", NoPE, cross) of a rule with period n.
enum class layer_map : std::uint8_t {
    every_last,            ///< layers n - 1, 2 n - 1, ...
    every_first,           ///< layers 0, n, ...
    every_first_and_last,  ///< layer 0 and every_last
    every_last_but_one,    ///< layers n - 2, 2 n - 2, ...
    listed,                ///< `listed` of the class
};

/// The layer types to which a scaling applies that the config gives only once.
enum class flat_scaling : std::uint8_t { full_only, everywhere, compressed_only };

/// Whether the frequencies follow the context length where the scaling depends on it. `kept`: the official
/// code never updates them. `refused`: it does not either, but other engines do, so a strict reader refuses
/// the ambiguity.
enum class length_rule : std::uint8_t { followed, kept, refused };

/// How a sparse indexer rotates its own heads.
enum class indexer_kind : std::uint8_t { none, half, adjacent, adjacent_back };

/// Spellings of sizes and of the keys of the rope dictionary.
enum class key_names : std::uint8_t { usual, gpt_neox, gpt_j, chatglm, falcon, qwen, dbrx, moonshine, zamba };

/// The scaling of a class whose config has no rope dictionary.
struct default_scaling {
    rope_scaling kind = rope_scaling::none;
    double factor = 1;
    double original_context = 0;
    double low_freq_factor = 1;
    double high_freq_factor = 4;
    double mscale = 0;
    bool truncate = true;
};

/// The rotary rules of one model_type, which its class knows and its config does not state.
/// model_types_table.hpp has one line per model_type; a new model is a new line.
/// Source: huggingface/transformers models/*/configuration_*.py and modeling_*.py.
struct model_rules {
    std::string_view model_type = {};
    pair_order pairs = pair_order::half;
    double theta = 1e4;
    double partial = 1;
    int head_dim = 0;  ///< where the config has none; 0: hidden_size / num_attention_heads
    layer_rule rule = layer_rule::all;
    int every = 0;  ///< period of the map where the config has none; 0: all layers are the marked kind
    layer_map map = layer_map::every_last;
    double local_theta = 0;                     ///< base of sliding layers; 0: that of the others
    double local_partial = 0;                   ///< share of sliding layers; 0: that of the others
    std::array<std::int16_t, 4> sections = {};  ///< mrope_section where the config has none; all 0: none
    section_order order = section_order::contiguous;
    bool honours_partial = false;  ///< whether unscaled frequencies depend on partial_rotary_factor
    slice_place place = slice_place::front;
    int nope_dim = 0;  ///< latent attention: sizes where the config has none
    int rope_dim = 0;
    indexer_kind indexer = indexer_kind::none;
    const default_scaling* scaling = nullptr;
    flat_scaling flat = flat_scaling::full_only;
    key_names keys = key_names::usual;
    int global_head_dim = 0;           ///< head_dim of full-attention layers where it differs
    bool last_is_full = false;         ///< whether the last layer is full (Gemma 4), whatever the map
    bool reads_position_type = false;  ///< whether position_embedding_type turns the rotation off
    length_rule length = length_rule::followed;
    bool ignores_rope_scaling = false;  ///< whether the code reads rope_parameters only
    bool floors_head_dim = false;       ///< whether hidden_size / num_attention_heads is rounded down
    bool backward = false;              ///< pairs rotate by -p omega
    std::string_view first_type = {};   ///< the layer type of full layers, if it is not "full_attention"
    const std::array<std::int16_t, 12>* listed = nullptr;  ///< marked layers, ended by -1
};

/// The rules of an unknown class.
inline constexpr model_rules no_rules = {};

/// A class that wraps a text model, and the class of that model where the config does not name it.
struct composite_type {
    std::string_view model_type;
    std::string_view text_type;
};

}  // namespace ROPEWALK_NAMESPACE::detail
