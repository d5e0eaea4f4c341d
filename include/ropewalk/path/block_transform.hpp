// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The product of the PaTH transforms of a block of tokens in WY form, applied to queries and keys.
#pragma once

#include <span>

#include <Eigen/Core>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE::path {

template <class T>
/// A row-major matrix of T.
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
/// A view of a row-major matrix.
using matrix_ref = Eigen::Ref<const matrix<T>, 0, Eigen::OuterStride<>>;

/// The product P = H_n ... H_2 H_1 of the transforms of consecutive tokens of one head, oldest first, stored
/// as P = I - W^T Y with W, Y [n, channels]: W has the rows w_r, and Y = (I + strict_lower(B W W^T))^-1 B W.
/// Requires: beta in [0, 2], |w| <= 1. T is the type of the arithmetic, float or double.
/// Cost:     n^2 channels multiply-adds to make, 2 n channels per row to apply.
/// Source:   WY form, Bischof and Van Loan 1987; UT transform as in fla-org/flash-linear-attention,
///           ops/path_attn.
template <class T>
class block_transform {
  public:
    explicit block_transform(index channels = 0) : w_(0, channels), y_(0, channels), inner_(0, 0) {}

    /// From all tokens of a block: w [n, channels], beta [n].
    block_transform(const matrix_ref<T>& w, std::span<const T> beta) : w_(w) {
        const Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>> b(beta.data(), w.rows());
        inner_ = b.asDiagonal() * (w_ * w_.transpose());
        y_ = b.asDiagonal() * w_;
        inner_.template triangularView<Eigen::UnitLower>().solveInPlace(y_);
    }

    index tokens() const noexcept { return w_.rows(); }
    index channels() const noexcept { return w_.cols(); }
    /// The rows w_r, oldest first.
    const matrix<T>& w() const noexcept { return w_; }
    /// The matrix Y.
    const matrix<T>& y() const noexcept { return y_; }

    /// Adds one newer token: w [channels].
    void accumulate(std::span<const T> w, T beta) {
        const Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>> row(w.data(),
                                                                        static_cast<index>(w.size()));
        const index n = tokens();
        const Eigen::Matrix<T, 1, Eigen::Dynamic> moved = row - (row * w_.transpose()) * y_;
        matrix<T> w_now(n + 1, row.cols()), y_now(n + 1, row.cols());
        w_now.topRows(n) = w_;
        y_now.topRows(n) = y_;
        w_now.row(n) = row;
        y_now.row(n) = beta * moved;
        w_.swap(w_now);
        y_.swap(y_now);
    }

    /// Rows q^T <- q^T P: carries queries back to before the block's first token. q [any, channels].
    template <class Derived>
    void apply_to_query(Eigen::MatrixBase<Derived>& q) const {
        if (tokens() == 0) return;
        q.derived().noalias() -= (q.derived() * w_.transpose()).eval() * y_;
    }
    /// Rows k <- P k: carries keys from before the block to its end. k [any, channels].
    template <class Derived>
    void update_keys(Eigen::MatrixBase<Derived>& k) const {
        if (tokens() == 0) return;
        k.derived().noalias() -= (k.derived() * y_.transpose()).eval() * w_;
    }

    /// For the block's own keys, k [n, channels] (key s belongs to token s): (I + ...)^-1
    /// strict_lower(B W K^T), from which scores inside the block and the keys at its end follow.
    /// Only for a block made from all tokens at once.
    matrix<T> own_keys(const matrix_ref<T>& k, std::span<const T> beta) const {
        const Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>> b(beta.data(), tokens());
        matrix<T> m = b.asDiagonal() * (w_ * k.transpose());
        m = m.template triangularView<Eigen::StrictlyLower>().toDenseMatrix();
        inner_.template triangularView<Eigen::UnitLower>().solveInPlace(m);
        return m;
    }
    /// The block's own keys at its end: key s with the transforms of the tokens after s applied.
    matrix<T> keys_at_end(const matrix_ref<T>& k, const matrix<T>& own) const {
        return k - own.transpose() * w_;
    }

  private:
    matrix<T> w_, y_, inner_;
};

}  // namespace ROPEWALK_NAMESPACE::path
