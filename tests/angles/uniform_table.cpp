// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/uniform_table.hpp>

#include <cmath>
#include <limits>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;

TEST_CASE("uniform_table: one cos and sin a token", "[angles][drope]") {
    const std::vector<double> phi{0, 0.5, -3, 40, 1e5};
    const rw::uniform_table<float> table(rw::position_ids::from(phi));
    REQUIRE(table.row_count() == 5);
    CHECK(table.byte_count() == 40);
    for (std::size_t n = 0; n < phi.size(); ++n) {
        CHECK(std::abs(table.cos()[n] - std::cos(phi[n])) <=
              0.5 * budgets::ulp_f32(std::cos(phi[n])) + std::ldexp(std::abs(phi[n]), -52));
        CHECK(std::abs(table.sin()[n] - std::sin(phi[n])) <=
              0.5 * budgets::ulp_f32(std::sin(phi[n])) + std::ldexp(std::abs(phi[n]), -52));
    }
    CHECK(table.cos()[0] == 1);
    CHECK(table.sin()[0] == 0);
    const rw::uniform_table<double> doubled(rw::position_ids::from(phi), 2);
    CHECK(doubled.sin()[1] == Approx(std::sin(1.0)).epsilon(1e-15));
}

TEST_CASE("uniform_table: untouched tokens have no row", "[angles][drope]") {
    rw::position_ids ids;
    ids.append(rw::listed_run{{0.25}}).append(rw::untouched_run{2}).append(rw::listed_run{{1.0}});
    const rw::uniform_table<double> table(ids);
    CHECK(table.row_count() == 2);
    const auto rows = table.rows();
    CHECK(rows.tokens == 4);
    CHECK(rows.row(0) == 0);
    CHECK(rows.row(1) == rw::untouched_row);
    CHECK(rows.row(2) == rw::untouched_row);
    CHECK(rows.row(3) == 1);
    // One row for whatever heads and pairs a tensor has, of unit length.
    CHECK(rows.heads == 1);
    CHECK(rows.pairs == rw::any_pairs);
    CHECK(rows.magnitude == 1);
}

TEST_CASE("uniform_table: directions of vectors need no angle", "[angles][drope]") {
    const std::vector<double> v{3, 4, -2, 0, 0, -1e-300};
    const auto table = rw::uniform_table<double>::from_vectors(std::span<const double>(v));
    CHECK(table.cos()[0] == Approx(0.6));
    CHECK(table.sin()[0] == Approx(0.8));
    CHECK(table.cos()[1] == -1);
    CHECK(table.sin()[2] == -1);
}

TEST_CASE("uniform_table: what has no direction is refused", "[angles][drope]") {
    const std::vector<double> rest{0, 0}, odd{1, 2, 3};
    CHECK_REFUSES("uniform_table::from_vectors: vectors must be finite and not zero, length, got 0",
                  rw::uniform_table<float>::from_vectors(std::span<const double>(rest)));
    CHECK_REFUSES("uniform_table::from_vectors: xy must hold two numbers a token, got 3",
                  rw::uniform_table<float>::from_vectors(std::span<const double>(odd)));
    CHECK_REFUSES("uniform_table: positions must have one axis, got 2",
                  rw::uniform_table<float>(rw::position_ids(2)));
#if !defined(__FAST_MATH__)  // which says that there is no infinity
    CHECK_REFUSES("uniform_table: omega must be finite, got inf",
                  rw::uniform_table<float>(rw::position_ids(), std::numeric_limits<double>::infinity()));
#endif
    const rw::uniform_table<float> one(rw::position_ids::text(1));
    const std::vector<std::int32_t> beyond{0, 1};
    CHECK_REFUSES("uniform_table::rows: row or position must be -1 (untouched) or below 1, got 1",
                  one.rows(std::span<const std::int32_t>(beyond)));
}
