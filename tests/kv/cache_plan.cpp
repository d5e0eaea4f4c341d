// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/kv/cache_plan.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using ints = std::vector<int>;
using longs = std::vector<std::int64_t>;

TEST_CASE("ragged batch: positions and slots of requests of different lengths", "[kv][compression]") {
    const ints offsets{0, 3, 3, 5}, starts{6, 9, 0};  // three tokens, none, two
    CHECK(rw::make_positions(rw::ragged_batch{offsets, starts}) == longs{6, 7, 8, 0, 1});
    // Pages of 4 tokens; request 0 holds pages 7, 2 and 5, request 2 page 1.
    const ints pages{7, 2, 5, -1, -1, -1, 1, -1, -1};
    CHECK(rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table<int>{pages, 3, 4}) ==
          longs{2 * 4 + 2, 2 * 4 + 3, 5 * 4, 4, 5});
    CHECK(rw::make_slots(rw::ragged_batch{offsets, starts}, 10) == longs{6, 7, 8, 20, 21});
    CHECK(rw::make_slots(rw::ragged_batch{ints{0, 1}, ints{0}}, 1) == longs{0});  // the smallest page
    CHECK(rw::make_positions(rw::ragged_batch{ints{0}, ints{}}).empty());
}

TEST_CASE("ragged batch: what cannot be is refused by name", "[kv][compression][errors]") {
    const auto positions = [](ints offsets, ints starts) {
        return [=] { static_cast<void>(rw::make_positions(rw::ragged_batch{offsets, starts})); };
    };
    CHECK(support::refusal(positions({}, {})) ==
          "make_positions: offsets must hold requests + 1 numbers, got 0");
    CHECK(support::refusal(positions({0, 2}, {})) ==
          "make_positions: starts must hold one number less than offsets, got 0");
    CHECK(support::refusal(positions({1, 2}, {0})) == "make_positions: offsets must begin with 0, got 1");
    CHECK(support::refusal(positions({0, 2, 1}, {0, 0})) ==
          "make_positions: offsets must not decrease, got 1");
    CHECK(support::refusal(positions({0, 2}, {-3})) == "make_positions: starts must be >= 0, got -3");
    const ints offsets{0, 3}, starts{6};
    const auto slots = [&](ints pages, rw::index each, rw::index tokens) {
        return [=] {
            static_cast<void>(
                rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table<int>{pages, each, tokens}));
        };
    };
    CHECK(support::refusal(slots({1, 2}, 2, 4)) ==
          "make_slots: positions must be below the pages of a request, got 8");
    CHECK(support::refusal(slots({1, -1, 3}, 3, 4)) ==
          "make_slots: pages must be >= 0 where tokens stand, got -1");
    CHECK(support::refusal(slots({1, 2}, 3, 4)) ==
          "make_slots: pages must hold requests * pages_per_request numbers, got 2");
    CHECK(support::refusal(slots({1, 2, 3}, 3, 0)) == "make_slots: page_tokens must be >= 1, got 0");
    CHECK_REFUSES("make_slots: page_tokens must be >= 1, got 0",
                  rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table<int>{.pages = starts}));
}

TEST_CASE("cache_plan: slots become pages and tokens, once", "[kv][compression]") {
    const rw::cache_plan plan(longs{17, -1, 3}, 5, 4);
    REQUIRE(plan.tokens() == 3);
    CHECK(plan.place(0).page == 4);
    CHECK(plan.place(0).token == 1);
    CHECK(plan.place(1).page < 0);
    CHECK(plan.place(2).page == 0);
    CHECK(plan.place(2).token == 3);
    float x = 0;
    CHECK(plan.fits(rw::cache_view<float>::nhd(&x, {5, 4, 1, 1})));
    CHECK(plan.fits(rw::cache_view<float>::nhd(&x, {6, 4, 1, 1})));
    CHECK_FALSE(plan.fits(rw::cache_view<float>::nhd(&x, {4, 4, 1, 1})));
    CHECK_FALSE(plan.fits(rw::cache_view<float>::nhd(&x, {5, 5, 1, 1})));
    CHECK_FALSE(plan.fits(rw::cache_view<float>{}));
    CHECK_REFUSES("cache_plan: slots must be below pages * page_tokens, got 20",
                  rw::cache_plan(longs{20}, 5, 4));
    CHECK_REFUSES("cache_plan: slots must differ, got 7", rw::cache_plan(longs{7, 1, 7}, 5, 4));
    CHECK_REFUSES("cache_plan: page_tokens must be >= 1, got 0", rw::cache_plan(longs{}, 5, 0));
}
