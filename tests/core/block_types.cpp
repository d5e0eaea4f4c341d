// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/block_types.hpp>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace rw = ropewalk;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// The formulas in f64, which holds every f32 product exactly; `single` is the rounding to f32.
float single(double x) { return static_cast<float>(x); }

template <int Size>
rw::q8_block<Size> by_formula(const rw::q8_block<Size>&, const float* x) {
    rw::q8_block<Size> out;
    double largest = 0;
    for (int i = 0; i < Size; ++i) largest = std::max(largest, std::abs(double(x[i])));
    const float d = single(largest / 127), factor = d != 0 ? single(1 / double(d)) : 0.0f;
    out.scale = rw::f16(d);
    for (int i = 0; i < Size; ++i)
        out.codes[i] = static_cast<std::int8_t>(std::round(double(single(double(x[i]) * factor))));
    return out;
}
template <int Size>
rw::q4_block<Size> by_formula(const rw::q4_block<Size>&, const float* x) {
    rw::q4_block<Size> out;
    double largest = 0;
    for (int i = 0; i < Size; ++i)
        if (std::abs(double(x[i])) > std::abs(largest)) largest = x[i];
    const float d = single(largest / -8), factor = d != 0 ? single(1 / double(d)) : 0.0f;
    out.scale = rw::f16(d);
    const auto code = [&](int i) {
        const float v = single(double(x[i]) * factor);
        return std::min(15, static_cast<int>(single(double(v) + 8.5)));
    };
    for (int i = 0; i < Size / 2; ++i)
        out.codes[i] = static_cast<std::uint8_t>(code(i) + 16 * code(i + Size / 2));
    return out;
}

template <class Block>
Block encoded(const std::vector<float>& x) {
    Block b;
    std::memset(static_cast<void*>(&b), 0x5a, sizeof b);
    rw::encode_block(b, x.data());
    return b;
}
template <class Block>
std::vector<float> decoded(const Block& b) {
    std::vector<float> x(static_cast<std::size_t>(Block::size));
    rw::decode_block(b, x.data());
    return x;
}
template <class Block>
bool same_bytes(const Block& a, const Block& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

std::vector<float> random_numbers(std::size_t count, std::mt19937& engine) {
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> exponent(-18, 12);
    const float scale = std::ldexp(1.0f, exponent(engine));
    std::vector<float> x(count);
    for (float& v : x) v = scale * normal(engine);
    return x;
}

}  // namespace

TEST_CASE("block_types: bytes lie as ggml's do", "[core][blocks]") {
    CHECK(sizeof(rw::q8_0) == 34);
    CHECK(offsetof(rw::q8_0, codes) == 2);
    CHECK(sizeof(rw::q4_0) == 18);
    CHECK(offsetof(rw::q4_0, codes) == 2);
    CHECK((rw::is_block<rw::q8_0> && rw::is_block<const rw::q4_block<64>> && !rw::is_block<float>));
    CHECK((rw::numbers_in<rw::q8_0> == 32 && rw::numbers_in<const rw::q4_block<64>> == 64 &&
           rw::numbers_in<rw::f16> == 1));

    // A ramp by hand: d = 127 / 127 = 1, codes are the numbers; halves away from zero.
    std::vector<float> ramp(32);
    for (int i = 0; i < 32; ++i) ramp[i] = static_cast<float>(i);
    ramp[1] = 127, ramp[2] = -127, ramp[3] = 2.5f, ramp[4] = -2.5f, ramp[5] = 0.49999997f, ramp[6] = -0.5f;
    const auto q8 = encoded<rw::q8_0>(ramp);
    unsigned char bytes[34];
    std::memcpy(bytes, &q8, 34);
    constexpr std::size_t low = std::endian::native == std::endian::little ? 0 : 1;  // the scale is a number
    CHECK(bytes[low] == 0x00);                                                       // 1 as f16 is 0x3c00
    CHECK(bytes[1 - low] == 0x3c);
    const int wanted[] = {0, 127, -127, 3, -3, 0, -1, 7};
    for (int i = 0; i < 8; ++i) CHECK(int(static_cast<signed char>(bytes[2 + i])) == wanted[i]);

    // -8 .. 7 and back: d = 1, codes 0 .. 15; channel i in the low half of byte i, i + 16 in its high half.
    std::vector<float> both(32);
    for (int i = 0; i < 16; ++i)
        both[i] = static_cast<float>(i - 8), both[i + 16] = static_cast<float>(7 - i);
    const auto q4 = encoded<rw::q4_0>(both);
    std::memcpy(bytes, &q4, 18);
    CHECK(bytes[low] == 0x00);
    CHECK(bytes[1 - low] == 0x3c);
    for (int i = 0; i < 16; ++i) CHECK(int(bytes[2 + i]) == (i | ((15 - i) << 4)));
    CHECK(decoded(q4) == both);
}

