// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/dual_chunk.hpp>

#include <cmath>

#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/plain_attention.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

std::vector<std::int64_t> seen_by(const dual_chunk& chunks, std::int64_t i) {
    std::vector<std::int64_t> all;
    for (std::int64_t j = 0; j <= i; ++j) all.push_back(chunks.distance(i, j));
    return all;
}

/// Queries under the three rows and keys under theirs, of noise.
struct scene {
    rw::index heads = 4, kv_heads = 2, channels = 8;
    std::vector<double> same, previous, older, k, v;

    scene(const dual_chunk& chunks, rw::index tokens, rw::index first = 0) {
        const auto q = support::noise((tokens - first) * heads * channels, 1);
        same = previous = older = q;
        k = support::noise(tokens * kv_heads * channels, 2);
        v = support::noise(tokens * kv_heads * channels, 3);
        position_table<double> table(frequencies::geometric({.rotary_dim = channels}), chunks.rows_needed(),
                                     {.max_rows = chunks.rows_needed()});
        const rw::index count = tokens - first;
        const auto turn = [&](std::vector<double>& x, rw::index h, const std::vector<std::int64_t>& at) {
            rotate(half_split{}, heads_view<double>(x.data(), rw::index(at.size()), h, channels),
                   table.rows(at));
        };
        const auto p0 = chunks.query_positions(chunk_row::same, count, first);
        const auto p1 = chunks.query_positions(chunk_row::previous, count, first);
        const auto p2 = chunks.query_positions(chunk_row::older, count, first);
        const auto pk = chunks.key_positions(tokens);
        turn(same, heads, p0), turn(previous, heads, p1), turn(older, heads, p2), turn(k, kv_heads, pk);
    }
    dual_chunk_queries<double> queries() {
        const auto view = [&](std::vector<double>& x) {
            return heads_view<double>(x.data(), rw::index(x.size()) / (heads * channels), heads, channels);
        };
        return {view(same), view(previous), view(older)};
    }
    heads_view<double> keys() {
        return {k.data(), rw::index(k.size()) / (kv_heads * channels), kv_heads, channels};
    }
    heads_view<double> values() {
        return {v.data(), rw::index(v.size()) / (kv_heads * channels), kv_heads, channels};
    }
};

}  // namespace

TEST_CASE("dual_chunk: worked distances", "[attention][dual_chunk]") {
    const dual_chunk code({.chunk_size = 10, .local_size = 4});
    using list = std::vector<std::int64_t>;
    CHECK(seen_by(code, 14) == list{10, 9, 8, 7, 6, 5, 8, 7, 6, 5, 4, 3, 2, 1, 0});
    CHECK(seen_by(code, 20) == list{10, 9, 8, 7, 6, 5, 10, 9, 8, 7, 6, 5, 8, 7, 6, 5, 4, 3, 2, 1, 0});
    const dual_chunk paper({.chunk_size = 10, .local_size = 4, .clamp = chunk_clamp::paper});
    CHECK(seen_by(paper, 20) == list{9, 8, 7, 6, 5, 4, 9, 8, 7, 6, 5, 4, 8, 7, 6, 5, 4, 3, 2, 1, 0});
    // A local part longer than the period: the clamp is never reached.
    const dual_chunk wide({.chunk_size = 9, .local_size = 5});
    CHECK(wide.query_positions(chunk_row::previous, 4) == list{4, 5, 6, 7});
    CHECK(wide.query_position(chunk_row::older, 3) == 7);
    const dual_chunk million({.chunk_size = 262144, .local_size = 8192, .original_context = 262144});
    CHECK(million.period() == 253952);
    CHECK(million.query_position(chunk_row::previous, 8191) == 262143);
    CHECK(million.query_position(chunk_row::previous, 8193) == 262144);
    CHECK(million.logit_factor(524288) == Approx(1.069314718).epsilon(1e-9));
    CHECK(million.logit_factor(1010000) == Approx(1.134881164).epsilon(1e-9));
    CHECK(million.logit_factor(262144) == 1);
}

