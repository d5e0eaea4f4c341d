// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Longer contexts without training: dual chunk attention, Self-Extend, group attention, sinks.

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/self_extend.hpp>
#include <ropewalk/attention/tiled_dual_chunk.hpp>
#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/positions/streaming.hpp>

#include "methods_support.hpp"

namespace golden {
namespace {

constexpr const char* heads_first = "heads,tokens,channels";

spectrum ladder_of(const golden_case& c, const char* input) {
    return frequencies::geometric(
        {.rotary_dim = c.extents_of(input).back(), .base = c.number("rope_theta", 1e4)});
}

dual_chunk chunks_of(const golden_case& c, chunk_clamp clamp = chunk_clamp::released_code) {
    return dual_chunk({.chunk_size = c.integer("chunk_size", 8192),
                       .local_size = c.integer("local_size", 1024),
                       .original_context = c.number("original_max_position_embeddings", 0),
                       .clamp = clamp});
}

std::vector<std::int64_t> distances_of(const dual_chunk& chunks, index tokens) {
    std::vector<std::int64_t> all;
    for (index i = 0; i < tokens; ++i)
        for (index j = 0; j < tokens; ++j) all.push_back(j <= i ? chunks.distance(i, j) : -1);
    return all;
}

template <class T>
tensor<T> rotated(const tensor<T>& x, pair_layout layout, const spectrum& s, const position_ids& where) {
    auto out = x;
    const auto rows = make_rotation_table<T>(s, where);
    rotate(layout, view_of(out, heads_first), rows);
    return out;
}

void dual_chunk_attention(const golden_case& c, results& out) {
    const auto chunks = chunks_of(c);
    const index tokens = c.integer("seq_len", c.extents_of("q")[1]);
    out.check("relative_positions", {tokens, tokens}, distances_of(chunks, tokens));
    out.check("k_positions", chunks.key_positions(tokens));
    const std::pair<const char*, chunk_row> rows[] = {{"intra", chunk_row::same},
                                                      {"succ", chunk_row::previous},
                                                      {"inter", chunk_row::older},
                                                      {"succ_critical", chunk_row::previous_critical},
                                                      {"inter_critical", chunk_row::older_critical}};
    for (const auto& [name, row] : rows)
        out.check(std::string("q_positions_") + name, chunks.query_positions(row, tokens));
    const double factor = chunks.logit_factor(tokens);
    out.check_scalar("scaling_factor", factor);
    const auto s = ladder_of(c, "q");
    in_both([&]<class T>(T) {
        const auto q = c.input<T>("q"), k = c.input<T>("k");
        auto v = c.input<T>("v");
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        const auto at = [&](chunk_row row) {
            return rotated(q, c.layout(), s, position_ids::from(chunks.query_positions(row, tokens)));
        };
        auto same = at(chunk_row::same), previous = at(chunk_row::previous), older = at(chunk_row::older);
        auto keys = rotated(k, c.layout(), s, position_ids::from(chunks.key_positions(tokens)));
        const dual_chunk_queries<T> queries{view_of(same, heads_first), view_of(previous, heads_first),
                                            view_of(older, heads_first)};
        const index heads = q.extent(0), channels = q.extent(2);
        std::vector<T> scores(static_cast<std::size_t>(heads * tokens * tokens));
        fill_dual_chunk_scores(chunks, queries, view_of(keys, heads_first), std::span<T>(scores),
                               {.factor = factor});
        check_in<T>(out, "scores", {heads, tokens, tokens}, scores,
                    factor * factor * scale * scale * std::sqrt(static_cast<double>(channels)));
        tensor<T> o{{heads, tokens, v.extent(2)},
                    std::vector<T>(static_cast<std::size_t>(heads * tokens * v.extent(2)))};
        const auto values = view_of(v, heads_first);
        std::vector<std::byte> workspace(
            static_cast<std::size_t>(attention::attend_dual_chunk_workspace(queries, values)));
        attention::attend_dual_chunk(attention::causal_mask{}, chunks, queries, view_of(keys, heads_first),
                                     values, view_of(o, heads_first), workspace, {.factor = factor});
        check_in<T>(out, "o", o.shape, o.values, max_abs(v.values));
    });
}

void dual_chunk_paper(const golden_case& c, results& out) {
    const index tokens = c.integer("seq_len");
    out.check("relative_positions", {tokens, tokens}, distances_of(chunks_of(c, chunk_clamp::paper), tokens));
}

void dual_chunk_estimate(const golden_case& c, results& out) {
    const auto chunks = chunks_of(c);
    const index tokens = c.integer("seq_len", c.extents_of("q")[1]);
    const index count = dual_chunk_estimate_queries(chunks, tokens, c.integer("sparse_attention_last_q", 64));
    const auto s = ladder_of(c, "q");
    const auto q = c.input("q"), k = c.input("k");
    const auto at = [&](chunk_row row) {
        return rotated(q, c.layout(), s, position_ids::from(chunks.query_positions(row, tokens)));
    };
    auto same = at(chunk_row::same), previous = at(chunk_row::previous_critical),
         older = at(chunk_row::older_critical);
    auto keys = rotated(k, c.layout(), s, position_ids::from(chunks.key_positions(tokens)));
    const auto last = [&](tensor<double>& x) {
        return view_of(x, heads_first).token_slice(tokens - count, count);
    };
    const index heads = q.extent(0);
    std::vector<double> scores(static_cast<std::size_t>(heads * count * tokens));
    fill_dual_chunk_scores(chunks, dual_chunk_queries<double>{last(same), last(previous), last(older)},
                           view_of(keys, heads_first), std::span<double>(scores),
                           {.factor = chunks.logit_factor(tokens)});
    out.check("estimate", {heads, count, tokens}, scores);
    const auto weights = make_dual_chunk_weights(std::span<const double>(scores), heads, count, tokens);
    out.check("vertical", {heads, tokens}, weights.column);
    out.check("slash", {heads, tokens}, weights.diagonal);
}

void self_extend_attention(const golden_case& c, results& out) {
    const std::string division = c.word("offset_division", "true_division");
    require(division == "true_division" || division.rfind("floor", 0) == 0,
            "unknown offset_division " + division);
    self_extend_config config{
        .group = c.integer("group_size", 8),
        .window = c.integer("window", 1024),
        .division = division == "true_division" ? offset_division::exact : offset_division::floor};
    if (c.number("scale_base", -1) > 0) config.scale_base = c.number("scale_base");
    const self_extend extend(config);
    const index tokens = c.integer("seq_len", c.extents_of("q")[1]);
    std::vector<double> distances, scales;
    for (index i = 0; i < tokens; ++i) {
        scales.push_back(extend.query_scale(i));
        for (index j = 0; j < tokens; ++j) distances.push_back(j <= i ? extend.distance(i, j) : -1);
    }
    out.check("relative_positions", {tokens, tokens}, distances);
    out.check("query_scale", scales);
    const auto s = ladder_of(c, "q");
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), v = c.input<T>("v");
        const auto k = c.input<T>("k");
        extend.scale_queries(view_of(q, heads_first));
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        auto near_q = rotated(q, c.layout(), s, position_ids::text(tokens));
        auto near_k = rotated(k, c.layout(), s, position_ids::text(tokens));
        auto far_q = rotated(q, c.layout(), s, extend.far_queries(tokens));
        auto far_k = rotated(k, c.layout(), s, extend.far_keys(tokens));
        const index heads = q.extent(0), channels = q.extent(2);
        std::vector<T> scores(static_cast<std::size_t>(heads * tokens * tokens));
        fill_windowed_scores(view_of(near_q, heads_first), view_of(near_k, heads_first),
                             view_of(far_q, heads_first), view_of(far_k, heads_first), std::span<T>(scores),
                             {.window = config.window});
        check_in<T>(out, "scores", {heads, tokens, tokens}, scores,
                    scale * scale * std::sqrt(static_cast<double>(channels)));
        auto o = q;
        const attention::banded_copies<T, T> copies{view_of(near_q, heads_first),
                                                    view_of(near_k, heads_first), view_of(far_q, heads_first),
                                                    view_of(far_k, heads_first)};
        std::vector<std::byte> workspace(
            static_cast<std::size_t>(attention::attend_banded_workspace(copies, view_of(v, heads_first))));
        attention::attend_banded(attention::causal_mask{}, copies, {.window = config.window},
                                 view_of(v, heads_first), view_of(o, heads_first),
                                 std::span<std::byte>(workspace));
        check_in<T>(out, "o", o.shape, o.values, max_abs(v.values));
    });
}

