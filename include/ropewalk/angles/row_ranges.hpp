// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <concepts>
#include <cstdio>
#include <iterator>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include <ropewalk/angles/rows_view.hpp>

/// What a table's rows() takes: a caller's array of row numbers or positions, read where it stands.

// Where the compiler can say that a view outlives what it looks at, it is told what the view looks at: tables,
// not ranges, because a span that dies leaves its numbers where they are, and what owns them is refused.
#if defined(__clang__) && defined(__has_cpp_attribute)
#if __has_cpp_attribute(clang::lifetimebound)
#define ROPEWALK_LIFETIMEBOUND [[clang::lifetimebound]]
#endif
#endif
#ifndef ROPEWALK_LIFETIMEBOUND
#define ROPEWALK_LIFETIMEBOUND
#endif

namespace ROPEWALK_VIEW_NAMESPACE {

/// What a contiguous range holds. (By std::data: the header ranges alone takes a tenth of the time that xsimd takes.)
template <class R>
using range_element_t =
    std::remove_cvref_t<decltype(*std::data(std::declval<std::remove_reference_t<R>&>()))>;
/// A contiguous range that knows its size: std::vector, std::array, std::span ...
template <class R>
concept contiguous_numbers = requires(std::remove_reference_t<R>& range) {
    std::data(range);
    std::size(range);
};
/// One that does not die with the expression it stands in: rows refer to the caller's numbers.
template <class R>
concept lasting_numbers = contiguous_numbers<R> &&
    (std::is_lvalue_reference_v<R> || std::ranges::enable_borrowed_range<std::remove_cvref_t<R>>);
/// Of 32-bit or 64-bit integers, signed or not.
template <class R>
concept integer_range = contiguous_numbers<R> && std::integral<range_element_t<R>> &&
    (sizeof(range_element_t<R>) == 4 || sizeof(range_element_t<R>) == 8);
template <class R>
concept lasting_integer_range = integer_range<R> && lasting_numbers<R>;
/// What rows() of a growing table takes: such a range, or one integer. A variable, not a concept: of a call
/// that is refused compilers would print every clause of a concept, once an overload.
template <class R>
inline constexpr bool chooses_rows = std::integral<std::remove_cvref_t<R>> || lasting_integer_range<R>;

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE::detail {

/// The largest row or position of a range, -1 of an empty one. Untouched rows (-1) pass.
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

/// A range that require_rows has let pass, as kernels read it.
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

/// The rows of a checked range among those of a table.
template <class Rows, class R>
Rows with_rows(const char* function, Rows v, const R& row_of_token) {
    require_rows(function, row_of_token, v.table_rows);
    v.tokens = static_cast<index>(std::size(row_of_token));
    v.indices = indices_of(row_of_token);
    return v;
}

}  // namespace ROPEWALK_NAMESPACE::detail
