// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/video_rope.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/ntk.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

rw::rotary_scheme qwen2() {
    rw::rotary_scheme text;
    text.head_dim = text.rotary_dim = 128;
    const auto s = rw::frequencies::geometric({.rotary_dim = 128, .base = 1e6});
    text.frequencies = [s](std::int64_t) { return s; };
    return text;
}

}  // namespace

TEST_CASE("video_rope: time turns slower than any row or column", "[schemes][video_rope]") {
    const auto s = rw::video_rope::over(qwen2(), {}).rope.spectrum_for(1);
    double fastest_time = 0, slowest_space = 1;
    for (rw::index i = 0; i < 64; ++i)
        if (s.axis_of(0, i) == 0) {
            fastest_time = std::max(fastest_time, s.omega(i));
        } else {
            slowest_space = std::min(slowest_space, s.omega(i));
        }
    CHECK(fastest_time < slowest_space);
    CHECK(fastest_time == Approx(std::pow(1e6, -2.0 * 48 / 128)));
}

TEST_CASE("video_rope: YaRN-V's NTK branch stretches the temporal pairs alone", "[schemes][video_rope]") {
    const auto base = rw::video_rope::over(qwen2(), {});
    auto stretched_text = qwen2();
    const auto ntk = rw::frequencies::dynamic_ntk(
        {.rotary_dim = 128, .base = 1e6, .factor = 4, .max_context = 32768}, 131072);
    stretched_text.frequencies = [ntk](std::int64_t) { return ntk; };
    const auto s = rw::frequencies::take_axis(
        base.rope.spectrum_for(1), rw::video_rope::over(stretched_text, {}).rope.spectrum_for(1), 0);
    for (rw::index i = 0; i < 64; ++i)
        CHECK(s.omega(i) == (i < 48 ? base.rope.spectrum_for(1).omega(i) : ntk.omega(i)));
}

TEST_CASE("video_rope: a bad spacing is refused with the scheme", "[schemes][video_rope][errors]") {
    CHECK_THROWS_WITH(rw::video_rope::over(qwen2(), {.rule = {.spacing = -1}}),
                      "video_rope_rule: spacing must be finite and > 0, got -1");
}
