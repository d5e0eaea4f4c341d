// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Spectral diagnostics of weight matrices.

#include <ropewalk/analysis/marchenko_pastur.hpp>

#include "runner.hpp"

namespace golden {
namespace {

Eigen::MatrixXd matrix_of(const tensor<double>& t) {
    require(t.rank() == 2, "a matrix must have rank 2, got " + std::to_string(t.rank()));
    using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    return Eigen::Map<const row_major>(t.values.data(), t.extent(0), t.extent(1));
}

/// Of x itself, or of the product of w_q and w_k over their head channels, formed from its thin factors:
/// w_q w_k^T where that has the extents of the config or the weights are [hidden, head], else w_q^T w_k.
spectral_report report(const golden_case& c, variance_estimate how) {
    if (c.has_input("x")) return make_spectral_report(matrix_of(c.input("x")), how);
    const Eigen::MatrixXd a = matrix_of(c.input("w_q")), b = matrix_of(c.input("w_k"));
    const auto is_of = [&](index rows, index cols) {
        return rows == c.integer("rows", -1) && cols == c.integer("cols", -1);
    };
    const bool plain = is_of(a.rows(), b.rows()) || (!is_of(a.cols(), b.cols()) && a.rows() >= a.cols());
    if (plain) return make_product_report(a, b, how);
    return make_product_report(a.transpose(), b.transpose(), how);
}

void diagnostics(const golden_case& c, results& out) {
    const spectral_report plain = report(c, variance_estimate::plain);
    const spectral_report trimmed = report(c, variance_estimate::trimmed);
    out.check("eigenvalues", plain.eigenvalues);
    out.check_scalar("gamma", plain.law.gamma);
    out.check_scalar("sigma2", plain.law.sigma2);
    out.check_scalar("lambda_minus", plain.law.lower);
    out.check_scalar("lambda_plus", plain.law.upper);
    out.check_scalar("spike_count", static_cast<double>(plain.spikes));
    out.check_scalar("spike_energy", plain.spike_energy);
    out.check_scalar("mp_gap", plain.gap);
    out.check_scalar("mp_soft_rank", plain.soft_rank);
    out.check_scalar("stable_rank", plain.stable_rank);
    out.check_scalar("effective_rank", plain.effective_rank);
    out.check_scalar("participation_ratio", plain.participation_ratio);
    out.check_scalar("sigma2_trimmed", trimmed.law.sigma2);
    out.check_scalar("lambda_plus_trimmed", trimmed.law.upper);
    out.check_scalar("spike_count_trimmed", static_cast<double>(trimmed.spikes));
}

const registration r{"MP spectral diagnostics", diagnostics};

}  // namespace
}  // namespace golden
