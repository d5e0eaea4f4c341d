// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// GRAPE: rotations in learned planes (rank-2 generators) and context-dependent positions.
#pragma once

#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/core/fit_view.hpp>

/// GRAPE: rotations as group actions. This header has its multiplicative form of rank 2, exp(eta L) with L =
/// a b^T - b a^T, at a cost linear in the channels, and positions that a model computes from the text. The
/// fixed pairs of its models, which rotate clockwise, are frequencies::grape.
/// Source:   GRAPE, arXiv 2512.07805; model-architectures/GRAPE model/.
namespace ROPEWALK_NAMESPACE::grape {

/// sin(t) / s, (1 - cos t) / s^2 and their derivatives by s^2 for t = eta s, all finite at s = 0.
/// Accuracy: a few ulp at any t.
/// Source:   GRAPE, arXiv 2512.07805, with the series of sine and cosine below t = 1 / 2.
struct plane_factors {
    double first = 0;             ///< of L x
    double second = 0;            ///< of L L x
    double first_by_square = 0;   ///< its derivative by s^2
    double second_by_square = 0;  ///< its derivative by s^2

    /// The factors of one angle.
    static plane_factors at(double eta, double s) noexcept {
        const double t = eta * s, square = t * t;
        if (std::abs(t) < 0.5) {
            plane_factors f;
            double term = 1;  // (-1)^k t^(2k) / (2k)!
            for (int k = 0; k < 12; ++k) {
                f.first += term / (2 * k + 1);
                f.second += term / ((2 * k + 1) * (2 * k + 2));
                // The derivative of the next term, t^(2 (k + 1)), has the power of this one.
                const double next = -term / ((2 * k + 1) * (2 * k + 2));
                f.first_by_square += (k + 1) * next / (2 * k + 3);
                f.second_by_square += (k + 1) * next / ((2 * k + 3) * (2 * k + 4));
                term = next * square;
            }
            f.first *= eta;
            f.second *= eta * eta;
            f.first_by_square *= eta * eta * eta;
            f.second_by_square *= eta * eta * eta * eta;
            return f;
        }
        const double sine = std::sin(t), half = std::sin(t / 2), less = 2 * half * half, s2 = s * s;
        return {sine / s, less / s2, (t * std::cos(t) - sine) / (2 * s2 * s),
                (t * sine - 2 * less) / (2 * s2 * s2)};
    }
};

/// The rotation in the plane of two vectors: exp(n omega L), L = a b^T - b a^T, rotates e1 = a / |a| away
/// from the part of b that is orthogonal to it, by n omega s radians, where s is the area that a and b span.
/// Parallel vectors rotate nothing.
/// Throws:   invalid_config on vectors of different lengths or without channels, or numbers that are not
///           finite.
/// Source:   GRAPE, arXiv 2512.07805.
class plane {
  public:
    plane(std::span<const double> a, std::span<const double> b, double omega = 1)
        : a_(a.begin(), a.end()), b_(b.begin(), b.end()), omega_(omega) {
        constexpr const char* who = "grape::plane";
        detail::require(!a.empty(), who, "a must have channels", a.size());
        detail::require_equal(who, "b must have a's channels", a.size(), b.size());
        for (const double v : a) detail::require(std::isfinite(v), who, "a must be finite", v);
        for (const double v : b) detail::require(std::isfinite(v), who, "b must be finite", v);
        detail::require(std::isfinite(omega), who, "omega must be finite", omega);
        aa_ = dot(a_, a_), bb_ = dot(b_, b_), ab_ = dot(a_, b_);
        // From the part of b orthogonal to a: the difference of products cancels where the vectors are nearly
        // parallel.
        double across = 0;
        for (std::size_t i = 0; i < a_.size() && aa_ > 0; ++i) {
            const double v = b_[i] - a_[i] * (ab_ / aa_);
            across += v * v;
        }
        area_ = std::sqrt(across * aa_);
    }

    index channels() const noexcept { return static_cast<index>(a_.size()); }
    /// The area s: radians per unit of position and omega.
    double area() const noexcept { return area_; }

