// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/strictness.hpp>

#include <string>
#include <vector>

#include <ropewalk/models/gguf.hpp>
#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using names = std::vector<std::string>;

namespace {

/// A small model's config with more keys.
json config_with(const char* more) {
    json config = json::parse(
        R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":2})");
    config.update(json::parse(more));
    return config;
}
model_config leniently(const json& config) { return from_huggingface(config, {.keys = strictness::lenient}); }

}  // namespace

TEST_CASE("strictness: strict reading refuses what lenient reading lists", "[models][strictness][errors]") {
    const json config = json::parse(R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,
        "num_hidden_layers":2,"rope_bogus":3,"rope_scaling":{"type":"wavelet","factor":2.0}})");
    CHECK_REFUSES(
        R"(from_huggingface: rope_scaling.type must be a scaling that is known here, got "wavelet")",
        from_huggingface(config));
    const auto lenient = from_huggingface(config, {.keys = strictness::lenient});
    CHECK(lenient.ignored ==
          std::vector<std::string>{"rope_scaling.type", "rope_scaling.factor", "rope_bogus"});
    CHECK(make_model_schemes(lenient)[1].spectrum_for(1).omegas() ==
          frequencies::geometric({.rotary_dim = 128}).omegas());
}

TEST_CASE("strictness: readers are strict unless told otherwise", "[models][strictness]") {
    CHECK(strictness{} == strictness::strict);
    CHECK(huggingface_reading{}.keys == strictness::strict);
}

TEST_CASE("strictness: of two keys that disagree lenient reading lists the one it passes over",
          "[models][strictness][errors]") {
    struct disagreement {
        const char* keys;
        const char* passed_over;
        const char* refusal;
        double base, last_divisor;
    };
    for (
        const disagreement& d :
        {disagreement{
             R"({"rope_parameters":{"rope_type":"linear","factor":2.0},"rope_scaling":{"type":"ntk"}})",
             "rope_scaling",
             R"(from_huggingface: rope_scaling.type must be what rope_parameters says, got "ntk")", 1e4, 2},
         {R"({"rope_parameters":{"type":"linear","factor":2.0},"rope_scaling":{"factor":8.0}})",
          "rope_scaling.factor",
          "from_huggingface: rope_scaling.factor must be what rope_parameters says, got 8.0", 1e4, 2},
         {R"({"rope_parameters":{"full_attention":{"type":"linear","factor":2.0}},"rope_scaling":{"factor":8.0},
               "layer_types":["full_attention","full_attention"]})",
          "rope_scaling",
          R"(from_huggingface: rope_scaling must be what rope_parameters says, got {"factor":8.0})", 1e4, 2},
         {R"({"rope_theta":500.0,"rope_parameters":{"rope_type":"default","rope_theta":100.0}})",
          "rope_theta",
          "from_huggingface: rope_parameters.rope_theta must be what the top-level rope_theta says, got "
          "100.0",
          100, 1},
         {R"({"rope_scaling":{"rope_type":"linear","type":"yarn","factor":4.0}})", "rope_scaling.type",
          R"(from_huggingface: rope_scaling.type must be what rope_type says, got "yarn")", 1e4, 4},
         {R"({"model_type":"gpt_neox","rope_theta":100.0,"rotary_emb_base":200.0,"rotary_pct":1.0})",
          "rotary_emb_base",
          "from_huggingface: rotary_emb_base must be what the key of today says, got 200.0", 100, 1}}) {
        INFO(d.keys);
        CHECK_REFUSES(d.refusal, from_huggingface(config_with(d.keys)));
        const auto read = leniently(config_with(d.keys));
        CHECK(read.ignored == names{d.passed_over});
        const auto s = make_model_schemes(read)[0].spectrum_for(1);
        const auto plain = frequencies::geometric({.rotary_dim = 128, .base = d.base});
        CHECK(s.omega(63) == Approx(plain.omega(63) / d.last_divisor).epsilon(1e-14));
    }
    // Two spellings that agree are no disagreement.
    CHECK(from_huggingface(config_with(R"({"rope_theta":5,"rope_parameters":{"rope_theta":5.0}})"))
              .ignored.empty());
}

