// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/drope.hpp>

#include <cmath>
#include <numbers>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace drope = ropewalk::drope;
using drope::head_mode;

namespace {

constexpr double turn = 2 * std::numbers::pi;

struct rotated {
    std::vector<double> q, k;
};

/// q and k of seeds 1 and 2, rotated; [agents, heads, channels].
rotated rotate_scene(const drope::agents& scheme, const std::vector<double>& xy,
                     const std::vector<double>& phi) {
    const rw::heads_shape shape{1, static_cast<rw::index>(phi.size()), scheme.heads(),
                                scheme.config().head_dim};
    support::heads_buffer<double> q(shape), k(shape);
    q.fill(1);
    k.fill(2);
    const drope::scene<double> scene(scheme, rw::position_ids::from(xy, 2),
                                     rw::positions::headings(std::span<const double>(phi)));
    drope::rotate(scheme, q.view(), scene);
    drope::rotate(scheme, k.view(), scene);
    return {q.numbers(), k.numbers()};
}

double score(const drope::agents& scheme, const rotated& r, rw::index head, rw::index i, rw::index j) {
    double sum = 0;
    const rw::index channels = scheme.config().head_dim;
    for (rw::index c = 0; c < channels; ++c)
        sum +=
            r.q[(i * scheme.heads() + head) * channels + c] * r.k[(j * scheme.heads() + head) * channels + c];
    return sum;
}

const std::vector<double> places{0, 0, 3, -2, 40, 7.5};

}  // namespace

TEST_CASE("DRoPE: 179 and -179 degrees are 2 degrees apart", "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 2, .modes = {head_mode::heading}});
    std::vector<double> q{1, 0, 1, 0};
    const std::vector<double> degrees{179, -179};
    const drope::scene<double> scene(scheme, rw::position_ids::from(std::vector<double>(4), 2),
                                     rw::positions::headings_in_degrees(std::span<const double>(degrees)));
    drope::rotate(scheme, rw::heads_view(q.data(), 2, 1, 2), scene);
    CHECK(q[0] * q[2] + q[1] * q[3] == Approx(0.999391).epsilon(1e-6));
}

TEST_CASE("DRoPE: scores have the closed form, the period of a turn, and ignore a common heading",
          "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 6, .modes = {head_mode::heading, head_mode::heading}});
    const std::vector<double> phi{0.4, -2.9, 3.0};
    const auto r = rotate_scene(scheme, places, phi);
    const auto still = rotate_scene(scheme, places, {0, 0, 0});
    const auto wound = rotate_scene(scheme, places, {0.4 + 3 * turn, -2.9 - turn, 3.0});
    const auto turned = rotate_scene(scheme, places, {1.1, -2.2, 3.7});
    for (rw::index h = 0; h < 2; ++h)
        for (rw::index i = 0; i < 3; ++i)
            for (rw::index j = 0; j < 3; ++j) {
                double a = 0, b = 0;  // half-split pairs (c, c + 3)
                for (rw::index c = 0; c < 3; ++c) {
                    const double* q = still.q.data() + (i * 2 + h) * 6 + c;
                    const double* k = still.k.data() + (j * 2 + h) * 6 + c;
                    a += q[0] * k[0] + q[3] * k[3];
                    b += q[3] * k[0] - q[0] * k[3];
                }
                const double d = phi[i] - phi[j];
                const double got = score(scheme, r, h, i, j);
                CHECK(got == Approx(a * std::cos(d) - b * std::sin(d)).epsilon(1e-12).margin(1e-12));
                CHECK(score(scheme, wound, h, i, j) == Approx(got).epsilon(1e-12).margin(1e-12));
                CHECK(score(scheme, turned, h, i, j) == Approx(got).epsilon(1e-12).margin(1e-12));
            }
}

TEST_CASE("DRoPE: heads see position or heading, never both", "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 8, .modes = drope::alternating_heads(5)});
    REQUIRE(scheme.runs().size() == 2);  // even heads in one call, odd heads in another
    CHECK(scheme.runs()[0].step == 2);
    const auto base = rotate_scene(scheme, places, {0.4, -2.9, 3.0});
    const auto turned = rotate_scene(scheme, places, {1.4, 0.9, -1.0});
    const auto moved = rotate_scene(scheme, {1, 5, 4, 3, 41, 12.5}, {0.4, -2.9, 3.0});  // all by (1, 5)
    const auto apart = rotate_scene(scheme, {9, 0, 3, -2, 40, 7.5}, {0.4, -2.9, 3.0});
    for (rw::index h = 0; h < 5; ++h) {
        const bool position = h % 2 == 0;
        CHECK((score(scheme, turned, h, 0, 1) == score(scheme, base, h, 0, 1)) == position);
        CHECK((score(scheme, apart, h, 0, 1) == score(scheme, base, h, 0, 1)) == !position);
        CHECK(score(scheme, moved, h, 0, 1) ==
              Approx(score(scheme, base, h, 0, 1)).epsilon(1e-12).margin(1e-12));
    }
}

