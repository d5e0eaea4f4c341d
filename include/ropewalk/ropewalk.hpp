// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

/// Positions, frequencies, tables, kernels and schemes: all that rotates. Needs xsimd, not Eigen.

#include <ropewalk/core/version.hpp>
#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>
#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/heads_view.hpp>

#include <ropewalk/positions/position_ids.hpp>

#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/frequencies/llama3.hpp>

#include <ropewalk/angles/rows_view.hpp>

#include <ropewalk/kernels/pair_layout.hpp>
