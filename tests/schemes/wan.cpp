// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/wan.hpp>

#include <random>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

TEST_CASE("wan: what six does not divide goes to time", "[schemes][wan]") {
    const auto count = [](rw::index head_dim, rw::index axis) {
        const auto s = rw::wan::self_attention({.head_dim = head_dim}).spectrum_for(1);
        rw::index n = 0;
        for (rw::index i = 0; i < s.pairs(); ++i) n += s.axis_of(0, i) == axis;
        return n;
    };
    CHECK(count(128, 0) == 22);
    CHECK(count(128, 1) == 21);
    CHECK(count(128, 2) == 21);
    CHECK(count(16, 0) == 4);
    CHECK(count(16, 1) == 2);
    CHECK_THROWS_WITH(rw::wan::self_attention({.head_dim = 15}),
                      "wan::self_attention: head_dim must be even and > 0, got 15");
    CHECK_THROWS_WITH(rw::wan::self_attention({.head_dim = 0}),
                      "wan::self_attention: head_dim must be even and > 0, got 0");
}

TEST_CASE("wan: one frame leaves the pairs of time alone, padding keeps every bit", "[schemes][wan]") {
    const auto rope = rw::wan::self_attention({.head_dim = 24});
    const std::vector<rw::index> grids{1, 2, 3, 1, 1, 4};
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> x(2 * 8 * 24);
    for (float& v : x) v = normal(random);
    const auto fresh = x;
    rw::rotate(rope, rw::heads_view(x.data(), {2, 8, 1, 24}),
               rw::make_factored_table(rope.spectrum_for(1), positions::video_batch(grids, 8)));
    for (rw::index b = 0; b < 2; ++b)
        for (rw::index n = 0; n < 8; ++n) {
            const bool padding = n >= (b == 0 ? 6 : 4);
            for (rw::index c = 0; c < (padding ? 24 : 8); ++c)
                CHECK(x[(b * 8 + n) * 24 + c] == fresh[(b * 8 + n) * 24 + c]);
        }
    CHECK(x != fresh);
}
