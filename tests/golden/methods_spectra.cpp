// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Spectra published since 2024, and rows with magnitudes of their own: FoPE, xPos, RoPE++.

#include <ropewalk/analysis/needle_perplexity.hpp>
#include <ropewalk/angles/fourier_table.hpp>
#include <ropewalk/angles/xpos_table.hpp>
#include <ropewalk/frequencies/cope.hpp>
#include <ropewalk/frequencies/golden_directions.hpp>
#include <ropewalk/frequencies/grok.hpp>
#include <ropewalk/frequencies/hope_text.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/longrope2.hpp>
#include <ropewalk/frequencies/ntk_mixed.hpp>
#include <ropewalk/frequencies/phimoe.hpp>
#include <ropewalk/frequencies/qwen1.hpp>
#include <ropewalk/frequencies/telechat3.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/dropped_rope.hpp>
#include <ropewalk/schemes/falcon_perception.hpp>
#include <ropewalk/schemes/rope_plus_plus.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

double base_of(const golden_case& c) { return c.number("base", 1e4); }

void cope(const golden_case& c, results& out) {
    const auto plain = frequencies::linear(
        {.rotary_dim = c.integer("head_dim"), .base = base_of(c), .factor = c.number("factor", 1)});
    frequencies::clip_config config;
    config.clipped_pairs = c.integer("clip_low_n", config.clipped_pairs);
    const std::string mode = c.word("mode", "soft");
    require(mode == "soft" || mode == "hard", "unknown mode " + mode);
    if (mode == "hard") config.edge = frequencies::clip_edge::hard;
    out.check("mask", frequencies::clip_mask(plain.pairs(), config));
    out.check("inv_freq", frequencies::clip_low(plain, config).omegas());
}

void telechat3(const golden_case& c, results& out) {
    const auto s =
        frequencies::telechat3_yarn({.rotary_dim = c.integer("head_dim"),
                                     .base = base_of(c),
                                     .factor = c.number("factor", 1),
                                     .original_context = c.number("original_max_position_embeddings"),
                                     .beta_fast = c.number("beta_fast", 32),
                                     .beta_slow = c.number("beta_slow", 1),
                                     .attn_factor = c.number("attn_factor", 1)});
    out.check("inv_freq", s.omegas());
    out.check_scalar("attention_factor", s.magnitude());
}

void grok(const golden_case& c, results& out) {
    using frequencies::grok_method;
    static const std::map<std::string, grok_method> methods = {
        {"original", grok_method::original}, {"default", grok_method::original},
        {"yarn", grok_method::yarn},         {"yarn_linear", grok_method::yarn},
        {"yarn_log", grok_method::yarn_log}, {"theta_scale", grok_method::theta_scale}};
    const std::string word = c.word("extra_method", "yarn_log");
    const auto method = methods.find(word);
    require(method != methods.end(), "unknown extra_method " + word);
    const frequencies::grok_config config{.rotary_dim = c.integer("head_dim"),
                                          .base = base_of(c),
                                          .factor = c.number("factor", 1),
                                          .original_context = c.number("original_max_position_embeddings"),
                                          .method = method->second,
                                          .beta_fast = c.number("beta_fast", 32),
                                          .beta_slow = c.number("beta_slow", 1),
                                          .extrapolation_factor = c.number("extrapolation_factor", 1),
                                          .attn_factor = c.number("attn_factor", 1)};
    const auto s = frequencies::grok(config);
    out.check("inv_freq", s.omegas());
    out.check_scalar("attention_factor", s.magnitude());
    out.check_scalar("computed_mscale", frequencies::grok_unused_mscale(config));
}

void ntk_mixed(const golden_case& c, results& out) {
    frequencies::ntk_mixed_config config{
        .rotary_dim = c.integer("head_dim"), .base = base_of(c), .factor = c.number("factor", 1)};
    if (c.has("mixed_b")) config.exponent = c.number("mixed_b");
    out.check("inv_freq", frequencies::ntk_mixed(config).omegas());
    out.check("lambda", frequencies::ntk_mixed_divisors(config));
}

