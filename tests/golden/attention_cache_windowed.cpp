// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Windowed RoPE: near keys by ordinary scores, far ones all at one distance.

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/compression/windowed_query.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "runner.hpp"

namespace golden {
namespace {

template <class T>
void windowed(const golden_case& c, results& out) {
    auto q = c.input<T>("q"), k = c.input<T>("k");
    const double scale = max_abs(c.input("q").values);
    const index d = q.extent(q.rank() - 1);
    const auto layout = c.layout();
    const auto omega = frequencies::geometric({.rotary_dim = d, .base = c.number("rope_base", 1e4)});
    auto near_q = q, far_q = q, near_k = k;
    const index queries = view_of(q).tokens(), keys = view_of(k).tokens();
    const std::vector<double> fixed(static_cast<std::size_t>(queries), c.number("relative_pos", 2048));
    const auto own =
        make_rotation_table<T>(omega, position_ids::text(queries, static_cast<double>(keys - queries)));
    const auto far = make_rotation_table<T>(omega, position_ids::from(fixed));
    rotate_twice(layout, view_of(q), view_of(near_q), view_of(far_q), own, far);
    const auto rows = make_rotation_table<T>(omega, position_ids::text(keys));
    require_fits(layout, view_of(near_k), rows);
    rotate(layout, view_of(near_k), rows);
    const auto scored = [&](index window) {
        std::vector<T> s(static_cast<std::size_t>(view_of(q).heads() * queries * keys));
        fill_windowed_scores(view_of(near_q), view_of(near_k), view_of(far_q), view_of(k), std::span<T>(s),
                             {.window = window});
        return s;
    };
    shape_type shape = q.shape;
    shape.back() = keys;
    const auto check = [&](const std::string& name, const shape_type& extents, const auto& values,
                           double by) {
        if constexpr (std::is_same_v<T, double>) {
            out.check(name, extents, values);
        } else {
            out.check_f32(name, extents, values, by);
        }
    };
    // A score is a sum of d products over sqrt(d).
    const double of_scores = scale * scale * std::sqrt(static_cast<double>(d));
    check("scores", shape, scored(c.integer("window", 64)), of_scores);
    check("full_rope_scores", shape, scored(keys + 1), of_scores);
    check("query_at_relative_pos", far_q.shape, far_q.values, scale);
}

void windowed_rope(const golden_case& c, results& out) {
    windowed<double>(c, out);
    windowed<float>(c, out);
}

const registration r{"Windowed RoPE", windowed_rope};

}  // namespace
}  // namespace golden
