// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/wan.hpp>

#include <numeric>
#include <random>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/cogvideox.hpp>
#include <ropewalk/schemes/hunyuan_video.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

namespace {

/// The schemes of video diffusion, small.
std::vector<rw::rotary_scheme> video_schemes() {
    return {rw::wan::self_attention({.head_dim = 32}), rw::cogvideox::joint({.head_dim = 32}),
            rw::hunyuan_video::joint({.channels = {8, 12, 12}})};
}

/// q.k of every pair of tokens of a clip.
std::vector<double> scores(const rw::rotary_scheme& rope, const rw::position_ids& where) {
    const rw::index n = where.tokens(), d = rope.head_dim;
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    std::vector<double> q(static_cast<std::size_t>(n * d)), k(q.size());
    for (double& v : q) v = normal(random);
    for (double& v : k) v = normal(random);
    rw::rotate(rope, rw::heads_view(q.data(), n, 1, d), rw::heads_view(k.data(), n, 1, d),
               rw::make_factored_table<double>(rope.spectrum_for(1), where));
    std::vector<double> all;
    for (rw::index i = 0; i < n; ++i)
        for (rw::index j = 0; j < n; ++j)
            all.push_back(
                std::inner_product(q.begin() + i * d, q.begin() + (i + 1) * d, k.begin() + j * d, 0.0));
    return all;
}

}  // namespace

TEST_CASE("video diffusion: a clip moved along one axis scores alike", "[schemes][wan]") {
    const auto clip = positions::video_grid({.frames = 3, .height = 2, .width = 4});
    for (const auto& rope : video_schemes()) {
        INFO(rope.name);
        const auto here = scores(rope, clip);
        for (std::size_t axis = 0; axis < 3; ++axis) {
            std::vector<double> offset(3, 0.0);
            offset[axis] = 17.25;
            const auto there = scores(rope, positions::shifted(clip, offset));
            double worst = 0;
            for (std::size_t i = 0; i < here.size(); ++i)
                worst = std::max(worst, std::abs(here[i] - there[i]));
            CHECK(worst < 1e-12);
        }
    }
}

TEST_CASE("video diffusion: twice the positions are twice the frequencies", "[schemes][wan]") {
    const rw::index frames = 4, height = 3, width = 5;
    const auto clip = positions::video_grid({.frames = frames, .height = height, .width = width});
    const auto spread = positions::video_grid(
        {.frames = frames, .height = height, .width = width}, positions::evenly_spaced(frames, 0, 2),
        positions::evenly_spaced(height, 0, 2), positions::evenly_spaced(width, 0, 2));
    for (const auto& rope : video_schemes()) {
        INFO(rope.name);
        const auto s = rope.spectrum_for(1);
        std::vector<double> twice;
        for (rw::index i = 0; i < s.pairs(); ++i) twice.push_back(2 * s.omega(0, s.axis_of(0, i), i));
        const auto fast = rw::spectrum::selected(twice, rw::frequencies::axes_of_pairs(s), 3);
        const auto a = rw::make_angles(s, spread), b = rw::make_angles(fast, clip);
        REQUIRE(a.size() == b.size());
        for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-15));
    }
}

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
