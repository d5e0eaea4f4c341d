// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

/// Every header of dispatch/.

#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/dispatch/rotate_scheme.hpp>
