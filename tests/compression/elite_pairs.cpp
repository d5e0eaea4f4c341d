// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_pairs.hpp>

#include <algorithm>
#include <random>
#include <set>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

std::vector<double> noise(rw::index count, unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<double> x(static_cast<std::size_t>(count));
    for (double& v : x) v = normal(engine);
    return x;
}

/// Scores of one head with only some pairs rotated, straight from the definition.
std::vector<double> scores(const std::vector<double>& q, const std::vector<double>& k, rw::index tokens,
                           rw::index d, const rw::spectrum& omega, const rw::pair_layout& layout,
                           const std::set<rw::index>& turning) {
    std::vector<double> s(tokens * tokens);
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index j = 0; j < tokens; ++j)
            for (rw::index i = 0; i < d / 2; ++i) {
                const double angle = turning.count(i) ? double(n - j) * omega.omega(i) : 0;
                const double qx = q[n * d + layout.first(i, d / 2)], qy = q[n * d + layout.second(i, d / 2)];
                const double kx = k[j * d + layout.first(i, d / 2)], ky = k[j * d + layout.second(i, d / 2)];
                s[n * tokens + j] +=
                    ((qx * kx + qy * ky) * std::cos(angle) + (qx * ky - qy * kx) * std::sin(angle)) /
                    std::sqrt(double(d));
            }
    return s;
}

}  // namespace

TEST_CASE("elite_pairs: the additive search is the greedy search of the definition", "[compression][elite]") {
    for (const rw::pair_layout& layout :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})})
        for (bool causal : {true, false})
            for (rw::index tokens : {1, 7, 70}) {
                const rw::index d = 12, pairs = 6;
                const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 30});
                auto q = noise(tokens * d, 1), k = noise(tokens * d, 2);
                const auto r = rw::make_elite_ranking(rw::heads_view(q.data(), tokens, 1, d),
                                                      rw::heads_view(k.data(), tokens, 1, d), omega,
                                                      {.rounds = pairs, .causal = causal, .layout = layout});
                std::set<rw::index> all, chosen;
                for (rw::index i = 0; i < pairs; ++i) all.insert(i);
                const auto full = scores(q, k, tokens, d, omega, layout, all);
                for (rw::index round = 0; round < pairs; ++round) {
                    for (rw::index c = 0; c < pairs; ++c) {
                        const double got = r.distances[round * pairs + c];
                        if (chosen.count(c)) {
                            CHECK(got == 0);
                            continue;
                        }
                        auto with = chosen;
                        with.insert(c);
                        const auto s = scores(q, k, tokens, d, omega, layout, with);
                        double want = 0;
                        for (rw::index n = 0; n < tokens; ++n)
                            for (rw::index j = 0; j < (causal ? n + 1 : tokens); ++j)
                                want += std::abs(s[n * tokens + j] - full[n * tokens + j]);
                        CHECK(std::abs(got - want / double(tokens * tokens)) < 1e-12);
                    }
                    const rw::index best = r.order[round];
                    for (rw::index c = 0; c < pairs; ++c)
                        if (!chosen.count(c))
                            CHECK(r.distances[round * pairs + best] <= r.distances[round * pairs + c]);
                    chosen.insert(best);
                }
                CHECK(std::abs(r.distances[(pairs - 1) * pairs + r.order[pairs - 1]]) < 1e-12);
            }
}

TEST_CASE("elite_pairs: f32 data give the distances of f64 ones, slow pairs too", "[compression][elite]") {
    // A base of 1e9 has pairs that hardly turn: what their rotation changes is far below their products.
    for (const rw::index tokens : {5, 90, 300})
        for (const rw::index d : {6, 34, 64}) {
            const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 1e9});
            const auto wide_q = noise(tokens * d, 31), wide_k = noise(tokens * d, 32);
            std::vector<float> q(wide_q.begin(), wide_q.end()), k(wide_k.begin(), wide_k.end());
            const std::vector<double> same_q(q.begin(), q.end()), same_k(k.begin(), k.end());
            const auto ranking = [&](const auto& a, const auto& b) {
                return rw::make_elite_ranking(rw::heads_view(a.data(), tokens, 1, d),
                                              rw::heads_view(b.data(), tokens, 1, d), omega,
                                              {.rounds = d / 2});
            };
            const auto narrow = ranking(q, k), wide = ranking(same_q, same_k);
            CHECK(narrow.order == wide.order);
            for (rw::index round = 0; round + 1 < d / 2; ++round) {  // the last leaves what rounding leaves
                const auto first = wide.distances.begin() + round * (d / 2);
                const double largest = *std::max_element(first, first + d / 2);
                for (rw::index c = 0; c < d / 2; ++c)
                    CHECK(std::abs(narrow.distances[round * (d / 2) + c] - first[c]) <= 1e-6 * largest);
            }
            CHECK(ranking(q, same_k).distances == wide.distances);  // one f64 tensor: f64 arithmetic
        }
}

