// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/gemma4_vision.hpp>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace gemma = ropewalk::gemma4_vision;
using support::angles_of;
using support::near;

TEST_CASE("Gemma 4 vision: worked example", "[schemes][gemma4_vision]") {
    const auto rope = gemma::axial({.head_dim = 8});
    const auto where = gemma::patches(4, 6);
    CHECK(near(angles_of(rope, where, 3 * 6 + 5), {5, 0.5, 3, 0.3}));
    CHECK(rope.read_layout == rw::pair_layout::blocked_by(4));
    const rw::pair_layout l = rope.read_layout;
    CHECK(l.first(0, 4) == 0);
    CHECK(l.second(0, 4) == 2);
    CHECK(l.first(3, 4) == 5);
    CHECK(l.second(3, 4) == 7);
}

TEST_CASE("Gemma 4 vision: two half-split RoPEs side by side", "[schemes][gemma4_vision][reduces]") {
    const auto rope = gemma::axial({.head_dim = 32});
    const std::vector<int> xy{3, 1, 0, 2, -1, -1};
    const auto where = gemma::patches(std::span<const int>(xy));
    support::heads_buffer<double> whole({1, 3, 2, 32}), halves({1, 3, 2, 32});
    whole.fill(8);
    halves.fill(8);
    rw::rotate(rope, whole.view(), rw::make_rotation_table<double>(rope.spectrum_for(1), where));
    const auto ladder = rw::frequencies::geometric({.rotary_dim = 16, .base = 100});
    for (int axis = 0; axis < 2; ++axis) {
        std::vector<int> along;
        for (std::size_t n = 0; n < 3; ++n) along.push_back(xy[2 * n + axis]);
        rw::rotate(rw::half_split{}, halves.view().channel_slice(16 * axis, 16),
                   rw::make_rotation_table<double>(ladder, rw::position_ids::from(along)));
    }
    const auto a = whole.numbers(), b = halves.numbers();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-14).margin(1e-14));
}

TEST_CASE("Gemma 4 vision: more axes, and what does not divide", "[schemes][gemma4_vision]") {
    const auto s = gemma::axial({.head_dim = 24, .axes = 3}).spectrum_for(1);
    CHECK(s.axes() == 3);
    CHECK(s.axis_of(0, 0) == 2);
    CHECK(s.axis_of(0, 11) == 0);
    // Blocks of 2 * floor(head_dim / (2 axes)) channels; what is left over does not turn.
    const auto rest = gemma::axial({.head_dim = 18});
    CHECK(rest.rotary_dim == 16);
    CHECK(rest.head_dim == 18);
    CHECK(gemma::axial({.head_dim = 64, .axes = 3}).rotary_dim == 60);
    CHECK(rest.spectrum_for(1).omegas() == gemma::axial({.head_dim = 16}).spectrum_for(1).omegas());
    support::heads_buffer<float> x({1, 6, 2, 18});
    const auto before = x.fill(3).dense();
    rw::rotate(rest, x.view(), rw::make_rotation_table(rest.spectrum_for(1), gemma::patches(2, 3)));
    const auto after = x.dense();
    for (std::size_t i = 0; i < after.size(); ++i)
        if (i % 18 >= 16) CHECK(after[i] == before[i]);
    CHECK(after != before);
    CHECK_REFUSES("gemma4_vision::axial: head_dim must hold a pair for every axis, got 3",
                  gemma::axial({.head_dim = 3}));
    CHECK_REFUSES("gemma4_vision::axial: head_dim must hold a pair for every axis, got 64",
                  gemma::axial({.head_dim = 64, .axes = PTRDIFF_MAX / 2 + 1}));
    CHECK_REFUSES("gemma4_vision::axial: axes must be >= 1, got 0", gemma::axial({.axes = 0}));
    CHECK_REFUSES("gemma4_vision::patches: height must be >= 0, got -1", gemma::patches(-1, 2));
    const std::vector<int> odd{1, 2, 3};
    CHECK_REFUSES("gemma4_vision::patches: xy must hold two numbers a token, got 3",
                  gemma::patches(std::span<const int>(odd)));
}
