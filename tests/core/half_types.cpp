// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/half_types.hpp>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

/// What the two formats are made of.
struct binary16 {
    int mantissa_bits;
    int smallest_exponent;  // of the last place of subnormals
    int bias;
};
constexpr binary16 half_format{10, -24, 15};
constexpr binary16 brain_format{7, -133, 127};

/// The value of finite bits, from the definition of the format.
double reference_value(std::uint16_t bits, const binary16& f) {
    const int mantissa = bits & ((1 << f.mantissa_bits) - 1);
    const int exponent = (bits & 0x7fff) >> f.mantissa_bits;
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, f.smallest_exponent)
                      : std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - 1 + f.smallest_exponent);
    return (bits & 0x8000) ? -magnitude : magnitude;
}

bool is_infinity(std::uint16_t bits, const binary16& f) {
    return (bits & 0x7fff) == ((0x7fff >> f.mantissa_bits) << f.mantissa_bits);
}
bool is_not_a_number(std::uint16_t bits, const binary16& f) {
    return (bits & 0x7fff) > ((0x7fff >> f.mantissa_bits) << f.mantissa_bits);
}

/// Round to nearest even in double arithmetic, from the definition: count units of the last place.
std::uint16_t reference_bits(float value, const binary16& f) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double x = std::fabs(static_cast<double>(value));
    if (x == 0) return sign;
    int exponent = 0;
    std::frexp(x, &exponent);  // x = m * 2^exponent, m in [0.5, 1)
    const int last_place = std::max(exponent - 1 - f.mantissa_bits, f.smallest_exponent);
    const double units = std::ldexp(x, -last_place);  // exact: both fit in a double
    double whole = std::floor(units);
    const double rest = units - whole;
    if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2.0) == 1.0)) whole += 1;
    // Counting up from the smallest subnormal, numbers of the format are consecutive bit patterns: one
    // step a unit, and one binade each time the last place doubles.
    const int binades = last_place - f.smallest_exponent;
    const double pattern = whole + static_cast<double>(binades) * (1 << f.mantissa_bits);
    const int infinity = (0x7fff >> f.mantissa_bits) << f.mantissa_bits;
    return static_cast<std::uint16_t>(sign | (pattern >= infinity ? infinity : static_cast<int>(pattern)));
}

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

template <class Half>
void every_value_reads_exactly(const binary16& f) {
    int wrong = 0;
    for (unsigned u = 0; u < 65536; ++u) {
        const auto bits = static_cast<std::uint16_t>(u);
        const std::uint32_t read = bits_of(static_cast<float>(Half::from_bits(bits)));
        const bool negative = (bits & 0x8000) != 0;
        if (((read >> 31) != 0) != negative) ++wrong;
        const std::uint32_t magnitude = read & 0x7fffffffu;
        if (is_not_a_number(bits, f)) {
            if (magnitude <= 0x7f800000u) ++wrong;
        } else if (is_infinity(bits, f)) {
            if (magnitude != 0x7f800000u) ++wrong;
        } else if (read != bits_of(static_cast<float>(reference_value(bits, f)))) {
            ++wrong;
        }
    }
    CHECK(wrong == 0);
}

template <class Half>
void every_value_survives_the_way_back(const binary16& f) {
    int wrong = 0;
    for (unsigned u = 0; u < 65536; ++u) {
        const auto bits = static_cast<std::uint16_t>(u);
        const std::uint16_t back = Half(static_cast<float>(Half::from_bits(bits))).bits;
        if (is_not_a_number(bits, f)) {
            if (!is_not_a_number(back, f) || ((back ^ bits) & 0x8000)) ++wrong;
        } else if (back != bits) {
            ++wrong;
        }
    }
    CHECK(wrong == 0);
}

/// All exponents and both signs: a stride that is odd, so that every low bit pattern turns up, and the
/// neighbourhood of each tie of the format.
template <class Half>
void floats_round_to_nearest_even(const binary16& f) {
    long wrong = 0, checked = 0;
    const auto check = [&](std::uint32_t u) {
        if ((u & 0x7fffffffu) >= 0x7f800000u) return;
        const float x = std::bit_cast<float>(u);
        ++checked;
        if (Half(x).bits != reference_bits(x, f)) ++wrong;
    };
    for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32); u += 4099) check(static_cast<std::uint32_t>(u));
    for (unsigned u = 0; u < 0x7fff; ++u) {
        const auto low = static_cast<std::uint16_t>(u);
        const auto high = static_cast<std::uint16_t>(u + 1);
        if (is_infinity(low, f) || is_not_a_number(low, f)) break;
        if (is_infinity(high, f)) continue;
        const float tie = static_cast<float>((reference_value(low, f) + reference_value(high, f)) / 2);
        for (int step = -2; step <= 2; ++step)
            for (std::uint32_t sign : {0u, 0x80000000u})
                check((bits_of(tie) + static_cast<std::uint32_t>(step)) | sign);
    }
    CHECK(checked > 1000000);
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("half_types: all 65536 values of each format read exactly", "[core][half_types]") {
    every_value_reads_exactly<rw::f16>(half_format);
    every_value_reads_exactly<rw::bf16>(brain_format);
}

TEST_CASE("half_types: all 65536 values survive the way to float and back", "[core][half_types]") {
    every_value_survives_the_way_back<rw::f16>(half_format);
    every_value_survives_the_way_back<rw::bf16>(brain_format);
}

