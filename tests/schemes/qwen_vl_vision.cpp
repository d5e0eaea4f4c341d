// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/qwen_vl_vision.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace tower = ropewalk::qwen_vl_vision;

TEST_CASE("Qwen2-VL tower: frames repeat, grids follow each other", "[schemes][qwen_vl_vision]") {
    const auto clip = tower::patches({{.frames = 2, .height = 2, .width = 4}});
    const auto image = tower::patches({{.height = 2, .width = 4}});
    REQUIRE(clip.tokens() == 16);
    for (rw::index n = 0; n < 16; ++n)
        for (rw::index a = 0; a < 2; ++a) CHECK(clip.at(n, a) == image.at(n % 8, a));
    CHECK(tower::patches({{1, 2, 4}, {1, 4, 2}}).tokens() == 16);
    CHECK(image.at(2, 0) == 1);  // block order: (0,0) (0,1) (1,0) (1,1)
    CHECK(image.at(2, 1) == 0);
}

TEST_CASE("Qwen2-VL tower: 20 frequencies an axis, rows first", "[schemes][qwen_vl_vision]") {
    const auto rope = tower::axial({});
    const auto s = rope.spectrum_for(1);
    CHECK(rope.rotary_dim == 80);
    CHECK(s.axis_of(0, 19) == 0);
    CHECK(s.axis_of(0, 20) == 1);
    CHECK(s.omega(1) == Approx(std::pow(1e4, -2.0 / 40)));
    CHECK(rope.read_layout == rw::pair_layout(rw::half_split{}));
}

TEST_CASE("Qwen2-VL tower: sides that merging does not divide are refused", "[schemes][qwen_vl_vision]") {
    CHECK_REFUSES("qwen_vl_vision::patches: height must be a multiple of merge, got 3",
                  tower::patches({{1, 3, 4}}));
    CHECK_REFUSES("qwen_vl_vision::patches: width must be a multiple of merge, got 5",
                  tower::patches({{1, 4, 5}}));
    CHECK_REFUSES("qwen_vl_vision::axial: head_dim must be a multiple of 4 and > 0, got 82",
                  tower::axial({.head_dim = 82}));
}

TEST_CASE("Qwen2-VL vision: what was given is refused by its name", "[schemes][qwen_vl_vision][errors]") {
    CHECK_REFUSES("qwen_vl_vision::patches: frames must be >= 0, got -1", tower::patches({{-1, 2, 2}}));
    CHECK_REFUSES("qwen_vl_vision::patches: height must be >= 0, got -2", tower::patches({{1, -2, 2}}));
    CHECK_REFUSES("qwen_vl_vision::patches: merge must be >= 1, got 0", tower::patches({{1, 2, 2}}, 0));
}
