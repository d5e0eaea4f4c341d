// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/json_scanner.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "support/catch.hpp"

namespace {

/// What a scanner tells, as one line.
struct recorder {
    std::string said = {};
    bool null() { return add("null"); }
    bool boolean(bool value) { return add(value ? "true" : "false"); }
    bool number_integer(std::int64_t value) { return add("i" + std::to_string(value)); }
    bool number_unsigned(std::uint64_t value) { return add("u" + std::to_string(value)); }
    bool number_float(double value) { return add("f" + nlohmann::json(value).dump()); }
    bool string(std::string& value) { return add("'" + value + "'"); }
    bool key(std::string& name) { return add(name + ":"); }
    bool start_object() { return add("{"); }
    bool end_object() { return add("}"); }
    bool start_array() { return add("["); }
    bool end_array() { return add("]"); }

  private:
    bool add(const std::string& what) {
        said += (said.empty() ? "" : " ") + what;
        return what != "stop:";
    }
};

std::string told(std::string_view text) {
    recorder heard;
    ropewalk::ROPEWALK_ISA::detail::json_scanner scanner(text, heard);
    return scanner.read() ? heard.said : "! " + scanner.problem();
}

}  // namespace

TEST_CASE("json_scanner: tells what stands in a text, in its order", "[models][json_scanner]") {
    CHECK(told(R"({"a":1,"b":[true,false,null,{}],"c":{"d":[]}})") ==
          "{ a: u1 b: [ true false null { } ] c: { d: [ ] } }");
    CHECK(told(" \t\r\n[ 1 , -2 ,\n3.5 ] ") == "[ u1 i-2 f3.5 ]");
    CHECK(told("\xEF\xBB\xBF[]") == "[ ]");
    CHECK(told("[[],[[]],[1]]") == "[ [ ] [ [ ] ] [ u1 ] ]");
    CHECK(told(R"({"":"","x":NaN,"y":-Infinity,"z":[Infinity]})") ==
          "{ : '' x: 'NaN' y: '-Infinity' z: [ 'Infinity' ] }");
    // A handler that has heard enough stops it, and nothing is wrong with the text.
    CHECK(told(R"({"stop":1})") == "! ");
}

TEST_CASE("json_scanner: numbers are those of another parser", "[models][json_scanner]") {
    for (const char* number : {"0",
                               "-0",
                               "1",
                               "-1",
                               "18446744073709551615",
                               "18446744073709551616",
                               "9223372036854775807",
                               "-9223372036854775808",
                               "-9223372036854775809",
                               "123456789012345678901234567890",
                               "0.1",
                               "-0.0",
                               "1e3",
                               "1E+3",
                               "1e-3",
                               "1.5e300",
                               "2.2250738585072011e-308",
                               "5e-324",
                               "1e-400",
                               "1.7976931348623157e308",
                               "0.30000000000000004",
                               "9007199254740993",
                               "9007199254740993.0",
                               "1000000000000000000000000000000e-30"}) {
        INFO(number);
        const auto want = nlohmann::json::parse(number);
        const auto got = told(number);
        if (want.is_number_unsigned()) CHECK(got == "u" + want.dump());
        if (want.is_number_integer() && !want.is_number_unsigned()) CHECK(got == "i" + want.dump());
        if (want.is_number_float()) CHECK(got == "f" + want.dump());
    }
    for (const char* broken :
         {"01", "-", "+1", "1.", ".5", "1e", "1e+", "0x10", "1e999", "-1e999", "--1", "1 2"}) {
        INFO(broken);
        CHECK(nlohmann::json::parse(broken, nullptr, false).is_discarded());
        CHECK(told(broken).starts_with("! the text must be JSON, got "));
    }
}

