// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The rotary scheme and positions of Qwen-Image (image diffusion and editing).
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/schemes/flux.hpp>

/// Qwen-Image: FLUX's blocks of pairs, with image positions centred on 0. Text follows the images, with the
/// same position on all axes.
/// Source: Qwen-Image, Wu et al. 2025; Hugging Face diffusers models/transformers/transformer_qwenimage.py.
namespace ROPEWALK_NAMESPACE::qwen_image {

/// The scheme over the axes (frame, row, column). Released models have axes_dim {16, 56, 56}, base 10000 and
/// head_dim 128.
/// Throws, Source: as flux::joint.
inline rotary_scheme joint(const flux::joint_config& config) {
    rotary_scheme rope = flux::joint(config);
    rope.name = "qwen_image::joint";
    return rope;
}

/// The size in tokens of one image of the list.
/// Source: Hugging Face diffusers, img_shapes.
struct image {
    index frames = 1;
    index height = 0;
    index width = 0;
};

struct sequence_config {
    std::vector<image> images = {};  ///< in the order of their tokens
    index text_tokens = 0;  ///< the padded length of the text embeddings, not the count of valid tokens
    bool centred = true;    ///< scale_rope: rows and columns are centred on 0 instead of starting at 0
    bool layered = false;   ///< the last image is the condition, at frame -1
};

/// The limit of positions in the reference's tables, which hold 0 .. 4095 and -4096 .. -1.
/// Source: Hugging Face diffusers, QwenEmbedRope.
inline constexpr index table_limit = 4096;

}  // namespace ROPEWALK_NAMESPACE::qwen_image

namespace ROPEWALK_NAMESPACE::detail {

inline void require_qwen_image(const char* who, const qwen_image::sequence_config& config) {
    require(config.text_tokens >= 0, who, "text_tokens must be >= 0", config.text_tokens);
    require(!config.layered || !config.images.empty(), who, "layered images must hold the condition",
            config.images.size());
    for (std::size_t n = 0; n < config.images.size(); ++n) {
        const auto& one = config.images[n];
        require(one.frames >= 0, who, "frames must be >= 0", one.frames);
        const index limit = config.centred ? 2 * qwen_image::table_limit : qwen_image::table_limit;
        require(one.height >= 0 && one.height <= limit, who, "height must be >= 0 and within the table's ids",
                one.height);
        require(one.width >= 0 && one.width <= limit, who, "width must be >= 0 and within the table's ids",
                one.width);
        require(static_cast<index>(n) + one.frames <= qwen_image::table_limit, who,
                "image number plus frames must be at most 4096", one.frames);
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::qwen_image {

/// The position of the first text token: half of the largest extent of an image (the whole extent without
/// centring), and at least the number of layers.
/// Throws:   invalid_config on negative sizes or ids beyond the reference's tables.
/// Source:   Hugging Face diffusers, QwenEmbedRope.forward, QwenEmbedLayer3DRope.forward.
inline index first_text_id(const sequence_config& config) {
    detail::require_qwen_image("qwen_image::first_text_id", config);
    index first = config.layered ? static_cast<index>(config.images.size()) - 1 : 0;
    for (const image& one : config.images)
        first = config.centred ? std::max({first, one.height / 2, one.width / 2})
                               : std::max({first, one.height, one.width});
    return first;
}

/// Positions of the image tokens, image after image: frames n, n + 1, ... of image n; rows -(h - h / 2) .. h
/// / 2 - 1 and columns likewise, or both from 0 without centring.
/// Throws:   invalid_config as first_text_id.
/// Source:   Hugging Face diffusers, QwenEmbedRope._compute_video_freqs.
inline position_ids image_positions(const sequence_config& config) {
    detail::require_qwen_image("qwen_image::image_positions", config);
    position_ids ids(3);
    for (std::size_t n = 0; n < config.images.size(); ++n) {
        const image& one = config.images[n];
        const bool condition = config.layered && n + 1 == config.images.size();
        const auto side = [&](index extent) {
            return positions::evenly_spaced(extent,
                                            config.centred ? -static_cast<double>(extent - extent / 2) : 0);
        };
        const auto frames = condition ? positions::evenly_spaced(one.frames, -1, 0)
                                      : positions::evenly_spaced(one.frames, static_cast<double>(n));
        ids.append(grid_block{{one.frames, one.height, one.width},
                              {{frames, {}, {}}, {{}, side(one.height), {}}, {{}, {}, side(one.width)}},
                              {}});
    }
    return ids;
}

/// Positions of the text tokens: token j is at first_text_id + j on all three axes.
/// Throws:   invalid_config as first_text_id, and when the text exceeds the reference's table.
/// Source:   Hugging Face diffusers, QwenEmbedRope.forward.
inline position_ids text_positions(const sequence_config& config) {
    const index first = first_text_id(config);
    detail::require(config.text_tokens <= table_limit - first, "qwen_image::text_positions",
                    "first text id plus text_tokens must be at most 4096", config.text_tokens);
    return position_ids::text(config.text_tokens, static_cast<double>(first), 3);
}

/// Positions of text, then images: the order of joint attention.
/// Throws, Source: as above.
inline position_ids joint_positions(const sequence_config& config) {
    return text_positions(config).append(image_positions(config));
}

}  // namespace ROPEWALK_NAMESPACE::qwen_image