TEST_CASE("dual_chunk: no distance is negative or exceeds the chunk, near ones are exact",
          "[attention][dual_chunk]") {
    for (const rw::index local : {0, 1, 3, 7})
        for (const auto clamp : {chunk_clamp::released_code, chunk_clamp::paper}) {
            const dual_chunk chunks({.chunk_size = 11, .local_size = local, .clamp = clamp});
            for (std::int64_t i = 0; i < 60; ++i)
                for (std::int64_t j = 0; j <= i; ++j) {
                    const auto d = chunks.distance(i, j);
                    CHECK(d <= 11);
                    // The paper's clamp at chunk_size - 1 falls below the last key of a period only without
                    // any local part.
                    CHECK(d >= (local == 0 && clamp == chunk_clamp::paper ? -1 : 0));
                    const auto apart = chunks.chunk_of(i) - chunks.chunk_of(j);
                    const bool exact = apart == 0 || (apart == 1 && i % chunks.period() + chunks.period() <=
                                                                        11 - (clamp == chunk_clamp::paper));
                    if (exact) CHECK(d == i - j);
                    CHECK(chunks.key_position(j) < chunks.period());
                    for (const auto row : {chunk_row::same, chunk_row::previous, chunk_row::older,
                                           chunk_row::previous_critical, chunk_row::older_critical})
                        CHECK(chunks.query_position(row, i) < chunks.rows_needed());
                }
        }
}

TEST_CASE("dual_chunk: scores by the distance each pair sees", "[attention][dual_chunk]") {
    const dual_chunk chunks({.chunk_size = 7, .local_size = 2, .original_context = 6});
    const rw::index tokens = 23;
    scene s(chunks, tokens);
    const auto q0 = support::noise(tokens * s.heads * s.channels, 1);
    const auto k0 = support::noise(tokens * s.kv_heads * s.channels, 2);
    const double g = chunks.logit_factor(tokens);
    std::vector<double> scores(s.heads * tokens * tokens);
    fill_dual_chunk_scores(chunks, s.queries(), s.keys(), std::span<double>(scores), {.factor = g});
    for (rw::index h = 0; h < s.heads; ++h)
        for (rw::index i = 0; i < tokens; ++i)
            for (rw::index j = 0; j < tokens; ++j) {
                long double want = 0;
                for (rw::index p = 0; p < 4 && j <= i; ++p) {
                    const auto* q = &q0[(i * s.heads + h) * 8 + p];
                    const auto* k = &k0[(j * s.kv_heads + h / 2) * 8 + p];
                    const long double a = chunks.distance(i, j) * std::pow(1e4L, -p / 4.0L);
                    want += ((long double)q[0] * k[0] + (long double)q[4] * k[4]) * std::cos(a) +
                            ((long double)q[0] * k[4] - (long double)q[4] * k[0]) * std::sin(a);
                }
                want *= (long double)g * g / std::sqrt(8.0L);
                CHECK(scores[(h * tokens + i) * tokens + j] == Approx(double(want)).margin(1e-13));
            }
}

TEST_CASE("dual_chunk: one chunk is ordinary attention, bit for bit in the scores",
          "[attention][dual_chunk][reduces]") {
    const dual_chunk chunks({.chunk_size = 40, .local_size = 10}),
        plain({.chunk_size = 4000, .local_size = 1});
    scene a(chunks, 30), b(plain, 30);
    std::vector<double> one(4 * 900), other(4 * 900), want(4 * 900), out(30 * 32);
    fill_dual_chunk_scores(chunks, a.queries(), a.keys(), std::span<double>(one));
    fill_dual_chunk_scores(plain, b.queries(), b.keys(), std::span<double>(other));
    CHECK(support::same_bits(one, other));
    attend(a.queries().same, a.keys(), a.values(), heads_view<double>(out.data(), 30, 4, 8),
           {.scores = want});
    for (rw::index h = 0; h < 4; ++h)
        for (rw::index i = 0; i < 30; ++i)
            for (rw::index j = 0; j <= i; ++j)
                CHECK(one[(h * 30 + i) * 30 + j] == Approx(want[(h * 30 + i) * 30 + j]).margin(1e-14));
}

