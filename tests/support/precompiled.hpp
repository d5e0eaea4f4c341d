// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// What tests and examples include of others, parsed once for all of them (ROPEWALK_TEST_PRECOMPILED), and the
// one template of it that takes fifteen seconds wherever it is used. No header of this library: a missing
// include would not be seen.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <Eigen/Dense>
#include <nlohmann/json.hpp>
#include <xsimd/xsimd.hpp>

extern template class Eigen::BDCSVD<Eigen::MatrixXd>;
