// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/config_text.hpp>

#include <string>

#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

const std::string sizes =
    R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":2)";
std::string repeated(const std::string& part, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += part;
    return all;
}

}  // namespace

TEST_CASE("config_text: a text is the JSON that another parser makes of it", "[models][config_text]") {
    const std::string text =
        R"({"a":1,"b":-2,"c":0.5,"d":"x\"y\u00e9","e":null,"f":true,"g":{"h":{"i":[1,"2",false]}},"j":[],"k":{}})";
    CHECK(parse_config(text) == nlohmann::json::parse(text));
    CHECK(parse_config("[1,2]") == nlohmann::json::parse("[1,2]"));
    CHECK(parse_config(" 3 ") == 3);
    // Arrays and objects inside arrays hold no rotary key: they are passed over.
    CHECK(parse_config(R"({"a":[1,[2,{"x":[3]}],{"y":4},5],"b":6})") ==
          nlohmann::json::parse(R"({"a":[1,null,null,5],"b":6})"));
    // So are a classifier's tables of labels, at any depth, but their names stay known.
    CHECK(parse_config(R"({"id2label":{"0":"a","1":{"b":[2]}},"t":{"label2id":{"a":0}},"c":7})") ==
          nlohmann::json::parse(R"({"id2label":null,"t":{"label2id":null},"c":7})"));
    CHECK(parse_config(R"({"label2id":3,"id2label":[4]})") ==
          nlohmann::json::parse(R"({"label2id":3,"id2label":null})"));
}

TEST_CASE("config_text: Python's Infinity and NaN are read, and refused by the key that needs a number",
          "[models][config_text][errors]") {
    const auto config = parse_config(sizes + R"(,"time_step_limit":[0.0,Infinity],"low":-Infinity,"n":NaN})");
    CHECK(config.at("time_step_limit").at(1) == "Infinity");
    CHECK(config.at("low") == "-Infinity");
    CHECK(config.at("n") == "NaN");
    CHECK(from_huggingface(config).head_dim == 128);
    CHECK_REFUSES("from_huggingface: rope_theta must be a finite number, got \"Infinity\"",
                  from_huggingface(parse_config(sizes + R"(,"rope_theta":Infinity})")));
    // Inside a string they are text.
    CHECK(parse_config(R"({"a":"NaN \" Infinity","b":NaN})").at("a") == "NaN \" Infinity");
}

TEST_CASE("config_text: what no config has is refused by its key path", "[models][config_text][errors]") {
    CHECK_REFUSES("parse_config: rope_theta must be given once, got it twice",
                  parse_config(sizes + R"(,"rope_theta":1,"rope_theta":2})"));
    CHECK_REFUSES("parse_config: rope_scaling.factor must be given once, got it twice",
                  parse_config(sizes + R"(,"rope_scaling":{"factor":1,"type":"linear","factor":1}})"));
    CHECK_REFUSES(
        "parse_config: rope_theta must be nested at most 64 deep, got more",
        parse_config(sizes + ",\"rope_theta\":" + repeated("[", 100000) + repeated("]", 100000) + "}"));
    CHECK_REFUSES("parse_config: a.a.a.a.a.a.a must be nested at most 64 deep, got more",
                  parse_config(repeated(R"({"a":)", 100000) + "1" + repeated("}", 100000)));
    CHECK_NOTHROW(parse_config(repeated(R"({"a":)", 64) + "1" + repeated("}", 64)));
    CHECK_REFUSES("parse_config: layer_types must be an array of at most 65536 entries, got more",
                  parse_config("{\"layer_types\":[0" + repeated(",0", 65536) + "]}"));
    CHECK(parse_config("{\"a\":[0" + repeated(",0", 65535) + "]}").at("a").size() == 65536);
    CHECK_REFUSES("parse_config: text must be at most 16 MiB, got 16777217",
                  parse_config(std::string((16 << 20) + 1, ' ')));
}

TEST_CASE("config_text: a text that is no JSON says where", "[models][config_text][errors]") {
    CHECK_REFUSES("parse_config: the text must be JSON, got its end at byte 1", parse_config(""));
    CHECK_REFUSES("parse_config: the text must be JSON, got \"\"a\":]\" at byte 6",
                  parse_config(R"({"a":]})"));
    for (const char* broken : {"{", "[1,", "{\"a\"", "nul", "{\"a\":1}}", "\"\\", "{\"a\":1e999}"}) {
        INFO(broken);
        CHECK_THROWS_AS(parse_config(broken), invalid_config);
    }
}
