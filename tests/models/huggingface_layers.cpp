// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/huggingface_layers.hpp>

#include <string>
#include <vector>

#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;

namespace {

/// A config of 8 small layers with some keys more.
json config_of(const char* model_type, const char* keys) {
    json config = {{"model_type", model_type}, {"head_dim", 64},     {"num_hidden_layers", 8},
                   {"num_attention_heads", 4}, {"hidden_size", 256}, {"max_position_embeddings", 4096}};
    config.update(json::parse(keys));
    return config;
}
std::string map_of(const json& config, const huggingface_reading& how = {}) {
    const auto m = make_model_schemes(from_huggingface(config, how));
    std::string map;
    for (ropewalk::index l = 0; l < m.layers(); ++l)
        map += m[l].rotates ? static_cast<char>('a' + m.scheme_of(l)) : '-';
    return map;
}
std::string map_of(const char* model_type, const char* keys) { return map_of(config_of(model_type, keys)); }

}  // namespace

TEST_CASE("huggingface_layers: the lists that say which layers have attention", "[models][huggingface]") {
    const char* words =
        R"({"layer_types":["conv","full_attention","mamba","attention","recurrent","moe","mlp",
                            "full_attention"]})";
    CHECK(map_of("lfm2", words) == "-b-b---b");
    CHECK(map_of("llama", words) == "-b-b---b");  // words mean the same in every class
    CHECK(map_of("recurrent_gemma", R"({"block_types":["recurrent","attention"]})") == "-b-b-b-b");
    CHECK(map_of("minimax_m1", R"({"attn_type_list":[0,1,0,1,0,0,0,1]})") == "-b-b---b");
    CHECK(map_of("bamba", R"({"attn_layer_indices":[1,4]})") == "-b--b---");
    CHECK(map_of("zamba2", R"({"hybrid_layer_ids":[0,7]})") == "a------a");
    CHECK(map_of("lfm2", R"({"full_attn_idxs":[2]})") == "--b-----");
    CHECK(map_of("mimo_v2_flash", R"({"hybrid_layer_pattern":[0,1,1,1,1,0,1,0]})") == "abbbbaba");
    CHECK(map_of("nemotron_h", R"({"hybrid_override_pattern":"M-M*-MM*"})") == "--------");
    // The list counts the layers where nothing else does.
    auto counted = config_of("nemotron_h", R"({"layers_block_type":["mamba","moe","attention"]})");
    counted.erase("num_hidden_layers");
    CHECK(map_of(counted) == "---");
}

TEST_CASE("huggingface_layers: periods of the config and of the class", "[models][huggingface]") {
    CHECK(map_of("gemma3_text", "{}") == "aaaaabaa");
    CHECK(map_of("gemma3_text", R"({"sliding_window_pattern":3})") == "aabaabaa");
    CHECK(map_of("gemma4_text", R"({"head_dim":256})") == "aaaaabab");  // the last is full
    CHECK(map_of("modernbert", R"({"global_attn_every_n_layers":2})") == "abababab");
    CHECK(map_of("qwen3_next", R"({"full_attention_interval":2})") == "-b-b-b-b");
    CHECK(map_of("exaone4", R"({"sliding_window_pattern":"LLG"})") == "aa-aa-aa");
    CHECK(map_of("smollm3", R"({"no_rope_layer_interval":2})") == "a-a-a-a-");
}

TEST_CASE("huggingface_layers: NoPE by type, by list and by switch", "[models][huggingface]") {
    CHECK(map_of("cohere2", "{}") == "aaa-aaa-");
    CHECK(map_of("exaone4", "{}") == "aaa-aaa-");
    CHECK(map_of("exaone4", R"({"sliding_window":4096})") == "aaa-aaa-");
    CHECK(map_of("exaone4", R"({"sliding_window":null})") == "aaaaaaaa");  // no window, no exception
    CHECK(map_of("llama4_text", R"({"no_rope_layers":[1,0,1,1,0,1,1,0]})") == "a-aa-aa-");
    CHECK(map_of("mllama_text_model", "{}") == "aaa-aaaa");
    CHECK(map_of("mllama_text_model", R"({"cross_attention_layers":[2,5]})") == "aa-aa-aa");
    CHECK(map_of("granitemoehybrid", R"({"layer_types":["attention","attention","attention","attention",
        "attention","attention","attention","attention"]})") == "aaaaaaaa");
    CHECK(map_of("granitemoehybrid", R"({"position_embedding_type":"nope"})") == "--------");
    CHECK(map_of("esm", R"({"position_embedding_type":"absolute"})") == "--------");
    CHECK(map_of("esm", R"({"position_embedding_type":"rotary"})") == "aaaaaaaa");
    CHECK(map_of("falcon", R"({"alibi":true})") == "--------");
    CHECK(map_of("kimi_linear", R"({"mla_use_nope":true})") == "--------");
    CHECK(map_of("llama", R"({"use_rotary_pos_emb":false})") == "--------");
    CHECK(map_of("llama", R"({"use_rotary_pos_emb":true})") == "aaaaaaaa");
    CHECK(map_of("zamba2", R"({"hybrid_layer_ids":[0],"use_mem_rope":false})") == "--------");
}

