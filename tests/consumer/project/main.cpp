// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <cstdio>
#include <vector>

#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

int main() {
    const rw::spectrum spectrum = rw::frequencies::geometric({.rotary_dim = 128, .base = 5e5});
    std::vector<float> memory(4 * 8 * 128, 1.0f);
    const rw::heads_view k(memory.data(), 4, 8, 128);
    std::printf("ropewalk %s: %d pairs over %d heads\n", ROPEWALK_VERSION_STRING,
                static_cast<int>(spectrum.pairs()), static_cast<int>(k.heads()));
}
