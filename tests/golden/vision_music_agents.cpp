// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Music and agents: Stable Audio Open, MuseControlLite, DRoPE.

#include <algorithm>

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/drope.hpp>
#include <ropewalk/schemes/musecontrollite.hpp>
#include <ropewalk/schemes/stable_audio.hpp>

#include "vision_support.hpp"

namespace golden {
namespace {

void stable_audio_self_attention(const golden_case& c, results& out) {
    const auto rope = in_layout_of(
        c, stable_audio::self_attention({.head_dim = c.integer("head_dim"),
                                         .rotary_dim = c.integer("rotary_dim", 0),
                                         .base = c.number("base", 1e4),
                                         .interpolation_factor = c.number("interpolation_factor", 1),
                                         .base_rescale_factor = c.number("base_rescale_factor", 1)}));
    const auto where = position_ids::from(c.input("positions").values);
    check_cos_sin(out, rope, where);
    rotate_patches(c, out, {"q", "k"}, rope, where);
}

/// Every kv head once for each query head that reads it, in the order of axes of the tensor.
template <class T>
tensor<T> repeated_heads(tensor<T>& t, index group, const std::string& order) {
    tensor<T> r{t.shape, std::vector<T>(t.values.size() * static_cast<std::size_t>(group))};
    const int heads = axis_order::parse(order, t.rank()).head;
    require(heads >= 0, "tensor order \"" + order + "\" must name the heads");
    r.shape.at(static_cast<std::size_t>(heads)) *= group;
    const auto from = view_of(t, order), to = view_of(r, order);
    for (index b = 0; b < to.batches(); ++b)
        for (index n = 0; n < to.tokens(); ++n)
            for (index h = 0; h < to.heads(); ++h)
                std::copy_n(from.at(b, n, h / group), from.channels(), to.at(b, n, h));
    return r;
}

void musecontrollite_cross_attention(const golden_case& c, results& out) {
    const std::string layout = c.word("layout", "half-split");
    const bool released = layout.starts_with("mixed");
    musecontrollite::cross_attention_config config{.head_dim = c.integer("head_dim", 64),
                                                   .base = c.number("base", 1e4)};
    if (!released) config.layout = layout_named(layout);
    const auto rope = musecontrollite::cross_attention(config);
    const heads_shape q_shape = c.shape_of("q"), k_shape = c.shape_of("k");
    const index queries = c.integer("Lq", q_shape.tokens), keys = c.integer("Lk", k_shape.tokens);
    const auto at_q = musecontrollite::query_positions(queries, keys);
    const auto at_k = musecontrollite::key_positions(keys);
    out.check("pos_q", at_q.values());
    out.check("pos_k", at_k.values());
    require_extents(c, "q", rope, queries);
    for (const char* input : {"k", "v"}) require_extents(c, input, rope, keys);
    const index heads = c.integer("num_heads", q_shape.heads);
    const index kv_heads = c.integer("num_kv_heads", k_shape.heads);
    require(heads == q_shape.heads && kv_heads == k_shape.heads,
            "num_heads and num_kv_heads must be the shapes'");
    require(kv_heads > 0 && heads % kv_heads == 0, "num_heads must be a multiple of num_kv_heads");
    const index group = heads / kv_heads;
    const bool values_turn = c.flag("rotate_values", true);
    const std::string order = !c.order().empty()              ? c.order()
                              : c.extents_of("q").size() == 4 ? "batch,heads,tokens,head_dim"
                                                              : "";

    const auto run = [&]<class T>(T, auto&& check) {
        auto q = c.input<T>("q"), k = c.input<T>("k"), v = c.input<T>("v");
        const auto rows_q = make_rotation_table<T>(rope.spectrum_for(1), at_q);
        const auto rows_k = make_rotation_table<T>(rope.spectrum_for(1), at_k);
        const auto turn = [&](tensor<T>& t, const rotation_table<T>& rows) {
            each_sample(view_of(t, c.order()), [&](heads_view<T> x) {
                if (released)
                    musecontrollite::rotate_as_released(x, rows);
                else
                    rotate(rope, x, rows);
            });
        };
        turn(q, rows_q);
        turn(k, rows_k);
        if (values_turn) turn(v, rows_k);
        check("q", q);
        check("k", repeated_heads(k, group, order));
        check("v", repeated_heads(v, group, order));
        if constexpr (std::is_same_v<T, double>)
            check_attention(out, view_of(q, c.order()), view_of(k, c.order()), view_of(v, c.order()), q.shape,
                            c.order());
    };
    run(double{}, [&](const std::string& name, const auto& t) { out.check(name + "_rot", t); });
    run(float{}, [&](const std::string& name, const auto& t) {
        out.check_f32(name + "_rot", t.shape, t.values, max_abs(c.input(name).values));
    });
}

void drope_agents(const golden_case& c, results& out) {
    const std::string order = c.order().empty() ? "heads,tokens,head_dim" : c.order();
    const heads_shape shape = c.shape_of("q", order);
    const index heads = c.integer("num_heads", shape.heads);
    const index head_dim = c.integer("head_dim", shape.channels);
    const std::string mode = c.word("mode", "heading_only");
    drope::agents_config config{.head_dim = head_dim, .base = c.number("rope_base", 1e4)};
    if (c.has("layout")) config.layout = c.layout();
    const auto all_heads = static_cast<std::size_t>(heads);
    if (mode == "heading_only") {
        config.modes.assign(all_heads, drope::head_mode::heading);
    } else if (mode == "intra_head") {
        config.modes.assign(all_heads, drope::head_mode::blocks);
        if (c.has("rope_dims")) config.position_channels = c.integer("rope_dims");
    } else if (mode == "head_by_head") {
        if (c.has("rope_heads")) {
            config.modes.assign(all_heads, drope::head_mode::heading);
            for (const index h : c.integers("rope_heads")) {
                require(h >= 0 && h < heads, "rope_heads must name heads, got " + std::to_string(h));
                config.modes.at(static_cast<std::size_t>(h)) = drope::head_mode::position;
            }
        } else {
            config.modes = drope::alternating_heads(heads);
        }
    } else {
        throw error("mode cannot be " + mode);
    }
    const drope::agents scheme(config);
    const auto heading = c.input("heading");
    const auto xy =
        c.has_input("pos_xy") ? c.input("pos_xy").values : std::vector<double>(2 * heading.values.size());
    const std::string unit = c.word("heading_unit", "rad");
    const bool degrees = unit == "deg" || unit == "degrees" || unit == "degree";
    require(degrees || unit == "rad" || unit == "radians" || unit == "radian",
            "heading_unit cannot be " + unit);
    const std::span<const double> angles(heading.values);
    const auto headings = degrees ? positions::headings_in_degrees(angles) : positions::headings(angles);
    const auto where = position_ids::from_tokens_axes(xy, 2);
    for (const char* input : {"q", "k"}) {
        const heads_shape x = c.shape_of(input, order);
        require(x.batches == 1 && x.tokens == headings.tokens() && x.heads == heads && x.channels == head_dim,
                "inputs." + std::string(input) + " must hold num_heads heads of head_dim channels an agent");
    }
    rotate_both(
        c, out, {"q", "k"},
        [&]<class T>(heads_view<T> q, heads_view<T> k) {
            const drope::scene<T> scene(scheme, where, headings);
            drope::rotate_scene(scheme, q, scene);
            drope::rotate_scene(scheme, k, scene);
            if constexpr (std::is_same_v<T, double>) {
                if (!asks_for_attention(c)) return;
                // Scores need no values: keys stand in where a file has none.
                auto v = c.input(c.has_input("v") ? "v" : "k");
                check_attention(out, q, k, view_of(v, order), v.shape, order);
            }
        },
        order);
}

const registration all[] = {{"Stable Audio Open DiT self-attention", stable_audio_self_attention},
                            {"MuseControlLite decoupled cross-attention", musecontrollite_cross_attention},
                            {"DRoPE", drope_agents}};

}  // namespace
}  // namespace golden
