// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// How kernels read a row source: a cursor returns rows, and a row loads registers of cos and sin.
// A cursor is created once per call. For a new row source, specialise row_cursor.
#pragma once

#include <utility>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/angles/uniform_table.hpp>
#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/simd_storage.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// A row in memory.
template <class C>
struct row_in_memory {
    using element = C;
    const C* cos = nullptr;
    const C* sin = nullptr;

    explicit operator bool() const noexcept { return cos != nullptr; }  // null: the token is not touched
    row_in_memory from(index pair) const noexcept { return {cos + pair, sin + pair}; }
    ROPEWALK_ALWAYS_INLINE void load(index i, simd::pack<C>& c, simd::pack<C>& s) const noexcept {
        c = simd::load(cos + i);
        s = simd::load(sin + i);
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index count, simd::pack<C>& c,
                                          simd::pack<C>& s) const noexcept {
        c = simd::load_some(cos + i, count);
        s = simd::load_some(sin + i, count);
    }
};

/// One cos and one sin for all pairs.
template <class C>
struct uniform_row {
    using element = C;
    C cos = 1;
    C sin = 0;
    bool touched = false;

    explicit operator bool() const noexcept { return touched; }
    uniform_row from(index) const noexcept { return *this; }
    ROPEWALK_ALWAYS_INLINE void load(index, simd::pack<C>& c, simd::pack<C>& s) const noexcept {
        c = simd::broadcast(cos);
        s = simd::broadcast(sin);
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index, simd::pack<C>& c, simd::pack<C>& s) const noexcept {
        load(i, c, s);
    }
};

/// Forward; the transpose, which is the gradient; the inverse, which also divides by the squared magnitude.
enum class direction : std::uint8_t { forward, transpose, inverse };

/// A row for the direction of the call. The inverse is computed for each pair from its entries, (c, -s) /
/// (c^2 + s^2), so rows whose magnitude differs from token to token are inverted correctly. The direction is
/// a run-time switch: a row is loaded once for all heads of a token, and three kernels would be three times
/// the code.
template <class Row>
struct directed_row {
    using element = typename Row::element;
    using pack = simd::pack<element>;
    Row row;
    direction way;

    directed_row from(index pair) const noexcept { return {row.from(pair), way}; }
    ROPEWALK_ALWAYS_INLINE void load(index i, pack& c, pack& s) const noexcept {
        row.load(i, c, s);
        if (way != direction::forward) reverse(c, s);
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index count, pack& c, pack& s) const noexcept {
        row.load_some(i, count, c, s);
        if (way != direction::forward) reverse(c, s);
    }

  private:
    void reverse(pack& c, pack& s) const noexcept {
        if (way == direction::inverse) {
            const pack scale = simd::broadcast(element(1)) / simd::fma(c, c, s * s);
            c = c * scale;
            s = s * scale;
        }
        s = -s;
    }
};

/// Reads one row source for data whose arithmetic runs in C. It refers to the rows instead of copying them:
/// copying the view in every call costs tens of cycles, because stores of words are read back as registers.
/// Members: heads (1: all heads share a row), missing (a row that a token asked for and the table does not
/// have, or -1), expect(token), row_of(token, head), touches(token): whether the token has a row, without
/// making it.
template <class Rows, class C>
class row_cursor {
    static_assert(sizeof(Rows) == 0,
                  "ropewalk: no kernel is included for these rows: for those of a factored_table include "
                  "<ropewalk/kernels/rows_from_factors.hpp>; for your own specialise row_cursor");

  public:
    index heads = 1, missing = -1;
    explicit row_cursor(const Rows&) noexcept;
    void expect(index) const noexcept;
    row_in_memory<C> row_of(index, index) noexcept;
    bool touches(index) const noexcept;
};

template <class C>
class row_cursor<rows_view<C>, C> {
  public:
    index heads;
    index missing = -1;

    explicit row_cursor(const rows_view<C>& rows) noexcept : heads(rows.heads), rows_(rows) {}
    /// Prefetches the row of a token: positions come in any order, so hardware prefetchers cannot predict it.
    void expect(index token) const noexcept {
        const index r = rows_.row(token);
        if (r < 0 || r >= rows_.table_rows) return;
        constexpr index line = 64 / static_cast<index>(sizeof(C));
        for (index i = 0; i < rows_.pairs; i += line) {
            simd::prefetch_read(rows_.cos_at(r, 0) + i);
            simd::prefetch_read(rows_.sin_at(r, 0) + i);
        }
    }
    row_in_memory<C> row_of(index token, index head) noexcept {
        const index r = rows_.row(token);
        if (r < 0) return {};
        if (r >= rows_.table_rows) {
            missing = r;
            return {};
        }
        return {rows_.cos_at(r, head), rows_.sin_at(r, head)};
    }
    bool touches(index token) noexcept { return static_cast<bool>(row_of(token, 0)); }

  private:
    const rows_view<C>& rows_;
};

template <class C>
class row_cursor<uniform_rows_view<C>, C> {
  public:
    static constexpr index heads = 1;
    index missing = -1;

    explicit row_cursor(const uniform_rows_view<C>& rows) noexcept : rows_(rows) {}
    void expect(index) const noexcept {}
    uniform_row<C> row_of(index token, index) noexcept {
        const index r = rows_.row(token);
        if (r < 0) return {};
        if (r >= rows_.table_rows) {
            missing = r;
            return {};
        }
        return {rows_.cos[r], rows_.sin[r], true};
    }
    bool touches(index token) noexcept { return static_cast<bool>(row_of(token, 0)); }

  private:
    const uniform_rows_view<C>& rows_;
};

/// What is said of a token whose row the table does not have: wanted is the last row.
inline constexpr const char* missing_row_text =
    "row index of a token must be at most the last row of the table";
template <class R>
misfit missing_row(const R& rows, index row) noexcept {
    if constexpr (requires { rows.table_rows; }) {
        return {missing_row_text, rows.table_rows - 1, row};
    } else {
        return {missing_row_text, rows.count() - 1, row};
    }
}

/// The rows of a call: a row source as it is, or all rows of a table.
template <class R>
decltype(auto) rows_of(const R& rows) noexcept {
    if constexpr (row_source<R>) {
        return (rows);
    } else if constexpr (requires {
                             {rows.rows()};
                             requires row_source<std::remove_cvref_t<decltype(rows.rows())>>;
                         }) {
        return rows.rows();
    } else {
        return nullptr;
    }
}
template <class R>
using rows_of_t = std::remove_cvref_t<decltype(rows_of(std::declval<const R&>()))>;

/// The element type of a source that makes its rows in the type that the data need.
struct any_element {};

template <class Rows, class C>
inline constexpr bool serves =
    std::is_same_v<typename Rows::element, C> || std::is_same_v<typename Rows::element, any_element>;

}  // namespace ROPEWALK_NAMESPACE::detail
