// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/grape.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("grape: learned logarithms over a scale", "[frequencies][grape]") {
    const std::vector<double> logs{0.5, -3, 16};
    const auto s = frequencies::grape(logs, 8);
    for (rw::index i = 0; i < 3; ++i)
        CHECK(s.omega(i) == Approx(double(std::exp((long double)logs[i] / 8))).epsilon(2e-15));
    CHECK_REFUSES("grape: scale must be finite and not 0, got 0", frequencies::grape(logs, 0));
    CHECK_REFUSES("spectrum: frequencies must be finite, got inf",
                  frequencies::grape(std::vector<double>{1e6}, 1));
}

TEST_CASE("grape: started at RoPE's logarithms it is RoPE", "[frequencies][grape][reduces]") {
    const auto ladder = frequencies::geometric({.rotary_dim = 16});
    std::vector<double> logs;
    for (const double w : ladder.omegas()) logs.push_back(16 * std::log(w));
    for (rw::index i = 0; i < 8; ++i)
        CHECK(frequencies::grape(logs).omega(i) == Approx(ladder.omega(i)).epsilon(1e-14));
}

TEST_CASE("grape: flattened and reversed ladders", "[frequencies][grape]") {
    const auto ladder = frequencies::geometric({.rotary_dim = 16});
    const auto flat = frequencies::flatten(ladder, 2), back = frequencies::reversed(ladder);
    for (rw::index i = 0; i < 8; ++i) {
        CHECK(flat.omega(i) == Approx(double(std::pow(1e4L, -i / 16.0L))).epsilon(2e-15));
        CHECK(back.omega(i) == -ladder.omega(i));
        CHECK(frequencies::flatten(back, 2).omega(i) == -flat.omega(i));
    }
    CHECK(frequencies::flatten(ladder, 1).omegas() == ladder.omegas());
    CHECK_REFUSES("flatten: scale must be finite and not 0, got 0", frequencies::flatten(ladder, 0));
}
