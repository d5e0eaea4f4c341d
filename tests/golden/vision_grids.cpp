// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Image encoders: RoPE-ViT, Swin, EVA-02, DINOv3, SAM, Pixtral, Qwen2-VL, Llama 4, Gemma 4.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/dinov3.hpp>
#include <ropewalk/schemes/eva02.hpp>
#include <ropewalk/schemes/gemma4_vision.hpp>
#include <ropewalk/schemes/llama4_vision.hpp>
#include <ropewalk/schemes/pixtral.hpp>
#include <ropewalk/schemes/qwen_vl_vision.hpp>
#include <ropewalk/schemes/rope_vit.hpp>
#include <ropewalk/schemes/sam.hpp>

#include "vision_support.hpp"

namespace golden {
namespace {

void rope_vit_axial(const golden_case& c, results& out) {
    require_axis_order(c, "x,y");
    const auto rope =
        in_layout_of(c, rope_vit::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 100)}));
    const index height = c.integer("grid_h"), width = c.integer("grid_w");
    const auto where = rope_vit::patches(
        {.height = height,
         .width = width,
         .class_tokens = c.integer("num_prefix_tokens", beside_grid(c, "q", height * width))});
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void swin_axial(const golden_case& c, results& out) {
    const index head_dim = c.integer("head_dim");
    const auto rope = in_layout_of(c, rope_vit::axial({.head_dim = head_dim, .base = c.number("theta", 50)}));
    const auto where =
        rope_vit::patches({.height = c.integer("grid_h"), .width = c.integer("grid_w"), .class_tokens = 0});
    // A number is the scale itself; true, a formula's text or nothing at all mean the published one.
    double scale = rope_vit::swin_query_scale(head_dim);
    if (c.has("q_prescale")) {
        const json& said = c.config().at("q_prescale");
        if (said.is_number()) scale = said.get<double>();
        if (said.is_boolean() && !said.get<bool>()) scale = 1;
    }
    // The official buffer holds the same table once a head.
    const auto table = make_rotation_table<double>(rope.spectrum_for(1), where);
    std::vector<double> cos, sin;
    const index heads = c.integer("num_heads", c.shape_of("q").heads);
    for (index h = 0; h < heads; ++h)
        for (index n = 0; n < table.row_count(); ++n) {
            cos.insert(cos.end(), table.cos_row(n).begin(), table.cos_row(n).end());
            sin.insert(sin.end(), table.sin_row(n).begin(), table.sin_row(n).end());
        }
    out.check("cos", {heads, table.row_count(), table.pairs()}, cos);
    out.check("sin", {heads, table.row_count(), table.pairs()}, sin);
    for (const char* input : {"q", "k"}) require_extents(c, input, rope, where.tokens());
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto keys = make_rotation_table<T>(rope.spectrum_for(1), where);
        const auto queries = make_rotation_table<T>(rope.spectrum_for(1).with_magnitude(scale), where);
        each_sample(q, [&](heads_view<T> x) { rotate(rope, x, queries); });
        each_sample(k, [&](heads_view<T> x) { rotate(rope, x, keys); });
    });
}

void rope_vit_mixed(const golden_case& c, results& out) {
    const index head_dim = c.integer("head_dim");
    const index heads = c.integer("num_heads");
    const index depth = c.integer("depth", 1);
    std::vector<double> weights;
    if (c.has_input("init_angle_per_head")) {
        weights = frequencies::make_mixed_start({.head_dim = head_dim, .base = c.number("theta", 10)},
                                                c.input("init_angle_per_head").values);
        out.check("freqs_xy", {2, heads, head_dim / 2}, weights);
    } else {
        weights = c.input(c.input_named({"freqs_xy", "freqs"})).values;
    }
    const auto layer = [&](index l) {
        return in_layout_of(
            c, rope_vit::mixed({.heads = heads, .head_dim = head_dim, .depth = depth, .layer = l}, weights));
    };
    const index height = c.integer("grid_h"), width = c.integer("grid_w");
    const index beside = c.has_input("q") ? beside_grid(c, "q", height * width) : 1;
    const auto where = rope_vit::patches(
        {.height = height, .width = width, .class_tokens = c.integer("num_prefix_tokens", beside)});
    if (c.has("depth")) {
        std::vector<double> cos, sin;
        index rows = 0;
        for (index l = 0; l < depth; ++l) {
            const auto table = make_rotation_table<double>(layer(l).spectrum_for(1), where);
            rows = table.row_count();
            for (index h = 0; h < heads; ++h)
                for (index n = 0; n < rows; ++n) {
                    cos.insert(cos.end(), table.cos_row(n, h).begin(), table.cos_row(n, h).end());
                    sin.insert(sin.end(), table.sin_row(n, h).begin(), table.sin_row(n, h).end());
                }
        }
        out.check("cos", {depth, heads, rows, head_dim / 2}, cos);
        out.check("sin", {depth, heads, rows, head_dim / 2}, sin);
    } else {
        check_cos_sin(out, layer(0), where, untouched_rows::left_out, heads);
    }
    if (c.has_input("q")) rotate_patches(c, out, {"q", "k"}, layer(0), where);
}

