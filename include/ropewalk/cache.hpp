// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

/// Every header of cache/.

#include <ropewalk/cache/row_products.hpp>
#include <ropewalk/cache/row_attention.hpp>
#include <ropewalk/cache/vector_quantizer.hpp>
#include <ropewalk/cache/codebook.hpp>
#include <ropewalk/cache/windowed_query.hpp>
#include <ropewalk/cache/score_selection.hpp>
#include <ropewalk/cache/retrieval_options.hpp>
#include <ropewalk/cache/retrieval.hpp>
#include <ropewalk/cache/retrieval_calibration.hpp>
#include <ropewalk/cache/retrieval_reference.hpp>
#include <ropewalk/cache/latent_attention.hpp>
#include <ropewalk/cache/latent_twins.hpp>
#include <ropewalk/cache/elite_pairs.hpp>
#include <ropewalk/cache/elite_layout.hpp>
#include <ropewalk/cache/low_rank.hpp>