TEST_CASE("strictness: rope_scaling beside rope_parameters is merged into it", "[models][strictness]") {
    for (const auto keys : {strictness::strict, strictness::lenient}) {
        const auto read = [keys](const char* text) {
            const auto config = from_huggingface(config_with(text), {.keys = keys});
            CHECK(config.ignored.empty());
            return config;
        };
        const auto flat = read(R"({"rope_parameters":{"rope_theta":1000000.0,"factor":null},
            "rope_scaling":{"type":"linear","factor":8.0,"rope_theta":null}})");
        CHECK(flat.ropes[0].scaling == rope_scaling::linear);
        CHECK(flat.ropes[0].factor == 8.0);
        CHECK(flat.ropes[0].base == 1e6);
        const auto same = read(R"({"head_dim":4,"rope_parameters":{"type":"longrope",
            "short_factor":[1,1],"long_factor":[2,2],"factor":2},"rope_scaling":{
            "rope_type":"su","factor":2.0,"original_max_position_embeddings":4096}})");
        CHECK(same.ropes[0].scaling == rope_scaling::longrope);
        CHECK(same.ropes[0].original_context == 4096);
        // Gemma 3 and OLMo 3: the full-attention layers are meant.
        const auto typed = read(R"({"model_type":"olmo3","max_position_embeddings":65536,
            "layer_types":["sliding_attention","full_attention"],
            "rope_parameters":{"full_attention":{"rope_theta":500000.0},
            "sliding_attention":{"rope_theta":500000.0}},"rope_scaling":{"rope_type":"linear","factor":4.0}})");
        const auto layers = make_model_schemes(typed);
        CHECK(layers[0].spectrum_for(1).omega(0) == 1.0);
        CHECK(layers[1].spectrum_for(1).omega(0) == 0.25);
    }
    CHECK_REFUSES("from_huggingface: rope_scaling must be an object or null, got 3",
                  leniently(config_with(R"({"rope_parameters":{"factor":1},"rope_scaling":3})")));
}

TEST_CASE("strictness: strict reading refuses a ramp of YaRN that runs the wrong way",
          "[models][strictness][errors]") {
    const std::pair<const char*, const char*> cases[] = {
        {R"("original_max_position_embeddings":4)",
         "yarn: original_context must let the ramp run upwards: low must be <= high, got 0"},
        {R"("original_max_position_embeddings":1e30)",
         "yarn: original_context must let the ramp run upwards: low must be <= high, got 443"}};
    for (const char* type : {"yarn", "dynamic-yarn"})
        for (const auto& [keys, refusal] : cases) {
            INFO(type << " " << keys);
            const auto config =
                config_with((R"({"max_position_embeddings":65536,"rope_scaling":{"factor":4.0,"type":")" +
                             std::string(type) + "\"," + keys + "}}")
                                .c_str());
            CHECK_REFUSES(refusal, from_huggingface(config));
            CHECK(leniently(config).ropes[0].bounds == frequencies::bounds_check::literal);
        }
}

TEST_CASE("strictness: a key of Qwen-1 that changes the scores is listed, noted or refused",
          "[models][strictness][errors]") {
    json config = json::parse(R"({"model_type":"qwen","hidden_size":4096,"num_attention_heads":32,
        "num_hidden_layers":2,"seq_length":8192,"kv_channels":128,"rotary_emb_base":10000,"rotary_pct":1.0,
        "use_logn_attn":false,"use_dynamic_ntk":false})");
    const auto plain = from_huggingface(config);
    CHECK(plain.read_layout == half_split{});
    CHECK(plain.head_dim == 128);
    CHECK(plain.ropes[0].max_context == 8192);
    CHECK(plain.ropes[0].notes.empty());
    config["use_logn_attn"] = true;
    CHECK(from_huggingface(config).ropes[0].notes ==
          names{"queries beyond the trained length are multiplied by the logarithm of their position to its "
                "base (use_logn_attn)"});
    config["use_dynamic_ntk"] = true;
    const auto stepped = make_model_schemes(from_huggingface(config));
    CHECK(stepped[0].length_dependent);
    // alpha is 1 up to the trained length, 3 up to twice and 7 up to four times it.
    const auto slowest = [&](std::int64_t length) { return stepped[0].spectrum_for(length).omega(63); };
    CHECK(slowest(8192) == slowest(1));
    CHECK(slowest(8193) == Approx(slowest(1) / 3).epsilon(1e-12));
    CHECK(slowest(16384) == Approx(slowest(1) / 3).epsilon(1e-12));
    CHECK(slowest(16385) == Approx(slowest(1) / 7).epsilon(1e-12));
    // To another class the key means nothing.
    config["model_type"] = "llama";
    CHECK_REFUSES(
        "from_huggingface: use_dynamic_ntk must be a key that is read here (it would be ignored), got true",
        from_huggingface(config));
    CHECK(leniently(config).ignored == names{"use_dynamic_ntk"});
}

