// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/fixed_scheme.hpp>

#include <string>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("fixed scheme: the same frequencies at any length", "[schemes][fixed]") {
    const auto rope = rw::make_fixed_scheme(
        {.name = "part", .head_dim = 16, .first_channel = 4, .layout = rw::interleaved{}},
        rw::frequencies::geometric({.rotary_dim = 8}));
    CHECK(rope.rotary_dim == 8);
    CHECK(rope.first_channel == 4);
    CHECK(rope.read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK(rope.write_layout == rope.read_layout);
    CHECK_FALSE(rope.length_dependent);
    CHECK(rope.spectrum_for(1).omegas() == rope.spectrum_for(1 << 20).omegas());
}

TEST_CASE("fixed scheme: slices that do not fit are refused", "[schemes][fixed]") {
    const auto s = rw::frequencies::geometric({.rotary_dim = 12});
    CHECK_REFUSES("make_fixed_scheme: head_dim must hold the channels that rotate, got 8",
                  rw::make_fixed_scheme({.head_dim = 8}, s));
    CHECK_REFUSES("make_fixed_scheme: layout must divide the channels, got 8",
                  rw::make_fixed_scheme({.layout = rw::pair_layout::blocked_by(8)}, s));
    CHECK_REFUSES("make_fixed_scheme: frequencies must have pairs, got 0",
                  rw::make_fixed_scheme({.head_dim = 8}, rw::spectrum::from_omega(std::vector<double>{})));
    CHECK_REFUSES("make_fixed_scheme: first_channel must be >= 0, got -2",
                  rw::make_fixed_scheme({.first_channel = -2}, s));
}

TEST_CASE("axial scheme: half of the pairs an axis, the first as said", "[schemes][fixed]") {
    for (const auto first : {rw::first_axis::row, rw::first_axis::column}) {
        const auto s =
            rw::make_axial_scheme({.name = "a", .head_dim = 16, .base = 100, .first = first}).spectrum_for(1);
        for (rw::index i = 0; i < 8; ++i)
            CHECK(s.axis_of(0, i) == ((i < 4) == (first == rw::first_axis::row) ? 0 : 1));
        CHECK(s.omega(1) == Approx(std::pow(100.0, -0.25)));
        CHECK(s.omega(5) == s.omega(1));
    }
    for (const rw::index dim : {-4, 0, 2, 18})
        CHECK_REFUSES("a: head_dim must be a multiple of 4 and > 0, got " + std::to_string(dim),
                      rw::make_axial_scheme({.name = "a", .head_dim = dim}));
    CHECK(rw::make_axial_scheme({.name = "a", .head_dim = 4}).rotary_dim == 4);
}

TEST_CASE("axial scheme: a slice from first_channel on, and what is none", "[schemes][fixed]") {
    const auto slice = [](rw::index dim, rw::index first, rw::index rotary) {
        return rw::make_axial_scheme(
            {.name = "a", .head_dim = dim, .first_channel = first, .rotary_dim = rotary});
    };
    CHECK(slice(10, 2, 0).rotary_dim == 8);  // up to the end
    CHECK(slice(10, 2, 8).first_channel == 2);
    CHECK(slice(10, 0, 4).rotary_dim == 4);
    for (const rw::index dim : {-4, 0})
        CHECK_REFUSES("a: head_dim must be > 0, got " + std::to_string(dim), slice(dim, 0, 4));
    for (const rw::index first : {-1, 8})
        CHECK_REFUSES("a: first_channel must be >= 0 and below head_dim, got " + std::to_string(first),
                      slice(8, first, 4));
    for (const rw::index rotary : {-4, 6, 12})
        CHECK_REFUSES(
            "a: rotary_dim must be a multiple of 4, > 0 and within the head, got " + std::to_string(rotary),
            slice(10, 2, rotary));
    CHECK_REFUSES("a: rotary_dim must be a multiple of 4, > 0 and within the head, got 7", slice(8, 1, 0));
}
