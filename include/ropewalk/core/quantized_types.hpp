// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The 8-bit floats f8_e4m3 and f8_e5m2, and which element types need a scale.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

namespace detail {

/// The constants of an 8-bit float, as bits of a 32-bit float. Numbers below the smallest normal one are
/// rounded by adding `ruler`, whose ulp is the spacing of the subnormals.
template <int Mantissa>
struct f8_traits {
    static constexpr std::uint32_t shift = 23 - Mantissa;
    static constexpr std::uint32_t rebias = (Mantissa == 3 ? 120u : 112u) << 23;
    static constexpr std::uint32_t least_normal = Mantissa == 3 ? 0x3c800000u : 0x38800000u;  // 2^-6, 2^-14
    static constexpr std::uint32_t largest = Mantissa == 3 ? 0x43e00000u : 0x47600000u;       // 448, 57344
    static constexpr float ruler = Mantissa == 3 ? 0x1p14f : 0x1p7f;
    static constexpr std::uint32_t nan = 0x7f;
};

}  // namespace detail

/// An 8-bit float as storage: one byte, no arithmetic. Conversion from float rounds to nearest even and
/// saturates: larger values, infinity included, become the largest number. NaN stays NaN. f8_e4m3 reaches 448
/// and has no infinity; f8_e5m2 reaches 57344, and conversion never produces its infinity.
/// Source: OCP 8-bit Floating Point Specification 1.0, tables 1 to 3, saturating conversion.
template <int Mantissa>
struct f8 {
    static_assert(Mantissa == 2 || Mantissa == 3, "f8 is e4m3 or e5m2");
    using traits = detail::f8_traits<Mantissa>;  ///< the constants of the format
    std::uint8_t bits;                           ///< the stored bits

    f8() = default;
    explicit constexpr f8(float value) noexcept : bits(0) {
        const auto u = std::bit_cast<std::uint32_t>(value);
        std::uint32_t a = u & 0x7fffffffu;
        std::uint32_t code = traits::nan;
        if (a <= 0x7f800000u) {
            if (a > traits::largest) a = traits::largest;
            if (a >= traits::least_normal) {
                code =
                    (a - traits::rebias + ((1u << (traits::shift - 1)) - 1u) + ((a >> traits::shift) & 1u)) >>
                    traits::shift;
            } else {
                code = std::bit_cast<std::uint32_t>(std::bit_cast<float>(a) + traits::ruler) -
                       std::bit_cast<std::uint32_t>(traits::ruler);
            }
        }
        bits = static_cast<std::uint8_t>(code | ((u >> 24) & 0x80u));
    }
    explicit constexpr operator float() const noexcept {
        const std::uint32_t sign = (bits & 0x80u) << 24;
        const std::uint32_t e = (bits & 0x7fu) >> Mantissa;
        const std::uint32_t m = bits & ((1u << Mantissa) - 1u);
        if (Mantissa == 2 && e == 31u)
            return std::bit_cast<float>(sign | 0x7f800000u | (m != 0 ? 0x400000u | (m << 21) : 0u));
        if (Mantissa == 3 && (bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
        const std::uint32_t rebias = traits::rebias;
        if (e != 0) return std::bit_cast<float>(sign | ((((e << Mantissa) | m) << (23 - Mantissa)) + rebias));
        const float tiny = static_cast<float>(m) * (Mantissa == 3 ? 0x1p-9f : 0x1p-16f);
        return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(tiny));
    }
    static constexpr f8 from_bits(std::uint8_t b) noexcept {
        f8 x{};
        x.bits = b;
        return x;
    }
};
using f8_e4m3 = f8<3>;  ///< 1 sign, 4 exponent and 3 mantissa bits
using f8_e5m2 = f8<2>;  ///< 1 sign, 5 exponent and 2 mantissa bits

/// Whether T is an 8-bit float: an element of a quantised cache, not an element type of tensors (see dtype).
template <class T>
inline constexpr bool is_f8 = std::is_same_v<T, f8_e4m3> || std::is_same_v<T, f8_e5m2>;
/// Whether a cache of T holds codes that need a scale.
template <class T>
inline constexpr bool is_quantized = is_f8<T> || std::is_same_v<T, std::int8_t>;

}  // namespace ROPEWALK_VIEW_NAMESPACE
