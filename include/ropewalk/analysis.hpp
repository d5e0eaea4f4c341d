// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Every header of analysis/: decay, base bounds, use of frequencies and precision. Needs Eigen.
#pragma once

// The order is that of cmake/layers.txt.
// clang-format off

#include <ropewalk/analysis/base_bound.hpp>
#include <ropewalk/analysis/decay.hpp>
#include <ropewalk/analysis/frequency_usage.hpp>
#include <ropewalk/analysis/head_patterns.hpp>
#include <ropewalk/analysis/marchenko_pastur.hpp>
#include <ropewalk/analysis/precision_drift.hpp>
#include <ropewalk/analysis/needle_perplexity.hpp>
#include <ropewalk/analysis/longrope2_search.hpp>