void group_attention(const golden_case& c, results& out) {
    positions::group_attention cache(
        {.group = c.integer("grp_attn_n", 1), .window = c.integer("grp_attn_w", 512)});
    std::vector<std::int64_t> evaluated;
    for (const index batch : c.input<index>("batch_sizes").values) {
        cache.add_batch(batch);
        const auto now = cache.positions();
        evaluated.insert(evaluated.end(), now.end() - batch, now.end());
    }
    out.check("key_positions", cache.positions());
    out.check("evaluated_at", evaluated);
    out.check_scalar("n_past", static_cast<double>(cache.next_position()));
    out.check_scalar("ga_i", static_cast<double>(cache.compressed()));
}

void streaming(const golden_case& c, results& out) {
    require(c.word("stored_keys", "unturned") == "unturned", "stored_keys must be unturned");
    const index channels = c.extents_of("q").back(), steps = c.extents_of("q").front();
    const auto s = ladder_of(c, "q");
    in_both([&]<class T>(T) {
        auto q = c.input<T>("q"), o = q;
        const auto k = c.input<T>("k"), v = c.input<T>("v");
        const double scale = std::max(max_abs(q.values), max_abs(k.values));
        positions::sink_cache cache(
            {.sinks = c.integer("start_size", 4), .recent = c.integer("recent_size", 512)});
        std::vector<index> stands;
        std::vector<T> scores;
        for (index step = 0; step < steps; ++step) {
            cache.append();
            stands.push_back(cache.query_position());
            const auto held = static_cast<index>(cache.tokens().size());
            std::vector<T> keys, values;
            for (const auto token : cache.tokens())
                for (index i = 0; i < channels; ++i) {
                    keys.push_back(k.values[static_cast<std::size_t>(token * channels + i)]);
                    values.push_back(v.values[static_cast<std::size_t>(token * channels + i)]);
                }
            const heads_view<T> cached(keys.data(), held, 1, channels), own(values.data(), held, 1, channels);
            const auto query = view_of(q).token_slice(step, 1);
            const auto at_k = make_rotation_table<T>(s, position_ids::text(held));
            const auto at_q =
                make_rotation_table<T>(s, position_ids::text(1, static_cast<double>(stands.back())));
            rotate(c.layout(), cached, at_k);
            rotate(c.layout(), query, at_q);
            scores.resize(static_cast<std::size_t>(held));
            attend(query, cached, own, view_of(o).token_slice(step, 1), {.causal = true, .scores = scores});
            cache.trim();
        }
        if constexpr (std::is_same_v<T, double>) {
            out.check("kept_tokens", cache.tokens());
            out.check("query_positions", stands);
        }
        check_in<T>(out, "last_scores", {static_cast<index>(scores.size())}, scores,
                    scale * scale * std::sqrt(static_cast<double>(channels)));
        check_in<T>(out, "o", o.shape, o.values, max_abs(v.values));
    });
}

const registration registered[] = {
    {"Dual chunk attention", dual_chunk_attention},
    {"Dual chunk attention (positions of the paper)", dual_chunk_paper},
    {"Dual chunk attention: sparse estimate", dual_chunk_estimate},
    {"Self-Extend", self_extend_attention},
    {"Self-Extend (llama.cpp cache positions)", group_attention},
    {"StreamingLLM sink cache", streaming},
};

}  // namespace
}  // namespace golden
