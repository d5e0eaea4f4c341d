// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Positions of clips in video diffusion transformers, and CogVideoX's crop of its training grid.
#pragma once

#include <ropewalk/positions/grid.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// A clip as a video diffusion transformer sees it: latent sizes divided by the patch size.
/// Source: CogVideoX, Wan and HunyuanVideo order tokens by frame, row, column.
struct video_grid_config {
    index frames = 0;
    index height = 0;
    index width = 0;
    index text_before = 0;  ///< untouched tokens before the clip (CogVideoX)
    index text_after = 0;   ///< untouched tokens after it (HunyuanVideo), or padding (Wan)
};

/// Axes t, h, w; text and padding are untouched. By default each axis counts from 0.
/// Shapes:   [text_before + frames * height * width + text_after, 3].
/// Throws:   invalid_config on sizes < 1 or negative text.
/// Cost:     O(frames + height + width); no size limit (the references' tables end at 1024 or at the training
///           size).
/// Source:   Wan-Video/Wan2.1 rope_apply; diffusers HunyuanVideoRotaryPosEmbed, CogVideoX 1.5 ("slice").
inline position_ids video_grid(const video_grid_config& config, std::vector<double> times,
                               std::vector<double> rows, std::vector<double> columns) {
    constexpr const char* who = "video_grid";
    detail::require(config.frames >= 1, who, "frames must be >= 1", config.frames);
    detail::require(config.height >= 1, who, "height must be >= 1", config.height);
    detail::require(config.width >= 1, who, "width must be >= 1", config.width);
    detail::require(config.text_before >= 0, who, "text_before must be >= 0", config.text_before);
    detail::require(config.text_after >= 0, who, "text_after must be >= 0", config.text_after);
    position_ids ids(3);
    if (config.text_before != 0) ids.append(untouched_run{config.text_before});
    ids.append(
        grid_block{{config.frames, config.height, config.width},
                   {{std::move(times), {}, {}}, {{}, std::move(rows), {}}, {{}, {}, std::move(columns)}},
                   {}});
    if (config.text_after != 0) ids.append(untouched_run{config.text_after});
    return ids;
}
inline position_ids video_grid(const video_grid_config& config) {
    return video_grid(config, evenly_spaced(std::max<index>(config.frames, 0)),
                      evenly_spaced(std::max<index>(config.height, 0)),
                      evenly_spaced(std::max<index>(config.width, 0)));
}

