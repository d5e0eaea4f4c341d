// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Sparse indexers of DeepSeek V3.2, GLM-5 and V4, V4's compressed keys, and PoPE's polar heads.

#include <ropewalk/attention/compressed_keys.hpp>
#include <ropewalk/attention/sparse_index.hpp>
#include <ropewalk/kernels/pope.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

/// The slice that turns: the first or the last channels of a head.
template <class T>
heads_view<T> slice_of(const golden_case& c, heads_view<T> x, index rotary_dim, const char* usual) {
    const std::string where = c.word("rope_slice", usual);
    require(where == "first" || where == "last", "unknown rope_slice " + where);
    return x.channel_slice(where == "first" ? 0 : x.channels() - rotary_dim, rotary_dim);
}
/// [tokens, channels] or [tokens, heads, channels].
template <class T>
heads_view<T> heads_in(tensor<T>& x) {
    return view_of(x);
}
pair_layout layout_or(const golden_case& c, pair_layout usual) {
    return c.has("pair_layout") ? c.layout() : usual;
}

void check_choice(results& out, const std::vector<index>& chosen, index tokens, index keys) {
    out.check("selected", {tokens, keys}, sparse_index::make_mask(chosen, tokens, keys));
    const index count = tokens == 0 ? 0 : static_cast<index>(chosen.size()) / tokens;
    out.check("top_k", {tokens, count}, chosen);
}

void lightning_indexer(const golden_case& c, results& out) {
    const auto where = position_ids::from(c.input("positions").values);
    const index channels = c.extents_of("index_q").back();
    const index rotary_dim = c.integer("rope_dim", std::min<index>(64, channels));
    const auto s = frequencies::geometric(
        {.rotary_dim = std::max<index>(rotary_dim, 2), .base = c.number("rope_theta", 1e4)});
    in_both([&]<class T>(T) {
        auto q = c.input<T>("index_q"), k = c.input<T>("index_k");
        if (c.word("k_norm", "layer_norm") == "layer_norm") {
            const auto weight = c.input<T>("k_norm_weight").values, bias = c.input<T>("k_norm_bias").values;
            sparse_index::normalize_keys(heads_in(k), weight, bias, c.number("k_norm_eps", 1e-6));
        }
        if (rotary_dim > 0) {
            const auto rows = make_rotation_table<T>(s, where);
            rotate(c.layout(), slice_of(c, heads_in(q), rotary_dim, "first"), rows);
            rotate(c.layout(), slice_of(c, heads_in(k), rotary_dim, "first"), rows);
        }
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        check_in<T>(out, "q_rot", q.shape, q.values, scale);
        check_in<T>(out, "k_rot", k.shape, k.values, scale);
        const auto weights = c.input<T>("head_weights").values;
        const index tokens = q.extent(0), keys = k.extent(0);
        const auto scores = sparse_index::make_scores<T>(heads_in(q), heads_in(k), weights);
        check_in<T>(out, "index_scores", {tokens, keys}, scores,
                    scale * scale * max_abs(weights) * static_cast<double>(channels));
        if constexpr (std::is_same_v<T, double>) {
            const auto visible = sparse_index::visible_tokens(tokens);
            check_choice(out,
                         sparse_index::select(std::span<const T>(scores), keys,
                                              std::span<const index>(visible), c.integer("index_topk", 2048)),
                         tokens, keys);
        }
    });
}

spectrum v4_spectrum(const golden_case& c, const char* theta) {
    compressed_keys::spectrum_config config;
    config.rotary_dim = c.integer("qk_rope_head_dim", config.rotary_dim);
    const bool main = c.word("spectrum", "compress") == "main";
    config.base = c.number(theta, main ? 1e4 : config.base);
    config.factor = c.number("yarn_factor", main ? 1 : config.factor);
    config.original_context = c.number("original_max_position_embeddings", config.original_context);
    config.beta_fast = c.number("beta_fast", config.beta_fast);
    config.beta_slow = c.number("beta_slow", config.beta_slow);
    require(c.number("magnitude", 1) == 1, "magnitude must be 1");
    return compressed_keys::make_spectrum(config);
}

void compressor(const golden_case& c, results& out) {
    const auto s = v4_spectrum(c, "compress_rope_theta");
    const auto kv = c.input("kv"), gate = c.input("gate"), bias = c.input("position_bias"),
               weight = c.input("norm_weight");
    const compressed_keys::pool_config config{.rate = c.integer("compress_rate", bias.extent(0)),
                                              .with = c.flag("overlap", false)
                                                          ? compressed_keys::overlap::previous
                                                          : compressed_keys::overlap::none,
                                              .epsilon = c.number("rms_norm_eps", 1e-6),
                                              .first_window = c.integer("first_window", 0)};
    auto keys = compressed_keys::pool(config, {kv.values, gate.values, bias.values, weight.values});
    const index channels = weight.count(), windows = static_cast<index>(keys.size()) / channels;
    const auto at = compressed_keys::window_positions(config, windows);
    out.check("inv_freq", s.omegas());
    out.check("window_positions", at);
    out.check("compressed_unturned", {windows, channels}, keys);
    const auto where = position_ids::from(at);
    const auto layout = layout_or(c, interleaved{});
    in_both([&]<class T>(T) {
        std::vector<T> turned(keys.begin(), keys.end());
        const auto rows = make_rotation_table<T>(s, where);
        rotate(layout, slice_of(c, heads_view<T>(turned.data(), windows, 1, channels), 2 * s.pairs(), "last"),
               rows);
        check_in<T>(out, "compressed", {windows, channels}, turned, max_abs(keys));
    });
}

