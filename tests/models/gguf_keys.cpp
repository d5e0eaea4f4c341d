// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_keys.hpp>

#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using i64 = std::int64_t;
using longs = std::vector<i64>;
using gguf_keys = ropewalk::ROPEWALK_ISA::detail::gguf_keys;

namespace {

gguf_metadata file() {
    return {.values = {{"a.real", 2.5},
                       {"a.whole", i64{7}},
                       {"a.minus", i64{-1}},
                       {"a.nan", std::numeric_limits<double>::quiet_NaN()},
                       {"a.flag", false},
                       {"a.word", std::string("yarn")},
                       {"a.list", longs{3, 4}},
                       {"a.gaps", longs{0, 0, 5, 2}},
                       {"a.zeros", longs{0, 0}},
                       {"a.none", longs{}},
                       {"a.below", longs{-3, 4}},
                       {"a.reals", std::vector<double>{1.5}}}};
}

}  // namespace

TEST_CASE("gguf_keys: values of every kind, of one architecture", "[models][gguf]") {
    const auto f = file();
    gguf_keys keys(f, "a");
    CHECK(keys.number("real") == 2.5);
    CHECK(keys.number("whole") == 7.0);
    CHECK(keys.count("whole") == 7);
    CHECK(keys.count_or_first("whole") == 7);
    CHECK(keys.count_or_first("list") == 3);
    CHECK(keys.count_or_first("gaps") == 5);
    CHECK(keys.count_or_first("zeros") == 0);
    CHECK(keys.of_layers("gaps", 5, 1) != nullptr);  // the last of five is left out
    CHECK(keys.flag("flag") == false);
    CHECK(keys.word("word") == "yarn");
    CHECK(keys.counts("list", 4) == longs{3, 4});
    CHECK(keys.required_count("whole") == 7);
    CHECK(keys.count("whole", 7, 7) == 7);
    CHECK(keys.not_negative("real") == 2.5);
    CHECK(keys.positive("whole") == 7.0);
    CHECK(keys.of_layers("list", 2) != nullptr);
    CHECK(keys.of_layers("whole", 2) == nullptr);  // one number for all
    CHECK(keys.has("word"));
    gguf_keys others(f, "b");  // its keys begin with another name
    CHECK_FALSE(others.number("real"));
    CHECK_FALSE(others.count("whole"));
    CHECK_FALSE(others.count_or_first("list"));
    CHECK_FALSE(others.flag("flag"));
    CHECK_FALSE(others.word("word"));
    CHECK(others.counts("list", 4).empty());
    CHECK(others.of_layers("list", 2) == nullptr);
    CHECK_FALSE(others.has("word"));
    CHECK_REFUSES("from_gguf: b.whole must be given, got nothing", others.required_count("whole"));
}

TEST_CASE("gguf_keys: a value of another kind is refused by its name", "[models][gguf][errors]") {
    const auto f = file();
    gguf_keys keys(f, "a");
    const std::string of = "from_gguf: a.";
    CHECK_REFUSES(of + "word must be a finite number, got yarn", keys.number("word"));
    CHECK_REFUSES(of + "nan must be a finite number, got nan", keys.number("nan"));
    CHECK_REFUSES(of + "minus must be a number >= 0, got -1", keys.not_negative("minus"));
    CHECK_REFUSES(of + "minus must be a number > 0, got -1", keys.positive("minus"));
    CHECK_REFUSES(of + "real must be a whole number >= 0, got 2.5", keys.count("real"));
    CHECK_REFUSES(of + "minus must be a whole number >= 0, got -1", keys.count("minus"));
    CHECK_REFUSES(of + "whole must be a whole number in [1, 6], got 7", keys.count("whole", 1, 6));
    CHECK_REFUSES(of + "whole must be a whole number >= 8, got 7", keys.required_count("whole", 8));
    CHECK_REFUSES(of + "none must be a whole number >= 0 or an array with one a layer, got []",
                  keys.count_or_first("none"));
    CHECK_REFUSES(of + "below must be a whole number >= 0 or an array with one a layer, got [-3, 4]",
                  keys.count_or_first("below"));
    CHECK_REFUSES(of + "list must be an array with one number a layer, got [3, 4]",
                  keys.of_layers("list", 3));
    CHECK_REFUSES(of + "gaps must be an array with one number a layer, got [0, 0, 5, 2]",
                  keys.of_layers("gaps", 6, 1));
    CHECK_REFUSES(of + "whole must be a bool, got 7", keys.flag("whole"));
    CHECK_REFUSES(of + "flag must be a string, got false", keys.word("flag"));
    CHECK_REFUSES(of + "reals must be an array of whole numbers, got [1.5]", keys.counts("reals", 4));
    CHECK_REFUSES(of + "list must be an array of whole numbers in [0, 3], got [3, 4]",
                  keys.counts("list", 3));
    const gguf_metadata wide{.values = {{"a.wide", longs(100, 12345)}}};
    const auto shown = support::refusal([&] { gguf_keys(wide, "a").flag("wide"); });
    CHECK(shown.size() < 120);
    CHECK(shown.substr(shown.size() - 3) == "...");
}

TEST_CASE("gguf_keys: unread are the architecture's rotary keys that nobody asked for", "[models][gguf]") {
    const gguf_metadata f{.values = {{"a.rope.freq_base", 1e4},
                                     {"a.rope.bogus", 1.0},
                                     {"a.ropes", 1.0},
                                     {"a.block_count", i64{2}},
                                     {"ab.rope.bogus", 1.0},
                                     {"rope.bogus", 1.0}}};
    gguf_keys keys(f, "a");
    CHECK(keys.unread() == std::vector<std::string>{"a.rope.bogus", "a.rope.freq_base"});
    keys.number("rope.freq_base");
    keys.word("rope.absent");
    CHECK(keys.unread() == std::vector<std::string>{"a.rope.bogus"});
    CHECK(keys.has_rope());
    CHECK_FALSE(gguf_keys(f, "b").has_rope());
}
