// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/attend_options.hpp>

#include <set>
#include <tuple>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("path attend options: every sequence of every head belongs to one part", "[path][options]") {
    const std::vector<rw::index> ends{4, 5, 13};
    const rw::heads_shape q{2, 13, 6, 8}, k{2, 13, 3, 8};
    for (rw::index parts : {1, 2, 5, 18, 40}) {
        std::multiset<std::tuple<rw::index, rw::index, rw::index, rw::index>> seen;
        for (rw::index part = 0; part < parts; ++part) {
            const rw::detail::path_plan<float> plan("plan", q, k, k,
                                                    {.sequence_ends = ends, .part = {parts, part}});
            plan.each_sequence([&](rw::index b, rw::index kv, rw::index first, rw::index count) {
                seen.insert({b, kv, first, count});
            });
        }
        CHECK(seen.size() == 18);
        for (rw::index b = 0; b < 2; ++b)
            for (rw::index kv = 0; kv < 3; ++kv)
                for (const auto& [first, count] : {std::pair<rw::index, rw::index>{0, 4}, {4, 1}, {5, 8}})
                    CHECK(seen.count({b, kv, first, count}) == 1);
    }
}

TEST_CASE("path attend options: a block is no longer than the tokens, gates add up in f64",
          "[path][options]") {
    const rw::heads_shape q{1, 4, 2, 8}, k{1, 4, 1, 8};
    const std::vector<float> beta(4, 1.0f), gate{-1, -0.5f, -2, -0.25f, -4, 0, -8, -1};
    const rw::detail::path_plan<float> plan("plan", q, k, k, k, q, beta, {.block = 1000, .log_gate = gate});
    CHECK(plan.options.block == 4);
    CHECK(static_cast<double>(plan.scale) == Approx(1 / std::sqrt(8.0)));
    std::vector<double> sums(3);
    plan.fill_gate_sums(0, 1, 1, 3, sums.data());
    CHECK(sums == std::vector<double>{-0.25, -0.25, -1.25});
    CHECK(support::refusal([&] {
              rw::detail::path_plan<float>("plan", q, k, k, k, q,
                                           rw::heads_view<const float>(beta.data(), 2, 2, 1), {});
          }) == "plan: beta must hold batches * tokens * kv heads numbers, got 4");
    CHECK(support::refusal([&] {
              rw::detail::path_plan<float>("plan", q, k, k, {.part = {2, -1}});
          }) == "plan: part must be one of parts, got -1");
}
