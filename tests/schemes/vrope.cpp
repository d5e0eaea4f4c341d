// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/vrope.hpp>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;
using positions::media;

TEST_CASE("vrope: pair p reads corner p mod 4, slow pairs time when asked", "[schemes][vrope]") {
    rw::rotary_scheme text;
    text.head_dim = text.rotary_dim = 20;
    const auto plain = rw::frequencies::geometric({.rotary_dim = 20});
    text.frequencies = [plain](std::int64_t) { return plain; };
    const auto scheme = rw::vrope::over(text, {.time_pairs = 3});
    const auto stream =
        positions::make_stream(scheme.rule, {{.kind = media::video, .frames = 2, .height = 3, .width = 2}});
    const auto angles = rw::make_angles(scheme.rope.spectrum_for(1), stream.positions);
    for (rw::index n = 0; n < stream.tokens; ++n)
        for (rw::index i = 0; i < 10; ++i) {
            const double position =
                i < 7 ? stream.positions.at(n, i % 4) : static_cast<double>(n / 6 * 4 + 2);
            CHECK(angles[n * 10 + i] == Approx(position * plain.omega(i)).margin(1e-14));
        }
}