TEST_CASE("elite_pairs: some queries of every sequence estimate what all give", "[compression][elite]") {
    const rw::index tokens = 64, d = 12, pairs = 6;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 30});
    auto q = noise(tokens * d, 41), k = noise(tokens * d, 42);
    const rw::heads_view qv(q.data(), tokens, 1, d), kv(k.data(), tokens, 1, d);
    for (const bool causal : {true, false}) {
        const auto all = rw::make_elite_ranking(qv, kv, omega, {.rounds = 2, .causal = causal});
        for (const rw::index queries : {64, 1000}) {
            const auto same =
                rw::make_elite_ranking(qv, kv, omega, {.rounds = 2, .causal = causal, .queries = queries});
            CHECK(same.distances == all.distances);
        }
        // One sequence alone: the queries that are looked at, from the definition.
        const auto one = rw::make_elite_ranking(qv, kv, omega, {.rounds = 1, .causal = causal, .queries = 5});
        std::set<rw::index> full;
        for (rw::index i = 0; i < pairs; ++i) full.insert(i);
        const auto want = scores(q, k, tokens, d, omega, rw::half_split{}, full);
        for (rw::index c = 0; c < pairs; ++c) {
            const auto s = scores(q, k, tokens, d, omega, rw::half_split{}, {c});
            double sum = 0;
            for (const rw::index n : {0, 12, 25, 38, 51})
                for (rw::index j = 0; j < (causal ? n + 1 : tokens); ++j)
                    sum += std::abs(s[n * tokens + j] - want[n * tokens + j]);
            CHECK(one.distances[c] == Approx(sum / double(5 * tokens)).epsilon(1e-12));
        }
        // The same sequence again and again: in the end every query has been looked at equally often.
        rw::elite_search search(1, omega, {.rounds = 2, .causal = causal, .queries = 5});
        while (!search.done()) {
            for (int again = 0; again < 610; ++again) search.add(qv, kv);
            search.choose();
        }
        CHECK(search.ranking().order == all.order);
        for (std::size_t i = 0; i < all.distances.size(); ++i)
            CHECK(search.ranking().distances[i] == Approx(all.distances[i]).epsilon(2e-3));
    }
}

TEST_CASE("elite_pairs: groups are summed, calibration sequences averaged", "[compression][elite]") {
    const rw::index tokens = 9, d = 8, pairs = 4;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 20});
    auto q = noise(2 * tokens * 4 * d, 3), k = noise(2 * tokens * 2 * d, 4);
    const rw::heads_view qv(q.data(), {.batches = 2, .tokens = tokens, .heads = 4, .channels = d});
    const rw::heads_view kv(k.data(), {.batches = 2, .tokens = tokens, .heads = 2, .channels = d});
    const auto all = rw::make_elite_ranking(qv, kv, omega, {.rounds = 1});
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index c = 0; c < pairs; ++c) {
            double sum = 0;
            for (rw::index b = 0; b < 2; ++b)
                for (rw::index g = 0; g < 2; ++g)
                    sum += rw::make_elite_ranking(qv.batch_slice(b, 1).head_slice(2 * h + g, 1),
                                                  kv.batch_slice(b, 1).head_slice(h, 1), omega, {.rounds = 1})
                               .distances[c];
            CHECK(all.distances[h * pairs + c] == Approx(sum / 2).epsilon(1e-12));
        }
}

