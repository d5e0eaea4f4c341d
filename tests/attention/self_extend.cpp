// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/self_extend.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/windowed_scores.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("self_extend: worked positions and distances", "[attention][self_extend]") {
    const self_extend extend({.group = 3, .window = 6});
    CHECK(extend.far_queries(17).values() ==
          std::vector<double>{4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9});
    CHECK(extend.far_keys(7).values() == std::vector<double>{0, 0, 0, 1, 1, 1, 2});
    std::vector<double> row;
    for (std::int64_t j = 0; j <= 16; ++j) row.push_back(extend.distance(16, j));
    CHECK(row == std::vector<double>{9, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 5, 4, 3, 2, 1, 0});
    CHECK(self_extend({.group = 4, .window = 6}).offset() == 4.5);
    CHECK(self_extend({.group = 4, .window = 6, .division = offset_division::floor}).offset() == 5);
    CHECK(self_extend({.group = 4, .window = 512}).longest(4096) == 4 * (4096 - 512) + 512);
}

TEST_CASE("self_extend: continuous at the border, never rising with the key", "[attention][self_extend]") {
    for (const rw::index group : {1, 2, 4})
        for (const rw::index window : {4, 8}) {
            const self_extend extend({.group = group, .window = window});
            for (std::int64_t i = 0; i < 50; ++i) {
                if (i >= window) CHECK(extend.distance(i, i - window) <= window + 1);
                if (i >= window && i % group == 0) CHECK(extend.distance(i, i - window) == window);
                for (std::int64_t j = 1; j <= i; ++j)
                    CHECK(extend.distance(i, j) <= extend.distance(i, j - 1));
                for (std::int64_t j = 0; j + window <= i; ++j) {
                    CHECK(extend.distance(i, j) <= window + (i - window) / group + 1);
                    CHECK(extend.distance(i + group, j + group) == extend.distance(i, j));
                }
            }
        }
}

TEST_CASE("self_extend: the query's factor", "[attention][self_extend]") {
    const self_extend extend({.group = 2, .window = 4, .scale_base = 6});
    CHECK(extend.query_scale(5) == 1);
    CHECK(extend.query_scale(6) == Approx(1.086033133).epsilon(1e-9));
    CHECK(extend.query_scale(13) == Approx(1.472885940).epsilon(1e-9));
    CHECK(self_extend({.scale_base = 4096}).query_scale(16383) == Approx(7.0 / 6).epsilon(1e-14));
    std::vector<double> x(14, 1.0);
    extend.scale_queries(heads_view<double>(x.data(), 14, 1, 1));
    for (int i = 0; i < 14; ++i) CHECK(x[i] == extend.query_scale(i));
    self_extend({}).scale_queries(heads_view<double>(x.data(), 14, 1, 1), 1000);
    CHECK(x[13] == extend.query_scale(13));
}

TEST_CASE("self_extend: group 1, or a short sequence, is ordinary attention",
          "[attention][self_extend][reduces]") {
    const rw::index tokens = 20, channels = 8;
    const auto s = frequencies::geometric({.rotary_dim = channels});
    const auto run = [&](const self_extend_config& config) {
        const self_extend extend(config);
        auto near_q = support::noise(tokens * channels, 1), far_q = near_q;
        auto near_k = support::noise(tokens * channels, 2), far_k = near_k;
        const auto turn = [&](std::vector<double>& x, const position_ids& at) {
            const auto rows = make_rotation_table<double>(s, at);
            rotate(half_split{}, heads_view<double>(x.data(), tokens, 1, channels), rows);
        };
        turn(near_q, position_ids::text(tokens)), turn(near_k, position_ids::text(tokens));
        turn(far_q, extend.far_queries(tokens)), turn(far_k, extend.far_keys(tokens));
        const auto view = [&](std::vector<double>& x) {
            return heads_view<double>(x.data(), tokens, 1, channels);
        };
        std::vector<double> scores(tokens * tokens);
        fill_windowed_scores(view(near_q), view(near_k), view(far_q), view(far_k), std::span<double>(scores),
                             {.window = config.window});
        return scores;
    };
    const auto plain = run({.group = 1, .window = 1000});
    CHECK(support::worst(run({.group = 1, .window = 3}), plain) < 1e-13);
    CHECK(support::worst(run({.group = 5, .window = 20}), plain) == 0);
    CHECK(support::worst(run({.group = 5, .window = 5}), plain) > 1e-3);
}

TEST_CASE("self_extend: refuses bad numbers", "[attention][self_extend][errors]") {
    CHECK_REFUSES("self_extend: group must be >= 1, got 0", self_extend({.group = 0}));
    CHECK_REFUSES("self_extend: window must be >= 1, got 0", self_extend({.window = 0}));
    CHECK_REFUSES("self_extend: scale_base must be finite and > 1, got 1", self_extend({.scale_base = 1}));
    CHECK_REFUSES("self_extend: count must be >= 0, got -1", self_extend({}).far_keys(-1));
}

TEST_CASE("self_extend: a key at the window is a far one, one nearer is not", "[attention][self_extend]") {
    // A group that does not divide the window: only there do the two distances at the window differ.
    const self_extend extend({.group = 4, .window = 6});
    CHECK(extend.distance(6, 0) == 5.5);  // 6 / 4 + 4.5 - 0
    CHECK(extend.distance(8, 2) == 6.5);  // 8 / 4 + 4.5 - 2 / 4
    CHECK(extend.distance(6, 1) == 5);
}
