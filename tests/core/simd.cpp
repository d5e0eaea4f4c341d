// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd.hpp>
#include <ropewalk/core/simd_sums.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

TEST_CASE("simd: nearest rounds ties to even at every size", "[core][simd]") {
    const double values[] = {0.5,
                             1.5,
                             -0.5,
                             -2.5,
                             0.49999999999999994,
                             4503599627370495.5,
                             -7.2,
                             1e18,
                             2.5,
                             -1.5,
                             3.0,
                             0.0,
                             -0.25,
                             123456789.5,
                             1e300,
                             -3.7};
    constexpr auto n = static_cast<std::size_t>(simd::lanes<double>);
    for (std::size_t i = 0; i + n <= std::size(values); i += n) {
        double out[n];
        simd::store(out, simd::nearest(simd::load(values + i)));
        for (std::size_t j = 0; j < n; ++j) CHECK(out[j] == std::nearbyint(values[i + j]));
    }
}

TEST_CASE("simd: choose, absolute, narrow stores and fma", "[core][simd]") {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<double>);
    double a[n], out[n];
    float narrow[n];
    for (std::size_t i = 0; i < n; ++i) a[i] = (i % 2 ? -1.0 : 1.0) * (0.1 + double(i));
    const auto p = simd::load(static_cast<const double*>(a));
    simd::store(out, simd::square_root(p * p));
    for (std::size_t i = 0; i < n; ++i) CHECK(out[i] == std::sqrt(a[i] * a[i]));
    simd::store(out, simd::choose(simd::absolute(p) == p, p, simd::broadcast(0.0)));
    simd::store_narrow(narrow, p);
    for (std::size_t i = 0; i < n; ++i) {
        CHECK(out[i] == (a[i] > 0 ? a[i] : 0.0));
        CHECK(narrow[i] == static_cast<float>(a[i]));
    }
    simd::store(out, simd::fma(p, simd::broadcast(2.0), simd::broadcast(1.0)));
    for (std::size_t i = 0; i < n; ++i) CHECK(out[i] == Approx(2 * a[i] + 1).epsilon(1e-15));
}

TEMPLATE_TEST_CASE("simd: the sum of lanes, and a comparison that chooses", "[core][simd]", float, double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    std::vector<TestType> x(n);
    TestType total = 0, small = 0;
    for (std::size_t i = 0; i < n; ++i) {
        x[i] = TestType(i * i) - TestType(3);
        total += x[i];
        if (x[i] < 2) small += x[i];
    }
    const auto p = simd::load(static_cast<const TestType*>(x.data()));
    CHECK(simd::sum_lanes(p) == total);
    const auto two = simd::broadcast(TestType(2));
    CHECK(simd::sum_lanes(simd::choose(p < two, p, simd::broadcast(TestType(0)))) == small);
}
