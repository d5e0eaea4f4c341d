// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/drope.hpp>

#include <cmath>
#include <numbers>

#include <ropewalk/kernels/rotate.hpp>

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
    const drope::scene<double> scene(scheme, rw::position_ids::from_tokens_axes(xy, 2),
                                     rw::positions::headings(std::span<const double>(phi)));
    drope::rotate_scene(scheme, q.view(), scene);
    drope::rotate_scene(scheme, k.view(), scene);
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
    const drope::scene<double> scene(scheme, rw::position_ids::from_tokens_axes(std::vector<double>(4), 2),
                                     rw::positions::headings_in_degrees(std::span<const double>(degrees)));
    drope::rotate_scene(scheme, rw::heads_view(q.data(), 2, 1, 2), scene);
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
    rw::rotate(rw::half_split{}, a.view(), rw::uniform_table<double>(at));
    rw::rotate(rw::half_split{}, b.view(), rw::make_rotation_table<double>(drope::harmonics(ones), at));
    rw::rotate(rw::half_split{}, c.view(), rw::make_rotation_table<double>(drope::harmonics(several), at));
    rw::rotate(rw::half_split{}, d.view(),
               rw::make_rotation_table<double>(drope::harmonics(several),
                                               rw::positions::headings(std::span<const double>(wound))));
    CHECK(support::same_bits(a.dense(), b.dense()));
    const auto x = c.numbers(), y = d.numbers();
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == Approx(y[i]).epsilon(1e-12).margin(1e-12));
}