TEST_CASE("half_types: floats round to nearest even into f16", "[core][half_types]") {
    floats_round_to_nearest_even<rw::f16>(half_format);
}

TEST_CASE("half_types: floats round to nearest even into bf16", "[core][half_types]") {
    floats_round_to_nearest_even<rw::bf16>(brain_format);
}

TEST_CASE("half_types: named values", "[core][half_types]") {
    CHECK(rw::f16(1.0f).bits == 0x3c00);
    CHECK(rw::f16(-2.0f).bits == 0xc000);
    CHECK(rw::f16(65504.0f).bits == 0x7bff);
    CHECK(rw::f16(65519.996f).bits == 0x7bff);
    CHECK(rw::f16(65520.0f).bits == 0x7c00);  // the tie goes to the even neighbour, which is infinity
    CHECK(rw::f16(0x1p-24f).bits == 0x0001);
    CHECK(rw::f16(0x1p-25f).bits == 0x0000);  // a tie with zero
    CHECK(rw::f16(0x1.000002p-25f).bits == 0x0001);
    CHECK(rw::bf16(1.0f).bits == 0x3f80);
    CHECK(rw::bf16(0x1.01p0f).bits == 0x3f80);  // a tie, down to even
    CHECK(rw::bf16(0x1.03p0f).bits == 0x3f82);  // a tie, up to even
    CHECK(rw::bf16(std::bit_cast<float>(0x7f7fffffu)).bits == 0x7f80);
    // Both zeros keep their sign, which float comparison would not show.
    CHECK(rw::f16(-0.0f).bits == 0x8000);
    CHECK(rw::bf16(-0.0f).bits == 0x8000);
    CHECK(bits_of(static_cast<float>(rw::f16::from_bits(0x8000))) == 0x80000000u);
}

TEST_CASE("half_types: NaN stays NaN whatever its payload, infinity stays infinity", "[core][half_types]") {
    for (std::uint32_t payload : {1u, 0x0fffu, 0x1fffu, 0x2000u, 0xffffu, 0x10000u, 0x400000u, 0x7fffffu})
        for (std::uint32_t sign : {0u, 0x80000000u}) {
            const float x = std::bit_cast<float>(sign | 0x7f800000u | payload);
            CHECK(is_not_a_number(rw::f16(x).bits, half_format));
            CHECK(is_not_a_number(rw::bf16(x).bits, brain_format));
            CHECK((rw::f16(x).bits >> 15) == (sign >> 31));
            CHECK((rw::bf16(x).bits >> 15) == (sign >> 31));
        }
    CHECK(rw::f16(std::bit_cast<float>(0x7f800000u)).bits == 0x7c00);
    CHECK(rw::f16(std::bit_cast<float>(0xff800000u)).bits == 0xfc00);
    CHECK(rw::bf16(std::bit_cast<float>(0x7f800000u)).bits == 0x7f80);
    CHECK(rw::bf16(std::bit_cast<float>(0xff800000u)).bits == 0xff80);
}

TEST_CASE("half_types: conversions are constant expressions", "[core][half_types]") {
    static_assert(rw::f16(0.5f).bits == 0x3800);
    static_assert(rw::bf16(0.5f).bits == 0x3f00);
    static_assert(static_cast<float>(rw::f16::from_bits(0x0001)) == 0x1p-24f);
    static_assert(static_cast<float>(rw::bf16::from_bits(0x4049)) == 3.140625f);
    SUCCEED();
}

TEST_CASE("half_types: as_f16 and as_bf16 name what a 16-bit pointer holds", "[core][half_types]") {
    std::uint16_t memory[2] = {0x3c00, 0x3f80};
    CHECK(static_cast<float>(*rw::as_f16(memory)) == 1.0f);
    CHECK(static_cast<float>(rw::as_bf16(memory)[1]) == 1.0f);
    rw::as_f16(memory)[0] = rw::f16(2.0f);
    CHECK(memory[0] == 0x4000);
    const void* read_only = memory;
    CHECK(static_cast<float>(*rw::as_f16(read_only)) == 2.0f);
    CHECK(static_cast<float>(rw::as_bf16(read_only)[1]) == 1.0f);
}

// GCC 12 for Arm defines the macro of _Float16 without having the type in C++, but has __fp16.
#if defined(__ARM_FP16_FORMAT_IEEE)
#define ROPEWALK_TEST_COMPILERS_HALF __fp16
#elif defined(__FLT16_MANT_DIG__) && defined(__x86_64__)
#define ROPEWALK_TEST_COMPILERS_HALF _Float16
#endif
#if defined(ROPEWALK_TEST_COMPILERS_HALF)
TEST_CASE("half_types: f16 agrees with the compiler's own type", "[core][half_types]") {
    int wrong = 0;
    for (unsigned u = 0; u < 65536; ++u) {
        const auto bits = static_cast<std::uint16_t>(u);
        ROPEWALK_TEST_COMPILERS_HALF theirs;
        std::memcpy(&theirs, &bits, sizeof theirs);
        const auto read = static_cast<float>(theirs);
        const bool nan = is_not_a_number(bits, half_format);
        if (!nan && bits_of(read) != bits_of(static_cast<float>(rw::f16::from_bits(bits)))) ++wrong;
    }
    CHECK(wrong == 0);
}
#endif