void qwen1(const golden_case& c, results& out) {
    const frequencies::qwen1_config config{.rotary_dim = c.integer("head_dim"),
                                           .base = base_of(c),
                                           .trained_context = c.number("seq_length", 2048)};
    const auto lengths = c.input<std::int64_t>("true_seq_len");
    std::vector<double> alpha, base, omega, log_n;
    for (const auto n : lengths.values) {
        alpha.push_back(frequencies::qwen1_alpha(config, n));
        base.push_back(frequencies::qwen1_base(config, n));
        const auto row = frequencies::qwen1(config, n).omegas();
        omega.insert(omega.end(), row.begin(), row.end());
        log_n.push_back(frequencies::log_n_scale(n - 1, config.trained_context));
    }
    out.check("alpha", alpha);
    out.check("scaled_base", base);
    out.check("inv_freq", {lengths.count(), config.rotary_dim / 2}, omega);
    out.check("logn", log_n);
}

void phimoe(const golden_case& c, results& out) {
    using frequencies::phimoe_choice;
    static const std::map<std::string, phimoe_choice> choices = {
        {"hf", phimoe_choice::per_sequence},
        {"hf_without_seq_len", phimoe_choice::magnitude_only},
        {"vllm", phimoe_choice::per_engine}};
    const std::string engine = c.word("engine", "hf");
    require(choices.count(engine) == 1, "unknown engine " + engine);
    frequencies::phimoe_config config{.rotary_dim = c.integer("head_dim"),
                                      .base = base_of(c),
                                      .short_factors = c.input("short_factor").values,
                                      .long_factors = c.input("long_factor").values,
                                      .original_context = c.number("original_max_position_embeddings"),
                                      .max_context = c.number("max_position_embeddings", c.number("seq_len")),
                                      .choice = choices.at(engine)};
    if (c.has("short_mscale")) config.short_mscale = c.number("short_mscale");
    if (c.has("long_mscale")) config.long_mscale = c.number("long_mscale");
    const auto s = frequencies::phimoe(config, c.integer("seq_len"));
    out.check("inv_freq", s.omegas());
    out.check_scalar("attention_factor", s.magnitude());
}

void hope_text(const golden_case& c, results& out) {
    const frequencies::hope_text_config config{
        .rotary_dim = c.integer("head_dim"), .base = base_of(c), .trained_context = c.number("train_length")};
    const auto full = frequencies::geometric({.rotary_dim = config.rotary_dim, .base = config.base});
    const auto keep = frequencies::pairs_that_complete(full, config.trained_context);
    out.check("keep", keep);
    out.check_scalar("kept_pairs", static_cast<double>(std::count(keep.begin(), keep.end(), 1)));
    out.check("inv_freq", frequencies::hope_text(config).omegas());
}

void longrope2(const golden_case& c, results& out) {
    frequencies::longrope2_config config{.rotary_dim = c.integer("head_dim"),
                                         .base = base_of(c),
                                         .original_context = c.number("original_max_position_embeddings"),
                                         .target_context = c.number("target_length"),
                                         .largest_factor = c.number("length_scale", 64)};
    out.check_scalar("critical_dim_theory",
                     static_cast<double>(frequencies::longrope2_critical_channels(config)));
    out.check_scalar("critical_pair_code", static_cast<double>(frequencies::longrope2_critical_pair(config)));
    if (c.has("critical_dim")) config.critical_pair = c.integer("critical_dim");
    const auto bounds = frequencies::longrope2_bounds(config);
    out.check("bounds_low", bounds.low);
    out.check("bounds_high", bounds.high);
    const auto start = frequencies::longrope2_start(config);
    out.check("init_factors", start);
    const auto plain = frequencies::geometric({.rotary_dim = config.rotary_dim, .base = config.base});
    out.check("inv_freq", frequencies::divide_pairs(plain, start).omegas());
}

