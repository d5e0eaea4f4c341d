// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of compression/: retrieval, EliteKV, MLA's latents and key codes. Needs Eigen.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/compression/row_products.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/compression/vector_quantizer.hpp>
#include <ropewalk/compression/codebook.hpp>
#include <ropewalk/compression/windowed_query.hpp>
#include <ropewalk/compression/score_selection.hpp>
#include <ropewalk/compression/rotated_keys.hpp>
#include <ropewalk/compression/retrieval_options.hpp>
#include <ropewalk/compression/retrieval_selection.hpp>
#include <ropewalk/compression/retrieval.hpp>
#include <ropewalk/compression/retrieval_calibration.hpp>
#include <ropewalk/compression/retrieval_reference.hpp>
#include <ropewalk/compression/latent_cache.hpp>
#include <ropewalk/compression/latent_weights.hpp>
#include <ropewalk/compression/latent_form.hpp>
#include <ropewalk/compression/latent_prefill.hpp>
#include <ropewalk/compression/latent_attention.hpp>
#include <ropewalk/compression/latent_twins.hpp>
#include <ropewalk/compression/elite_distances.hpp>
#include <ropewalk/compression/elite_pairs.hpp>
#include <ropewalk/compression/elite_layout.hpp>
#include <ropewalk/compression/elite_allocation.hpp>
#include <ropewalk/compression/elite_cache.hpp>
#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/compression/rope_folding.hpp>
#include <ropewalk/compression/elite_attention.hpp>
#include <ropewalk/compression/key_codes.hpp>
#include <ropewalk/compression/commuting_codebook.hpp>
