// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_quantized.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<float>);

auto pack_of(const float* x) { return rw::simd::load(x); }

/// Every upper half of a float, with the lower halves around each rounding: 393216 numbers, all midpoints
/// of both formats and their neighbours, subnormals, infinities and NaN of both signs among them.
std::vector<float> many_floats() {
    std::vector<float> out;
    for (std::uint32_t high = 0; high < 0x10000u; ++high)
        for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
            out.push_back(std::bit_cast<float>(high << 16 | low));
    return out;  // a multiple of every lane count
}

}  // namespace

TEMPLATE_TEST_CASE("simd_quantized: 8-bit floats have the bits of the scalar type", "[core][simd][f8]",
                   rw::f8_e4m3, rw::f8_e5m2) {
    const auto x = many_floats();
    REQUIRE(x.size() % n == 0);
    std::size_t differ = 0;
    for (std::size_t i = 0; i < x.size(); i += n) {
        TestType codes[n];
        rw::simd::store(codes, pack_of(&x[i]));
        for (std::size_t lane = 0; lane < n; ++lane) differ += codes[lane].bits != TestType(x[i + lane]).bits;
    }
    CHECK(differ == 0);
}

TEST_CASE("simd_quantized: int8 rounds to nearest even", "[core][simd][int8]") {
    std::vector<float> x;
    for (int i = -254; i <= 254; ++i) x.push_back(static_cast<float>(i) / 2);
    while (x.size() % n != 0) x.push_back(0);
    for (std::size_t i = 0; i < x.size(); i += n) {
        std::int8_t codes[n];
        rw::simd::store(codes, pack_of(&x[i]));
        for (std::size_t lane = 0; lane < n; ++lane)
            CHECK(int(codes[lane]) == static_cast<int>(std::nearbyint(x[i + lane])));
    }
}

TEMPLATE_TEST_CASE("simd_quantized: of a register in part nothing past the count is written", "[core][simd]",
                   rw::f8_e4m3, rw::f8_e5m2, std::int8_t) {
    float x[n];
    for (std::size_t i = 0; i < n; ++i) x[i] = 1.5f * static_cast<float>(i) - 4;
    TestType whole[n];
    rw::simd::store(whole, pack_of(x));
    for (std::size_t count = 0; count <= n; ++count) {
        unsigned char some[n + 1];
        std::memset(some, 0x5a, sizeof some);
        rw::simd::store_some_bytes(reinterpret_cast<TestType*>(some), pack_of(x),
                                   static_cast<rw::index>(count));
        CHECK(std::memcmp(some, whole, count) == 0);
        for (std::size_t i = count; i <= n; ++i) CHECK(int(some[i]) == 0x5a);
    }
}

TEST_CASE("simd_quantized: a lane keeps its larger magnitude, NaN above infinity above every number",
          "[core][simd]") {
    const auto zero = rw::simd::broadcast(0.0f);
    // Of a and b in two different lanes, both ways round; every pair of lanes.
    const auto largest = [&](float a, float b, std::size_t lane_of_a, std::size_t lane_of_b) {
        float x[n] = {}, y[n] = {};
        x[lane_of_a] = a, y[lane_of_b] = b;
        auto m = rw::simd::larger_magnitude(zero, pack_of(x));
        m = rw::simd::larger_magnitude(m, pack_of(y));
        return rw::simd::largest_magnitude(m);
    };
    const auto bits = [](float x) { return std::bit_cast<std::uint32_t>(x); };
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    for (std::size_t a = 0; a < n; ++a)
        for (std::size_t b = 0; b < n; ++b) {
            INFO("lanes " << a << " and " << b);
            CHECK(largest(-3, 2, a, b) == bits(3));
            CHECK(largest(1, -inf, a, b) == bits(inf));
            CHECK(largest(nan, inf, a, b) > bits(inf));
            CHECK(largest(-nan, 1, a, b) > bits(inf));
        }
    CHECK(largest(-0.0f, 0, 0, 1 % n) == 0);  // the sign of zero is none of a magnitude
    CHECK(largest(0, -std::numeric_limits<float>::denorm_min(), 0, 0) == 1);

    // Lanes do not see each other.
    float x[n], kept[n];
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i) * (i % 2 != 0 ? -1.0f : 1.0f);
    rw::simd::store(kept, rw::simd::larger_magnitude(rw::simd::broadcast(2.5f), pack_of(x)));
    for (std::size_t i = 0; i < n; ++i) CHECK(kept[i] == std::max(2.5f, static_cast<float>(i)));
}
