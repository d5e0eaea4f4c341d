// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// How errors are reported: invalid_config by cold calls (building), misfit by hot calls (rotating).
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

/// Checks an internal assumption, in debug builds only. What a caller can get wrong is reported as a misfit
/// or an invalid_config, in every build alike. Define the macro before the first include to handle failures
/// in another way.
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

/// What does not fit in a hot call; empty if the call fits. Returned by fit(); to_string makes a sentence of
/// it. What a hot call does with a misfit of its own is chosen by ROPEWALK_ON_MISFIT: `stop`, `report` or
/// `ignore`.
struct misfit {
    const char* must = nullptr;  ///< "channels must be ...", null if the call fits
    std::ptrdiff_t wanted = 0;   ///< the number that would fit
    std::ptrdiff_t got = 0;      ///< the number that was passed
    /// Which view of a call with several does not fit, by its parameter's name, such as "q" or "out"; null for
    /// any other reason.
    const char* argument = nullptr;

    /// Whether nothing disagrees.
    constexpr bool ok() const noexcept { return must == nullptr; }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

// Code that only failing calls run is kept out of line. Inlined, the error texts were a third of the code of
// a function that checks its parameters.
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

/// As few digits as read back to the same number: 0.1 is printed as 0.1, not as 0.10000000000000001.
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

/// A number as one of three types, a bool as a word, any other value (text) as it is.
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

// Formatted by snprintf. Concatenation of std::string would be instantiated in every translation unit, and
// took a twentieth of the compile time of README's first program.
// `wanted` is what would have been taken, null where the text of the parameter says it.
ROPEWALK_DETAIL_COLD [[noreturn]] inline void refuse(const char* function, const char* parameter_must,
                                                     const char* wanted, const char* got) {
    const auto print = [&](char* to, std::size_t size) {
        return std::snprintf(to, size, "%s: %s%s%s, got %s", function, parameter_must,
                             wanted != nullptr ? ": wanted " : "", wanted != nullptr ? wanted : "", got);
    };
    const int length = print(nullptr, 0);
    const auto size = static_cast<std::size_t>(length < 0 ? 0 : length) + 1;
    const std::unique_ptr<char[]> message(new char[size]());
    print(message.get(), size);
    fail(message.get());
}
ROPEWALK_DETAIL_COLD [[noreturn]] inline void refuse(const char* function, const char* parameter_must,
                                                     const char* got) {
    refuse(function, parameter_must, nullptr, got);
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

/// The check of every cold call: `require(factor > 0, "yarn", "factor must be > 0", factor)`.
template <class V>
void require(bool holds, const char* function, const char* parameter_must, const V& got) {
    if (!holds) refuse(function, parameter_must, printable(got));
}

/// The check of one quantity against another, whose text has both:
/// `require_equal("score", "k must be as long as q", q.size(), k.size())`.
template <class W, class G>
void require_equal(const char* function, const char* parameter_must, const W& wanted, const G& got) {
    if (static_cast<std::common_type_t<W, G>>(wanted) != static_cast<std::common_type_t<W, G>>(got))
        refuse(function, parameter_must, text(wanted).c_str(), text(got).c_str());
}

/// Reports that a hot call does not fit, as ROPEWALK_ON_MISFIT selects. Returns false.
ROPEWALK_DETAIL_COLD inline bool tell([[maybe_unused]] const char* call,
                                      [[maybe_unused]] const misfit& what) noexcept {
#if ROPEWALK_DETAIL_ON_MISFIT == 4
    ROPEWALK_DETAIL_NOTE(what.must, what.wanted, what.got, what.argument);
#elif ROPEWALK_DETAIL_ON_MISFIT != 3
    const bool named = what.argument != nullptr;
    std::fprintf(stderr, "ropewalk: %s: %s%s%s: wanted %lld, got %lld\n", call, named ? what.argument : "",
                 named ? ": " : "", what.must, static_cast<long long>(what.wanted),
                 static_cast<long long>(what.got));
#endif
#if ROPEWALK_DETAIL_ON_MISFIT == 1
    std::abort();
#else
    return false;
#endif
}

/// The check of every hot call: reports a misfit that fit() found: `return fits("rotate", fit(...)) && ...`.
inline bool fits(const char* call, const misfit& what) noexcept { return what.ok() || tell(call, what); }

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE {

/// A misfit in words, for example "k: channels must be twice the pairs of the rows: wanted 128, got 64";
/// "fits" if the call fits.
inline std::string to_string(const misfit& what) {
    if (what.ok()) return "fits";
    return (what.argument != nullptr ? std::string(what.argument) + ": " : std::string()) + what.must +
           ": wanted " + std::to_string(what.wanted) + ", got " + std::to_string(what.got);
}

}  // namespace ROPEWALK_NAMESPACE
