// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/cogvideox.hpp>

#include <algorithm>

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

TEST_CASE("cogvideox: 16 channels of time, 24 of rows, 24 of columns", "[schemes][cogvideox]") {
    const auto rope = rw::cogvideox::joint();
    const auto s = rope.spectrum_for(1);
    CHECK(rope.head_dim == 64);
    CHECK(rope.read_layout == rw::pair_layout(rw::interleaved{}));
    for (rw::index i = 0; i < 32; ++i) CHECK(s.axis_of(0, i) == (i < 8 ? 0 : i < 20 ? 1 : 2));
    CHECK(s.omega(0) == 1);
    CHECK(s.omega(8) == 1);
    CHECK(s.omega(20) == 1);
    CHECK_THROWS_WITH(
        rw::cogvideox::joint({.head_dim = 20}),
        "cogvideox::joint: head_dim must be a multiple of 16 where no channels are given, got 20");
    CHECK_THROWS_WITH(rw::cogvideox::joint({.head_dim = 0}), "cogvideox::joint: head_dim must be > 0, got 0");
    CHECK_THROWS_WITH(rw::cogvideox::joint({.head_dim = 32, .channels = {16, 8, 6}}),
                      "cogvideox::joint: channels must sum to head_dim: wanted 32, got 30");
    CHECK_THROWS_WITH(rw::cogvideox::joint({.head_dim = 32, .channels = {16, 16}}),
                      "cogvideox::joint: channels must be three numbers: of time, rows and columns, got 2");
    CHECK_THROWS_WITH(rw::cogvideox::joint({.head_dim = 32, .channels = {16, 9, 7}}),
                      "cogvideox::joint: channels must be even and in 0 .. 65536, got 9");
    CHECK(rw::cogvideox::joint({.head_dim = 20, .channels = {4, 8, 8}}).rotary_dim == 20);
}

TEST_CASE("cogvideox: text in front keeps every bit", "[schemes][cogvideox]") {
    const auto rope = rw::cogvideox::joint();
    const auto where = positions::cogvideox_grid({.frames = 2, .height = 5, .width = 9, .text_before = 3});
    std::vector<float> x(static_cast<std::size_t>(where.tokens() * 64), 0.5f);
    rw::rotate(rope, rw::heads_view(x.data(), where.tokens(), 1, 64),
               rw::make_factored_table(rope.spectrum_for(1), where));
    CHECK(std::all_of(x.begin(), x.begin() + 3 * 64, [](float v) { return v == 0.5f; }));
    CHECK(x[3 * 64 + 16] != 0.5f);  // rows of a wide clip start below the crop's top
}