void needle(const golden_case& c, results& out) {
    const auto loss = c.input("token_nll");
    const auto answers = c.input<std::uint8_t>("answer_mask");
    out.check_scalar("needle_perplexity", needle_perplexity(loss.values, answers.values));
    out.check_scalar("full_perplexity", full_perplexity(loss.values));
}

void golden_direction(const golden_case& c, results& out) {
    const frequencies::golden_directions_config config{.heads = c.integer("num_heads", 1),
                                                       .axes = c.integer("pos_dim", 2),
                                                       .pairs = c.integer("rotary_dim") / 2,
                                                       .slowest = c.number("min_freq", 1),
                                                       .fastest = c.number("max_freq", 20),
                                                       .resting_share = c.number("p_zero_freqs", 0)};
    const shape_type shape{config.heads, config.pairs, config.axes};
    out.check_scalar("phi", frequencies::golden_ratio(config.axes));
    out.check("directions", shape, frequencies::golden_directions(config));
    const auto s = frequencies::golden(config);
    std::vector<double> omega;
    for (index h = 0; h < config.heads; ++h)
        for (index i = 0; i < config.pairs; ++i)
            for (index a = 0; a < config.axes; ++a) omega.push_back(s.omega(h, a, i));
    out.check("omega", shape, omega);
}

void falcon(const golden_case& c, results& out) {
    const auto model = falcon_perception::make_model({.heads = c.integer("num_heads", 1),
                                                      .head_dim = c.integer("head_dim"),
                                                      .base = c.number("rope_theta", 1e4),
                                                      .slowest = c.number("min_freq", 1),
                                                      .fastest = c.number("max_freq", 20)});
    const auto grid = c.integers("grid");
    require(grid.size() == 2, "config.grid must be two numbers");
    const auto is_image = c.input<index>("is_image");
    const auto patches = falcon_perception::aspect_grid(grid[0], grid[1]);
    position_ids where(2);
    for (index n = 0; n < is_image.count();) {
        if (is_image.values[static_cast<std::size_t>(n)] == 0) {
            where.append(untouched_run{1});
            ++n;
        } else {
            where.append(patches);
            n += patches.tokens();
        }
    }
    require(where.tokens() == is_image.count(), "is_image must hold whole images");
    const auto text = position_ids::from(c.input("pos_t").values);
    out.check("pos_hw", {where.tokens(), 2}, where.values());
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto by_text = make_rotation_table<T>(model.text.spectrum_for(1), text);
        const auto by_place = make_rotation_table<T>(model.image.spectrum_for(1), where);
        rotate(model.text, q, k, by_text);
        rotate(model.image, q, k, by_place);
    });
}

