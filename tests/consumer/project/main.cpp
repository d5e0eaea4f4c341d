// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <cstdio>
#include <vector>

#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

int main() {
    rw::position_table table(rw::frequencies::geometric({.rotary_dim = 128, .base = 5e5}), 16);
    std::vector<float> memory(2 * 8 * 128, 1.0f);
    const std::vector<int> positions = {0, 15};
    rw::rotate(rw::half_split{}, rw::heads_view(memory.data(), 2, 8, 128), table.rows(positions));
    std::printf("ropewalk %s: position 0 keeps %g, position 15 turns it to %g\n", ROPEWALK_VERSION_STRING,
                static_cast<double>(memory[0]), static_cast<double>(memory[8 * 128]));
}
