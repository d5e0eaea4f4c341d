// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/simd_blocks.hpp>

#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// Blocks of one head with a guard behind them.
template <class Block>
struct guarded {
    explicit guarded(std::size_t count) : bytes(count * sizeof(Block) + 16, 0x5a), blocks(count) {}
    Block* data() { return reinterpret_cast<Block*>(bytes.data()); }
    bool guard_holds() const {
        for (std::size_t i = blocks * sizeof(Block); i < bytes.size(); ++i)
            if (bytes[i] != 0x5a) return false;
        return true;
    }
    std::vector<unsigned char> bytes;
    std::size_t blocks;
};

/// Numbers of one head: every block of its own size and kind.
std::vector<float> head_of(std::size_t channels, std::size_t block, int round, std::mt19937& engine) {
    const float inf = std::numeric_limits<float>::infinity();
    const float special[] = {inf,       -inf,     std::numeric_limits<float>::quiet_NaN(),
                             1e-41f,    0x1p-95f, 0x1p-101f,
                             -0x1p-99f, 9e6f,     std::numeric_limits<float>::max()};
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> kind(0, 11), exponent(-16, 8), which(0, 8);
    std::vector<float> x(channels);
    for (std::size_t first = 0; first < channels; first += block) {
        const int k = kind(engine);
        const float scale = std::ldexp(1.0f, exponent(engine));
        for (std::size_t i = first; i < first + block; ++i) {
            x[i] = scale * normal(engine);
            if (k == 0) x[i] = 0.0f;
            if (k == 1) x[i] = -0.0f;
            if (k == 2)
                x[i] = 0.5f * static_cast<float>(std::lround(6 * normal(engine)));  // ties of both kinds
            if (k == 3) x[i] = std::copysign(scale, x[i]);                          // all one magnitude
        }
        const std::size_t at = first + static_cast<std::size_t>(round) % block;
        if (k == 4) x[at] = special[which(engine)];
        if (k == 5) x[at] = x[first + (static_cast<std::size_t>(round) * 7) % block] = 40 * scale;
        if (k == 6)
            x[at] = 40 * scale, x[first + (static_cast<std::size_t>(round) * 7) % block] = -40 * scale;
        if (k == 7)
            for (std::size_t i = first; i < first + block; ++i)
                x[i] = special[3 + which(engine) % 4] * normal(engine);
    }
    return x;
}

template <class Block>
std::vector<unsigned char> by_reference(const std::vector<float>& x) {
    const std::size_t size = static_cast<std::size_t>(Block::size), count = x.size() / size;
    std::vector<Block> blocks(count);
    for (std::size_t b = 0; b < count; ++b) rw::encode_block(blocks[b], &x[b * size]);
    std::vector<unsigned char> bytes(count * sizeof(Block));
    if (count != 0) std::memcpy(bytes.data(), blocks.data(), bytes.size());
    return bytes;
}

}  // namespace

TEMPLATE_TEST_CASE("simd_blocks: a head has the bytes of the reference", "[core][simd][blocks]", rw::q8_0,
                   rw::q4_0, rw::q8_block<64>, rw::q4_block<64>, rw::q4_block<128>) {
    std::mt19937 engine(21);
    const auto size = static_cast<std::size_t>(TestType::size);
    int differ = 0;
    for (std::size_t count = 0; count <= 9; ++count)
        for (int round = 0; round < 400; ++round) {
            const auto x = head_of(count * size, size, round, engine);
            guarded<TestType> blocks(count);
            rw::simd::encode_head(blocks.data(), x.data(), static_cast<rw::index>(count));
            const auto expected = by_reference<TestType>(x);
            differ += count != 0 && std::memcmp(blocks.bytes.data(), expected.data(), expected.size()) != 0;
            REQUIRE(blocks.guard_holds());
        }
    CHECK(differ == 0);
}