void fope(const golden_case& c, results& out) {
    const index pairs = c.integer("head_dim") / 2;
    const auto ladder = frequencies::geometric({.rotary_dim = 2 * pairs, .base = base_of(c)});
    const auto cos = c.input("cos_coef"), sin = c.input("sin_coef");
    index kept = c.integer("num_inv_freq", -1);
    if (kept < 0) {
        const auto keep = frequencies::pairs_that_complete(ladder, c.number("max_length"));
        kept = static_cast<index>(std::count(keep.begin(), keep.end(), 1));
    }
    std::vector<index> first(static_cast<std::size_t>(std::min(kept, pairs)));
    for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<index>(i);
    const auto of = frequencies::select_pairs(ladder, first);
    const std::string rest = c.word("rest", "zero");
    require(rest == "zero" || rest == "one", "unknown rest " + rest);
    fourier_config config{
        .pairs = pairs,
        .outputs = c.integer("output_dim", cos.shape.back()),
        .heads = cos.extent(0),
        .rest = rest == "one" ? rest_pairs::one : rest_pairs::zero,
        .norm = c.flag("fourier_norm", false) ? coefficient_norm::sum_to_one : coefficient_norm::as_given};
    const index kv_heads = c.shape_of("k").heads;
    require(kv_heads % config.heads == 0, "num_kv_heads must be a multiple of the coefficients' heads");
    const auto where = position_ids::from(c.input("positions").values);
    const auto rows = make_fourier_table<double>(config, of, cos.values, sin.values, where);
    std::vector<double> cosines, sines, scales;
    for (index r = 0; r < where.tokens(); ++r)
        for (index h = 0; h < rows.table().heads(); ++h) {
            const auto row = rows.table().cos_row(r, h), sine = rows.table().sin_row(r, h);
            cosines.insert(cosines.end(), row.begin(), row.end());
            sines.insert(sines.end(), sine.begin(), sine.end());
            for (index i = 0; i < pairs; ++i) scales.push_back(rows.squared_scale(r, h, i));
        }
    const shape_type shape{where.tokens(), config.heads, pairs};
    out.check("inv_freq_kept", of.omegas());
    out.check("cos", shape, cosines);
    out.check("sin", shape, sines);
    out.check("squared_scale", shape, scales);
    rotate_both(c, out, {"q", "k"}, [&]<class T>(heads_view<T> q, heads_view<T> k) {
        auto widened = config;
        widened.group = k.heads() / config.heads;
        const auto of_k = make_fourier_table<T>(widened, of, cos.values, sin.values, where);
        widened.group = q.heads() / config.heads;
        const auto of_q = make_fourier_table<T>(widened, of, cos.values, sin.values, where);
        rotate(c.layout(), q, of_q.table());
        rotate(c.layout(), k, of_k.table());
    });
}

void xpos(const golden_case& c, results& out) {
    static const std::map<std::string, xpos_convention> variants = {
        {"torchscale", xpos_convention::half_up},
        {"x_transformers", xpos_convention::half_down},
        {"rotary_embedding_torch", xpos_convention::own_half_down}};
    const std::string variant = c.word("variant", "torchscale");
    require(variants.count(variant) == 1, "unknown variant " + variant);
    const index queries = c.shape_of("q").tokens, keys = c.shape_of("k").tokens;
    const index channels = c.shape_of("q").channels;
    const xpos_config plain{.rotary_dim = c.integer("rotary_dim", channels),
                            .base = base_of(c),
                            .scale_base = c.number("scale_base", 512)};
    auto of_q = plain, of_k = plain;
    of_q.centre = xpos_centre(variants.at(variant), queries, keys);
    of_k.centre = xpos_centre(variants.at(variant), keys, keys);
    const auto at_q = position_ids::text(queries, static_cast<double>(keys - queries));
    const auto at_k = position_ids::text(keys);
    const index pairs = plain.rotary_dim / 2;
    out.check("zeta", xpos_decay(plain.rotary_dim));
    out.check("magnitude_q", {queries, pairs}, xpos_magnitudes(of_q, xpos_side::query, at_q));
    out.check("magnitude_k", {keys, pairs}, xpos_magnitudes(of_k, xpos_side::key, at_k));
    const auto layout = c.has("pair_layout") ? c.layout() : pair_layout(interleaved{});
    const auto turn = [&]<class T>(heads_view<T> q, heads_view<T> k) {
        const auto rows_q = make_xpos_table<T>(of_q, xpos_side::query, at_q);
        const auto rows_k = make_xpos_table<T>(of_k, xpos_side::key, at_k);
        rotate(layout, q.channel_slice(0, plain.rotary_dim), rows_q);
        rotate(layout, k.channel_slice(0, plain.rotary_dim), rows_k);
    };
    rotate_both(c, out, {"q", "k"}, turn);
    auto q = c.input("q"), k = c.input("k");
    turn(view_of(q), view_of(k));
    out.check("scores", {view_of(q).heads(), queries, keys}, scores_of(view_of(q), view_of(k)));
}

