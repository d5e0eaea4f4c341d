// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/freeflux.hpp>

#include <limits>

#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace freeflux = ropewalk::freeflux;
using freeflux::key_mode;

TEST_CASE("FreeFlux: a policy changes its cells only", "[schemes][freeflux]") {
    freeflux::key_policy policy(57, 50);
    policy.set_layer(26, freeflux::probes[1]);
    policy.set_cell(3, 7, freeflux::probes[0]);
    CHECK(policy.at(26, 0) == freeflux::key_change{key_mode::shifted, 10, 10});
    CHECK(policy.at(26, 49) == policy.at(26, 0));
    CHECK(policy.at(3, 7).mode == key_mode::not_rotated);
    CHECK(policy.at(3, 8).mode == key_mode::normal);
    CHECK(policy.at(25, 10) == freeflux::key_change{});
    CHECK_REFUSES("key_policy: layer must be below layers, got 57", policy.at(57, 0));
    CHECK_REFUSES("key_policy: step must be below steps, got 50", policy.at(0, 50));
    CHECK_REFUSES("key_policy: steps must be >= 1, got 0", freeflux::key_policy(57, 0));
    CHECK_REFUSES("key_policy: rows must be finite, got inf",
                  (policy.set_cell(0, 0, {key_mode::shifted, INFINITY, 0}), 0));
}

TEST_CASE("FreeFlux: shifted keys move the image, not the text", "[schemes][freeflux]") {
    const auto where = rw::flux::flux1_positions({.text_tokens = 2, .generated = {1, 2}});
    const auto moved = freeflux::key_positions(where, {key_mode::shifted, 10, -3});
    CHECK(moved.values() == std::vector<double>{0, 0, 0, 0, 0, 0, 0, 10, -3, 0, 10, -2});
    CHECK_FALSE(moved.touched(0));
    const auto rested = freeflux::key_positions(where, freeflux::probes[0]);
    for (rw::index n = 0; n < 4; ++n) CHECK_FALSE(rested.touched(n));
    CHECK(freeflux::key_positions(where, {}).values() == where.values());
    // FLUX.2's text turns; there the number of text tokens says where the image starts.
    const auto flux2 = rw::flux::flux2_positions({.text_tokens = 2, .generated = {1, 1}});
    CHECK(freeflux::key_positions(flux2, {key_mode::shifted, 1, 2}, 2).values() ==
          std::vector<double>{0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 0});
    // The ids of an engine: the first patch has the ids of the text and moves nevertheless.
    const std::vector<double> ids{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    const auto engine = rw::flux::positions_of_ids(std::span<const double>(ids), {.text_tokens = 2});
    const auto engine_moved = freeflux::key_positions(engine, {key_mode::shifted, 10, -3});
    CHECK(engine_moved.values() == moved.values());
    CHECK_FALSE(engine_moved.touched(1));
    const auto listed = rw::flux::positions_of_ids(std::span<const double>(ids));
    CHECK(freeflux::key_positions(listed, {key_mode::shifted, 10, -3}, 2).values() == moved.values());
    CHECK_REFUSES("freeflux::key_positions: text_tokens must be >= 0 and at most the tokens of ids, got -1",
                  freeflux::key_positions(flux2, {key_mode::shifted, 1, 2}, -1));
    CHECK_REFUSES("freeflux::key_positions: text_tokens must be >= 0 and at most the tokens of ids, got 4",
                  freeflux::key_positions(flux2, {key_mode::shifted, 1, 2}, 4));
    CHECK_REFUSES("freeflux::key_positions: columns must be finite, got nan",
                  freeflux::key_positions(flux2, {key_mode::shifted, 1, std::nan("")}));
    CHECK_REFUSES("freeflux::key_positions: mode must be a mode of keys, got 3",
                  freeflux::key_positions(flux2, {static_cast<key_mode>(3), 1, 2}));
    CHECK_REFUSES("freeflux::key_positions: ids must have the axes (image, row, column), got 1",
                  freeflux::key_positions(rw::position_ids::text(2), {}));
}

TEST_CASE("FreeFlux: rotated keys move by one row, and back", "[schemes][freeflux]") {
    const auto rope = rw::flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const auto omega = rope.spectrum_for(1);
    const auto where = rw::flux::flux1_positions({.text_tokens = 0, .generated = {3, 4}});
    const freeflux::key_change shift{key_mode::shifted, 64, 20};
    support::heads_buffer<double> moved({1, 12, 2, 16}), direct({1, 12, 2, 16});
    moved.fill(1);
    direct.fill(1);
    rw::rotate(rope, moved.view(), rw::make_rotation_table<double>(omega, where));
    const auto normal = moved.numbers();
    const auto row = freeflux::make_shift_row<double>(omega, shift);
    rw::rotate(rope, moved.view(), rw::repeat_row(row, 0, 12));
    rw::rotate(rope, direct.view(),
               rw::make_rotation_table<double>(omega, freeflux::key_positions(where, shift)));
    const auto a = moved.numbers(), b = direct.numbers();
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-13).margin(1e-13));
    rw::unrotate(rope, moved.view(), rw::repeat_row(row, 0, 12));
    const auto back = moved.numbers();
    for (std::size_t i = 0; i < a.size(); ++i)
        CHECK(back[i] == Approx(normal[i]).epsilon(1e-13).margin(1e-13));
    CHECK_REFUSES("make_shift_row: spectrum must have the axes (image, row, column), got 1",
                  freeflux::make_shift_row(rw::frequencies::geometric({.rotary_dim = 4}), shift));
}

TEST_CASE("FreeFlux: the probes and the cells of the released code", "[schemes][freeflux]") {
    using freeflux::key_change;
    CHECK(freeflux::probes == std::array<key_change, 4>{{{key_mode::not_rotated, 0, 0},
                                                         {key_mode::shifted, 10, 10},
                                                         {key_mode::shifted, 0, 20},
                                                         {key_mode::shifted, 64, 0}}});
    CHECK(freeflux::content_similarity_layers ==
          std::array<int, 13>{0, 7, 8, 9, 10, 18, 25, 28, 37, 42, 45, 50, 56});
    CHECK(freeflux::position_dependent_layers == std::array<int, 7>{1, 2, 4, 26, 30, 54, 55});
    CHECK(freeflux::object_layers == std::array<int, 4>{40, 41, 42, 43});
    CHECK(freeflux::object_step == 7);
    CHECK(freeflux::flux_layers == 57);
    CHECK(freeflux::denoising_steps == 50);
    CHECK(freeflux::region_preserved_steps == 45);  // 0 .. 44
    for (const int a : freeflux::content_similarity_layers)
        for (const int b : freeflux::position_dependent_layers) CHECK(a != b);
}

TEST_CASE("FreeFlux: keys that do not turn are keys whose ids are all 0", "[schemes][freeflux][invariant]") {
    const auto rope = rw::flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const auto where = rw::flux::flux1_positions({.text_tokens = 1, .generated = {2, 2}});
    support::heads_buffer<double> rest({1, 5, 1, 16}), zero({1, 5, 1, 16});
    rest.fill(1);
    zero.fill(1);
    rw::rotate(rope, rest.view(),
               rw::make_rotation_table<double>(rope.spectrum_for(1),
                                               freeflux::key_positions(where, freeflux::probes[0])));
    rw::rotate(
        rope, zero.view(),
        rw::make_rotation_table<double>(
            rope.spectrum_for(1), rw::flux::positions_of_ids(std::span<const int>(std::vector<int>(15)))));
    CHECK(rest.numbers() == zero.numbers());
    CHECK(freeflux::key_positions(where, {key_mode::shifted, 0, 0}).values() == where.values());
}
