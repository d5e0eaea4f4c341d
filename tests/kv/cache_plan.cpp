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
          "make_slots: pages must hold requests * pages_per_request numbers: wanted 3, got 2");
    CHECK(support::refusal(slots({1, 2, 3}, 3, 0)) == "make_slots: page_tokens must be >= 1, got 0");
    CHECK_REFUSES("make_slots: page_tokens must be >= 1, got 0",
                  rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table<int>{.pages = starts}));
}

TEST_CASE("ragged batch: offsets, starts and pages deduce their types", "[kv][compression]") {
    const ints offsets{0, 3, 3, 5}, pages{7, 2, 1};
    const longs starts{6, 9, 0};
    const std::vector<std::uint32_t> unsigned_offsets{0, 3, 3, 5};
    CHECK(rw::make_positions(rw::ragged_batch{offsets, starts}) == longs{6, 7, 8, 0, 1});
    CHECK(rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table{pages, 1, 16}) ==
          longs{7 * 16 + 6, 7 * 16 + 7, 7 * 16 + 8, 16, 17});
    CHECK(rw::make_slots(rw::ragged_batch{unsigned_offsets, starts}, rw::block_table{starts, 1, 16}) ==
          longs{6 * 16 + 6, 6 * 16 + 7, 6 * 16 + 8, 0, 1});
    CHECK(rw::make_slots(rw::ragged_batch{offsets, starts}, 10) == longs{6, 7, 8, 20, 21});
    static_assert(std::is_same_v<decltype(rw::block_table{pages, 8, 16}), rw::block_table<int>>);
    static_assert(std::is_same_v<decltype(rw::ragged_batch{std::span<const int>(offsets), starts}),
                                 rw::ragged_batch<int, std::int64_t>>);
}

TEST_CASE("make_slots: products that wrap are refused, no page becomes a negative slot",
          "[kv][compression][errors]") {
    const longs offsets{0, 1, 2, 3, 4}, starts{0, 0, 0, 0}, none;
    // 4 * 2^62 is 0 in 64 bits, 4 * 2^30 in 32, and an empty table had that many.
    CHECK_REFUSES(
        "make_slots: pages_per_request must be >= 0, got an overflowing size",
        rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table{none, support::huge(62), 16}));
    CHECK_REFUSES("make_slots: pages_per_request must be >= 0, got -1",
                  rw::make_slots(rw::ragged_batch{offsets, starts}, rw::block_table{none, -1, 16}));
    const longs one{0, 1}, zero{0};
    const auto page = [&](std::int64_t entry, rw::index tokens) {
        const longs pages{entry};
        return rw::make_slots(rw::ragged_batch{one, zero}, rw::block_table{pages, 1, tokens});
    };
    CHECK_REFUSES("make_slots: pages must have slots within 63 bits, got 2305843009213693951",
                  page(INT64_MAX / 4, 16));
    CHECK(page(INT64_MAX / 16 - 1, 16) == longs{(INT64_MAX / 16 - 1) * 16});
    CHECK_REFUSES("make_slots: pages must have slots within 63 bits, got 576460752303423487",
                  page(INT64_MAX / 16, 16));
    const std::vector<std::uint64_t> huge{UINT64_MAX};
    CHECK_REFUSES("make_slots: pages must have slots within 63 bits, got 18446744073709551615",
                  rw::make_slots(rw::ragged_batch{one, zero}, rw::block_table{huge, 1, 16}));
    const longs last{INT64_MAX}, two{0, 2};
    CHECK_REFUSES("make_positions: starts must keep positions within 63 bits, got 9223372036854775807",
                  rw::make_positions(rw::ragged_batch{two, last}));
    CHECK_REFUSES("make_positions: starts must keep positions within 63 bits, got 18446744073709551615",
                  rw::make_positions(rw::ragged_batch{one, huge}));
    CHECK_REFUSES("cache_plan: slots must fit in 63 bits, got 18446744073709551615",
                  rw::cache_plan(huge, 5, 4));
    if constexpr (sizeof(rw::index) > 4) {  // a narrower index does not go so far
        const rw::index most = std::numeric_limits<rw::index>::max();
        CHECK_REFUSES("cache_plan: page_tokens must be below 2^31, got 9223372036854775807",
                      rw::cache_plan(longs{}, 5, most));
        CHECK_REFUSES("cache_plan: pages must be >= 0 and below 2^31, got 2147483648",
                      rw::cache_plan(longs{}, support::huge(31), 4));
    }
}

TEST_CASE("cache_plan: a plan that was not made is of no cache", "[kv][compression]") {
    const rw::cache_plan none;
    CHECK(none.tokens() == 0);
    CHECK(none.pages() == 0);
    CHECK(none.page_tokens() == 0);
    float x = 0;
    CHECK_FALSE(none.fits(rw::cache_view<float>::nhd(&x, {1, 1, 1, 1})));
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
