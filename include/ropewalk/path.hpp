// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of path/: PaTH attention, with Householder transforms in place of rotations. Needs Eigen.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/path/head_numbers.hpp>
#include <ropewalk/path/householder.hpp>
#include <ropewalk/path/decode.hpp>
#include <ropewalk/path/block_transform.hpp>
#include <ropewalk/path/attend_options.hpp>
#include <ropewalk/path/prefill.hpp>
#include <ropewalk/path/block_gradient.hpp>
#include <ropewalk/path/backpropagate.hpp>
#include <ropewalk/path/deferred_keys.hpp>
#include <ropewalk/path/generation.hpp>
#include <ropewalk/path/conversion.hpp>
#include <ropewalk/path/checkpoint.hpp>
