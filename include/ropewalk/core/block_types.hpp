// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Blocks of quantised numbers with one scale (ggml's q8_0, q4_0), and their reference encoders and decoders.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Size numbers as int8 codes with one scale: number = code * scale. Codes run from -127 to 127.
/// Shapes:   Size + 2 bytes, aligned to 2: the scale in native byte order, then the codes in channel order.
/// Source:   ggml's block_q8_0 (Size = 32, 34 bytes).
template <int Size>
struct ROPEWALK_DETAIL_MAY_ALIAS q8_block {
    static_assert(Size > 0 && Size % 32 == 0, "ropewalk: a block holds a multiple of 32 numbers");
    static constexpr index size = Size;                 ///< numbers in a block
    f16 scale;                                          ///< the factor of every code
    std::int8_t codes[static_cast<std::size_t>(Size)];  ///< codes[i] belongs to channel i
};

/// Size numbers as 4-bit codes with one scale: number = (code - 8) * scale. Codes run from 0 to 15. The
/// number of largest magnitude gets code 0, so the scale has the opposite sign of that number.
/// Shapes:   Size / 2 + 2 bytes, aligned to 2: the scale, then the codes; byte i holds channel i in its low
///           four bits and channel i + Size / 2 in its high four bits.
/// Source:   ggml's block_q4_0 (Size = 32, 18 bytes).
template <int Size>
struct ROPEWALK_DETAIL_MAY_ALIAS q4_block {
    static_assert(Size > 0 && Size % 32 == 0, "ropewalk: a block holds a multiple of 32 numbers");
    static constexpr index size = Size;  ///< numbers in a block
    f16 scale;                           ///< the factor of every code less 8
    std::uint8_t codes[static_cast<std::size_t>(
        Size / 2)];  ///< codes of channels i (low four bits) and i + Size / 2 (high four bits)
};

using q8_0 = q8_block<32>;  ///< 32 int8 codes and an f16 scale in 34 bytes
using q4_0 = q4_block<32>;  ///< 32 4-bit codes and an f16 scale in 18 bytes

static_assert(sizeof(q8_0) == 34 && alignof(q8_0) == 2 && sizeof(q4_0) == 18 && alignof(q4_0) == 2);
static_assert(sizeof(q8_block<64>) == 66 && sizeof(q4_block<64>) == 34);

namespace detail {

template <class T>
struct block_traits {
    static constexpr index size = 0;
};
template <int Size>
struct block_traits<q8_block<Size>> {
    static constexpr index size = Size;
};
template <int Size>
struct block_traits<q4_block<Size>> {
    static constexpr index size = Size;
};

}  // namespace detail

/// Whether T is a block of codes with a scale. T may be const.
template <class T>
inline constexpr bool is_block = detail::block_traits<std::remove_const_t<T>>::size != 0;
/// How many numbers one element of a cache holds: the size of a block, 1 for any other type.
template <class T>
inline constexpr index numbers_in = is_block<T> ? detail::block_traits<std::remove_const_t<T>>::size : 1;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Below this magnitude 1 / scale could overflow. The f16 scale of such a block is zero whatever its codes
/// are.
inline constexpr std::uint32_t least_in_block = 0x0d800000u;  // 2^-100
inline constexpr std::uint32_t infinity_bits = 0x7f800000u;
/// The largest float below 0.5. Adding it and truncating rounds halves away from zero; adding 0.5 itself
/// would also round up the float just below 0.5.
inline constexpr float below_half = 0x1.fffffep-2f;

/// a * b rounded to float, never contracted into a fused multiply-add: every compiler and every instruction
/// set must add to the same product.
inline float rounded_product(float a, float b) noexcept {
#if defined(__GNUC__) && defined(__SSE2__) && !defined(__wasm__)
    float p = a * b;
    asm("" : "+x"(p));
    return p;
#elif defined(__GNUC__) && defined(__aarch64__)
    float p = a * b;
    asm("" : "+w"(p));
    return p;
#else
    const volatile float p = a * b;
    return p;
#endif
}

inline constexpr std::uint32_t magnitude_bits(float x) noexcept {
    return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
}

}  // namespace detail

