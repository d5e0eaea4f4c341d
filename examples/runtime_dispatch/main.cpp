// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// One binary for every CPU: which unit it picked here, and that each unit that this CPU can run rotates the
// same queries and keys to the same numbers.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/dispatch/rotate.hpp>
#include <ropewalk/frequencies/llama3.hpp>

namespace rw = ropewalk;

int main() {
    const rw::index tokens = 4, heads = 8, channels = 128;
    const std::vector<std::int64_t> positions{0, 17, 4095, 131071};
    const auto table = rw::make_rotation_table(rw::frequencies::llama3({.rotary_dim = channels, .base = 5e5}),
                                               rw::position_ids::from(positions));

    const auto rotated = [&] {
        std::vector<float> q;
        for (rw::index i = 0; i < tokens * heads * channels; ++i)
            q.push_back(static_cast<float>(std::cos(static_cast<double>(i * i % 1009))));
        const rw::heads_view view(q.data(), tokens, heads, channels);
        if (!rw::dispatch::run(rw::dispatch::make_rotate_call(rw::half_split{}, view, table.rows())))
            std::abort();  // views that do not fit their rows
        return q;
    };

    std::printf("unit: %s\n", ropewalk_unit());
    const std::vector<float> here = rotated();
    for (rw::index n = 0; n < tokens; ++n)
        std::printf("position %6ld: %9.5f %9.5f %9.5f\n",
                    static_cast<long>(positions[static_cast<std::size_t>(n)]),
                    static_cast<double>(here[static_cast<std::size_t>(n * heads * channels)]),
                    static_cast<double>(here[static_cast<std::size_t>(n * heads * channels + 63)]),
                    static_cast<double>(here[static_cast<std::size_t>(n * heads * channels + 127)]));

    // Two units may round the last bit differently: one has fused multiply-add, another has not.
    double apart = 0;
    for (std::ptrdiff_t i = 0; ropewalk_available_unit(i) != nullptr; ++i) {
        if (ropewalk_use_unit(ropewalk_available_unit(i)) != ROPEWALK_OK) return 1;
        const std::vector<float> there = rotated();
        for (std::size_t c = 0; c < here.size(); ++c)
            apart = std::fmax(apart, std::fabs(static_cast<double>(here[c]) - static_cast<double>(there[c])));
    }
    const bool same = apart <= 5e-7;  // two roundings of numbers below 2
    std::printf("all units agree: %s\n", same ? "yes" : "no");
    return same ? 0 : 1;
}
