// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/p_rope.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("p_rope: p = 1 is RoPE, p = 0 is NoPE", "[frequencies][p_rope][reduces]") {
    CHECK(frequencies::p_rope({.head_dim = 64, .p = 1}).omegas() ==
          frequencies::geometric({.rotary_dim = 64}).omegas());
    CHECK(frequencies::p_rope({.head_dim = 64, .p = 0}).omegas() == std::vector<double>(32, 0.0));
    CHECK(frequencies::partial_ladder({.head_dim = 64, .p = 1}).omegas() ==
          frequencies::geometric({.rotary_dim = 64}).omegas());
    CHECK(frequencies::partial_ladder({.head_dim = 64, .p = 0}).omegas() == std::vector<double>(32, 0.0));
}

TEST_CASE("p_rope: keeps the highest of the full ladder; reversed the lowest; partial squeezes it",
          "[frequencies][p_rope]") {
    const auto full = frequencies::geometric({.rotary_dim = 128});
    const auto high = frequencies::p_rope({.head_dim = 128, .p = 0.25});
    const auto low = frequencies::p_rope({.head_dim = 128, .p = 0.25, .keep = frequencies::kept_end::lowest});
    const auto partial = frequencies::partial_ladder({.head_dim = 128, .p = 0.25});
    const auto squeezed = frequencies::geometric({.rotary_dim = 32});
    for (ropewalk::index i = 0; i < 64; ++i) {
        CHECK(high.omega(i) == (i < 16 ? full.omega(i) : 0.0));
        CHECK(low.omega(i) == (i >= 48 ? full.omega(i) : 0.0));
        CHECK(partial.omega(i) == (i < 16 ? squeezed.omega(i) : 0.0));
    }
    const auto scaled = frequencies::p_rope({.head_dim = 128, .p = 0.25, .factor = 8});
    for (ropewalk::index i = 0; i < 16; ++i)
        CHECK(scaled.omega(i) == Approx(full.omega(i) / 8).epsilon(1e-15));
}

TEST_CASE("p_rope: the kept count is rounded down", "[frequencies][p_rope]") {
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 128, .p = 0.25}) == 16);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 256, .p = 0.75}) == 96);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 512, .p = 0.25}) == 64);
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 10, .p = 0.5}) == 2);  // 2.5 pairs
    CHECK(frequencies::p_rope_kept_pairs({.head_dim = 64, .p = 0.999}) == 31);
}

TEST_CASE("partial_rotary_dim: truncates towards zero", "[frequencies][p_rope]") {
    CHECK(frequencies::partial_rotary_dim(96, 0.25) == 24);
    CHECK(frequencies::partial_rotary_dim(80, 0.4) == 32);
    CHECK(frequencies::partial_rotary_dim(128, 1) == 128);
    CHECK(frequencies::partial_rotary_dim(64, 0.14) == 8);  // 8.96
    CHECK_REFUSES("partial_rotary_dim: head_dim * partial_rotary_factor must be even, got 5",
                  frequencies::partial_rotary_dim(10, 0.5));
    CHECK_REFUSES("partial_rotary_dim: partial_rotary_factor must be in [0, 1], got 1.5",
                  frequencies::partial_rotary_dim(10, 1.5));
    CHECK_REFUSES("partial_rotary_dim: head_dim must be >= 1, got 0", frequencies::partial_rotary_dim(0, 1));
}

namespace {

/// Scores of one query with the same key content at the distances 0 .. count - 1 before it.
std::vector<double> scores_by_distance(const spectrum& s, const std::vector<double>& query,
                                       const std::vector<double>& key, ropewalk::index count) {
    const auto channels = static_cast<ropewalk::index>(key.size());
    std::vector<double> q = query, keys, scores;
    for (ropewalk::index n = 0; n < count; ++n) keys.insert(keys.end(), key.begin(), key.end());
    rotate(half_split{}, heads_view(q.data(), 1, 1, channels),
           make_rotation_table<double>(s, position_ids::from(std::vector<double>{4000})));
    rotate(half_split{}, heads_view(keys.data(), count, 1, channels),
           make_rotation_table<double>(s, position_ids().append(text_run{count, 4000, -1})));
    for (ropewalk::index n = 0; n < count; ++n)
        scores.push_back(std::inner_product(q.begin(), q.end(), keys.begin() + n * channels, 0.0));
    return scores;
}

/// x turned as a token at this position is.
std::vector<double> turned(const spectrum& s, std::vector<double> x, double position) {
    rotate(half_split{}, heads_view(x.data(), 1, 1, static_cast<ropewalk::index>(x.size())),
           make_rotation_table<double>(s, position_ids::from(std::vector<double>{position})));
    return x;
}

std::vector<double> some_vector(std::size_t channels) {
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    std::vector<double> x(channels);
    for (double& v : x) v = normal(random);
    return x;
}

}  // namespace

TEST_CASE("p_rope: for any query and distance there is a key whose score is greatest just there",
          "[frequencies][p_rope]") {
    // Proposition 3.1: the key is the query turned by r, and nothing forces scores to decay.
    const auto q = some_vector(32);
    for (const double p : {1.0, 0.5}) {
        const auto s = frequencies::p_rope({.head_dim = 32, .p = p});
        for (const int r : {0, 1, 17, 900}) {
            const auto scores = scores_by_distance(s, q, turned(s, q, r), 2000);
            for (int n = 0; n < 2000; ++n) {
                double want = 0;
                for (ropewalk::index i = 0; i < 16; ++i)
                    want += (q[i] * q[i] + q[i + 16] * q[i + 16]) * std::cos((n - r) * s.omega(i));
                CHECK(scores[n] == Approx(want).margin(1e-10));
                if (n != r) CHECK(scores[n] < scores[r]);
            }
        }
    }
}

TEST_CASE("p_rope: equal keys and a head that looks at the previous token", "[frequencies][p_rope]") {
    // Proposition 5.3: keys psi everywhere, queries psi turned back by one. Without rotation (5.2) equal
    // keys have equal scores.
    const auto psi = some_vector(32);
    for (const double p : {1.0, 0.25}) {
        const auto s = frequencies::p_rope({.head_dim = 32, .p = p});
        const auto scores = scores_by_distance(s, turned(s, psi, -1), psi, 2000);
        CHECK(std::ranges::max_element(scores) - scores.begin() == 1);
        CHECK(std::ranges::count_if(scores, [&](double v) { return v >= scores[1]; }) == 1);
    }
    const auto none = frequencies::p_rope({.head_dim = 32, .p = 0});
    const auto scores = scores_by_distance(none, turned(none, psi, -1), psi, 2000);
    CHECK(std::ranges::count(scores, scores[0]) == 2000);
}

TEST_CASE("p_rope: refuses impossible numbers", "[frequencies][p_rope][errors]") {
    CHECK_REFUSES("p_rope: head_dim must be even and > 0, got 7", frequencies::p_rope({.head_dim = 7}));
    CHECK_REFUSES("p_rope: p must be in [0, 1], got 1.5", frequencies::p_rope({.head_dim = 8, .p = 1.5}));
    CHECK_REFUSES("p_rope: p must be in [0, 1], got -1",
                  frequencies::partial_ladder({.head_dim = 8, .p = -1}));
    CHECK_REFUSES("linear: factor must be finite and > 0, got 0",
                  frequencies::p_rope({.head_dim = 8, .factor = 0}));
}
