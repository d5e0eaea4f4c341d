// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Image diffusion: FLUX.1, Kontext, FLUX.2, FreeFlux, Qwen-Image, Lumina-Image 2.0.

#include <algorithm>

#include <ropewalk/attention/kv_injection.hpp>
#include <ropewalk/attention/object_mask.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/freeflux.hpp>
#include <ropewalk/schemes/lumina.hpp>
#include <ropewalk/schemes/qwen_image.hpp>

#include "vision_support.hpp"

namespace golden {
namespace {

flux::joint_config joint_of(const golden_case& c, std::vector<index> otherwise, double base) {
    flux::joint_config joint;
    joint.axes_dim = c.has("axes_dim") ? c.integers("axes_dim") : std::move(otherwise);
    joint.base = c.number("theta", base);
    const char* heads = c.has_input("q") ? "q" : "q_img";
    joint.head_dim = c.shape_of(heads, c.order()).channels;
    return joint;
}

void flux_joint(const golden_case& c, results& out, std::vector<index> axes_dim, double base) {
    const auto rope = in_layout_of(c, flux::joint(joint_of(c, std::move(axes_dim), base)));
    const auto ids = c.input("ids");
    const auto where =
        flux::positions_of_ids(std::span<const double>(ids.values),
                               {.axes = ids.shape.back(), .text_tokens = c.integer("text_len", 0)});
    check_cos_sin(out, rope, where, untouched_rows::identity);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}
void flux1(const golden_case& c, results& out) { flux_joint(c, out, {16, 56, 56}, 1e4); }
void flux2(const golden_case& c, results& out) { flux_joint(c, out, {32, 32, 32, 32}, 2000); }

position_ids freeflux_positions(const golden_case& c) {
    return flux::flux1_positions(
        {.text_tokens = c.integer("text_len", 512), .generated = {c.integer("grid_h"), c.integer("grid_w")}});
}

void freeflux_probing(const golden_case& c, results& out) {
    const auto rope = in_layout_of(c, flux::joint(joint_of(c, {16, 56, 56}, 1e4)));
    freeflux::key_change change;
    const std::string mode = c.word("key_mode", c.has("key_shift_hw") ? "shift" : "none");
    if (mode == "none") {
        change.mode = freeflux::key_mode::not_rotated;
    } else if (mode == "shift") {
        const auto shift = c.numbers("key_shift_hw");
        change = {freeflux::key_mode::shifted, shift.at(0), shift.at(1)};
    } else {
        require(mode == "normal", "key_mode cannot be " + mode);
    }
    const auto where = freeflux_positions(c);
    const auto keys_at = freeflux::key_positions(where, change);
    for (const char* input : {"q", "k"}) require_extents(c, input, rope, where.tokens());
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto queries = make_factored_table<T>(rope.spectrum_for(1), where);
        const auto keys = make_factored_table<T>(rope.spectrum_for(1), keys_at);
        each_sample(q, [&](heads_view<T> x) { rotate(rope.read_layout, x, queries); });
        each_sample(k, [&](heads_view<T> x) { rotate(rope.read_layout, x, keys); });
        if constexpr (std::is_same_v<T, double>) {
            if (!asks_for_attention(c)) return;
            // Scores need no values: keys stand in where a file has none.
            auto v = c.input(c.has_input("v") ? "v" : "k");
            check_attention(out, q, k, view_of(v, c.order()), v.shape, c.order());
        }
    });
    if (change.mode != freeflux::key_mode::shifted) return;
    // The same keys from rotated ones, moved by a constant.
    rotate_both(c, out, {"k"}, [&]<class T>(heads_view<T> k) {
        const auto normal = make_factored_table<T>(rope.spectrum_for(1), where);
        const auto row = freeflux::make_shift_row<T>(rope.spectrum_for(1), change);
        const index text = c.integer("text_len", 512);
        each_sample(k, [&](heads_view<T> x) {
            rotate(rope.read_layout, x, normal);
            const auto image = x.token_slice(text, x.tokens() - text);
            rotate(rope, image, repeat_row(row, 0, image.tokens()));
        });
    });
}

enum class edit_kind { keys_and_values, values };

/// What an edit hands over, by its name, which says the same as its rule where it has one.
edit_kind edit_of(const golden_case& c) {
    const auto says = [](const std::string& text, std::initializer_list<const char*> any) {
        return std::any_of(any.begin(), any.end(),
                           [&](const char* word) { return text.find(word) != std::string::npos; });
    };
    auto kind = c.has("idx_tar") ? edit_kind::values : edit_kind::keys_and_values;
    if (c.has("kind")) {
        const std::string name = c.word("kind");
        if (says(name, {"region", "background", "bg", "move", "outpaint"}))
            kind = edit_kind::values;
        else if (says(name, {"rigid", "object", "content", "position"}))
            kind = edit_kind::keys_and_values;
        else
            throw error("kind cannot be " + name);
    }
    if (c.has("rule")) {
        const std::string rule = c.word("rule");
        const bool only_values = says(rule, {"only V"});
        require(only_values || says(rule, {"K and V", "K, V", "K,V"}), "rule cannot be " + rule);
        require(only_values == (kind == edit_kind::values), "rule is not that of the kind: " + rule);
    }
    return kind;
}

