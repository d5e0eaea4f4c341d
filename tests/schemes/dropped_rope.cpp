// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/dropped_rope.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("dropped_rope: nothing turns", "[schemes][dropped_rope]") {
    const auto rope = dropped_rope::make_scheme({.head_dim = 16, .softmax_scale = 0.5});
    CHECK(rope.logit_scale == 2);
    CHECK(rope.spectrum_for(1).pairs() == 0);
    CHECK(dropped_rope::make_scheme({.head_dim = 16}).logit_scale == 1);
    support::heads_buffer<float> x({1, 3, 2, 16});
    x.fill(1);
    const auto before = x.dense();
    const auto rows = make_rotation_table<float>(rope.spectrum_for(9), position_ids::text(3));
    rotate(rope, x.view(), rows);
    CHECK(support::same_bits(x.dense(), before));
}

TEST_CASE("dropped_rope: the norm runs over all heads of a token", "[schemes][dropped_rope]") {
    const auto weight = support::noise(12, 5);
    support::heads_buffer<double> x({2, 3, 3, 4}, 3, 1);
    x.fill(2);
    const auto before = x.dense();
    dropped_rope::normalize_tokens(x.view(), std::span<const double>(weight), 1e-5);
    const auto after = x.dense();
    for (rw::index row = 0; row < 6; ++row) {
        long double sum = 0;
        for (rw::index i = 0; i < 12; ++i) sum += (long double)before[row * 12 + i] * before[row * 12 + i];
        for (rw::index i = 0; i < 12; ++i)
            CHECK(after[row * 12 + i] ==
                  Approx(double(before[row * 12 + i] / std::sqrt(sum / 12 + 1e-5L) * weight[i]))
                      .epsilon(1e-14));
    }
    CHECK(x.canaries_alive());
    support::heads_buffer<bf16> half({1, 2, 1, 8});
    half.fill(3);
    const std::vector<float> ones(8, 1.0f);
    dropped_rope::normalize_tokens(half.view(), std::span<const float>(ones), 0);
    double sum = 0;
    for (const double v : half.numbers()) sum += v * v / 8;
    CHECK(sum == Approx(2).epsilon(0.01));
}

TEST_CASE("dropped_rope: refuses bad numbers", "[schemes][dropped_rope][errors]") {
    CHECK_REFUSES("dropped_rope::make_scheme: head_dim must be >= 1, got 0", dropped_rope::make_scheme({}));
    CHECK_REFUSES("dropped_rope::make_scheme: softmax_scale must be finite and > 0, got -1",
                  dropped_rope::make_scheme({.head_dim = 4, .softmax_scale = -1}));
    std::vector<float> x(8), weight(7);
    CHECK_REFUSES("normalize_tokens: weight must hold heads * channels numbers: wanted 8, got 7",
                  dropped_rope::normalize_tokens(heads_view<float>(x.data(), 1, 2, 4),
                                                 std::span<const float>(weight), 1e-6));
    CHECK_REFUSES("normalize_tokens: epsilon must be finite and >= 0, got -1",
                  dropped_rope::normalize_tokens(heads_view<float>(x.data(), 1, 1, 7),
                                                 std::span<const float>(weight), -1));
}
