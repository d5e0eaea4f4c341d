// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The cos and sin cache of an inference engine: row = position, growing on demand.
#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// Options of a position_table, and of each table of a table_set.
struct position_table_options {
    /// The most rows the table may grow to; 0: 2^20, or the initial rows if there are more.
    index max_rows = 0;
    angle_arithmetic arithmetic = angle_arithmetic::exact;  ///< how angles are formed
};

namespace detail {
inline constexpr index default_max_rows = index{1} << 20;
}

/// The cos and sin cache of an engine: row = position, from 0, for a spectrum of one axis. Position -1 is a
/// token that is neither read nor written; to move keys by negative distances use make_shift_table.
/// Throws:   invalid_config on a spectrum of several axes, a position below -1, or one of max_rows or more.
/// Cost:     8 bytes per pair and row (float). The table at least doubles when it grows, up to max_rows. Old
///           blocks are kept, so views stay valid as long as the table lives. Call reserve() to grow before
///           the hot loop.
/// Requires: rows() of a table that may grow is not called from two threads at once. rows() of a const table
///           never grows, and existing views may be used from any thread.
/// Accuracy: as make_rotation_table, at every position.
/// Source:   RoFormer, Su et al. 2021; the cos_cached and sin_cached of engines.
///
///     position_table table(rope.spectrum_for(8192), 8192);
///     rotate(rope, q, k, table.rows(positions));
template <class T = float>
class position_table {
  public:
    explicit position_table(spectrum s, index rows, position_table_options options = {})
        : spectrum_(std::move(s)), arithmetic_(options.arithmetic) {
        detail::require(spectrum_.axes() == 1, who,
                        "spectrum must have one axis (of several: make_rotation_table)", spectrum_.axes());
        detail::require(rows >= 0, who, "rows must be >= 0", rows);
        detail::require(options.max_rows >= 0, who, "max_rows must be >= 0", options.max_rows);
        max_rows_ = options.max_rows != 0 ? options.max_rows : std::max(rows, detail::default_max_rows);
        detail::require(rows <= max_rows_, who, "rows must be at most max_rows", rows);
        extend(rows);
    }

    template <class Scheme, class = std::enable_if_t<!std::convertible_to<const Scheme&, spectrum>>>
    position_table(const Scheme&, index) = delete;  // of a scheme: make_position_table(scheme, rows)

    /// The rows of these positions, checked once per step: any contiguous range of 32-bit or 64-bit integers,
    /// or a single integer. The view refers to the table and to the range, which must outlive it.
    template <class R>
    requires chooses_rows<R>
    [[nodiscard]] rows_view<T> rows(R&& positions) & ROPEWALK_LIFETIMEBOUND {
        if constexpr (std::integral<std::remove_cvref_t<R>>)
            reserve(detail::require_rows(who, std::span(&positions, 1), max_rows_) + 1);
        else
            reserve(detail::require_rows(who, positions, max_rows_) + 1);
        return table().rows(positions);
    }
    /// The same for a table that must not grow.
    /// Throws: invalid_config on a position that has no row yet.
    template <class R>
    requires chooses_rows<R>
    [[nodiscard]] rows_view<T> rows(R&& positions) const& ROPEWALK_LIFETIMEBOUND {
        return table().rows(positions);
    }
    /// Refuses a temporary range of positions or a temporary table: the view would refer to memory that is
    /// gone.
    template <class R, std::enable_if_t<integer_range<R> && !chooses_rows<R>, int> = 0>
    rows_view<T> rows(R&&) const& = delete;  // a temporary range: name it
    template <class R>
    rows_view<T> rows(R&&) const&& = delete;  // the table is a temporary: name it
    template <class R, std::enable_if_t<!integer_range<R> && !chooses_rows<R>, int> = 0>
    rows_view<T> rows(R&&) const& = delete;  // integers of 32 or 64 bits; fractions: make_rotation_table

    /// Rows of positions first, first + 1, ..., without an array of them.
    /// Throws: invalid_config on a position past max_rows.
    [[nodiscard]] rows_view<T> rows_from(index first, index tokens) & ROPEWALK_LIFETIMEBOUND {
        detail::require(first >= 0 && first <= max_rows_, who, "first must be below max_rows", first);
        detail::require(tokens >= 0 && tokens <= max_rows_ - first, who,
                        "positions must be below max_rows, tokens", tokens);
        reserve(first + tokens);
        return table().rows_from(first, tokens);
    }
    [[nodiscard]] rows_view<T> rows_from(index first, index tokens) const& ROPEWALK_LIFETIMEBOUND {
        return table().rows_from(first, tokens);
    }
    rows_view<T> rows_from(index, index) const&& = delete;  // the table is a temporary: name it

    /// Makes at least the first `rows` rows, so that later calls for these positions make none.
    /// Throws: invalid_config past max_rows.
    void reserve(index rows) {
        detail::require(rows <= max_rows_, who, "rows must be at most max_rows", rows);
        if (rows > row_count()) extend(std::min(max_rows_, std::max(rows, 2 * row_count())));
    }

    index row_count() const noexcept { return blocks_.back()->row_count(); }
    /// The most rows the table may grow to.
    index max_rows() const noexcept { return max_rows_; }
    index pairs() const noexcept { return spectrum_.pairs(); }
    const spectrum& frequencies() const noexcept { return spectrum_; }
    /// All rows that exist so far.
    const rotation_table<T>& table() const noexcept ROPEWALK_LIFETIMEBOUND { return *blocks_.back(); }

  private:
    static constexpr const char* who = "position_table";

    void extend(index rows) {
        auto next = std::make_unique<rotation_table<T>>(rows, spectrum_.heads(), spectrum_.pairs(),
                                                        spectrum_.magnitude());
        const index known = blocks_.empty() ? 0 : row_count();
        detail::row_filler<T> filler(spectrum_, arithmetic_);
        for (index r = 0; r < rows; ++r)
            for (index h = 0; h < spectrum_.heads(); ++h) {
                if (r < known) {
                    std::ranges::copy(table().cos_row(r, h), next->cos_data(r, h));
                    std::ranges::copy(table().sin_row(r, h), next->sin_data(r, h));
                } else {
                    filler.fill(detail::one_axis{static_cast<double>(r)}, h, next->cos_data(r, h),
                                next->sin_data(r, h));
                }
            }
        blocks_.push_back(std::move(next));
    }

    spectrum spectrum_;
    angle_arithmetic arithmetic_;
    index max_rows_ = 0;
    std::vector<std::unique_ptr<rotation_table<T>>> blocks_;
};

}  // namespace ROPEWALK_NAMESPACE
