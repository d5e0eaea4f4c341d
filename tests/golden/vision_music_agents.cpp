// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Music and agents: Stable Audio Open, MuseControlLite, DRoPE.

#include <numbers>

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

/// Every kv head once for each query head that reads it.
template <class T>
tensor<T> repeated_heads(const tensor<T>& t, index group) {
    tensor<T> r{t.shape, {}};
    r.shape.at(1) *= group;
    const index each = t.extent(2) * t.extent(3);
    for (index head = 0; head < t.extent(0) * t.extent(1); ++head)
        for (index g = 0; g < group; ++g)
            r.values.insert(r.values.end(), t.values.begin() + head * each,
                            t.values.begin() + (head + 1) * each);
    return r;
}

void musecontrollite_cross_attention(const golden_case& c, results& out) {
    const std::string layout = c.word("layout", "half-split");
    const bool released = layout.starts_with("mixed");
    musecontrollite::cross_attention_config config{.head_dim = c.integer("head_dim", 64),
                                                   .base = c.number("base", 1e4)};
    if (!released) config.layout = layout_named(layout);
    const auto rope = musecontrollite::cross_attention(config);
    const index queries = c.integer("Lq"), keys = c.integer("Lk");
    const auto at_q = musecontrollite::query_positions(queries, keys);
    const auto at_k = musecontrollite::key_positions(keys);
    out.check("pos_q", at_q.values());
    out.check("pos_k", at_k.values());
    const index group = c.integer("num_heads") / c.integer("num_kv_heads");
    const bool values_turn = c.flag("rotate_values", true);

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
        check("k", repeated_heads(k, group));
        check("v", repeated_heads(v, group));
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
    const index heads = c.integer("num_heads"), head_dim = c.integer("head_dim");
    const std::string mode = c.word("mode", "heading_only");
    drope::agents_config config{.head_dim = head_dim, .base = c.number("rope_base", 1e4)};
    if (c.has("layout")) config.layout = c.layout();
    const auto all_heads = static_cast<std::size_t>(heads);
    if (mode == "heading_only") {
        config.modes.assign(all_heads, drope::head_mode::heading);
    } else if (mode == "intra_head") {
        config.modes.assign(all_heads, drope::head_mode::blocks);
        config.position_channels = c.integer("rope_dims", head_dim / 2);
    } else if (mode == "head_by_head") {
        if (c.has("rope_heads")) {
            config.modes.assign(all_heads, drope::head_mode::heading);
            for (const index h : c.integers("rope_heads"))
                config.modes.at(static_cast<std::size_t>(h)) = drope::head_mode::position;
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
    require(unit == "rad" || unit == "deg", "heading_unit cannot be " + unit);
    const std::span<const double> angles(heading.values);
    const auto headings =
        unit == "rad" ? positions::headings(angles) : positions::headings_in_degrees(angles);
    const auto where = position_ids::from(xy, 2);
    const std::string order = "heads,tokens,head_dim";
    rotate_both(
        c, out, {"q", "k"},
        [&]<class T>(heads_view<T> q, heads_view<T> k) {
            const drope::scene<T> scene(scheme, where, headings);
            drope::rotate(scheme, q, scene);
            drope::rotate(scheme, k, scene);
            if constexpr (std::is_same_v<T, double>) {
                auto v = c.input("v");
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
