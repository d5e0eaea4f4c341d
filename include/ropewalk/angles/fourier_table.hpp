// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// FoPE: cos and sin rows that are learned mixtures of several frequencies.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// The pairs after the mixed ones. zero: not rotated (cos 1, sin 0). one: cos 1 and sin 1, a constant
/// rotation by 45 degrees with a gain of sqrt 2, which doubles their part of q.k. A checkpoint needs the
/// choice it was trained with.
enum class rest_pairs : std::uint8_t { zero, one };

/// Whether coefficients are divided by their sum over the frequencies (fourier_norm in configs).
enum class coefficient_norm : std::uint8_t { as_given, sum_to_one };

struct fourier_config {
    index pairs = 0;                     ///< pairs of the rotated slice
    index outputs = 0;                   ///< mixed pairs, the first ones of the slice
    index heads = 1;                     ///< heads with their own coefficients: the kv heads
    index group = 1;                     ///< heads that share each row: 1 for k, query heads / kv heads for q
    rest_pairs rest = rest_pairs::zero;  ///< what the pairs after the mixed ones do
    coefficient_norm norm = coefficient_norm::as_given;  ///< whether coefficients are divided by their sum
};

/// Rows whose cos and sin are learned mixtures of the kept frequencies (FoPE). A pair is multiplied by [[c,
/// -s], [s, c]], where c^2 + s^2 may be any number >= 0. Such rows rotate and scale, and q.k depends on both
/// positions instead of their difference, so a key in a cache cannot be moved to another position.
/// Shapes:   table() [tokens, heads * group, pairs].
/// Accuracy: sums in f64, angles as make_rotation_table<double>.
/// Source:   FoPE, Hua et al. 2024 (arXiv 2412.17739); TsinghuaC3I/Fourier-Position-Embedding olmo/model.py.
template <class T = float>
class fourier_table {
  public:
    explicit fourier_table(rotation_table<T> table) : table_(std::move(table)) {}

    /// The mixed cosines and sines.
    const rotation_table<T>& table() const noexcept { return table_; }
    /// The rows of all tokens or of some of them, for every function that takes the rows of a rotation_table.
    /// unrotate divides by c^2 + s^2 of each pair; where that is 0 the result is not a number: see inverse().
    [[nodiscard]] rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND { return table_.rows(); }
    template <lasting_integer_range R>
    [[nodiscard]] rows_view<T> rows(R&& row_of_token) const& ROPEWALK_LIFETIMEBOUND {
        return table_.rows(row_of_token);
    }
    rows_view<T> rows() const&& = delete;  // the table is a temporary: name it
    template <integer_range R>
    rows_view<T> rows(R&&) const&& = delete;  // the table is a temporary: name it

    /// c^2 + s^2 of one pair of one token: the factor of a squared norm.
    double squared_scale(index row, index head, index pair) const noexcept {
        const auto at = static_cast<std::size_t>(pair);
        const auto c = static_cast<double>(table_.cos_row(row, head)[at]);
        const auto s = static_cast<double>(table_.sin_row(row, head)[at]);
        return c * c + s * s;
    }

    /// Checks that every pair only rotates, for callers that need R(p)^T R(q) = R(q - p).
    /// Throws: invalid_config naming the first squared scale further than `within` from 1.
    void require_orthogonal(double within = 1e-6) const {
        each([&](double scale) {
            detail::require(std::abs(scale - 1) <= within, "fourier_table",
                            "coefficients must leave every pair a rotation, squared scale 1", scale);
        });
    }

