// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/base_bound.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <utility>
#include <vector>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/hope_video.hpp>
#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/p_rope.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {
spectrum ladder(double base, ropewalk::index d = 128) {
    return frequencies::geometric({.rotary_dim = d, .base = base});
}
}  // namespace

TEST_CASE("base_bound: B(0) is the number of pairs; interpolation asks for m / s", "[analysis][base_bound]") {
    CHECK(analysis::discrimination(ladder(1e4), 0) == 64);
    const auto interpolated = frequencies::linear({.rotary_dim = 128, .factor = 4});
    for (double m : {1.0, 100.0, 4000.0})
        CHECK(analysis::discrimination(interpolated, 4 * m) ==
              Approx(analysis::discrimination(ladder(1e4), m)).margin(1e-9));
}

TEST_CASE("base_bound: the first negative distances, and that more base is not always more",
          "[analysis][base_bound]") {
    const double published[][2] = {{500, 171},   {1e3, 361},    {1e4, 1707},     {5e5, 18438},   {1e6, 27115},
                                   {5e6, 82999}, {1e7, 144660}, {640000, 27685}, {310000, 12223}};
    for (const auto& row : published) {
        const auto place = analysis::first_negative(ladder(row[0]), 200000);
        CHECK(place == static_cast<std::int64_t>(row[1]));
        CHECK(analysis::discrimination(ladder(row[0]), static_cast<double>(place)) < 0);
    }
    CHECK(analysis::first_negative(ladder(1e4), 1707) == 1707);  // the cap, when nothing lies below it
    CHECK(analysis::first_negative(ladder(1e4), 0) == 0);
}

TEST_CASE("base_bound: half the pairs at rest carry any context", "[analysis][base_bound]") {
    for (double base : {10.0, 1e4}) {
        const auto s = frequencies::p_rope({.head_dim = 32, .base = base, .p = 0.5});
        CHECK(analysis::first_negative(s, 20000) == 20000);
    }
}

TEST_CASE("base_bound: least bases as recomputed, and they hold", "[analysis][base_bound]") {
    for (const auto& row : analysis::published_base_bounds()) {
#ifdef NDEBUG
        const std::int64_t longest = 131072;
#else
        const std::int64_t longest = 8192;
#endif
        if (row.context_length > longest) continue;
        INFO(row.context_length);
        const auto found = analysis::min_base({.context_length = row.context_length});
        REQUIRE(found.has_value());
        CHECK(*found == Approx(row.ours).epsilon(1e-7));
        CHECK(*found == Approx(row.recomputed).epsilon(0.045));
        CHECK(analysis::first_negative(ladder(*found), row.context_length) == row.context_length);
    }
}

namespace {
/// Least bases of other heads, K = 4; the long ones where the search is optimised.
void check_least_bases(ropewalk::index head_dim,
                       std::initializer_list<std::pair<std::int64_t, double>> rows) {
    for (const auto& [length, want] : rows) {
#ifndef NDEBUG
        if (length > 4096) continue;
#endif
        INFO(length);
        const auto found = analysis::min_base({.head_dim = head_dim, .context_length = length, .rounds = 4});
        REQUIRE(found.has_value());
        CHECK(*found == Approx(want).epsilon(1e-6));
        CHECK(*found > analysis::wide_head_base(static_cast<double>(length)));
        CHECK(analysis::first_negative(ladder(*found, head_dim), length) == length);
    }
}
}  // namespace

TEST_CASE("base_bound: least bases of heads of 64 channels", "[analysis][base_bound]") {
    check_least_bases(64, {{1024, 7753.17},
                           {2048, 29618.12},
                           {4096, 100076.21},
                           {8192, 323751.11},
                           {16384, 1358717.0},
                           {32768, 3788356.0}});
}

TEST_CASE("base_bound: least bases of heads of 256 channels", "[analysis][base_bound]") {
    check_least_bases(256, {{1024, 2967.521},
                            {2048, 6564.071},
                            {4096, 17733.906},
                            {8192, 41307.727},
                            {16384, 103611.31},
                            {32768, 223826.20}});
}

