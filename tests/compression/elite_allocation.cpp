// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_allocation.hpp>

#include <cmath>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("elite_allocation: the grid of the published script", "[compression][elite]") {
    const auto grid = rw::make_elite_allocations({});  // Llama 2 7B
    rw::index r = 1, step = 0;
    std::size_t at = 0;
    for (; r <= 32; ++r)
        for (step = 0; step < 29; ++step) {  // ceil(0.9 * 4096 / 128)
            const rw::index latent = 4096 - 128 * step;
            if (double(latent) > double((256 - 2 * r) * 32 * 128) / double(384 - 2 * r)) continue;
            REQUIRE(at < grid.size());
            CHECK(grid[at].rounds == r);
            CHECK(grid[at].latent == latent);
            CHECK(grid[at].ratio ==
                  Approx(double(2 * r * 32 + latent) / double(2 * 32 * 128)).epsilon(1e-15));
            ++at;
        }
    CHECK(at == grid.size());
    CHECK(grid.size() > 100);
}

TEST_CASE("elite_allocation: the least loss within a budget", "[compression][elite]") {
    const std::vector<rw::elite_allocation> all{{1, 8, 0.5}, {2, 4, 0.25}, {3, 4, 0.3}, {4, 2, 0.2}};
    const double none = std::nan("");
    const auto best = [&](std::vector<double> losses, double budget) {
        return rw::best_elite_allocation(all, losses, budget).rounds;
    };
    CHECK(best({1, 2, 3, 4}, 1) == 1);
    CHECK(best({1, 2, 3, 4}, 0.4) == 2);
    CHECK(best({1, 3, 3, 4}, 0.4) == 2);  // equal: the smaller cache
    CHECK(best({1, 4, 3, 3}, 0.4) == 4);
    CHECK(best({1, none, none, 9}, 0.4) == 4);
    CHECK_THROWS_WITH(best({1, 2, 3, 4}, 0.1),
                      ContainsSubstring("budget must leave a measured allocation, got 0.1"));
    CHECK_THROWS_WITH(best({1, 2}, 1),
                      ContainsSubstring("losses must hold one number an allocation: wanted 4, got 2"));
    CHECK_THROWS_WITH(rw::make_elite_allocations({.last_rounds = 65}),
                      ContainsSubstring("last_rounds must be at most head_dim / 2, got 65"));
    CHECK_THROWS_WITH(rw::make_elite_allocations({.latent_step = 0}),
                      ContainsSubstring("latent_step must be"));
    CHECK_THROWS_WITH(rw::make_elite_allocations({.hidden = PTRDIFF_MAX}),
                      ContainsSubstring("hidden must be"));
    CHECK_THROWS_WITH(rw::make_elite_allocations({.least_width = std::nan("")}),
                      ContainsSubstring("least_width must be"));
}
