// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The spectrum of weight matrices compared with the Marchenko-Pastur law of random matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include <Eigen/Dense>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// The Marchenko-Pastur law: the distribution of the eigenvalues of X^T X / N when the entries of X [N, P]
/// are independent with variance sigma2. All lie in [lower, upper], which depends on gamma = P / N.
/// Units:    those of an eigenvalue, which are those of an entry squared.
/// Source:   Marchenko and Pastur 1967.
struct marchenko_pastur {
    double sigma2 = 0;  ///< variance of the entries
    double gamma = 0;   ///< P / N
    double lower = 0;   ///< least eigenvalue
    double upper = 0;   ///< largest eigenvalue

    /// The law's density at x; 0 outside its edges.
    double density(double x) const noexcept {
        if (!(x > lower && x < upper) || !(x > 0)) return 0;
        return std::sqrt((upper - x) * (x - lower)) / (2 * std::numbers::pi * gamma * sigma2 * x);
    }
};

/// The law with the edges sigma2 (1 -+ sqrt(gamma))^2.
/// Throws:   invalid_config unless sigma2 is finite and >= 0 and 0 < gamma <= 1.
/// Source:   Marchenko and Pastur 1967.
inline marchenko_pastur make_marchenko_pastur(double sigma2, double gamma) {
    detail::require(std::isfinite(sigma2) && sigma2 >= 0, "make_marchenko_pastur",
                    "sigma2 must be finite and >= 0", sigma2);
    detail::require(gamma > 0 && gamma <= 1, "make_marchenko_pastur", "gamma must be in (0, 1]", gamma);
    const double root = std::sqrt(gamma);
    return {sigma2, gamma, sigma2 * (1 - root) * (1 - root), sigma2 * (1 + root) * (1 + root)};
}

/// How the variance of the law is estimated. `plain`: the mean of all eigenvalues, which a large spike
/// inflates so that it may hide weaker ones. `trimmed`: the mean of the eigenvalues at or below the resulting
/// upper edge, repeated until that set no longer changes.
enum class variance_estimate { plain, trimmed };

/// The spectrum of a weight matrix compared with that of noise.
/// Shapes:   eigenvalues [P], descending, of X^T X / N, zeros included; N >= P are the sides of X.
/// Source:   the diagnostics named in arXiv 2507.09394; effective rank, Roy and Vetterli 2007.
struct spectral_report {
    std::vector<double> eigenvalues;  ///< [P], descending
    marchenko_pastur law;             ///< with the variance estimate that was chosen
    index spikes = 0;                 ///< eigenvalues above the upper edge
    double spike_energy = 0;          ///< their share of the sum
    double gap = 0;                   ///< largest eigenvalue less the upper edge
    double soft_rank = 1;             ///< upper edge / largest eigenvalue: 1 or more means no spike
    double stable_rank = 0;           ///< sum / largest
    double effective_rank = 0;        ///< exp of the entropy of eigenvalue / sum
    double participation_ratio = 0;   ///< (sum)^2 / sum of squares
};

namespace detail {

/// The report from singular values in descending order, padded with zeros to the smaller side.
inline spectral_report report_of(std::vector<double> singular, index larger_side, variance_estimate how) {
    const double largest = singular.front();
    const auto count = static_cast<double>(singular.size());
    const auto n = static_cast<double>(larger_side);
    require(std::isfinite(largest * largest * count), "make_spectral_report",
            "matrix must have finite squared singular values, the largest singular value", largest);
    // Rounding errors of zero eigenvalues do not count: after trimming, some of them could appear as spikes.
    const double noise = std::numeric_limits<double>::epsilon() * n * largest;
    for (double& v : singular)
        if (v <= noise) v = 0;
    spectral_report r;
    r.eigenvalues = std::move(singular);
    for (double& v : r.eigenvalues) v = v * v / n;
    // Computed from values relative to the largest, which avoids underflow.
    double sum = 0, squares = 0, entropy = 0;
    for (double v : r.eigenvalues) {
        const double share = r.eigenvalues.front() > 0 ? v / r.eigenvalues.front() : 0;
        sum += share;
        squares += share * share;
    }
    for (double v : r.eigenvalues)
        if (sum > 0 && v > 0) {
            const double p = v / r.eigenvalues.front() / sum;
            entropy -= p > 0 ? p * std::log(p) : 0;
        }
    const double gamma = count / n;
    std::size_t first = 0;  // eigenvalues are in order, so those that are kept are a tail
    for (bool settled = false; !settled;) {
        double kept = 0;
        for (std::size_t i = first; i < r.eigenvalues.size(); ++i) kept += r.eigenvalues[i];
        r.law = make_marchenko_pastur(kept / static_cast<double>(r.eigenvalues.size() - first), gamma);
        settled = true;
        while (how == variance_estimate::trimmed && r.eigenvalues[first] > r.law.upper) {
            ++first;  // never past the smallest, which is at most the mean
            settled = false;
        }
    }
    if (!(sum > 0)) return r;  // the zero matrix: no spike, every rank 0
    double outside = 0;
    for (double v : r.eigenvalues)
        if (v > r.law.upper) {
            ++r.spikes;
            outside += v / r.eigenvalues.front();
        }
    r.spike_energy = outside / sum;
    r.gap = r.eigenvalues.front() - r.law.upper;
    r.soft_rank = r.law.upper / r.eigenvalues.front();
    r.stable_rank = sum;
    r.effective_rank = std::exp(entropy);
    r.participation_ratio = sum * sum / squares;
    return r;
}

// A template, like its callers, so that programs that do not use it do not compile the decomposition (20
// seconds with GCC 12).
template <class Matrix>
std::vector<double> singular_values_of(const Matrix& x, index count) {
    require(x.allFinite(), "make_spectral_report", "matrix must be finite, the sum of its entries is",
            x.sum());
    std::vector<double> values(static_cast<std::size_t>(count), 0.0);
    if (x.size() == 0) return values;
    const Eigen::VectorXd s = Eigen::BDCSVD<Matrix>(x).singularValues();
    for (Eigen::Index i = 0; i < std::min<Eigen::Index>(s.size(), count); ++i)
        values[static_cast<std::size_t>(i)] = s[i];
    return values;
}

}  // namespace detail

