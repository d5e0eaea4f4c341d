// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/quantized_types.hpp>

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
}

}  // namespace

TEST_CASE("f8: e4m3 rounds to nearest even and saturates", "[core][f8]") {
    check_format<rw::f8_e4m3>(3, 0x7e);
    CHECK(static_cast<float>(rw::f8_e4m3::from_bits(0x7e)) == 448);
}
TEST_CASE("f8: e5m2 rounds to nearest even and saturates", "[core][f8]") {
    check_format<rw::f8_e5m2>(2, 0x7b);
    CHECK(static_cast<float>(rw::f8_e5m2::from_bits(0x7b)) == 57344);
}
