// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

/// Every header of path/.

#include <ropewalk/path/householder.hpp>
#include <ropewalk/path/decode.hpp>
#include <ropewalk/path/block_transform.hpp>
#include <ropewalk/path/prefill.hpp>
#include <ropewalk/path/lazy_keys.hpp>
#include <ropewalk/path/deferred_keys.hpp>
#include <ropewalk/path/generation.hpp>
