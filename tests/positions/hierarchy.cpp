// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/hierarchy.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace positions = ropewalk::positions;
using positions::counting;

namespace {
std::vector<double> level(const rw::position_ids& ids, rw::index axis) {
    std::vector<double> all;
    for (rw::index n = 0; n < ids.tokens(); ++n) all.push_back(ids.at(n, axis));
    return all;
}
}  // namespace

TEST_CASE("hierarchy: tokens inside their unit, units in a row", "[positions][hirope]") {
    const auto ids = positions::hierarchy({.tokens = 10, .starts = {{0, 4, 7}}});
    CHECK(level(ids, 0) == std::vector<double>{0, 1, 2, 3, 0, 1, 2, 0, 1, 2});
    CHECK(level(ids, 1) == std::vector<double>{0, 0, 0, 0, 1, 1, 1, 2, 2, 2});
}

TEST_CASE("hierarchy: starts at 0, twice and past the end change nothing", "[positions][hirope]") {
    const auto want = positions::hierarchy({.tokens = 6, .starts = {{3}}}).values();
    CHECK(positions::hierarchy({.tokens = 6, .starts = {{0, 0, 3, 3, 3, 6, 90}}}).values() == want);
}

TEST_CASE("hierarchy: global counting and no units at all", "[positions][hirope]") {
    const auto global = positions::hierarchy({.tokens = 5, .starts = {{2}}, .mode = counting::global});
    CHECK(level(global, 0) == std::vector<double>{0, 1, 2, 3, 4});
    CHECK(level(global, 1) == std::vector<double>{0, 0, 1, 1, 1});
    const auto none = positions::hierarchy({.tokens = 3, .starts = {{}}});
    CHECK(level(none, 0) == std::vector<double>{0, 1, 2});
    CHECK(level(none, 1) == std::vector<double>{0, 0, 0});
}

TEST_CASE("hierarchy: three levels count inside the level above", "[positions][hirope]") {
    // functions at 2, 4, 6; a file at 4
    const auto local = positions::hierarchy({.tokens = 8, .starts = {{2, 4, 6}, {4}}});
    CHECK(level(local, 0) == std::vector<double>{0, 1, 0, 1, 0, 1, 0, 1});
    CHECK(level(local, 1) == std::vector<double>{0, 0, 1, 1, 0, 0, 1, 1});
    CHECK(level(local, 2) == std::vector<double>{0, 0, 0, 0, 1, 1, 1, 1});
    const auto global =
        positions::hierarchy({.tokens = 8, .starts = {{2, 4, 6}, {4}}, .mode = counting::global});
    CHECK(level(global, 1) == std::vector<double>{0, 0, 1, 1, 2, 2, 3, 3});
}

TEST_CASE("hierarchy_counter: units that appear while decoding leave the past alone", "[positions][hirope]") {
    const std::vector<rw::index> starts{3, 7, 8};
    positions::hierarchy_counter counter;
    counter.begin_unit();  // before the first token: nothing
    std::vector<double> seen;
    for (rw::index n = 0; n < 12; ++n) {
        if (n == 3 || n == 7 || n == 8) counter.begin_unit();
        const auto at = counter.next();
        seen.insert(seen.end(), at.begin(), at.end());
        // A prefix of the sequence has the same positions as the whole.
        CHECK(positions::hierarchy({.tokens = n + 1, .starts = {starts}}).values() == seen);
    }
    CHECK(counter.tokens() == 12);
    CHECK(counter.position()[0] == 3);
    CHECK(counter.position()[1] == 3);
}

TEST_CASE("hierarchy: bad starts are refused", "[positions][hirope]") {
    CHECK_REFUSES("hierarchy: unit starts must be sorted, got 2",
                  positions::hierarchy({.tokens = 9, .starts = {{5, 2}}}));
    CHECK_REFUSES("hierarchy: unit starts must be >= 0, got -1",
                  positions::hierarchy({.tokens = 9, .starts = {{-1, 2}}}));
    CHECK_REFUSES("hierarchy: tokens must be >= 0, got -1",
                  positions::hierarchy({.tokens = -1, .starts = {{}}}));
    CHECK_REFUSES("hierarchy: starts must hold one list a level, got 0", positions::hierarchy({.tokens = 1}));
    CHECK_REFUSES("hierarchy_counter: levels must be >= 2, got 1", positions::hierarchy_counter(1));
    CHECK_REFUSES("hierarchy_counter::begin_unit: level must be >= 1 and below levels, got 2",
                  (positions::hierarchy_counter().begin_unit(2), 0));
}
