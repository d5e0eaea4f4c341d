// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Counts and strides, in elements. Signed, so that a stride may run backwards. Where <strings.h> has declared
/// POSIX's function of that name too, a program that says `using namespace ropewalk` writes ropewalk::index.
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

/// 2^bits, and less where an index has fewer bits than 64: a limit that keeps sums of a few such numbers from
/// overflowing.
constexpr index limit_of_bits(int bits) noexcept {
    constexpr int most = std::numeric_limits<index>::digits - 3;
    return index{1} << (bits < most ? bits : most);
}
/// The largest of two factors whose product, a few times over, is still an index.
inline constexpr index factor_limit = index{1} << (std::numeric_limits<index>::digits - 3) / 2;

// limit_of_bits(53), limit_of_bits(60) and factor_limit in the texts of refusals.
#if PTRDIFF_MAX > 0x7fffffff
#define ROPEWALK_DETAIL_LIMIT_53 "2^53"
#define ROPEWALK_DETAIL_LIMIT_60 "2^60"
#define ROPEWALK_DETAIL_FACTOR_LIMIT "2^30"
static_assert(limit_of_bits(60) == index{1} << 60 && factor_limit == index{1} << 30);
#else
#define ROPEWALK_DETAIL_LIMIT_53 "2^28"
#define ROPEWALK_DETAIL_LIMIT_60 "2^28"
#define ROPEWALK_DETAIL_FACTOR_LIMIT "2^14"
static_assert(limit_of_bits(53) == index{1} << 28 && factor_limit == index{1} << 14);
#endif

/// A count of 64 bits as an index: of one that does not fit the largest, which no limit lets pass.
constexpr index saturated(std::int64_t count) noexcept {
    constexpr std::int64_t most = std::numeric_limits<index>::max();
    return static_cast<index>(count < -most ? -most : count > most ? most : count);
}

/// Room for `more` elements behind those of a vector, at least doubling: afterwards they can be added without
/// a failure, and one by one in constant time.
template <class Vector>
void make_room(Vector& v, std::size_t more) {
    if (v.capacity() - v.size() < more) v.reserve(v.size() + (v.size() < more ? more : v.size()));
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
