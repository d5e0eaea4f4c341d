// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled_dual_chunk.hpp>

#include <cstddef>
#include <vector>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/attention_case.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using support::attention_case;
using support::attention_sizes;

namespace {

/// Keys and three unrelated sets of queries, and attention over them by its definition.
template <class T>
struct chunk_case {
    attention_case<T> same, previous, older;

    explicit chunk_case(attention_sizes s) : same(s, 1), previous(s, 11), older(s, 21) {}

    rw::dual_chunk_queries<const T> queries() const {
        return {same.q_view(), previous.q_view(), older.q_view()};
    }
    /// With the causal mask; query n stands at token keys - queries + n.
    std::vector<double> defined(const rw::dual_chunk& chunks, double factor) const {
        const auto& s = same.sizes;
        auto chosen = same;  // its own scores are zero, those of the copies come as a bias
        for (T& x : chosen.q) x = T(0.f);
        const auto dot = [&](const attention_case<T>& c, rw::index b, rw::index h, rw::index n, rw::index j) {
            double sum = 0;
            for (rw::index i = 0; i < s.channels; ++i)
                sum += support::widened(c.q_view().at(b, n, h)[i]) *
                       support::widened(same.k_view().at(b, j, h / (s.heads / s.kv_heads))[i]);
            return factor * factor * sum / std::sqrt(double(s.channels));
        };
        const rw::index first = s.keys - s.queries, period = chunks.period();
        chosen.define([&](rw::index, rw::index, rw::index n, rw::index j) { return j <= first + n; },
                      [&](rw::index b, rw::index h, rw::index n, rw::index j) {
                          const rw::index behind = (first + n) / period - j / period;
                          return dot(behind == 0 ? same : behind == 1 ? previous : older, b, h, n, j);
                      });
        return chosen.out;
    }
    std::vector<T> run(const rw::dual_chunk& chunks, const rw::dual_chunk_options& chunk_options = {},
                       const attention::tiled_options<rw::compute_t<T>>& options = {}) const {
        std::vector<T> out(std::size_t(same.sizes.count(same.sizes.out())), T(7.f));
        run_into(chunks, chunk_options, options, out);
        return out;
    }
    void run_into(const rw::dual_chunk& chunks, const rw::dual_chunk_options& chunk_options,
                  const attention::tiled_options<rw::compute_t<T>>& options, std::vector<T>& out) const {
        std::vector<std::byte> workspace(
            std::size_t(attention::attend_dual_chunk_workspace(queries(), same.v_view(), options)));
        attention::attend_dual_chunk(attention::causal_mask{}, chunks, queries(), same.k_view(),
                                     same.v_view(), rw::heads_view<T>(out.data(), same.sizes.out()),
                                     workspace, chunk_options, options);
    }
};

template <class T>
void check_defined(double bound) {
    const attention_sizes sizes[] = {
        {.batches = 2,
         .queries = 23,
         .keys = 23,
         .heads = 4,
         .kv_heads = 2,
         .channels = 8,
         .value_channels = 5},
        {.queries = 150, .keys = 150, .heads = 2, .kv_heads = 1, .channels = 24, .value_channels = 16},
        {.queries = 1, .keys = 70, .heads = 8, .kv_heads = 2, .channels = 16, .value_channels = 16},
        {.queries = 37, .keys = 101, .heads = 3, .kv_heads = 3, .channels = 7, .value_channels = 9},
        {.queries = 3, .keys = 64, .heads = 2, .kv_heads = 1, .channels = 16, .value_channels = 16}};
    for (const auto& s : sizes) {
        const chunk_case<T> c(s);
        for (const rw::index period : {1, 3, 5, 17, 64, 96, 200})
            for (const double factor : {1.0, 1.1}) {
                CAPTURE(s.queries, s.keys, period, factor);
                const rw::dual_chunk chunks({.chunk_size = period + 2, .local_size = 2});
                const auto want = c.defined(chunks, factor);
                CHECK(support::worst(support::widened(c.run(chunks, {.factor = factor})), want) < bound);
                CHECK(support::worst(support::widened(
                                         c.run(chunks, {.factor = factor}, {.query_tile = 5, .key_tile = 7})),
                                     want) < bound);
            }
    }
}

}  // namespace

TEST_CASE("tiled_dual_chunk: attention by its definition in long double, f64",
          "[attention][tiled_dual_chunk]") {
    check_defined<double>(1e-13);
}
TEST_CASE("tiled_dual_chunk: attention by its definition in long double, f32 and bf16",
          "[attention][tiled_dual_chunk]") {
    check_defined<float>(1e-5);
    check_defined<rw::bf16>(2e-2);
}

TEST_CASE("tiled_dual_chunk: one chunk is ordinary attention bit for bit",
          "[attention][tiled_dual_chunk][reduces]") {
    const chunk_case<float> c(
        {.queries = 90, .keys = 120, .heads = 4, .kv_heads = 2, .channels = 16, .value_channels = 16});
    std::vector<float> want(c.run(rw::dual_chunk({.chunk_size = 8, .local_size = 1})).size());
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_workspace(c.same.q_view(), c.same.k_view(), c.same.v_view())));
    attention::attend(attention::causal_mask{}, c.same.q_view(), c.same.k_view(), c.same.v_view(),
                      rw::heads_view<float>(want.data(), c.same.sizes.out()), workspace);
    CHECK(c.run(rw::dual_chunk({.chunk_size = 121, .local_size = 1})) == want);
    CHECK(c.run(rw::dual_chunk({.chunk_size = 40, .local_size = 1})) != want);
}

