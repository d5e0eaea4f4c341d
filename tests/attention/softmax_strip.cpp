// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/softmax_strip.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace rw = ropewalk;

TEST_CASE("softmax strip: tiles in turn give the weight of all keys", "[attention][softmax]") {
    const rw::index lanes = rw::simd::lanes<double>, stride = 2 * lanes, keys = 29;
    const double hidden = -std::numeric_limits<double>::infinity();
    auto scores = support::noise(keys * stride, 1, {0, 30});
    for (rw::index j = 0; j < keys; ++j) scores[std::size_t(j * stride)] = hidden;  // column 0 sees nothing
    for (rw::index j = 0; j < 15; ++j) scores[std::size_t(j * stride + 1)] = hidden;
    const auto given = scores;
    std::vector<double> peak(std::size_t(stride), hidden), weight(std::size_t(stride), 0), factor(weight),
        sums(weight);
    for (rw::index first = 0; first < keys; first += 10) {
        const rw::index count = std::min<rw::index>(10, keys - first);
        double* const tile = scores.data() + first * stride;
        rw::detail::softmax_strip<2>(tile, stride, count, peak.data(), weight.data(), factor.data());
        for (rw::index r = 0; r < stride; ++r) {
            sums[std::size_t(r)] *= factor[std::size_t(r)];
            for (rw::index j = 0; j < count; ++j)
                sums[std::size_t(r)] += tile[j * stride + r] * double(first + j);
        }
    }
    CHECK(peak[0] == hidden);
    CHECK(weight[0] == 0);
    for (rw::index r = 1; r < stride; ++r) {
        double top = hidden, sum = 0, mean = 0;
        for (rw::index j = 0; j < keys; ++j) top = std::max(top, given[std::size_t(j * stride + r)]);
        for (rw::index j = 0; j < keys; ++j) {
            const double p = std::exp(given[std::size_t(j * stride + r)] - top);
            sum += p;
            mean += p * double(j);
        }
        CHECK(peak[std::size_t(r)] == top);
        CHECK(std::abs(weight[std::size_t(r)] / sum - 1) < 1e-14);
        CHECK(std::abs(sums[std::size_t(r)] / mean - 1) < 1e-13);
    }
}

TEST_CASE("softmax strip: a NaN score never leaves its column", "[attention][softmax]") {
    const rw::index lanes = rw::simd::lanes<float>;
    const float hidden = -std::numeric_limits<float>::infinity();
    for (rw::index where : {0, 1, 2}) {
        std::vector<float> peak(std::size_t(lanes), hidden), weight(std::size_t(lanes), 0), factor(weight);
        for (rw::index tile = 0; tile < 3; ++tile) {
            std::vector<float> scores(std::size_t(2 * lanes), float(tile));
            if (tile == where) scores[1] = std::numeric_limits<float>::quiet_NaN();
            rw::detail::softmax_strip<1>(scores.data(), lanes, 2, peak.data(), weight.data(), factor.data());
        }
        CHECK(std::isnan(weight[1]));
        for (rw::index r = 0; r < lanes; ++r)
            if (r != 1)
                CHECK(std::abs(weight[std::size_t(r)] - 2 * (1 + std::exp(-1.f) + std::exp(-2.f))) < 1e-5f);
    }
}
