// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/hunyuan_video.hpp>

#include <ropewalk/angles/factored_table.hpp>

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

TEST_CASE("hunyuan_video: three channels, not all of them 0", "[schemes][hunyuan_video][errors]") {
    const std::string three =
        "hunyuan_video::joint: channels must be three numbers: of time, rows and columns, got ";
    CHECK_THROWS_WITH(rw::hunyuan_video::joint({.channels = {}}), three + "0");
    CHECK_THROWS_WITH(rw::hunyuan_video::joint({.channels = {16, 16}}), three + "2");
    CHECK_THROWS_WITH(rw::hunyuan_video::joint({.channels = {4, 4, 4, 4}}), three + "4");
    CHECK_THROWS_WITH(rw::hunyuan_video::joint({.channels = {0, 0, 0}}),
                      "hunyuan_video::joint: channels must sum to > 0, got 0");
    CHECK_THROWS_WITH(rw::hunyuan_video::joint({.channels = {4, -2, 4}}),
                      "hunyuan_video::joint: channels must be even and in 0 .. 65536, got -2");
}

TEST_CASE("hunyuan_video: a full clip needs rows, not a table", "[schemes][hunyuan_video]") {
    const auto where = positions::video_grid({.frames = 33, .height = 45, .width = 80, .text_after = 256});
    const auto table = rw::make_factored_table(rw::hunyuan_video::joint().spectrum_for(1), where);
    CHECK(table.tokens() == 33 * 45 * 80 + 256);
    CHECK(table.row_count() == 33 + 45 + 80);
    CHECK(table.byte_count() < 100'000);  // the tables of the reference take 122 MB
}
