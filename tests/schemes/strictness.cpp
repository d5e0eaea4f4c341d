// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/strictness.hpp>

#include <string>
#include <vector>

#include <ropewalk/schemes/gguf.hpp>
#include <ropewalk/schemes/huggingface_json.hpp>

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

TEST_CASE("strictness: strict reading refuses what lenient reading lists", "[schemes][strictness][errors]") {
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

TEST_CASE("strictness: readers are strict unless told otherwise", "[schemes][strictness]") {
    CHECK(strictness{} == strictness::strict);
    CHECK(huggingface_reading{}.keys == strictness::strict);
}

TEST_CASE("strictness: of two keys that disagree lenient reading lists the one it passes over",
          "[schemes][strictness][errors]") {
    struct disagreement {
        const char* keys;
        const char* passed_over;
        const char* refusal;
        double base, last_divisor;
    };
    for (const disagreement& d :
         {disagreement{
              R"({"rope_parameters":{"rope_type":"linear","factor":2.0},"rope_scaling":{"type":"ntk"}})",
              "rope_scaling",
              R"(from_huggingface: rope_scaling must be null beside rope_parameters, got {"type":"ntk"})",
              1e4, 2},
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

TEST_CASE("strictness: lenient reading lists a model whose layout it had to guess", "[schemes][strictness]") {
    const auto unknown = config_with(R"({"model_type":"newcomer"})");
    const auto read = leniently(unknown);
    CHECK(read.ignored == names{"model_type"});
    CHECK(read.read_layout == half_split{});
    // With a layout nothing is guessed, and without a name there is nothing to list.
    CHECK(from_huggingface(unknown, {.keys = strictness::lenient, .layout = interleaved{}}).ignored.empty());
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
          "[schemes][strictness][errors]") {
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