/// The spectrum of one matrix compared with the Marchenko-Pastur law. Spikes indicate structure, a soft rank
/// near 0 indicates that one direction dominates, and a small effective rank that the matrix has collapsed.
/// Shapes:   x of any sides; transposed when it is wider than tall.
/// Throws:   invalid_config on an empty matrix, entries that are not finite or whose squares overflow.
/// Cost:     one singular value decomposition.
/// Accuracy: eigenvalues 1e-12 relative to the largest; singular values of at most 2^-52 times the larger
///           side times the largest are 0, so that the rank shows. The zero matrix has no spike, soft rank 1
///           and every other rank 0.
/// Source:   the diagnostics named in arXiv 2507.09394 ("the MP gap, soft rank, outlier energy"), in their
///           standard definitions; no official code is public.
template <class Derived>
spectral_report make_spectral_report(const Eigen::MatrixBase<Derived>& matrix,
                                     variance_estimate how = variance_estimate::plain) {
    const Eigen::MatrixXd x = matrix;
    detail::require(x.size() > 0, "make_spectral_report", "matrix must not be empty, its size", x.size());
    const auto smaller = static_cast<index>(std::min(x.rows(), x.cols()));
    return detail::report_of(detail::singular_values_of(x, smaller),
                             static_cast<index>(std::max(x.rows(), x.cols())), how);
}

/// The same for the product a b^T (W_Q^h times W_K^h transposed, [hidden, hidden]) without forming it: its
/// nonzero singular values are those of R_a R_b^T, from the thin QR factors, which are only head_dim wide. A
/// product of two Gaussian matrices does not follow the law, and a product of low rank has gamma = 1 and many
/// zeros, so spikes are always found: compare with the matrix at initialisation, or examine a and b alone.
/// Shapes:   a [rows, inner], b [columns, inner].
/// Throws:   as make_spectral_report; invalid_config when the inner sides differ.
/// Cost:     two thin QR factorisations and a decomposition of [inner, inner].
/// Accuracy: as make_spectral_report.
/// Source:   the singular values of Q M P^T with orthonormal Q, P are those of M.
template <class A, class B>
spectral_report make_product_report(const Eigen::MatrixBase<A>& a_matrix,
                                    const Eigen::MatrixBase<B>& b_matrix,
                                    variance_estimate how = variance_estimate::plain) {
    const Eigen::MatrixXd a = a_matrix, b = b_matrix;
    detail::require(a.size() > 0 && b.size() > 0, "make_product_report",
                    "matrices must not be empty, the smaller size", std::min(a.size(), b.size()));
    detail::require_equal("make_product_report", "a and b must have the same columns", a.cols(), b.cols());
    const auto triangle = [](const auto& m) -> Eigen::MatrixXd {
        const Eigen::Index rows = std::min(m.rows(), m.cols());
        const Eigen::HouseholderQR<Eigen::MatrixXd> qr(m);
        return qr.matrixQR().topRows(rows).triangularView<Eigen::Upper>();
    };
    detail::require(a.allFinite(), "make_product_report", "a must be finite, its sum", a.sum());
    detail::require(b.allFinite(), "make_product_report", "b must be finite, its sum", b.sum());
    const Eigen::MatrixXd core = triangle(a) * triangle(b).transpose();
    const auto smaller = static_cast<index>(std::min(a.rows(), b.rows()));
    return detail::report_of(detail::singular_values_of(core, smaller),
                             static_cast<index>(std::max(a.rows(), b.rows())), how);
}

}  // namespace ROPEWALK_NAMESPACE
