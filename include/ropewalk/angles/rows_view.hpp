// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <concepts>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

namespace detail {

/// Which table row each token of a call reads.
struct row_indices {
    // `long` and `long long` are two types of one size: the numbers are read as whatever the caller calls
    // them.
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

/// In place of a number of pairs: rows that serve any (uniform rows).
inline constexpr index any_pairs = -1;

/// Which tokens the rows of a call belong to: [batches, tokens], or the tokens of all batches one behind the
/// other (batches = 1), and their slices. Every row source has these members.
/// Slices: one outside its rows has -1 tokens, which no call fits (see fit()).
template <class Rows>
struct token_rows {
    index tokens = 0;        ///< tokens of a batch
    index batches = 1;       ///< 1: the tokens are those of all batches of the call
    index batch_stride = 0;  ///< rows from a batch to the next; 0: every batch has the same
    index first_token = 0;   ///< what token 0 of the call is among the tokens of the source

    /// How many tokens have a row.
    constexpr index count() const noexcept { return tokens < 0 || batches < 0 ? -1 : tokens * batches; }
    /// Where the row of a token stands among those of the source; tokens of a call are numbered
    /// b * tokens + n.
    constexpr index ordinal(index token) const noexcept {
        if (batches == 1) return first_token + token;
        return first_token + token / tokens * batch_stride + token % tokens;
    }
    /// The same tokens as batches of equally many, so that both can be sliced.
    constexpr Rows in_batches(index count) const noexcept {
        if (count < 1 || batches != 1 || tokens % count != 0) return outside();
        Rows r = self();
        r.tokens = r.batch_stride = tokens / count;
        r.batches = count;
        return r;
    }
    /// These rows for every one of `count` batches: the positions of one sequence for all of them.
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

/// The cos and sin rows of the tokens of one call, over tables and indices that somebody else owns.
/// Shapes:   cos and sin [table_rows, heads or 1, pairs]; token (b, n) reads row(b * tokens + n).
///           A negative row means the token is not touched.
/// Requires: every row is below table_rows; the tables outlive the call. The tables' rows() check that; a
///           call that meets another row leaves its token alone and is a misfit.
template <class C>
struct rows_view : token_rows<rows_view<C>> {
    using element = C;  ///< what cos and sin are stored in

    const C* cos = nullptr;
    const C* sin = nullptr;
    index table_rows = 0;
    index heads = 1;
    index pairs = 0;
    index row_stride = 0;
    index head_stride = 0;
    detail::row_indices indices;  ///< default: row = token ordinal
    double magnitude = 1;         ///< already inside cos and sin

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
    constexpr const C* cos_at(index row, index head) const noexcept {
        return cos + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    constexpr const C* sin_at(index row, index head) const noexcept {
        return sin + row * row_stride + (heads == 1 ? 0 : head * head_stride);
    }
    /// Rows of heads first, first + step, ...: `count` of them. Rows that all heads share stay as they are.
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

/// `tokens` rows without pairs: append then copies the keys as they are (a layer without RoPE).
template <class C>
constexpr rows_view<C> copy_rows(index tokens) noexcept {
    rows_view<C> v;
    v.tokens = v.table_rows = tokens;
    return v;
}

/// What the verbs take as rows: tokens, heads (1: all heads share a row), pairs and slices. rows_view,
/// factored_rows_view, uniform_rows_view and what rows_on_the_fly returns are row sources.
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

/// The 2 x 2 matrices of the tokens of one call: (x, y) <- (a x + b y, c x + d y) pair by pair.
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
    detail::row_indices indices;    ///< which row each token reads
    bool scaled_rotations = false;  ///< every b is -c and every d is a, bit for bit: b and d go unread

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE
