// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kv/rebase.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("rebase: moved keys are keys rotated where they are now", "[kv][rebase]") {
    const auto from = frequencies::yarn({.rotary_dim = 8, .factor = 4, .original_context = 64});
    const auto to = frequencies::geometric({.rotary_dim = 8, .base = 5e5}).with_magnitude(1.5);
    const auto old = position_ids::from(std::vector<double>{5, 0, 7000, 12.5});
    const auto now = position_ids::from(std::vector<double>{905, 3, 2, -4});
    for (const auto* target : {&from, &to}) {
        support::heads_buffer<double> moved({1, 4, 2, 8}), fresh({1, 4, 2, 8});
        moved.fill(1), fresh.fill(1);
        const auto at_old = make_rotation_table<double>(from, old),
                   at_now = make_rotation_table<double>(*target, now);
        const auto move = make_move_table<double>(from, *target, old, now);
        rotate(half_split{}, moved.view(), at_old);
        rotate(half_split{}, moved.view(), move);
        rotate(half_split{}, fresh.view(), at_now);
        CHECK(support::worst(moved.dense(), fresh.dense()) < 1e-12);
    }
}

TEST_CASE("rebase: by its angle in long double", "[kv][rebase]") {
    const auto s = frequencies::geometric({.rotary_dim = 4});
    const auto move = make_move_table<double>(s, s, position_ids::from(std::vector<double>{5}),
                                              position_ids::from(std::vector<double>{905}));
    CHECK(move.magnitude() == 1);
    for (rw::index i = 0; i < 2; ++i) {
        const long double a = 900 * std::pow(1e4L, -i / 2.0L);
        CHECK(move.cos_row(0)[i] == Approx(double(std::cos(a))).margin(1e-13));
        CHECK(move.sin_row(0)[i] == Approx(double(std::sin(a))).margin(1e-13));
    }
    CHECK(std::atan2(move.sin_row(0)[0], move.cos_row(0)[0]) == Approx(1.504501073).epsilon(1e-9));
}

TEST_CASE("rebase: by nothing is the identity bit for bit", "[kv][rebase][reduces]") {
    const auto s = frequencies::geometric({.rotary_dim = 16, .base = 1e6});
    const auto at = position_ids::from(std::vector<double>{0, 17, 123457, 0.3});
    const auto move = make_move_table<float>(s, s, at, at);
    for (rw::index n = 0; n < 4; ++n)
        for (rw::index i = 0; i < 8; ++i) {
            CHECK(move.cos_row(n)[i] == 1);
            CHECK(move.sin_row(n)[i] == 0);
        }
    position_ids some;
    some.append(untouched_run{1}).append(text_run{3, 0, 1});
    const auto moved = make_move_table<float>(s, s, some, at);
    CHECK(moved.rows().row(0) < 0);
}

TEST_CASE("rebase: two moves are one", "[kv][rebase]") {
    const auto s = frequencies::geometric({.rotary_dim = 8});
    const auto at = [](double p) { return position_ids::from(std::vector<double>{p, p + 1}); };
    support::heads_buffer<double> a({1, 2, 1, 8}), b({1, 2, 1, 8});
    a.fill(1), b.fill(1);
    const auto first = make_move_table<double>(s, s, at(3), at(900)),
               second = make_move_table<double>(s, s, at(900), at(-5));
    const auto whole = make_move_table<double>(s, s, at(3), at(-5));
    rotate(half_split{}, a.view(), first), rotate(half_split{}, a.view(), second);
    rotate(half_split{}, b.view(), whole);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-12);
}

TEST_CASE("rebase: int8 keys are within half a step of their new scale", "[kv][rebase]") {
    auto x = support::noise(3 * 2 * 16, 1);
    for (int c = 0; c < 16; ++c) x[c] = 0;  // a head of zeros
    const auto coded = quantize_int8(heads_view<const double>(x.data(), 3, 2, 16));
    CHECK(coded.scales[0] == 0);
    auto back = x;
    dequantize_int8(coded, heads_view<double>(back.data(), 3, 2, 16));
    for (int i = 0; i < 96; ++i) CHECK(std::abs(back[i] - x[i]) <= coded.scales[i / 16] / 2 * (1 + 1e-12));
    CHECK(*std::max_element(coded.codes.begin(), coded.codes.end()) <= 127);
}