TEST_CASE("dual_chunk: critical rows keep the order inside a chunk", "[attention][dual_chunk]") {
    const dual_chunk chunks({.chunk_size = 9, .local_size = 3});
    for (std::int64_t i = 12; i < 30; ++i)
        for (std::int64_t j = 0; j < i; ++j) {
            const auto apart = chunks.chunk_of(i) - chunks.chunk_of(j);
            if (apart == 1)
                CHECK(chunks.query_position(chunk_row::previous_critical, i) - chunks.key_position(j) ==
                      i - j);
            if (apart >= 2)
                CHECK(chunks.query_position(chunk_row::older_critical, i) - chunks.key_position(j) ==
                      i - j - (apart - 1) * 6 + 3);
        }
    CHECK(dual_chunk_estimate_queries(chunks, 17, 3) == 3);
    CHECK(dual_chunk_estimate_queries(chunks, 17) == 5);
    CHECK(dual_chunk_estimate_queries(chunks, 18) == 6);
    CHECK(dual_chunk_estimate_queries(chunks, 19) == 1);
}

TEST_CASE("dual_chunk: columns and diagonals each hold the whole weight", "[attention][dual_chunk]") {
    const auto scores = support::noise(2 * 3 * 7, 5, {0, 3});
    const auto w = make_dual_chunk_weights(std::span<const double>(scores), 2, 3, 7);
    for (rw::index h = 0; h < 2; ++h) {
        double columns = 0, diagonals = 0;
        for (rw::index j = 0; j < 7; ++j) columns += w.column[h * 7 + j], diagonals += w.diagonal[h * 7 + j];
        CHECK(columns == Approx(3).epsilon(1e-14));
        CHECK(diagonals == Approx(3).epsilon(1e-14));
        long double own = 0;  // distance 0: each query's weight on its own key
        for (rw::index n = 0; n < 3; ++n) {
            long double sum = 0;
            for (rw::index j = 0; j <= 4 + n; ++j) sum += std::exp((long double)scores[(h * 3 + n) * 7 + j]);
            own += std::exp((long double)scores[(h * 3 + n) * 7 + 4 + n]) / sum;
        }
        CHECK(w.diagonal[h * 7] == Approx(double(own)).epsilon(1e-13));
    }
}

TEST_CASE("dual_chunk: refuses bad numbers", "[attention][dual_chunk][errors]") {
    CHECK_REFUSES("dual_chunk: chunk_size must be > local_size, got 4",
                  dual_chunk({.chunk_size = 4, .local_size = 4}));
    CHECK_REFUSES("dual_chunk: local_size must be >= 0, got -1", dual_chunk({.local_size = -1}));
    CHECK_REFUSES("dual_chunk: original_context must be finite and >= 0, got -1",
                  dual_chunk({.original_context = -1}));
    const dual_chunk chunks({.chunk_size = 7, .local_size = 2});
    CHECK_REFUSES("dual_chunk::logit_factor: length must be >= 1, got 0", chunks.logit_factor(0));
    scene s(chunks, 5);
    std::vector<double> few(3);
    CHECK_REFUSES(
        "fill_dual_chunk_scores: scores must hold batches * heads * Lq * Lk numbers: wanted 100, got 3",
        fill_dual_chunk_scores(chunks, s.queries(), s.keys(), std::span<double>(few)));
    auto q = s.queries();
    q.older = q.older.token_slice(0, 2);
    CHECK_REFUSES("fill_dual_chunk_scores: queries must have the same tokens: wanted 5, got 2",
                  fill_dual_chunk_scores(chunks, q, s.keys(), std::span<double>(few)));
    CHECK_REFUSES(
        "fill_dual_chunk_scores: first_query must be >= 0, got -1",
        fill_dual_chunk_scores(chunks, s.queries(), s.keys(), std::span<double>(few), {.first_query = -1}));
    CHECK_REFUSES("make_dual_chunk_weights: queries must be at most keys, got 3",
                  make_dual_chunk_weights(std::span<const double>(few), 1, 3, 1));
}