    /// The rows of the inverse map, to be used with rotate: the transpose divided by c^2 + s^2.
    /// Throws: invalid_config if a squared scale is below `least`: the data cannot be recovered there.
    [[nodiscard]] rotation_table<T> inverse(double least = 1e-6) const {
        each([&](double scale) {
            detail::require(scale >= least, "fourier_table::inverse",
                            "coefficients must leave every pair a squared scale >= least", scale);
        });
        rotation_table<T> back(table_.row_count(), table_.heads(), table_.pairs());
        for (index r = 0; r < table_.row_count(); ++r)
            for (index h = 0; h < table_.heads(); ++h)
                for (index i = 0; i < table_.pairs(); ++i) {
                    const auto scale = static_cast<T>(squared_scale(r, h, i));
                    back.cos_data(r, h)[i] = table_.cos_row(r, h)[static_cast<std::size_t>(i)] / scale;
                    back.sin_data(r, h)[i] = -table_.sin_row(r, h)[static_cast<std::size_t>(i)] / scale;
                }
        return back;
    }

  private:
    template <class F>
    void each(F f) const {
        for (index r = 0; r < table_.row_count(); ++r)
            for (index h = 0; h < table_.heads(); ++h)
                for (index i = 0; i < table_.pairs(); ++i) f(squared_scale(r, h, i));
    }
    rotation_table<T> table_;
};

namespace detail {

/// out[j] = sum over u of wave[u] coefficients[u, j]; the sums stay in registers over all waves. The
/// coefficients of a wave fill whole registers, `stride` apart.
template <class T>
void mix_waves(std::span<const double> wave, const double* coefficients, index stride, index outputs,
               T* out) noexcept {
    constexpr index lanes = simd::lanes<double>;
    const auto sums = [&]<index N>(std::integral_constant<index, N>, index first) {
        simd::pack<double> sum[static_cast<std::size_t>(N)];
        for (auto& s : sum) s = simd::broadcast(0.0);
        const double* from = coefficients + first;
        for (std::size_t u = 0; u < wave.size(); ++u, from += stride) {
            const auto w = simd::broadcast(wave[u]);
            ROPEWALK_DETAIL_UNROLL
            for (index k = 0; k < N; ++k) sum[k] = simd::fma(w, simd::load(from + k * lanes), sum[k]);
        }
        for (index k = 0; k < N; ++k) {
            const index at = first + k * lanes;
            T last[static_cast<std::size_t>(lanes)];
            store_row(at + lanes <= outputs ? out + at : last, sum[k]);
            if (at + lanes > outputs) std::copy_n(last, outputs - at, out + at);
        }
    };
    index j = 0;
    for (; j + 6 * lanes <= stride; j += 6 * lanes) sums(std::integral_constant<index, 6>{}, j);
    for (; j + 2 * lanes <= stride; j += 2 * lanes) sums(std::integral_constant<index, 2>{}, j);
    if (j < stride) sums(std::integral_constant<index, 1>{}, j);
}

}  // namespace detail

