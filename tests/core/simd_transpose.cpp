// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_transpose.hpp>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

TEMPLATE_TEST_CASE("simd_transpose: rows become columns", "[core][simd]", float, double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    TestType square[n * n], columns[n * n];
    for (std::size_t i = 0; i < n * n; ++i) square[i] = TestType(i + 1);
    simd::pack<TestType> x[n];
    for (std::size_t i = 0; i < n; ++i) x[i] = simd::load(static_cast<const TestType*>(square) + i * n);
    simd::transpose<TestType>(x);
    for (std::size_t i = 0; i < n; ++i) simd::store(columns + i * n, x[i]);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) CHECK(columns[i * n + j] == square[j * n + i]);
}
