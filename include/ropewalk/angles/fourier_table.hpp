// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>

namespace ROPEWALK_NAMESPACE {

/// What the pairs behind the mixed ones do. zero: nothing (cos 1, sin 0). one: cos 1 and sin 1, a constant
/// rotation by 45 degrees with a gain of sqrt 2 that doubles their part of q.k. A checkpoint needs the one it
/// was trained with.
enum class rest_pairs : std::uint8_t { zero, one };

/// Whether coefficients are divided by their sum over the frequencies (fourier_norm of the configs).
enum class coefficient_norm : std::uint8_t { as_given, sum_to_one };

struct fourier_config {
    index pairs = 0;    ///< of the slice that rotates
    index outputs = 0;  ///< mixed pairs, the first ones of the slice
    index heads = 1;    ///< heads that have coefficients of their own: the kv heads
    index group = 1;    ///< rows for `group` neighbouring heads each: 1 for k, query heads / kv heads for q
    rest_pairs rest = rest_pairs::zero;  ///< what the pairs behind the mixed ones do
    coefficient_norm norm = coefficient_norm::as_given;  ///< whether coefficients are divided by their sum
};

/// Rows whose cos and sin are learned mixtures over the kept frequencies (FoPE): a pair is multiplied by
/// [[c, -s], [s, c]] with c^2 + s^2 anything from 0 up. Such rows rotate and scale, and no shift law holds:
/// q.k depends on both positions, and a key in a cache cannot move.
/// Shapes:   table() [tokens, heads * group, pairs].
/// Accuracy: sums in f64, angles as make_rotation_table<double>.
/// Source:   FoPE, Hua et al. 2024 (arXiv 2412.17739); TsinghuaC3I/Fourier-Position-Embedding olmo/model.py.
template <class T = float>
class fourier_table {
  public:
    explicit fourier_table(rotation_table<T> table) : table_(std::move(table)) {}

    /// For rotate and rotate_gradient. Not for unrotate, which divides by one magnitude: see inverse().
    const rotation_table<T>& table() const noexcept { return table_; }

    /// c^2 + s^2 of one pair of one token: how much it scales a squared norm.
    double squared_scale(index row, index head, index pair) const noexcept {
        const auto at = static_cast<std::size_t>(pair);
        const auto c = static_cast<double>(table_.cos_row(row, head)[at]);
        const auto s = static_cast<double>(table_.sin_row(row, head)[at]);
        return c * c + s * s;
    }

    /// Throws where a pair does more than rotate: what a caller asks who needs R(p)^T R(q) = R(q - p).
    /// Throws: invalid_config naming the first squared scale further than `within` from 1.
    void require_orthogonal(double within = 1e-6) const {
        each([&](double scale) {
            detail::require(std::abs(scale - 1) <= within, "fourier_table",
                            "coefficients must leave every pair a rotation, squared scale 1", scale);
        });
    }

    /// The rows that undo these: the transpose divided by c^2 + s^2, to be used with rotate.
    /// Throws: invalid_config where a squared scale is below `least`: nothing can be recovered there.
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

/// cos[p, g, j] = sum over kept u of cos(p omega_u) C[g, u, j], sin likewise with S, for j < outputs.
/// Shapes:   kept: a selected one-axis spectrum of the kept frequencies (keep the first ones with
///           pairs_that_complete); cos_coefficients and sin_coefficients [heads, kept.pairs(), outputs].
/// Throws:   invalid_config on sizes that disagree, outputs > pairs, coefficients that are not finite, or
///           (sum_to_one) a sum of 0.
/// Cost:     tokens * heads * kept * outputs multiply-adds.
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
    const auto checked = [&](std::span<const double> given, const char* size_must, const char* finite) {
        detail::require(static_cast<index>(given.size()) == each, who, size_must, given.size());
        for (const double v : given) detail::require(std::isfinite(v), who, finite, v);
        std::vector<double> out(given.begin(), given.end());
        if (c.norm == coefficient_norm::sum_to_one)
            for (index g = 0; g < c.heads; ++g)
                for (index j = 0; j < c.outputs; ++j) {
                    const auto at = [&](index u) -> double& {
                        return out[static_cast<std::size_t>((g * inputs + u) * c.outputs + j)];
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
    for (index r = 0; r < waves.row_count(); ++r)
        for (index h = 0; h < table.heads(); ++h)
            for (index j = 0; j < c.pairs; ++j) {
                double cos = 1, sin = c.rest == rest_pairs::one ? 1 : 0;
                if (j < c.outputs) {
                    cos = sin = 0;
                    for (index u = 0; u < inputs; ++u) {
                        const auto at = static_cast<std::size_t>((h / c.group * inputs + u) * c.outputs + j);
                        cos += waves.cos_row(r)[static_cast<std::size_t>(u)] * cos_of[at];
                        sin += waves.sin_row(r)[static_cast<std::size_t>(u)] * sin_of[at];
                    }
                }
                table.cos_data(r, h)[j] = static_cast<T>(cos);
                table.sin_data(r, h)[j] = static_cast<T>(sin);
            }
    if (!positions.all_touched()) {
        std::vector<std::int32_t> row_of_token;
        std::int32_t next = 0;
        for (index n = 0; n < positions.tokens(); ++n)
            row_of_token.push_back(positions.touched(n) ? next++ : untouched_row);
        table.address_tokens(std::move(row_of_token));
    }
    return fourier_table<T>(std::move(table));
}

}  // namespace ROPEWALK_NAMESPACE
