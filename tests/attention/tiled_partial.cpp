// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/tiled_partial.hpp>

#include <cstddef>
#include <limits>
#include <vector>

#include <ropewalk/positions/shard.hpp>

#include "support/attention_case.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace attention = ropewalk::attention;
using support::attention_case;
using support::attention_sizes;
using support::worst;

namespace {

template <class T, class Mask>
rw::partial_attention<rw::compute_t<T>> part(const Mask& mask, rw::heads_view<const T> q,
                                             rw::heads_view<const T> k, rw::heads_view<const T> v) {
    std::vector<std::byte> workspace(std::size_t(attention::attend_workspace(q, k, v)));
    return attention::make_partial_attention(mask, q, k, v, std::span<std::byte>(workspace));
}

}  // namespace

TEST_CASE("tiled partial attention: pieces of a cache join to the whole, in one query and in many",
          "[attention][partial]") {
    const auto check = [](auto tag, double bound) {
        using T = decltype(tag);
        for (const rw::index queries : {1, 90}) {
            attention_case<T> c({.batches = 2,
                                 .queries = queries,
                                 .keys = 130,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .channels = 16,
                                 .value_channels = 12});
            c.define([&](rw::index, rw::index, rw::index n, rw::index j) { return j <= 130 - queries + n; });
            std::vector<rw::partial_attention<T>> parts;
            for (rw::index first = 0, count = 37; first < 130; first += count, count = 31)
                parts.push_back(part<T>(attention::causal_mask{.first_query = 130 - queries - first},
                                        c.q_view(),
                                        c.k_view().token_slice(first, std::min(count, 130 - first)),
                                        c.v_view().token_slice(first, std::min(count, 130 - first))));
            std::vector<T> out(c.out.size());
            rw::join_partial_attention(std::span<const rw::partial_attention<T>>(parts),
                                       rw::heads_view<T>(out.data(), c.sizes.out()));
            CHECK(worst(out, c.out) < bound);
        }
    };
    check(0.0, 1e-12);
    check(0.f, 3e-6);
}

TEST_CASE("tiled partial attention: a zigzag ring sees what a causal call sees", "[attention][partial]") {
    attention_case<double> c({.queries = 101, .keys = 101, .heads = 2, .kv_heads = 1, .channels = 8});
    c.define([](rw::index, rw::index, rw::index n, rw::index j) { return j <= n; });
    const auto gathered = [&](const std::vector<double>& x, rw::index row,
                              const std::vector<std::int32_t>& at) {
        std::vector<double> y;
        for (const auto n : at) y.insert(y.end(), x.begin() + n * row, x.begin() + (n + 1) * row);
        return y;
    };
    const int ranks = 3;
    for (int rank = 0; rank < ranks; ++rank) {
        const rw::positions::shard_config config{101, ranks, rw::positions::sharding::zigzag};
        const auto mine = rw::positions::shard_tokens(config, rank);
        const auto q = gathered(c.q, 16, mine);
        const auto want = gathered(c.out, 16, mine);
        const auto count = rw::index(mine.size());
        std::vector<rw::partial_attention<double>> parts;
        for (int other = 0; other < ranks; ++other) {
            const auto theirs = rw::positions::shard_tokens(config, other);
            const auto k = gathered(c.k, 8, theirs), v = gathered(c.v, 8, theirs);
            const auto keys = rw::index(theirs.size());
            parts.push_back(part<double>(attention::position_mask{mine, theirs}, {q.data(), count, 2, 8},
                                         {k.data(), keys, 1, 8}, {v.data(), keys, 1, 8}));
        }
        std::vector<double> out(want.size());
        rw::join_partial_attention(std::span<const rw::partial_attention<double>>(parts),
                                   rw::heads_view<double>(out.data(), count, 2, 8));
        CHECK(worst(out, want) < 1e-12);
    }
}

TEST_CASE("tiled partial attention: what is said of a tile of positions is what is said pair by pair",
          "[attention][partial]") {
    std::vector<std::int32_t> queries, keys;
    for (int i = 0; i < 40; ++i)
        queries.push_back(i < 20 ? i + 30 : i + 100), keys.push_back(i < 15 ? i : i + 60);
    const auto rules = attention::position_mask{queries, keys}.over({1, 1, 40, 40});
    rw::index skipped = 0, complete = 0;
    for (rw::index n = 0; n < 40; n += 10)
        for (rw::index j = 0; j < 40; j += 5) {
            const auto seen = rules.tile({0, 0, 1, n, 10, j, 5});
            skipped += seen.keys == 0, complete += seen.keys == 5 && seen.complete;
            for (rw::index a = n; a < n + 10; ++a)
                for (rw::index b = j; b < j + 5; ++b) {
                    const bool inside = b >= seen.first_key && b < seen.first_key + seen.keys;
                    CHECK((inside || !rules.seen(0, 0, a, b)));
                    CHECK((!inside || !seen.complete || rules.seen(0, 0, a, b)));
                }
        }
    CHECK(skipped > 0);
    CHECK(complete > 0);
    CHECK_REFUSES("position_mask: key_positions must hold one number a key: wanted 41, got 40",
                  attention::position_mask{queries, keys}.over({1, 1, 40, 41}));
    CHECK_REFUSES("position_mask: query_positions must hold one number a query: wanted 41, got 40",
                  attention::position_mask{queries, keys}.over({1, 1, 41, 40}));
}

TEST_CASE("tiled partial attention: a part of which a query sees nothing has no weight",
          "[attention][partial]") {
    const attention_case<double> c({.queries = 3, .keys = 6, .heads = 1, .kv_heads = 1});
    const auto none =
        part<double>(attention::causal_mask{.first_query = -10}, c.q_view(), c.k_view(), c.v_view());
    for (const double w : none.log_weight) CHECK(w == -std::numeric_limits<double>::infinity());
    const auto all = part<double>(attention::full_mask{}, c.q_view(), c.k_view(), c.v_view());
    const std::vector<rw::partial_attention<double>> parts{none, all};
    std::vector<double> out(all.out.size());
    rw::join_partial_attention(std::span(parts), rw::heads_view<double>(out.data(), c.sizes.out()));
    CHECK(worst(out, all.out) < 1e-15);
}
