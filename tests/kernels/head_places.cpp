// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/head_places.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

TEMPLATE_TEST_CASE(
    "head_places: channels pass from any type to any of its compute type, no neighbour touched",
    "[kernels][head_places]", float, rw::f16, rw::bf16) {
    constexpr rw::index n = rw::simd::lanes<float>;
    for (const rw::index channels : {rw::index(1), n - 1, n, n + 1, 3 * n + 2})
        for (const rw::index first : {rw::index(0), rw::index(1)}) {
            if (first >= channels) continue;
            heads_buffer<float> from({1, 1, 3, channels}, 2, 1);
            heads_buffer<TestType> to({1, 1, 3, channels}, 3);
            from.fill(1), to.fill(2);
            auto want = to.dense();
            const auto source = from.dense();
            for (std::size_t i = 0; i < want.size(); ++i)
                if (rw::index(i) % channels >= first) want[i] = TestType(source[i]);
            const auto a = from.view();
            const auto b = to.view();
            using stored = rw::stored_t<TestType>;
            rw::detail::pass_channels(
                rw::detail::plain_places<float, stored>{{a.data, a.strides.head}, b.data, b.strides.head, 3},
                first, channels);
            CHECK(support::same_bits(to.dense(), want));
            CHECK(to.canaries_alive());
        }
}

TEST_CASE("head_places: f32 is read as f64 and a norm is applied on the way", "[kernels][head_places]") {
    constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<double>);
    std::vector<float> x(n + 1, 0.1f);
    double lane[n];
    rw::simd::store(lane, rw::detail::load_as<double>(static_cast<const float*>(x.data())));
    for (const double v : lane) CHECK(v == static_cast<double>(0.1f));
    rw::simd::store(lane, rw::detail::load_some_as<double>(static_cast<const float*>(x.data()), 1));
    CHECK(lane[0] == static_cast<double>(0.1f));
    if (n > 1) CHECK(lane[1] == 0);

    std::vector<double> numbers(n, 3.0), weight(n, 0.5);
    const rw::detail::head_moments<double> moments[1] = {{1.0, 4.0}};
    const rw::detail::normed_heads<double> normed{numbers.data(), 0, weight.data(), 0, moments};
    rw::simd::store(lane, normed.at(0).load(0));
    for (const double v : lane) CHECK(v == (3.0 - 1.0) * 4.0 * 0.5);
}

TEST_CASE("head_places: heads and channels are where the strides say, each with its weight and moments",
          "[kernels][head_places]") {
    // Number (h, c) of three heads and two channels; the channels one register apart.
    constexpr rw::index n = rw::simd::lanes<double>, stride = 2 * n + 3, weight_stride = 2 * n + 1;
    std::vector<double> numbers(3 * stride), weight(3 * weight_stride);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = 0.25 + static_cast<double>(i);
    const rw::detail::head_moments<double> moments[3] = {{1, 4}, {2, 8}, {3, 0.5}};
    const rw::detail::plain_heads<double> plain{numbers.data(), stride};
    const rw::detail::normed_heads<double> normed{numbers.data(), stride, weight.data(), weight_stride,
                                                  moments};
    const auto first_lane = [](const rw::simd::pack<double>& pack) {
        double lane[n];
        rw::simd::store(lane, pack);
        return lane[0];
    };
    for (rw::index h = 0; h < 3; ++h)
        for (const rw::index c : {rw::index(0), n}) {
            const double number = static_cast<double>(h * stride + c);
            const double want =
                (number - moments[h].mean) * moments[h].factor * (0.25 + double(h * weight_stride + c));
            CHECK(first_lane(plain.at(h).load(c)) == number);
            CHECK(first_lane(plain.at_channel(c).at(h).load(0)) == number);
            CHECK(first_lane(plain.from_head(h).at(0).load(c)) == number);
            CHECK(first_lane(normed.at(h).load(c)) == want);
            CHECK(first_lane(normed.at(h).load_some(c, 1)) == want);
            CHECK(first_lane(normed.at_channel(c).at(h).load(0)) == want);
            CHECK(first_lane(normed.from_head(h).at(0).load(c)) == want);
            CHECK(first_lane(plain.at(h).from(c).load(0)) == number);
            CHECK(first_lane(normed.at(h).from(c).load(0)) == want);
            if (h > 0) CHECK(first_lane(normed.from_head(1).at(h - 1).load(c)) == want);
        }
}

TEST_CASE("head_places: the tensors of a call are visited once each, in their order",
          "[kernels][head_places]") {
    double q[8] = {}, k[8] = {};
    float other[8] = {};
    const auto a = rw::detail::in_place(q, 4, 2), b = rw::detail::in_place(k, 4, 1);
    const auto c = rw::detail::in_place(other, 4, 1);
    std::vector<const void*> seen;
    const auto look = [&](const auto& x) {
        REQUIRE(seen.size() < 3);
        seen.push_back(x.to);
    };
    rw::detail::tensors{a}.each(look);
    CHECK(seen == std::vector<const void*>{q});
    seen.clear();
    rw::detail::tensors{a, b}.each(look);  // of one type
    CHECK(seen == std::vector<const void*>{q, k});
    seen.clear();
    rw::detail::tensors{a, c}.at_channel(2).each(look);  // of two
    CHECK(seen == std::vector<const void*>{q + 2, other + 2});
}
