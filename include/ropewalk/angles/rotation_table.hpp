// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Tables of cos and sin made from positions and a spectrum, or from the caller's own arrays.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <numbers>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/angles/row_ranges.hpp>
#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/positions/position_ids.hpp>

namespace ROPEWALK_NAMESPACE {

/// How an angle is formed. `exact`: in f64, reduced, rounded once. `float32_product`: float(position) *
/// float(omega) in f32, as Hugging Face computes it; it is off by 2.7e-3 rad at position 131071 of a
/// 128-channel head, and by up to 7.6e-3 rad at the 50 positions up to there. Use it only to compare with
/// such code.
enum class angle_arithmetic : std::uint8_t { exact, float32_product };

namespace detail {

/// The angle of one pair at position [axes], in turns, minus its nearest integer. `position` is anything that
/// can be indexed by axis to give a double.
template <class Position>
double reduced_at(const spectrum& s, Position position, index head, index i) noexcept {
    if (!s.is_mixed()) {
        const index a = s.axis_of(head, i);
        return reduced_turns(position[a], s.turns(head, a, i));
    }
    double sum = 0;  // each term is reduced before the sum, so large positions lose no accuracy
    for (index a = 0; a < s.axes(); ++a) sum += reduced_turns(position[a], s.turns(head, a, i));
    return sum - std::nearbyint(sum);
}

/// A position on one axis. (As the address of one double, GCC 14 warns of reads of a second axis.)
struct one_axis {
    double position;
    double operator[](index) const noexcept { return position; }
};

/// Fills the cos and sin of one head of one token, for either form of the spectrum.
template <class T>
class row_filler {
  public:
    row_filler(const spectrum& s, angle_arithmetic arithmetic)
        : spectrum_(s), arithmetic_(arithmetic), reduced_(static_cast<std::size_t>(s.pairs())) {}

    template <class Position>
    void fill(Position position, index head, T* cos, T* sin) {
        const spectrum& s = spectrum_;
        const index pairs = s.pairs();
        if (arithmetic_ == angle_arithmetic::float32_product) {
            for (index i = 0; i < pairs; ++i) {
                const double angle = float32_angle(position, head, i);
                cos[i] = static_cast<T>(s.magnitude() * std::cos(angle));
                sin[i] = static_cast<T>(s.magnitude() * std::sin(angle));
            }
        } else if (!s.is_mixed() && s.axes() == 1) {
            fill_cos_sin(position[0], s.turns_data().data() + head * pairs, s.magnitude(), pairs, cos, sin);
        } else {
            for (index i = 0; i < pairs; ++i)
                reduced_[static_cast<std::size_t>(i)] = reduced_at(s, position, head, i);
            fill_cos_sin_reduced(reduced_.data(), s.magnitude(), pairs, cos, sin);
        }
    }

  private:
    template <class Position>
    double float32_angle(Position position, index head, index i) const noexcept {
        const spectrum& s = spectrum_;
        float sum = 0;
        for (index a = 0; a < s.axes(); ++a)
            if (s.is_mixed() || s.axis_of(head, i) == a)
                sum += static_cast<float>(position[a]) * static_cast<float>(s.omega(head, a, i));
        return static_cast<double>(sum);
    }

    const spectrum& spectrum_;
    angle_arithmetic arithmetic_;
    std::vector<double> reduced_;
};

}  // namespace detail

/// The extents and strides (in elements; 0 = contiguous) of a caller's cos and sin arrays.
struct table_shape {
    index rows = 0;
    index heads = 1;
    index pairs = 0;
    index row_stride = 0;
    index head_stride = 0;
};

/// Rows of cos and sin [rows, heads or 1, pairs], multiplied by the magnitude. T is float for f32, f16 and
/// bf16 data, double for f64 data.
/// Throws:   invalid_config on sizes that disagree or rows out of range.
/// Cost:     2 * sizeof(T) bytes per pair and row; rows are contiguous.
/// Accuracy: see fill_cos_sin.
template <class T = float>
class rotation_table {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "tables are float or double");

