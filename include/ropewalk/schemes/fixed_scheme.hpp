// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotary schemes whose frequencies do not depend on the context length, and 2-D axial schemes of images.
#pragma once

#include <cmath>
#include <string>
#include <utility>

#include <ropewalk/frequencies/axial.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

struct fixed_scheme_config {
    std::string name = {};    ///< name in messages and in explain
    index head_dim = 0;       ///< 0: the channels that rotate
    index first_channel = 0;  ///< where the rotated slice begins
    pair_layout layout = {};
};

/// A scheme from frequencies that do not depend on the context length, as in every image, audio and agent
/// model.
/// Throws:   invalid_config when there are no pairs, or they do not fit in head_dim or the layout.
inline rotary_scheme make_fixed_scheme(const fixed_scheme_config& config, spectrum frequencies) {
    constexpr const char* who = "make_fixed_scheme";
    const index rotary_dim = 2 * frequencies.pairs();
    detail::require(rotary_dim > 0, who, "frequencies must have pairs", frequencies.pairs());
    const index head_dim = config.head_dim == 0 ? rotary_dim + config.first_channel : config.head_dim;
    detail::require(config.first_channel >= 0, who, "first_channel must be >= 0", config.first_channel);
    detail::require(config.first_channel + rotary_dim <= head_dim, who,
                    "head_dim must hold the channels that rotate", head_dim);
    detail::require(config.layout.fits(frequencies.pairs()), who, "layout must divide the channels",
                    config.layout.group);
    rotary_scheme rope;
    rope.name = config.name;
    rope.head_dim = head_dim;
    rope.first_channel = config.first_channel;
    rope.rotary_dim = rotary_dim;
    rope.read_layout = config.layout;
    rope.write_layout = config.layout;
    rope.frequencies = [s = std::move(frequencies)](std::int64_t) { return s; };
    return rope;
}

/// Which coordinate the first half of the pairs reads: the two conventions of axial models, which are easily
/// confused.
enum class first_axis : std::uint8_t { row, column };

struct axial_scheme_config {
    std::string name = {};    ///< name in messages and in explain
    index head_dim = 0;       ///< a multiple of 4 where all of it rotates
    index first_channel = 0;  ///< where the rotated slice begins
    index rotary_dim = 0;     ///< its width, a multiple of 4; 0: up to the end of the head
    double base = 1e4;
    first_axis first = first_axis::row;  ///< the coordinate that the first half of the pairs reads
    pair_layout layout = {};
};

namespace detail {

/// The width of the slice that rotates, after checking it.
template <class Config>
index axial_channels(const char* who, const Config& config) {
    const index dim = config.head_dim, first = config.first_channel;
    if (first == 0 && config.rotary_dim == 0) {
        require(dim > 0 && dim % 4 == 0, who, "head_dim must be a multiple of 4 and > 0", dim);
        return dim;
    }
    require(dim > 0, who, "head_dim must be > 0", dim);
    require(first >= 0 && first < dim, who, "first_channel must be >= 0 and below head_dim", first);
    const index rotated = config.rotary_dim == 0 ? dim - first : config.rotary_dim;
    require(rotated > 0 && rotated % 4 == 0 && rotated <= dim - first, who,
            "rotary_dim must be a multiple of 4, > 0 and within the head", rotated);
    return rotated;
}

}  // namespace detail

/// 2-D axial RoPE over the axes (row, column) of positions::grid: half of the pairs for each axis, both with
/// the frequencies base^(-4 i / rotary_dim).
/// Throws:   invalid_config when the channels that rotate are not a multiple of 4, do not fit in head_dim, or
///           base is not > 0.
/// Source:   RoPE-ViT, Heo et al. 2024; EVA-02, Fang et al. 2023.
inline rotary_scheme make_axial_scheme(const axial_scheme_config& config) {
    const index rotated = detail::axial_channels(config.name.c_str(), config);
    detail::require(std::isfinite(config.base) && config.base > 0, config.name.c_str(),
                    "base must be finite and > 0", config.base);
    const int first = config.first == first_axis::row ? 0 : 1;
    return make_fixed_scheme({.name = config.name,
                              .head_dim = config.head_dim,
                              .first_channel = config.first_channel,
                              .layout = config.layout},
                             frequencies::axial({.channels = {rotated / 2, rotated / 2},
                                                 .base = config.base,
                                                 .axis_of_block = {first, 1 - first},
                                                 .axes = 2}));
}

}  // namespace ROPEWALK_NAMESPACE
