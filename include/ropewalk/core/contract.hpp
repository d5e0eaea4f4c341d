// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <ropewalk/core/version.hpp>

/// Precondition of a hot call: checked in debug builds, nothing in release. Define it before the
/// first include to route failures elsewhere.
#ifndef ROPEWALK_EXPECT
#define ROPEWALK_EXPECT(condition) assert(condition)
#endif

namespace ROPEWALK_VIEW_NAMESPACE {

/// Thrown by cold calls only. The text reads `function: parameter must ..., got value`. With
/// -fno-exceptions the same text goes to stderr and the program aborts.
/// Source: design of this library.
class invalid_config : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

[[noreturn]] inline void fail(const std::string& message) {
#if defined(__cpp_exceptions)
    throw invalid_config(message);
#else
    std::fprintf(stderr, "ropewalk: %s\n", message.c_str());
    std::abort();
#endif
}

template <class V>
std::string text(const V& value) {
    if constexpr (std::is_same_v<V, bool>) {
        return value ? "true" : "false";
    } else if constexpr (std::is_floating_point_v<V>) {
        char buffer[40];
        // Few enough digits that 0.1 is not 0.10000000000000001, enough that it reads back the same.
        for (int digits = 15; digits <= 17; ++digits) {
            std::snprintf(buffer, sizeof buffer, "%.*g", digits, static_cast<double>(value));
            if (std::strtod(buffer, nullptr) == static_cast<double>(value)) break;
        }
        return buffer;
    } else if constexpr (std::is_arithmetic_v<V>) {
        return std::to_string(value);
    } else {
        return std::string(value);
    }
}

/// The one check of cold calls: `require(factor > 0, "yarn", "factor must be > 0", factor)`.
template <class V>
void require(bool holds, const char* function, const char* parameter_must, const V& got) {
    if (!holds) fail(std::string(function) + ": " + parameter_must + ", got " + text(got));
}

}  // namespace ROPEWALK_NAMESPACE::detail
