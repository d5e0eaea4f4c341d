// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Views of cos and sin rows for the tokens of one call, and the concept of a row source.
#pragma once

#include <concepts>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

namespace detail {

/// The table row of each token of a call.
struct row_indices {
    // `long` and `long long` may be two types of the same size: the numbers are read as the type that the
    // caller used.
#if defined(__GNUC__) || defined(__clang__)
    typedef std::int32_t narrow_type __attribute__((may_alias));
    typedef std::int64_t wide_type __attribute__((may_alias));
    typedef std::uint32_t unsigned_type __attribute__((may_alias));
#else
    using narrow_type = std::int32_t;
    using wide_type = std::int64_t;
    using unsigned_type = std::uint32_t;
#endif
    const narrow_type* narrow = nullptr;
    const wide_type* wide = nullptr;
    const unsigned_type* unsigned_narrow = nullptr;  // all null: row = token ordinal

    constexpr index operator[](index token) const noexcept {
        if (narrow) return narrow[token];
        if (wide) return static_cast<index>(wide[token]);
        return unsigned_narrow ? static_cast<index>(unsigned_narrow[token]) : token;
    }
};

}  // namespace detail

/// The number of pairs of rows that fit any number of pairs (uniform rows).
inline constexpr index any_pairs = -1;

/// The tokens that the rows of a call belong to: [batches, tokens], or the tokens of all batches
/// consecutively (batches = 1), and slices of them. Every row source has these members.
/// Slices: a slice outside its rows has -1 tokens, which fit no call (see fit()).
template <class Rows>
struct token_rows {
    index tokens = 0;        ///< tokens of one batch
    index batches = 1;       ///< 1: the tokens are those of all batches of the call
    index batch_stride = 0;  ///< rows from one batch to the next; 0: all batches use the same rows
    index first_token = 0;   ///< the token of the source that token 0 of the call reads

    /// The number of tokens that have a row; -1 for a slice outside its rows.
    constexpr index count() const noexcept { return tokens < 0 || batches < 0 ? -1 : tokens * batches; }
    /// The index of the row of a token among the rows of the source; the tokens of a call are numbered b *
    /// tokens + n.
    constexpr index ordinal(index token) const noexcept {
        if (batches == 1) return first_token + token;
        return first_token + token / tokens * batch_stride + token % tokens;
    }
    /// The same tokens as `count` batches of equal size, so that batches and tokens can be sliced.
    constexpr Rows in_batches(index count) const noexcept {
        if (count < 1 || batches != 1 || tokens % count != 0) return outside();
        Rows r = self();
        r.tokens = r.batch_stride = tokens / count;
        r.batches = count;
        return r;
    }
    /// These rows for each of `count` batches: all batches have the positions of one sequence.
    constexpr Rows repeated(index count) const noexcept {
        if (count < 0 || batches != 1) return outside();
        Rows r = self();
        r.batches = count;
        r.batch_stride = 0;
        return r;
    }
    /// Rows of tokens [first, first + count) of every batch: one prefill chunk.
    constexpr Rows token_slice(index first, index count) const noexcept {
        if (first < 0 || count < 0 || first > tokens || count > tokens - first) return outside();
        Rows r = self();
        r.first_token += first;
        r.tokens = count;
        return r;
    }
    /// Rows of batches [first, first + count).
    constexpr Rows batch_slice(index first, index count) const noexcept {
        if (first < 0 || count < 0 || first > batches || count > batches - first) return outside();
        Rows r = self();
        r.first_token += first * batch_stride;
        r.batches = count;
        return r;
    }

  private:
    constexpr const Rows& self() const noexcept { return static_cast<const Rows&>(*this); }
    constexpr Rows outside() const noexcept {
        Rows r = self();
        r.tokens = -1;
        return r;
    }
};

/// The cos and sin rows of the tokens of one call, over tables and indices that the view does not own.
/// Shapes:   cos and sin [table_rows, heads or 1, pairs]; token (b, n) reads row(b * tokens + n). A negative
///           row means that the token is not touched.
/// Requires: every row is below table_rows; the tables outlive the call. rows() of the tables checks the
///           rows. A call that finds a row out of range leaves that token untouched and reports a misfit.
template <class C>
struct rows_view : token_rows<rows_view<C>> {
    using element = C;  ///< type of cos and sin

    const C* cos = nullptr;
    const C* sin = nullptr;
    index table_rows = 0;
    index heads = 1;
    index pairs = 0;
    index row_stride = 0;
    index head_stride = 0;
    detail::row_indices indices;  ///< default: row = token ordinal
    double magnitude = 1;         ///< cos and sin are already multiplied by it

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
    constexpr const C* cos_at(index row, index head) const noexcept {
        return cos + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    constexpr const C* sin_at(index row, index head) const noexcept {
        return sin + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    /// Rows of `count` heads: first, first + step, .... Rows that all heads share do not change.
    constexpr rows_view head_slice(index first, index count, index step = 1) const noexcept {
        if (heads == 1) return *this;
        rows_view v = *this;
        if (first < 0 || count < 0 || step < 1 || first > heads ||
            (count > 0 && (first == heads || count - 1 > (heads - 1 - first) / step))) {
            v.tokens = -1;
            return v;
        }
        v.cos += first * head_stride;
        v.sin += first * head_stride;
        v.head_stride = step * head_stride;
        v.heads = count;
        return v;
    }
};

/// `tokens` rows without pairs: append then copies keys unchanged (a layer without RoPE).
template <class C>
constexpr rows_view<C> copy_rows(index tokens) noexcept {
    rows_view<C> v;
    v.tokens = v.table_rows = tokens;
    return v;
}

/// What the kernels accept as rows: it has tokens, heads (1: all heads share a row), pairs and slices.
/// rows_view, factored_rows_view, uniform_rows_view and the result of rows_on_the_fly are row sources.
template <class R>
concept row_source = requires(const R rows) {
    typename R::element;
    { rows.count() } -> std::same_as<index>;
    { rows.ordinal(index{}) } -> std::same_as<index>;
    { rows.heads + rows.pairs + rows.tokens + rows.batches } -> std::same_as<index>;
    { rows.token_slice(index{}, index{}) } -> std::same_as<R>;
    { rows.batch_slice(index{}, index{}) } -> std::same_as<R>;
    { rows.head_slice(index{}, index{}) } -> std::same_as<R>;
    { rows.repeated(index{}) } -> std::same_as<R>;
};

/// The 2 x 2 matrices of the tokens of one call: (x, y) <- (a x + b y, c x + d y), pair by pair.
/// Shapes:   a, b, c, d [table_rows, pairs] with one row stride.
/// Source:   RoAd, Liao and Monz 2024; full-width cos and sin of rotate_half.
template <class C>
struct matrix_rows_view : token_rows<matrix_rows_view<C>> {
    const C* a = nullptr;  ///< factor of x in the new x
    const C* b = nullptr;  ///< factor of y in the new x
    const C* c = nullptr;  ///< factor of x in the new y
    const C* d = nullptr;  ///< factor of y in the new y
    index table_rows = 0;
    index pairs = 0;
    index row_stride = 0;
    detail::row_indices indices;  ///< the row of each token
    bool scaled_rotations =
        false;  ///< every b is -c and every d is a, bit for bit; b and d are then not read

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE
