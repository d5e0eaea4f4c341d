// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The 16-bit float types f16 and bf16, and the traits of element types (dtype).
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>
#if defined(__STDCPP_FLOAT16_T__) || defined(__STDCPP_BFLOAT16_T__)
#include <stdfloat>
#endif

#include <ropewalk/core/version.hpp>

// Eigen's own 16-bit types are accepted without including Eigen.
namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

// The storage types may alias memory that an engine declared as another type with the same bits.
#if defined(__GNUC__) || defined(__clang__)
#define ROPEWALK_DETAIL_MAY_ALIAS [[gnu::may_alias]]
#else
#define ROPEWALK_DETAIL_MAY_ALIAS
#endif

namespace ROPEWALK_VIEW_NAMESPACE {

/// IEEE binary16 and bfloat16 as storage: two bytes, no arithmetic. Conversions are explicit: exact to float,
/// rounded to nearest even from float. NaN stays NaN (quiet), f16 overflows to infinity, subnormals are kept.
/// Source: IEEE 754-2019; bfloat16 is the upper half of binary32.
struct ROPEWALK_DETAIL_MAY_ALIAS f16 {
    std::uint16_t bits;  ///< the stored bits
    f16() = default;
    /// Rounds to nearest even.
    explicit constexpr f16(float value) noexcept;
    /// Exact.
    explicit constexpr operator float() const noexcept;
    static constexpr f16 from_bits(std::uint16_t b) noexcept {
        f16 h{};
        h.bits = b;
        return h;
    }
};

/// The upper half of a binary32; see f16.
struct ROPEWALK_DETAIL_MAY_ALIAS bf16 {
    std::uint16_t bits;  ///< the stored bits
    bf16() = default;
    /// Rounds to nearest even.
    explicit constexpr bf16(float value) noexcept;
    /// Exact.
    explicit constexpr operator float() const noexcept {
        return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }
    static constexpr bf16 from_bits(std::uint16_t b) noexcept {
        bf16 h{};
        h.bits = b;
        return h;
    }
};

constexpr bf16::bf16(float value) noexcept : bits(0) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {  // rounding a NaN could carry it into infinity or zero
        bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);
    } else {
        bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
}

constexpr f16::f16(float value) noexcept : bits(0) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    const std::uint32_t a = u & 0x7fffffffu;
    std::uint32_t h = 0;
    if (a > 0x7f800000u) {
        h = 0x7e00u | ((a >> 13) & 0x3ffu);
    } else if (a >= 0x477ff000u) {  // 65520 is the tie between the largest f16 and 2^16
        h = 0x7c00u;
    } else if (a >= 0x38800000u) {  // normal: rebias the exponent, then round the 13 lost bits
        const std::uint32_t r = a - 0x38000000u;
        h = (r + 0xfffu + ((r >> 13) & 1u)) >> 13;
    } else if (a >= 0x33000000u) {  // subnormal: shift the explicit mantissa into place
        const std::uint32_t shift = 126u - (a >> 23);
        const std::uint32_t m = (a & 0x7fffffu) | 0x800000u;
        const std::uint32_t down = m >> shift;
        const std::uint32_t rest = m & ((1u << shift) - 1u);
        const std::uint32_t tie = 1u << (shift - 1u);
        h = down + ((rest > tie || (rest == tie && (down & 1u))) ? 1u : 0u);
    }
    bits = static_cast<std::uint16_t>(sign | h);
}

constexpr f16::operator float() const noexcept {
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t e = (bits >> 10) & 0x1fu;
    const std::uint32_t m = bits & 0x3ffu;
    if (e == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (m << 13) | (m ? 0x400000u : 0u));
    if (e != 0) return std::bit_cast<float>(sign | ((e + 112u) << 23) | (m << 13));
    const float tiny = static_cast<float>(m) * 0x1p-24f;  // exact, also for zero
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(tiny));
}

/// A 16-bit pointer does not say which format it points to, and a wrong guess gives no error: name the
/// format.
inline f16* as_f16(void* p) noexcept { return static_cast<f16*>(p); }
inline const f16* as_f16(const void* p) noexcept { return static_cast<const f16*>(p); }
/// The same for bfloat16.
inline bf16* as_bf16(void* p) noexcept { return static_cast<bf16*>(p); }
inline const bf16* as_bf16(const void* p) noexcept { return static_cast<const bf16*>(p); }

/// The four storage formats that every kernel accepts.
enum class storage : std::uint8_t { f64, f32, f16, bf16 };

/// What a kernel needs to know of an element type: its storage format (`format`), the type it is stored as
/// (`stored`) and the type used for arithmetic (`compute`: double for f64, float for the other three). For a
/// type of your own with one of these formats, specialise dtype by deriving from `dtype_of<storage::...>`.
template <storage Format>
struct dtype_of {
    static constexpr storage format = Format;  ///< the storage format
    /// The type elements are stored as.
    using stored =
        std::conditional_t<Format == storage::f64, double,
                           std::conditional_t<Format == storage::f32, float,
                                              std::conditional_t<Format == storage::f16, f16, bf16>>>;
    /// The type used for arithmetic.
    using compute = std::conditional_t<Format == storage::f64, double, float>;
};

template <class T>
struct dtype;  // not defined for a type that is not an element type
template <class T>
struct dtype<const T> : dtype<T> {};
template <>
struct dtype<double> : dtype_of<storage::f64> {};
template <>
struct dtype<float> : dtype_of<storage::f32> {};
template <>
struct dtype<f16> : dtype_of<storage::f16> {};
template <>
struct dtype<bf16> : dtype_of<storage::bf16> {};
template <>
struct dtype<Eigen::half> : dtype_of<storage::f16> {};
template <>
struct dtype<Eigen::bfloat16> : dtype_of<storage::bf16> {};
#if defined(__STDCPP_FLOAT16_T__)
template <>
struct dtype<std::float16_t> : dtype_of<storage::f16> {};
#endif
#if defined(__STDCPP_BFLOAT16_T__)
template <>
struct dtype<std::bfloat16_t> : dtype_of<storage::bf16> {};
#endif
// In C++23 std::float16_t is _Float16 and std::bfloat16_t is __bf16 (one type, one specialisation). GCC 12
// for Arm defines the macro although C++ there has no such type.
#if defined(__FLT16_MANT_DIG__) && !defined(__STDCPP_FLOAT16_T__) && \
    (defined(__clang__) || defined(__x86_64__) || !defined(__GNUC__) || __GNUC__ >= 13)
template <>
struct dtype<_Float16> : dtype_of<storage::f16> {};
#endif
#if defined(__ARM_FP16_FORMAT_IEEE)
template <>
struct dtype<__fp16> : dtype_of<storage::f16> {};
#endif
#if defined(__BFLT16_MANT_DIG__) && !defined(__STDCPP_BFLOAT16_T__)
template <>
struct dtype<__bf16> : dtype_of<storage::bf16> {};
#endif

/// Whether tensors may have elements of type T.
template <class T>
concept element_type = requires {
    typename dtype<std::remove_const_t<T>>::compute;
};

/// The type that elements of type T are stored as.
template <class T>
using stored_t = typename dtype<std::remove_const_t<T>>::stored;
/// The type used for arithmetic on elements of type T.
template <class T>
using compute_t = typename dtype<std::remove_const_t<T>>::compute;

}  // namespace ROPEWALK_VIEW_NAMESPACE
