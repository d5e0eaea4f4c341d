// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <cstdint>

#include <ropewalk/core/heads_view.hpp>

ropewalk::heads_view<std::uint16_t> refused;