TEST_CASE("strictness: what the official code of a class leaves unread is said, or refused",
          "[models][strictness]") {
    json config = config_with(R"({"head_dim":128,"max_position_embeddings":8192})");
    const auto one = [](const model_config& read) { return read.ropes.at(0); };
    // A class that looks at rope_type only, which two kinds of layers read.
    config["model_type"] = "modernbert";
    config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
    auto read = from_huggingface(config);
    CHECK(read.ignored == names{"rope_scaling.type"});
    CHECK(one(read).scaling == rope_scaling::none);
    CHECK(one(read).notes ==
          names{"the official code of this class looks at rope_type only and does not scale"});
    // Classes that compute their frequencies once, for the short context.
    config["rope_scaling"] = {{"rope_type", "longrope"},
                              {"factor", 2.0},
                              {"mrope_section", {16, 24, 24}},
                              {"original_max_position_embeddings", 4096},
                              {"short_factor", std::vector<double>(64, 1)},
                              {"long_factor", std::vector<double>(64, 2)}};
    config["model_type"] = "paddleocr_vl_text";
    read = from_huggingface(config);
    CHECK(read.ignored == names{"rope_scaling.rope_type"});
    CHECK(one(read).long_factors == std::vector<double>(64, 1));
    CHECK(one(read).notes == names{"longrope (the official code of this class keeps the short factors)"});
    config["model_type"] = "qwen2_5_vl_text";
    CHECK_REFUSES(
        "from_huggingface: rope_scaling.rope_type must be another than longrope (the official code "
        "of this class keeps the short factors), got \"longrope\"",
        from_huggingface(config));
    CHECK(one(leniently(config)).long_factors == std::vector<double>(64, 1));
    config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}, {"mrope_section", {16, 24, 24}}};
    CHECK_REFUSES(
        "from_huggingface: rope_scaling.type must be another than dynamic (the official code of "
        "this class never updates its frequencies), got \"dynamic\"",
        from_huggingface(config));
    CHECK(leniently(config).ignored == names{"rope_scaling.type"});
    CHECK(one(leniently(config)).scaling == rope_scaling::none);
    // What a dictionary of all layers may say, but not that of one kind of layer.
    config["model_type"] = "gemma3_text";
    config["layer_types"] = {"full_attention", "sliding_attention"};
    config.erase("rope_scaling");
    config["rope_parameters"] = json::parse(R"({"full_attention":{"rope_type":"yarn","factor":4.0,
        "original_max_position_embeddings":2048,"truncate":false},"sliding_attention":{"rope_type":"default"}})");
    read = from_huggingface(config);
    CHECK(read.ignored == names{"rope_parameters.full_attention.truncate"});
    CHECK(one(read).truncate);
}

TEST_CASE("strictness: parameters by layer type need the types of the layers",
          "[models][strictness][errors]") {
    const auto config = config_with(
        R"({"rope_parameters":{"full_attention":{"rope_type":"default"},"sliding_attention":null}})");
    CHECK_REFUSES("from_huggingface: layer_types must be given, got nothing", from_huggingface(config));
    CHECK_REFUSES("from_huggingface: layer_types must be given, got nothing", leniently(config));
}

TEST_CASE("strictness: lenient reading lists a model whose layout it had to guess", "[models][strictness]") {
    const auto unknown = config_with(R"({"model_type":"newcomer"})");
    const auto read = leniently(unknown);
    CHECK(read.ignored == names{"model_type"});
    CHECK(read.read_layout == half_split{});
    // With a layout its other rules are still guessed; without a name there is nothing to list.
    CHECK(from_huggingface(unknown, {.keys = strictness::lenient, .layout = interleaved{}}).ignored ==
          names{"model_type"});
    auto nameless = unknown;
    nameless.erase("model_type");
    CHECK(leniently(nameless).ignored.empty());

    gguf_metadata file;
    file.values = {{"general.architecture", std::string("novel")},
                   {"novel.block_count", std::int64_t{2}},
                   {"novel.attention.head_count", std::int64_t{4}},
                   {"novel.embedding_length", std::int64_t{256}}};
    const auto guessed = from_gguf(file, strictness::lenient);
    CHECK(guessed.ignored == names{"general.architecture"});
    CHECK(guessed.read_layout == interleaved{});
}

TEST_CASE("strictness: lenient reading takes defaults for missing keys, never for wrong ones",
          "[models][strictness][errors]") {
    auto config = config_with("{}");
    config.erase("num_hidden_layers");
    CHECK_REFUSES("from_huggingface: num_hidden_layers must be given, got nothing", from_huggingface(config));
    CHECK(leniently(config).layers == 1);
    config["num_hidden_layers"] = "two";
    CHECK_REFUSES(R"(from_huggingface: num_hidden_layers must be a whole number in [1, 2^63), got "two")",
                  leniently(config));
    CHECK_REFUSES(R"(from_huggingface: rope_theta must be a finite number, got "high")",
                  leniently(config_with(R"({"rope_theta":"high"})")));
    CHECK_REFUSES("from_huggingface: rope_scaling must be an object or null, got 8",
                  leniently(config_with(R"({"rope_scaling":8})")));
    // Without a default there is no way to be lenient.
    config.erase("hidden_size");
    config["num_hidden_layers"] = 2;
    CHECK_REFUSES("from_huggingface: hidden_size must be given, got nothing", leniently(config));
    CHECK_REFUSES("from_huggingface: rope_scaling.factor must be given, got nothing",
                  leniently(config_with(R"({"rope_scaling":{"type":"linear"}})")));
}