void rope_pp(const golden_case& c, results& out) {
    using rope_plus_plus::imaginary;
    static const std::map<std::string, imaginary> modes = {
        {"none", imaginary::none},         {"imag1", imaginary::paired}, {"imag2", imaginary::paired},
        {"imagh", imaginary::second_half}, {"imagx", imaginary::odd},    {"imago", imaginary::all}};
    const std::string mode = c.word("imag_mode", "imag2");
    require(modes.count(mode) == 1, "unknown imag_mode " + mode);
    const auto which = modes.at(mode);
    const auto where = position_ids::from(c.input("positions").values);
    const auto s = frequencies::geometric({.rotary_dim = c.shape_of("q").channels, .base = base_of(c)});
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), k = c.input<T>("k");
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        const index tokens = q.extent(0), projected = q.extent(1), channels = q.extent(2);
        const index heads = rope_plus_plus::output_heads(which, projected);
        tensor<T> wide{{tokens, heads, channels},
                       std::vector<T>(static_cast<std::size_t>(tokens * heads * channels))};
        rope_plus_plus::widen_queries(view_of(q), view_of(wide));
        const auto rows_q = rope_plus_plus::make_query_table<T>(which, projected, s, where);
        const auto rows_k = make_rotation_table<T>(s, where);
        rotate(c.layout(), view_of(wide), rows_q);
        rotate(c.layout(), view_of(k), rows_k);
        check_in<T>(out, "q_rot", wide.shape, wide.values, scale);
        check_in<T>(out, "k_rot", k.shape, k.values, scale);
        check_in<T>(out, "scores", {heads, tokens, tokens}, scores_of(view_of(wide), view_of(k)),
                    scale * scale * static_cast<double>(channels));
    });
}

void dropped(const golden_case& c, results& out) {
    const index channels = c.integer("head_dim");
    dropped_rope::scheme_config config{.head_dim = channels};
    if (c.has("softmax_scale")) config.softmax_scale = c.number("softmax_scale");
    const auto rope = dropped_rope::make_scheme(config);
    const std::string norm = c.word("norm", "");
    const double epsilon = c.number("rms_eps", 1e-5);
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), k = c.input<T>("k");
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        const index tokens = q.extent(0);
        heads_view<T> queries(q.values.data(), tokens, q.extent(1) / channels, channels);
        heads_view<T> keys(k.values.data(), tokens, k.extent(1) / channels, channels);
        if (norm.find('q') != std::string::npos) {
            const auto weight = c.input<T>("q_weight").values;
            dropped_rope::normalize_tokens(queries, weight, epsilon);
        }
        if (norm.find('k') != std::string::npos) {
            const auto weight = c.input<T>("k_weight").values;
            dropped_rope::normalize_tokens(keys, weight, epsilon);
        }
        const auto rows = make_rotation_table<T>(rope.spectrum_for(1), position_ids::text(tokens));
        rotate(rope, queries, keys, rows);
        check_in<T>(out, "q_out", {tokens, queries.heads(), channels}, q.values, scale);
        check_in<T>(out, "k_out", {tokens, keys.heads(), channels}, k.values, scale);
        check_in<T>(out, "logits", {queries.heads(), tokens, tokens},
                    scores_of(queries, keys, rope.logit_scale / std::sqrt(static_cast<double>(channels))),
                    scale * scale * static_cast<double>(channels));
    });
}

const registration registered[] = {
    {"RoPE scaling: clipped CoPE", cope},
    {"RoPE scaling: telechat3-yarn", telechat3},
    {"RoPE scaling: grok", grok},
    {"RoPE scaling: ntk mixed", ntk_mixed},
    {"Qwen-1 dynamic NTK", qwen1},
    {"phimoe longrope mscale", phimoe},
    {"HoPE (high-frequency)", hope_text},
    {"LongRoPE2 factors", longrope2},
    {"LongRoPE2 needle perplexity", needle},
    {"Golden-direction RoPE", golden_direction},
    {"Falcon 3D RoPE", falcon},
    {"FoPE", fope},
    {"xPos", xpos},
    {"RoPE++", rope_pp},
    {"DroPE attention", dropped},
};

}  // namespace
}  // namespace golden
