// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/hunyuan_video.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

TEST_CASE("hunyuan_video: base 256 and 8, 28, 28 pairs", "[schemes][hunyuan_video]") {
    const auto rope = rw::hunyuan_video::joint();
    const auto s = rope.spectrum_for(1);
    CHECK(rope.head_dim == 128);
    CHECK(s.omega(7) == Approx(std::pow(256.0, -14.0 / 16)));
    CHECK(s.omega(8 + 27) == Approx(std::pow(256.0, -54.0 / 56)));
    CHECK(s.axis_of(0, 36) == 2);
}

TEST_CASE("hunyuan_video: a full clip needs rows, not a table", "[schemes][hunyuan_video]") {
    const auto where = positions::video_grid({.frames = 33, .height = 45, .width = 80, .text_after = 256});
    const auto table = rw::make_factored_table(rw::hunyuan_video::joint().spectrum_for(1), where);
    CHECK(table.tokens() == 33 * 45 * 80 + 256);
    CHECK(table.row_count() == 33 + 45 + 80);
    CHECK(table.byte_count() < 100'000);  // the tables of the reference take 122 MB
}
