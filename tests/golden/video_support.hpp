// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

// What the handlers of the video topic share: a file may name any part of a scheme's outputs, with or
// without queries and keys.

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

#include "runner.hpp"

namespace golden {

/// Whether the file has an output that knows frequencies; the others are positions.
inline bool names_rotation(const golden_case& c) {
    constexpr const char* names[] = {"pair_axis", "inv_freq", "angles",         "cos",         "sin",
                                     "q_rot",     "k_rot",    "angles_sample0", "cos_sample0", "sin_sample0"};
    return std::any_of(std::begin(names), std::end(names), [&](const char* n) { return c.has_output(n); });
}

/// The one of q and k that the file has, for its sizes.
inline std::optional<std::string> rotated_input(const golden_case& c) {
    for (const char* name : {"q", "k"})
        if (c.has_input(name)) return name;
    return {};
}

/// [tokens, axes] of the library as the files' [axes, tokens].
inline std::vector<double> axis_first(const position_ids& ids) {
    const auto values = ids.values();
    std::vector<double> out;
    for (index a = 0; a < ids.axes(); ++a)
        for (index n = 0; n < ids.tokens(); ++n)
            out.push_back(values[static_cast<std::size_t>(n * ids.axes() + a)]);
    return out;
}

/// The map, the angles, and their cos and sin; `tokens` is the shape of the arrays before the pairs, `of`
/// what their names end on.
inline void check_tables(results& out, const spectrum& omega, const position_ids& where, shape_type tokens,
                         const std::string& of = "") {
    out.check("pair_axis", frequencies::axes_of_pairs(omega));
    out.check("inv_freq", omega.omegas());
    tokens.push_back(omega.pairs());
    out.check("angles" + of, tokens, make_angles(omega, where));
    const auto table = make_rotation_table<double>(omega, where);
    std::vector<double> cos, sin;
    for (index r = 0; r < table.row_count(); ++r) {
        cos.insert(cos.end(), table.cos_row(r).begin(), table.cos_row(r).end());
        sin.insert(sin.end(), table.sin_row(r).begin(), table.sin_row(r).end());
    }
    out.check("cos" + of, tokens, cos);
    out.check("sin" + of, tokens, sin);
}

/// Rotates q and k in one call where the file has both, else the one it has, through the factored table of
/// `where`: the positions of the whole batch, or of one sample, which then are those of all.
inline void rotate_given(const golden_case& c, results& out, const rotary_scheme& rope,
                         const position_ids& where, const std::string& order = {}) {
    const spectrum omega = rope.spectrum_for(1);
    const auto turn = [&]<class T>(heads_view<T> x, heads_view<T> other) {
        const index tokens = x.batches() * x.tokens();
        for (const auto& view : {x, other})
            require(view.empty() || (view.channels() == rope.head_dim && view.tokens() == x.tokens() &&
                                     view.batches() == x.batches()),
                    "q and k must have head_dim " + std::to_string(rope.head_dim) +
                        " and the same batches and tokens");
        require(where.tokens() > 0 && tokens % where.tokens() == 0,
                "positions of " + std::to_string(where.tokens()) + " tokens for " + std::to_string(tokens));
        position_ids batch(where.axes());
        while (batch.tokens() < tokens) batch.append(where);
        rotate(rope, x, other, make_factored_table<T>(omega, batch));
    };
    const auto alone = [&]<class T>(heads_view<T> x) { turn(x, heads_view<T>()); };
    if (c.has_input("q") && c.has_input("k")) {
        rotate_both(c, out, {"q", "k"}, turn, order);
    } else if (c.has_input("q")) {
        rotate_both(c, out, {"q"}, alone, order);
    } else if (c.has_input("k")) {
        rotate_both(c, out, {"k"}, alone, order);
    }
}

}  // namespace golden
