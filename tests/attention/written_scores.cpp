// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/written_scores.hpp>

#include <cmath>
#include <vector>

#include "support/attention_case.hpp"
#include "support/catch.hpp"

namespace rw = ropewalk;

TEMPLATE_TEST_CASE("written scores: every pair once, with any tiles", "[attention][scores]", float, double) {
    using T = TestType;
    const double bound = std::is_same_v<T, double> ? 1e-13 : 3e-6;
    const support::attention_sizes s{
        .batches = 2, .queries = 101, .keys = 67, .heads = 4, .kv_heads = 2, .channels = 11};
    const support::attention_case<T> c(s);
    for (const rw::attention::tiled_options<T>& tiles :
         {rw::attention::tiled_options<T>{}, rw::attention::tiled_options<T>{.query_tile = 50, .key_tile = 7},
          rw::attention::tiled_options<T>{.query_tile = 1, .key_tile = 200}}) {
        const auto cut = [&](rw::detail::workspace_cutter memory) {
            return rw::detail::tiled_scratch<T>("test", memory, s.channels, 0, tiles);
        };
        std::vector<std::byte> workspace(std::size_t(cut({}).bytes));
        const auto at = cut(rw::detail::workspace_cutter(workspace));
        std::vector<int> written(std::size_t(s.pairs()), 0);
        double worst = 0;
        rw::detail::each_score(
            rw::detail::score_source(c.q_view(), c.k_view(), 0.25, at.queries, at.keys, at.row), at, tiles,
            [&](rw::index b, rw::index h, rw::index n, rw::index j, T score) {
                ++written[std::size_t(((b * s.heads + h) * s.queries + n) * s.keys + j)];
                long double want = 0;
                for (rw::index i = 0; i < s.channels; ++i)
                    want += static_cast<long double>(c.q_view().at(b, n, h)[i]) *
                            static_cast<long double>(c.k_view().at(b, j, h / 2)[i]);
                worst = std::max(worst,
                                 std::abs(static_cast<double>(want / 4 - static_cast<long double>(score))));
            });
        for (const int times : written) REQUIRE(times == 1);
        CHECK(worst <= 10 * bound);  // sums of 11 products of order 3
    }
}
