// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/longrope2_search.hpp>

#include <algorithm>
#include <cmath>
#include <random>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

analysis::longrope2_search_config small() {
    return {.bounds = {.rotary_dim = 32,
                       .base = 1e4,
                       .original_context = 256,
                       .target_context = 2048,
                       .largest_factor = 16},
            .population = 24,
            .rounds = 12,
            .parents = 8,
            .mutations = 8,
            .crossovers = 8,
            .step = 0.25,
            .seed = 5};
}
/// A loss with its least at divisors 1 + 0.75 i.
double bowl(std::span<const double> factors) {
    double sum = 0;
    for (std::size_t i = 0; i < factors.size(); ++i) sum += std::pow(factors[i] - 1 - 0.75 * double(i), 2);
    return sum;
}

}  // namespace

TEST_CASE("longrope2_search: every divisor tried is within its bounds, in order and new",
          "[analysis][longrope2_search]") {
    for (const double largest : {8.0, 9.0, 16.0, 64.0}) {
        auto c = small();
        c.bounds.largest_factor = largest;
        const auto bounds = frequencies::longrope2_bounds(c.bounds);
        std::vector<std::vector<double>> tried;
        rw::index heard = 0;
        double least = HUGE_VAL;
        const auto found = analysis::find_longrope2_factors(
            c,
            [&](std::span<const double> factors) {
                tried.emplace_back(factors.begin(), factors.end());
                return bowl(factors);
            },
            [&](analysis::search_state s) {
                CHECK(s.done == ++heard);
                CHECK(s.done <= s.most);
                least = std::min(least, bowl(tried.back()));
                CHECK(s.least == least);
            });
        CHECK(heard == static_cast<rw::index>(tried.size()));
        CHECK(heard > 150);  // of 24 + 12 * 16
        for (std::size_t k = 0; k < tried.size(); ++k) {
            REQUIRE(tried[k].size() == 16);
            for (std::size_t i = 0; i < 16; ++i) {
                CHECK(tried[k][i] >= bounds.low[i]);
                CHECK(tried[k][i] <= bounds.high[i]);
                if (i > 0) CHECK(tried[k][i] >= tried[k][i - 1]);
            }
            for (std::size_t j = 0; j < k; ++j) CHECK(tried[j] != tried[k]);
        }
        CHECK(found.loss == least);
        CHECK(bowl(found.factors) == least);
        REQUIRE(found.by_round.size() == 13);
        for (std::size_t r = 1; r < 13; ++r) CHECK(found.by_round[r] <= found.by_round[r - 1]);
        CHECK(found.by_round.back() == least);
        // The search would drop mutations out of order: they would be draws for nothing.
        std::mt19937 engine(c.seed);
        for (int k = 0; k < 50; ++k) {
            const auto drawn = analysis::detail_longrope2::mutated(
                found.factors, analysis::detail_longrope2::rising(bounds), 1, c.step, engine);
            CHECK(std::is_sorted(drawn.begin(), drawn.end()));
        }
    }
}

TEST_CASE("longrope2_search: the first guesses are the published ones, held to the bounds",
          "[analysis][longrope2_search]") {
    auto c = small();
    c.bounds.largest_factor = 64;
    c.population = c.parents = 8;
    c.rounds = 0;
    const auto bounds = frequencies::longrope2_bounds(c.bounds);
    const rw::index critical = frequencies::longrope2_critical_pair(c.bounds);
    std::vector<std::vector<double>> tried;
    const auto found = analysis::find_longrope2_factors(c, [&](std::span<const double> factors) {
        tried.emplace_back(factors.begin(), factors.end());
        return bowl(factors);
    });
    REQUIRE(tried.size() == 8);
    for (int k = 0; k < 8; ++k)
        for (rw::index i = 0; i < 16; ++i) {
            const long double s = 64 + 4 * k;
            const long double want =
                i < critical ? std::pow(s, (long double)i / critical) : s + 0.1L * (i - critical);
            CHECK(tried[k][i] == Approx(double(std::min<long double>(want, bounds.high[i]))).epsilon(1e-14));
        }
    CHECK(found.by_round.size() == 1);
}

