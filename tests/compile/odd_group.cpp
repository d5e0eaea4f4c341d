// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/pair_layout.hpp>

static_assert(ropewalk::blocked<3>::group == 3);
