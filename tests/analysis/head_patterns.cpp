// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/analysis/head_patterns.hpp>

#include <cmath>
#include <vector>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

const auto omega = frequencies::geometric({.rotary_dim = 16, .base = 100});

rotation_table<double> table_of(rw::index tokens) {
    return make_rotation_table<double>(omega, position_ids::text(tokens));
}

/// The same vector for every token, rotated back by `by` positions.
std::vector<double> repeated(const std::vector<double>& psi, rw::index tokens, double by) {
    std::vector<double> x;
    for (rw::index n = 0; n < tokens; ++n) x.insert(x.end(), psi.begin(), psi.end());
    const std::vector<double> where(static_cast<std::size_t>(tokens), by);
    rotate(half_split{}, heads_view<double>(x.data(), tokens, 1, 16),
           make_rotation_table<double>(omega, position_ids::from(where)));
    return x;
}

}  // namespace

TEST_CASE("head_patterns: the published constructions of a diagonal and a previous-token head",
          "[analysis][head_patterns]") {
    // Equal keys psi everywhere. Queries psi look at themselves, queries turned back by d at the key d back;
    // without rotation all keys are equal.
    const rw::index tokens = 40;
    const auto psi = support::noise(16, 1, {2, 4});
    const auto keys = repeated(psi, tokens, 0);
    const auto table = table_of(tokens);
    for (const rw::index d : {0, 1, 3}) {
        const auto queries = repeated(psi, tokens, -double(d));
        const auto found = analysis::make_head_patterns(
            half_split{}, heads_view(queries.data(), tokens, 1, 16), heads_view(keys.data(), tokens, 1, 16),
            table, {.distances = 5, .scale = 1});
        CHECK(found.rotated[d] > 0.99);
        CHECK(found.distance_of(0) == d);
        CHECK(found.moved[0] > 0.8);
        double chance = 0;
        for (rw::index n = 5; n < tokens; ++n) chance += 1.0 / double(n + 1) / double(tokens - 5);
        CHECK(found.chance == Approx(chance).epsilon(1e-13));
        for (const double w : found.unrotated) CHECK(w == Approx(chance).epsilon(1e-12));
        CHECK(found.unrotated_first[0] == Approx(chance).epsilon(1e-12));
    }
    // One that goes by content: pairs that do not rotate carry all of it.
    const auto still = make_rotation_table<double>(spectrum::from_omega(std::vector<double>(8, 0.0)),
                                                   position_ids::text(tokens));
    const auto q = support::noise(tokens * 16, 2), k = support::noise(tokens * 16, 3);
    const auto found = analysis::make_head_patterns(half_split{}, heads_view(q.data(), tokens, 1, 16),
                                                    heads_view(k.data(), tokens, 1, 16), still);
    CHECK(found.moved[0] == 0);
    CHECK(found.rotated == found.unrotated);
    CHECK_FALSE(found.distance_of(0, 0));  // what is left without rotation is more than half
    // A head that looks at the first token: at no distance.
    auto first = keys;
    for (rw::index n = 1; n < tokens; ++n)
        for (rw::index c = 0; c < 16; ++c) first[n * 16 + c] = 0;
    const auto sink =
        analysis::make_head_patterns(half_split{}, heads_view(keys.data(), tokens, 1, 16),
                                     heads_view(first.data(), tokens, 1, 16), still, {.scale = 1});
    CHECK(sink.rotated_first[0] > 0.99);
    CHECK_FALSE(sink.distance_of(0));
}

