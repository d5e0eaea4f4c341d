// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_exp.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
T exp_of(T x) {
    std::vector<T> lane(std::size_t(rw::simd::lanes<T>));
    rw::simd::store(lane.data(), rw::simd::exp_of_negative(rw::simd::broadcast(x)));
    return lane.back();
}
template <class T>
double worst_relative(double least) {
    double worst = 0;
    for (int i = 0; i <= 200000; ++i) {
        const T x = static_cast<T>(least * i / 200000);
        const long double want = std::exp(static_cast<long double>(x));
        worst =
            std::max(worst, static_cast<double>(std::abs(static_cast<long double>(exp_of(x)) / want - 1)));
    }
    return worst;
}

}  // namespace

TEST_CASE("exp_of_negative: the promised bounds over the whole range", "[core][simd]") {
    CHECK(worst_relative<float>(-87.3) < 2e-7);
    CHECK(worst_relative<double>(-708.3) < 5e-16);
}

TEST_CASE("exp_of_negative: 1 at 0, 0 where it would not be normal, NaN kept", "[core][simd]") {
    const auto check = [](auto zero) {
        using T = decltype(zero);
        CHECK(exp_of(zero) == 1);
        CHECK(exp_of(-zero) == 1);
        CHECK(exp_of(-std::numeric_limits<T>::infinity()) == 0);
        CHECK(exp_of(T(-1000)) == 0);
        CHECK(exp_of(std::numeric_limits<T>::lowest()) == 0);
        CHECK(std::isnan(exp_of(std::numeric_limits<T>::quiet_NaN())));
    };
    check(0.f);
    check(0.0);
}

TEST_CASE("larger: lane by lane, the second where one is a NaN", "[core][simd]") {
    const auto check = [](auto zero) {
        using T = decltype(zero);
        const auto of = [](T a, T b) {
            std::vector<T> lane(std::size_t(rw::simd::lanes<T>));
            rw::simd::store(lane.data(), rw::simd::larger(rw::simd::broadcast(a), rw::simd::broadcast(b)));
            return lane.front();
        };
        const T nothing = -std::numeric_limits<T>::infinity();
        CHECK(of(1, 2) == 2);
        CHECK(of(2, 1) == 2);
        CHECK(of(nothing, -3) == -3);
        CHECK(of(std::numeric_limits<T>::quiet_NaN(), 5) == 5);
        CHECK(std::isnan(of(5, std::numeric_limits<T>::quiet_NaN())));
    };
    check(0.f);
    check(0.0);
}
