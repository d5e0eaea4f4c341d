// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The signed type of counts and strides, the row number of untouched tokens, and checked sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include <ropewalk/core/contract.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// Counts and strides, in elements. Signed, so that a stride may be negative. Where <strings.h> declares the
/// POSIX function index, a program with `using namespace ropewalk` must write ropewalk::index.
using index = std::ptrdiff_t;

/// The row number of a token that is neither read nor written (class and register tokens, padding, text
/// beside an image). Kernels treat every negative row the same way.
inline constexpr std::int32_t untouched_row = -1;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// The largest of several counts. Not std::max of a list: a dispatch unit could export that instantiation to
/// the whole program.
template <class... Rest>
constexpr index largest(index first, Rest... rest) noexcept {
    ((first = first < rest ? rest : first), ...);
    return first;
}

/// 2^bits, or less where an index has fewer than 64 bits: a limit small enough that a sum of a few such
/// numbers cannot overflow.
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

/// A 64-bit count as an index. A count that does not fit becomes the largest index, which every limit
/// refuses.
constexpr index saturated(std::int64_t count) noexcept {
    constexpr std::int64_t most = std::numeric_limits<index>::max();
    return static_cast<index>(count < -most ? -most : count > most ? most : count);
}

/// The length of a step of either sign. That of the smallest index is the largest index, its own not being one.
constexpr index magnitude(index stride) noexcept {
    constexpr index most = std::numeric_limits<index>::max();
    return stride >= 0 ? stride : stride < -most ? most : -stride;
}

/// Reserves room for `more` elements after those of a vector, at least doubling its capacity when it must
/// grow. Afterwards adding them cannot fail, and adding one by one takes amortised constant time.
template <class Vector>
void make_room(Vector& v, std::size_t more) {
    if (v.capacity() - v.size() < more) v.reserve(v.size() + (v.size() < more ? more : v.size()));
}

/// "[2, 3]" of the extents of a view or matrix.
ROPEWALK_DETAIL_COLD inline std::string extents_text(std::initializer_list<index> extents) {
    std::string out;
    for (index n : extents) {
        out += out.empty() ? "[" : ", ";
        out += number_text(printable(n));
    }
    out += "]";
    return out;
}
/// As require_equal, of the rows and columns of a matrix.
template <class M>
void require_shape(const char* function, const char* parameter_must, index rows, index columns, const M& m) {
    if (m.rows() != rows || m.cols() != columns)
        refuse(function, parameter_must, extents_text({rows, columns}).c_str(),
               extents_text({m.rows(), m.cols()}).c_str());
}

/// The product of counts. Refuses overflow, as from table sizes in a hostile config.
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
