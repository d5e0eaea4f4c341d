// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/frequency_usage.hpp>

#include <cmath>
#include <vector>

#include <ropewalk/frequencies/p_rope.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("frequency_usage: wavelengths, and the pairs that rotate fully in training",
          "[analysis][frequency_usage]") {
    const auto s = frequencies::geometric({.rotary_dim = 128});
    const auto lengths = analysis::make_wavelengths(s);
    CHECK(lengths[0] == Approx(6.283185307179586).epsilon(1e-15));
    CHECK(analysis::count_full_turns(s, 4096) == 46);
    CHECK(analysis::count_full_turns(s, 6) == 0);
    CHECK(std::isinf(analysis::make_wavelengths(frequencies::p_rope({.head_dim = 8, .p = 0.5}))[3]));
}

TEST_CASE("frequency_usage: the norm of every pair, head by head, in every layout and type",
          "[analysis][frequency_usage]") {
    const std::vector<float> x{3, 0, 4, 0, /* head 1 */ 0, 5, 0, 12, /* token 1 */ 6, 1, 8, 0, 0, 0, 0, 0};
    const heads_view<const float> view(x.data(), 2, 2, 4);
    CHECK(analysis::make_pair_norms(half_split{}, view) == std::vector<double>{7.5, 0.5, 0, 6.5});
    CHECK(analysis::make_pair_norms(interleaved{}, view)[0] == Approx((3 + std::sqrt(37.0)) / 2));
    CHECK(analysis::make_pair_shares(half_split{}, view) == std::vector<double>{7.5 / 8, 0.5 / 8, 0, 1});
    const std::vector<float> zeros(4);
    CHECK(analysis::make_pair_shares(half_split{}, heads_view<const float>(zeros.data(), 1, 1, 4)) ==
          std::vector<double>{0, 0});
    std::vector<bf16> narrow;
    for (float v : x) narrow.push_back(bf16(v));
    CHECK(analysis::make_pair_norms(half_split{}, heads_view<const bf16>(narrow.data(), 2, 2, 4)) ==
          std::vector<double>{7.5, 0.5, 0, 6.5});
    CHECK_REFUSES("make_pair_norms: channels must be even, got 3",
                  analysis::make_pair_norms(half_split{}, heads_view<const float>(x.data(), 1, 1, 3)));
}
