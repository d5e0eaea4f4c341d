// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reads the weights of MuseControlLite's layers from the safetensors files of the official code.
#pragma once

#include <cmath>
#include <string>

#include <ropewalk/adapters/musecontrollite.hpp>
#include <ropewalk/models/safetensors.hpp>

namespace ROPEWALK_NAMESPACE::musecontrollite {

/// One of the conditions of a layer with two.
enum class condition_kind : std::uint8_t { first, audio };

/// Reads the trained weights of one layer from a file of the official code: `layer`.to_k_ip.weight,
/// .to_v_ip.weight and .conv_out.weight (of one frame: [width, width, 1]), or the same with _audio before
/// .weight for the second condition, of any real type. `layer` is the prefix of the names,
/// "transformer_blocks.0.attn2.processor" in diffusers.
/// Throws:   invalid_config naming the tensor: one that is missing, of another shape, or with numbers that
///           are not finite; as control_layer on sizes that are not valid.
/// Source:   fundwotsai2001/MuseControlLite MuseControlLite_setup.py, the processors of one and of two
///           conditions.
template <class T = float>
control_weights<T> read_control_weights(const safetensors& file, const std::string& layer,
                                        const control_config& config,
                                        condition_kind kind = condition_kind::first) {
    constexpr const char* who = "musecontrollite::read_control_weights";
    using matrix = typename control_weights<T>::matrix;
    const index kv =
        detail::checked_product(who, "kv_heads x head_dim must be >= 0", {config.kv_heads, config.head_dim});
    const index width =
        detail::checked_product(who, "heads x head_dim must be >= 0", {config.heads, config.head_dim});
    const auto read = [&](const char* of, const std::vector<index>& extents) {
        const std::string name =
            layer + "." + of + (kind == condition_kind::audio ? "_audio" : "") + ".weight";
        const auto numbers = file.numbers<T>(name, extents);
        for (const T v : numbers)
            if (!std::isfinite(v))
                detail::fail(std::string(who) + ": " + file.called() + ": " + detail::shown_name(name) +
                             " must hold finite numbers, got " + detail::text(v));
        return matrix(Eigen::Map<const matrix>(numbers.data(), extents[0], extents[1]));
    };
    return {.to_k = read("to_k_ip", {kv, config.condition_channels}),
            .to_v = read("to_v_ip", {kv, config.condition_channels}),
            .conv_out = read("conv_out", {width, width, 1})};
}

}  // namespace ROPEWALK_NAMESPACE::musecontrollite
