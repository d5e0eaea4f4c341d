// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

namespace detail {

/// Which table row each token of a call reads.
struct row_indices {
    const std::int32_t* narrow = nullptr;
    const std::int64_t* wide = nullptr;  // both null: row = token ordinal

    constexpr index operator[](index token) const noexcept {
        if (narrow) return narrow[token];
        return wide ? static_cast<index>(wide[token]) : token;
    }
    /// The row of a token in a table of table_rows rows; one the table does not have counts as untouched.
    constexpr index row_below(index table_rows, index token) const noexcept {
        const index row = (*this)[token];
        ROPEWALK_EXPECT(row < table_rows);
        return row < table_rows ? row : untouched_row;
    }
};

}  // namespace detail

/// The cos and sin rows of the tokens of one call, over tables and indices that somebody else owns.
/// Shapes:   cos and sin [table_rows, heads or 1, pairs]; token (b, n) reads row(b * tokens + n).
///           A negative row means the token is not touched.
/// Requires: every row is below table_rows; the tables outlive the call. The tables' rows() check that.
/// Source:   design of this library.
template <class C>
struct rows_view {
    const C* cos = nullptr;
    const C* sin = nullptr;
    index table_rows = 0;
    index heads = 1;
    index pairs = 0;
    index row_stride = 0;
    index head_stride = 0;
    index tokens = 0;             ///< how many tokens (batches * tokens) have a row
    detail::row_indices indices;  ///< default: row = token ordinal
    double magnitude = 1;         ///< already inside cos and sin; unrotate needs it

    /// The row of a token; negative: the token is not touched. So is one whose row the table does not have
    /// (an assertion in debug).
    constexpr index row(index token) const noexcept { return indices.row_below(table_rows, token); }
    constexpr const C* cos_at(index row, index head) const noexcept {
        return cos + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    constexpr const C* sin_at(index row, index head) const noexcept {
        return sin + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    /// Rows of tokens [first, first + count).
    constexpr rows_view token_slice(index first, index count) const noexcept {
        ROPEWALK_EXPECT(first >= 0 && count >= 0 && first + count <= tokens);
        rows_view v = *this;
        v.tokens = count;
        if (indices.narrow) {
            v.indices.narrow += first;
        } else if (indices.wide) {
            v.indices.wide += first;
        } else {
            v.cos += first * row_stride;
            v.sin += first * row_stride;
            v.table_rows -= first;
        }
        return v;
    }
};

/// The 2 x 2 matrices of the tokens of one call: (x, y) <- (a x + b y, c x + d y) pair by pair.
/// Shapes:   a, b, c, d [table_rows, pairs] with one row stride.
/// Source:   design of this library (RoAd; full-width cos/sin of rotate_half).
template <class C>
struct matrix_rows_view {
    const C* a = nullptr;  ///< factor of x in the new x
    const C* b = nullptr;  ///< factor of y in the new x
    const C* c = nullptr;  ///< factor of x in the new y
    const C* d = nullptr;  ///< factor of y in the new y
    index table_rows = 0;
    index pairs = 0;
    index row_stride = 0;
    index tokens = 0;
    detail::row_indices indices;    ///< which row each token reads
    bool scaled_rotations = false;  ///< every b is -c and every d is a, bit for bit: b and d go unread

    constexpr index row(index token) const noexcept { return indices.row_below(table_rows, token); }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE
