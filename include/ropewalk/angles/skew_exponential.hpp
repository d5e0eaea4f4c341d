// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The matrix exponential of skew-symmetric blocks (rotations of several channels) and its gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// The largest side of a block that is rotated as a whole.
inline constexpr index max_block_size = 64;

namespace detail {

/// A square matrix with `side` rows, row-major.
class square {
  public:
    explicit square(index side) : side_(side), values_(static_cast<std::size_t>(side * side)) {}
    square(index side, std::span<const double> values) : side_(side), values_(values.begin(), values.end()) {}

    index side() const noexcept { return side_; }
    double& operator()(index r, index c) noexcept { return values_[static_cast<std::size_t>(r * side_ + c)]; }
    double operator()(index r, index c) const noexcept {
        return values_[static_cast<std::size_t>(r * side_ + c)];
    }
    std::span<const double> values() const noexcept { return values_; }
    std::span<double> values() noexcept { return values_; }

    static square identity(index side) {
        square m(side);
        for (index i = 0; i < side; ++i) m(i, i) = 1;
        return m;
    }
    friend square operator*(const square& a, const square& b) {
        square out(a.side_);
        for (index r = 0; r < a.side_; ++r)
            for (index k = 0; k < a.side_; ++k) {
                const double v = a(r, k);
                for (index c = 0; c < a.side_; ++c) out(r, c) += v * b(k, c);
            }
        return out;
    }
    square transposed() const {
        square out(side_);
        for (index r = 0; r < side_; ++r)
            for (index c = 0; c < side_; ++c) out(c, r) = (*this)(r, c);
        return out;
    }
    /// The largest sum of absolute values in a row (the infinity norm).
    double size() const noexcept {
        double most = 0;
        for (index r = 0; r < side_; ++r) {
            double sum = 0;
            for (index c = 0; c < side_; ++c) sum += std::abs((*this)(r, c));
            most = std::max(most, sum);
        }
        return most;
    }
    void scale(double by) noexcept {
        for (double& v : values_) v *= by;
    }

  private:
    index side_;
    std::vector<double> values_;
};

/// exp(a): a is scaled until its norm is at most a quarter, the series is summed, and the result is squared
/// back.
inline square matrix_exponential(square a) {
    int halvings = 0;
    for (double size = a.size(); size > 0.25; size /= 2) ++halvings;
    a.scale(std::ldexp(1.0, -halvings));
    square sum = square::identity(a.side()), term = sum;
    for (int k = 1; k <= 13; ++k) {  // 0.25^14 / 14! is below 2^-64
        term = term * a;
        term.scale(1.0 / k);
        for (std::size_t i = 0; i < sum.values().size(); ++i) sum.values()[i] += term.values()[i];
    }
    for (; halvings > 0; --halvings) sum = sum * sum;
    return sum;
}

inline index checked_side(const char* who, index side, std::size_t numbers) {
    require(side >= 1 && side <= max_block_size, who, "side must be in 1 .. 64", side);
    require_equal(who, "matrices must hold side * side numbers", side * side, numbers);
    return side;
}

}  // namespace detail

/// The rotation exp(s) of a skew-symmetric matrix s (s^T = -s), row-major. Sides 2 and 3 use sine and cosine,
/// larger sides scaling, a Taylor series and squaring.
/// Shapes:   s and out [side, side], which may be the same memory.
/// Throws:   invalid_config on a side outside 1 .. 64, sizes that disagree, or entries that are not finite or
///           not skew-symmetric, to 2^-48 of the largest.
/// Accuracy: sides 2 and 3: 4 ulp at any angle; other sides 2^-50 times the norm of s, at least 1e-15.
/// Source:   Rodrigues 1840; Moler and Van Loan 2003, method 3.
inline void fill_rotation_exponential(std::span<const double> s, index side, std::span<double> out) {
    constexpr const char* who = "fill_rotation_exponential";
    detail::checked_side(who, side, s.size());
    detail::checked_side(who, side, out.size());
    detail::square a(side, s);
    double most = 0;
    for (const double v : s) {
        detail::require(std::isfinite(v), who, "entries must be finite", v);
        most = std::max(most, std::abs(v));
    }
    // u v - v u of two products is rounded once where the compiler fuses one of them.
    for (index r = 0; r < side; ++r)
        for (index c = 0; c <= r; ++c) {
            if (a(r, c) == -a(c, r)) continue;
            detail::require(std::abs(a(r, c) + a(c, r)) <= 0x1p-48 * most, who,
                            "matrices must be skew-symmetric, sum", a(r, c) + a(c, r));
            const double skew = a(r, c) / 2 - a(c, r) / 2;
            a(c, r) = -skew, a(r, c) = skew;
        }
    detail::square rotated(side);
    if (side == 2) {
        const double w = a(1, 0);
        rotated(0, 0) = rotated(1, 1) = std::cos(w);
        rotated(1, 0) = std::sin(w);
        rotated(0, 1) = -rotated(1, 0);
    } else if (side == 3) {
        const double t = std::hypot(a(0, 1), a(0, 2), a(1, 2));
        const double half = std::sin(t / 2) / (t / 2);
        const double first = t < 1e-4 ? 1 - t * t / 6 : std::sin(t) / t;
        const double second = t < 1e-4 ? 0.5 - t * t / 24 : half * half / 2;  // (1 - cos t) / t^2
        const auto squared = a * a;
        rotated = detail::square::identity(3);
        for (std::size_t i = 0; i < 9; ++i)
            rotated.values()[i] += first * a.values()[i] + second * squared.values()[i];
    } else {
        rotated = detail::matrix_exponential(std::move(a));
    }
    std::copy(rotated.values().begin(), rotated.values().end(), out.begin());
}

/// The gradient of a loss with respect to s, where y = exp(s) x: the derivative of the exponential at s^T in
/// the direction g x^T, where g is the gradient with respect to y. For a generator u with s = u - u^T, the
/// gradient is the result minus its transpose.
/// Shapes:   s, direction (the sum of g x^T) and out [side, side].
/// Throws:   as fill_rotation_exponential; invalid_config on a direction that is not finite.
/// Cost:     an exponential of twice the side.
/// Source:   Van Loan 1978: the upper right block of exp([[a, e], [0, a]]).
inline void fill_exponential_gradient(std::span<const double> s, std::span<const double> direction,
                                      index side, std::span<double> out) {
    constexpr const char* who = "fill_exponential_gradient";
    for (const std::size_t size : {s.size(), direction.size(), out.size()})
        detail::checked_side(who, side, size);
    detail::square both(2 * side);
    for (index r = 0; r < side; ++r)
        for (index c = 0; c < side; ++c) {
            const auto at = static_cast<std::size_t>(r * side + c);
            detail::require(std::isfinite(s[at]), who, "entries must be finite", s[at]);
            detail::require(std::isfinite(direction[at]), who, "direction must be finite", direction[at]);
            both(c, r) = both(side + c, side + r) = s[at];
        }
    // The result is linear in the direction: scaled to 1, the direction does not cost the rotation accuracy.
    double most = 0;
    for (const double v : direction) most = std::max(most, std::abs(v));
    for (index r = 0; r < side && most > 0; ++r)
        for (index c = 0; c < side; ++c)
            both(r, side + c) = direction[static_cast<std::size_t>(r * side + c)] / most;
    const auto whole = detail::matrix_exponential(std::move(both));
    for (index r = 0; r < side; ++r)
        for (index c = 0; c < side; ++c)
            out[static_cast<std::size_t>(r * side + c)] = most * whole(r, side + c);
}

}  // namespace ROPEWALK_NAMESPACE
