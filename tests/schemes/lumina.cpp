// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/lumina.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace lumina = ropewalk::lumina;

TEST_CASE("Lumina-Image 2.0: the image stands behind the caption, padding rests", "[schemes][lumina]") {
    const auto ids = lumina::joint_positions({.caption_tokens = 2, .height = 1, .width = 2, .padding = 1});
    CHECK(ids.values() == std::vector<double>{0, 0, 0, 1, 0, 0, 2, 0, 0, 2, 0, 1, 0, 0, 0});
    CHECK(ids.touched(0));
    CHECK_FALSE(ids.touched(4));
    CHECK(lumina::joint({}).rotary_dim == 96);
    CHECK(lumina::joint({}).spectrum_for(1).omega(1) == Approx(std::pow(1e4, -1.0 / 16)));
}

TEST_CASE("Lumina-Image 2.0: ids beyond axes_lens are refused", "[schemes][lumina]") {
    CHECK_REFUSES("lumina::joint_positions: caption_tokens must be >= 0 and below axes_lens[0], got 300",
                  lumina::joint_positions({.caption_tokens = 300, .height = 1, .width = 1}));
    CHECK(lumina::joint_positions({.caption_tokens = 300}).tokens() == 300);
    CHECK_REFUSES("lumina::joint_positions: height must be >= 0 and at most axes_lens[1], got 513",
                  lumina::joint_positions({.height = 513, .width = 1}));
    CHECK_REFUSES("lumina::joint_positions: width must be >= 0 and at most axes_lens[2], got 9",
                  lumina::joint_positions({.height = 1, .width = 9, .axes_lens = {8, 8, 8}}));
    CHECK_REFUSES(
        "lumina::joint_positions: caption_tokens must be >= 0 and below axes_lens[0], "
        "got " +
            support::largest_index(),
        lumina::joint_positions({.caption_tokens = PTRDIFF_MAX, .height = 1, .width = 1}));
    CHECK_REFUSES("lumina::joint_positions: padding must be >= 0, got -1",
                  lumina::joint_positions({.caption_tokens = 2, .padding = -1}));
    CHECK_REFUSES(
        "lumina::joint_positions: axes_lens must be at most 134217728, got " + support::largest_index(),
        lumina::joint_positions({.caption_tokens = 2, .axes_lens = {PTRDIFF_MAX, 1, 1}}));
    CHECK_REFUSES("lumina::joint: axes_dims must not all be 0, largest, got 0",
                  lumina::joint({.axes_dims = {0, 0, 0}}));
    CHECK_REFUSES("lumina::joint: axes_dims must be even and >= 0, got 15",
                  lumina::joint({.axes_dims = {16, 15, 16}}));
    CHECK_REFUSES("lumina::joint: axes_dims must be three numbers, got 2",
                  lumina::joint({.axes_dims = {32, 32}}));
}
