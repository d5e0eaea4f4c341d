// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Several position tables in one, for batches whose tokens use different spectra.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/angles/position_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// Several one-axis spectra in one batch: a token reads the row (table, position). Examples are requests of
/// one model with different scalings, a base and an extended context in one batch, and LongRoPE's start
/// tokens.
/// Shapes:   every spectrum has one axis and the same heads and pairs; a table has rows 0 .. its count - 1.
/// Throws:   invalid_config on spectra whose sizes differ, a table that does not exist, a position below -1,
///           or one of max_rows or more; std::bad_alloc if it cannot grow. After a failure the set is
///           unchanged.
/// Cost:     2 * sizeof(T) bytes per pair and row of all tables. Growing copies the rows. Old blocks are
///           kept, so views stay valid as long as the set lives.
/// Requires: rows() of a set that may grow is not called from two threads at once. rows() of a const set
///           never grows, and views may be used from any thread at the same time.
/// Accuracy: as make_rotation_table, at every position.
/// Source:   the start tokens of LongRoPE, Ding et al. 2024, section 3.2.
///
///     table_set set({plain, extended}, 4096);
///     std::vector<std::int32_t> row_of_token(positions.size());           // outlives the view
///     rotate(rope, q, k, set.rows(table_of_token, positions, row_of_token));
template <class T = float>
class table_set {
  public:
    /// Every table has `rows` rows at first.
    explicit table_set(std::vector<spectrum> spectra, index rows, position_table_options options = {})
        : table_set(std::move(spectra), std::vector<index>{}, rows, options) {}
    /// Each table has its own number of rows at first.
    table_set(std::vector<spectrum> spectra, const std::vector<index>& rows_of_table,
              position_table_options options = {})
        : table_set(std::move(spectra), rows_of_table, 0, options) {}

    /// The number of tables.
    index tables() const noexcept { return static_cast<index>(spectra_.size()); }
    /// Rows of one of the tables.
    index row_count(index table) const noexcept {
        return first_row_[static_cast<std::size_t>(table) + 1] - first_row_[static_cast<std::size_t>(table)];
    }
    /// The spectrum of one of the tables.
    const spectrum& frequencies(index table) const noexcept {
        return spectra_[static_cast<std::size_t>(table)];
    }

    /// The most rows a table may grow to.
    index max_rows() const noexcept { return max_rows_; }

    /// The rows of these tokens. Their numbers are written to `row_of_token`, which the view refers to and
    /// the caller must keep. -1 as a table or a position leaves a token untouched. If the tables have
    /// different magnitudes, that of the view is NaN.
    rows_view<T> rows(std::span<const std::int32_t> table_of_token, std::span<const std::int32_t> positions,
                      std::span<std::int32_t> row_of_token) & {
        check(table_of_token, positions, row_of_token);
        grow(table_of_token, positions);
        return found(table_of_token, positions, row_of_token);
    }
    rows_view<T> rows(std::span<const std::int32_t> table_of_token, std::span<const std::int64_t> positions,
                      std::span<std::int32_t> row_of_token) & {
        check(table_of_token, positions, row_of_token);
        grow(table_of_token, positions);
        return found(table_of_token, positions, row_of_token);
    }
    /// The same for a set that must not grow.
    /// Throws: invalid_config on a position that has no row yet.
    rows_view<T> rows(std::span<const std::int32_t> table_of_token, std::span<const std::int32_t> positions,
                      std::span<std::int32_t> row_of_token) const& {
        check(table_of_token, positions, row_of_token);
        return found(table_of_token, positions, row_of_token);
    }
    rows_view<T> rows(std::span<const std::int32_t> table_of_token, std::span<const std::int64_t> positions,
                      std::span<std::int32_t> row_of_token) const& {
        check(table_of_token, positions, row_of_token);
        return found(table_of_token, positions, row_of_token);
    }
    template <class... Arguments>
    rows_view<T> rows(Arguments&&...) const&& = delete;  // the table is a temporary: name it

  private:
    static constexpr const char* who = "table_set";
    static constexpr index most_rows = std::numeric_limits<std::int32_t>::max();  // row_of_token is int32

    table_set(std::vector<spectrum> spectra, std::vector<index> counts, index rows,
              const position_table_options& options)
        : spectra_(std::move(spectra)), arithmetic_(options.arithmetic) {
        detail::require(!spectra_.empty(), who, "spectra must not be empty", spectra_.size());
        if (counts.empty()) counts.assign(spectra_.size(), rows);
        detail::require_equal(who, "rows_of_table must have one entry a table", spectra_.size(),
                              counts.size());
        detail::require(options.max_rows >= 0, who, "max_rows must be >= 0", options.max_rows);
        const index largest = *std::ranges::max_element(counts);
        max_rows_ = options.max_rows != 0 ? options.max_rows : std::max(largest, detail::default_max_rows);
        detail::require(largest <= max_rows_, who, "rows must be at most max_rows", largest);
        for (const spectrum& s : spectra_) {
            detail::require(s.axes() == 1, who, "spectra must have one axis", s.axes());
            detail::require_equal(who, "spectra must have the same pairs", spectra_.front().pairs(),
                                  s.pairs());
            detail::require_equal(who, "spectra must have the same heads", spectra_.front().heads(),
                                  s.heads());
            if (s.magnitude() != spectra_.front().magnitude())
                magnitude_ = std::numeric_limits<double>::quiet_NaN();
        }
        if (magnitude_ == 1) magnitude_ = spectra_.front().magnitude();
        first_row_.assign(spectra_.size() + 1, 0);
        extend(counts);
    }