TEST_CASE("huggingface_layers: a base, a share and a size a layer", "[models][huggingface]") {
    const auto muse = config_of("muse_glimmer_text", R"({"layer_rope_theta":[1e4,1e4,0,0,1e4,1e4,0,0],
        "rope_parameters":{"rope_theta":5e5,"rope_type":"default"}})");
    CHECK(map_of(muse) == "aa--aa--");
    CHECK(from_huggingface(muse).ropes[0].base == 5e5);  // the list only marks its NoPE layers
    const auto bare = config_of("granite_swa", R"({"layer_rope_theta":[1e4,1e4,0,0,1e4,1e4,0,0]})");
    CHECK(from_huggingface(bare).ropes[0].base == 1e4);
    const auto step = config_of("step3p5", R"({"rope_theta":[5e6,1e4,1e4,1e4,5e6,1e4,1e4,1e4],
        "partial_rotary_factors":[0.5,1,1,1,0.5,1,1,1],"yarn_only_types":["full_attention"],
        "rope_scaling":{"rope_type":"linear","factor":2.0},"layer_types":["full_attention","sliding_attention",
        "sliding_attention","sliding_attention","full_attention","sliding_attention","sliding_attention",
        "sliding_attention"],"use_rope_layers":[]})");
    CHECK(map_of(step) == "abbbabbb");
    const auto m = make_model_schemes(from_huggingface(step));
    CHECK(m[0].rotary_dim == 32);
    CHECK(m[1].rotary_dim == 64);
    CHECK(m[0].spectrum_for(1).omega(0) == Approx(0.5).epsilon(1e-14));
    CHECK(m[1].spectrum_for(1).omega(0) == 1);
    const auto gemma =
        config_of("gemma4_text", R"({"head_dim":256,"per_layer_config":{"5":{"head_dim":512}}})");
    const auto sized = make_model_schemes(from_huggingface(gemma));
    CHECK(sized[0].head_dim == 256);
    CHECK(sized[5].head_dim == 512);
    CHECK(sized[7].head_dim == 256);
}

TEST_CASE("huggingface_layers: of a class that is not known only what is understood is read",
          "[models][huggingface][errors]") {
    const huggingface_reading half{.layout = half_split{}};
    const auto newcomer = [](const char* keys) {
        auto config = config_of("newcomer", keys);
        config["rope_theta"] = 1e4;
        return config;
    };
    CHECK(map_of(newcomer("{}"), half) == "aaaaaaaa");
    CHECK(from_huggingface(newcomer("{}"), half).ignored == std::vector<std::string>{"model_type"});
    CHECK(map_of(newcomer(R"({"no_rope_layers":[1,1,1,0,1,1,1,0]})"), half) == "aaa-aaa-");
    CHECK(map_of(newcomer(R"({"position_embedding_type":"rope"})"), half) == "aaaaaaaa");
    CHECK(
        map_of(newcomer(
                   R"({"layer_types":["conv","full_attention","conv","conv","conv","conv","conv","conv"]})"),
               half) == "-b------");
    CHECK_REFUSES("from_huggingface: rope_theta must be given, got nothing",
                  from_huggingface(config_of("newcomer", "{}"), half));
    const std::pair<const char*, const char*> refused[] = {
        {R"({"position_embedding_type":"alibi"})", "position_embedding_type must be one of rope, rotary"},
        {R"({"layer_types":["sliding_attention","full_attention","full_attention","full_attention",
            "full_attention","full_attention","full_attention","full_attention"]})",
         "layer_types must be of one type of attention"},
        {R"({"attn_layer_period":8})", "attn_layer_period must be absent in a model_type that is not known"},
        {R"({"linear_attn_config":{}})", "linear_attn_config must be absent"},
        {R"({"qk_rope_head_dim":64})", "qk_rope_head_dim must be absent"},
        {R"({"sliding_window_pattern":4})", "sliding_window_pattern must be absent"},
        {R"({"layer_types":["a","a","a","a","a","a","a","a"]})", "layer_types must be of layer types"}};
    for (const auto& [keys, text] : refused) {
        INFO(keys);
        CHECK(support::refusal([&, given = keys] {
                  static_cast<void>(from_huggingface(newcomer(given), half));
              }).find(text) != std::string::npos);
        CHECK(
            from_huggingface(newcomer(keys), {.keys = strictness::lenient, .layout = half_split{}}).layers ==
            8);
    }
}

TEST_CASE("huggingface_layers: lists that do not fit the layers are refused by their key",
          "[models][huggingface][errors]") {
    const auto refusal = [](const char* type, const char* keys) {
        return support::refusal([&] { static_cast<void>(from_huggingface(config_of(type, keys))); });
    };
    CHECK(refusal("llama", R"({"layer_types":["full_attention"]})") ==
          "from_huggingface: layer_types must be as long as num_hidden_layers, got 1");
    CHECK(refusal("bamba", R"({"attn_layer_indices":[8]})") ==
          "from_huggingface: attn_layer_indices must be indices below num_hidden_layers, got 8");
    CHECK(refusal("smollm3", R"({"no_rope_layers":[1,0]})") ==
          "from_huggingface: no_rope_layers must be as long as num_hidden_layers, got 2");
    CHECK(refusal("granite_swa", R"({"layer_rope_theta":[1e4]})") ==
          "from_huggingface: layer_rope_theta must be as long as num_hidden_layers, got 1");
    CHECK(refusal("granite_swa", R"({"layer_rope_theta":[1,1,1,1,1,1,1,-1]})") ==
          "from_huggingface: layer_rope_theta must be bases > 0, or 0 for NoPE, got -1.0");
    CHECK(refusal("gemma3_text", R"({"sliding_window_pattern":""})") ==
          "from_huggingface: sliding_window_pattern must be a period >= 1, got \"\"");
    CHECK(refusal("gemma4_text", R"({"per_layer_config":{"8":{}}})") ==
          "from_huggingface: per_layer_config must be keyed by layer numbers, got \"8\"");
    CHECK(refusal("gemma4_text", R"({"per_layer_config":{"1":{"rope_theta":5}}})") ==
          "from_huggingface: per_layer_config.1.rope_theta must be a key that is read here (it would be "
          "ignored), "
          "got 5");
}
