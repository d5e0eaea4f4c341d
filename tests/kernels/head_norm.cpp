// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/head_norm.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEMPLATE_TEST_CASE("head_norm: sums take each number once and none past the last", "[kernels][head_norm]",
                   double, float, rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    constexpr rw::index n = rw::simd::lanes<C>;
    const auto nan = TestType(std::numeric_limits<C>::quiet_NaN());
    for (rw::index count = 0; count <= 9 * n + 1; ++count) {
        std::vector<TestType> x(static_cast<std::size_t>(count + 2), nan);
        long long squares = 0, about_two = 0, sum = 0;  // whole numbers: exact in any order
        for (rw::index i = 0; i < count; ++i) {
            const auto v = static_cast<int>(i % 7) - 4;
            x[static_cast<std::size_t>(i + 1)] = TestType(static_cast<C>(v));
            squares += v * v, about_two += (v - 2) * (v - 2), sum += v;
        }
        const TestType* const first = x.data() + 1;
        CHECK(rw::simd::sum_lanes(rw::detail::sums_of<true>(first, count, C(0))) == static_cast<C>(squares));
        CHECK(rw::simd::sum_lanes(rw::detail::sums_of<true>(first, count, C(2))) ==
              static_cast<C>(about_two));
        CHECK(rw::simd::sum_lanes(rw::detail::sums_of<false>(first, count, C(0))) == static_cast<C>(sum));
    }
}

TEMPLATE_TEST_CASE("head_norm: RMSNorm and LayerNorm of a head and of a whole token, against long double",
                   "[kernels][head_norm]", double, float) {
    constexpr rw::index heads = 5, channels = 37;  // four at once and one by itself
    heads_buffer<TestType> x({1, 1, heads, channels}, 2);
    const auto numbers = x.fill(3).numbers();
    for (const auto kind : {rw::norm_kind::rms, rw::norm_kind::layer})
        for (const auto extent : {rw::norm_extent::head, rw::norm_extent::token}) {
            const rw::head_norm<TestType> norm({.heads = heads,
                                                .channels = channels,
                                                .eps = 1e-5,
                                                .extent = extent,
                                                .scale = 2,
                                                .kind = kind});
            const bool whole = extent == rw::norm_extent::token;
            const auto* const data = static_cast<const TestType*>(x.view().data);
            const rw::index stride = x.view().strides.head;
            rw::detail::head_moments<TestType> moments[heads];
            if (whole)
                moments[0] = rw::detail::moments_of_token(data, stride, heads, norm.view());
            else
                rw::detail::fill_moments(data, stride, heads, norm.view(), moments);
            const auto count = static_cast<std::size_t>(whole ? heads * channels : channels);
            for (std::size_t h = 0; h < (whole ? 1u : std::size_t(heads)); ++h) {
                long double sum = 0, squares = 0;
                for (std::size_t i = 0; i < count; ++i) sum += numbers[h * std::size_t(channels) + i];
                const long double mean = kind == rw::norm_kind::layer ? sum / count : 0.0L;
                for (std::size_t i = 0; i < count; ++i)
                    squares += std::pow(numbers[h * std::size_t(channels) + i] - mean, 2);
                const long double factor = 2 / std::sqrt(squares / count + 1e-5L);
                const double eps = std::numeric_limits<TestType>::epsilon();
                CHECK(double(moments[h].mean) == Approx(double(mean)).margin(8 * eps));
                CHECK(double(moments[h].factor) == Approx(double(factor)).epsilon(16 * eps));
            }
        }
}

TEST_CASE("head_norm: weights of one head, of each head, and none", "[kernels][head_norm]") {
    const std::vector<float> one{1, 2}, each{1, 2, 3, 4, 5, 6};
    CHECK(rw::head_norm<float>({.channels = 2}, one).view().heads == 0);
    const rw::head_norm<float> cohere({.heads = 3, .channels = 2, .kind = rw::norm_kind::layer}, each);
    CHECK(cohere.view().heads == 3);
    CHECK(cohere.view().weight[5] == 6);
    const rw::head_norm<float> gemma({.channels = 2, .form = rw::weight_form::factor_minus_one}, one);
    CHECK(gemma.view().weight[1] == 3);
    const rw::head_norm<float> plain({.channels = 2});
    CHECK(plain.view().weight[0] == 1);
    CHECK(plain.view().weight[1] == 1);
    CHECK_REFUSES("head_norm: weight must hold a number a channel of its extent, got 3",
                  rw::head_norm<float>({.channels = 2}, std::vector<float>(3)));
    CHECK_REFUSES("head_norm: eps must be finite and > 0, got 0",
                  rw::head_norm<float>({.channels = 2, .eps = 0}));
    CHECK_REFUSES("head_norm: scale must be finite and not 0, got 0",
                  rw::head_norm<float>({.channels = 2, .scale = 0}));
}
