// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Video diffusion transformers: CogVideoX, Wan, HunyuanVideo.

#include <ropewalk/schemes/cogvideox.hpp>
#include <ropewalk/schemes/hunyuan_video.hpp>
#include <ropewalk/schemes/wan.hpp>

#include "video_support.hpp"

namespace golden {
namespace {

/// What the references publish of the clip alone, without text, and the rotation of the whole sequence.
void check_clip(const golden_case& c, results& out, const rotary_scheme& rope, const position_ids& clip,
                const position_ids& sequence, const std::string& order) {
    out.check("position_ids", {clip.axes(), clip.tokens()}, axis_first(clip));
    check_tables(out, rope.spectrum_for(1), clip, {clip.tokens()});
    rotate_given(c, out, rope, sequence, order);
}

/// Text tokens of a file: what it says, else what q and k have beside the clip.
index text_of(const golden_case& c, index clip_tokens, const std::string& order) {
    const auto x = rotated_input(c);
    return c.integer("text_seq_length",
                     x ? std::max<index>(c.shape_of(*x, order).tokens - clip_tokens, 0) : 0);
}

/// The size of a head: what the file says, what q and k have, else what the scheme has.
index head_dim_of(const golden_case& c, index otherwise) {
    const auto x = rotated_input(c);
    return c.integer("attention_head_dim", x ? c.extents_of(*x).back() : otherwise);
}

positions::cogvideox_grid_config grid_of(const index (&sizes)[5]) {
    return {.frames = sizes[4],
            .height = sizes[0],
            .width = sizes[1],
            .base_height = sizes[3],
            .base_width = sizes[2]};
}

/// One case of the position vectors: the crop and the coordinates of each axis.
void check_grid(results& out, const std::string& name, const positions::cogvideox_grid_config& config) {
    const auto crop = positions::cogvideox_crop(config);
    out.check(name + "_crop", {2, 2},
              std::vector<index>{crop.top, crop.left, crop.top + crop.height, crop.left + crop.width});
    const position_ids ids = positions::cogvideox_grid(config);
    const auto along = [&](index axis, index count, index stride) {
        std::vector<double> at;
        for (index i = 0; i < count; ++i) at.push_back(ids.at(i * stride, axis));
        return at;
    };
    out.check(name + "_t", along(0, config.frames, config.height * config.width));
    out.check(name + "_h", along(1, config.height, config.width));
    out.check(name + "_w", along(2, config.width, 1));
}

void cogvideox(const golden_case& c, results& out) {
    for (int i = 0; c.has_input("case" + std::to_string(i) + "_gridh_gridw_basew_baseh_frames"); ++i) {
        const std::string name = "case" + std::to_string(i);
        const auto sizes = c.input<index>(name + "_gridh_gridw_basew_baseh_frames").values;
        require(sizes.size() == 5, name + " must hold five sizes");
        check_grid(out, name, grid_of({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}));
    }
    if (!c.has("temporal_size")) return;
    ropewalk::cogvideox::joint_config model;
    model.head_dim = head_dim_of(c, model.head_dim);
    model.base = c.number("theta", model.base);
    if (c.has("axes_dim")) model.channels = c.integers("axes_dim");
    positions::cogvideox_grid_config grid{.frames = c.integer("temporal_size"),
                                          .height = c.integer("grid_height"),
                                          .width = c.integer("grid_width")};
    grid.base_height = c.integer("base_size_height", grid.base_height);
    grid.base_width = c.integer("base_size_width", grid.base_width);
    const std::string grid_type = c.word("grid_type", "linspace");
    require(grid_type == "slice" || grid_type == "linspace", "unknown grid_type " + grid_type);
    const auto sequence = [&](index text) {
        if (grid_type == "slice")
            return positions::video_grid(
                {.frames = grid.frames, .height = grid.height, .width = grid.width, .text_before = text});
        grid.text_before = text;
        if (!c.has("crops_coords")) return positions::cogvideox_grid(grid);
        const auto corners = c.config().at("crops_coords").get<std::vector<std::vector<index>>>();
        return positions::cogvideox_grid(
            grid, {corners.at(0).at(0), corners.at(0).at(1), corners.at(1).at(0) - corners.at(0).at(0),
                   corners.at(1).at(1) - corners.at(0).at(1)});
    };
    const position_ids clip = sequence(0);
    check_clip(c, out, ropewalk::cogvideox::joint(model), clip,
               sequence(text_of(c, clip.tokens(), c.order())), c.order());
}

void wan(const golden_case& c, results& out) {
    ropewalk::wan::self_attention_config model;
    model.head_dim = head_dim_of(c, model.head_dim);
    model.base = c.number("theta", model.base);
    const auto rope = ropewalk::wan::self_attention(model);
    const auto grids = c.input<index>("grid_sizes_fhw");
    const index* const first = grids.values.data();
    const auto clip = positions::video_grid({.frames = first[0], .height = first[1], .width = first[2]});
    check_tables(out, rope.spectrum_for(1), clip, {clip.tokens()}, "_sample0");
    check_tables(out, rope.spectrum_for(1), clip, {clip.tokens()});
    out.check("position_ids", {clip.axes(), clip.tokens()}, axis_first(clip));
    const auto x = rotated_input(c);
    if (!x) return;
    const std::string order = c.word("layout", "batch,seq,heads,dim");
    rotate_given(c, out, rope, positions::video_batch(grids.values, c.shape_of(*x, order).tokens), order);
}

void hunyuan(const golden_case& c, results& out) {
    hunyuan_video::joint_config model;
    if (c.has("rope_axes_dim")) model.channels = c.integers("rope_axes_dim");
    model.base = c.number("rope_theta", model.base);
    const auto sizes = c.integers("grid");
    require(sizes.size() == 3, "grid must hold three sizes");
    positions::video_grid_config grid{.frames = sizes[0], .height = sizes[1], .width = sizes[2]};
    const position_ids clip = positions::video_grid(grid);
    const std::string order = c.word("layout", "batch,seq,heads,dim");
    (c.flag("text_after_video", true) ? grid.text_after : grid.text_before) =
        text_of(c, clip.tokens(), order);
    check_clip(c, out, hunyuan_video::joint(model), clip, positions::video_grid(grid), order);
}

const registration registered[] = {
    {"CogVideoX 3D RoPE", cogvideox},
    {"Wan 2.x 3D RoPE", wan},
    {"HunyuanVideo 3D RoPE", hunyuan},
};

}  // namespace
}  // namespace golden
