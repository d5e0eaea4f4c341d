// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

/// Positions, frequencies, tables, kernels and schemes: all that rotates. Needs xsimd, not Eigen.

#include <ropewalk/core/version.hpp>
#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/index.hpp>
#include <ropewalk/core/half_types.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>

#include <ropewalk/positions/position_ids.hpp>
#include <ropewalk/positions/grid.hpp>
#include <ropewalk/positions/documents.hpp>
#include <ropewalk/positions/shard.hpp>
#include <ropewalk/positions/heading.hpp>
#include <ropewalk/positions/timeline.hpp>
#include <ropewalk/positions/hierarchy.hpp>

#include <ropewalk/frequencies/spectrum.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/axial.hpp>
#include <ropewalk/frequencies/mixed.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/per_pair.hpp>
#include <ropewalk/frequencies/p_rope.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/frequencies/ntk.hpp>
#include <ropewalk/frequencies/longrope.hpp>
#include <ropewalk/frequencies/llama3.hpp>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/angles/uniform_table.hpp>
#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/position_table.hpp>
#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/angles/make_angles.hpp>

#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/frequency_gradient.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/kernels/rotate_reference.hpp>
#include <ropewalk/kernels/rotate_token.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_uniform.hpp>
#include <ropewalk/kernels/rotate_on_the_fly.hpp>
#include <ropewalk/kernels/rotate_factored.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

#include <ropewalk/schemes/rotary_scheme.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>
#include <ropewalk/schemes/rope_vit.hpp>
#include <ropewalk/schemes/eva02.hpp>
#include <ropewalk/schemes/dinov3.hpp>
#include <ropewalk/schemes/sam.hpp>
#include <ropewalk/schemes/pixtral.hpp>
#include <ropewalk/schemes/qwen_vl_vision.hpp>
#include <ropewalk/schemes/llama4_vision.hpp>
#include <ropewalk/schemes/gemma4_vision.hpp>
#include <ropewalk/schemes/flux.hpp>
#include <ropewalk/schemes/qwen_image.hpp>
#include <ropewalk/schemes/lumina.hpp>
#include <ropewalk/schemes/freeflux.hpp>
#include <ropewalk/schemes/stable_audio.hpp>
#include <ropewalk/schemes/musecontrollite.hpp>
#include <ropewalk/schemes/drope.hpp>
#include <ropewalk/schemes/hirope.hpp>
#include <ropewalk/schemes/strictness.hpp>
#include <ropewalk/schemes/model_config.hpp>
#include <ropewalk/schemes/onnx.hpp>
#include <ropewalk/schemes/presets_llama.hpp>
#include <ropewalk/schemes/presets.hpp>
#include <ropewalk/schemes/explain.hpp>
#include <ropewalk/schemes/ggml.hpp>
#include <ropewalk/schemes/gguf.hpp>
#include <ropewalk/schemes/weight_layout.hpp>
#include <ropewalk/schemes/huggingface_models.hpp>
