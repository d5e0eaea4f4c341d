// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/llama4_vision.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::angles_of;
using support::near;

TEST_CASE("Llama 4 vision: worked example, coordinates from 1, class token last",
          "[schemes][llama4_vision]") {
    const auto rope = rw::llama4_vision::axial({.head_dim = 8});
    const auto where = rw::llama4_vision::patches({.side = 2});
    REQUIRE(where.tokens() == 5);
    CHECK(near(angles_of(rope, where, 0), {1, 0.01, 1, 0.01}));
    CHECK(near(angles_of(rope, where, 1), {2, 0.02, 1, 0.01}));  // the column comes first
    CHECK(near(angles_of(rope, where, 4), {0, 0, 0, 0}));
    CHECK_FALSE(where.touched(4));
    CHECK(rw::llama4_vision::axial({}).spectrum_for(1).pairs() == 44);
    CHECK_REFUSES("llama4_vision::axial: head_dim must be a multiple of 4 and > 0, got 90",
                  rw::llama4_vision::axial({.head_dim = 90}));
}