/// A batch of clips of different sizes, each padded with untouched tokens to `padded_tokens`.
/// Shapes:   [batches * padded_tokens, 3]; grids [batches, 3] as frames, height, width.
/// Throws:   invalid_config naming a clip that has more tokens than that, or on sizes < 1.
/// Source:   Wan-Video/Wan2.1 rope_apply(grid_sizes).
inline position_ids video_batch(std::span<const index> grids, index padded_tokens) {
    constexpr const char* who = "video_batch";
    detail::require(grids.size() % 3 == 0, who, "grids must hold three numbers a clip", grids.size());
    position_ids ids(3);
    for (std::size_t b = 0; b < grids.size(); b += 3) {
        const index tokens =
            detail::checked_product(who, "grids must be >= 0", {grids[b], grids[b + 1], grids[b + 2]});
        const std::string clip = "padded_tokens must be >= the tokens of clip " + detail::text(b / 3);
        detail::require(tokens <= padded_tokens, who, clip.c_str(), padded_tokens);
        ids.append(video_grid({.frames = grids[b],
                               .height = grids[b + 1],
                               .width = grids[b + 2],
                               .text_after = padded_tokens - tokens}));
    }
    return ids;
}

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// Requires a size whose arithmetic is exact in double.
inline void require_size(const char* who, const char* must, index size) {
    require(size >= 1 && size <= detail::limit_of_bits(53), who, must, size);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// The part of the training grid that a clip of another shape covers.
/// Source: CogVideoX, Yang et al. 2024.
struct crop_region {
    index top = 0;   ///< first row
    index left = 0;  ///< first column
    index height = 0;
    index width = 0;
};

struct cogvideox_grid_config {
    index frames = 0;
    index height = 0;  ///< rows of the clip's grid
    index width = 0;
    index base_height = 30;  ///< rows of the training grid: 480 pixels
    index base_width = 45;   ///< its columns: 720 pixels
    index text_before = 0;
};

/// The centred crop of the base grid with the proportions of the clip, rounded to whole patches, ties to
/// even.
/// Throws:   invalid_config on sizes < 1 or > 2^53 (2^28 if an index has 32 bits, here and below).
/// Source:   diffusers get_resize_crop_region_for_grid.
inline crop_region cogvideox_crop(const cogvideox_grid_config& config) {
    constexpr const char* who = "cogvideox_crop";
    detail::require_size(who, "height must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.height);
    detail::require_size(who, "width must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.width);
    detail::require_size(who, "base_height must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.base_height);
    detail::require_size(who, "base_width must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.base_width);
    const auto h = static_cast<double>(config.height), w = static_cast<double>(config.width);
    const auto bh = static_cast<double>(config.base_height), bw = static_cast<double>(config.base_width);
    const auto whole = [](double x) { return static_cast<index>(std::nearbyint(x)); };
    crop_region crop{0, 0, config.base_height, config.base_width};
    if (h / w > bh / bw) {
        crop.width = whole(bh / h * w);
    } else {
        crop.height = whole(bw / w * h);
    }
    crop.top = whole(static_cast<double>(config.base_height - crop.height) / 2);
    crop.left = whole(static_cast<double>(config.base_width - crop.width) / 2);
    return crop;
}

/// `count` evenly spaced coordinates from `first` to (first + length) (count - 1) / count. The factor (count
/// - 1) / count applies to the end point and not to the length, so the step is smaller than length / count if
/// first > 0. The model was trained that way.
/// Throws: invalid_config on count < 1, or first or length beyond 2^53 or length < 0.
/// Source: diffusers get_3d_rotary_pos_embed, grid_type "linspace".
inline std::vector<double> cogvideox_coordinates(index first, index length, index count) {
    constexpr const char* who = "cogvideox_coordinates";
    constexpr index most = detail::limit_of_bits(53);
    detail::require(first >= -most && first <= most, who, "first must be within +-" ROPEWALK_DETAIL_LIMIT_53,
                    first);
    detail::require(length >= 0 && length <= most, who, "length must be in 0 .. " ROPEWALK_DETAIL_LIMIT_53,
                    length);
    detail::require_size(who, "count must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, count);
    const double stop =
        static_cast<double>(first + length) * static_cast<double>(count - 1) / static_cast<double>(count);
    const auto start = static_cast<double>(first);
    return evenly_spaced(count, start, count > 1 ? (stop - start) / static_cast<double>(count - 1) : 0.0);
}

/// CogVideoX 1.0: rows and columns of any grid spread over the crop of the training grid, as fractions;
/// frames are counted. (CogVideoX 1.5 counts all three: video_grid.)
/// Throws:   invalid_config on sizes < 1, or a crop of negative size.
/// Source:   diffusers pipeline_cogvideox.py, get_3d_rotary_pos_embed with grid_type "linspace".
inline position_ids cogvideox_grid(const cogvideox_grid_config& config, const crop_region& crop) {
    constexpr const char* who = "cogvideox_grid";
    detail::require_size(who, "frames must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.frames);
    detail::require_size(who, "height must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.height);
    detail::require_size(who, "width must be in 1 .. " ROPEWALK_DETAIL_LIMIT_53, config.width);
    detail::require(crop.height >= 0, who, "crop.height must be >= 0", crop.height);
    detail::require(crop.width >= 0, who, "crop.width must be >= 0", crop.width);
    return video_grid({.frames = config.frames,
                       .height = config.height,
                       .width = config.width,
                       .text_before = config.text_before},
                      cogvideox_coordinates(0, config.frames, config.frames),
                      cogvideox_coordinates(crop.top, crop.height, config.height),
                      cogvideox_coordinates(crop.left, crop.width, config.width));
}
inline position_ids cogvideox_grid(const cogvideox_grid_config& config) {
    return cogvideox_grid(config, cogvideox_crop(config));
}

}  // namespace ROPEWALK_NAMESPACE::positions
