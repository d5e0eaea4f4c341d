// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/explain.hpp>

#include <ropewalk/models/presets.hpp>

#include "support/catch.hpp"

using namespace ropewalk;

namespace {
bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
}  // namespace

TEST_CASE("explain: says where a magnitude is applied", "[models][explain]") {
    const auto qwen = explain(presets::qwen25_7b_yarn(weights::hugging_face));
    CHECK(says(qwen, "magnitude   1.138629436111989, inside the cos and sin tables"));
    CHECK(says(qwen, "logits      scaled by 1/sqrt(head_dim); no other factor was read or set"));
    CHECK(says(qwen, "channels    0..127 of 128 rotate"));
    CHECK(says(qwen, "context     131072 tokens, from the 32768 that it was trained at"));
    CHECK(says(qwen, "half_split: pair 0 is channels (0, 64)"));
    CHECK(says(explain(presets::gemma3_27b(weights::hugging_face)),
               "logits      multiplied by 0.87287156094396"));  // sqrt(128 / 168)
    const auto deepseek = explain(presets::deepseek_v3(weights::hugging_face));
    CHECK(says(deepseek, "magnitude   1 (tables hold plain cos and sin)"));
    CHECK(says(deepseek, "multiplied by 1.873854207"));
    CHECK(says(deepseek, "channels    128..191 of 192 rotate, the others are left as they are"));
    CHECK(says(deepseek, "interleaved in, half_split out"));
}

TEST_CASE("explain: resolved frequencies at the length asked for", "[models][explain]") {
    presets::longrope_factors f{std::vector<double>(48, 2.0), std::vector<double>(48, 8.0)};
    const auto phi = presets::phi3_mini_128k(weights::hugging_face, f);
    CHECK(says(explain(phi), "depend on the length; at 4096 tokens"));
    CHECK(says(explain(phi), "(0, 48)        0.5"));
    CHECK(says(explain(phi, {.context_length = 4097}), "(0, 48)        0.125"));
    const auto all = explain(presets::llama3_8b(weights::meta), {.lines = 64});
    for (int i = 0; i < 64; ++i) {
        std::string pair = "(";
        pair += std::to_string(2 * i) + ", " + std::to_string(2 * i + 1) + ")";
        CHECK(says(all, pair));
    }
}

TEST_CASE("explain: which rule of a config gave what, and what was passed over", "[models][explain]") {
    model_config c;
    c.model_type = "novel";
    c.layers = 4;
    c.head_dim = 16;
    c.because = {"class novel", "NoPE layers from no_rope_layers", "class novel"};
    c.ignored = {"rope_other"};
    c.indexer_dim = 32;
    c.indexer_layout = interleaved{};
    c.ropes.push_back({.backward = true});
    c.rope_of_layer = {0, -1, 0, 0};
    const auto said = explain(c);
    CHECK(
        said.starts_with("novel, 4 layers\n  because     class novel\n  because     NoPE layers from "
                         "no_rope_layers\n  ladder      base 10000, no scaling\n  ignored     rope_other\n"));
    CHECK(says(said, "layers 0, 2..3: novel"));
    CHECK(says(said, "layers 1: novel NoPE"));
    CHECK(says(said, "indexer     channels 0..15 of 32, interleaved"));
    CHECK(says(said, "8 pairs rotate the other way"));
}

TEST_CASE("explain: base, scaling and contexts of each kind of layer", "[models][explain]") {
    model_config c;
    c.head_dim = 64;
    c.layers = 3;
    c.ropes.push_back({.name = "sliding_attention"});
    c.ropes.push_back({.scaling = rope_scaling::yarn,
                       .base = 1e6,
                       .factor = 4,
                       .original_context = 4096,
                       .max_context = 16384,
                       .name = "full_attention"});
    c.ropes.push_back({.scaling = rope_scaling::dynamic_ntk, .factor = 2, .max_context = 512, .alpha = 1000});
    c.rope_of_layer = {0, 1, 2};
    const auto said = explain(c);
    CHECK(says(said, "  ladder      sliding_attention: base 10000, no scaling\n"));
    CHECK(says(said, "  ladder      full_attention: base 1e+06, yarn by 4\n"));
    CHECK(says(said, "  ladder      base 10000, dynamic by 2, alpha 1000\n"));
    CHECK(says(said, "  context     16384 tokens, from the 4096 that it was trained at\n"));
    CHECK(says(said, "  context     512 tokens\n"));
}

TEST_CASE("explain: a model's layers, NoPE layers, pairs of frequency 0, several axes", "[models][explain]") {
    const auto smol = explain(presets::smollm3_3b(weights::hugging_face));
    CHECK(says(smol, "layers 0..2, 4..6, 8..10"));
    CHECK(says(smol, "layers 3, 7, 11"));
    CHECK(says(smol, "nothing rotates"));
    CHECK(says(explain(presets::gemma4(weights::hugging_face)),
               "unrotated   192 of 256 pairs: their frequency is 0"));
    model_config c;
    c.head_dim = 16;
    c.ropes.push_back({.sections = {4, 2, 2}});
    CHECK(says(explain(make_model_schemes(c)),
               "3 positions a token: 4 pairs by axis 0, 2 pairs by axis 1, 2 pairs by axis 2\n"));
    CHECK(says(explain(make_model_schemes(c)), "axis 2"));
}
