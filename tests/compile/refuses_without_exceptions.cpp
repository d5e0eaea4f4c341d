// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/geometric.hpp>

int main() {
    const auto refused = ropewalk::frequencies::geometric({.rotary_dim = 7});
    return refused.pairs() == 0 ? 0 : 0;
}