    /// x <- exp(position omega L) x, in place, for every head of every token.
    /// Shapes:   x [batches, tokens, heads, channels], positions [batches * tokens].
    /// Throws:   invalid_config on other sizes.
    /// Cost:     6 multiply-adds per channel.
    template <class T>
    void rotate_tokens(heads_view<T> x, std::span<const double> positions) const {
        constexpr const char* who = "grape::plane::rotate_tokens";
        detail::require_writable(who, "x", x);
        detail::require_equal(who, "x.channels must be the plane's", channels(), x.channels());
        detail::require_equal(who, "positions must have one entry a token", x.batches() * x.tokens(),
                              positions.size());
        for (index token = 0; token < x.batches() * x.tokens(); ++token)
            for (index h = 0; h < x.heads(); ++h) {
                auto* const head =
                    reinterpret_cast<stored_t<T>*>(x.at(token / x.tokens(), token % x.tokens(), h));
                double along_a = 0, along_b = 0;
                for (std::size_t i = 0; i < a_.size(); ++i) {
                    const auto v = static_cast<double>(static_cast<compute_t<T>>(head[i]));
                    along_a += a_[i] * v;
                    along_b += b_[i] * v;
                }
                const auto [ka, kb] = coefficients(
                    plane_factors::at(positions[static_cast<std::size_t>(token)] * omega_, area_), along_a,
                    along_b);
                for (std::size_t i = 0; i < a_.size(); ++i)
                    head[i] = static_cast<stored_t<T>>(static_cast<compute_t<T>>(
                        static_cast<double>(static_cast<compute_t<T>>(head[i])) + ka * a_[i] + kb * b_[i]));
            }
    }

    /// Adds to grad_a and grad_b the gradient of a loss, given x before the rotation and the gradient after
    /// it.
    /// Shapes:   x, gradient [channels] each, one token.
    /// Throws:   invalid_config on other sizes.
    void add_gradient(double position, std::span<const double> x, std::span<const double> gradient,
                      std::span<double> grad_a, std::span<double> grad_b) const {
        for (const std::size_t size : {x.size(), gradient.size(), grad_a.size(), grad_b.size()})
            detail::require_equal("grape::plane::add_gradient", "vectors must have the plane's channels",
                                  a_.size(), size);
        const auto f = plane_factors::at(position * omega_, area_);
        const double xa = dot(a_, x), xb = dot(b_, x), ga = dot(a_, gradient), gb = dot(b_, gradient);
        // y - x = ka a + kb b with ka = first xb + second (ab xb - bb xa), kb = -first xa - second (aa xb -
        // ab xa).
        const auto [ka, kb] = coefficients(f, xa, xb);
        const double by_xa = -f.first * gb + f.second * (ab_ * gb - bb_ * ga);
        const double by_xb = f.first * ga + f.second * (ab_ * ga - aa_ * gb);
        const double by_aa = -f.second * xb * gb, by_bb = -f.second * xa * ga;
        const double by_ab = f.second * (xb * ga + xa * gb);
        const double by_square =
            f.first_by_square * (xb * ga - xa * gb) +
            f.second_by_square * ((ab_ * xb - bb_ * xa) * ga - (aa_ * xb - ab_ * xa) * gb);
        for (std::size_t i = 0; i < a_.size(); ++i) {
            grad_a[i] += ka * gradient[i] + by_xa * x[i] + 2 * by_aa * a_[i] + by_ab * b_[i] +
                         by_square * 2 * (bb_ * a_[i] - ab_ * b_[i]);
            grad_b[i] += kb * gradient[i] + by_xb * x[i] + 2 * by_bb * b_[i] + by_ab * a_[i] +
                         by_square * 2 * (aa_ * b_[i] - ab_ * a_[i]);
        }
    }

  private:
    static double dot(std::span<const double> u, std::span<const double> v) noexcept {
        double sum = 0;
        for (std::size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
        return sum;
    }
    std::pair<double, double> coefficients(const plane_factors& f, double xa, double xb) const noexcept {
        return {f.first * xb + f.second * (ab_ * xb - bb_ * xa),
                -f.first * xa - f.second * (aa_ * xb - ab_ * xa)};
    }

    std::vector<double> a_, b_;
    double omega_, aa_ = 0, bb_ = 0, ab_ = 0, area_ = 0;
};

/// Positions that depend on the text: that of token t is the sum of sigmoid(logit / scale) over the tokens
/// before it. With frequencies::reversed(frequencies::grape(...)) they give GRAPE-M's contextual rotation.
/// Shapes:   logits [tokens] -> [tokens]; the first is 0.
/// Throws:   invalid_config on a scale that is 0 or not finite.
/// Source:   model-architectures/GRAPE model/ (m-ctx).
inline std::vector<double> context_positions(std::span<const double> logits, double scale = 16) {
    detail::require(std::isfinite(scale) && scale != 0, "grape::context_positions",
                    "scale must be finite and not 0", scale);
    std::vector<double> at;
    double sum = 0;
    for (const double logit : logits) {
        at.push_back(sum);
        sum += 1 / (1 + std::exp(-logit / scale));
    }
    return at;
}

}  // namespace ROPEWALK_NAMESPACE::grape
