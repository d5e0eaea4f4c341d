// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// What the rows() of a table accepts: ranges of row numbers or positions, used without copying them.
#pragma once

#include <concepts>
#include <cstdio>
#include <iterator>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include <ropewalk/angles/rows_view.hpp>

// Where the compiler can diagnose a view that outlives the object it refers to, this declares what a view
// refers to: tables, not ranges. A span may be destroyed while its numbers live on, and temporary ranges that
// own their numbers are refused anyway.
#if defined(__clang__) && defined(__has_cpp_attribute)
#if __has_cpp_attribute(clang::lifetimebound)
#define ROPEWALK_LIFETIMEBOUND [[clang::lifetimebound]]
#endif
#endif
#ifndef ROPEWALK_LIFETIMEBOUND
#define ROPEWALK_LIFETIMEBOUND
#endif

namespace ROPEWALK_VIEW_NAMESPACE {

/// The element type of a contiguous range. (By std::data: the standard header ranges takes a tenth of the
/// compile time of xsimd.)
template <class R>
using range_element_t =
    std::remove_cvref_t<decltype(*std::data(std::declval<std::remove_reference_t<R>&>()))>;
/// A contiguous range that knows its size: std::vector, std::array, std::span, and so on.
template <class R>
concept contiguous_numbers = requires(std::remove_reference_t<R>& range) {
    std::data(range);
    std::size(range);
};
/// Such a range that is not a temporary that owns its numbers: views of rows refer to the caller's numbers.
template <class R>
concept lasting_numbers = contiguous_numbers<R> &&
    (std::is_lvalue_reference_v<R> || std::ranges::enable_borrowed_range<std::remove_cvref_t<R>>);
/// Such a range of 32-bit or 64-bit integers, signed or not.
template <class R>
concept integer_range = contiguous_numbers<R> && std::integral<range_element_t<R>> &&
    (sizeof(range_element_t<R>) == 4 || sizeof(range_element_t<R>) == 8);
/// An integer_range that is not a temporary that owns its numbers.
template <class R>
concept lasting_integer_range = integer_range<R> && lasting_numbers<R>;
/// What rows() of a table accepts: such a range, or one integer. A variable instead of a concept: for
/// a refused call, compilers would print every clause of a concept once per overload.
template <class R>
inline constexpr bool chooses_rows = std::integral<std::remove_cvref_t<R>> || lasting_integer_range<R>;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// The largest row or position of a range; -1 if it is empty. Untouched rows (-1) are accepted.
/// Throws: invalid_config on a row below -1 or past limit - 1.
template <class R>
index require_rows(const char* function, const R& rows, index limit) {
    index last = -1;
    for (const auto row : rows) {
        const bool negative =
            std::is_signed_v<std::remove_cvref_t<decltype(row)>> && static_cast<std::int64_t>(row) < 0;
        const bool fits = negative ? static_cast<std::int64_t>(row) == untouched_row
                                   : static_cast<std::uint64_t>(row) < static_cast<std::uint64_t>(limit);
        if (!fits) {
            char must[96];
            std::snprintf(must, sizeof must, "row or position must be -1 (untouched) or below %lld",
                          static_cast<long long>(limit));
            refuse(function, must, printable(row));
        }
        if (!negative && static_cast<index>(row) > last) last = static_cast<index>(row);
    }
    return last;
}

/// The numbers of a range that require_rows has accepted, in the form that kernels read.
template <class R>
row_indices indices_of(const R& rows) noexcept {
    using I = range_element_t<R>;
    const auto* const data = std::data(rows);
    row_indices indices;
    if constexpr (sizeof(I) == 8) {
        indices.wide = reinterpret_cast<const row_indices::wide_type*>(data);
    } else if constexpr (std::is_signed_v<I>) {
        indices.narrow = reinterpret_cast<const row_indices::narrow_type*>(data);
    } else {
        indices.unsigned_narrow = reinterpret_cast<const row_indices::unsigned_type*>(data);
    }
    return indices;
}

/// The rows of a table that a range selects, after a check of the range.
template <class Rows, class R>
Rows with_rows(const char* function, Rows v, const R& row_of_token) {
    require_rows(function, row_of_token, v.table_rows);
    v.tokens = static_cast<index>(std::size(row_of_token));
    v.indices = indices_of(row_of_token);
    return v;
}

}  // namespace ROPEWALK_NAMESPACE::detail
