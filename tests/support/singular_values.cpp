// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include "support/precompiled.hpp"

template class Eigen::BDCSVD<Eigen::MatrixXd>;