TEST_CASE("base_bound: the least base of heads of 256 channels for 65536 tokens", "[analysis][base_bound]") {
    check_least_bases(256, {{65536, 675560.95}});
}

TEST_CASE("base_bound: the paper's fit follows its table, the limit of wide heads is a zero of B",
          "[analysis][base_bound]") {
    for (const auto& row : analysis::published_base_bounds()) {
        if (row.context_length > 131072) continue;
        const double ratio = analysis::fitted_base(static_cast<double>(row.context_length)) / row.paper;
        INFO(row.context_length);
        CHECK(ratio > 1 / 1.9);
        CHECK(ratio < 1.9);
    }
    // 2^19 pairs sample the integral finely; B changes sign where L = 0.6165 b.
    const auto wide = ladder(1e4, 1 << 20);
    for (const double off : {0.01, 0.002}) {
        CHECK(analysis::discrimination(wide, (0.6165 - off) * 1e4) > 0);
        CHECK(analysis::discrimination(wide, (0.6165 + off) * 1e4) < 0);
    }
    CHECK(analysis::wide_head_base(0.6165 * 1e4) == Approx(1e4).epsilon(1e-15));
}

TEST_CASE("base_bound: one pair carries nothing, whatever the base", "[analysis][base_bound]") {
    CHECK_FALSE(analysis::min_base({.head_dim = 2, .context_length = 64, .rounds = 2}).has_value());
}

TEST_CASE("base_bound: the paper's rounded entries need not hold, ours do", "[analysis][base_bound]") {
    CHECK(analysis::first_negative(ladder(3.1e5), 16384) == 12223);
    CHECK(analysis::first_negative(ladder(231644.54), 16384) == 16384);
}

TEST_CASE("base_bound: refuses impossible numbers", "[analysis][base_bound][errors]") {
    CHECK_REFUSES("min_base: rotary_dim must be even and > 0, got 7",
                  analysis::min_base({.head_dim = 7, .context_length = 4}));
    CHECK_REFUSES("min_base: context_length must be >= 1, got 0", analysis::min_base({}));
    CHECK_REFUSES("min_base: rounds must be in [1, 6], got 0",
                  analysis::min_base({.context_length = 4, .rounds = 0}));
    CHECK_REFUSES("fitted_base: context_length must be finite and > 0, got 0", analysis::fitted_base(0));
    CHECK_REFUSES("wide_head_base: context_length must be finite and > 0, got -1",
                  analysis::wide_head_base(-1));
    CHECK_REFUSES("first_negative: cap must be >= 0, got -1", analysis::first_negative(ladder(1e4), -1));
}

TEST_CASE("base_bound: discrimination along several axes", "[analysis][base_bound]") {
    // One axis: the same number.
    const auto plain = ladder(1e4);
    for (const double m : {0.0, 3.0, 700.0})
        CHECK(analysis::discrimination(plain, std::vector<double>{m}) ==
              Approx(analysis::discrimination(plain, m)));
    // Every pair reads its own axis.
    const auto omega = frequencies::assign_axes(frequencies::geometric({.rotary_dim = 16, .base = 100}),
                                                axis_map::sections({2, 3, 3}), 3);
    const auto sum = [&](double t, double y, double x) {
        double all = 0;
        for (ropewalk::index i = 0; i < 8; ++i)
            all += std::cos((i < 2 ? t : i < 5 ? y : x) * std::pow(100.0, -i / 8.0));
        return all;
    };
    for (const auto& [t, y, x] : {std::array<double, 3>{0, 0, 0}, {5, 0, 0}, {2, 7, 1}, {-3, 0.5, 40}})
        CHECK(analysis::discrimination(omega, std::vector<double>{t, y, x}) ==
              Approx(sum(t, y, x)).margin(1e-12));
    // Learned frequencies: every pair reads every axis, head by head.
    const std::vector<double> weights{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8};
    const auto mixed = spectrum::mixed(weights, 2, 2);
    CHECK(analysis::discrimination(mixed, std::vector<double>{3, 4}, 1) ==
          Approx(std::cos(3 * 0.5 + 4 * 0.7) + std::cos(3 * 0.6 + 4 * 0.8)).epsilon(1e-13));
    CHECK_REFUSES("discrimination: offset must hold one number an axis: wanted 2, got 1",
                  analysis::discrimination(mixed, std::vector<double>{3}));
    CHECK_REFUSES("discrimination: head must be one of the spectrum's, got 2",
                  analysis::discrimination(mixed, std::vector<double>{3, 1}, 2));
}