void eva02_axial(const golden_case& c, results& out) {
    require_axis_order(c, "h,w");
    const auto rope =
        in_layout_of(c, eva02::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 1e4)}));
    const index trained = c.integer("pt_seq_len", 16);
    const index side = c.integer("ft_seq_len", trained);
    const auto where =
        eva02::patches({.height = side,
                        .trained_height = trained,
                        .class_tokens = c.integer("num_prefix_tokens", beside_grid(c, "q", side * side))});
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void dinov3_axial(const golden_case& c, results& out) {
    require_axis_order(c, "h,w");
    std::vector<double> periods;
    if (c.has_input("periods_bf16_rounded")) {
        periods = c.input("periods_bf16_rounded").values;
    } else {
        dinov3::periods_config said{.head_dim = c.integer("head_dim"),
                                    .min_period = c.number("min_period", 0),
                                    .max_period = c.number("max_period", 0)};
        if (c.has("base")) said.base = c.number("base");
        periods = dinov3::periods(said);
    }
    if (c.flag("periods_rounded_to_bf16", false)) periods = dinov3::rounded_to_bf16(std::move(periods));
    out.check("periods", periods);
    const std::string by = c.word("normalize_coords", "separate");
    require(by == "separate" || by == "max" || by == "min", "normalize_coords cannot be " + by);
    dinov3::augmentation augment;
    const auto two = [&](const char* name, double& row, double& column) {
        if (!c.has_input(name)) return;
        const auto t = c.input(name);
        row = t.values.at(0);
        column = t.values.at(1);
    };
    two("shift_hw", augment.shift_row, augment.shift_column);
    two("jitter_hw", augment.jitter_row, augment.jitter_column);
    if (c.has_input("rescale")) augment.rescale = c.input("rescale").values.at(0);
    const index height = c.integer("H"), width = c.integer("W");
    const auto where =
        dinov3::patches({.height = height,
                         .width = width,
                         .by = by == "max"   ? dinov3::normalisation::max
                               : by == "min" ? dinov3::normalisation::min
                                             : dinov3::normalisation::separate,
                         .prefix_tokens = c.integer("num_prefix_tokens", beside_grid(c, "q", height * width)),
                         .augment = augment});
    const auto rope = in_layout_of(c, dinov3::axial(periods));
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

rotary_scheme sam_scheme(const golden_case& c) {
    require_axis_order(c, "x,y");
    return in_layout_of(c, sam::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 1e4)}));
}

void sam2_memory(const golden_case& c, results& out) {
    const auto rope = sam_scheme(c);
    // Another number of queries than the built grid holds: the grid is rebuilt.
    const index queries = c.shape_of("q").tokens;
    const index height = c.integer("grid_h", 0), width = c.integer("grid_w", 0);
    const auto where = height * width == queries ? sam::patches({.height = height, .width = width})
                                                 : sam::square_patches(queries);
    check_cos_sin(out, rope, where);
    require_extents(c, "q", rope, where.tokens());
    require_extents(c, "k", rope, c.shape_of("k").tokens);
    const index keys = c.shape_of("k").tokens;
    const auto key_rows = sam::memory_key_rows({.queries = where.tokens(),
                                                .keys = keys,
                                                .excluded = c.integer("num_k_exclude_rope", 0),
                                                .repeats = c.flag("rope_k_repeat", true)});
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto table = make_rotation_table<T>(rope.spectrum_for(1), where);
        each_sample(q, [&](heads_view<T> x) { rotate(rope, x, table); });
        each_sample(k, [&](heads_view<T> x) {
            rotate(rope, x, table.rows(std::span<const std::int32_t>(key_rows)));
        });
        if constexpr (std::is_same_v<T, double>) check_attention(out, q, k, k, c.extents_of("q"), c.order());
    });
}

