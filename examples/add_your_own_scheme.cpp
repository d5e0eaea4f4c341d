// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A scheme that the library does not know: pair i completes one turn in as many tokens as the i-th prime. All
// it takes is a function that makes a spectrum. Tables, kernels and the checks below work with it unchanged.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <random>
#include <vector>

#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

namespace {

/// Frequencies in radians per token, one per pair: 2 pi / period.
rw::spectrum prime_periods(rw::index rotary_dim) {
    std::vector<double> omega;
    for (int n = 2; static_cast<rw::index>(omega.size()) < rotary_dim / 2; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
        if (prime) omega.push_back(2 * std::numbers::pi / n);
    }
    return rw::spectrum::from_omega(omega);
}

/// What an engine keeps of a model: the channels that rotate, their pair layout and the frequencies.
rw::rotary_scheme make_prime_scheme(rw::index head_dim) {
    return rw::make_fixed_scheme({.name = "primes", .head_dim = head_dim, .layout = rw::half_split{}},
                                 prime_periods(head_dim));
}

double score(const rw::rotary_scheme& rope, rw::position_table<float>& table, std::vector<float> q,
             std::vector<float> k, int query_at, int key_at) {
    rw::rotate(rope, rw::heads_view(q.data(), 1, 1, rope.head_dim), table.rows(query_at));
    rw::rotate(rope, rw::heads_view(k.data(), 1, 1, rope.head_dim), table.rows(key_at));
    double sum = 0;
    for (std::size_t i = 0; i < q.size(); ++i) sum += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    return sum;
}

}  // namespace

int main() {
    const auto rope = make_prime_scheme(64);
    rw::position_table<float> table(rope.spectrum_for(4096), 4096);
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> q(64), k(64);
    for (auto* x : {&q, &k})
        for (float& value : *x) value = normal(engine);

    // The property of a rotary embedding: a score depends on the distance only.
    double moved = 0;
    for (int shift = 0; shift < 4000; shift += 37)
        moved = std::max(
            moved, std::abs(score(rope, table, q, k, shift + 9, shift) - score(rope, table, q, k, 9, 0)));
    std::printf("primes: %td pairs, periods of 2 to %.0f tokens\n", rope.rotary_dim / 2,
                2 * std::numbers::pi / rope.spectrum_for(1).omega(31));
    std::printf("the score at distance 9 moves by at most %.1e over 4000 positions\n", moved);

    // It also works with everything that scales or combines frequencies.
    const auto slower = rw::frequencies::divide_pairs(rope.spectrum_for(1), std::vector<double>(32, 4.0));
    std::printf("interpolated by 4, pair 0 needs %.0f tokens a turn\n",
                2 * std::numbers::pi / slower.omega(0));
    return moved < 1e-4 ? 0 : 1;
}
