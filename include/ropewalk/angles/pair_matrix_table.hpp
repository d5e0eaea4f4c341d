// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// A 2 x 2 matrix for every pair and row, for maps that are not rotations: RoAd, full-width cos and sin.
#pragma once

#include <cmath>
#include <span>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// One 2 x 2 matrix per pair and row: (x, y) <- (a x + b y, c x + d y). A rotation is (cos, -sin, sin, cos).
/// RoAd's scaled blocks and rotate_half with full-width cos and sin arrays are not rotations and need all
/// four entries.
/// Shapes:   a, b, c, d [rows, pairs].
/// Throws:   invalid_config on sizes that disagree. Entries that are not finite are kept.
/// Cost:     4 * sizeof(T) bytes per pair and row.
/// Source:   RoAd, Liao and Monz 2024; Hugging Face apply_rotary_pos_emb.
template <class T = float>
class pair_matrix_table {
  public:
    pair_matrix_table(std::span<const T> a, std::span<const T> b, std::span<const T> c, std::span<const T> d,
                      index pairs)
        : pairs_(pairs) {
        const auto count = static_cast<index>(a.size());
        detail::require(pairs >= 0, "pair_matrix_table", "pairs must be >= 0", pairs);
        detail::require(pairs == 0 ? count == 0 : count % pairs == 0, "pair_matrix_table",
                        "a must hold rows * pairs numbers", count);
        detail::require(b.size() == a.size() && c.size() == a.size() && d.size() == a.size(),
                        "pair_matrix_table", "a, b, c and d must have one size, that of a being", count);
        rows_ = pairs == 0 ? 0 : count / pairs;
        values_.resize(static_cast<std::size_t>(4 * count));
        const std::span<const T> parts[4] = {a, b, c, d};
        for (index r = 0; r < rows_; ++r)
            for (index part = 0; part < 4; ++part)
                for (index i = 0; i < pairs; ++i)
                    values_[static_cast<std::size_t>((4 * r + part) * pairs + i)] =
                        parts[part][static_cast<std::size_t>(r * pairs + i)];
        const auto same = [](T x, T y) { return x == y && std::signbit(x) == std::signbit(y); };
        for (std::size_t k = 0; k < a.size() && scaled_rotations_; ++k)
            scaled_rotations_ = same(d[k], a[k]) && same(b[k], -c[k]);
    }

    /// From full-width cos and sin arrays [rows, 2 * pairs] as used by rotate_half: channels j and j + pairs
    /// each have their own cos and sin, which need not be equal.
    /// Throws: invalid_config if the arrays differ in size or do not hold whole rows.
    static pair_matrix_table from_rotate_half(std::span<const T> cos, std::span<const T> sin, index pairs) {
        const auto count = static_cast<index>(cos.size());
        detail::require(pairs > 0 && count % (2 * pairs) == 0, "from_rotate_half",
                        "cos must hold rows * 2 * pairs numbers", count);
        detail::require_equal("from_rotate_half", "sin must be as long as cos", cos.size(), sin.size());
        std::vector<T> a, b, c, d;
        for (index r = 0; r < count / (2 * pairs); ++r)
            for (index i = 0; i < pairs; ++i) {
                const auto low = static_cast<std::size_t>(2 * r * pairs + i);
                const std::size_t high = low + static_cast<std::size_t>(pairs);
                a.push_back(cos[low]);
                b.push_back(-sin[low]);
                c.push_back(sin[high]);
                d.push_back(cos[high]);
            }
        return {a, b, c, d, pairs};
    }

    index row_count() const noexcept { return rows_; }
    index pairs() const noexcept { return pairs_; }

    /// Row = token ordinal.
    [[nodiscard]] matrix_rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND {
        matrix_rows_view<T> v;
        v.a = values_.data();
        v.b = v.a + pairs_;
        v.c = v.b + pairs_;
        v.d = v.c + pairs_;
        v.table_rows = rows_;
        v.pairs = pairs_;
        v.row_stride = 4 * pairs_;
        v.tokens = rows_;
        v.scaled_rotations = scaled_rotations_;
        return v;
    }
    matrix_rows_view<T> rows() const&& = delete;  // the table is a temporary: name it
    /// The same as rows(), for a call that takes the table itself.
    operator matrix_rows_view<T>() const& noexcept ROPEWALK_LIFETIMEBOUND { return rows(); }
    /// The rows of the tokens of one call (for example adapter ids), checked once; -1 leaves a token
    /// untouched. The view refers to the table and to the caller's range, which must outlive it.
    template <lasting_integer_range R>
    [[nodiscard]] matrix_rows_view<T> rows(R&& row_of_token) const& ROPEWALK_LIFETIMEBOUND {
        return detail::with_rows("pair_matrix_table::rows", rows(), row_of_token);
    }
    template <integer_range R>
    requires(!lasting_integer_range<R>) matrix_rows_view<T> rows(R&&)  // a temporary range: name it
    const& = delete;
    template <integer_range R>
    matrix_rows_view<T> rows(R&&) const&& = delete;  // the table is a temporary: name it

  private:
    index rows_ = 0;
    index pairs_ = 0;
    bool scaled_rotations_ = true;
    detail::aligned_vector<T> values_;
};

}  // namespace ROPEWALK_NAMESPACE
