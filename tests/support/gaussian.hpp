// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Matrices of independent normal numbers, the same for a seed wherever they are asked for.

#include <random>

#include <Eigen/Core>

namespace support {

/// Standard normal entries.
inline Eigen::MatrixXd gaussian(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    return Eigen::MatrixXd::NullaryExpr(rows, columns, [&] { return normal(engine); });
}

}  // namespace support