TEST_CASE("base_bound: what VideoRoPE and HoPE tell apart across frames, and across text",
          "[analysis][base_bound][reduces]") {
    const auto text = frequencies::geometric({.rotary_dim = 128, .base = 1e4});
    const auto video = frequencies::assign_axes(text, axis_map::video_rope({16, 24, 24}), 3);
    const auto hope = frequencies::hope_video(text, {16, 24, 24});
    const auto mrope = frequencies::assign_axes(text, axis_map::sections({16, 24, 24}), 3);
    for (const double m : {0.0, 1.0, 37.0, 2000.0}) {
        const std::vector<double> diagonal{m, m, m}, frames{m, 0, 0};
        // Text moves on all axes alike: VideoRoPE's is plain RoPE; HoPE's lacks the sixteen slowest pairs.
        CHECK(analysis::discrimination(video, diagonal) ==
              Approx(analysis::discrimination(text, m)).margin(1e-9));
        double kept = 16, slow = 48, fast = 48;
        for (rw::index i = 0; i < 48; ++i) kept += std::cos(m * text.omega(i));
        for (rw::index i = 0; i < 16; ++i) {
            slow += std::cos(m * text.omega(48 + i));
            fast += std::cos(m * text.omega(i));
        }
        CHECK(analysis::discrimination(hope, diagonal) == Approx(kept).margin(1e-9));
        // Frames at one place of the picture: VideoRoPE's time is the slowest pairs, M-RoPE's the fastest, and
        // HoPE's none.
        CHECK(analysis::discrimination(video, frames) == Approx(slow).margin(1e-9));
        CHECK(analysis::discrimination(mrope, frames) == Approx(fast).margin(1e-9));
        CHECK(analysis::discrimination(hope, frames) == Approx(64).margin(1e-12));
    }
    const std::vector<double> text_step{1, 1, 1}, frame_step{1, 0, 0}, along_a_row{0, 0, 1}, two{2, 2, 2};
    CHECK(analysis::first_negative(text, 10000) == 1707);
    CHECK(analysis::first_negative(text, std::vector<double>{1}, 10000) == 1707);
    CHECK(analysis::first_negative(video, text_step, 10000) == 1707);
    std::int64_t even = 0;
    while (analysis::discrimination(text, double(2 * even)) >= 0) ++even;
    CHECK(analysis::first_negative(video, two, 10000) == even);
    CHECK(analysis::first_negative(video, two, 800) == 800);
    for (const auto* s : {&video, &hope, &mrope})  // 48 pairs and more stand still
        for (const auto* step : {&frame_step, &along_a_row})
            CHECK(analysis::first_negative(*s, *step, 100000) == 100000);
    const std::int64_t carried = analysis::first_negative(hope, text_step, 1000000);
    CHECK(carried > 1707);
    for (std::int64_t m = 0; m < std::min<std::int64_t>(carried, 20000); ++m)
        if (analysis::discrimination(hope, std::vector<double>(3, double(m))) < 0) FAIL(m);
    CHECK_REFUSES("first_negative: step must hold one number an axis: wanted 3, got 1",
                  analysis::first_negative(video, std::vector<double>{1}, 5));
    CHECK_REFUSES("first_negative: step must be finite, got inf",
                  analysis::first_negative(video, std::vector<double>{1, HUGE_VAL, 0}, 5));
    CHECK_REFUSES("first_negative: cap must be >= 0, got -1", analysis::first_negative(video, text_step, -1));
    CHECK_REFUSES("first_negative: head must be one of the spectrum's, got 1",
                  analysis::first_negative(video, text_step, 5, 1));
}
