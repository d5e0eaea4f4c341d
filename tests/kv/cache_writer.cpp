// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/cache_writer.hpp>

#include <cfenv>
#include <cmath>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("cache_writer: int8 heads down to almost zero have a scale, and only those below have none",
          "[kv][cache_writer]") {
    for (const float largest : {0x1p-19f, 0x1p-21f, 0x1p-60f, 0x1p-99f, 0x1p-100f}) {
        std::vector<float> numbers(20, largest / 4);
        numbers[7] = -largest;
        std::vector<std::int8_t> codes(21, std::int8_t{99});
        float scale = -1;
        rw::detail::store_head(codes.data(), &scale, 1.0f, numbers.data(), 20);
        CHECK(scale == largest / 127);
        CHECK(codes[7] == -127);
        CHECK(codes[0] == 32);
        CHECK(codes[20] == 99);
    }
    std::vector<float> numbers(20, 0x1p-101f);
    std::vector<std::int8_t> codes(20, std::int8_t{99});
    float scale = -1;
    rw::detail::store_head(codes.data(), &scale, 1.0f, numbers.data(), 20);
    CHECK(scale == 0);
    CHECK(codes == std::vector<std::int8_t>(20, std::int8_t{0}));
}

TEST_CASE("cache_writer: int8 codes stay within 127 in every rounding mode", "[kv][cache_writer]") {
    const int before = std::fegetround();
    for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO})
        for (int i = 1; i < 2000; ++i) {
            std::vector<float> numbers(16, 0.0f);
            numbers[0] = static_cast<float>(i) * 0.37f;
            numbers[1] = -numbers[0];
            std::vector<std::int8_t> codes(16);
            float scale = 0;
            std::fesetround(mode);
            rw::detail::store_head(codes.data(), &scale, 1.0f, numbers.data(), 16);
            std::fesetround(before);
            if (codes[0] < 126 || codes[1] < -127 || codes[1] > -126) {
                CAPTURE(mode, i, int(codes[0]), int(codes[1]));
                FAIL("a code is not that of the largest number");
            }
        }
    SUCCEED();
}

TEMPLATE_TEST_CASE("cache_writer: codes read back are within their step of what was stored",
                   "[kv][cache_writer]", std::int8_t, rw::f8_e4m3, rw::q8_0, rw::q4_0) {
    std::vector<float> numbers(64), back(64);
    for (std::size_t i = 0; i < 64; ++i) numbers[i] = std::sin(static_cast<float>(i));
    std::vector<TestType> codes(static_cast<std::size_t>(64 / rw::numbers_in<TestType>));
    float scale = 1.0f / 400;
    rw::detail::store_head(codes.data(), &scale, 1 / scale, numbers.data(), 64);
    rw::detail::load_head(static_cast<const TestType*>(codes.data()), scale, back.data(), 64);
    const float step = std::is_same_v<TestType, rw::q4_0>      ? 1.0f / 7
                       : std::is_same_v<TestType, rw::f8_e4m3> ? 0.04f
                                                               : 0.005f;
    for (std::size_t i = 0; i < 64; ++i) CHECK(std::abs(back[i] - numbers[i]) <= step);
}

TEST_CASE("cache_writer: what lies behind an int8 head does not count towards its largest number",
          "[kv][cache_writer]") {
    for (rw::index channels = 1; channels <= 40; ++channels) {
        std::vector<float> numbers(static_cast<std::size_t>(channels) + 64, 1000.0f);
        for (rw::index c = 0; c < channels; ++c) numbers[static_cast<std::size_t>(c)] = -1;
        numbers[static_cast<std::size_t>(channels - 1)] = 2;
        std::vector<std::int8_t> codes(static_cast<std::size_t>(channels), std::int8_t{99});
        float scale = -1;
        rw::detail::store_head(codes.data(), &scale, 1.0f, numbers.data(), channels);
        CHECK(scale == 2.0f / 127);
        CHECK(codes.back() == 127);
    }
}