TEST_CASE("DRoPE: eight bytes an agent, whatever the heads and channels", "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 128, .modes = std::vector<head_mode>(16, head_mode::heading)});
    const drope::scene<float> scene(scheme, rw::position_ids::from_tokens_axes(std::vector<double>(2000), 2),
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

TEST_CASE("DRoPE: a rotation says that it was done, of no agents too", "[schemes][drope]") {
    const drope::agents scheme({.head_dim = 8, .modes = {head_mode::position, head_mode::heading}});
    const std::vector<double> phi{0.5};
    const drope::scene<double> scene(scheme, rw::position_ids::from_tokens_axes(std::vector<double>{1, 2}, 2),
                                     rw::positions::headings(std::span<const double>(phi)));
    std::vector<double> x(16, 1.0);
    CHECK(drope::rotate_scene(scheme, rw::heads_view(x.data(), 1, 2, 8), scene));
    CHECK(x != std::vector<double>(16, 1.0));
    CHECK(drope::rotate_scene(scheme, rw::heads_view<double>(nullptr, 0, 2, 8), scene));
}

TEST_CASE("DRoPE: what does not fit is refused", "[schemes][drope]") {
    CHECK_REFUSES("drope::agents: head_dim must be even and > 0, got 7",
                  drope::agents({.head_dim = 7, .modes = {head_mode::heading}}));
    CHECK_REFUSES("drope::agents: head_dim must be a multiple of 4 in heads of positions, got 6",
                  drope::agents({.head_dim = 6, .modes = {head_mode::position}}));
    CHECK_REFUSES("drope::agents: position_channels must be a multiple of 4 and at most head_dim, got 6",
                  drope::agents({.head_dim = 8, .modes = {head_mode::blocks}, .position_channels = 6}));
    CHECK_REFUSES(
        "drope::agents: position_channels must be given where half of head_dim is no multiple of 4, half, "
        "got 6",
        drope::agents({.head_dim = 12, .modes = {head_mode::blocks}}));
    CHECK_REFUSES("drope::agents: position_channels must be a multiple of 4 and at most head_dim, got -4",
                  drope::agents({.head_dim = 8, .modes = {head_mode::blocks}, .position_channels = -4}));
    CHECK_REFUSES("drope::agents: base must be finite and > 0, got nan",
                  drope::agents({.head_dim = 8, .modes = {head_mode::heading}, .base = std::nan("")}));
    CHECK_REFUSES("drope::agents: modes must be modes of a head, got 7",
                  drope::agents({.head_dim = 8, .modes = {static_cast<head_mode>(7)}}));
    CHECK_REFUSES(
        "drope::agents: harmonics must hold a number a pair of the heading's block: wanted 4, got 3",
        drope::agents({.head_dim = 8, .modes = {head_mode::heading}, .harmonics = {1, 2, 3}}));
    CHECK_REFUSES("drope::agents: harmonics must not be 0, got 0",
                  drope::agents({.head_dim = 4, .modes = {head_mode::heading}, .harmonics = {1, 0}}));
    CHECK_REFUSES("drope::agents: unit must be finite and > 0, got 0",
                  drope::agents({.head_dim = 8, .unit = 0}));
    const std::vector<int> zero{0};
    CHECK_REFUSES("drope::harmonics: harmonics must not be 0, got 0", drope::harmonics(zero));
    const drope::agents scheme({.head_dim = 4, .modes = {head_mode::heading}});
    CHECK_REFUSES("drope::scene: xy and headings must have one entry an agent: wanted 3, got 1",
                  drope::scene<float>(scheme, rw::position_ids::from_tokens_axes(std::vector<double>(2), 2),
                                      rw::position_ids::from(std::vector<double>(3))));
}

TEST_CASE("DRoPE: a split head is split in half where nothing else is said", "[schemes][drope]") {
    const drope::agents half({.head_dim = 16, .modes = {head_mode::blocks}});
    const drope::agents said({.head_dim = 16, .modes = {head_mode::blocks}, .position_channels = 8});
    CHECK(half.position_channels() == 8);
    CHECK(half.block_frequencies().pairs() == 4);
    const auto a = rotate_scene(half, places, {0.4, -2.9, 3.0});
    CHECK(a.q == rotate_scene(said, places, {0.4, -2.9, 3.0}).q);
    CHECK(a.q != rotate_scene(half, {1, 0, 3, -2, 40, 7.5}, {0.4, -2.9, 3.0}).q);
    // None at all is what a caller may still ask for.
    const drope::agents none({.head_dim = 16, .modes = {head_mode::blocks}, .position_channels = 0});
    const drope::agents heading({.head_dim = 16, .modes = {head_mode::heading}});
    CHECK(rotate_scene(none, places, {0.4, -2.9, 3.0}).q ==
          rotate_scene(heading, places, {0.4, -2.9, 3.0}).q);
}

TEST_CASE("DRoPE: harmonics of a scene are those of a table, in whole heads and in blocks",
          "[schemes][drope]") {
    const std::vector<double> phi{0.4, -2.9, 3.0}, wound{0.4 + turn, -2.9, 3.0 - 2 * turn};
    const std::vector<int> several{1, 2, 3, -1};
    const auto at = rw::positions::headings(std::span<const double>(phi));
    const drope::agents whole({.head_dim = 8, .modes = {head_mode::heading}, .harmonics = several});
    const auto r = rotate_scene(whole, places, phi);
    support::heads_buffer<double> want({1, 3, 1, 8});
    want.fill(1);
    rw::rotate(rw::half_split{}, want.view(), rw::make_rotation_table<double>(drope::harmonics(several), at));
    CHECK(r.q == want.numbers());
    // The same block of a split head, and beside heads of other modes.
    const drope::agents split({.head_dim = 16,
                               .modes = {head_mode::blocks, head_mode::heading, head_mode::position},
                               .harmonics = {1, 2, 3, -1, 4, 5, 6, 7}});
    CHECK(split.heading_block_frequencies().pairs() == 4);
    const auto s = rotate_scene(split, places, phi);
    support::heads_buffer<double> block({1, 3, 3, 16});
    block.fill(1);
    rw::rotate(rw::half_split{}, block.view().head_slice(0, 1).channel_slice(8, 8),
               rw::make_rotation_table<double>(drope::harmonics(several), at));
    const auto expected = block.numbers();
    for (std::size_t n = 0; n < 3; ++n)
        for (std::size_t c = 8; c < 16; ++c) CHECK(s.q[n * 48 + c] == expected[n * 48 + c]);
    // Whole numbers keep the period of a turn, and all ones are DRoPE itself.
    const auto again = rotate_scene(split, places, wound);
    for (std::size_t i = 0; i < s.q.size(); ++i)
        CHECK(again.q[i] == Approx(s.q[i]).epsilon(1e-12).margin(1e-12));
    const drope::agents ones(
        {.head_dim = 8, .modes = {head_mode::heading}, .harmonics = std::vector<int>(4, 1)});
    const drope::agents plain({.head_dim = 8, .modes = {head_mode::heading}});
    CHECK(rotate_scene(ones, places, phi).q == rotate_scene(plain, places, phi).q);
}

TEST_CASE("DRoPE: headings from velocities of any length", "[schemes][drope]") {
    const std::vector<double> phi{0.4, -2.9, 3.0};
    std::vector<double> velocities;
    for (std::size_t n = 0; n < 3; ++n) {
        const double speed = 0.5 + 10 * static_cast<double>(n);
        velocities.insert(velocities.end(), {speed * std::cos(phi[n]), speed * std::sin(phi[n])});
    }
    for (const std::vector<int>& harmonics : {std::vector<int>{}, std::vector<int>{1, 2, 3, -1, 2, 2}}) {
        const drope::agents scheme({.head_dim = 12,
                                    .modes = {head_mode::heading, head_mode::position, head_mode::heading},
                                    .harmonics = harmonics});
        const auto xy = rw::position_ids::from_tokens_axes(places, 2);
        const auto moving =
            drope::scene<double>::from_velocities(scheme, xy, std::span<const double>(velocities));
        support::heads_buffer<double> q({1, 3, 3, 12});
        q.fill(1);
        drope::rotate_scene(scheme, q.view(), moving);
        const auto got = q.numbers(), want = rotate_scene(scheme, places, phi).q;
        for (std::size_t i = 0; i < got.size(); ++i)
            CHECK(got[i] == Approx(want[i]).epsilon(1e-12).margin(1e-12));
        const std::vector<double> at_rest(6), two(4, 1);
        CHECK_REFUSES("uniform_table::from_vectors: vectors must be finite and not zero, length, got 0",
                      drope::scene<double>::from_velocities(scheme, xy, std::span<const double>(at_rest)));
        CHECK_REFUSES("drope::scene: xy and headings must have one entry an agent: wanted 2, got 3",
                      drope::scene<double>::from_velocities(scheme, xy, std::span<const double>(two)));
    }
}
