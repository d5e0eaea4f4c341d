// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/video_diffusion.hpp>

#include <cmath>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/frequencies/axial.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("ltx2: the middles of the patches", "[schemes][video_diffusion]") {
    const auto at = ltx2::middle_positions({.frames = 3, .height = 2, .width = 2});
    CHECK(at.tokens() == 12);
    CHECK(at.at(0, 0) == Approx(1.0 / 48).epsilon(1e-15));
    CHECK(at.at(0, 1) == 16);
    CHECK(at.at(0, 2) == 16);
    CHECK(at.at(11, 0) == Approx((9 + 17) / 48.0).epsilon(1e-15));  // pixel frames 9 .. 17
    CHECK(at.at(11, 1) == 48);
    CHECK(ltx2::middle_positions({.frames = 2, .causal_fix = false}).at(1, 0) ==
          Approx((8 + 16) / 48.0).epsilon(1e-15));
}

TEST_CASE("ltx2: angles by their formula in long double", "[schemes][video_diffusion]") {
    const rw::index heads = 3, dim = 10, all = 15, steps = 5;
    const auto rope = ltx2::make_scheme({.heads = heads, .head_dim = dim});
    const auto middles = ltx2::middle_positions({.frames = 2, .height = 2, .width = 1});
    const std::vector<double> extents{20, 2048, 2048};
    const auto where = ltx2::fractions(middles, extents);
    const auto s = rope.spectrum_for(1);
    const auto angles = make_angles(s, where);
    const rw::index pad = all - 3 * steps;
    for (rw::index n = 0; n < where.tokens(); ++n)
        for (rw::index j = 0; j < all; ++j) {
            long double want = 0;
            if (j >= pad) {
                const rw::index k = (j - pad) / 3, a = (j - pad) % 3;
                want = std::acos(-1.0L) / 2 * std::pow(1e4L, k / 4.0L) *
                       (2 * (long double)middles.at(n, a) / extents[a] - 1);
            }
            CHECK(angles[n * all + j] == Approx(double(want)).margin(1e-15).epsilon(1e-14));
        }
    const std::vector<double> centre{10, 1024, 1024};
    const auto zero = make_angles(s, ltx2::fractions(position_ids::from_tokens_axes(centre, 3), extents));
    for (const double a : zero) CHECK(a == 0);
}

TEST_CASE("ltx2: what is left over rests in front of the first head", "[schemes][video_diffusion]") {
    const auto s = ltx2::make_scheme({.heads = 2, .head_dim = 16}).spectrum_for(1);  // 16 pairs, K = 5
    CHECK(s.turns(0, 0, 0) == 0);
    CHECK(s.omega(0, 0, 1) == Approx(std::acos(-1.0) / 2).epsilon(1e-15));
    CHECK(s.omega(1, 2, 7) == Approx(std::acos(-1.0) / 2 * 1e4).epsilon(1e-14));
    const auto wide = ltx2::make_scheme({.heads = 32, .head_dim = 128}).spectrum_for(1);
    CHECK(wide.turns(0, 0, 1) == 0);  // 2048 pairs, K = 682
    CHECK(wide.turns(0, 0, 2) != 0);
}

TEST_CASE("cosmos: an NTK ladder an axis", "[schemes][video_diffusion]") {
    CHECK(cosmos::axes_channels(128) == std::array<rw::index, 3>{44, 42, 42});
    const auto s = cosmos::make_scheme({.head_dim = 128}).spectrum_for(1);
    for (rw::index i = 0; i < 64; ++i) {
        const int axis = i < 22 ? 0 : i < 43 ? 1 : 2;
        CHECK(s.axis_of(0, i) == axis);
        const rw::index k = i - (axis == 0 ? 0 : axis == 1 ? 22 : 43), d = axis == 0 ? 44 : 42;
        const long double base = axis == 0 ? 1e4L * std::pow(2.0L, 44 / 42.0L) : 1e4L;
        CHECK(s.omega(i) == Approx(double(std::pow(base, -2.0L * k / d))).epsilon(1e-14));
    }
    CHECK(std::pow(s.omega(1), -22.0) == Approx(20671.15566).epsilon(1e-9));
}

TEST_CASE("cosmos: base_fps is no fps, scale 1 is axial RoPE", "[schemes][video_diffusion][reduces]") {
    const auto a = cosmos::grid({.frames = 2, .height = 2, .width = 3});
    CHECK(a.values() == cosmos::grid({.frames = 2, .height = 2, .width = 3, .fps = 24}).values());
    CHECK(cosmos::grid({.frames = 2, .fps = 16}).at(1, 0) == 1.5);
    const auto s = cosmos::make_scheme({.head_dim = 32, .scale = {1, 1, 1}}).spectrum_for(1);
    const auto axial = frequencies::axial({.channels = {12, 10, 10}, .axes = 3});
    CHECK(s.omegas() == axial.omegas());
}

TEST_CASE("video_diffusion: refuses bad numbers", "[schemes][video_diffusion][errors]") {
    CHECK_REFUSES("ltx2::middle_positions: fps must be finite and > 0, got 0",
                  ltx2::middle_positions({.fps = 0}));
    CHECK_REFUSES("ltx2::middle_positions: frames, height and width must be >= 1, got 0",
                  ltx2::middle_positions({.height = 0}));
    CHECK_REFUSES("ltx2::fractions: extents must be one number an axis: wanted 3, got 2",
                  ltx2::fractions(position_ids(3), std::vector<double>{1, 2}));
    CHECK_REFUSES("ltx2::make_scheme: rotary_dim must be even and > 0, got 7",
                  ltx2::make_scheme({.head_dim = 7}));
    CHECK_REFUSES("cosmos::make_scheme: head_dim must be even and >= 12, got 10",
                  cosmos::make_scheme({.head_dim = 10}));
    CHECK_REFUSES("cosmos::grid: fps must be finite and > 0, got -1", cosmos::grid({.fps = -1}));
}
