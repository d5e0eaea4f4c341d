// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/pixtral.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace pixtral = ropewalk::pixtral;
using support::angles_of;
using support::near;

TEST_CASE("Pixtral: worked example, rows and columns differ", "[schemes][pixtral]") {
    const auto rope = pixtral::axial({.head_dim = 8});
    const auto where = pixtral::patches({{.height = 3, .width = 5}});
    CHECK(near(angles_of(rope, where, 2 * 5 + 3), {2, 0.02, 0.3, 0.003}));
    const auto s = pixtral::axial({.head_dim = 64}).spectrum_for(1);
    for (rw::index i = 0; i < 16; ++i)
        CHECK(s.omega(16 + i) / s.omega(i) == Approx(std::pow(1e4, -2.0 / 64)));
}

TEST_CASE("Pixtral: the layout follows the checkpoint", "[schemes][pixtral]") {
    CHECK(pixtral::axial({}).read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK(pixtral::axial({.from = pixtral::weights::hugging_face}).read_layout ==
          rw::pair_layout(rw::half_split{}));
}

TEST_CASE("Pixtral: packed images start again, and larger ones are refused", "[schemes][pixtral]") {
    const auto where = pixtral::patches({{2, 3}, {1, 2}});
    CHECK(where.values() == std::vector<double>{0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 0, 0, 0, 1});
    CHECK_REFUSES("pixtral::patches: width must be >= 1 and at most max_side, got 65",
                  pixtral::patches({{64, 65}}));
    CHECK_REFUSES("pixtral::patches: height must be >= 1 and at most max_side, got 9",
                  pixtral::patches({{9, 2}}, 8));
    CHECK_REFUSES("pixtral::patches: height must be >= 1 and at most max_side, got 0",
                  pixtral::patches({{0, 2}}));
    CHECK_REFUSES("pixtral::axial: head_dim must be a multiple of 4 and > 0, got 6",
                  pixtral::axial({.head_dim = 6}));
}