TEMPLATE_TEST_CASE("block_types: the reference follows the formulas", "[core][blocks]", rw::q8_0, rw::q4_0,
                   rw::q8_block<64>, rw::q4_block<64>) {
    std::mt19937 engine(11);
    const auto n = static_cast<std::size_t>(TestType::size);
    int differ = 0;
    for (int round = 0; round < 5000; ++round) {
        auto x = random_numbers(n, engine);
        if (round % 3 == 1)  // multiples of a step: exact halves among them
            for (float& v : x) v = static_cast<float>(std::lround(v * 64) % 16) * 0.5f;
        if (round % 3 == 2) x[round % n] *= 100;
        differ += !same_bytes(encoded<TestType>(x), by_formula(TestType{}, x.data()));
    }
    CHECK(differ == 0);
}

TEMPLATE_TEST_CASE("block_types: errors stay within the stated bounds", "[core][blocks]", rw::q8_0,
                   rw::q4_0) {
    std::mt19937 engine(12);
    constexpr bool eight = sizeof(TestType) == 34;
    double worst_code = 0, worst_number = 0;
    for (int round = 0; round < 20000; ++round) {
        auto x = random_numbers(32, engine);
        for (float& v : x) v = std::ldexp(v, 8);  // f16 scales are normal numbers
        double largest = 0;
        for (const float v : x) largest = std::max(largest, std::abs(double(v)));
        const double d = largest / (eight ? 127 : 8);
        if (d < 0x1p-14 || d > 65000) continue;
        const auto b = encoded<TestType>(x);
        const auto y = decoded(b);
        for (std::size_t i = 0; i < 32; ++i) {
            worst_number = std::max(worst_number, std::abs(double(x[i]) - double(y[i])) / d);
            if constexpr (eight)
                worst_code = std::max(worst_code, std::abs(double(x[i]) - int(b.codes[i]) * d) / d);
        }
    }
    INFO("largest error in units of the scale " << worst_number << ", before the scale is rounded "
                                                << worst_code);
    CHECK(worst_code <= 0.50002);
    CHECK(worst_number <= (eight ? 0.5625 : 1.0 + 8 * 0x1p-11));
    CHECK(worst_number > (eight ? 0.5 : 0.9));  // the bounds are near what happens
}

TEMPLATE_TEST_CASE("block_types: decoding then encoding gives the block back", "[core][blocks]", rw::q8_0,
                   rw::q4_0) {
    // For blocks that the encoder made: of q8 some code is 127 or -127, of q4 some code is 0.
    std::mt19937 engine(13);
    int differ = 0, differ_in_value = 0;
    for (int round = 0; round < 5000; ++round) {
        auto x = random_numbers(32, engine);
        const auto b = encoded<TestType>(x);
        const auto again = encoded<TestType>(decoded(b));
        if (static_cast<float>(b.scale) != 0) differ += !same_bytes(b, again);
        differ_in_value += decoded(b) != decoded(again);
    }
    CHECK(differ == 0);
    CHECK(differ_in_value == 0);
}

