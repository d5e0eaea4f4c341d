// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of attention/: exact, tiled, windowed, linear and sparse attention. Needs Eigen.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/tile_product.hpp>
#include <ropewalk/attention/tile_pieces.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/attention/score_source.hpp>
#include <ropewalk/attention/softmax_strip.hpp>
#include <ropewalk/attention/tiled_core.hpp>
#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/attention/written_scores.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/tiled_gradient.hpp>
#include <ropewalk/attention/banded.hpp>
#include <ropewalk/attention/anchor_mask.hpp>
#include <ropewalk/attention/partial_attention.hpp>
#include <ropewalk/attention/tiled_partial.hpp>
#include <ropewalk/attention/tiled_rotated_keys.hpp>
#include <ropewalk/attention/linear_state.hpp>
#include <ropewalk/attention/linear_chunk.hpp>
#include <ropewalk/attention/linear_attention.hpp>
#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/attention/kv_injection.hpp>
#include <ropewalk/attention/object_mask.hpp>
#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/attention/dual_chunk.hpp>
#include <ropewalk/attention/tiled_dual_chunk.hpp>
#include <ropewalk/attention/self_extend.hpp>
#include <ropewalk/attention/grape_bias.hpp>
#include <ropewalk/attention/sparse_index.hpp>
#include <ropewalk/attention/compressed_keys.hpp>