  public:
    rotation_table() = default;
    rotation_table(index rows, index heads, index pairs, double magnitude = 1.0)
        : rows_(rows), heads_(heads), pairs_(pairs), magnitude_(magnitude) {
        detail::require(heads >= 1, "rotation_table", "heads must be >= 1", heads);
        values_.resize(static_cast<std::size_t>(detail::checked_product(
            "rotation_table", "rows, heads and pairs must be >= 0", {rows, heads, 2, pairs})));
    }

    /// A table from arrays that an engine already has, of any element type; they are converted once.
    /// make_rows_view uses float or double arrays without copying them.
    /// Shapes: cos, sin [rows, heads, pairs] with the strides of `shape`.
    /// Throws: invalid_config on a negative extent or heads < 1.
    template <class U>
    [[nodiscard]] static rotation_table from_arrays(const U* cos, const U* sin, table_shape shape,
                                                    double magnitude = 1.0);

    index row_count() const noexcept { return rows_; }
    index heads() const noexcept { return heads_; }
    index pairs() const noexcept { return pairs_; }
    double magnitude() const noexcept { return magnitude_; }

    std::span<const T> cos_row(index row, index head = 0) const noexcept { return {at(row, head), extent()}; }
    std::span<const T> sin_row(index row, index head = 0) const noexcept {
        return {at(row, head) + pairs_, extent()};
    }
    T* cos_data(index row, index head = 0) noexcept { return values_.data() + offset(row, head); }
    T* sin_data(index row, index head = 0) noexcept { return values_.data() + offset(row, head) + pairs_; }

    /// Row = token ordinal; tokens that are untouched in the positions stay untouched.
    [[nodiscard]] rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND {
        rows_view<T> v = whole();
        if (!row_of_token_.empty()) {
            v.tokens = static_cast<index>(row_of_token_.size());
            v.indices = detail::indices_of(row_of_token_);
        }
        return v;
    }
    /// Rows of a temporary table would refer to memory that is gone.
    rows_view<T> rows() const&& = delete;  // the table is a temporary: name it
    /// The same as rows(), for a call that takes a view of rows.
    operator rows_view<T>() const& noexcept ROPEWALK_LIFETIMEBOUND { return rows(); }

    /// The rows of the tokens of one call, checked once: any contiguous range of 32-bit or 64-bit integers, or
    /// a single integer. -1 leaves a token untouched. The view refers to the table and to the range, which
    /// must outlive it.
    /// Throws: invalid_config on a row below -1 or outside the table.
    template <class R>
    requires chooses_rows<R>
    [[nodiscard]] rows_view<T> rows(R&& row_of_token) const& ROPEWALK_LIFETIMEBOUND {
        constexpr const char* who = "rotation_table::rows";
        if constexpr (std::integral<std::remove_cvref_t<R>>) {
            detail::require_rows(who, std::span(&row_of_token, 1), rows_);
            const auto row = static_cast<index>(row_of_token);
            if (row >= 0) return whole().token_slice(row, 1);
            rows_view<T> v = whole();
            v.tokens = 1;
            v.indices.narrow = &untouched_row;
            return v;
        } else {
            return detail::with_rows(who, whole(), row_of_token);
        }
    }
    /// Refuses temporary row numbers or a temporary table: the view would refer to memory that is gone.
    template <class R, std::enable_if_t<integer_range<R> && !chooses_rows<R>, int> = 0>
    rows_view<T> rows(R&&) const& = delete;  // a temporary range: name it
    template <class R>
    rows_view<T> rows(R&&) const&& = delete;  // the table is a temporary: name it
    template <class R, std::enable_if_t<!integer_range<R> && !chooses_rows<R>, int> = 0>
    rows_view<T> rows(R&&) const& = delete;  // integers of 32 or 64 bits; fractions: make_rotation_table
    /// Rows first, first + 1, ..., without an array of their numbers.
    /// Throws: invalid_config on rows that do not exist.
    [[nodiscard]] rows_view<T> rows_from(index first, index tokens) const& ROPEWALK_LIFETIMEBOUND {
        detail::require(first >= 0 && first <= rows_, "rotation_table::rows_from",
                        "first must be below the rows", first);
        detail::require(tokens >= 0 && tokens <= rows_ - first, "rotation_table::rows_from",
                        "tokens must be at most the rows from first on", tokens);
        return whole().token_slice(first, tokens);
    }
    rows_view<T> rows_from(index, index) const&& = delete;  // the table is a temporary: name it