TEMPLATE_TEST_CASE("block_types: NaN and infinity make the whole block NaN", "[core][blocks]", rw::q8_0,
                   rw::q4_0) {
    for (const float bad : {not_a_number, -not_a_number, inf, -inf})
        for (const std::size_t at : {std::size_t{0}, std::size_t{15}, std::size_t{31}}) {
            std::vector<float> x(32, 1.5f);
            x[at] = bad;
            const auto b = encoded<TestType>(x);
            CHECK(b.scale.bits == 0x7e00);
            for (const auto c : b.codes) CHECK(int(c) == (sizeof(TestType) == 34 ? 0 : 0x88));
            for (const float y : decoded(b)) CHECK(std::isnan(y));
        }
}

TEMPLATE_TEST_CASE("block_types: zeros, subnormal numbers and overflow", "[core][blocks]", rw::q8_0,
                   rw::q4_0) {
    constexpr bool eight = sizeof(TestType) == 34;
    const float least = std::numeric_limits<float>::denorm_min();
    for (const float tiny : {0.0f, -0.0f, least, -least, 0x1p-126f, -0x1p-101f, 0x1.fffffep-101f}) {
        const auto b = encoded<TestType>(std::vector<float>(32, tiny));
        CHECK((b.scale.bits & 0x7fffu) == 0);
        if (tiny == 0) CHECK(int(b.scale.bits) == (eight ? 0 : 0x8000));  // ggml's bits
        for (const auto c : b.codes) CHECK(int(c) == (eight ? 0 : 0x88));
        for (const float y : decoded(b)) CHECK(y == 0);
    }
    // Small, but not for the codes: the scale is zero, and so is what is read.
    const auto small = encoded<TestType>(std::vector<float>(32, 0x1p-90f));
    CHECK((small.scale.bits & 0x7fffu) == 0);
    CHECK(int(small.codes[0]) == (eight ? 127 : 0));
    for (const float y : decoded(small)) CHECK(y == 0);
    // The largest scale of an f16, and the first that is none.
    const float most = 65519.0f * (eight ? 127.0f : 8.0f), more = 65521.0f * (eight ? 127.0f : 8.0f);
    CHECK(int(encoded<TestType>(std::vector<float>(32, most)).scale.bits & 0x7fff) == 0x7bff);
    CHECK(int(encoded<TestType>(std::vector<float>(32, more)).scale.bits & 0x7fff) == 0x7c00);
    CHECK(std::isinf(decoded(encoded<TestType>(std::vector<float>(32, -more)))[0]));
    CHECK(
        std::isinf(decoded(encoded<TestType>(std::vector<float>(32, std::numeric_limits<float>::max())))[0]));
}

TEST_CASE("block_types: of two numbers of one magnitude the first gives a q4 scale its sign",
          "[core][blocks]") {
    for (std::size_t first = 0; first < 31; ++first) {
        std::vector<float> x(32, 0.25f);
        x[first] = 4, x[31] = -4;
        CHECK(static_cast<float>(encoded<rw::q4_0>(x).scale) == -0.5f);
        x[first] = -4, x[31] = 4;
        CHECK(static_cast<float>(encoded<rw::q4_0>(x).scale) == 0.5f);
    }
}

TEMPLATE_TEST_CASE("block_types: no rounding mode makes a code leave its range", "[core][blocks]", rw::q8_0,
                   rw::q4_0) {
    std::mt19937 engine(14);
    int low = 0, high = 0;
    for (const int mode : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        for (int round = 0; round < 5000; ++round) {
            auto x = random_numbers(32, engine);
            for (float& v : x) v = std::ldexp(round % 2 != 0 ? std::abs(v) : v, 8);  // f16 scales are normal
            std::fesetround(mode);
            const auto b = encoded<TestType>(x);
            std::fesetround(FE_TONEAREST);
            if constexpr (sizeof(TestType) == 34) {
                for (const auto c : b.codes) low = std::min(low, int(c)), high = std::max(high, int(c));
            } else {
                // The number of largest magnitude has the code 0: a wrap would give it 15.
                const auto y = decoded(b);
                for (std::size_t i = 0; i < 32; ++i)
                    low += std::abs(double(x[i]) - double(y[i])) > 1.01 * std::abs(double(float(b.scale)));
            }
        }
    }
    if constexpr (sizeof(TestType) == 34) {
        CHECK(low == -127);
        CHECK(high == 127);
    } else {
        CHECK(low == 0);
    }
}
