// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/shard.hpp>

#include <numeric>
#include <thread>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/positions/grid.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;
using positions::sharding;

TEST_CASE("shard_tokens: the three ways, by hand", "[positions][shard]") {
    const auto of = [](sharding kind, rw::index rank, rw::index stripe = 1) {
        return positions::shard_tokens({.tokens = 8, .ranks = 2, .kind = kind, .stripe = stripe}, rank);
    };
    CHECK(of(sharding::contiguous, 0) == std::vector<std::int32_t>{0, 1, 2, 3});
    CHECK(of(sharding::contiguous, 1) == std::vector<std::int32_t>{4, 5, 6, 7});
    CHECK(of(sharding::striped, 0) == std::vector<std::int32_t>{0, 2, 4, 6});
    CHECK(of(sharding::striped, 1, 2) == std::vector<std::int32_t>{2, 3, 6, 7});
    CHECK(of(sharding::zigzag, 0) == std::vector<std::int32_t>{0, 1, 6, 7});
    CHECK(of(sharding::zigzag, 1) == std::vector<std::int32_t>{2, 3, 4, 5});
}

TEST_CASE("shard_tokens: every token once, whatever the numbers", "[positions][shard]") {
    for (const auto kind : {sharding::contiguous, sharding::striped, sharding::zigzag})
        for (const rw::index tokens : {0, 1, 5, 16, 97})
            for (const rw::index ranks : {1, 2, 3, 8}) {
                std::vector<int> seen(static_cast<std::size_t>(tokens));
                for (rw::index r = 0; r < ranks; ++r)
                    for (const auto t : positions::shard_tokens(
                             {.tokens = tokens, .ranks = ranks, .kind = kind, .stripe = 3}, r))
                        ++seen[static_cast<std::size_t>(t)];
                CHECK(seen == std::vector<int>(static_cast<std::size_t>(tokens), 1));
            }
}

TEST_CASE("shard_tokens: zigzag gives every rank the same causal work", "[positions][shard]") {
    std::vector<long> work;
    for (rw::index r = 0; r < 4; ++r) {
        long sum = 0;
        for (const auto t : positions::shard_tokens({.tokens = 64, .ranks = 4, .kind = sharding::zigzag}, r))
            sum += t + 1;
        work.push_back(sum);
    }
    CHECK(work == std::vector<long>(4, work[0]));
}

TEST_CASE("shard_tokens: packed documents are spread one by one", "[positions][shard]") {
    const std::vector<int> offsets{0, 4, 10};
    const std::span<const int> packed(offsets);
    CHECK(positions::shard_tokens(packed, {.ranks = 2, .kind = sharding::zigzag}, 0) ==
          std::vector<std::int32_t>{0, 3, 4, 8, 9});
    CHECK(positions::shard_tokens(packed, {.ranks = 2, .kind = sharding::contiguous}, 1) ==
          std::vector<std::int32_t>{2, 3, 7, 8, 9});
}

TEST_CASE("shard_tokens: bad numbers are refused", "[positions][shard]") {
    CHECK_REFUSES("shard_tokens: tokens must be >= 0 and fit in 32 bits, got -1",
                  positions::shard_tokens({.tokens = -1}, 0));
    CHECK_REFUSES("shard_tokens: ranks must be >= 1, got 0",
                  positions::shard_tokens({.tokens = 4, .ranks = 0}, 0));
    CHECK_REFUSES("shard_tokens: rank must be below ranks, got 2",
                  positions::shard_tokens({.tokens = 4, .ranks = 2}, 2));
    CHECK_REFUSES("shard_tokens: stripe must be >= 1, got 0",
                  positions::shard_tokens({.tokens = 4, .stripe = 0}, 0));
}

TEMPLATE_TEST_CASE("shards: the union of the ranks' parts has the bits of the whole", "[positions][shard]",
                   float, rw::bf16, double) {
    using C = rw::compute_t<TestType>;
    constexpr rw::index tokens = 101, heads = 3, channels = 24, ranks = 4;
    const auto omega = rw::frequencies::geometric({.rotary_dim = channels});
    const std::vector<rw::index> offsets{0, 40, 41, tokens};
    const auto where = positions::documents(std::span<const rw::index>(offsets));
    const auto table = rw::make_rotation_table<C>(omega, where);
    support::heads_buffer<TestType> whole({1, tokens, heads, channels});
    whole.fill(6);
    const auto before = whole.dense();
    rw::rotate(rw::half_split{}, whole.view(), table);
    const auto want = whole.dense();

    for (const auto kind : {sharding::contiguous, sharding::striped, sharding::zigzag})
        for (const bool own_table : {false, true}) {
            std::vector<TestType> united(want.size());
            std::vector<std::thread> threads;
            for (rw::index rank = 0; rank < ranks; ++rank)
                threads.emplace_back([&, rank] {
                    const auto mine = positions::shard_tokens(
                        {.tokens = tokens, .ranks = ranks, .kind = kind, .stripe = 2}, rank);
                    const std::span<const std::int32_t> rows(mine);
                    constexpr rw::index token = heads * channels;
                    std::vector<TestType> local;
                    for (const auto t : mine)
                        local.insert(local.end(), before.begin() + t * token,
                                     before.begin() + (t + 1) * token);
                    const rw::heads_view view(local.data(), static_cast<rw::index>(mine.size()), heads,
                                              channels);
                    if (own_table)  // the rank knows its own positions only
                        rw::rotate(rw::half_split{}, view,
                                   rw::make_rotation_table<C>(omega, positions::select_tokens(where, rows)));
                    else
                        rw::rotate(rw::half_split{}, view, table.rows(rows));
                    for (std::size_t i = 0; i < mine.size(); ++i)
                        std::copy_n(local.begin() + static_cast<rw::index>(i) * token, token,
                                    united.begin() + mine[i] * token);
                });
            for (auto& t : threads) t.join();
            CHECK(support::same_bits(united, want));
        }
}