TEST_CASE("head_patterns: attention's own probabilities, in every layout, batched, grouped, in a slice",
          "[analysis][head_patterns]") {
    const rw::index batches = 2, tokens = 13, heads = 4, kv = 2, d = 20, near = 3;
    const auto q = support::noise(batches * tokens * heads * d, 4, {-2, 2}),
               k = support::noise(batches * tokens * kv * d, 5, {-2, 2});
    const heads_view<const double> queries(q.data(), {batches, tokens, heads, d}),
        keys(k.data(), {batches, tokens, kv, d});
    const auto table = make_rotation_table<double>(omega.with_magnitude(1.25), position_ids::text(tokens));
    for (const pair_layout layout : {pair_layout(half_split{}), pair_layout(interleaved{})}) {
        const layout_slice slice{.read = layout, .first_channel = 3};
        const auto found = analysis::make_head_patterns(slice, queries, keys, table, {.distances = near});
        for (const bool turn : {true, false}) {
            auto a = q, b = k;
            const heads_view<double> of_q(a.data(), queries.shape), of_k(b.data(), keys.shape);
            if (turn) {
                rotate(slice, of_q, of_k, table.rows().repeated(batches));
            } else {
                for (auto* x : {&a, &b})
                    for (std::size_t i = 0; i < x->size(); ++i)
                        if (i % d >= 3 && i % d < 19) (*x)[i] *= 1.25;
            }
            std::vector<double> p(batches * heads * tokens * tokens), out(q.size());
            attend(of_q, of_k, of_k, heads_view<double>(out.data(), queries.shape),
                   {.causal = true, .probabilities = p});
            for (rw::index h = 0; h < heads; ++h) {
                double first = 0, at[near] = {};
                for (rw::index s = 0; s < batches; ++s)
                    for (rw::index n = near; n < tokens; ++n) {
                        const double* row = &p[((s * heads + h) * tokens + n) * tokens];
                        const double count = double(batches * (tokens - near));
                        first += row[0] / count;
                        for (rw::index e = 0; e < near; ++e) at[e] += row[n - e] / count;
                    }
                const auto& got = turn ? found.rotated : found.unrotated;
                CHECK((turn ? found.rotated_first : found.unrotated_first)[h] ==
                      Approx(first).epsilon(1e-12));
                for (rw::index e = 0; e < near; ++e) CHECK(got[h * near + e] == Approx(at[e]).epsilon(1e-12));
            }
        }
        const auto usage = analysis::make_pair_shares(layout, queries.channel_slice(3, 16));
        CHECK(found.query_usage == usage);
        REQUIRE(found.key_usage.size() == kv * 8);
        for (rw::index h = 0; h < kv; ++h) {
            double sum = 0;
            for (rw::index i = 0; i < 8; ++i) sum += found.key_usage[h * 8 + i];
            CHECK(sum == Approx(1).epsilon(1e-13));
        }
    }
}

TEST_CASE("head_patterns: tokens without a row are not rotated, 16-bit data are read as they are",
          "[analysis][head_patterns]") {
    const rw::index tokens = 6;
    const auto q = support::noise(tokens * 16, 6), k = support::noise(tokens * 16, 7);
    const auto table = table_of(tokens);
    const std::vector<std::int32_t> none(tokens, -1);
    const auto found =
        analysis::make_head_patterns(half_split{}, heads_view(q.data(), tokens, 1, 16),
                                     heads_view(k.data(), tokens, 1, 16), table.rows(none), {.distances = 2});
    CHECK(found.moved[0] == 0);
    CHECK(found.rotated == found.unrotated);
    std::vector<bf16> narrow;
    std::vector<double> same;
    for (const double v : q) narrow.push_back(bf16(float(v))), same.push_back(double(float(narrow.back())));
    const auto a =
        analysis::make_head_patterns(half_split{}, heads_view(narrow.data(), tokens, 1, 16),
                                     heads_view(narrow.data(), tokens, 1, 16), table, {.distances = 2});
    const auto b =
        analysis::make_head_patterns(half_split{}, heads_view(same.data(), tokens, 1, 16),
                                     heads_view(same.data(), tokens, 1, 16), table, {.distances = 2});
    CHECK(a.rotated == b.rotated);
    CHECK(a.query_usage == b.query_usage);
}

TEST_CASE("head_patterns: refuses what does not fit", "[analysis][head_patterns][errors]") {
    std::vector<double> x(6 * 2 * 16, 1.0);
    const heads_view<double> q(x.data(), 6, 2, 16);
    const auto table = table_of(6);
    const auto call = [&](heads_view<double> a, heads_view<double> b,
                          analysis::head_pattern_config c = {.distances = 2}) {
        return support::refusal(
            [&] { static_cast<void>(analysis::make_head_patterns(half_split{}, a, b, table, c)); });
    };
    CHECK(call(q, q, {.distances = 6}) == "make_head_patterns: distances must be in [1, tokens), got 6");
    CHECK(call(q, q, {.distances = 0}) == "make_head_patterns: distances must be in [1, tokens), got 0");
    CHECK(call(q, q, {.distances = 2, .scale = HUGE_VAL}) ==
          "make_head_patterns: scale must be finite, got inf");
    CHECK(call(q.head_slice(0, 1), q) == "make_head_patterns: k.heads must divide q.heads, got 2");
    CHECK(call(q, q.token_slice(0, 5)) == "make_head_patterns: k must have q's tokens: wanted 6, got 5");
    CHECK(call(q, q.channel_slice(0, 14)) ==
          "make_head_patterns: k must have q's channels, at least one, got 14");
    CHECK(call(q.token_slice(0, 5), q.token_slice(0, 5)).find("require_fits:") == 0);
    CHECK(call(q.channel_slice(0, 14), q.channel_slice(0, 14)).find("require_fits:") == 0);
    for (const double bad : {std::nan(""), HUGE_VAL, 1e200}) {
        x[70] = bad;
        CHECK(call(q, q).find("make_head_patterns: q and k must have finite scores") == 0);
    }
    const auto found = analysis::make_head_patterns(half_split{}, q.token_slice(0, 2), q.token_slice(0, 2),
                                                    table.rows_from(0, 2), {.distances = 1});
    CHECK_REFUSES("head_patterns::distance_of: head must be in [0, heads), got 2", found.distance_of(2));
}