TEST_CASE("longrope2_search: it finds a bowl, better the longer it looks, the same for the same seed",
          "[analysis][longrope2_search]") {
    auto c = small();
    const auto one = analysis::find_longrope2_factors(c, bowl),
               again = analysis::find_longrope2_factors(c, bowl);
    CHECK(one.factors == again.factors);
    CHECK(one.by_round == again.by_round);
    c.seed = 6;
    CHECK(analysis::find_longrope2_factors(c, bowl).factors != one.factors);
    c.rounds = 200;
    const auto longer = analysis::find_longrope2_factors(c, bowl);
    // What the bounds leave of the bowl: slow pairs are at least 8.
    const auto bounds = frequencies::longrope2_bounds(c.bounds);
    double least = 0;
    for (std::size_t i = 0; i < 16; ++i) {
        const double best = 1 + 0.75 * double(i);
        least += std::pow(std::clamp(best, bounds.low[i], bounds.high[i]) - best, 2);
    }
    CHECK(longer.loss >= least);
    CHECK(longer.loss < least + 0.5);
    CHECK(longer.loss < 0.5 * longer.by_round.front());
}

TEST_CASE("longrope2_search: without mutations and crossovers the first generation stands",
          "[analysis][longrope2_search]") {
    auto c = small();
    c.mutations = c.crossovers = 0;
    rw::index losses = 0;
    const auto found = analysis::find_longrope2_factors(c, [&](std::span<const double> f) {
        ++losses;
        return bowl(f);
    });
    CHECK(losses == 24);
    CHECK(found.by_round.front() == found.by_round.back());
    // Bounds of a single value: there is one set of divisors, and the search ends.
    c = small();
    c.bounds.target_context = 256;
    c.bounds.largest_factor = 1;
    c.bounds.critical_pair = 0;
    losses = 0;
    const auto only = analysis::find_longrope2_factors(c, [&](std::span<const double> f) {
        ++losses;
        return bowl(f);
    });
    CHECK(losses == 1);
    CHECK(only.factors == std::vector<double>(16, 1.0));
}

TEST_CASE("longrope2_search: refuses bad numbers by name", "[analysis][longrope2_search][errors]") {
    const auto refused = [](auto change) {
        auto c = small();
        change(c);
        return support::refusal([&] { static_cast<void>(analysis::find_longrope2_factors(c, bowl)); });
    };
    const std::string who = "find_longrope2_factors: ";
    CHECK(refused([](auto& c) { c.population = 0; }) == who + "population must be in 1 .. 65536, got 0");
    CHECK(refused([](auto& c) { c.rounds = -1; }) == who + "rounds must be in 0 .. 65536, got -1");
    CHECK(refused([](auto& c) { c.parents = 25; }) == who + "parents must be in 1 .. population, got 25");
    CHECK(refused([](auto& c) { c.mutations = 65537; }) ==
          who + "mutations must be in 0 .. 65536, got 65537");
    CHECK(refused([](auto& c) { c.crossovers = -2; }) == who + "crossovers must be in 0 .. 65536, got -2");
    CHECK(refused([](auto& c) { c.mutation_rate = 1.5; }) ==
          who + "mutation_rate must be in [0, 1], got 1.5");
    CHECK(refused([](auto& c) { c.step = 0; }) == who + "step must be finite and > 0, got 0");
    CHECK(refused([](auto& c) { c.step = 1e-19; }) ==
          who + "step must be above largest_factor / 2^32, got 1e-19");
    CHECK(refused([](auto& c) { c.bounds.target_context = 128; }) ==
          "longrope2: target_context must be >= original_context, got 128");
#if defined(__cpp_exceptions) && !defined(__FAST_MATH__)
    CHECK(support::refusal([&] {
              static_cast<void>(
                  analysis::find_longrope2_factors(small(), [](std::span<const double>) { return NAN; }));
          }) == who + "loss must be a number, got nan");
#endif
}
