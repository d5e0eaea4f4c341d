// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/base_bound.hpp>

#include <cmath>

#include <ropewalk/frequencies/linear.hpp>
#include <ropewalk/frequencies/p_rope.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

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
    const double d64[][2] = {{1024, 7753.17}, {2048, 29618.12}, {4096, 100076.21}};
    for (const auto& row : d64)
        CHECK(analysis::min_base(
                  {.head_dim = 64, .context_length = static_cast<std::int64_t>(row[0]), .rounds = 4})
                  .value() == Approx(row[1]).epsilon(1e-6));
    const double d256[][2] = {{1024, 2967.521}, {2048, 6564.071}, {4096, 17733.906}};
    for (const auto& row : d256)
        CHECK(analysis::min_base(
                  {.head_dim = 256, .context_length = static_cast<std::int64_t>(row[0]), .rounds = 4})
                  .value() == Approx(row[1]).epsilon(1e-6));
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
    CHECK_REFUSES("first_negative: cap must be >= 0, got -1", analysis::first_negative(ladder(1e4), -1));
}