    /// Makes rows() skip tokens: row_of_token [tokens], -1 = untouched.
    /// Throws: invalid_config on a row below -1 or outside the table.
    void address_tokens(std::vector<std::int32_t> row_of_token) {
        detail::require_rows("rotation_table::address_tokens", row_of_token, rows_);
        row_of_token_ = std::move(row_of_token);
    }

  private:
    std::size_t extent() const noexcept { return static_cast<std::size_t>(pairs_); }
    index offset(index row, index head) const noexcept {
        ROPEWALK_EXPECT(row >= 0 && row < rows_ && head >= 0 && head < heads_);
        return (row * heads_ + head) * 2 * pairs_;
    }
    const T* at(index row, index head) const noexcept { return values_.data() + offset(row, head); }

    rows_view<T> whole() const noexcept {
        rows_view<T> v;
        v.cos = values_.data();
        v.sin = values_.empty() ? nullptr : values_.data() + pairs_;  // no offset from null
        v.table_rows = rows_;
        v.heads = heads_;
        v.pairs = pairs_;
        v.head_stride = 2 * pairs_;
        v.row_stride = heads_ * v.head_stride;
        v.tokens = rows_;
        v.magnitude = magnitude_;
        return v;
    }

    index rows_ = 0;
    index heads_ = 1;
    index pairs_ = 0;
    double magnitude_ = 1.0;
    detail::aligned_vector<T> values_;
    std::vector<std::int32_t> row_of_token_;
};

template <class T>
template <class U>
rotation_table<T> rotation_table<T>::from_arrays(const U* cos, const U* sin, table_shape shape,
                                                 double magnitude) {
    rotation_table t(shape.rows, shape.heads, shape.pairs, magnitude);
    const index head_stride = shape.head_stride != 0 ? shape.head_stride : shape.pairs;
    const index row_stride = shape.row_stride != 0 ? shape.row_stride : shape.heads * shape.pairs;
    for (index r = 0; r < shape.rows; ++r)
        for (index h = 0; h < shape.heads; ++h)
            for (index i = 0; i < shape.pairs; ++i) {
                const index at = r * row_stride + h * head_stride + i;
                t.cos_data(r, h)[i] = static_cast<T>(static_cast<compute_t<U>>(cos[at]));
                t.sin_data(r, h)[i] = static_cast<T>(static_cast<compute_t<U>>(sin[at]));
            }
    return t;
}

/// The rows of the tokens of one call, over cos and sin arrays that an engine already has; nothing is copied.
/// Shapes:   cos, sin [rows, heads, pairs] with the strides of `shape`; row_of_token [batches * tokens],
///           where -1 leaves a token untouched. Without row_of_token, row = token ordinal.
/// Requires: the arrays outlive the view; they are already multiplied by `magnitude`.
/// Throws:   invalid_config on a negative extent, heads < 1 or a row out of range.
template <class T>
[[nodiscard]] rows_view<T> make_rows_view(const T* cos, const T* sin, table_shape shape,
                                          double magnitude = 1) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                  "16-bit tables are converted: rotation_table::from_arrays");
    constexpr const char* who = "make_rows_view";
    detail::require(shape.rows >= 0, who, "rows must be >= 0", shape.rows);
    detail::require(shape.heads >= 1, who, "heads must be >= 1", shape.heads);
    detail::require(shape.pairs >= 0, who, "pairs must be >= 0", shape.pairs);
    rows_view<T> v;
    v.cos = cos;
    v.sin = sin;
    v.table_rows = v.tokens = shape.rows;
    v.heads = shape.heads;
    v.pairs = shape.pairs;
    v.head_stride = shape.head_stride != 0 ? shape.head_stride : shape.pairs;
    v.row_stride = shape.row_stride != 0 ? shape.row_stride : shape.heads * shape.pairs;
    v.magnitude = magnitude;
    return v;
}
template <class T, lasting_integer_range R>
[[nodiscard]] rows_view<T> make_rows_view(const T* cos, const T* sin, table_shape shape, R&& row_of_token,
                                          double magnitude = 1) {
    return detail::with_rows("make_rows_view", make_rows_view(cos, sin, shape, magnitude), row_of_token);
}