TEST_CASE("rebase: int8 keys of subnormal numbers keep their signs", "[kv][rebase]") {
    const double least = std::numeric_limits<double>::denorm_min();
    const double keys[] = {150 * least, -150 * least};
    const auto coded = quantize_int8(heads_view<const double>(keys, 1, 1, 2));
    CHECK(coded.codes[0] == 127);
    CHECK(coded.codes[1] == -127);
}

TEST_CASE("rebase: int8 keys come back one by one", "[kv][rebase]") {
    // Two tokens of two heads of two channels; nothing of what x held before is left.
    std::vector<double> x(8, 99);
    dequantize_int8({{1, -2, 3, -4, 5, -6, 7, -8}, {0.5, 2, 0, 10}}, heads_view<double>(x.data(), 2, 2, 2));
    CHECK(x == std::vector<double>{0.5, -1, 6, -8, 0, 0, 70, -80});
}

TEST_CASE("rebase: the stated drift, by its formula", "[kv][rebase]") {
    CHECK(shift_drift_bound(shifted_storage::f32, 0) == 0);
    CHECK(shift_drift_bound(shifted_storage::f32, 3) == Approx(12 * 0x1p-24).epsilon(1e-6));
    CHECK(shift_drift_bound(shifted_storage::f16, 1) == Approx(0x1p-10 * (1 + 0x1p-10)).epsilon(1e-15));
    CHECK(shift_drift(shifted_storage::int8, 256) == Approx(1.001 * 16.0 / 254).epsilon(1e-14));
    CHECK(shift_drift(shifted_storage::int8, 64) == Approx(1.001 * 8.0 / 254).epsilon(1e-14));
    CHECK(shift_drift(shifted_storage::q8_0, 64) == shift_drift(shifted_storage::q8_0, 128));
    CHECK(shift_drift_bound(shifted_storage::bf16, 0) == 0);
    CHECK(shift_drift_bound(shifted_storage::bf16, 2) ==
          Approx(2.0 / 256 * (257.0 / 256) * (257.0 / 256)).epsilon(1e-15));
}

TEST_CASE("rebase: a row a block moves as a row a token", "[kv][rebase]") {
    const auto s = frequencies::yarn({.rotary_dim = 12, .factor = 4, .original_context = 64});
    const std::vector<rw::index> lengths{2, 0, 3, 1};
    position_ids deltas = position_ids::from(std::vector<double>{100, 5});
    deltas.append(untouched_run{1}).append(text_run{1, -7.5, 1});
    const auto blocks = make_block_move_table<double>(s, lengths, deltas);
    CHECK(blocks.row_count() == 3);
    CHECK(blocks.magnitude() == 1);
    REQUIRE(blocks.rows().tokens == 6);
    support::heads_buffer<double> a({1, 6, 2, 12});
    a.fill(1);
    const auto before = a.dense();
    rotate(half_split{}, a.view(), blocks);
    const auto after = a.dense();
    const double of_token[] = {100, 100, 0, 0, 0, -7.5};
    for (rw::index n = 0; n < 6; ++n)
        for (rw::index h = 0; h < 2; ++h)
            for (rw::index i = 0; i < 6; ++i) {
                const auto at = (n * 2 + h) * 12 + i;
                const long double angle = (long double)of_token[n] * s.omega(i);
                CHECK(after[at] ==
                      Approx(double(before[at] * std::cos(angle) - before[at + 6] * std::sin(angle)))
                          .margin(1e-13));
                if (n > 1 && n < 5) CHECK(after[at] == before[at]);
            }
}

TEST_CASE("rebase: repeated shifts stay within the stated drift", "[kv][rebase]") {
    const auto s = frequencies::geometric({.rotary_dim = 128, .base = 1e6});
    const rw::index tokens = 8;
    const auto step = make_rotation_table<float>(s, position_ids::from(std::vector<double>(tokens, 1.0)));
    support::heads_buffer<float> wide({1, tokens, 1, 128});
    support::heads_buffer<bf16> narrow({1, tokens, 1, 128});
    support::heads_buffer<double> exact({1, tokens, 1, 128});
    narrow.fill(3);
    const auto start = narrow.numbers();
    std::size_t at = 0;
    wide.each([&](float& v) { v = float(start[at++]); });
    int done = 0;
    for (const int shifts : {1, 10, 100}) {
        for (; done < shifts; ++done) {
            rotate(half_split{}, wide.view(), step);
            rotate(half_split{}, narrow.view(), step);
        }
        at = 0;
        exact.each([&](double& v) { v = start[at++]; });
        const auto once =
            make_rotation_table<double>(s, position_ids::from(std::vector<double>(tokens, double(shifts))));
        rotate(half_split{}, exact.view(), once);
        const auto want = exact.numbers(), f = wide.numbers(), b = narrow.numbers();
        for (rw::index n = 0; n < tokens; ++n) {
            double length = 0, off_f = 0, off_b = 0;
            for (rw::index i = n * 128; i < (n + 1) * 128; ++i) {
                length += want[i] * want[i];
                off_f += std::pow(f[i] - want[i], 2), off_b += std::pow(b[i] - want[i], 2);
            }
            CHECK(std::sqrt(off_f / length) <= shift_drift_bound(shifted_storage::f32, shifts));
            CHECK(std::sqrt(off_b / length) <= shift_drift_bound(shifted_storage::bf16, shifts));
            CHECK(std::sqrt(off_b / length) > 1e-4 * shifts);  // and it does drift
        }
    }
}

TEST_CASE("rebase: blocks joined, tokens blended", "[kv][rebase]") {
    const std::vector<rw::index> lengths{2, 0, 3};
    CHECK(block_positions(lengths).values() == std::vector<double>{0, 1, 0, 1, 2});
    std::vector<double> a(8), b{0, 0, 3, 0, 1, 1, 1, 1};  // differences 0, 9, 2, 2
    const auto choice = choose_recomputed({.ratio = 0.5}, heads_view<const double>(a.data(), 4, 1, 2),
                                          heads_view<const double>(b.data(), 4, 1, 2));
    CHECK(choice.difference == std::vector<double>{0, 9, 2, 2});
    CHECK(choice.recomputed == std::vector<rw::index>{1, 2});
    CHECK(choose_recomputed({.ratio = 0.5, .suffix = 3}, heads_view<const double>(a.data(), 4, 1, 2),
                            heads_view<const double>(b.data(), 4, 1, 2))
              .recomputed == std::vector<rw::index>{1, 2, 3});
}

TEST_CASE("rebase: refuses what does not fit", "[kv][rebase][errors]") {
    const auto s = frequencies::geometric({.rotary_dim = 4}),
               wide = frequencies::geometric({.rotary_dim = 8});
    CHECK_REFUSES("make_move_table: spectra must have the same pairs: wanted 2, got 4",
                  make_move_table<>(s, wide, position_ids::text(1), position_ids::text(1)));
    CHECK_REFUSES("make_move_table: positions must be of the same tokens: wanted 1, got 2",
                  make_move_table<>(s, s, position_ids::text(1), position_ids::text(2)));
    std::vector<double> x{1, NAN};
    CHECK_REFUSES("quantize_int8: keys must be finite, got nan",
                  quantize_int8(heads_view<const double>(x.data(), 1, 1, 2)));
    CHECK_REFUSES("dequantize_int8: scales must hold tokens * heads numbers: wanted 1, got 0",
                  dequantize_int8({}, heads_view<double>(x.data(), 1, 1, 2)));
    CHECK_REFUSES("shift_drift: channels must be >= 1, got 0", shift_drift(shifted_storage::int8, 0));
    const std::vector<rw::index> two{3, 1}, negative{3, -1};
    CHECK_REFUSES("make_block_move_table: deltas must be one a block: wanted 2, got 3",
                  make_block_move_table<>(s, two, position_ids::text(3)));
    CHECK_REFUSES("make_block_move_table: lengths must be >= 0, got -1",
                  make_block_move_table<>(s, negative, position_ids::text(2)));
    CHECK_REFUSES("shift_drift_bound: shifts must be >= 0, got -1",
                  shift_drift_bound(shifted_storage::bf16, -1));
    const heads_view<const double> v(x.data(), 1, 1, 2);
    CHECK_REFUSES("choose_recomputed: ratio must be in [0, 1], got 2", choose_recomputed({.ratio = 2}, v, v));
    CHECK_REFUSES("choose_recomputed: suffix must be in 0 .. tokens, got 2",
                  choose_recomputed({.suffix = 2}, v, v));
    CHECK_REFUSES("block_positions: lengths must be >= 0, got -1",
                  block_positions(std::vector<rw::index>{-1}));
}