void v4_indexer(const golden_case& c, results& out) {
    const auto s = v4_spectrum(c, "compress_rope_theta");
    const auto positions = c.input<std::int64_t>("positions").values;
    const index rate = c.integer("compress_rate", 4);
    const auto layout = layout_or(c, interleaved{});
    in_both([&]<class T>(T) {
        auto q = c.input<T>("index_q"), k = c.input<T>("compressed_unturned");
        const index tokens = q.extent(0), windows = k.extent(0);
        const auto rows_q = make_rotation_table<T>(s, position_ids::from(positions));
        const auto rows_k = make_rotation_table<T>(
            s, position_ids::from(compressed_keys::window_positions({.rate = rate}, windows)));
        rotate(layout, slice_of(c, heads_in(q), 2 * s.pairs(), "last"), rows_q);
        rotate(layout, slice_of(c, heads_in(k), 2 * s.pairs(), "last"), rows_k);
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        check_in<T>(out, "q_rot", q.shape, q.values, scale);
        check_in<T>(out, "k_rot", k.shape, k.values, scale);
        const auto weights = c.input<T>("head_weights").values;
        const auto scores = sparse_index::make_scores<T>(heads_in(q), heads_in(k), weights);
        check_in<T>(out, "index_scores", {tokens, windows}, scores,
                    scale * scale * max_abs(weights) * static_cast<double>(q.extent(2)));
        if constexpr (std::is_same_v<T, double>) {
            const auto visible = sparse_index::visible_windows(positions, rate);
            // Codes cut the list at the number of windows or do not: the file's own width.
            const index count =
                c.has_output("top_k") ? c.extents_of_output("top_k").back() : c.integer("index_topk", 512);
            check_choice(
                out,
                sparse_index::select(std::span<const T>(scores), windows, std::span<const index>(visible),
                                     std::min(count, c.integer("index_topk", 512))),
                tokens, windows);
        }
    });
}

void v4_output(const golden_case& c, results& out) {
    const auto s = v4_spectrum(c, "rope_theta");
    const auto layout = layout_or(c, interleaved{});
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), kv = c.input<T>("kv");
        auto pooled = c.has_input("compressed_unturned") ? c.input<T>("compressed_unturned") : tensor<T>{};
        if (pooled.shape.empty()) pooled.shape = {0, q.extent(2)};
        const index tokens = q.extent(0), windows = pooled.extent(0), rate = c.integer("compress_rate", 0);
        const double scale = max_abs(kv.values);
        const auto own = make_rotation_table<T>(s, position_ids::text(tokens));
        const auto at_windows = make_rotation_table<T>(
            s, position_ids::from(compressed_keys::window_positions({.rate = rate}, windows)));
        rotate(layout, slice_of(c, heads_in(q), 2 * s.pairs(), "last"), own);
        rotate(layout, slice_of(c, heads_in(kv), 2 * s.pairs(), "last"), own);
        if (windows > 0) rotate(layout, slice_of(c, heads_in(pooled), 2 * s.pairs(), "last"), at_windows);
        const auto sinks = c.has_input("sinks") ? c.input("sinks").values : std::vector<double>{};
        auto o = q;
        compressed_keys::attend<T>(
            heads_in(q), heads_in(kv), heads_in(pooled), heads_in(o),
            {.sliding_window = c.integer("sliding_window", 128), .rate = rate, .sinks = sinks});
        check_in<T>(out, "o_before", o.shape, o.values, scale);
        unrotate(layout, slice_of(c, heads_in(o), 2 * s.pairs(), "last"), own);
        check_in<T>(out, "o", o.shape, o.values, scale);
    });
}

void polar(const golden_case& c, results& out) {
    const index channels = c.extents_of("q").back();
    const index rotated = c.integer("rotate_dim", channels);
    const auto s = pope::make_spectrum(rotated, c.number("theta", 1e4));
    out.check("inv_freq", s.omegas());
    const auto bias = c.input("bias");
    const auto phases = pope::clamp_phases(bias.values);
    out.check("bias_clamped", bias.shape, phases);
    const auto where = position_ids::from(c.input("positions").values);
    const auto layout = layout_or(c, interleaved{});
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), k = c.input<T>("k");
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        const auto widened = [&](tensor<T>& x, const rotation_table<T>& rows) {
            tensor<T> wide{{x.extent(0), x.extent(1), pope::widened_channels(channels, rotated)}, {}};
            wide.values.resize(static_cast<std::size_t>(wide.shape[0] * wide.shape[1] * wide.shape[2]));
            pope::widen(layout, view_of(x), view_of(wide), rows.rows());
            return wide;
        };
        const auto of_q = make_rotation_table<T>(s, where);
        const auto of_k = pope::make_key_table<T>(s, phases, where);
        auto wide_q = widened(q, of_q), wide_k = widened(k, of_k);
        check_in<T>(out, "q_out", wide_q.shape, wide_q.values, scale);
        check_in<T>(out, "k_out", wide_k.shape, wide_k.values, scale);
        const index heads = q.extent(1), kv_heads = k.extent(1), tokens = q.extent(0);
        std::vector<T> scores;
        for (index h = 0; h < heads; ++h) {
            const auto of_head =
                scores_of(view_of(wide_q).head_slice(h, 1), view_of(wide_k).head_slice(h % kv_heads, 1));
            scores.insert(scores.end(), of_head.begin(), of_head.end());
        }
        check_in<T>(out, "scores", {heads, tokens, tokens}, scores,
                    scale * scale * static_cast<double>(channels));
    });
}

const registration registered[] = {
    {"DSA lightning indexer", lightning_indexer},
    {"DeepSeek V4 compressed keys", compressor},
    {"DeepSeek V4 indexer", v4_indexer},
    {"DeepSeek V4 attention output", v4_output},
    {"PoPE", polar},
};

}  // namespace
}  // namespace golden
