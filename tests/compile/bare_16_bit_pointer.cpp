// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <cstdint>

#include <ropewalk/core/heads_view.hpp>

ropewalk::compute_t<std::uint16_t> refused;
