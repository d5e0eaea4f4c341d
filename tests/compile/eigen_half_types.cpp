// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Our forward declarations of Eigen's types agree with Eigen's own.
#include <ropewalk/core/half_types.hpp>

#include <Eigen/Core>

static_assert(sizeof(Eigen::half) == sizeof(ropewalk::f16));
static_assert(sizeof(Eigen::bfloat16) == sizeof(ropewalk::bf16));
static_assert(ropewalk::dtype<Eigen::half>::format == ropewalk::storage::f16);
static_assert(ropewalk::dtype<Eigen::bfloat16>::format == ropewalk::storage::bf16);