TEST_CASE("elite_pairs: rankings are nested, and pairs that hardly turn come last", "[compression][elite]") {
    const rw::index tokens = 24, d = 16, pairs = 8;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 1e12});
    auto q = noise(tokens * d, 5), k = noise(tokens * d, 6);
    const rw::heads_view qv(q.data(), tokens, 1, d), kv(k.data(), tokens, 1, d);
    const auto r = rw::make_elite_ranking(qv, kv, omega, {.rounds = pairs});
    const auto fewer = rw::make_elite_ranking(qv, kv, omega, {.rounds = 3});
    CHECK(std::vector<rw::index>(r.order.begin(), r.order.begin() + 3) == fewer.order);
    CHECK(r.elite(0).empty());
    const auto three = r.elite(3);
    CHECK(std::is_sorted(three.begin(), three.end()));
    for (rw::index i : {0, 1}) CHECK(std::find(three.begin(), three.end(), i) != three.end());
    CHECK_THROWS_WITH(r.elite(9), ContainsSubstring("count must be 0 to rounds, got 9"));
}

TEST_CASE("elite_pairs: uniform and contribution baselines", "[compression][elite]") {
    const auto u = rw::make_uniform_ranking(2, 16, 4);
    CHECK(u.order == std::vector<rw::index>{0, 5, 10, 15, 0, 5, 10, 15});
    CHECK(rw::make_uniform_ranking(1, 8, 1).order == std::vector<rw::index>{0});
    CHECK(rw::make_uniform_ranking(1, 5, 5).order == std::vector<rw::index>{0, 1, 2, 3, 4});

    const rw::index tokens = 11, d = 8;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 20});
    auto q = noise(tokens * d, 7), k = noise(tokens * d, 8);
    for (bool causal : {true, false}) {
        const auto r = rw::make_contribution_ranking(rw::heads_view(q.data(), tokens, 1, d),
                                                     rw::heads_view(k.data(), tokens, 1, d), omega,
                                                     {.rounds = 4, .causal = causal});
        std::vector<double> sum(4);
        for (rw::index i = 0; i < 4; ++i) {
            auto qi = q, ki = k;  // this pair alone
            for (rw::index n = 0; n < tokens * d; ++n)
                if (n % d % 4 != i) qi[n] = ki[n] = 0;
            const auto s = scores(qi, ki, tokens, d, omega, rw::half_split{}, {0, 1, 2, 3});
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index j = 0; j < (causal ? n + 1 : tokens); ++j) sum[i] += s[n * tokens + j];
        }
        for (int i = 1; i < 4; ++i) CHECK(sum[r.order[i - 1]] >= sum[r.order[i]]);
    }
    // Without keys all contribute nothing: the lower pairs come first.
    const std::vector<double> none(tokens * d);
    CHECK(rw::make_contribution_ranking(rw::heads_view(q.data(), tokens, 1, d),
                                        rw::heads_view(none.data(), tokens, 1, d), omega, {.rounds = 4})
              .order == std::vector<rw::index>{0, 1, 2, 3});
}

TEST_CASE("elite_pairs: zero queries give distance zero and the lowest pairs, no NaN",
          "[compression][elite]") {
    std::vector<double> q(5 * 8), k(5 * 8, 1.0);
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    const auto r = rw::make_elite_ranking(rw::heads_view(q.data(), 5, 1, 8),
                                          rw::heads_view(k.data(), 5, 1, 8), omega, {.rounds = 4});
    CHECK(r.order == std::vector<rw::index>{0, 1, 2, 3});
    for (double d : r.distances) CHECK(d == 0);
}

