// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/hirope.hpp>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace hirope = ropewalk::hirope;

TEST_CASE("HiRoPE: fast pairs read tokens, slow pairs units, on one ladder", "[schemes][hirope]") {
    const auto s = hirope::hierarchical({.head_dim = 16, .channels_of_level = {6, 10}}).spectrum_for(1);
    const auto plain = rw::frequencies::geometric({.rotary_dim = 16});
    CHECK(s.omegas() == plain.omegas());
    for (rw::index i = 0; i < 8; ++i) CHECK(s.axis_of(0, i) == (i < 3 ? 0 : 1));
    const auto half = hirope::hierarchical({.head_dim = 16}).spectrum_for(1);
    CHECK(half.axis_of(0, 3) == 0);
    CHECK(half.axis_of(0, 4) == 1);
}

TEST_CASE("HiRoPE: all channels on the token level, counted globally, is RoPE",
          "[schemes][hirope][reduces]") {
    const auto rope = hirope::hierarchical({.head_dim = 8, .channels_of_level = {8, 0}});
    const auto where =
        rw::positions::hierarchy({.tokens = 9, .starts = {{2, 5}}, .mode = rw::positions::counting::global});
    CHECK(rw::make_angles(rope.spectrum_for(1), where) ==
          rw::make_angles(rw::frequencies::geometric({.rotary_dim = 8}), rw::position_ids::text(9)));
}

TEST_CASE("HiRoPE: without units the slow pairs rest", "[schemes][hirope]") {
    const auto rope = hirope::hierarchical({.head_dim = 8});
    const auto angles =
        rw::make_angles(rope.spectrum_for(1), rw::positions::hierarchy({.tokens = 3, .starts = {{}}}));
    CHECK(angles[2 * 4 + 0] == Approx(2));
    CHECK(angles[2 * 4 + 2] == 0);
    CHECK(angles[2 * 4 + 3] == 0);
}

TEST_CASE("HiRoPE: the recommended split of Llama 2", "[schemes][hirope]") {
    const auto ladder = rw::frequencies::geometric({.rotary_dim = 128});
    CHECK(hirope::recommended_token_channels(ladder, 4096) == 92);
    CHECK(hirope::recommended_token_channels(ladder, 1) == 0);
    CHECK(hirope::recommended_token_channels(ladder, 1e9) == 128);
    CHECK_REFUSES("recommended_token_channels: trained_context must be >= 1, got 0",
                  hirope::recommended_token_channels(ladder, 0));
}

TEST_CASE("HiRoPE: splits any ladder over any number of levels", "[schemes][hirope]") {
    const auto yarn = rw::frequencies::yarn({.rotary_dim = 12, .factor = 4, .original_context = 4096});
    const auto s = hirope::split(yarn, {4, 4, 4});
    CHECK(s.axes() == 3);
    CHECK(s.magnitude() == yarn.magnitude());
    CHECK(s.axis_of(0, 5) == 2);
    CHECK_REFUSES("hirope::split: channels of all levels must sum to 2 * pairs, got 10",
                  hirope::split(yarn, {4, 6}));
    CHECK_REFUSES("hirope::split: channels of a level must be even and >= 0, got 3",
                  hirope::split(yarn, {3, 9}));
    CHECK_REFUSES("hirope::split: channels of a level must be even and >= 0, got -2",
                  hirope::split(yarn, {-2, 14}));
}
