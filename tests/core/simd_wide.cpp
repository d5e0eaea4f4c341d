// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_wide.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

TEMPLATE_TEST_CASE("simd_wide: every lane is the number at its place, at any address", "[core][simd]", float,
                   double) {
    constexpr rw::index n = simd::lanes<double>;
    std::vector<TestType> x(std::size_t(n + 1));
    for (rw::index i = 0; i <= n; ++i) x[std::size_t(i)] = TestType(1) / TestType(3 + i);
    for (const rw::index first : {0, 1}) {
        double lane[n];
        simd::store(lane, simd::load_wide(static_cast<const TestType*>(x.data() + first)));
        for (rw::index i = 0; i < n; ++i) CHECK(lane[i] == double(x[std::size_t(first + i)]));
    }
}
