// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A long sequence in chunks that attend only to themselves and to a small memory. One number of the first
// chunk is changed: how much of the change reaches later chunks, with a memory and without, and what does
// each cost?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/attention/chunk_memory.hpp>
#include <ropewalk/frequencies/geometric.hpp>

namespace {

namespace rw = ropewalk;
namespace attention = rw::attention;
using floats = std::vector<float>;
constexpr rw::index chunks = 10, chunk = 64, heads = 4, channels = 32, dim = heads * channels, slots = 3;

floats normal(rw::index count, unsigned seed, double width) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> draw(0, width);
    floats x;
    for (rw::index i = 0; i < count; ++i) x.push_back(static_cast<float>(draw(engine)));
    return x;
}

/// The outputs of all chunks; the summary of a chunk is the mean of its outputs.
floats run(const floats& x, rw::index memory_slots) {
    const floats gate = normal(2 * dim * dim, 2, 0.1), candidate = normal(dim * dim, 3, 0.2);
    attention::memory_bank<float> bank(slots, dim, {.gate = gate, .candidate = candidate});
    const auto omega = rw::frequencies::geometric({.rotary_dim = channels});
    floats out(x.size());
    for (rw::index c = 0; c < chunks; ++c) {
        const rw::heads_view<const float> in(x.data() + c * chunk * dim, chunk, heads, channels);
        const rw::heads_view<const float> memory(bank.storage().data(), memory_slots, heads, channels);
        const rw::heads_view<float> to(out.data() + c * chunk * dim, chunk, heads, channels);
        attention::attend_chunk<float>(
            {.chunk = chunk, .local_window = 16}, omega,
            {.q = in, .k = in, .v = in, .memory_k = memory, .memory_v = memory, .out = to}, c,
            std::vector<double>{0, 0, 0});
        floats summary(static_cast<std::size_t>(dim), 0.f);
        for (rw::index i = 0; i < chunk * dim; ++i)
            summary[static_cast<std::size_t>(i % dim)] += to.data[i] / chunk;
        bank.write(summary);
    }
    return out;
}

}  // namespace

int main() {
    auto x = normal(chunks * chunk * dim, 1, 1);
    const auto with = run(x, slots), without = run(x, 0);
    x[5] += 1;
    const auto with_changed = run(x, slots), without_changed = run(x, 0);
    std::printf("chunk   change that arrives: memory of %td rows   no memory\n", slots);
    bool remembered = true;
    for (rw::index c = 0; c < chunks; ++c) {
        double seen[2] = {};
        for (rw::index i = c * chunk * dim; i < (c + 1) * chunk * dim; ++i) {
            const auto at = static_cast<std::size_t>(i);
            seen[0] = std::max<double>(seen[0], std::abs(with_changed[at] - with[at]));
            seen[1] = std::max<double>(seen[1], std::abs(without_changed[at] - without[at]));
        }
        std::printf("%5td   %42.1e   %9.1e\n", c, seen[0], seen[1]);
        remembered = remembered && seen[0] > 0 && (c == 0) == (seen[1] > 0);
    }
    std::printf("a token scores %td keys at most, full attention over the sequence %td\n", chunk + slots,
                chunks * chunk);
    return remembered ? 0 : 1;
}
