// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One cos and sin per token for all pairs, for schemes with a single frequency such as DRoPE.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// One cos and one sin per token, the same for all pairs and heads.
/// Shapes:   cos and sin [table_rows]; token (b, n) reads row(b * tokens + n); a negative row is untouched.
/// Source:   DRoPE, Zhao et al. 2025.
template <class C>
struct uniform_rows_view : token_rows<uniform_rows_view<C>> {
    using element = C;  ///< type of cos and sin

    const C* cos = nullptr;
    const C* sin = nullptr;
    index table_rows = 0;
    index heads = 1;
    index pairs = any_pairs;
    detail::row_indices indices;  ///< the row of each token
    double magnitude = 1;         ///< cos and sin are already multiplied by it

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
    /// The same rows: all heads share them.
    constexpr uniform_rows_view head_slice(index, index, index = 1) const noexcept { return *this; }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

/// The table of a scheme whose pairs all rotate with one frequency: one cos and one sin per token, instead of
/// one per token and pair.
/// Cost:     2 * sizeof(T) bytes and one sine and cosine per token.
/// Accuracy: 2^-52 (1 + |angle|), then rounded to T.
/// Source:   DRoPE, Zhao et al. 2025: the uniform identity scalar.
template <class T = float>
class uniform_table {
  public:
    uniform_table() = default;

    /// Angles of the tokens: position * omega. Untouched tokens stay untouched.
    /// Throws: invalid_config if the positions have several axes or omega is not finite.
    explicit uniform_table(const position_ids& positions, double omega = 1) {
        detail::require(positions.axes() == 1, "uniform_table", "positions must have one axis",
                        positions.axes());
        detail::require(std::isfinite(omega), "uniform_table", "omega must be finite", omega);
        const double turns = omega / (2 * std::numbers::pi);
        for (index n = 0; n < positions.tokens(); ++n) {
            if (!positions.touched(n)) {
                row_of_token_.resize(static_cast<std::size_t>(positions.tokens()), untouched_row);
                continue;
            }
            double c = 0, s = 0;
            fill_cos_sin(positions.at(n), &turns, 1.0, 1, &c, &s);
            cos_.push_back(static_cast<T>(c));
            sin_.push_back(static_cast<T>(s));
        }
        if (row_of_token_.empty()) return;
        std::int32_t row = 0;
        for (index n = 0; n < positions.tokens(); ++n)
            if (positions.touched(n)) row_of_token_[static_cast<std::size_t>(n)] = row++;
    }

    /// Directions from vectors [tokens, 2] of any length: (cos, sin) = v / |v|, without trigonometry.
    /// Throws: invalid_config on an odd number of values, or a vector that is zero or not finite (the caller
    ///         must remember the heading of an agent that does not move).
    template <class N>
    static uniform_table from_vectors(std::span<const N> xy) {
        detail::require(xy.size() % 2 == 0, "uniform_table::from_vectors", "xy must hold two numbers a token",
                        xy.size());
        uniform_table table;
        for (std::size_t i = 0; i < xy.size(); i += 2) {
            const double length = std::hypot(static_cast<double>(xy[i]), static_cast<double>(xy[i + 1]));
            detail::require(std::isfinite(length) && length > 0, "uniform_table::from_vectors",
                            "vectors must be finite and not zero, length", length);
            table.cos_.push_back(static_cast<T>(static_cast<double>(xy[i]) / length));
            table.sin_.push_back(static_cast<T>(static_cast<double>(xy[i + 1]) / length));
        }
        return table;
    }

    index row_count() const noexcept { return static_cast<index>(cos_.size()); }
    std::size_t byte_count() const noexcept { return 2 * cos_.size() * sizeof(T); }
    std::span<const T> cos() const noexcept { return cos_; }
    std::span<const T> sin() const noexcept { return sin_; }

    /// Row = token ordinal of the positions.
    [[nodiscard]] uniform_rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND {
        uniform_rows_view<T> v = whole();
        if (!row_of_token_.empty()) {
            v.tokens = static_cast<index>(row_of_token_.size());
            v.indices = detail::indices_of(row_of_token_);
        }
        return v;
    }
    uniform_rows_view<T> rows() const&& = delete;  // the table is a temporary: name it
    /// The rows of the tokens of one call, checked once; -1 leaves a token untouched. The view refers to the
    /// table and to the caller's range, which must outlive it.
    template <lasting_integer_range R>
    [[nodiscard]] uniform_rows_view<T> rows(R&& row_of_token) const& ROPEWALK_LIFETIMEBOUND {
        return detail::with_rows("uniform_table::rows", whole(), row_of_token);
    }
    template <integer_range R>
    requires(!lasting_integer_range<R>) uniform_rows_view<T> rows(R&&)  // a temporary range: name it
    const& = delete;
    template <integer_range R>
    uniform_rows_view<T> rows(R&&) const&& = delete;  // the table is a temporary: name it

  private:
    uniform_rows_view<T> whole() const noexcept {
        uniform_rows_view<T> v;
        v.cos = cos_.data();
        v.sin = sin_.data();
        v.table_rows = v.tokens = row_count();
        return v;
    }

    std::vector<T> cos_, sin_;
    std::vector<std::int32_t> row_of_token_;
};

}  // namespace ROPEWALK_NAMESPACE
