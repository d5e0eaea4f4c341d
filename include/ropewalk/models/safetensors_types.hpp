// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The data types of safetensors files and the conversion of their bytes to numbers.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/index.hpp>
#include <ropewalk/core/quantized_types.hpp>

namespace ROPEWALK_NAMESPACE {

/// The storage types of numbers in a safetensors file.
/// Source: huggingface/safetensors, the list of its data types.
enum class safetensors_type : std::uint8_t {
    boolean,
    f4,
    f6_e2m3,
    f6_e3m2,
    u8,
    i8,
    f8_e5m2,
    f8_e4m3,
    f8_e8m0,
    f8_e4m3fnuz,
    f8_e5m2fnuz,
    i16,
    u16,
    f16,
    bf16,
    i32,
    u32,
    f32,
    c64,
    f64,
    i64,
    u64
};

/// A type's name in the file, its width, and what its numbers are.
struct safetensors_type_row {
    /// What the numbers of a type are; of `neither` only the bytes are available.
    enum class kind : std::uint8_t { real, whole, neither };
    const char* name;       ///< the name in the file
    safetensors_type type;  ///< the library's name
    int bits;               ///< bits per number
    kind numbers;           ///< the kind of numbers
};

namespace detail {
using kind_of_number = safetensors_type_row::kind;
inline constexpr safetensors_type_row safetensors_types[] = {
    {"BOOL", safetensors_type::boolean, 8, kind_of_number::whole},
    {"F4", safetensors_type::f4, 4, kind_of_number::neither},
    {"F6_E2M3", safetensors_type::f6_e2m3, 6, kind_of_number::neither},
    {"F6_E3M2", safetensors_type::f6_e3m2, 6, kind_of_number::neither},
    {"U8", safetensors_type::u8, 8, kind_of_number::whole},
    {"I8", safetensors_type::i8, 8, kind_of_number::whole},
    {"F8_E5M2", safetensors_type::f8_e5m2, 8, kind_of_number::real},
    {"F8_E4M3", safetensors_type::f8_e4m3, 8, kind_of_number::real},
    {"F8_E8M0", safetensors_type::f8_e8m0, 8, kind_of_number::real},
    {"F8_E4M3FNUZ", safetensors_type::f8_e4m3fnuz, 8, kind_of_number::neither},
    {"F8_E5M2FNUZ", safetensors_type::f8_e5m2fnuz, 8, kind_of_number::neither},
    {"I16", safetensors_type::i16, 16, kind_of_number::whole},
    {"U16", safetensors_type::u16, 16, kind_of_number::whole},
    {"F16", safetensors_type::f16, 16, kind_of_number::real},
    {"BF16", safetensors_type::bf16, 16, kind_of_number::real},
    {"I32", safetensors_type::i32, 32, kind_of_number::whole},
    {"U32", safetensors_type::u32, 32, kind_of_number::whole},
    {"F32", safetensors_type::f32, 32, kind_of_number::real},
    {"C64", safetensors_type::c64, 64, kind_of_number::neither},
    {"F64", safetensors_type::f64, 64, kind_of_number::real},
    {"I64", safetensors_type::i64, 64, kind_of_number::whole},
    {"U64", safetensors_type::u64, 64, kind_of_number::whole},
};
}  // namespace detail

/// The description of a type.
inline const safetensors_type_row& row_of(safetensors_type type) noexcept {
    return detail::safetensors_types[static_cast<std::size_t>(type)];
}
/// The type of that name in a file, or nullptr.
inline const safetensors_type_row* find_safetensors_type(std::string_view name) noexcept {
    for (const auto& row : detail::safetensors_types)
        if (name == row.name) return &row;
    return nullptr;
}

namespace detail {

/// Little-endian bits at any address, on any machine.
template <std::size_t Bytes>
std::uint64_t little_endian(const std::byte* at) noexcept {
    std::uint64_t bits = 0;
    for (std::size_t i = Bytes; i-- > 0;) bits = bits << 8 | static_cast<std::uint64_t>(at[i]);
    return bits;
}
template <class T>
T from_little_endian(const std::byte* at) noexcept {
    using word = std::conditional_t<
        sizeof(T) == 8, std::uint64_t,
        std::conditional_t<sizeof(T) == 4, std::uint32_t,
                           std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint8_t>>>;
    return std::bit_cast<T>(static_cast<word>(little_endian<sizeof(T)>(at)));
}
/// A number that is only an exponent of eight bits: 2^(bits - 127), NaN for 255.
inline double from_e8m0(const std::byte* at) noexcept {
    const auto bits = static_cast<int>(*at);
    return bits == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, bits - 127);
}

/// Calls take(number) for each real number of a tensor, as float, or as double where float cannot hold it.
/// Requires: a type whose numbers are real.
template <class Take>
void each_real(safetensors_type type, std::span<const std::byte> bytes, Take take) {
    const auto each = [&](std::size_t width, auto read) {
        for (std::size_t at = 0; at < bytes.size(); at += width) take(read(bytes.data() + at));
    };
    const auto narrow = [](auto kind) {
        return [](const std::byte* p) { return static_cast<float>(from_little_endian<decltype(kind)>(p)); };
    };
    switch (type) {
        case safetensors_type::f64: return each(8, from_little_endian<double>);
        case safetensors_type::f32: return each(4, from_little_endian<float>);
        case safetensors_type::f16: return each(2, narrow(f16()));
        case safetensors_type::bf16: return each(2, narrow(bf16()));
        case safetensors_type::f8_e4m3: return each(1, narrow(f8_e4m3()));
        case safetensors_type::f8_e5m2: return each(1, narrow(f8_e5m2()));
        case safetensors_type::f8_e8m0: return each(1, from_e8m0);
        default: return;
    }
}
/// Calls take(number) for each whole number of a tensor, as std::int64_t; an unsigned one from 2^63 on
/// appears as a negative number.
/// Requires: a type whose numbers are whole.
template <class Take>
void each_whole(safetensors_type type, std::span<const std::byte> bytes, Take take) {
    const auto each = [&](auto kind) {
        using I = decltype(kind);
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(I))
            take(static_cast<std::int64_t>(from_little_endian<I>(bytes.data() + at)));
    };
    switch (type) {
        case safetensors_type::boolean:
        case safetensors_type::u8: return each(std::uint8_t());
        case safetensors_type::i8: return each(std::int8_t());
        case safetensors_type::i16: return each(std::int16_t());
        case safetensors_type::u16: return each(std::uint16_t());
        case safetensors_type::i32: return each(std::int32_t());
        case safetensors_type::u32: return each(std::uint32_t());
        case safetensors_type::i64: return each(std::int64_t());
        case safetensors_type::u64: return each(std::uint64_t());
        default: return;
    }
}

}  // namespace detail
}  // namespace ROPEWALK_NAMESPACE
