// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/score_source.hpp>

#include <cmath>
#include <vector>

#include "support/attention_case.hpp"
#include "support/catch.hpp"

namespace rw = ropewalk;
namespace detail = rw::detail;

TEMPLATE_TEST_CASE("score_source: products of a tile, few queries and many, whole registers and not",
                   "[attention][score_source]", float, double) {
    using T = TestType;
    constexpr rw::index lanes = rw::simd::lanes<T>, strip = detail::strip_lanes<T>;
    const double bound = std::is_same_v<T, double> ? 1e-13 : 1e-5;
    for (const rw::index channels : {1, 7, 16, 35})
        for (const rw::index queries : {1, 3, 20, 100})
            for (const bool few : {false, true}) {
                if (few && queries > lanes) continue;
                CAPTURE(channels, queries, few);
                const support::attention_case<T> c(
                    {.queries = queries, .keys = 9, .heads = 2, .kv_heads = 1, .channels = channels});
                const rw::index width = detail::whole_packs<T>(channels),
                                strips = (queries + strip - 1) / strip;
                std::vector<T> q(std::size_t(strips * strip * width), T(99)), k(std::size_t(9 * width)),
                    row(static_cast<std::size_t>(width)), scores(std::size_t(9 * strip));
                detail::shared_source<const T, const T> source(c.q_view(), c.k_view(), 0.5, q.data(),
                                                               k.data(), row.data());
                const detail::query_tile tile{0, 1, 1, 0, queries, few};
                source.read_queries(tile);
                source.read_keys(0, 0, 2, 7, few);
                CHECK(source.shared_values().data == source.keys().data);
                double worst = 0;
                for (rw::index first = 0; first < queries; first += strip) {
                    const rw::index some = std::min(strip, queries - first);
                    source.fill(tile, {{0, 1, 1, first, some, 3, 5}, true, first, (some + lanes - 1) / lanes},
                                scores.data());
                    for (rw::index n = 0; n < some; ++n)
                        for (rw::index j = 0; j < 5; ++j) {
                            long double want = 0;
                            for (rw::index i = 0; i < channels; ++i)
                                want += static_cast<long double>(c.q_view().at(0, first + n, 1)[i]) *
                                        static_cast<long double>(c.k_view().at(0, 3 + j, 0)[i]);
                            worst = std::max(worst, std::abs(static_cast<double>(
                                                        want / 2 - static_cast<long double>(
                                                                       scores[std::size_t(j * strip + n)]))));
                        }
                }
                CHECK(worst <= bound);
            }
}
