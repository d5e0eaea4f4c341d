// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/pixtral.hpp>

#include <algorithm>
#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace pixtral = ropewalk::pixtral;
using support::angles_of;
using support::near;

TEST_CASE("Pixtral: worked example, rows and columns differ", "[schemes][pixtral]") {
    const auto rope = pixtral::axial({.head_dim = 8});
    const auto where = pixtral::patches({{.height = 3, .width = 5}});
    CHECK(near(angles_of(rope, where, 2 * 5 + 3), {2, 0.02, 0.3, 0.003}));
    const auto s = pixtral::axial({.head_dim = 64}).spectrum_for(1);
    for (rw::index i = 0; i < 16; ++i)
        CHECK(s.omega(16 + i) / s.omega(i) == Approx(std::pow(1e4, -2.0 / 64)));
}

TEST_CASE("Pixtral: the layout follows the checkpoint", "[schemes][pixtral]") {
    CHECK(pixtral::axial({}).read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK(pixtral::axial({.from = pixtral::weights::hugging_face}).read_layout ==
          rw::pair_layout(rw::half_split{}));
}

TEST_CASE("Pixtral: packed images start again, and larger ones are refused", "[schemes][pixtral]") {
    const auto where = pixtral::patches({{2, 3}, {1, 2}});
    CHECK(where.values() == std::vector<double>{0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 0, 0, 0, 1});
    CHECK_REFUSES("pixtral::patches: width must be >= 1 and at most max_side, got 65",
                  pixtral::patches({{64, 65}}));
    CHECK_REFUSES("pixtral::patches: height must be >= 1 and at most max_side, got 9",
                  pixtral::patches({{9, 2}}, 8));
    CHECK_REFUSES("pixtral::patches: height must be >= 1 and at most max_side, got 0",
                  pixtral::patches({{0, 2}}));
    CHECK_REFUSES("pixtral::patches: max_side must be >= 1, got -1", pixtral::patches({{1, 1}}, -1));
    CHECK_REFUSES("pixtral::axial: head_dim must be a multiple of 4 and > 0, got 6",
                  pixtral::axial({.head_dim = 6}));
}

TEST_CASE("Pixtral: rows and columns cannot be swapped", "[schemes][pixtral][invariant]") {
    const auto rope = pixtral::axial({.head_dim = 16});
    const auto where = pixtral::patches({{.height = 3, .width = 3}});
    // Token 1 is (0, 1), token 3 is (1, 0): the swap of one is the other.
    auto swapped = angles_of(rope, where, 3);
    std::rotate(swapped.begin(), swapped.begin() + 4, swapped.end());
    const auto angles = angles_of(rope, where, 1);
    CHECK_FALSE(near(angles, swapped));
    for (std::size_t i = 4; i < 8; ++i) CHECK(angles[i] == Approx(swapped[i] * std::pow(1e4, -2.0 / 16)));
}

TEST_CASE("Pixtral: both layouts give equal scores once channels are permuted",
          "[schemes][pixtral][invariant]") {
    const auto own = pixtral::axial({.head_dim = 16});
    const auto ported = pixtral::axial({.head_dim = 16, .from = pixtral::weights::hugging_face});
    const auto where = pixtral::patches({{2, 3}, {1, 2}});
    const rw::heads_shape shape{1, where.tokens(), 1, 16};
    support::heads_buffer<double> q(shape), k(shape), q2(shape), k2(shape);
    q.fill(1);
    k.fill(2);
    for (rw::index n = 0; n < where.tokens(); ++n)
        for (rw::index i = 0; i < 8; ++i)
            for (auto* x : {&q, &k}) {
                auto& to = x == &q ? q2 : k2;
                to.view().at(0, n, 0)[i] = x->view().at(0, n, 0)[2 * i];
                to.view().at(0, n, 0)[i + 8] = x->view().at(0, n, 0)[2 * i + 1];
            }
    rw::rotate(own, q.view(), k.view(), rw::make_rotation_table<double>(own.spectrum_for(1), where));
    rw::rotate(ported, q2.view(), k2.view(), rw::make_rotation_table<double>(ported.spectrum_for(1), where));
    const auto score = [](auto& a, auto& b, rw::index i, rw::index j) {
        double sum = 0;
        for (rw::index c = 0; c < 16; ++c) sum += a.view().at(0, i, 0)[c] * b.view().at(0, j, 0)[c];
        return sum;
    };
    for (rw::index i = 0; i < where.tokens(); ++i)
        for (rw::index j = 0; j < where.tokens(); ++j)
            CHECK(score(q2, k2, i, j) == Approx(score(q, k, i, j)).epsilon(1e-12).margin(1e-12));
}
