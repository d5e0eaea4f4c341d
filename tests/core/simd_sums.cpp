// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_sums.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

TEMPLATE_TEST_CASE("simd_sums: a sum takes every lane once", "[core][simd]", float, double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    std::vector<TestType> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = TestType(std::uint64_t{1} << i);
    CHECK(simd::sum_lanes(simd::load(static_cast<const TestType*>(x.data()))) ==
          TestType((std::uint64_t{1} << n) - 1));
}

TEMPLATE_TEST_CASE("simd_sums: four sums at once have the bits of each alone", "[core][simd]", float,
                   double) {
    constexpr rw::index n = simd::lanes<TestType>;
    std::vector<TestType> x(4 * n);
    for (rw::index i = 0; i < 4 * n; ++i)
        x[i] = std::sin(static_cast<TestType>(3 * i + 1));  // sums that round
    simd::pack<TestType> four[4];
    for (rw::index r = 0; r < 4; ++r) four[r] = simd::load(static_cast<const TestType*>(x.data() + r * n));
    TestType sums[4];
    simd::sum_lanes_of_four(four, sums);
    for (rw::index r = 0; r < 4; ++r) CHECK(sums[r] == simd::sum_lanes(four[r]));
}
