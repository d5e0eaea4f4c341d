// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/index.hpp>

#include <limits>
#include <vector>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;
using rw::detail::checked_product;

TEST_CASE("index: products of counts", "[core][index]") {
    CHECK(checked_product("f", "tokens must be >= 0", {}) == 1);
    CHECK(checked_product("f", "tokens must be >= 0", {7}) == 7);
    CHECK(checked_product("f", "tokens must be >= 0", {2, 3, 5}) == 30);
    CHECK(checked_product("f", "tokens must be >= 0", {0, 1000}) == 0);
    CHECK(checked_product("f", "tokens must be >= 0", {1000, 0, 1000}) == 0);
}

TEST_CASE("index: room for more, at least doubled where there is none", "[core][index]") {
    std::vector<int> v;
    v.reserve(8);
    REQUIRE(v.capacity() == 8);
    v.assign(5, 1);
    const auto room_for = [&](std::size_t more) {
        rw::detail::make_room(v, more);
        return v.capacity() - v.size();
    };
    CHECK(room_for(3) == 3);  // is there already
    CHECK(room_for(4) == 5);  // twice the elements
    v.assign(10, 1);
    CHECK(room_for(0) == 0);
    CHECK(room_for(1) == 10);
    CHECK(room_for(30) == 30);
    CHECK(v == std::vector<int>(10, 1));
}

TEST_CASE("index: a negative count is refused with its value", "[core][index]") {
    REQUIRE_THROWS_WITH(checked_product("f", "tokens must be >= 0", {2, -3}),
                        "f: tokens must be >= 0, got -3");
}

TEST_CASE("index: what would not fit in memory is refused before it is multiplied", "[core][index]") {
    const rw::index large = std::numeric_limits<rw::index>::max() / 16;
    CHECK(checked_product("f", "sizes must be >= 0", {large}) == large);
    REQUIRE_THROWS_AS(checked_product("f", "sizes must be >= 0", {large, 2}), rw::invalid_config);
    REQUIRE_THROWS_AS(checked_product("f", "sizes must be >= 0", {large, large}), rw::invalid_config);
    REQUIRE_THROWS_AS(checked_product("f", "sizes must be >= 0", {std::numeric_limits<rw::index>::max()}),
                      rw::invalid_config);
}

TEST_CASE("index: limits and counts of 64 bits are kept within an index of any size", "[core][index]") {
    constexpr rw::index most = std::numeric_limits<rw::index>::max();
    using rw::detail::limit_of_bits;
    using rw::detail::saturated;
    CHECK(limit_of_bits(20) == 1048576);
    for (const int bits : {0, 27, 28, 40, 53, 60, 62, 100}) {
        CHECK(limit_of_bits(bits) >= 1);
        CHECK(limit_of_bits(bits) <= most / 4);  // four of them add up
    }
    for (const std::int64_t fits :
         {std::int64_t{-7}, std::int64_t{0}, std::int64_t{most}, -std::int64_t{most}})
        CHECK(saturated(fits) == fits);
    CHECK(saturated(std::numeric_limits<std::int64_t>::max()) == most);
    CHECK(saturated(std::numeric_limits<std::int64_t>::min()) == -most);
    using rw::detail::magnitude;
    CHECK(magnitude(0) == 0);
    CHECK(magnitude(7) == 7);
    CHECK(magnitude(-7) == 7);
    CHECK(magnitude(-most) == most);
    CHECK(magnitude(std::numeric_limits<rw::index>::min()) == most);
    if (sizeof(rw::index) == 4) {
        CHECK(limit_of_bits(53) == 1 << 28);
        CHECK(saturated(std::int64_t{1} << 40) == most);
    } else {
        CHECK(limit_of_bits(53) == static_cast<rw::index>(std::int64_t{1} << 53));
        CHECK(saturated(std::int64_t{1} << 40) == std::int64_t{1} << 40);
    }
}
