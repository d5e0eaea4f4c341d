// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Counts and strides, in elements. Signed, so that a stride may run backwards.
/// Source: design of this library.
using index = std::ptrdiff_t;

/// A row number that means: this token is neither read nor written (class and register tokens,
/// padding, text beside an image). Every negative row means the same to a kernel.
inline constexpr std::int32_t untouched_row = -1;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// The largest of some counts. Not std::max of a list, which a dispatch unit could leave as a symbol for all.
template <class... Rest>
constexpr index largest(index first, Rest... rest) noexcept {
    ((first = first < rest ? rest : first), ...);
    return first;
}

/// The product of counts, refused when it would not fit (tables sized by a hostile config).
/// Throws: invalid_config on a negative count or on overflow.
inline index checked_product(const char* function, const char* what, std::initializer_list<index> counts) {
    index product = 1;
    for (index count : counts) {
        require(count >= 0, function, what, count);
        if (count != 0 && product > std::numeric_limits<index>::max() / 16 / count)
            fail(std::string(function) + ": " + what + ", got an overflowing size");
        product *= count;
    }
    return product;
}

}  // namespace ROPEWALK_NAMESPACE::detail
