// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

// What the handlers of the vision topic share: a scheme over positions that all samples of a batch have in
// common, rotated through both kinds of table, and its cos and sin.

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "runner.hpp"

namespace golden {

/// The scheme in the layout that the file names, where it names one.
inline rotary_scheme in_layout_of(const golden_case& c, rotary_scheme rope) {
    if (c.has("layout")) rope.read_layout = rope.write_layout = c.layout();
    return rope;
}

/// A scheme has its axis order; a file that says another one is no file of it.
inline void require_axis_order(const golden_case& c, const char* order) {
    const std::string said = c.word("axis_order", order);
    require(said == order, "axis_order must be " + std::string(order) + ", got " + said);
}

/// What a kernel requires is checked before it runs: where assertions are on, a file that does not fit its
/// own positions would end the run of all the others.
inline void require_extents(const golden_case& c, const std::string& input, const rotary_scheme& rope,
                            index tokens, std::string_view order = {}) {
    const heads_shape x = c.shape_of(input, order);
    const auto must = [&](bool holds, const std::string& what, index wanted, index got) {
        require(holds, "inputs." + input + " must have " + std::to_string(wanted) + " " + what + ", got " +
                           std::to_string(got));
    };
    must(x.channels == rope.head_dim, "channels", rope.head_dim, x.channels);
    must(x.tokens == tokens || x.batches * x.tokens == tokens, "tokens", tokens, x.tokens);
    const index heads = rope.spectrum_for(1).heads();
    must(heads == 1 || heads == x.heads, "heads", heads, x.heads);
}

/// Tokens of a file that its grid does not hold: class and register tokens, where it does not count them.
inline index beside_grid(const golden_case& c, const std::string& input, index patches) {
    return c.shape_of(input).tokens - patches;
}

template <class T>
void each_sample(heads_view<T> x, auto rotate_one) {
    for (index b = 0; b < x.batches(); ++b) rotate_one(x.batch_slice(b, 1));
}

/// Rotates the named inputs with one row a token, then again with factored rows.
template <std::size_t N>
void rotate_patches(const golden_case& c, results& out, const char* const (&inputs)[N],
                    const rotary_scheme& rope, const position_ids& where, const std::string& order = {}) {
    for (const char* input : inputs) require_extents(c, input, rope, where.tokens(), order);
    const spectrum omega = rope.spectrum_for(1);
    // Positions of every sample by itself, or of all samples alike.
    const auto samples = [&]<class T>(heads_view<T> x, auto one) {
        if (where.tokens() == x.tokens())
            each_sample(x, one);
        else
            one(x);
    };
    rotate_both(
        c, out, inputs,
        [&]<class T>(heads_view<T> first, auto... rest) {
            const auto table = make_rotation_table<T>(omega, where);
            const auto one = [&](heads_view<T> x) { rotate(rope, x, table); };
            samples(first, one);
            (samples(rest, one), ...);
        },
        order);
    rotate_both(
        c, out, inputs,
        [&]<class T>(heads_view<T> first, auto... rest) {
            const auto table = make_factored_table<T>(omega, where);
            const auto one = [&](heads_view<T> x) { rotate(rope.read_layout, rope.slice(x), table); };
            samples(first, one);
            (samples(rest, one), ...);
        },
        order);
}

enum class untouched_rows { left_out, identity };

/// cos and sin [tokens, pairs], or [heads, tokens, pairs] of per-head tables, of the tokens that turn; the
/// others either have no row or that of an angle of 0.
inline void check_cos_sin(results& out, const rotary_scheme& rope, const position_ids& where,
                          untouched_rows others = untouched_rows::left_out, std::optional<index> heads = {},
                          const std::string& cos_name = "cos", const std::string& sin_name = "sin") {
    const auto table = make_rotation_table<double>(rope.spectrum_for(1), where);
    const auto rows = table.rows();
    std::vector<double> cos, sin;
    const index sheets = heads.value_or(1);
    index tokens = 0;
    for (index h = 0; h < sheets; ++h) {
        tokens = 0;
        for (index n = 0; n < rows.tokens; ++n) {
            const index row = rows.row(n);
            if (row < 0 && others == untouched_rows::left_out) continue;
            ++tokens;
            for (index i = 0; i < rows.pairs; ++i) {
                cos.push_back(row < 0 ? 1.0 : rows.cos_at(row, h)[i]);
                sin.push_back(row < 0 ? 0.0 : rows.sin_at(row, h)[i]);
            }
        }
    }
    shape_type shape{tokens, rows.pairs};
    if (heads) shape.insert(shape.begin(), *heads);
    out.check(cos_name, shape, cos);
    out.check(sin_name, shape, sin);
}

/// Positions [tokens, axes] as a file lists them.
inline void check_ids(results& out, const std::string& name, const position_ids& ids) {
    out.check(name, {ids.tokens(), ids.axes()}, ids.values());
}

/// Whether the file asks for what check_attention offers: only then does it have values.
inline bool asks_for_attention(const golden_case& c) {
    return c.has_output("attn_probs") || c.has_output("attn_out") || c.has_output("logits");
}

/// Exact attention of f64 views: attn_probs (or probabilities under another name) and attn_out.
inline void check_attention(results& out, heads_view<double> q, heads_view<double> k, heads_view<double> v,
                            const shape_type& out_shape, std::string_view order = {}) {
    const index scores = q.batches() * q.heads() * q.tokens() * k.tokens();
    tensor<double> mixed{out_shape, {}};
    index count = 1;
    for (const index e : out_shape) count *= e;
    mixed.values.resize(static_cast<std::size_t>(count));
    std::vector<double> probabilities(static_cast<std::size_t>(scores)), logits(probabilities);
    attend(q, k, v, view_of(mixed, order), {.probabilities = probabilities, .scores = logits});
    const shape_type square{q.batches(), q.heads(), q.tokens(), k.tokens()};
    out.check("attn_probs", square, probabilities);
    out.check("attn_out", mixed);
    out.check("logits", shape_type(square.begin() + 1, square.end()), logits);
}

}  // namespace golden
