// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_distances.hpp>

#include <cmath>
#include <numeric>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/numbers.hpp"

namespace rw = ropewalk;

namespace {

/// Everything from the definition, in long double.
template <class C, class T>
void against_the_definition(rw::index tokens, rw::index pairs, rw::pair_layout layout, bool causal,
                            double tolerance) {
    const rw::index d = 2 * pairs, heads = 4, kv = 2, batches = 2;
    const double scale = 0.3, magnitude = 1.1;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 40}).with_magnitude(magnitude);
    const auto q = support::as<T>(support::noise(batches * tokens * heads * d, 1)),
               k = support::as<T>(support::noise(batches * tokens * kv * d, 2));
    const rw::heads_view<const T> queries(q.data(), {batches, tokens, heads, d}),
        keys(k.data(), {batches, tokens, kv, d});
    std::vector<rw::index> where;  // not all, ascending, the last among them
    for (rw::index n = tokens - 1; n >= 0; n -= 3) where.insert(where.begin(), n);
    std::vector<rw::index> candidates;
    for (rw::index i = 0; i < pairs; ++i)
        if (i % 4 != 2) candidates.push_back(i);
    std::vector<double> got(pairs, 5.0);
    rw::detail::elite_distances<C> sums(omega, tokens, layout, causal);
    const rw::index b = 1, h = 1;
    sums.add(queries, keys, b, h, where, candidates, scale, got);
    std::vector<long double> want(pairs, 5.0L);
    for (rw::index g = 0; g < 2; ++g)
        for (const rw::index n : where)
            for (rw::index j = 0; j < (causal ? n + 1 : tokens); ++j) {
                std::vector<long double> delta(pairs);
                long double rest = 0;
                for (const rw::index i : candidates) {
                    const auto at = [&](const auto& view, rw::index token, rw::index head, rw::index c) {
                        return (long double)support::widened(view.at(b, token, head)[c]);
                    };
                    const rw::index first = layout.first(i, pairs), second = layout.second(i, pairs);
                    const long double qx = at(queries, n, 2 * h + g, first),
                                      qy = at(queries, n, 2 * h + g, second), kx = at(keys, j, h, first),
                                      ky = at(keys, j, h, second),
                                      angle = (long double)(n - j) * omega.omega(i), m = magnitude;
                    const long double turned =
                        m * m *
                        ((qx * kx + qy * ky) * std::cos(angle) + (qx * ky - qy * kx) * std::sin(angle));
                    delta[i] = scale * (turned - (qx * kx + qy * ky));
                    rest += delta[i];
                }
                for (const rw::index i : candidates) want[i] += std::abs(rest - delta[i]);
            }
    for (rw::index i = 0; i < pairs; ++i) {
        INFO(tokens << " tokens, pair " << i << " of " << pairs);
        CHECK(std::abs(got[i] - double(want[i])) <= tolerance * double(want[i]));
    }
}

}  // namespace

TEST_CASE("elite_distances: every edge of the tiles, layout and type", "[compression][elite]") {
    constexpr rw::index lanes = rw::simd::lanes<float>;
    for (const rw::index tokens : {rw::index{1}, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 5 * lanes})
        for (const rw::index pairs : {1, 3, 8, 18})
            for (const bool causal : {true, false})
                for (const rw::pair_layout layout :
                     {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                      rw::pair_layout::blocked_by(2)}) {
                    against_the_definition<double, double>(tokens, pairs, layout, causal, 1e-12);
                    against_the_definition<float, float>(tokens, pairs, layout, causal, 2e-6);
                    if (layout == rw::pair_layout(rw::half_split{})) {
                        against_the_definition<float, rw::bf16>(tokens, pairs, layout, causal, 2e-6);
                        against_the_definition<double, float>(tokens, pairs, layout, causal, 1e-12);
                    }
                }
}

TEST_CASE("elite_distances: many queries, whose sums are longer than f32 keeps", "[compression][elite]") {
    against_the_definition<float, float>(1100, 2, rw::half_split{}, true, 2e-6);
    against_the_definition<float, float>(1100, 2, rw::half_split{}, false, 2e-6);
}
