// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/compression/commuting_codebook.hpp>

#include <cmath>
#include <complex>

#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;
using complex = std::complex<long double>;

TEST_CASE("commuting_codebook: centres are c_A + i c_B", "[compression][commuting_codebook]") {
    const std::vector<double> theta{1, 2, .5, -1};
    const auto large = commvq::expand({1, 2, 1, theta});
    CHECK(large[2] == 2);  // (1 + 2i) + i (.5 - i)
    CHECK(large[3] == 2.5);
    CHECK(large[4] == -1.5);  // (B, A) is another centre
    CHECK(large[5] == 0);
}

TEST_CASE("commuting_codebook: scores without decoding are those of decoded, rotated keys",
          "[compression][commuting_codebook]") {
    const rw::index rounds = 3, centres = 4, pairs = 5, tokens = 6;
    const auto theta = support::noise(rounds * centres * pairs * 2, 1, {0, 0.3});
    const commvq::codebook book{rounds, centres, pairs, theta};
    const auto k = support::noise(tokens * 2 * pairs, 2), q = support::noise(2 * pairs, 3);
    const auto at = support::noise(tokens, 4, {0, 100});
    const auto s = frequencies::geometric({.rotary_dim = 2 * pairs});
    const auto coded = commvq::encode(book, k);
    const auto decoded = commvq::decode(book, coded);
    const auto scores = commvq::make_scores(book, coded, q, s, at);
    for (rw::index n = 0; n < tokens; ++n) {
        long double want = 0;
        for (rw::index j = 0; j < pairs; ++j) {
            const complex key(decoded[n * 2 * pairs + j], decoded[n * 2 * pairs + pairs + j]);
            const complex query(q[j], q[pairs + j]);
            want += std::real(std::conj(query) * key *
                              std::polar(1.0L, (long double)at[n] * std::pow(1e4L, -j / 5.0L)));
        }
        CHECK(scores[n] == Approx(double(want)).margin(1e-13));
    }
}

TEST_CASE("commuting_codebook: a key that is a centre is coded exactly, rounds only help",
          "[compression][commuting_codebook]") {
    const rw::index pairs = 3, centres = 3;
    auto theta = support::noise(2 * centres * pairs * 2, 5);
    const auto large = commvq::expand({1, centres, pairs, std::span(theta).first(centres * pairs * 2)});
    std::vector<double> k(2 * pairs);
    double length = 0;
    for (const rw::index j : {0, 1, 2})
        for (const rw::index part : {0, 1}) {
            k[part * pairs + j] = large[(7 * pairs + j) * 2 + part];
            length += k[part * pairs + j] * k[part * pairs + j];
        }
    for (auto& v : theta) v /= std::sqrt(length);  // so that the centre is of length 1
    const commvq::codebook one{1, centres, pairs, std::span(theta).first(centres * pairs * 2)};
    const auto coded = commvq::encode(one, k);
    CHECK(coded.codes[0] == 7);
    CHECK(coded.scale[0] == Approx(std::sqrt(length)).epsilon(1e-15));
    CHECK(support::worst(commvq::decode(one, coded), k) < 1e-14);
    const auto zero = commvq::encode(one, std::vector<double>(2 * pairs));
    CHECK(zero.scale[0] == 0);
    CHECK(support::worst(commvq::decode(one, zero), std::vector<double>(2 * pairs)) == 0);
}

TEST_CASE("commuting_codebook: fitted centres give back a codebook's own keys",
          "[compression][commuting_codebook]") {
    const rw::index pairs = 2, centres = 3, count = 9;
    const auto theta = support::noise(centres * pairs * 2, 6);
    const auto large = commvq::expand({1, centres, pairs, theta});
    std::vector<double> z, assignments;
    for (rw::index code = 0; code < count; ++code) {
        for (const rw::index part : {0, 1})
            for (rw::index j = 0; j < pairs; ++j) z.push_back(large[(code * pairs + j) * 2 + part]);
        for (rw::index other = 0; other < count; ++other) assignments.push_back(other == code);
    }
    const auto fitted = commvq::fit_centres(centres, pairs, assignments, z);
    for (rw::index a = 0; a < centres; ++a)
        for (rw::index j = 0; j < pairs; ++j)
            for (const rw::index part : {0, 1})
                CHECK(fitted[(2 * a + part) * pairs + j] ==
                      Approx(theta[(a * pairs + j) * 2 + part]).margin(1e-6));
}

TEST_CASE("commuting_codebook: one token fits one centre", "[compression][commuting_codebook]") {
    const std::vector<double> theta = {0.5, -2, 3, 0.25};
    const auto centre = commvq::expand({1, 1, 2, theta});
    const std::vector<double> z = {centre[0], centre[2], centre[1], centre[3]};  // halves
    const auto fitted = commvq::fit_centres(1, 2, std::vector<double>{1}, z);
    for (std::size_t i = 0; i < theta.size(); ++i) {
        const auto at = (i % 2) * 2 + i / 2;  // parts are rows, pairs are columns
        CHECK(fitted[at] == Approx(theta[i]).margin(1e-6));
    }
}

TEST_CASE("commuting_codebook: refuses sizes that do not fit", "[compression][commuting_codebook][errors]") {
    const std::vector<double> theta(4), k(3);
    CHECK_REFUSES("commvq::expand: theta must hold rounds * centres * pairs * 2 numbers, got 4",
                  commvq::expand({1, 2, 2, theta}));
    CHECK_REFUSES("commvq::expand: centres must be in 1 .. 4096, got 0", commvq::expand({1, 0, 1, {}}));
    const commvq::codebook book{1, 2, 1, theta};
    CHECK_REFUSES("commvq::encode: k must hold tokens * 2 * pairs numbers, got 3", commvq::encode(book, k));
    CHECK_REFUSES("commvq::decode: codes must be below centres^2, got 4", commvq::decode(book, {{1}, {4}}));
    CHECK_REFUSES("commvq::fit_centres: ridge must be finite and > 0, got 0",
                  commvq::fit_centres(1, 1, std::vector<double>(1), std::vector<double>(2), 0));
}

TEST_CASE("commuting_codebook: every round takes the nearest centre of what the rounds before it left",
          "[compression][commuting_codebook]") {
    // One pair. Round 0 has the centres 1, 1 - .5i, .5 and .5 - .5i; round 1 has 0, .3 + .1i, .1 - .3i, .4 - .2i.
    const std::vector<double> theta{.5, -.5, 0, -.5, 0, 0, .1, -.3};
    const commvq::codebook book{2, 2, 1, theta};
    const std::vector<double> k{1, 0, .6, -.8};  // 1 itself, and .5 - .5i + .1 - .3i
    const auto coded = commvq::encode(book, k);
    CHECK(coded.codes == std::vector<rw::index>{0, 3, 0, 2});
    CHECK(support::worst(commvq::decode(book, coded), k) < 1e-15);
}