TEST_CASE("elite_pairs: what is refused, and how it says so", "[compression][elite][errors]") {
    std::vector<double> x(64);
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    const rw::heads_view ok(x.data(), 4, 1, 8);
    const auto call = [&](auto q, auto k, rw::elite_options o) {
        return rw::make_elite_ranking(q, k, omega, o);
    };
    CHECK_THROWS_WITH(call(ok, ok, {.rounds = 5}), ContainsSubstring("rounds must be 0 to the pairs, got 5"));
    CHECK_THROWS_WITH(call(ok, ok, {.rounds = -1}), ContainsSubstring("got -1"));
    CHECK_THROWS_WITH(call(ok, ok, {.rounds = 1, .queries = -1}),
                      ContainsSubstring("elite_search: queries must be >= 0 (0: all), got -1"));
    CHECK_THROWS_WITH(rw::elite_search(1, omega, {.rounds = 1, .queries = -1}),
                      ContainsSubstring("queries must be >= 0"));
    CHECK_THROWS_WITH(call(rw::heads_view(x.data(), 4, 1, 6), ok, {.rounds = 1}),
                      ContainsSubstring("q must have two channels a pair: wanted 8, got 6"));
    CHECK_THROWS_WITH(call(ok, rw::heads_view(x.data(), 3, 1, 8), {.rounds = 1}),
                      ContainsSubstring("k must have q's tokens") && ContainsSubstring("got 3"));
    CHECK_THROWS_WITH(
        call(rw::heads_view(x.data(), 2, 3, 8), rw::heads_view(x.data(), 2, 2, 8), {.rounds = 1}),
        ContainsSubstring("divide q.heads, got 2"));
    CHECK_THROWS_WITH(
        call(rw::heads_view(x.data(), 0, 1, 8), rw::heads_view(x.data(), 0, 1, 8), {.rounds = 1}),
        ContainsSubstring("at least one, got 0"));
    std::vector<double> poisoned(32, 1.0);
    for (double bad : {std::nan(""), HUGE_VAL, 1e200}) {  // the last overflows in the scores
        poisoned[11] = bad;
        const rw::heads_view view(poisoned.data(), 4, 1, 8);
        CHECK_THROWS_WITH(rw::make_elite_ranking(view, view, omega, {.rounds = 2}),
                          ContainsSubstring("make_elite_ranking: q and k must be finite"));
        CHECK_THROWS_WITH(rw::make_contribution_ranking(view, view, omega, {.rounds = 2}),
                          ContainsSubstring("make_contribution_ranking: q and k must be finite"));
    }
    CHECK_THROWS_WITH(rw::make_uniform_ranking(1, 4, 5), ContainsSubstring("got 5"));
    CHECK_THROWS_WITH(rw::make_uniform_ranking(0, 4, 2), ContainsSubstring("heads must be >= 1, got 0"));
}

TEST_CASE("elite_pairs: a search by parts and sequence by sequence gives the bits of one call",
          "[compression][elite]") {
    const rw::index tokens = 19, d = 12, batches = 3;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 30});
    auto q = noise(batches * tokens * 6 * d, 21), k = noise(batches * tokens * 3 * d, 22);
    const rw::heads_view qv(q.data(), {.batches = batches, .tokens = tokens, .heads = 6, .channels = d});
    const rw::heads_view kv(k.data(), {.batches = batches, .tokens = tokens, .heads = 3, .channels = d});
    const auto want = rw::make_elite_ranking(qv, kv, omega, {.rounds = 4});
    for (const rw::index parts : {1, 2, 5}) {
        rw::elite_search search(3, omega, {.rounds = 4});
        while (!search.done()) {
            for (rw::index part = parts - 1; part >= 0; --part)
                for (rw::index b = 0; b < batches; ++b)
                    search.add(qv.batch_slice(b, 1), kv.batch_slice(b, 1), {parts, part});
            search.choose();
        }
        CHECK(search.ranking().order == want.order);
        CHECK(search.ranking().distances == want.distances);
    }
    rw::elite_search search(3, omega, {.rounds = 1});
    CHECK_THROWS_WITH(search.choose(),
                      ContainsSubstring("sequences must have been added for every kv head, not for, got 0"));
    search.add(qv, kv, {2, 0});
    CHECK_THROWS_WITH(search.choose(),
                      ContainsSubstring("not for, got 1") || ContainsSubstring("not for, got 2"));
    CHECK_THROWS_WITH(search.add(qv, kv, {2, 2}), ContainsSubstring("part must be one of parts, got 2"));
    CHECK_THROWS_WITH(search.add(qv.head_slice(0, 2), kv.head_slice(0, 2), {}),
                      ContainsSubstring("k must have the kv heads of the search: wanted 3, got 2"));
    CHECK_THROWS_WITH(rw::elite_search(0, omega, {}), ContainsSubstring("kv_heads must be >= 1, got 0"));
    CHECK_THROWS_WITH(rw::elite_search(1, omega, {.rounds = 7}),
                      ContainsSubstring("rounds must be 0 to the pairs, got 7"));
}