namespace detail {

/// The row of each token in a table with one row per touched token; empty if every row is the number of its
/// token.
inline std::vector<std::int32_t> touched_rows(const position_ids& positions) {
    std::vector<std::int32_t> row_of_token;
    if (positions.all_touched()) return row_of_token;
    std::int32_t next = 0;
    for (index n = 0; n < positions.tokens(); ++n)
        row_of_token.push_back(positions.touched(n) ? next++ : untouched_row);
    return row_of_token;
}

}  // namespace detail

/// positions x spectrum: one row per touched token.
/// Shapes:   positions [tokens, axes], spectrum [heads or 1, axes, pairs] -> [tokens, heads or 1, pairs].
/// Throws:   invalid_config if the axes differ.
/// Cost:     about 45 ns per row of 64 pairs (float, AVX-512).
template <class T = float>
[[nodiscard]] rotation_table<T> make_rotation_table(const spectrum& s, const position_ids& positions,
                                                    angle_arithmetic arithmetic = angle_arithmetic::exact) {
    detail::require_equal("make_rotation_table", "positions must have the spectrum's axes", s.axes(),
                          positions.axes());
    const index tokens = positions.tokens();
    std::vector<std::int32_t> row_of_token = detail::touched_rows(positions);
    const auto touched = row_of_token.empty()
                             ? tokens
                             : std::ranges::count_if(row_of_token, [](std::int32_t r) { return r >= 0; });
    rotation_table<T> table(touched, s.heads(), s.pairs(), s.magnitude());
    const std::vector<double> values = positions.values();
    detail::row_filler<T> filler(s, arithmetic);
    for (index n = 0; n < tokens; ++n) {
        const index row = row_of_token.empty() ? n : row_of_token[static_cast<std::size_t>(n)];
        if (row < 0) continue;
        for (index h = 0; h < s.heads(); ++h)
            filler.fill(values.data() + n * s.axes(), h, table.cos_data(row, h), table.sin_data(row, h));
    }
    if (!row_of_token.empty()) table.address_tokens(std::move(row_of_token));
    return table;
}

/// The table that moves keys in a cache from one spectrum to another: angle p (omega_to - omega_from),
/// magnitude m_to / m_from. Rotating with it turns keys rotated with `from` into keys rotated with `to`
/// (dynamic NTK as it grows, LongRoPE past its switch).
/// Requires: both spectra have the same form, heads, axes, pairs and axis map.
/// Throws:   invalid_config otherwise.
/// Accuracy: that of the difference of the spectra, 2^-52 |p| max(omega).
/// Source:   R(a)^-1 R(b) = R(b - a); huggingface/transformers issue 25104 shows the need.
template <class T = float>
[[nodiscard]] rotation_table<T> make_rebase_table(const spectrum& from, const spectrum& to,
                                                  const position_ids& positions,
                                                  angle_arithmetic arithmetic = angle_arithmetic::exact) {
    constexpr const char* who = "make_rebase_table";
    detail::require_equal(who, "spectra must have the same form", from.is_mixed(), to.is_mixed());
    detail::require_equal(who, "spectra must have the same heads", from.heads(), to.heads());
    detail::require_equal(who, "spectra must have the same axes", from.axes(), to.axes());
    detail::require_equal(who, "spectra must have the same pairs", from.pairs(), to.pairs());
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < to.heads(); ++h)
        for (index a = 0; a < (to.is_mixed() ? to.axes() : 1); ++a)
            for (index i = 0; i < to.pairs(); ++i) {
                const index axis = to.is_mixed() ? a : to.axis_of(h, i);
                detail::require(to.is_mixed() || from.axis_of(h, i) == axis, who,
                                "spectra must have the same axis map, pair", i);
                omega.push_back((to.turns(h, axis, i) - from.turns(h, axis, i)) * (2 * std::numbers::pi));
                axis_of.push_back(static_cast<int>(axis));
            }
    const double magnitude = to.magnitude() / from.magnitude();
    return make_rotation_table<T>(to.is_mixed()
                                      ? spectrum::mixed(omega, to.heads(), to.axes(), magnitude)
                                      : spectrum::selected(omega, axis_of, to.axes(), to.heads(), magnitude),
                                  positions, arithmetic);
}

}  // namespace ROPEWALK_NAMESPACE
