// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Size numbers as int8 codes under one scale: number = code * scale. Codes run from -127 to 127.
/// Shapes:   Size + 2 bytes, aligned to 2: the scale in the machine's byte order, then the codes in channel
///           order.
/// Source:   ggml's block_q8_0 (Size = 32, 34 bytes).
template <int Size>
struct ROPEWALK_DETAIL_MAY_ALIAS q8_block {
    static_assert(Size > 0 && Size % 32 == 0, "ropewalk: a block holds a multiple of 32 numbers");
    static constexpr index size = Size;                 ///< numbers in a block
    f16 scale;                                          ///< what a code is multiplied by
    std::int8_t codes[static_cast<std::size_t>(Size)];  ///< code of channel i at i
};

/// Size numbers as 4-bit codes under one scale: number = (code - 8) * scale. Codes run from 0 to 15; the
/// number of largest magnitude has the code 0, so the scale's sign is the opposite of its own.
/// Shapes:   Size / 2 + 2 bytes, aligned to 2: the scale, then bytes; byte i holds channel i in its low half
///           and channel i + Size / 2 in its high half.
/// Source:   ggml's block_q4_0 (Size = 32, 18 bytes).
template <int Size>
struct ROPEWALK_DETAIL_MAY_ALIAS q4_block {
    static_assert(Size > 0 && Size % 32 == 0, "ropewalk: a block holds a multiple of 32 numbers");
    static constexpr index size = Size;  ///< numbers in a block
    f16 scale;                           ///< what a code less 8 is multiplied by
    std::uint8_t codes[static_cast<std::size_t>(
        Size / 2)];  ///< codes of channels i (low half) and i + Size / 2 (high half)
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

/// Whether T is a block of codes with a scale, const or not.
template <class T>
inline constexpr bool is_block = detail::block_traits<std::remove_const_t<T>>::size != 0;
/// Numbers in an element of a cache: those of a block, 1 of any other type.
template <class T>
inline constexpr index numbers_in = is_block<T> ? detail::block_traits<std::remove_const_t<T>>::size : 1;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Below this magnitude 1 / scale could overflow. The f16 scale of such a block is zero whatever its codes.
inline constexpr std::uint32_t least_in_block = 0x0d800000u;  // 2^-100
inline constexpr std::uint32_t infinity_bits = 0x7f800000u;
/// The float below a half: adding it and cutting off rounds halves away from zero; a half itself would also
/// round the float below it up.
inline constexpr float below_half = 0x1.fffffep-2f;

/// a * b rounded to float, never part of a fused multiplication and addition: what is added to it must be
/// added to the same number by every compiler and on every instruction set.
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

/// The reference encoder of a q8 block: Size numbers at x, any alignment.
/// Accuracy: scale = f16(d), d = largest magnitude / 127; code = x * (1 / d), each step rounded to f32, then
///           to the nearest integer, halves away from zero. So |x - code * d| <= 0.50002 d, and with the
///           scale's own rounding |x - number| <= (0.50002 + 127 * 2^-11) d < 0.5625 d where the scale is a
///           normal f16 (6.2e-5 and more). Codes stay within +-127 in every rounding mode.
///           A NaN or an infinity in the block: scale NaN, codes 0, so that every number of it reads as NaN.
///           A largest magnitude above 8.3e6: the scale overflows to infinity, as ggml's does. Below 2^-100
///           (subnormal numbers included): scale 0, codes 0. Where the scale is zero and the block is not
///           (below 3.8e-6), codes are kept as ggml keeps them; they read as 0.
/// Source:   ggml's reference quantisation of q8_0 (its vector code rounds halves to even and multiplies by
///           127 / largest: single codes may differ by one from that).
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

/// The reference encoder of a q4 block: Size numbers at x, any alignment.
/// Accuracy: scale = f16(d), d = (the number of largest magnitude, the first of several) / -8; code =
///           min(15, trunc(x * (1 / d) + 8.5)), each step rounded to f32. So |x - (code - 8) * d| <= |d|
///           (half of that but for numbers that face the largest one from the other side of zero).
///           NaN or infinity: scale NaN, codes 8, every number reads as NaN. Largest magnitudes above 524e3:
///           infinite scale; below 2^-100: scale 0 (of either sign, -0 for zeros: ggml's), codes 8.
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

/// The numbers of a block, Size of them to x.
/// Accuracy: exact in f32: a code has 8 bits, a scale 11.
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
