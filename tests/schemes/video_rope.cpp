// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/video_rope.hpp>

#include <ropewalk/frequencies/geometric.hpp>

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

TEST_CASE("video_rope: the extended context stretches the temporal pairs alone", "[schemes][video_rope]") {
    const auto trained = rw::video_rope::over(qwen2(), {}).rope.spectrum_for(1);
    const auto longer = rw::video_rope::extended();
    const auto s = longer.rope.spectrum_for(1);
    // 4 x 32768 over Qwen2-VL: base 1e6 (131071 / 32767)^(128 / 126).
    const double alpha = 131071.0 / 32767.0, base = 1e6 * std::pow(alpha, 128.0 / 126.0);
    CHECK(alpha == Approx(4.00009156).epsilon(1e-8));
    for (rw::index i = 0; i < 64; ++i) {
        CHECK(s.axis_of(0, i) == trained.axis_of(0, i));
        if (i < 48) {
            CHECK(s.omega(i) == trained.omega(i));
        } else {
            CHECK(s.omega(i) == Approx(std::pow(base, -2.0 * static_cast<double>(i) / 128)).epsilon(1e-13));
        }
    }
    CHECK(s.omega(48) == Approx(1.099715e-5).epsilon(1e-6));
    CHECK(s.omega(63) == Approx(3.102273e-7).epsilon(1e-6));
    // The last new position turns the slowest pair as far as the last trained one did.
    CHECK(131071 * s.omega(63) == Approx(32767 * trained.omega(63)).epsilon(1e-13));
    CHECK(longer.rule.spacing == 2);
    const auto same = rw::video_rope::extended({.factor = 1}).rope.spectrum_for(1);
    for (rw::index i = 0; i < 64; ++i) CHECK(same.omega(i) == Approx(trained.omega(i)).epsilon(1e-14));
    CHECK_THROWS_WITH(rw::video_rope::extended({.original_context = 1}),
                      "ntk_alpha_to_last: original_context must be finite and > 1, got 1");
    CHECK_THROWS_WITH(rw::video_rope::extended({.factor = 0}),
                      "ntk_alpha_to_last: factor must be finite and > 0, got 0");
}

TEST_CASE("video_rope: a bad spacing is refused with the scheme", "[schemes][video_rope][errors]") {
    CHECK_THROWS_WITH(rw::video_rope::over(qwen2(), {.rule = {.spacing = -1}}),
                      "video_rope_rule: spacing must be finite and > 0, got -1");
}