    template <class I>
    void check(std::span<const std::int32_t> table_of_token, std::span<const I> positions,
               std::span<const std::int32_t> row_of_token) const {
        detail::require_equal(who, "table_of_token must have one entry a position", positions.size(),
                              table_of_token.size());
        detail::require_equal(who, "row_of_token must have one entry a position", positions.size(),
                              row_of_token.size());
        for (std::size_t n = 0; n < positions.size(); ++n) {
            detail::require(table_of_token[n] >= -1 && table_of_token[n] < tables(), who,
                            "table must be -1 (untouched) or one of the set", table_of_token[n]);
            detail::require(positions[n] >= -1, who, "position must be >= -1", positions[n]);
        }
    }

    template <class I>
    void grow(std::span<const std::int32_t> table_of_token, std::span<const I> positions) {
        std::vector<index> needed(spectra_.size());
        for (std::size_t n = 0; n < positions.size(); ++n) {
            if (table_of_token[n] < 0 || positions[n] < 0) continue;
            const auto position = static_cast<index>(positions[n]);
            detail::require(position < max_rows_, who, "position must be below max_rows", position);
            auto& count = needed[static_cast<std::size_t>(table_of_token[n])];
            count = std::max(count, position + 1);
        }
        bool grows = false;
        for (std::size_t t = 0; t < needed.size(); ++t) {
            const index have = row_count(static_cast<index>(t));
            const bool more = needed[t] > have;
            needed[t] = more ? std::min(max_rows_, std::max(needed[t], 2 * have)) : have;
            grows = grows || more;
        }
        if (grows) extend(needed);
    }

    template <class I>
    rows_view<T> found(std::span<const std::int32_t> table_of_token, std::span<const I> positions,
                       std::span<std::int32_t> row_of_token) const {
        for (std::size_t n = 0; n < positions.size(); ++n) {
            if (table_of_token[n] < 0 || positions[n] < 0) {
                row_of_token[n] = untouched_row;
                continue;
            }
            const auto table = static_cast<index>(table_of_token[n]),
                       position = static_cast<index>(positions[n]);
            detail::require(position < row_count(table), who, "position must be below the rows of its table",
                            position);
            row_of_token[n] =
                static_cast<std::int32_t>(first_row_[static_cast<std::size_t>(table)] + position);
        }
        const std::span<const std::int32_t> chosen = row_of_token;
        rows_view<T> view = blocks_.back()->rows(chosen);
        view.magnitude = magnitude_;
        return view;
    }

    void extend(const std::vector<index>& counts) {
        std::vector<index> first{0};
        for (index count : counts) {
            detail::require(count >= 0, who, "rows must be >= 0", count);
            detail::require(count <= most_rows - first.back(), who, "rows of all tables must be below 2^31",
                            count);
            first.push_back(first.back() + count);
        }
        const index heads = spectra_.front().heads();
        auto next = std::make_unique<rotation_table<T>>(first.back(), heads, spectra_.front().pairs());
        for (std::size_t t = 0; t < spectra_.size(); ++t) {
            detail::row_filler<T> filler(spectra_[t], arithmetic_);
            const index known = first_row_[t + 1] - first_row_[t];
            for (index r = 0; r < counts[t]; ++r)
                for (index h = 0; h < heads; ++h) {
                    T* cos = next->cos_data(first[t] + r, h);
                    T* sin = next->sin_data(first[t] + r, h);
                    if (r < known) {
                        std::ranges::copy(blocks_.back()->cos_row(first_row_[t] + r, h), cos);
                        std::ranges::copy(blocks_.back()->sin_row(first_row_[t] + r, h), sin);
                    } else {
                        filler.fill(detail::one_axis{static_cast<double>(r)}, h, cos, sin);
                    }
                }
        }
        detail::make_room(blocks_, 1);  // whatever may still fail comes before the first change
        first_row_ = std::move(first);
        blocks_.push_back(std::move(next));
    }

    std::vector<spectrum> spectra_;
    index max_rows_ = 0;
    angle_arithmetic arithmetic_;
    double magnitude_ = 1;
    std::vector<index> first_row_;  // [tables + 1]
    std::vector<std::unique_ptr<rotation_table<T>>> blocks_;
};

/// Selects table 0 for positions below start_tokens and table 1 for the others: LongRoPE keeps the first
/// tokens at the frequencies that the model was trained with. Negative positions stay untouched (-1).
/// Throws:   invalid_config if the spans differ in length or start_tokens < 0.
/// Source:   LongRoPE, Ding et al. 2024; microsoft/LongRoPE MixedLongRoPEScaledRotaryEmbedding.
template <class I>
void fill_start_tables(std::span<const I> positions, index start_tokens,
                       std::span<std::int32_t> table_of_token) {
    detail::require_equal("fill_start_tables", "table_of_token must have one entry a position",
                          positions.size(), table_of_token.size());
    detail::require(start_tokens >= 0, "fill_start_tables", "start_tokens must be >= 0", start_tokens);
    for (std::size_t n = 0; n < positions.size(); ++n)
        table_of_token[n] = positions[n] < 0 ? -1 : static_cast<index>(positions[n]) < start_tokens ? 0 : 1;
}

}  // namespace ROPEWALK_NAMESPACE