/// cos[p, g, j] = sum over kept u of cos(p omega_u) C[g, u, j], and sin likewise with S, for j < outputs.
/// Shapes:   kept: a selected one-axis spectrum of the kept frequencies (choose them with
///           pairs_that_complete); cos_coefficients and sin_coefficients [heads, kept.pairs(), outputs].
/// Throws:   invalid_config on sizes that disagree, outputs > pairs, coefficients that are not finite, or
///           (sum_to_one) a sum of 0.
/// Cost:     2 * tokens * heads * kept * outputs multiply-adds; heads of one group are copies.
/// Source:   FoPE, Hua et al. 2024; vllm-project/vllm rotary_embedding/fope.py.
template <class T = float>
[[nodiscard]] fourier_table<T> make_fourier_table(const fourier_config& c, const spectrum& kept,
                                                  std::span<const double> cos_coefficients,
                                                  std::span<const double> sin_coefficients,
                                                  const position_ids& positions) {
    constexpr const char* who = "make_fourier_table";
    detail::require(c.pairs >= 0, who, "pairs must be >= 0", c.pairs);
    detail::require(c.outputs >= 0 && c.outputs <= c.pairs, who, "outputs must be in 0 .. pairs", c.outputs);
    detail::require(c.heads >= 1, who, "heads must be >= 1", c.heads);
    detail::require(c.group >= 1, who, "group must be >= 1", c.group);
    detail::require(kept.heads() == 1 && !kept.is_mixed(), who, "kept must be one ladder for all heads",
                    kept.heads());
    const index inputs = kept.pairs();
    const index each =
        detail::checked_product(who, "heads, kept and outputs must be >= 0", {c.heads, inputs, c.outputs});
    constexpr index lanes = simd::lanes<double>;
    const index stride = (c.outputs + lanes - 1) / lanes * lanes;
    detail::checked_product(who, "heads, kept and outputs must be >= 0", {c.heads, inputs, stride});
    const auto checked = [&](std::span<const double> given, const char* size_must, const char* finite) {
        detail::require(static_cast<index>(given.size()) == each, who, size_must, given.size());
        for (const double v : given) detail::require(std::isfinite(v), who, finite, v);
        detail::aligned_vector<double> out(static_cast<std::size_t>(c.heads * inputs * stride));
        for (index row = 0; row < c.heads * inputs; ++row)
            std::copy_n(given.data() + row * c.outputs, c.outputs, out.data() + row * stride);
        if (c.norm == coefficient_norm::sum_to_one)
            for (index g = 0; g < c.heads; ++g)
                for (index j = 0; j < c.outputs; ++j) {
                    const auto at = [&](index u) -> double& {
                        return out[static_cast<std::size_t>((g * inputs + u) * stride + j)];
                    };
                    double sum = 0;
                    for (index u = 0; u < inputs; ++u) sum += at(u);
                    detail::require(sum != 0, who, "coefficients of an output must not sum to 0, output", j);
                    for (index u = 0; u < inputs; ++u) at(u) /= sum;
                }
        return out;
    };
    const auto cos_of = checked(cos_coefficients, "cos_coefficients must hold heads * kept * outputs numbers",
                                "cos_coefficients must be finite");
    const auto sin_of = checked(sin_coefficients, "sin_coefficients must hold heads * kept * outputs numbers",
                                "sin_coefficients must be finite");
    const auto waves = make_rotation_table<double>(kept, positions);
    rotation_table<T> table(waves.row_count(),
                            detail::checked_product(who, "heads and group must be >= 1", {c.heads, c.group}),
                            c.pairs);
    const T sin_of_rest = c.rest == rest_pairs::one ? T(1) : T(0);
    for (index g = 0; g < c.heads; ++g) {
        const auto first = static_cast<std::size_t>(g * inputs * stride);
        // First cos, then sin: a cache level that holds one array of coefficients may not hold two.
        for (index r = 0; r < waves.row_count(); ++r)
            detail::mix_waves(waves.cos_row(r), cos_of.data() + first, stride, c.outputs,
                              table.cos_data(r, g * c.group));
        for (index r = 0; r < waves.row_count(); ++r)
            detail::mix_waves(waves.sin_row(r), sin_of.data() + first, stride, c.outputs,
                              table.sin_data(r, g * c.group));
        for (index r = 0; r < waves.row_count(); ++r) {
            T* const cos = table.cos_data(r, g * c.group);
            T* const sin = table.sin_data(r, g * c.group);
            std::fill(cos + c.outputs, cos + c.pairs, T(1));
            std::fill(sin + c.outputs, sin + c.pairs, sin_of_rest);
            for (index h = g * c.group + 1; h < (g + 1) * c.group; ++h) {
                std::copy_n(cos, c.pairs, table.cos_data(r, h));
                std::copy_n(sin, c.pairs, table.sin_data(r, h));
            }
        }
    }
    auto row_of_token = detail::touched_rows(positions);
    if (!row_of_token.empty()) table.address_tokens(std::move(row_of_token));
    return fourier_table<T>(std::move(table));
}

}  // namespace ROPEWALK_NAMESPACE
