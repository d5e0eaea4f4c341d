// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// HiRoPE: positions of nested units, the split of the head, scores with a window of plain positions.

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/hirope.hpp>

#include "vision_support.hpp"

namespace golden {
namespace {

void hirope_two_levels(const golden_case& c, results& out) {
    const index head_dim = c.integer("head_dim");
    hirope::hierarchical_config config{.head_dim = head_dim};
    const double base = config.base = c.number("base", config.base);
    if (c.has("d_s")) config.channels_of_level = {c.integer("d_s"), head_dim - c.integer("d_s")};
    const auto rope = in_layout_of(c, hirope::hierarchical(config));
    const auto plain =
        in_layout_of(c, make_fixed_scheme({.name = "plain", .head_dim = head_dim},
                                          frequencies::geometric({.rotary_dim = head_dim, .base = base})));
    const index tokens = c.shape_of("q").tokens;
    require(c.integer("n", tokens) == tokens, "n must be the tokens of q");
    for (const char* name : {"q", "k"}) {
        const heads_shape x = c.shape_of(name), q = c.shape_of("q");
        require(x.channels == head_dim && x.tokens == tokens && x.batches == 1 && x.heads == q.heads,
                std::string(name) + " must be [n, head_dim] or have the heads of q besides");
    }
    const std::string mode = c.word("token_mode", "local");
    require(mode == "local" || mode == "global", "token_mode cannot be " + mode);
    const auto where = positions::hierarchy(
        {.tokens = tokens,
         .starts = {c.has("unit_starts") ? c.integers("unit_starts") : std::vector<index>{}},
         .mode = mode == "local" ? positions::counting::local : positions::counting::global});
    std::vector<double> token, unit;
    for (index n = 0; n < tokens; ++n) {
        token.push_back(where.at(n, 0));
        unit.push_back(where.at(n, 1));
    }
    out.check("pos_token", token);
    out.check("pos_unit", unit);
    out.check("angles", {tokens, head_dim / 2}, make_angles(rope.spectrum_for(1), where));
    rotate_patches(c, out, {"q", "k"}, rope, where);

    auto near_q = c.input("q"), near_k = c.input("k"), far_q = near_q, far_k = near_k;
    const auto near = make_rotation_table<double>(plain.spectrum_for(1), position_ids::text(tokens));
    const auto far = make_rotation_table<double>(rope.spectrum_for(1), where);
    rotate(plain, view_of(near_q), view_of(near_k), near);
    rotate(rope, view_of(far_q), view_of(far_k), far);
    const index heads = c.shape_of("q").heads;
    std::vector<double> scores(static_cast<std::size_t>(heads * tokens * tokens));
    fill_windowed_scores(view_of(near_q), view_of(near_k), view_of(far_q), view_of(far_k),
                         std::span<double>(scores), {.window = c.integer("window", 0), .scale = 1.0});
    shape_type shape{tokens, tokens};
    if (heads > 1) shape.insert(shape.begin(), heads);
    out.check("scores_merged_causal", shape, scores);
}

const registration hirope_vectors{"HiRoPE", hirope_two_levels};

}  // namespace
}  // namespace golden
