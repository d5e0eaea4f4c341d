// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_block_words.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;
namespace blocks = ropewalk::simd::blocks;

namespace {

[[maybe_unused]] constexpr auto n = static_cast<std::size_t>(rw::simd::lanes<float>);

}  // namespace

TEST_CASE("simd_block_words: 32 numbers are whole registers", "[core][simd][blocks]") {
    CHECK(blocks::step_registers * n == 32);
}

#if defined(ROPEWALK_DETAIL_WORDS)

TEST_CASE("simd_block_words: bytes become words and words bytes", "[core][simd][blocks]") {
    std::vector<unsigned char> bytes(256 + 64);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i);
    for (std::size_t first = 0; first + 32 <= 256; ++first) {
        rw::simd::words s[blocks::step_registers], u[blocks::step_registers / 2];
        for (std::size_t r = 0; r < blocks::step_registers; ++r)
            s[r] = blocks::signed_bytes(&bytes[first + r * n]);
        for (std::size_t r = 0; r < blocks::step_registers / 2; ++r)
            u[r] = blocks::unsigned_bytes(&bytes[first + r * n]);
        for (std::size_t r = 0; r < blocks::step_registers; ++r) {
            float number[n];
            rw::simd::store(number, blocks::floats(s[r]));
            for (std::size_t i = 0; i < n; ++i)
                CHECK(number[i] == static_cast<float>(static_cast<signed char>(bytes[first + r * n + i])));
        }
        // Exactly as many bytes as there are.
        unsigned char out[34];
        std::memset(out, 0x5a, sizeof out);
        blocks::store_signed(out + 1, s);
        CHECK(std::memcmp(out + 1, &bytes[first], 32) == 0);
        CHECK((out[0] == 0x5a && out[33] == 0x5a));
        std::memset(out, 0x5a, sizeof out);
        blocks::store_unsigned(out + 1, u);
        CHECK(std::memcmp(out + 1, &bytes[first], 16) == 0);
        CHECK((out[0] == 0x5a && out[17] == 0x5a));
    }
}

TEST_CASE("simd_block_words: the largest lanes of four registers", "[core][simd][blocks]") {
    std::mt19937 engine(3);
    std::uniform_real_distribution<float> any(0, 1);
    for (int round = 0; round < 200; ++round) {
        float x[4][n], largest[4] = {}, found[4];
        rw::simd::words m[4];
        for (int b = 0; b < 4; ++b) {
            for (float& v : x[b]) v = any(engine);
            x[b][static_cast<std::size_t>(round + b) % n] += 1;  // in every lane once
            for (const float v : x[b]) largest[b] = std::max(largest[b], v);
            m[b] = rw::simd::words::of(rw::simd::load(static_cast<const float*>(x[b])));
        }
        blocks::store_largest(found, m);
        for (int b = 0; b < 4; ++b) CHECK(found[b] == largest[b]);
    }
}

TEST_CASE("simd_block_words: halves away from zero, and not the number below a half",
          "[core][simd][blocks]") {
    std::vector<float> x;
    for (int i = -254; i <= 254; ++i)
        for (const float v : {static_cast<float>(i) / 2, std::nextafter(static_cast<float>(i) / 2, 0.0f)})
            x.push_back(v);
    while (x.size() % n != 0) x.push_back(0);
    for (std::size_t i = 0; i < x.size(); i += n) {
        float y[n];
        const auto v = rw::simd::load(static_cast<const float*>(&x[i]));
        rw::simd::store(y, blocks::floats(blocks::truncated(blocks::half_further(v))));
        // In double and not std::round: MinGW's rounds the float below a half to 1.
        for (std::size_t lane = 0; lane < n; ++lane) {
            const double from = x[i + lane];
            CHECK(double(y[lane]) == std::trunc(from + std::copysign(0.5, from)));
        }
    }
}

#endif
