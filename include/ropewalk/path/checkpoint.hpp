// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads the generator of PaTH transforms from a checkpoint's tensors.
#pragma once

#include <string>
#include <string_view>

#include <ropewalk/core/stored_tensor.hpp>
#include <ropewalk/path/generation.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// A generator as stored in a checkpoint. The weights are spans of the file's memory.
template <class T>
struct stored_generator {
    generator_config config;       ///< its sizes
    generator_weights<T> weights;  ///< spans of the file's memory
};

/// The generator of a layer from its tensors, by the names of flash-linear-attention: `w_proj.0.weight` and
/// `w_proj.1.weight` (low rank) or `w_proj.weight`, `w_conv1d.weight` unless there is none, `bt_proj.weight`
/// and `bt_proj.bias`, and with a forget gate `g_proj.weight` and `g_proj.bias`. Sizes follow from the
/// extents.
/// Shapes:   tensors: a callable std::string_view -> stored_tensor<T>; w_proj.0.weight [rank, hidden],
///           w_proj.1.weight [kv heads * channels, rank], w_proj.weight [kv heads * channels, hidden],
///           w_conv1d.weight [kv heads * channels, 1, taps], bt_proj.weight [kv heads, hidden], bt_proj.bias
///           [kv heads], g_proj.weight [heads, hidden], g_proj.bias [heads]. prefix: put before the names
///           ("model.layers.3.attn.").
/// Throws:   invalid_config naming a tensor that is missing or has other extents.
/// Source:   fla-org/flash-linear-attention, layers/path_attn.py.
///
///     const auto stored = path::read_generator<float>(tensors, "model.layers.0.attn.");
///     const path::transform_generator<float> generator(stored.config, stored.weights);
template <class T, class Tensors>
stored_generator<T> read_generator(Tensors&& tensors, std::string_view prefix = {}) {
    constexpr const char* who = "path::read_generator";
    const auto named = [&](const char* name) { return std::string(prefix) + name; };
    const auto given = [&](const char* name) {
        return !tensors(std::string_view(named(name))).extents.empty();
    };
    const auto extents = [&](const char* name, std::size_t rank, const char* must) {
        const auto x = tensors(std::string_view(named(name))).extents;
        if (x.size() != rank) detail::refuse(who, (named(name) + must).c_str(), detail::extents_text(x));
        for (const index n : x)
            if (n < 1) detail::refuse(who, (named(name) + must).c_str(), detail::extents_text(x));
        return x;
    };
    const auto read = [&](const char* name, std::initializer_list<index> wanted) {
        return detail::tensor_of<T>(who, tensors, named(name), wanted);
    };
    stored_generator<T> g;
    const auto beta = extents("bt_proj.weight", 2, " must be [kv heads, hidden]");
    g.config.kv_heads = beta[0];
    g.config.hidden = beta[1];
    g.config.rank = 0;
    const bool low_rank = given("w_proj.0.weight");
    const auto up = low_rank ? extents("w_proj.1.weight", 2, " must be [kv heads * channels, rank]")
                             : extents("w_proj.weight", 2, " must be [kv heads * channels, hidden]");
    const index width = up[0];
    if (width % g.config.kv_heads != 0)
        detail::refuse(who, (named("bt_proj.weight") + " must have rows that divide those of w_proj").c_str(),
                       static_cast<long long>(g.config.kv_heads));
    g.config.channels = width / g.config.kv_heads;
    if (low_rank) {
        g.config.rank = up[1];
        g.weights.down = read("w_proj.0.weight", {g.config.rank, g.config.hidden});
        g.weights.up = read("w_proj.1.weight", {width, g.config.rank});
    } else {
        g.weights.up = read("w_proj.weight", {width, g.config.hidden});
    }
    g.config.conv = 0;
    if (given("w_conv1d.weight")) {
        g.config.conv = extents("w_conv1d.weight", 3, " must be [kv heads * channels, 1, taps]")[2];
        g.weights.conv = read("w_conv1d.weight", {width, 1, g.config.conv});
    }
    g.weights.beta_weight = read("bt_proj.weight", {g.config.kv_heads, g.config.hidden});
    g.weights.beta_bias = read("bt_proj.bias", {g.config.kv_heads});
    if (given("g_proj.weight")) {
        g.config.heads = extents("g_proj.weight", 2, " must be [heads, hidden]")[0];
        g.weights.gate_weight = read("g_proj.weight", {g.config.heads, g.config.hidden});
        g.weights.gate_bias = read("g_proj.bias", {g.config.heads});
    }
    return g;
}

}  // namespace ROPEWALK_NAMESPACE::path
