// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kernels/partition.hpp>

#include <map>
#include <utility>

#include "support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("partition: parts cover the items once, sizes differ by at most one", "[kernels][partition]") {
    for (rw::index items : {0, 1, 5, 16, 17})
        for (rw::index parts : {1, 2, 3, 7, 20}) {
            rw::index next = 0, least = items, most = 0;
            for (rw::index part = 0; part < parts; ++part) {
                const auto range = rw::partition(items, {parts, part});
                CHECK(range.first == (range.count == 0 ? 0 : next));
                next += range.count;
                least = std::min(least, range.count);
                most = std::max(most, range.count);
            }
            CHECK(next == items);
            CHECK(most - least <= 1);
        }
}

TEST_CASE("partition_tokens: every token and head belongs to one part", "[kernels][partition]") {
    for (rw::index tokens : {0, 1, 2, 3, 10})
        for (rw::index parts : {1, 2, 4, 7, 16})
            for (rw::index heads : {1, 3, 8}) {
                std::map<std::pair<rw::index, rw::index>, int> seen;
                for (rw::index part = 0; part < parts; ++part) {
                    const auto work = rw::partition_tokens(tokens, {parts, part});
                    const auto range = rw::partition(heads, work.heads);
                    for (rw::index n = work.first_token; n < work.first_token + work.tokens; ++n)
                        for (rw::index h = range.first; h < range.first + range.count; ++h) ++seen[{n, h}];
                }
                CHECK(rw::index(seen.size()) == tokens * heads);
                for (const auto& [where, times] : seen) CHECK(times == 1);
            }
}

TEST_CASE("partition_tokens: one token of decode is shared by its heads", "[kernels][partition]") {
    for (rw::index part : {0, 1}) {
        const auto work = rw::partition_tokens(1, {2, part});
        CHECK(work.tokens == 1);
        CHECK(rw::partition(32, work.heads).count == 16);
    }
}
