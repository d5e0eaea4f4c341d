// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/positions/code_units.hpp>

#include <string>

#include <ropewalk/positions/hierarchy.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using rw::positions::block_style;

namespace {

/// The first word or mark of every unit with its level: "2 class".
std::vector<std::string> found(const std::string& text, rw::positions::code_units_config config = {}) {
    std::vector<std::string> units;
    for (const auto& unit : rw::positions::find_code_units(text, config)) {
        const std::size_t end = text.find_first_of("\n{(:", unit.offset);
        units.push_back(std::to_string(unit.level) + " " + text.substr(unit.offset, end - unit.offset));
    }
    return units;
}
using list = std::vector<std::string>;

}  // namespace

TEST_CASE("code_units: functions and classes of a file with braces", "[positions][hirope]") {
    const std::string text = R"text(#include <x>
#define OPEN {
// About f.
int f(int a) {
    if (a) { return g({1, 2}); }
    auto h = [](int b) { return b; };
    return '{' + 1'000;
}  // end of f
int table[] = {1, 2, 3};
enum class kind { one, two };
namespace n {
template <class T>
struct box : base<T> {
    int x = 3;
    box() : a{1}, b{2} {}
  private:
    /* { */ void put(T t) { s = "}{"; }
    enum { k };
};
extern "C" {
void late(void) { const char* r = R"x({ )" })x"; }
}
}  // namespace n
int declared();
void last() {}
)text";
    CHECK(found(text) == list{"1 // About f.", "1 template <class T>", "1 void late", "1 void last"});
    CHECK(found(text, {.levels = 3}) ==
          list{"2 // About f.", "2 template <class T>", "1 box", "1 /* ", "2 void late", "2 void last"});
    CHECK(found("").empty());
    CHECK(found("}}}{{{ \" unclosed").empty());
}

TEST_CASE("code_units: functions and classes of an indented file", "[positions][hirope]") {
    const std::string text = R"text(import os
@cache
def first(a):
    def inner(): return a
    return """
def not_code():
"""
# def neither
class Box:
    x = 1

    async def put(self):
        if self.x:
            pass

    @property
    def got(self):
        return self.x
def last(): pass
)text";
    CHECK(found(text, {.blocks = block_style::indentation}) == list{"1 @cache", "1 class Box", "1 def last"});
    CHECK(found(text, {.blocks = block_style::indentation, .levels = 3}) ==
          list{"2 @cache", "2 class Box", "1 async def put", "1 @property", "2 def last"});
}

TEST_CASE("code_units: any bytes are read to their end", "[positions][hirope]") {
    unsigned state = 7;
    const std::string marks = "{}()[];\"'/*\\#\nR@ dclassf:=,";
    for (int round = 0; round < 3000; ++round) {
        std::string text;
        for (int i = 0; i < 40; ++i)
            text += marks[(state = state * 1664525u + 1013904223u) / 65536 % marks.size()];
        for (const auto style : {block_style::braces, block_style::indentation}) {
            std::size_t before = 0;
            for (const auto& unit : rw::positions::find_code_units(text, {style, 4})) {
                REQUIRE(unit.offset >= before);
                REQUIRE(unit.offset < text.size());
                REQUIRE((unit.level >= 1 && unit.level <= 3));
                before = unit.offset;
            }
        }
    }
}

TEST_CASE("code_units: starts in tokens, as hierarchy takes them", "[positions][hirope]") {
    const std::vector<rw::positions::code_unit> units{{0, 2}, {10, 1}, {11, 1}, {40, 2}};
    const std::vector<std::size_t> tokens{0, 4, 10, 12, 20, 39};
    const auto starts = rw::positions::make_unit_starts(units, tokens, 3);
    CHECK(starts == std::vector<std::vector<rw::index>>{{2, 3}, {0, 6}});
    const auto where = rw::positions::hierarchy({.tokens = 6, .starts = starts});
    CHECK(where.at(3, 0) == 0);
    CHECK(where.at(5, 1) == 2);
    CHECK_REFUSES("make_unit_starts: units must have a level below levels, got 2",
                  rw::positions::make_unit_starts(units, tokens, 2));
    CHECK_REFUSES("find_code_units: levels must be >= 2, got 1",
                  rw::positions::find_code_units("", {.levels = 1}));
}