TEST_CASE("DRoPE: the score of a split head is the sum of its blocks'", "[schemes][drope]") {
    const drope::agents both({.head_dim = 12, .modes = {head_mode::blocks}, .position_channels = 8});
    const auto r = rotate_scene(both, places, {0.4, -2.9, 3.0});
    const auto at_rest = rotate_scene(both, std::vector<double>(6), {0.4, -2.9, 3.0});
    const auto no_heading = rotate_scene(both, places, {0, 0, 0});
    const auto block = [](const rotated& x, rw::index i, rw::index j, rw::index first, rw::index last) {
        double sum = 0;
        for (rw::index c = first; c < last; ++c) sum += x.q[i * 12 + c] * x.k[j * 12 + c];
        return sum;
    };
    CHECK(block(r, 0, 1, 0, 8) == block(no_heading, 0, 1, 0, 8));
    CHECK(block(r, 0, 1, 8, 12) == block(at_rest, 0, 1, 8, 12));
    CHECK(score(both, r, 0, 0, 1) ==
          Approx(block(no_heading, 0, 1, 0, 8) + block(at_rest, 0, 1, 8, 12)).epsilon(1e-13));
}

TEST_CASE("DRoPE: equals RoPE with all frequencies 1, and harmonics keep the period",
          "[schemes][drope][reduces]") {
    const std::vector<int> ones(4, 1), several{1, 2, 3, -1};
    const std::vector<double> phi{0.4, -2.9}, wound{0.4 + turn, -2.9 - 2 * turn};
    support::heads_buffer<double> a({1, 2, 1, 8}), b({1, 2, 1, 8}), c({1, 2, 1, 8}), d({1, 2, 1, 8});
    a.fill(1);
    b.fill(1);
    c.fill(1);
    d.fill(1);
    const auto at = rw::positions::headings(std::span<const double>(phi));
    rw::rotate<rw::half_split>(a.view(), rw::uniform_table<double>(at));
    rw::rotate<rw::half_split>(b.view(), rw::make_rotation_table<double>(drope::harmonics(ones), at));
    rw::rotate<rw::half_split>(c.view(), rw::make_rotation_table<double>(drope::harmonics(several), at));
    rw::rotate<rw::half_split>(
        d.view(), rw::make_rotation_table<double>(drope::harmonics(several),
                                                  rw::positions::headings(std::span<const double>(wound))));
    CHECK(support::same_bits(a.dense(), b.dense()));
    const auto x = c.numbers(), y = d.numbers();
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == Approx(y[i]).epsilon(1e-12).margin(1e-12));
}

TEST_CASE("DRoPE: eight bytes an agent, whatever the heads and channels", "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 128, .modes = std::vector<head_mode>(16, head_mode::heading)});
    const drope::scene<float> scene(scheme, rw::position_ids::from(std::vector<double>(2000), 2),
                                    rw::position_ids::from(std::vector<double>(1000)));
    CHECK(scene.heading().byte_count() == 8000);
    CHECK(scene.position().row_count() == 0);
}

TEST_CASE("DRoPE: the unit of positions, and heads that nothing turns", "[schemes][drope]") {
    const drope::agents metres({.head_dim = 8, .modes = {head_mode::position, head_mode::none}, .unit = 10});
    CHECK(metres.position_frequencies().omega(0) == Approx(0.1));
    const auto r = rotate_scene(metres, places, {1, 2, 3});
    support::heads_buffer<double> q({1, 3, 2, 8});
    q.fill(1);
    const auto before = q.numbers();
    for (std::size_t c = 8; c < 16; ++c) CHECK(r.q[16 + c] == before[16 + c]);
    CHECK(r.q[16] != before[16]);
}

TEST_CASE("DRoPE: what does not fit is refused", "[schemes][drope]") {
    CHECK_REFUSES("drope::agents: head_dim must be even and > 0, got 7",
                  drope::agents({.head_dim = 7, .modes = {head_mode::heading}}));
    CHECK_REFUSES("drope::agents: head_dim must be a multiple of 4 in heads of positions, got 6",
                  drope::agents({.head_dim = 6, .modes = {head_mode::position}}));
    CHECK_REFUSES("drope::agents: position_channels must be a multiple of 4 and at most head_dim, got 6",
                  drope::agents({.head_dim = 8, .modes = {head_mode::blocks}, .position_channels = 6}));
    CHECK_REFUSES("drope::agents: unit must be finite and > 0, got 0",
                  drope::agents({.head_dim = 8, .unit = 0}));
    const std::vector<int> zero{0};
    CHECK_REFUSES("drope::harmonics: harmonics must not be 0, got 0", drope::harmonics(zero));
    const drope::agents scheme({.head_dim = 4, .modes = {head_mode::heading}});
    CHECK_REFUSES("drope::scene: xy and headings must have one entry an agent, got 1",
                  drope::scene<float>(scheme, rw::position_ids::from(std::vector<double>(2), 2),
                                      rw::position_ids::from(std::vector<double>(3))));
}
