// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/audio_towers.hpp>

#include <cmath>
#include <numbers>

#include <ropewalk/angles/make_angles.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace towers = ropewalk::audio_towers;

TEST_CASE("audio_towers: Music Flamingo's windows and frames, both by the time", "[schemes][towers]") {
    const auto rope = towers::music_flamingo();
    CHECK(rope.head_dim == 1280);
    CHECK(rope.rotary_dim == 512);
    CHECK(rope.read_layout == pair_layout(interleaved{}));
    const ropewalk::index frames = 7;
    const auto got = make_angles(rope.spectrum_for(1), towers::music_flamingo_frames(3, frames));
    for (ropewalk::index w = 0; w < 3; ++w)
        for (ropewalk::index j = 0; j < frames; ++j)
            for (ropewalk::index p = 0; p < 256; ++p) {
                // As the code has it: the window's start over its duration, rounded; frequencies times -2 pi
                // t.
                constexpr long double pi = std::numbers::pi_v<long double>;
                const long double t = static_cast<long double>(w * frames + j) * 0.04L;
                const long double omega = std::pow(1200.0L, -2.0L * static_cast<long double>(p % 128) / 256);
                const long double where = p < 128 ? static_cast<long double>(w) / 1200
                                                  : static_cast<long double>(j) / 1200 * 2 * pi;
                CHECK(got[static_cast<std::size_t>((w * frames + j) * 256 + p)] ==
                      Approx(static_cast<double>(-2 * pi * t * where * omega)).epsilon(1e-13).margin(1e-300));
            }
    CHECK_REFUSES("audio_towers::music_flamingo: partial must be in (0, 0.5], got 0.6",
                  towers::music_flamingo({.partial = 0.6}));
    CHECK_REFUSES(
        "audio_towers::music_flamingo_frames: frames must be >= 0 and windows * frames <= 2^24, got 2",
        towers::music_flamingo_frames(support::huge(62), 2));
}

TEST_CASE("audio_towers: widths from 4 to 65536", "[schemes][towers][errors]") {
    for (const ropewalk::index width : {4, 65536})
        CHECK_NOTHROW(towers::music_flamingo({.width = width, .partial = 0.5}));
    for (const ropewalk::index width : {3, 65537})
        CHECK_REFUSES(
            "audio_towers::music_flamingo: width must be in 4 .. 65536, got " + std::to_string(width),
            towers::music_flamingo({.width = width, .partial = 0.5}));
}

TEST_CASE("audio_towers: an encoder along a line", "[schemes][towers]") {
    const auto rope =
        towers::line({.name = "x", .head_dim = 36, .rotary_dim = 32, .base = 500, .layout = interleaved{}});
    CHECK(rope.head_dim == 36);
    CHECK(rope.rotary_dim == 32);
    for (ropewalk::index i = 0; i < 16; ++i)
        CHECK(rope.spectrum_for(1).omega(i) == Approx(std::pow(500.0, -i / 16.0)).epsilon(1e-14));
    CHECK(towers::line({.name = "x", .head_dim = 36}).rotary_dim == 36);
    CHECK_REFUSES("x: head_dim must be in 2 .. 65536, got 0", towers::line({.name = "x"}));
    CHECK_FALSE(
        support::refusal([] { towers::line({.name = "x", .head_dim = 8, .rotary_dim = 10}); }).empty());
}
