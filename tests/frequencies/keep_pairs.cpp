// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/frequencies/keep_pairs.hpp>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

TEST_CASE("keep_pairs: the others rest, everything else stays", "[frequencies][keep_pairs]") {
    const auto s = frequencies::assign_axes(frequencies::geometric({.rotary_dim = 8}).with_magnitude(2),
                                            std::vector<int>{0, 1, 1, 0});
    const std::vector<std::uint8_t> keep{1, 0, 1, 0};
    const auto kept = frequencies::keep_pairs(s, keep);
    CHECK(kept.magnitude() == 2);
    CHECK(kept.axes() == 2);
    for (ropewalk::index i = 0; i < 4; ++i) CHECK(kept.omega(i) == (keep[i] ? s.omega(i) : 0.0));
    const std::vector<double> omega{1, 2, 3, 4};  // mixed: one head, two axes, two pairs
    const auto mixed = frequencies::keep_pairs(spectrum::mixed(omega, 1, 2), std::vector<std::uint8_t>{0, 1});
    CHECK(mixed.omega(0, 0, 0) == 0);
    CHECK(mixed.omega(0, 1, 0) == 0);
    CHECK(mixed.omega(0, 0, 1) == Approx(2).epsilon(1e-15));
    CHECK(mixed.omega(0, 1, 1) == Approx(4).epsilon(1e-15));
    CHECK_REFUSES("keep_pairs: keep must have one entry a pair: wanted 4, got 3",
                  frequencies::keep_pairs(s, std::vector<std::uint8_t>{1, 1, 1}));
}

TEST_CASE("select_pairs: every head its own choice of a shared spectrum", "[frequencies][keep_pairs]") {
    const auto s =
        frequencies::assign_axes(frequencies::geometric({.rotary_dim = 8}), std::vector<int>{0, 1, 2, 0});
    const std::vector<ropewalk::index> chosen{0, 3, 2, 1, 1, 0};
    const auto narrow = frequencies::select_pairs(s, chosen, 3);
    CHECK(narrow.heads() == 3);
    CHECK(narrow.pairs() == 2);
    CHECK(narrow.axes() == 3);
    for (ropewalk::index h = 0; h < 3; ++h)
        for (ropewalk::index i = 0; i < 2; ++i) {
            const auto pair = chosen[h * 2 + i];
            CHECK(narrow.axis_of(h, i) == s.axis_of(0, pair));
            CHECK(narrow.omega(h, narrow.axis_of(h, i), i) == s.omega(pair));
        }
}

TEST_CASE("select_pairs: all pairs in order is the same spectrum", "[frequencies][keep_pairs][reduces]") {
    const auto s = frequencies::geometric({.rotary_dim = 8});
    CHECK(frequencies::select_pairs(s, std::vector<ropewalk::index>{0, 1, 2, 3}).omegas() == s.omegas());
    const std::vector<double> omega{1, 2, 3, 4, 5, 6, 7, 8};  // mixed: two heads, two axes, two pairs
    const auto swapped =
        frequencies::select_pairs(spectrum::mixed(omega, 2, 2), std::vector<ropewalk::index>{1, 0, 1, 0}, 2);
    CHECK(swapped.omega(0, 0, 0) == Approx(2).epsilon(1e-15));
    CHECK(swapped.omega(1, 1, 0) == Approx(8).epsilon(1e-15));
}

TEST_CASE("select_pairs: refuses lists that do not fit", "[frequencies][keep_pairs][errors]") {
    const auto s = frequencies::geometric({.rotary_dim = 4});
    using list = std::vector<ropewalk::index>;
    CHECK_REFUSES("select_pairs: heads must be >= 1, got 0", frequencies::select_pairs(s, list{0}, 0));
    CHECK_REFUSES("select_pairs: pairs must hold heads * count indices, got 3",
                  frequencies::select_pairs(s, list{0, 1, 0}, 2));
    CHECK_REFUSES("select_pairs: pairs must name pairs of the spectrum, got 2",
                  frequencies::select_pairs(s, list{2}));
    const std::vector<double> omega{1, 2, 3, 4};
    CHECK_REFUSES("select_pairs: heads must be those of the spectrum, got 3",
                  frequencies::select_pairs(spectrum::selected(omega, {}, 1, 2), list{0, 1, 0}, 3));
}
