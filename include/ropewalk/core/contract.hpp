// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <ropewalk/core/version.hpp>

/// An internal assumption, checked in debug builds only. What a caller can get wrong is a misfit or an
/// invalid_config, in every build alike. Define it before the first include to route failures elsewhere.
#ifndef ROPEWALK_EXPECT
#define ROPEWALK_EXPECT(condition) assert(condition)
#endif

namespace ROPEWALK_VIEW_NAMESPACE {

/// Thrown by cold calls only. The text reads `function: parameter must ..., got value`. With
/// -fno-exceptions the same text goes to stderr and the program aborts.
class invalid_config : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

/// What disagrees in a hot call; nothing where all of it fits. Returned by fit().
struct misfit {
    const char* must = nullptr;  ///< "channels must be ...", null where the call fits
    std::ptrdiff_t wanted = 0;   ///< the number that would fit
    std::ptrdiff_t got = 0;      ///< the number that came

    /// Whether nothing disagrees.
    constexpr bool ok() const noexcept { return must == nullptr; }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

// What only failing calls run, kept out of line: inlined, the texts of errors were a third of the code of a
// function that checks its parameters.
#if defined(__GNUC__) || defined(__clang__)
#define ROPEWALK_DETAIL_COLD [[gnu::cold, gnu::noinline]]
#else
#define ROPEWALK_DETAIL_COLD
#endif

ROPEWALK_DETAIL_COLD [[noreturn]] inline void fail(const char* message) {
#if defined(__cpp_exceptions)
    throw invalid_config(message);
#else
    std::fprintf(stderr, "ropewalk: %s\n", message);
    std::abort();
#endif
}
[[noreturn]] inline void fail(const std::string& message) { fail(message.c_str()); }

/// Few enough digits that 0.1 is not 0.10000000000000001, enough that it reads back the same.
ROPEWALK_DETAIL_COLD inline void write_number(char (&to)[40], double value) {
    for (int digits = 15; digits <= 17; ++digits) {
        std::snprintf(to, sizeof to, "%.*g", digits, value);
        if (std::strtod(to, nullptr) == value) break;
    }
}
ROPEWALK_DETAIL_COLD inline void write_number(char (&to)[40], long long value) {
    std::snprintf(to, sizeof to, "%lld", value);
}
ROPEWALK_DETAIL_COLD inline void write_number(char (&to)[40], unsigned long long value) {
    std::snprintf(to, sizeof to, "%llu", value);
}
template <class N>
ROPEWALK_DETAIL_COLD std::string number_text(N value) {
    char number[40];
    write_number(number, value);
    return number;
}

/// A number as one of three types, a truth value as its word, any other text as it is.
template <class V>
decltype(auto) printable(const V& value) {
    if constexpr (std::is_same_v<V, bool>)
        return value ? "true" : "false";
    else if constexpr (std::is_floating_point_v<V>)
        return static_cast<double>(value);
    else if constexpr (std::is_arithmetic_v<V> && std::is_signed_v<V>)
        return static_cast<long long>(value);
    else if constexpr (std::is_arithmetic_v<V>)
        return static_cast<unsigned long long>(value);
    else
        return (value);
}

template <class V>
std::string text(const V& value) {
    if constexpr (std::is_arithmetic_v<V> && !std::is_same_v<V, bool>)
        return number_text(printable(value));
    else
        return std::string(printable(value));
}

// Written by printf: every unit would instantiate the strings of C++20 that a sum of them takes, a twentieth of
// the first program's time to compile.
ROPEWALK_DETAIL_COLD [[noreturn]] inline void refuse(const char* function, const char* parameter_must,
                                                     const char* got) {
    constexpr const char* form = "%s: %s, got %s";
    const int length = std::snprintf(nullptr, 0, form, function, parameter_must, got);
    const auto size = static_cast<std::size_t>(length < 0 ? 0 : length) + 1;
    const std::unique_ptr<char[]> message(new char[size]());
    std::snprintf(message.get(), size, form, function, parameter_must, got);
    fail(message.get());
}
template <class P>
ROPEWALK_DETAIL_COLD [[noreturn]] void refuse(const char* function, const char* parameter_must,
                                              const P& got) {
    if constexpr (std::is_arithmetic_v<P>) {
        char number[40];
        write_number(number, got);
        refuse(function, parameter_must, static_cast<const char*>(number));
    } else {
        refuse(function, parameter_must, std::string(got).c_str());
    }
}

/// The one check of cold calls: `require(factor > 0, "yarn", "factor must be > 0", factor)`.
template <class V>
void require(bool holds, const char* function, const char* parameter_must, const V& got) {
    if (!holds) refuse(function, parameter_must, printable(got));
}

/// Says that a hot call does not fit, as ROPEWALK_ON_MISFIT asks for it. Returns false.
ROPEWALK_DETAIL_COLD inline bool tell([[maybe_unused]] const char* call,
                                      [[maybe_unused]] const misfit& what) noexcept {
#if ROPEWALK_DETAIL_ON_MISFIT == 4
    ROPEWALK_DETAIL_NOTE(what.must, what.wanted, what.got);
#elif ROPEWALK_DETAIL_ON_MISFIT != 3
    std::fprintf(stderr, "ropewalk: %s: %s: wanted %lld, got %lld\n", call, what.must,
                 static_cast<long long>(what.wanted), static_cast<long long>(what.got));
#endif
#if ROPEWALK_DETAIL_ON_MISFIT == 1
    std::abort();
#else
    return false;
#endif
}

/// The one check of hot calls that what fit() found is nothing: `return fits("rotate", fit(...)) && ...`.
inline bool fits(const char* call, const misfit& what) noexcept { return what.ok() || tell(call, what); }

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE {

/// A misfit in words: "channels must be twice the pairs of the rows: wanted 128, got 64"; "fits" where it
/// does.
inline std::string to_string(const misfit& what) {
    if (what.ok()) return "fits";
    return std::string(what.must) + ": wanted " + std::to_string(what.wanted) + ", got " +
           std::to_string(what.got);
}

}  // namespace ROPEWALK_NAMESPACE
