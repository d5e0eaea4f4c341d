// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// The text of a refused call, to check that an error names its parameter and the value.

#include <limits>
#include <string>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>

namespace support {

/// 2^bits, or the largest power of two that an index holds: a number no size should be.
constexpr ropewalk::index huge(int bits) {
    constexpr int most = std::numeric_limits<ropewalk::index>::digits - 1;
    return ropewalk::index{1} << (bits < most ? bits : most);
}
/// The largest index in a refusal's text.
inline std::string largest_index() { return std::to_string(std::numeric_limits<ropewalk::index>::max()); }

/// 2^53 or 2^60 as a refusal names it: what an index of 32 bits leaves of either is 2^28.
inline std::string limit(int bits) { return "2^" + std::to_string(sizeof(ropewalk::index) > 4 ? bits : 28); }

/// The message of the invalid_config that `call` throws; empty when it throws none (or, without
/// exceptions, could not).
template <class Call>
std::string refusal([[maybe_unused]] Call call) {
#if defined(__cpp_exceptions)
    try {
        call();
    } catch (const ropewalk::invalid_config& e) {
        return e.what();
    }
#endif
    return {};
}

}  // namespace support

/// The call must throw exactly this text.
#if defined(__cpp_exceptions)
#define CHECK_REFUSES(text, ...) CHECK(support::refusal([&] { static_cast<void>(__VA_ARGS__); }) == (text))
#else
#define CHECK_REFUSES(text, ...) static_cast<void>(0)
#endif