TEST_CASE("json_scanner: strings are those of another parser", "[models][json_scanner]") {
    const std::vector<std::string> texts = {
        R"("")",
        R"("plain")",
        R"("\"\\\/\b\f\n\r\t")",
        R"("\u0041\u00e9\u20AC\ud83d\ude00")",
        "\"\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \xED\x9F\xBF \xEE\x80\x80 \xF4\x8F\xBF\xBF\"",
        "\"\x7F\"",
    };
    for (const auto& text : texts) {
        INFO(text);
        CHECK(told(text) == "'" + nlohmann::json::parse(text).get<std::string>() + "'");
    }
    const std::vector<std::string> broken = {"\"",
                                             "\"\\",
                                             "\"\\x\"",
                                             "\"\\u12\"",
                                             "\"\\u12g4\"",
                                             "\"\\ud800\"",
                                             "\"\\ud800\\u0041\"",
                                             "\"\\udc00\"",
                                             "\"\n\"",
                                             std::string("\"\0\"", 3),
                                             "\"\x80\"",
                                             "\"\xC0\xAF\"",
                                             "\"\xE0\x80\x80\"",
                                             "\"\xED\xA0\x80\"",
                                             "\"\xF0\x80\x80\x80\"",
                                             "\"\xF4\x90\x80\x80\"",
                                             "\"\xF5\"",
                                             "\"\xE2\x82\"",
                                             "\"\xC3",
                                             "\"\\ud83d\\ude0\""};
    for (const auto& text : broken) {
        INFO(text);
        CHECK(nlohmann::json::parse(text, nullptr, false).is_discarded());
        CHECK(told(text).starts_with("! the text must be JSON, got "));
    }
}

TEST_CASE("json_scanner: a broken text says what stands where", "[models][json_scanner][errors]") {
    CHECK(told("") == "! the text must be JSON, got its end at byte 1");
    CHECK(told("  ") == "! the text must be JSON, got its end at byte 3");
    CHECK(told(R"({"a":]})") == "! the text must be JSON, got \"]}\" at byte 6");
    CHECK(told("[1,]") == "! the text must be JSON, got \"]\" at byte 4");
    CHECK(told("[1 2]") == "! the text must be JSON, got \"2]\" at byte 4");
    CHECK(told(R"({"a":1,})") == "! the text must be JSON, got \"}\" at byte 8");
    CHECK(told("[1}") == "! the text must be JSON, got \"}\" at byte 3");
    CHECK(told("[]]") == "! the text must be JSON, got \"]\" at byte 3");
    CHECK(told("nul") == "! the text must be JSON, got \"nul\" at byte 1");
    CHECK(told("Inf") == "! the text must be JSON, got \"Inf\" at byte 1");
    CHECK(told("[\"a\x01\"]") == "! the text must be JSON, got \"?\"]\" at byte 4");
    for (const char* broken : {"{", "[", "[1", "[1,", "{\"a\"", "{\"a\":", "{a:1}", "{1:2}", "[,1]", "{,}",
                               "{\"a\" 1}", "{\"a\":1 \"b\":2}", "\"a\":1", "tru", "// no", "[1]x"}) {
        INFO(broken);
        CHECK(nlohmann::json::parse(broken, nullptr, false).is_discarded());
        CHECK(told(broken).starts_with("! the text must be JSON, got "));
    }
    // However much is left, forty characters of it are shown.
    CHECK(told("!" + std::string(1000, 'x')).size() ==
          std::string("! the text must be JSON, got \"\" at byte 1").size() + 40);
}

TEST_CASE("json_scanner: every cut of a text and every byte of it changed agrees with another parser",
          "[models][json_scanner]") {
    const std::string text = R"( {"a":[1,-2.5e3,"x\u00e9\n",true,null,{"b":{}}],"c":false,"d":0} )";
    const auto check = [](const std::string& changed) {
        // Python's words are the one thing that the other does not take; the text holds no I and no N.
        INFO(changed);
        CHECK(told(changed).starts_with("! ") ==
              nlohmann::json::parse(changed, nullptr, false).is_discarded());
    };
    for (std::size_t n = 0; n < text.size(); ++n) check(text.substr(0, n));
    for (std::size_t n = 0; n < text.size(); ++n)
        for (const char c :
             {'"', '\\', '{', '}', '[', ']', ',', ':', '0', '-', '.', 'e', ' ', 't', '\x01', '\x80'}) {
            auto changed = text;
            changed[n] = c;
            check(changed);
        }
}
