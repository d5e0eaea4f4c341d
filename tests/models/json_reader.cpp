// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/json_reader.hpp>

#include <limits>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using nlohmann::json;
using rw::detail::json_object;

TEST_CASE("json_reader: a key that is missing or null is no value, and reading it makes it known",
          "[models][json_reader]") {
    const json node = json::parse(R"({"a": null, "b": 1, "c": 2})");
    json_object keys("f", node, "");
    CHECK(keys.unread() == std::vector<std::string>{"a", "b", "c"});
    for (const char* key : {"a", "z"}) {
        CHECK_FALSE(keys.has(key));
        CHECK_FALSE(keys.number(key));
        CHECK_FALSE(keys.count(key));
        CHECK_FALSE(keys.flag(key));
        CHECK_FALSE(keys.word(key));
        CHECK(keys.numbers(key).empty());
        CHECK(keys.counts(key).empty());
        CHECK(keys.words(key).empty());
    }
    CHECK(keys.has("b"));
    CHECK(keys.unread() == std::vector<std::string>{"c"});
    CHECK(&keys.node() == &node);
}

TEST_CASE("json_reader: values of every kind", "[models][json_reader]") {
    const json node = json::parse(R"({"n": -2.5, "i": 7, "whole": 4096.0, "zero": 0, "flag": false, "w": "",
        "ns": [1, 2.5, -3], "is": [0, 16, 1000000000], "ws": ["a", ""], "none": []})");
    json_object keys("f", node, "");
    CHECK(keys.number("n") == -2.5);
    CHECK(keys.number("i") == 7.0);
    CHECK(keys.count("i") == 7);
    CHECK(keys.count("whole") == 4096);  // as some configs write it
    CHECK(keys.count("zero", 0) == 0);
    CHECK(keys.flag("flag") == false);
    CHECK(keys.word("w") == "");
    CHECK(keys.numbers("ns") == std::vector<double>{1, 2.5, -3});
    CHECK(keys.counts("is") == std::vector<rw::index>{0, 16, 1000000000});
    CHECK(keys.words("ws") == std::vector<std::string>{"a", ""});
    CHECK(keys.numbers("none").empty());
    CHECK(keys.unread().empty());
}

TEST_CASE("json_reader: of several spellings the first with a value counts, and all are known",
          "[models][json_reader]") {
    const json node = json::parse(R"({"old": 3, "new": null, "alias": 5})");
    json_object keys("f", node, "");
    CHECK(keys.count_of({"new", "old", "alias"}) == 3);
    CHECK(keys.unread().empty());
    CHECK_FALSE(keys.count_of({"x", "y"}));
    const json bad = json::parse(R"({"old": 3, "alias": "5"})");
    CHECK_REFUSES(R"(f: alias must be a whole number in [1, 2^63), got "5")",
                  json_object("f", bad, "").count_of({"old", "alias"}));
}

TEST_CASE("json_reader: errors name the whole path and the value", "[models][json_reader][errors]") {
    const json node = json::parse(R"({"n": "4", "t": true, "i": 2.5, "minus": -1, "flag": 1, "w": 2,
        "ns": [1, "2"], "is": [1, -1], "fs": [1.0], "big": [1000000001], "ws": ["a", 3], "no": {}})");
    const auto keys = [&] { return json_object("from_x", node, "text_config.rope"); };
    CHECK(keys().path_of("n") == "text_config.rope.n");
    CHECK(keys().path_of("") == "text_config.rope");
    CHECK(json_object("f", node, "").path_of("n") == "n");
    CHECK_REFUSES(R"(from_x: text_config.rope.n must be a finite number, got "4")", keys().number("n"));
    CHECK_REFUSES("from_x: text_config.rope.t must be a finite number, got true", keys().number("t"));
    CHECK_REFUSES("from_x: text_config.rope.i must be a whole number in [1, 2^63), got 2.5",
                  keys().count("i"));
    CHECK_REFUSES("from_x: text_config.rope.minus must be a whole number in [0, 2^63), got -1",
                  keys().count("minus", 0));
    CHECK_REFUSES("from_x: text_config.rope.flag must be true or false, got 1", keys().flag("flag"));
    CHECK_REFUSES("from_x: text_config.rope.w must be a string, got 2", keys().word("w"));
    CHECK_REFUSES(R"(from_x: text_config.rope.ns must be an array of finite numbers, got "2")",
                  keys().numbers("ns"));
    CHECK_REFUSES("from_x: text_config.rope.is must be an array of whole numbers >= 0, got -1",
                  keys().counts("is"));
    CHECK_REFUSES("from_x: text_config.rope.fs must be an array of whole numbers >= 0, got 1.0",
                  keys().counts("fs"));
    CHECK_REFUSES("from_x: text_config.rope.big must be an array of whole numbers >= 0, got 1000000001",
                  keys().counts("big"));
    CHECK_REFUSES("from_x: text_config.rope.ws must be an array of strings, got 3", keys().words("ws"));
    CHECK_REFUSES("from_x: text_config.rope.no must be an array, got {}", keys().words("no"));
    CHECK_REFUSES("from_x: text_config.rope.base must be given, got nothing", keys().missing("base"));
    const json list = json::array({1});
    CHECK_REFUSES("from_x: the config must be an object, got [1]", json_object("from_x", list, ""));
    CHECK_REFUSES("from_x: a.b must be an object, got [1]", json_object("from_x", list, "a.b"));
}

TEST_CASE("json_reader: numbers no text can hold, long values and broken text are refused legibly",
          "[models][json_reader][errors]") {
    json node;
    node["nan"] = std::numeric_limits<double>::quiet_NaN();
    node["inf"] = {1, std::numeric_limits<double>::infinity()};
    node["huge"] = 0x1p63;
    node["long"] = std::string(200, 'x');
    node["broken"] =
        "a\xff"
        "b";
    json_object keys("f", node, "");
    CHECK_REFUSES("f: nan must be a finite number, got null", keys.number("nan"));
    CHECK_REFUSES("f: inf must be an array of finite numbers, got null", keys.numbers("inf"));
    CHECK_REFUSES("f: huge must be a whole number in [1, 2^63), got 9.223372036854776e+18",
                  keys.count("huge"));
    CHECK_REFUSES("f: long must be a finite number, got \"" + std::string(76, 'x') + "...",
                  keys.number("long"));
    CHECK_REFUSES(
        "f: broken must be a finite number, got \"a\xEF\xBF\xBD"
        "b\"",
        keys.number("broken"));
}