void freeflux_injection(const golden_case& c, results& out) {
    const auto rope = in_layout_of(c, flux::joint(joint_of(c, {16, 56, 56}, 1e4)));
    const auto where = freeflux_positions(c);
    for (const char* input : {"q", "k"}) require_extents(c, input, rope, where.tokens());
    const auto table = make_rotation_table<double>(rope.spectrum_for(1), where);
    auto q = c.input("q"), k = c.input("k"), v = c.input("v");
    for (auto* t : {&q, &k})
        each_sample(view_of(*t, c.order()), [&](heads_view<double> x) { rotate(rope, x, table); });
    const std::string batches = c.word("batch_order", "0=source,1=target");
    require(batches == "0=source,1=target" || batches == "0=target,1=source",
            "batch_order cannot be " + batches);
    const index source = batches == "0=source,1=target" ? 0 : 1;
    const kv_injection::samples samples{source, 1 - source};
    const kv_injection::token_range image{c.integer("text_len", 512),
                                          c.integer("grid_h") * c.integer("grid_w")};
    const auto keys = view_of(k, c.order()), values = view_of(v, c.order());
    if (edit_of(c) == edit_kind::values) {
        kv_injection::inject_values(values, samples, image, c.integers("idx_src"), c.integers("idx_tar"));
    } else {
        const auto keep = c.has("idx_keep") ? c.integers("idx_keep") : std::vector<index>{};
        kv_injection::inject_keys_values(keys, values, samples, image, keep);
    }
    out.check("k_after", k);
    out.check("v_after", v);
    check_attention(out, view_of(q, c.order()), keys, values, q.shape, c.order());
}

void freeflux_object(const golden_case& c, results& out) {
    const auto maps = c.input("maps");
    kv_injection::object_region cut{.grid = {c.integer("grid_h"), c.integer("grid_w")},
                                    .first_token = c.integer("text_len", 512)};
    cut.threshold = c.number("threshold", cut.threshold);
    const auto each = static_cast<std::size_t>(cut.grid.height * cut.grid.width);
    std::vector<double> smoothed, object;
    for (std::size_t first = 0; first + each <= maps.values.size(); first += each)
        for (const double v : kv_injection::make_smoothed_map(
                 std::span<const double>(maps.values).subspan(first, each), cut.grid))
            smoothed.push_back(v);
    for (const index n : kv_injection::make_object_tokens(maps.values, cut))
        object.push_back(static_cast<double>(n));
    out.check("smoothed", maps.shape, smoothed);
    out.check("object_tokens", object);
}

void qwen_image_joint(const golden_case& c, results& out) {
    const auto rope = in_layout_of(c, qwen_image::joint(joint_of(c, {16, 56, 56}, 1e4)));
    qwen_image::sequence_config sequence;
    for (const json& s : c.config().at("img_shapes_fhw"))
        sequence.images.push_back({s.at(0).get<index>(), s.at(1).get<index>(), s.at(2).get<index>()});
    sequence.text_tokens = c.integer("text_len");
    sequence.centred = c.flag("scale_rope", true);
    sequence.layered = c.flag("layered", false);
    const auto images = qwen_image::image_positions(sequence);
    const auto text = qwen_image::text_positions(sequence);
    check_ids(out, "img_ids", images);
    check_ids(out, "txt_ids", text);
    check_cos_sin(out, rope, images, untouched_rows::identity, {}, "img_cos", "img_sin");
    check_cos_sin(out, rope, text, untouched_rows::identity, {}, "txt_cos", "txt_sin");
    rotate_patches(c, out, {"q_img", "k_img"}, rope, images);
    rotate_patches(c, out, {"q_txt", "k_txt"}, rope, text);
}

void lumina_joint(const golden_case& c, results& out) {
    lumina::joint_config joint{.base = c.number("theta", 1e4)};
    if (c.has("axes_dims")) joint.axes_dims = c.integers("axes_dims");
    const auto rope = in_layout_of(c, lumina::joint(joint));
    lumina::sequence_config sequence{
        .caption_tokens = c.integer("cap_len"), .height = c.integer("grid_h"), .width = c.integer("grid_w")};
    if (c.has("axes_lens")) sequence.axes_lens = c.integers("axes_lens");
    sequence.padding =
        c.shape_of("q", c.order()).tokens - sequence.caption_tokens - sequence.height * sequence.width;
    const auto where = lumina::joint_positions(sequence);
    check_ids(out, "ids", where);
    check_cos_sin(out, rope, where, untouched_rows::identity);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

const registration all[] = {{"FLUX 3-axis RoPE", flux1},
                            {"FLUX.2 4-axis RoPE", flux2},
                            {"FreeFlux RoPE probing", freeflux_probing},
                            {"FreeFlux KV injection", freeflux_injection},
                            {"FreeFlux object mask", freeflux_object},
                            {"Qwen-Image 3-axis RoPE", qwen_image_joint},
                            {"Lumina-Image 2.0 3-axis RoPE", lumina_joint}};

}  // namespace
}  // namespace golden