TEST_CASE("tiled_dual_chunk: parts together and log weights are those of one call; decode ends a prefill",
          "[attention][tiled_dual_chunk]") {
    const attention_sizes s{
        .queries = 75, .keys = 75, .heads = 4, .kv_heads = 2, .channels = 16, .value_channels = 8};
    const chunk_case<double> c(s);
    const rw::dual_chunk chunks({.chunk_size = 14, .local_size = 4});
    std::vector<double> log_weight(75 * 4), of_parts(75 * 4);
    const auto whole = c.run(chunks, {}, {.log_weight = log_weight});
    std::vector<double> parts(whole.size());
    for (rw::index p = 0; p < 3; ++p) c.run_into(chunks, {}, {.log_weight = of_parts, .part = {3, p}}, parts);
    CHECK(parts == whole);
    CHECK(of_parts == log_weight);

    const auto q = c.queries();
    const rw::dual_chunk_queries<const double> last{q.same.token_slice(70, 5), q.previous.token_slice(70, 5),
                                                    q.older.token_slice(70, 5)};
    std::vector<double> tail(5 * 4 * 8);
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_dual_chunk_workspace(last, c.same.v_view())));
    attention::attend_dual_chunk(attention::causal_mask{}, chunks, last, c.same.k_view(), c.same.v_view(),
                                 rw::heads_view<double>(tail.data(), 5, 4, 8), workspace);
    CHECK(support::worst(tail, std::vector<double>(whole.end() - 5 * 32, whole.end())) < 1e-13);
}

TEST_CASE("tiled_dual_chunk: a shift of all tokens by whole chunks changes nothing",
          "[attention][tiled_dual_chunk]") {
    // The rows of queries at tokens 0 .. 39 and at 20 .. 59 with a period of 10 are the same rows, and so are
    // the keys': what a query sees of the last 40 keys does not depend on where the sequence began.
    const rw::index tokens = 40, channels = 8;
    const rw::dual_chunk chunks({.chunk_size = 14, .local_size = 4});
    rw::position_table<double> table(rw::frequencies::geometric({.rotary_dim = channels}),
                                     chunks.rows_needed());
    const auto run = [&](rw::index first) {
        const auto at = [&](rw::index h, unsigned seed, const std::vector<std::int64_t>& positions) {
            auto x = support::noise(tokens * h * channels, seed);
            rw::rotate(rw::half_split{}, rw::heads_view<double>(x.data(), tokens, h, channels),
                       table.rows(positions));
            return x;
        };
        auto same = at(2, 1, chunks.query_positions(rw::chunk_row::same, tokens, first));
        auto previous = at(2, 1, chunks.query_positions(rw::chunk_row::previous, tokens, first));
        auto older = at(2, 1, chunks.query_positions(rw::chunk_row::older, tokens, first));
        auto keys = at(1, 2, chunks.key_positions(tokens, first));
        const auto v = support::noise(tokens * channels, 3);
        const auto view = [&](std::vector<double>& x) {
            return rw::heads_view<const double>(x.data(), tokens, 2, channels);
        };
        const rw::dual_chunk_queries<const double> q{view(same), view(previous), view(older)};
        const rw::heads_view<const double> k(keys.data(), tokens, 1, channels),
            values(v.data(), tokens, 1, channels);
        std::vector<double> out(tokens * 2 * channels);
        std::vector<std::byte> workspace(std::size_t(attention::attend_dual_chunk_workspace(q, values)));
        attention::attend_dual_chunk(attention::causal_mask{}, chunks, q, k, values,
                                     rw::heads_view<double>(out.data(), tokens, 2, channels), workspace);
        return out;
    };
    CHECK(run(0) == run(20));
}

TEST_CASE("tiled_dual_chunk: refuses what does not fit", "[attention][tiled_dual_chunk][errors]") {
    const chunk_case<double> c({.queries = 4, .keys = 6, .heads = 2, .kv_heads = 1});
    const rw::dual_chunk chunks({.chunk_size = 4, .local_size = 1});
    std::vector<double> out(4 * 2 * 8);
    std::vector<std::byte> workspace(
        std::size_t(attention::attend_dual_chunk_workspace(c.queries(), c.same.v_view())));
    const auto call = [&](const auto& q, std::size_t bytes, const rw::dual_chunk_options& options = {}) {
        attention::attend_dual_chunk(attention::causal_mask{}, chunks, q, c.same.k_view(), c.same.v_view(),
                                     rw::heads_view<double>(out.data(), 4, 2, 8),
                                     std::span(workspace).first(bytes), options);
        return 0;
    };
    CHECK(call(c.queries(), workspace.size()) == 0);
    CHECK_REFUSES("attend_dual_chunk: workspace must hold attend_dual_chunk_workspace bytes, got 3",
                  call(c.queries(), 3));
    auto q = c.queries();
    q.older = q.older.token_slice(0, 2);
    CHECK_REFUSES("attend_dual_chunk: queries must have the same tokens: wanted 4, got 2",
                  call(q, workspace.size()));
    CHECK_REFUSES("attend_dual_chunk: first_query must be >= 0, got -1",
                  call(c.queries(), workspace.size(), {.first_query = -1}));
    const rw::index far_off = rw::detail::limit_of_bits(60) + 1;
    CHECK_REFUSES("attend_dual_chunk: first_query must be within " + support::limit(60) + ", got " +
                      std::to_string(far_off),
                  call(c.queries(), workspace.size(), {.first_query = far_off}));
    CHECK_REFUSES("attend_dual_chunk: scale must be finite, got inf",
                  call(c.queries(), workspace.size(), {.scale = HUGE_VAL}));
}