/// The reference encoder of a q8 block.
/// Shapes:   Size numbers at x, any alignment.
/// Accuracy: scale = f16(d), d = largest magnitude / 127; code = x * (1 / d), each step rounded to f32, then
///           to the nearest integer, halves away from zero. So |x - code * d| <= 0.50002 d. With the rounding
///           of the scale itself |x - number| <= (0.50002 + 127 * 2^-11) d < 0.5625 d where the scale is a
///           normal f16 (at least 6.2e-5). Codes stay within +-127 in every rounding mode. If the block holds
///           a NaN or an infinity, the scale is NaN and the codes are 0, so that every number of it reads as
///           NaN. If the largest magnitude is above 8.3e6, the scale overflows to infinity, as ggml's does.
///           If it is below 2^-100 (subnormal numbers included), scale and codes are 0. Where only the scale
///           is zero (largest magnitude below 3.8e-6), the codes are kept, as ggml keeps them; they read as
///           0.
/// Source:   ggml's reference quantisation of q8_0 (its vector code rounds halves to even and multiplies by
///           127 / largest, so single codes may differ from these by one).
template <int Size>
void encode_block(q8_block<Size>& to, const float* x) noexcept {
    std::uint32_t largest = 0;
    for (int i = 0; i < Size; ++i) largest = std::max(largest, detail::magnitude_bits(x[i]));
    if (largest >= detail::infinity_bits) {
        to.scale = f16::from_bits(0x7e00u);
        for (int i = 0; i < Size; ++i) to.codes[i] = 0;
        return;
    }
    const float d = std::bit_cast<float>(largest) / 127.0f;
    const float factor = largest < detail::least_in_block ? 0.0f : 1.0f / d;
    to.scale = f16(d);
    for (int i = 0; i < Size; ++i) {
        const float v = detail::rounded_product(x[i], factor);
        const std::uint32_t sign = std::bit_cast<std::uint32_t>(v) & 0x80000000u;
        const float half = std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(detail::below_half));
        to.codes[i] = static_cast<std::int8_t>(v + half);
    }
}

/// The reference encoder of a q4 block.
/// Shapes:   Size numbers at x, any alignment.
/// Accuracy: scale = f16(d), d = (the first number of largest magnitude) / -8; code = min(15, trunc(x * (1 /
///           d) + 8.5)), each step rounded to f32. So |x - (code - 8) * d| <= |d|, or half of that for every
///           number but those whose code is limited to 15. A NaN or an infinity makes the scale NaN and the
///           codes 8, so that every number reads as NaN. A largest magnitude above 524e3 makes the scale
///           infinite. One below 2^-100 makes the scale 0 (of either sign, -0 for a block of zeros, as in
///           ggml) and the codes 8.
/// Source:   ggml's reference quantisation of q4_0.
template <int Size>
void encode_block(q4_block<Size>& to, const float* x) noexcept {
    constexpr int half = Size / 2;
    std::uint32_t largest = 0;
    float number = 0;
    for (int i = 0; i < Size; ++i)
        if (detail::magnitude_bits(x[i]) > largest) {
            largest = detail::magnitude_bits(x[i]);
            number = x[i];
        }
    if (largest >= detail::infinity_bits) {
        to.scale = f16::from_bits(0x7e00u);
        for (int i = 0; i < half; ++i) to.codes[i] = 0x88u;
        return;
    }
    const float d = number * -0.125f;
    const float factor = largest < detail::least_in_block ? 0.0f : 1.0f / d;
    to.scale = f16(d);
    const auto code = [&](int i) {
        return std::min(15, static_cast<int>(detail::rounded_product(x[i], factor) + 8.5f));
    };
    for (int i = 0; i < half; ++i) to.codes[i] = static_cast<std::uint8_t>(code(i) | (code(i + half) << 4));
}

/// Decodes the Size numbers of a block to x.
/// Accuracy: exact in f32: a code has at most 8 significant bits, a scale 11.
template <int Size>
void decode_block(const q8_block<Size>& from, float* x) noexcept {
    const float scale = static_cast<float>(from.scale);
    for (int i = 0; i < Size; ++i) x[i] = static_cast<float>(from.codes[i]) * scale;
}
template <int Size>
void decode_block(const q4_block<Size>& from, float* x) noexcept {
    const float scale = static_cast<float>(from.scale);
    for (int i = 0; i < Size / 2; ++i) {
        x[i] = static_cast<float>((from.codes[i] & 15) - 8) * scale;
        x[i + Size / 2] = static_cast<float>((from.codes[i] >> 4) - 8) * scale;
    }
}

}  // namespace ROPEWALK_NAMESPACE
