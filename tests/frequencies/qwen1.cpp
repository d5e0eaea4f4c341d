// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/qwen1.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("qwen1: alpha steps at the doublings of the trained context", "[frequencies][qwen1]") {
    const frequencies::qwen1_config c{.rotary_dim = 128};
    // Counted in whole numbers: the smallest power of two that reaches n / L, doubled, less one.
    for (const std::int64_t n :
         {1, 1000, 1024, 1025, 2047, 2048, 2049, 4096, 4097, 8192, 8193, 32768, 32769}) {
        std::int64_t reach = 1;
        while (reach * 2048 < n) reach *= 2;
        const double want = n <= 2048 ? 1 : double(2 * reach - 1);
        CHECK(frequencies::qwen1_alpha(c, n) == want);
    }
    CHECK(frequencies::qwen1_base(c, 2049) == Approx(30527.7367488067).epsilon(1e-12));
    CHECK(frequencies::qwen1_base(c, 8193) == Approx(156588.32345714502).epsilon(1e-12));
}

TEST_CASE("qwen1: up to the trained context it is the plain ladder", "[frequencies][qwen1][reduces]") {
    const frequencies::qwen1_config c{.rotary_dim = 16, .trained_context = 100};
    CHECK(frequencies::qwen1(c, 100).omegas() == frequencies::geometric({.rotary_dim = 16}).omegas());
    CHECK(frequencies::qwen1(c, 101).omegas() != frequencies::geometric({.rotary_dim = 16}).omegas());
}

TEST_CASE("log_n_scale: 1 up to the trained context, then a ratio of logarithms", "[frequencies][qwen1]") {
    CHECK(frequencies::log_n_scale(2047, 2048) == 1);
    CHECK(frequencies::log_n_scale(4095, 2048) == Approx(double(12.0L / 11.0L)).epsilon(1e-15));
    CHECK(frequencies::log_n_scale(2048, 2048) ==
          Approx(double(std::log(2049.0L) / std::log(2048.0L))).epsilon(1e-15));
}

TEST_CASE("qwen1: refuses bad numbers", "[frequencies][qwen1][errors]") {
    CHECK_REFUSES("qwen1: trained_context must be finite and > 0, got 0",
                  frequencies::qwen1({.rotary_dim = 8, .trained_context = 0}, 5));
    CHECK_REFUSES("qwen1: context_length must be >= 1, got 0", frequencies::qwen1({.rotary_dim = 8}, 0));
    CHECK_REFUSES("ntk: rotary_dim must be > 2, got 2", frequencies::qwen1({.rotary_dim = 2}, 5));
    CHECK_REFUSES("log_n_scale: position must be >= 0, got -1", frequencies::log_n_scale(-1, 10));
    CHECK_REFUSES("log_n_scale: trained_context must be finite and > 1, got 1",
                  frequencies::log_n_scale(1, 1));
}
