// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Blocks wider than a pair: LieRE, ComRoPE, and GRAPE in its three forms.

#include <ropewalk/attention/grape_bias.hpp>
#include <ropewalk/frequencies/grape.hpp>
#include <ropewalk/kernels/mix_blocks.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/block_rotations.hpp>
#include <ropewalk/schemes/dropped_rope.hpp>
#include <ropewalk/schemes/grape.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

/// [tokens, heads, blocks, size, size] of a table, row by row.
std::vector<double> matrices_of(const rotation_blocks<double>& table) {
    std::vector<double> all;
    const auto& s = table.shape();
    for (index r = 0; r < s.rows; ++r)
        for (index h = 0; h < s.heads; ++h)
            for (index b = 0; b < s.blocks; ++b)
                for (index i = 0; i < s.size; ++i)
                    for (index j = 0; j < s.size; ++j) all.push_back(table.at(r, h, b, i, j));
    return all;
}

position_ids positions_in(const golden_case& c) {
    const auto at = c.input("positions");
    return position_ids::from_tokens_axes(at.values, at.rank() == 1 ? 1 : at.extent(1));
}

void lie_re(const golden_case& c, results& out) {
    const auto raw = c.input("raw");
    const liere::model_config config{.axes = raw.extent(0), .blocks = raw.extent(1), .size = raw.extent(2)};
    const auto generators = liere::make_generators(config, raw.values);
    const auto where = positions_in(c);
    out.check("generators", raw.shape, generators);
    out.check("R", {where.tokens(), config.blocks, config.size, config.size},
              matrices_of(liere::make_table<double>(config, generators, where)));
    in_both([&]<class T>(T) {
        auto x = c.input<T>("x");
        const double scale = max_abs(x.values);
        const auto table = liere::make_table<T>(config, generators, where);
        mix_blocks(view_of(x), table);
        check_in<T>(out, "y", x.shape, x.values, scale);
    });
    auto x = c.input("x"), g = c.input("grad_y");
    out.check("grad_raw", raw.shape,
              liere::make_gradient(config, generators, where, heads_view<const double>(view_of(x)),
                                   heads_view<const double>(view_of(g))));
}

void com_rope(const golden_case& c, results& out) {
    const auto freqs = c.input("freqs");
    const std::string kind = c.word("kind", "AP");
    require(kind == "AP" || kind == "LD", "unknown kind " + kind);
    const auto where = positions_in(c);
    const comrope::model_config config{
        .kind = kind == "AP" ? comrope::commuting::axis_partition : comrope::commuting::linearly_dependent,
        .axes = where.axes(),
        .heads = freqs.extent(0),
        .blocks = freqs.extent(1),
        .size = freqs.extent(2)};
    const auto multiplier = kind == "LD" ? c.input("multiplier") : tensor<double>{};
    const comrope::parameters learned{freqs.values, multiplier.values};
    const index tokens = where.tokens(), heads = config.heads;
    out.check("R", {tokens, heads, config.blocks, config.size, config.size},
              matrices_of(comrope::make_table<double>(config, learned, where)));
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto table = comrope::make_table<T>(config, learned, where);
        mix_blocks(q, table);
        mix_blocks(k, table);
    });
    auto q = c.input("q"), k = c.input("k");
    const auto table = comrope::make_table<double>(config, learned, where);
    std::vector<double> relative(static_cast<std::size_t>(heads * tokens * tokens));
    for (index i = 0; i < tokens; ++i) {
        std::vector<double> apart;
        for (index j = 0; j < tokens; ++j)
            for (index a = 0; a < where.axes(); ++a) apart.push_back(where.at(j, a) - where.at(i, a));
        auto moved = k;
        const auto difference =
            comrope::make_table<double>(config, learned, position_ids::from_tokens_axes(apart, where.axes()));
        mix_blocks(view_of(moved), difference);
        const auto row = scores_of(view_of(q).token_slice(i, 1), view_of(moved));
        for (index h = 0; h < heads; ++h)
            std::copy_n(row.begin() + h * tokens, tokens, relative.begin() + (h * tokens + i) * tokens);
    }
    out.check("scores_relative", {heads, tokens, tokens}, relative);
    auto g = c.input("grad_q_rot");
    const auto gradient = comrope::make_gradients(
        config, learned, where, heads_view<const double>(view_of(q)), heads_view<const double>(view_of(g)));
    out.check("grad_freqs", freqs.shape, gradient.frequencies);
    if (kind == "LD") out.check("grad_multiplier", multiplier.shape, gradient.multipliers);
    mix_blocks(view_of(q), table);
    mix_blocks(view_of(k), table);
    out.check("scores", {heads, tokens, tokens}, scores_of(view_of(q), view_of(k)));
}

