// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/mixed.hpp>

#include <array>
#include <cmath>
#include <numbers>
#include <random>

#include <ropewalk/frequencies/axial.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace frequencies = ropewalk::frequencies;

TEST_CASE("mixed: every checkpoint shape is one array", "[frequencies][mixed]") {
    // [2 axes, 3 layers, 2 heads, 4 pairs] numbered in order
    std::vector<float> weights(48);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i);
    for (rw::index layer = 0; layer < 3; ++layer) {
        const auto s = frequencies::mixed({.heads = 2, .pairs = 4, .depth = 3, .layer = layer}, weights);
        REQUIRE(s.is_mixed());
        for (rw::index h = 0; h < 2; ++h)
            for (rw::index i = 0; i < 4; ++i) {
                const double x = static_cast<double>((0 * 3 + layer) * 8 + h * 4 + i);
                const double y = static_cast<double>((1 * 3 + layer) * 8 + h * 4 + i);
                CHECK(s.omega(h, 1, i) == Approx(x).epsilon(1e-14));  // x multiplies the column, axis 1
                CHECK(s.omega(h, 0, i) == Approx(y).epsilon(1e-14));
            }
    }
    const auto plain = frequencies::mixed(
        {.heads = 2, .pairs = 4, .depth = 3, .order = frequencies::weight_axes::as_positions}, weights);
    CHECK(plain.omega(1, 0, 2) == Approx(6));
}

TEST_CASE("mixed start: the published numbers", "[frequencies][mixed]") {
    // head_dim 8, base 10, phi = pi / 6: see the worked example of RoPE-ViT.
    const std::vector<double> phi{std::numbers::pi / 6};
    const auto w = frequencies::make_mixed_start({.head_dim = 8}, phi);
    const double want[] = {0.866025, 0.273861, -0.5, -0.158114, 0.5, 0.158114, 0.866025, 0.273861};
    REQUIRE(w.size() == 8);
    for (std::size_t i = 0; i < 8; ++i) CHECK(w[i] == Approx(want[i]).epsilon(2e-6));
}

TEST_CASE("mixed start: angle 0 is axial RoPE, column first", "[frequencies][mixed][reduces]") {
    const auto w = frequencies::make_mixed_start({.head_dim = 16, .base = 100}, std::vector<double>{0, 0});
    const auto s = frequencies::mixed({.heads = 2, .pairs = 8}, w);
    const auto axial = frequencies::axial({.channels = {8, 8}, .base = 100, .axis_of_block = {1, 0}});
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index a = 0; a < 2; ++a)
            for (rw::index i = 0; i < 8; ++i)
                CHECK(s.omega(h, a, i) == Approx(axial.omega(0, a, i)).epsilon(1e-15).margin(0));
}

TEST_CASE("mixed start: drawn angles give every head its own direction, of the ladder's length",
          "[frequencies][mixed]") {
    std::mt19937 engine(3);
    const auto w = frequencies::make_mixed_start({.head_dim = 32}, 4, engine);
    const auto s = frequencies::mixed({.heads = 4, .pairs = 16}, w);
    for (rw::index h = 0; h < 4; ++h)
        for (rw::index i = 0; i < 16; ++i) {
            const double length = std::hypot(s.omega(h, 0, i), s.omega(h, 1, i));
            CHECK(length == Approx(std::pow(10.0, -4.0 * static_cast<double>(i % 8) / 32)));
        }
    CHECK(s.omega(0, 0, 0) != s.omega(1, 0, 0));
    // All around: 64 heads do not leave out an eighth of the circle.
    const auto many = frequencies::mixed({.heads = 64, .pairs = 2},
                                         frequencies::make_mixed_start({.head_dim = 4}, 64, engine));
    std::array<int, 8> seen{};
    for (rw::index h = 0; h < 64; ++h) {
        const double angle = std::atan2(many.omega(h, 1, 0), many.omega(h, 0, 0));
        ++seen[static_cast<std::size_t>((angle + std::numbers::pi) / std::numbers::pi * 4) % 8];
    }
    for (const int heads : seen) CHECK(heads > 0);
}

TEST_CASE("mixed: bad shapes are refused", "[frequencies][mixed]") {
    const std::vector<double> w(16);
    CHECK_REFUSES("mixed: weights must hold axes * depth * heads * pairs numbers: wanted 24, got 16",
                  frequencies::mixed({.heads = 3, .pairs = 4}, w));
    CHECK_REFUSES("mixed: layer must be below depth, got 1",
                  frequencies::mixed({.heads = 2, .pairs = 4, .depth = 1, .layer = 1}, w));
    CHECK_REFUSES("mixed: heads must be >= 1, got 0", frequencies::mixed({.heads = 0, .pairs = 4}, w));
    CHECK_REFUSES("spectrum: frequencies must be finite, got nan",
                  frequencies::mixed({.pairs = 1}, std::vector<double>{0, std::nan("")}));
    CHECK_REFUSES("make_mixed_start: head_dim must be a multiple of 4 and > 0, got 6",
                  frequencies::make_mixed_start({.head_dim = 6}, std::vector<double>{0}));
    CHECK_REFUSES("make_mixed_start: angles must be finite, got inf",
                  frequencies::make_mixed_start({.head_dim = 8}, std::vector<double>{INFINITY}));
}