void sam3_vit(const golden_case& c, results& out) {
    const auto rope = sam_scheme(c);
    const index patches = c.integer("grid_h") * c.integer("grid_w");
    const auto where = sam::patches({.height = c.integer("grid_h"),
                                     .width = c.integer("grid_w"),
                                     .scale = c.number("scale_pos", 1),
                                     .offset = c.number("offset", 0),
                                     .class_tokens = beside_grid(c, "q", patches)});
    // The table of a retained class token has a row for it, of angle 0; some files leave it out.
    const bool all_rows = c.has_output("cos") && c.extents_of_output("cos").at(0) == where.tokens();
    check_cos_sin(out, rope, where, all_rows ? untouched_rows::identity : untouched_rows::left_out);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void sam3_ve(const golden_case& c, results& out) {
    const auto rope = sam_scheme(c);
    const index side = c.integer("seq_len");
    const auto where = sam::ve_patches(
        {.side = side, .trained_side = c.integer("pt_seq_len", side), .offset = c.number("offset", 1)});
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q"}, rope, where);
    if (c.has_input("k")) rotate_patches(c, out, {"k"}, rope, where);
}

void pixtral_axial(const golden_case& c, results& out) {
    require_axis_order(c, "h,w");
    const auto rope =
        in_layout_of(c, pixtral::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 1e4)}));
    position_ids where(2);
    if (c.has("image_sizes_hw")) {
        std::vector<pixtral::image> images;
        for (const json& size : c.config().at("image_sizes_hw"))
            images.push_back({size.at(0).get<index>(), size.at(1).get<index>()});
        where = pixtral::patches(images, c.integer("max_patches_per_side", 64));
        require(!c.has_input("pos_hw") || c.input("pos_hw").values == where.values(),
                "pos_hw differs from the positions of image_sizes_hw");
    } else {
        require(c.has_input("pos_hw"), "config.image_sizes_hw and inputs.pos_hw are both missing");
        where = position_ids::from_tokens_axes(c.input("pos_hw").values, 2);
    }
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void qwen2vl_vision(const golden_case& c, results& out) {
    require_axis_order(c, "h,w");
    const auto rope = in_layout_of(
        c, qwen_vl_vision::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 1e4)}));
    std::vector<qwen_vl_vision::grid_thw> grids;
    for (const json& g : c.config().at("grid_thw"))
        grids.push_back({g.at(0).get<index>(), g.at(1).get<index>(), g.at(2).get<index>()});
    const auto where = qwen_vl_vision::patches(grids, c.integer("spatial_merge_size", 2));
    check_ids(out, "pos_hw", where);
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void llama4_axial(const golden_case& c, results& out) {
    require_axis_order(c, "x,y");
    const auto rope = in_layout_of(
        c, llama4_vision::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 1e4)}));
    const index side = c.integer("grid");
    const auto where =
        llama4_vision::patches({.side = side,
                                .first = c.number("position_base", 1),
                                .class_tokens = c.shape_of("q", c.order()).tokens - side * side});
    check_cos_sin(out, rope, where, untouched_rows::identity);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

void gemma4_axial(const golden_case& c, results& out) {
    require_axis_order(c, "x,y");
    const auto rope =
        gemma4_vision::axial({.head_dim = c.integer("head_dim"), .base = c.number("theta", 100)});
    const auto xy = c.input("pos_xy");
    const auto where = gemma4_vision::patches(std::span<const double>(xy.values));
    rotate_patches(c, out, {"q"}, rope, where);
    if (c.has_input("k")) rotate_patches(c, out, {"k"}, rope, where);
}

const registration all[] = {
    {"RoPE-ViT axial", rope_vit_axial},    {"RoPE-ViT Swin axial", swin_axial},
    {"RoPE-ViT mixed", rope_vit_mixed},    {"EVA-02 2D RoPE", eva02_axial},
    {"DINOv3 RoPE", dinov3_axial},         {"SAM 2 axial RoPE", sam2_memory},
    {"SAM 3 ViT RoPE", sam3_vit},          {"SAM 3 VE RoPE", sam3_ve},
    {"Pixtral 2D RoPE", pixtral_axial},    {"Qwen2-VL vision 2D RoPE", qwen2vl_vision},
    {"Llama 4 vision RoPE", llama4_axial}, {"Gemma 4 vision 2D RoPE", gemma4_axial}};

}  // namespace
}  // namespace golden
