// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// Whether a position_table may grow to the positions it is asked for.
enum class growth : std::uint8_t { fixed, doubling };

/// The cache of an engine: row = position, from 0 on, for a spectrum of one axis.
/// Throws:   invalid_config on a spectrum of several axes, a negative position other than -1, and (fixed)
///           a position past the end.
/// Cost:     8 bytes a pair and row (float). Growing at least doubles; the old block is kept, so rows
///           already handed out stay valid as long as the table lives.
/// Requires: rows() of a table that may grow is not called from two threads at once; views may be used
///           from any thread meanwhile.
/// Accuracy: as make_rotation_table, at every position.
/// Source:   design of this library.
///
///     position_table table(rope.spectrum_for(8192), 8192);
///     rotate(rope, q, k, table.rows(positions));
template <class T = float>
class position_table {
  public:
    explicit position_table(spectrum s, index rows, growth grows = growth::doubling,
                            angle_arithmetic arithmetic = angle_arithmetic::exact)
        : spectrum_(std::move(s)), growth_(grows), arithmetic_(arithmetic) {
        detail::require(spectrum_.axes() == 1, "position_table", "spectrum must have one axis",
                        spectrum_.axes());
        detail::require(rows >= 0, "position_table", "rows must be >= 0", rows);
        extend(rows);
    }

    /// The rows of these positions, checked once a step. -1 leaves a token untouched. The view refers
    /// to the caller's array, which must outlive it.
    [[nodiscard]] rows_view<T> rows(std::span<const std::int32_t> positions) { return checked(positions); }
    [[nodiscard]] rows_view<T> rows(std::span<const std::int64_t> positions) { return checked(positions); }

    index row_count() const noexcept { return blocks_.back()->row_count(); }
    index pairs() const noexcept { return spectrum_.pairs(); }
    const spectrum& frequencies() const noexcept { return spectrum_; }
    /// All rows at their present number.
    const rotation_table<T>& table() const noexcept { return *blocks_.back(); }

  private:
    template <class I>
    rows_view<T> checked(std::span<const I> positions) {
        if (growth_ == growth::doubling && !positions.empty()) {
            const I last = *std::max_element(positions.begin(), positions.end());
            detail::require(static_cast<std::int64_t>(last) < std::numeric_limits<index>::max(),
                            "position_table", "position must be below the largest index", last);
            if (last >= 0 && static_cast<index>(last) >= row_count())
                extend(std::max(static_cast<index>(last) + 1, 2 * row_count()));
        }
        return blocks_.back()->rows(positions);
    }
    void extend(index rows) {
        auto next = std::make_unique<rotation_table<T>>(rows, spectrum_.heads(), spectrum_.pairs(),
                                                        spectrum_.magnitude());
        const index known = blocks_.empty() ? 0 : row_count();
        detail::row_filler<T> filler(spectrum_, arithmetic_);
        std::vector<double> position(1);
        for (index r = 0; r < rows; ++r)
            for (index h = 0; h < spectrum_.heads(); ++h) {
                if (r < known) {
                    std::ranges::copy(table().cos_row(r, h), next->cos_data(r, h));
                    std::ranges::copy(table().sin_row(r, h), next->sin_data(r, h));
                } else {
                    position[0] = static_cast<double>(r);
                    filler.fill(position.data(), h, next->cos_data(r, h), next->sin_data(r, h));
                }
            }
        blocks_.push_back(std::move(next));
    }

    spectrum spectrum_;
    growth growth_;
    angle_arithmetic arithmetic_;
    std::vector<std::unique_ptr<rotation_table<T>>> blocks_;
};

}  // namespace ROPEWALK_NAMESPACE
