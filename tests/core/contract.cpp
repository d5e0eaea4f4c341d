// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/core/contract.hpp>

#include <limits>
#include <string>

#include <ropewalk/core/heads_view.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

TEST_CASE("contract: text of a value is the shortest that reads back", "[core][contract]") {
    CHECK(rw::detail::text(0.1) == "0.1");
    CHECK(rw::detail::text(1e6) == "1000000");
    CHECK(rw::detail::text(50.0) == "50");
    CHECK(rw::detail::text(2.5e300) == "2.5e+300");
    CHECK(rw::detail::text(0.1f) == "0.10000000149011612");  // what a float of 0.1 is
    CHECK(rw::detail::text(1.0 / 3) == "0.3333333333333333");
    CHECK(rw::detail::text(0.1 + 0.2) == "0.30000000000000004");
    CHECK(rw::detail::text(-std::numeric_limits<double>::infinity()) == "-inf");
    CHECK(rw::detail::text(7) == "7");
    CHECK(rw::detail::text(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
    CHECK(rw::detail::text(true) == "true");
    CHECK(rw::detail::text("yarn") == "yarn");
    CHECK(rw::detail::text(std::string("llama3")) == "llama3");
#if !defined(__FAST_MATH__)
    CHECK(rw::detail::text(std::numeric_limits<double>::quiet_NaN()).find("nan") != std::string::npos);
#endif
}

TEST_CASE("contract: a refused call names function, parameter and value", "[core][contract]") {
    rw::detail::require(true, "f", "x must be > 0", -1);
    REQUIRE_THROWS_AS(rw::detail::require(false, "f", "x must be > 0", -1), rw::invalid_config);
    REQUIRE_THROWS_AS(rw::detail::require(false, "f", "x must be > 0", -1), std::invalid_argument);
    REQUIRE_THROWS_WITH(rw::detail::require(false, "f", "x must be > 0", -1.5), "f: x must be > 0, got -1.5");
    rw::detail::require_equal("f", "x must be y", std::size_t{3}, rw::index{3});
    REQUIRE_THROWS_WITH(rw::detail::require_equal("f", "x must be y", std::size_t{3}, rw::index{-1}),
                        "f: x must be y: wanted 3, got -1");
    REQUIRE_THROWS_WITH(rw::detail::require_equal("f", "x must be y", 0.5, 0.25),
                        "f: x must be y: wanted 0.5, got 0.25");
    rw::detail::require_extents("f", "x must be y", {1, 2, 3, 4}, {1, 2, 3, 4});
    REQUIRE_THROWS_WITH(rw::detail::require_extents("f", "x must be y", {1, 2, 3, 4}, {1, 2, 3, 5}),
                        "f: x must be y: wanted [1, 2, 3, 4], got [1, 2, 3, 5]");
}

TEST_CASE("contract: a misfit in words", "[core][contract]") {
    CHECK(rw::misfit{}.ok());
    CHECK(to_string(rw::misfit{}) == "fits");
    const rw::misfit wrong{"channels must be twice the pairs of the rows", 128, 64};
    CHECK_FALSE(wrong.ok());
    CHECK(to_string(wrong) == "channels must be twice the pairs of the rows: wanted 128, got 64");
    const rw::misfit of_k{"channels must be twice the pairs of the rows", 128, 64, "k"};
    CHECK(to_string(of_k) == "k: channels must be twice the pairs of the rows: wanted 128, got 64");
    CHECK(rw::detail::fits("rotate", {}));
}
