// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Which context length does a base support? The least base for which a key similar to the query scores higher
// than a random one at every distance below the context, for heads of 128 channels: the paper's table and a
// new search.
//     base_bounds [LONGEST CONTEXT TO SEARCH, 131072 unless given]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <ropewalk/analysis/base_bound.hpp>

namespace rw = ropewalk;
namespace analysis = ropewalk::analysis;

int main(int argc, char** argv) {
    const long long longest = argc > 1 ? std::atoll(argv[1]) : 131072;
    int wrong = 0;
    std::printf("%10s %10s %22s %16s %16s %8s\n", "context", "paper", "as published, again", "known here",
                "searched now", "seconds");
    for (const auto& row : analysis::published_base_bounds()) {
        std::printf("%10lld %10.1e %22.1e %16.8g", static_cast<long long>(row.context_length), row.paper,
                    row.recomputed, row.ours);
        if (row.context_length > longest) {
            std::printf("%17s\n", "-");
            continue;
        }
        const auto start = std::chrono::steady_clock::now();
        const double found = analysis::min_base({.context_length = row.context_length}).value_or(0);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        std::printf(" %16.8g %8.2f\n", found, taken.count());
        wrong += std::abs(found - row.ours) > 1e-7 * row.ours;
    }
    // A larger base is not always better: the paper's 3.1e5 fails before its 16384 tokens.
    const auto rounded = rw::frequencies::geometric({.rotary_dim = 128, .base = 3.1e5});
    std::printf("base 3.1e5 tells them apart up to distance %lld of 16384\n",
                static_cast<long long>(analysis::first_negative(rounded, 16384)));
    return wrong == 0 ? 0 : 1;
}
