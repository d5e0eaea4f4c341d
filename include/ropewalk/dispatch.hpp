// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of dispatch/: the choice of the instruction set at run time.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/dispatch/rotate_scheme.hpp>
