// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_permute.hpp>

#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace simd = rw::simd;

TEMPLATE_TEST_CASE("simd_permute: permutations of lanes", "[core][simd]", float, double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    std::vector<TestType> x(n), swapped(n), low(n), high(n), negated(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = TestType(i + 1);
    const auto p = simd::load(static_cast<const TestType*>(x.data()));
    simd::store(swapped.data(), simd::swap_pairs(p));
    simd::store(low.data(), simd::duplicate_low(p));
    simd::store(high.data(), simd::duplicate_high(p));
    simd::store(negated.data(), simd::negate_even(p));
    for (std::size_t i = 0; i < n; ++i) {
        CHECK(swapped[i] == x[i ^ 1]);
        CHECK(low[i] == x[i / 2]);
        CHECK(high[i] == x[n / 2 + i / 2]);
        CHECK(negated[i] == (i % 2 ? x[i] : -x[i]));
    }
}

TEMPLATE_TEST_CASE("simd_permute: neighbouring pairs and fours change places", "[core][simd]", float,
                   double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    std::vector<TestType> x(n), out(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = TestType(i + 1);
    const auto p = simd::load(static_cast<const TestType*>(x.data()));
    if constexpr (n >= 4) {
        simd::store(out.data(), simd::swap_by_two(p));
        for (std::size_t i = 0; i < n; ++i) CHECK(out[i] == x[i ^ 2]);
    }
    if constexpr (n >= 8) {
        simd::store(out.data(), simd::swap_by_four(p));
        for (std::size_t i = 0; i < n; ++i) CHECK(out[i] == x[i ^ 4]);
    }
    CHECK(n >= 2);
}

TEMPLATE_TEST_CASE("simd_permute: two registers woven into one", "[core][simd]", float, double) {
    constexpr auto n = static_cast<std::size_t>(simd::lanes<TestType>);
    std::vector<TestType> x(n), y(n), low(n), high(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = TestType(i + 1), y[i] = TestType(100 + i);
    const auto p = simd::load(static_cast<const TestType*>(x.data()));
    const auto q = simd::load(static_cast<const TestType*>(y.data()));
    simd::store(low.data(), simd::interleave_low(p, q));
    simd::store(high.data(), simd::interleave_high(p, q));
    for (std::size_t i = 0; i < n; ++i) {
        CHECK(low[i] == (i % 2 ? y : x)[i / 2]);
        CHECK(high[i] == (i % 2 ? y : x)[n / 2 + i / 2]);
    }
}

TEMPLATE_TEST_CASE("simd_permute: any order of the lanes of two registers", "[core][simd]", float, double) {
    constexpr auto n = simd::lanes<TestType>;
    std::vector<TestType> x(static_cast<std::size_t>(2 * n)), out(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = TestType(i + 1);
    const TestType* const p = x.data();
    for (rw::index step = 0; step < 2 * n; ++step)
        for (rw::index first = 0; first < 2 * n; ++first) {
            const auto from = [&](rw::index i) { return (first + step * i) % (2 * n); };
            simd::store(out.data(), simd::lane_order<TestType>(from).of(simd::load(p), simd::load(p + n)));
            bool right = true;
            for (rw::index i = 0; i < n; ++i)
                right = right && out[static_cast<std::size_t>(i)] == x[static_cast<std::size_t>(from(i))];
            CAPTURE(step, first);
            CHECK(right);
        }
}
