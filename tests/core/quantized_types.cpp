// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/quantized_types.hpp>
#include <ropewalk/core/simd_quantized.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// The value of a code by the formula of the specification, in f64.
double value_of(int code, int mantissa) {
    const int bias = mantissa == 3 ? 7 : 15;
    const int e = (code & 0x7f) >> mantissa, m = code & ((1 << mantissa) - 1);
    const double fraction = std::ldexp(m, -mantissa);
    const double magnitude = e == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, e - bias);
    return (code & 0x80) ? -magnitude : magnitude;
}

/// Nearest code by search over all numbers, ties to the even code; what is too large saturates.
int nearest_code(double x, int mantissa, int largest) {
    const double a = std::abs(x);
    int best = 0;
    for (int code = 1; code <= largest; ++code) {
        const double now = std::abs(value_of(code, mantissa) - a),
                     before = std::abs(value_of(best, mantissa) - a);
        if (now < before || (now == before && code % 2 == 0)) best = code;
    }
    return best | (std::signbit(x) ? 0x80 : 0);
}

template <class F8>
void check_format(int mantissa, int largest) {
    // Every code is its own value, and every value its own code.
    for (int code = 0; code < 256; ++code) {
        const auto f = F8::from_bits(static_cast<std::uint8_t>(code));
        const int low = code & 0x7f;
        if (low <= largest) {
            CHECK(static_cast<double>(static_cast<float>(f)) == value_of(code, mantissa));
            CHECK(F8(static_cast<float>(f)).bits == code);
        } else if (mantissa == 2 && low == 0x7c) {
            CHECK(std::isinf(static_cast<float>(f)));
        } else {
            CHECK(std::isnan(static_cast<float>(f)));
        }
    }
    // All neighbours' midpoints, a float below and above them, and random numbers over the whole range.
    std::vector<float> inputs{0.0f, -0.0f, 1e6f, -1e6f, std::numeric_limits<float>::denorm_min()};
    for (int code = 0; code < largest; ++code) {
        const auto middle = static_cast<float>((value_of(code, mantissa) + value_of(code + 1, mantissa)) / 2);
        for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)})
            inputs.push_back(x), inputs.push_back(-x);
    }
    std::mt19937 engine(5);
    std::uniform_real_distribution<float> exponent(-20, 18);
    for (int i = 0; i < 3000; ++i) inputs.push_back(std::exp2(exponent(engine)));
    for (const float x : inputs) {
        INFO(x);
        CHECK(int(F8(x).bits) == nearest_code(static_cast<double>(x), mantissa, largest));
    }
    inputs.push_back(std::numeric_limits<float>::infinity());
    CHECK(int(F8(inputs.back()).bits) == largest);
    CHECK(int(F8(-inputs.back()).bits) == (largest | 0x80));
    inputs.push_back(std::numeric_limits<float>::quiet_NaN());
    CHECK(std::isnan(static_cast<float>(F8(inputs.back()))));

    // Registers hold the same bits, whole or in part, and nothing past them is written.
    constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<float>);
    while (inputs.size() % n != 0) inputs.push_back(1);
    for (std::size_t i = 0; i < inputs.size(); i += n) {
        F8 codes[n];
        rw::simd::store(codes, rw::simd::load(static_cast<const float*>(&inputs[i])));
        for (std::size_t lane = 0; lane < n; ++lane)
            CHECK(int(codes[lane].bits) == int(F8(inputs[i + lane]).bits));
        F8 some[n];
        std::memset(static_cast<void*>(some), 0x5a, sizeof some);
        const std::size_t count = i % (n + 1);
        rw::simd::store_some_bytes(some, rw::simd::load(static_cast<const float*>(&inputs[i])),
                                   static_cast<rw::index>(count));
        for (std::size_t lane = 0; lane < n; ++lane)
            CHECK(int(some[lane].bits) == (lane < count ? int(codes[lane].bits) : 0x5a));
    }
}

}  // namespace

TEST_CASE("f8: e4m3 rounds to nearest even and saturates, by scalars and by registers", "[core][f8]") {
    check_format<rw::f8_e4m3>(3, 0x7e);
    CHECK(static_cast<float>(rw::f8_e4m3::from_bits(0x7e)) == 448);
}
TEST_CASE("f8: e5m2 rounds to nearest even and saturates, by scalars and by registers", "[core][f8]") {
    check_format<rw::f8_e5m2>(2, 0x7b);
    CHECK(static_cast<float>(rw::f8_e5m2::from_bits(0x7b)) == 57344);
}

TEST_CASE("int8: registers round to nearest even", "[core][int8]") {
    constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<float>);
    std::vector<float> x;
    for (int i = -254; i <= 254; ++i) x.push_back(static_cast<float>(i) / 2);
    while (x.size() % n != 0) x.push_back(0);
    for (std::size_t i = 0; i < x.size(); i += n) {
        std::int8_t codes[n];
        rw::simd::store(codes, rw::simd::load(static_cast<const float*>(&x[i])));
        for (std::size_t lane = 0; lane < n; ++lane)
            CHECK(int(codes[lane]) == static_cast<int>(std::nearbyint(x[i + lane])));
    }
}

TEST_CASE("larger_magnitude: NaN above infinity above every number", "[core][simd]") {
    constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<float>);
    const auto largest = [](float a, float b) {
        float x[n] = {}, y[n] = {};
        x[n - 1] = a, y[0] = b;
        auto m = rw::simd::larger_magnitude(rw::simd::broadcast(0.0f),
                                            rw::simd::load(static_cast<const float*>(x)));
        m = rw::simd::larger_magnitude(m, rw::simd::load(static_cast<const float*>(y)));
        return std::bit_cast<float>(rw::simd::largest_magnitude(m));
    };
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(largest(-3, 2) == 3);
    CHECK(largest(1, -inf) == inf);
    CHECK(std::bit_cast<std::uint32_t>(largest(nan, inf)) > 0x7f800000u);
    CHECK(std::bit_cast<std::uint32_t>(largest(-nan, 1)) > 0x7f800000u);
}
