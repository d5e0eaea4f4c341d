// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Video diffusion transformers: CogVideoX, Wan, HunyuanVideo.

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/schemes/cogvideox.hpp>
#include <ropewalk/schemes/hunyuan_video.hpp>
#include <ropewalk/schemes/wan.hpp>

#include "runner.hpp"

namespace golden {
namespace {

/// Rotation through the factored table; cos and sin of the clip alone as the references publish them.
void check_clip(const golden_case& c, results& out, const rotary_scheme& rope, const position_ids& where,
                const std::string& order) {
    const spectrum omega = rope.spectrum_for(1);
    const auto table = make_rotation_table<double>(omega, where);
    std::vector<double> cos, sin;
    for (index r = 0; r < table.row_count(); ++r) {
        cos.insert(cos.end(), table.cos_row(r).begin(), table.cos_row(r).end());
        sin.insert(sin.end(), table.sin_row(r).begin(), table.sin_row(r).end());
    }
    out.check("cos", {table.row_count(), table.pairs()}, cos);
    out.check("sin", {table.row_count(), table.pairs()}, sin);
    rotate_both(
        c, out, {"q", "k"},
        [&]<class T>(heads_view<T> q, heads_view<T> k) {
            position_ids batch(where.axes());
            for (index b = 0; b < q.batches() && where.tokens() < q.batches() * q.tokens(); ++b)
                batch.append(where);
            rotate(rope, q, k, make_factored_table<T>(omega, batch.tokens() > 0 ? batch : where));
        },
        order);
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
    if (!c.has_input("q")) return;
    const auto rope = ropewalk::cogvideox::joint(
        {.head_dim = c.integer("attention_head_dim", 64),
         .base = c.number("theta", 1e4),
         .channels = c.has("axes_dim") ? c.integers("axes_dim") : std::vector<index>{}});
    const index text = c.integer("text_seq_length", 0);
    const std::string grid_type = c.word("grid_type", "linspace");
    const index frames = c.integer("temporal_size");
    const index height = c.integer("grid_height"), width = c.integer("grid_width");
    position_ids where;
    if (grid_type == "slice") {
        where =
            positions::video_grid({.frames = frames, .height = height, .width = width, .text_before = text});
    } else {
        require(grid_type == "linspace", "unknown grid_type " + grid_type);
        const positions::cogvideox_grid_config config{.frames = frames,
                                                      .height = height,
                                                      .width = width,
                                                      .base_height = c.integer("base_size_height", 30),
                                                      .base_width = c.integer("base_size_width", 45),
                                                      .text_before = text};
        auto crop = positions::cogvideox_crop(config);
        if (c.has("crops_coords")) {
            const auto corners = c.config().at("crops_coords").get<std::vector<std::vector<index>>>();
            crop = {corners.at(0).at(0), corners.at(0).at(1), corners.at(1).at(0) - corners.at(0).at(0),
                    corners.at(1).at(1) - corners.at(0).at(1)};
        }
        where = positions::cogvideox_grid(config, crop);
    }
    check_clip(c, out, rope, where, c.order());
}

void wan(const golden_case& c, results& out) {
    const auto rope = ropewalk::wan::self_attention(
        {.head_dim = c.integer("attention_head_dim", 128), .base = c.number("theta", 1e4)});
    const spectrum omega = rope.spectrum_for(1);
    const auto grids = c.input<index>("grid_sizes_fhw");
    const std::string order = c.word("layout", "batch,seq,heads,dim");
    const index tokens = c.shape_of("q", order).tokens;
    const position_ids where = positions::video_batch(grids.values, tokens);
    const index* const first = grids.values.data();
    const auto clip = positions::video_grid({.frames = first[0], .height = first[1], .width = first[2]});
    out.check("angles_sample0", {clip.tokens(), omega.pairs()}, make_angles(omega, clip));
    rotate_both(
        c, out, {"q", "k"},
        [&]<class T>(heads_view<T> q, heads_view<T> k) {
            rotate(rope, q, k, make_factored_table<T>(omega, where));
        },
        order);
}

void hunyuan(const golden_case& c, results& out) {
    const auto rope = hunyuan_video::joint(
        {.channels = c.has("rope_axes_dim") ? c.integers("rope_axes_dim") : std::vector<index>{16, 56, 56},
         .base = c.number("rope_theta", 256)});
    const auto grid = c.integers("grid");
    require(grid.size() == 3, "grid must hold three sizes");
    const index text = c.integer("text_seq_length", 0);
    const bool behind = c.flag("text_after_video", true);
    check_clip(c, out, rope,
               positions::video_grid({.frames = grid[0],
                                      .height = grid[1],
                                      .width = grid[2],
                                      .text_before = behind ? 0 : text,
                                      .text_after = behind ? text : 0}),
               c.word("layout", "batch,seq,heads,dim"));
}

const registration registered[] = {
    {"CogVideoX 3D RoPE", cogvideox},
    {"Wan 2.x 3D RoPE", wan},
    {"HunyuanVideo 3D RoPE", hunyuan},
};

}  // namespace
}  // namespace golden