TEMPLATE_TEST_CASE("simd_blocks: every number next to a rounding of a code", "[core][simd][blocks]", rw::q8_0,
                   rw::q4_0) {
    // Scales at random; numbers at and beside all halves of a code.
    std::mt19937 engine(22);
    std::uniform_real_distribution<float> any(0.001f, 3.0f);
    int differ = 0;
    for (int round = 0; round < 3000; ++round) {
        const float largest = any(engine) * (round % 2 != 0 ? 1.0f : -1.0f);
        std::vector<float> x(128);
        for (std::size_t i = 0; i < x.size(); ++i) {
            const int half = static_cast<int>((i * 37 + static_cast<std::size_t>(round)) % 509) - 254;
            const float v = largest * static_cast<float>(half) / 254;
            x[i] = i % 3 == 0 ? v : std::nextafter(v, i % 3 == 1 ? 9.0f : -9.0f);
        }
        for (std::size_t b = 0; b < 4; ++b) x[32 * b + 5] = largest;
        guarded<TestType> blocks(4);
        rw::simd::encode_head(blocks.data(), x.data(), 4);
        const auto expected = by_reference<TestType>(x);
        differ += std::memcmp(blocks.bytes.data(), expected.data(), expected.size()) != 0;
    }
    CHECK(differ == 0);
}

TEMPLATE_TEST_CASE("simd_blocks: decoding has the bits of the reference", "[core][simd][blocks]", rw::q8_0,
                   rw::q4_0, rw::q8_block<64>, rw::q4_block<64>) {
    // Any bytes are a block: every scale, NaN and subnormal ones too, and every code.
    std::mt19937 engine(23);
    const auto size = static_cast<std::size_t>(TestType::size);
    int differ = 0;
    for (std::size_t count = 1; count <= 9; ++count)
        for (int round = 0; round < 300; ++round) {
            guarded<TestType> blocks(count);
            for (std::size_t i = 0; i < count * sizeof(TestType); ++i)
                blocks.bytes[i] = static_cast<unsigned char>(engine());
            if (round % 4 == 0)
                blocks.data()[count - 1].scale.bits = static_cast<std::uint16_t>(engine() % 1024);
            std::vector<float> x(count * size + 1, 7.0f), y(size);
            rw::simd::decode_head(x.data(), static_cast<const TestType*>(blocks.data()),
                                  static_cast<rw::index>(count));
            for (std::size_t b = 0; b < count; ++b) {
                rw::decode_block(blocks.data()[b], y.data());
                for (std::size_t i = 0; i < size; ++i)
                    differ += std::isnan(y[i]) ? !std::isnan(x[b * size + i])
                                               : std::memcmp(&y[i], &x[b * size + i], 4) != 0;
            }
            REQUIRE(x.back() == 7.0f);
        }
    CHECK(differ == 0);
}

TEMPLATE_TEST_CASE("simd_blocks: 16-bit heads are encoded as the f32 numbers they are",
                   "[core][simd][blocks]", rw::f16, rw::bf16) {
    std::mt19937 engine(24);
    std::normal_distribution<float> normal;
    for (std::size_t count = 1; count <= 6; ++count) {
        std::vector<TestType> x(count * 32);
        std::vector<float> wide(count * 32);
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] = TestType(normal(engine));
            wide[i] = static_cast<float>(x[i]);
        }
        guarded<rw::q8_0> blocks(count);
        rw::simd::encode_head(blocks.data(), x.data(), static_cast<rw::index>(count));
        const auto expected = by_reference<rw::q8_0>(wide);
        CHECK(std::memcmp(blocks.bytes.data(), expected.data(), expected.size()) == 0);
    }
}

TEMPLATE_TEST_CASE("simd_blocks: no rounding mode makes a code leave its range", "[core][simd][blocks]",
                   rw::q8_0, rw::q4_0) {
    std::mt19937 engine(25);
    std::normal_distribution<float> normal;
    int wrong = 0;
    for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO})
        for (int round = 0; round < 4000; ++round) {
            std::vector<float> x(128);
            for (float& v : x) v = normal(engine);
            guarded<TestType> blocks(4);
            std::fesetround(mode);
            rw::simd::encode_head(blocks.data(), x.data(), 4);
            std::fesetround(FE_TONEAREST);
            std::vector<float> y(128);
            rw::simd::decode_head(y.data(), static_cast<const TestType*>(blocks.data()), 4);
            for (std::size_t i = 0; i < 128; ++i) {
                const auto& b = blocks.data()[i / 32];
                const double d = std::abs(double(static_cast<float>(b.scale)));
                wrong += std::abs(double(x[i]) - double(y[i])) > (sizeof(TestType) == 34 ? 1.07 : 1.01) * d;
                if constexpr (sizeof(TestType) == 34) wrong += b.codes[i % 32] == -128;
            }
        }
    CHECK(wrong == 0);
}