void grape_rank_2(const golden_case& c, results& out) {
    const auto a = c.input("a"), b = c.input("b"), positions = c.input("positions");
    const grape::plane plane(a.values, b.values, c.number("omega", 1));
    out.check_scalar("s", plane.area());
    const auto x0 = c.input("x"), g = c.input("grad_y");
    in_both([&]<class T>(T) {
        auto x = c.input<T>("x");
        plane.rotate_tokens(view_of(x), positions.values);
        check_in<T>(out, "y", x.shape, x.values, max_abs(x0.values));
    });
    tensor<double> by_a{a.shape, std::vector<double>(a.values.size())}, by_b = by_a;
    const auto channels = a.values.size();
    for (std::size_t n = 0; n < positions.values.size(); ++n)
        plane.add_gradient(positions.values[n], std::span(x0.values).subspan(n * channels, channels),
                           std::span(g.values).subspan(n * channels, channels), by_a.values, by_b.values);
    out.check("grad_a", by_a);
    out.check("grad_b", by_b);
}

void grape_additive(const golden_case& c, results& out) {
    auto q = c.input("q"), k = c.input("k");
    const index heads = q.extent(1), tokens = q.extent(0);
    out.check("slopes", grape::slopes(heads));
    const std::string gate = c.word("gate", "key");
    const shape_type shape{heads, tokens, tokens};
    if (gate == "path") {
        out.check("bias", shape, grape::make_path_bias(heads_view<const double>(view_of(q))));
        return;
    }
    static const std::map<std::string, grape::gate> gates = {
        {"key", grape::gate::key}, {"query", grape::gate::query}, {"both", grape::gate::both}};
    require(gates.count(gate) == 1, "unknown gate " + gate);
    const auto u = c.input("u"), v = c.input("v"), omega = c.input("omega");
    out.check("bias", shape,
              grape::make_bias(
                  {.by = gates.at(gate),
                   .norm = c.flag("l2_norm", true) ? grape::gate_norm::unit : grape::gate_norm::as_given},
                  {.u = u.values, .v = v.values, .omega = omega.values}, heads_view<const double>(view_of(q)),
                  heads_view<const double>(view_of(k))));
}

void grape_multiplicative(const golden_case& c, results& out) {
    const index tokens = c.extents_of("q")[0];
    const bool contextual = c.flag("contextual", false);
    const auto phi =
        contextual ? grape::context_positions(c.input("omega_logits").values, c.number("omega_scale", 16))
                   : position_ids::text(tokens).values();
    out.check("phi", phi);
    const auto s =
        frequencies::reversed(frequencies::grape(c.input("log_freq").values, c.number("log_freq_scale", 16)));
    const auto where = position_ids::from(phi);
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto rows = make_rotation_table<T>(s, where);
        rotate(c.layout(), q, k, rows);
        if (!c.flag("qk_rmsnorm", false)) return;
        const std::vector<T> ones(static_cast<std::size_t>(q.channels()), T(1));
        for (const auto& x : {q, k})
            for (index h = 0; h < x.heads(); ++h)
                dropped_rope::normalize_tokens(x.head_slice(h, 1), std::span<const T>(ones), 1e-5);
    });
}

const registration registered[] = {
    {"LieRE", lie_re},
    {"ComRoPE", com_rope},
    {"GRAPE rank-2", grape_rank_2},
    {"GRAPE-A", grape_additive},
    {"GRAPE-M", grape_multiplicative},
};

}  // namespace
}  // namespace golden
