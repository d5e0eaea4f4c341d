// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/huggingface_sizes.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <ropewalk/attention/dual_chunk.hpp>
#include <ropewalk/models/huggingface_json.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using names = std::vector<std::string>;

namespace {

json config_of(const char* model_type, const char* keys) {
    json config = {{"model_type", model_type}, {"num_hidden_layers", 2}};
    config.update(json::parse(keys));
    return config;
}
rotary_scheme first(const char* model_type, const char* keys) {
    return make_model_schemes(from_huggingface(config_of(model_type, keys)))[0];
}
std::string refusal(const char* model_type, const char* keys) {
    return support::refusal([&] { static_cast<void>(from_huggingface(config_of(model_type, keys))); });
}

}  // namespace

TEST_CASE("huggingface_sizes: sizes under their other names", "[models][huggingface]") {
    CHECK(first("jetmoe", R"({"kv_channels":96})").head_dim == 96);
    CHECK(first("zamba2", R"({"num_hidden_layers":8,"hybrid_layer_ids":[0],"attention_head_dim":160,
        "kv_channels":80})")
              .head_dim == 160);
    CHECK(
        first("zamba2", R"({"hybrid_layer_ids":[0],"hidden_size":2560,"num_attention_heads":32})").head_dim ==
        160);
    const auto dbrx = from_huggingface({{"model_type", "dbrx"},
                                        {"d_model", 6144},
                                        {"n_heads", 48},
                                        {"n_layers", 40},
                                        {"max_seq_len", 32768},
                                        {"attn_config", {{"rope_theta", 5e5}}}});
    CHECK(dbrx.layers == 40);
    CHECK(dbrx.head_dim == 128);
    CHECK(dbrx.ropes[0].base == 5e5);
    CHECK(dbrx.ropes[0].max_context == 32768);
    for (const char* keys : {R"({"d_model":6144,"n_heads":48,"n_layers":40,"rope_theta":5e4})",
                             R"({"d_model":6144,"n_heads":48,"n_layers":40,"rope_theta":5e4,
                                 "attn_config":null})",
                             R"({"d_model":6144,"n_heads":48,"n_layers":40,"rope_theta":5e4,
                                 "attn_config":{"rope_theta":5e5}})"})
        CHECK(from_huggingface(config_of("dbrx", keys)).ropes[0].base == 5e4);
    CHECK_REFUSES("from_huggingface: attn_config must be an object, got \"x\"",
                  from_huggingface(
                      config_of("dbrx", R"({"d_model":6144,"n_heads":48,"n_layers":40,"attn_config":"x"})")));
    CHECK(from_huggingface({{"model_type", "longcat_flash"}, {"num_layers", 28}}).layers == 28);
    const auto moonshine = from_huggingface({{"model_type", "moonshine"},
                                             {"hidden_size", 288},
                                             {"decoder_num_hidden_layers", 3},
                                             {"decoder_num_attention_heads", 8}});
    CHECK(moonshine.layers == 3);
    CHECK(make_model_schemes(moonshine)[0].rotary_dim == 32);  // 0.9 of 36
}

TEST_CASE("huggingface_sizes: an odd share has one pair more and exponents over the share",
          "[models][huggingface]") {
    const char* sizes = R"({"hidden_size":4096,"num_attention_heads":96})";  // heads of 42, half of it is 21
    const auto s = first("glm4_moe", sizes).spectrum_for(1);
    REQUIRE(s.pairs() == 11);
    for (ropewalk::index i = 0; i < 11; ++i)
        CHECK(s.omega(i) == Approx(std::pow(1e4, -2.0 * static_cast<double>(i) / 21)).epsilon(1e-13));
    // A rotary_dim that is given is what rotates, whatever the share.
    json config = config_of("glm4_moe", sizes);
    config["rotary_dim"] = 20;
    CHECK(make_model_schemes(from_huggingface(config))[0].rotary_dim == 20);
    CHECK(from_huggingface(config).ropes[0].exponent_channels == 0);
    config = config_of("glm4_moe", sizes);
    config["max_position_embeddings"] = 1000;
    config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 2.0}};
    const auto grown = make_model_schemes(from_huggingface(config))[0].spectrum_for(2000);
    const double base = 1e4 * std::pow(3.0, 21.0 / 19);  // alpha = 2 * 2000 / 1000 - 1
    CHECK(grown.omega(10) == Approx(std::pow(base, -20.0 / 21)).epsilon(1e-13));
    // YaRN's ramp is not defined for it.
    config["rope_scaling"] = {
        {"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 500}};
    CHECK_THROWS_AS(from_huggingface(config), invalid_config);
    CHECK(refusal("llama", sizes) ==
          "from_huggingface: hidden_size must be a multiple of num_attention_heads, got 4096");
}

TEST_CASE("huggingface_sizes: a share that the class ignores is refused, or leniently not followed",
          "[models][huggingface][errors]") {
    const char* half = R"({"head_dim":64,"partial_rotary_factor":0.5})";
    CHECK(refusal("granite", half) ==
          "from_huggingface: partial_rotary_factor must be 1 or absent: the official code of this class "
          "ignores it "
          "and other engines do not, got 0.5");
    const auto lenient = from_huggingface(config_of("granite", half), {.keys = strictness::lenient});
    CHECK(make_model_schemes(lenient)[0].rotary_dim == 64);
    CHECK(lenient.ignored == names{"partial_rotary_factor"});
    CHECK(first("glm4_moe", half).rotary_dim == 32);
    CHECK(first("granite", R"({"head_dim":64,"partial_rotary_factor":1.0})").rotary_dim == 64);
}

TEST_CASE(
    "huggingface_sizes: a key that says what is done anyway changes nothing, and another value means it",
    "[models][huggingface][inert]") {
    const char* inert[] = {R"({"use_mrope":false})",
                           R"({"rope_interleaved":false})",
                           R"({"use_rotary_pos_emb":true})",
                           R"({"rotary_pct":1.0})",
                           R"({"rope_percent":1})",
                           R"({"rotary_emb_interleaved":false})",
                           R"({"rotary_emb_scale_base":null})",
                           R"({"rotary_scaling_factor":null})",
                           R"({"rotary_emb_fraction":1.0})",
                           R"({"attn_rotary_emb":64})",
                           R"({"rope_scaling":null})",
                           R"({"position_embedding_type":"rope_gptj"})",
                           R"({"rotary_dim":64})",
                           R"({"rope_parameters":{"rope_type":"default","max_position_embeddings":9}})"};
    const auto plain = first("llama", R"({"head_dim":64})");
    for (const char* keys : inert) {
        INFO(keys);
        auto config = config_of("llama", R"({"head_dim":64})");
        config.update(json::parse(keys));
        const auto read = from_huggingface(config);
        const auto rope = make_model_schemes(read)[0];
        CHECK(read.ignored.empty());
        CHECK(rope.rotary_dim == 64);
        CHECK(rope.read_layout == plain.read_layout);
        CHECK(rope.spectrum_for(1).omegas() == plain.spectrum_for(1).omegas());
    }
    CHECK(first("llama", R"({"head_dim":64,"rope_interleaved":true})").read_layout == interleaved{});
    CHECK(first("llama", R"({"head_dim":64,"rotary_dim":32})").rotary_dim == 32);
    CHECK(first("nemotron", R"({"head_dim":128,"rope_percent":0.25})").rotary_dim == 32);
    CHECK(refusal("llama", R"({"head_dim":64,"use_mrope":true})") ==
          "from_huggingface: use_mrope must be false where there is no mrope_section, got true");
    CHECK(refusal("llama", R"({"head_dim":64,"attn_rotary_emb":32})") ==
          "from_huggingface: attn_rotary_emb must be head_dim, got 32");
    CHECK(refusal("llama", R"({"head_dim":64,"rotary_emb_scale_base":512})") ==
          "from_huggingface: rotary_emb_scale_base must be null (it is not read here), got 512");
}

TEST_CASE("huggingface_sizes: bases by layer type come from the dictionary, a key of the type or the class",
          "[models][huggingface]") {
    const auto bases = [](const char* type, const char* keys) {
        auto config = config_of(type, keys);
        config["layer_types"] = {"full_attention", "sliding_attention"};
        const auto read = from_huggingface(config);
        const auto of = [&](std::size_t l) {
            return read.ropes[static_cast<std::size_t>(read.rope_of_layer[l])].base;
        };
        return std::pair(of(0), of(1));
    };
    CHECK(bases("modernbert", R"({"head_dim":64})") == std::pair(160000.0, 1e4));
    CHECK(bases("modernbert", R"({"head_dim":64,"global_rope_theta":7,"local_rope_theta":5})") ==
          std::pair(7.0, 5.0));
    CHECK(bases("mimo_v2_flash", R"({"rope_theta":7,"swa_rope_theta":5})") == std::pair(7.0, 5.0));
    CHECK(bases("gemma3n_text", R"({"rope_theta":7,"rope_local_base_freq":5})") == std::pair(7.0, 5.0));
    CHECK(bases("laguna",
                R"({"rope_parameters":{"full_attention":{"rope_theta":7},"sliding_attention":{}}})") ==
          std::pair(7.0, 1e4));
    const auto v4 = from_huggingface(config_of("deepseek_v4", R"({"rope_theta":7,"compress_rope_theta":5,
        "compress_ratios":[0,4]})"));
    CHECK(v4.ropes[static_cast<std::size_t>(v4.rope_of_layer[0])].base == 7);
    CHECK(v4.ropes[static_cast<std::size_t>(v4.rope_of_layer[1])].base == 5);
}

TEST_CASE("huggingface_sizes: HRM's layers are those of a stack, however often it is passed through",
          "[models][huggingface]") {
    // As its class writes it: 16 layers, two high-level cycles of three low-level ones and one.
    auto config = config_of("hrm_text", R"({"num_hidden_layers":128,"num_layers_per_stack":16,"H_cycles":2,
                                            "L_cycles":3})");
    CHECK(from_huggingface(config).layers == 16);
    CHECK(from_huggingface(config_of("hrm_text", R"({"num_hidden_layers":16})")).layers == 16);
    CHECK(from_huggingface(config_of("llama", R"({"head_dim":64,"num_layers_per_stack":16})")).layers == 2);
}

TEST_CASE("huggingface_sizes: dual chunk attention becomes the numbers that its header takes",
          "[models][huggingface][dual_chunk]") {
    const char* published = R"({"head_dim":128,"max_position_embeddings":1010000,"rope_theta":1e7,
        "dual_chunk_attention_config":{"chunk_size":262144,"local_size":8192,
                                       "original_max_position_embeddings":262144}})";
    const auto config = from_huggingface(config_of("qwen2", published));
    REQUIRE(config.dual_chunk);
    const auto& d = *config.dual_chunk;
    CHECK(d == dual_chunk_parameters{.chunk_size = 262144, .local_size = 8192, .original_context = 262144});
    CHECK(config.ignored.empty());
    const dual_chunk chunks(
        {.chunk_size = d.chunk_size, .local_size = d.local_size, .original_context = d.original_context});
    CHECK(chunks.period() == 253952);
    CHECK(chunks.key_position(253953) == 1);
    CHECK(chunks.logit_factor(1000000) == Approx(1 + 0.1 * std::log(1e6 / 262144)));
    const auto rope = make_model_schemes(config)[1];
    CHECK(rope.spectrum_for(1).omega(1) == Approx(std::pow(1e7, -2.0 / 128)));
    REQUIRE(rope.notes.size() == 1);
    CHECK(rope.notes[0].starts_with("keys rotate at their position modulo 253952"));
    // Sparse prefill leaves out keys and rotates none; the length from which logits grow may be absent.
    const auto sparse = from_huggingface(config_of("qwen3_moe", R"({"hidden_size":256,"num_attention_heads":2,
        "dual_chunk_attention_config":{"chunk_size":8,"local_size":0,"sparse_attention_enabled":true,
                                       "sparse_attention_config":{}}})"));
    CHECK(*sparse.dual_chunk == dual_chunk_parameters{.chunk_size = 8, .sparse = true});
    CHECK_FALSE(from_huggingface(config_of("qwen2", R"({"head_dim":64,"dual_chunk_attention_config":null})"))
                    .dual_chunk);
    // What is kept of each head says it too.
    const auto kept = from_huggingface(config_of("qwen2", R"({"head_dim":64,"dual_chunk_attention_config":
        {"chunk_size":8,"local_size":0,"sparse_attention_last_q":64,"sparse_attention_threshold":4096,
         "sparse_attention_config":{"0":{}}}})"));
    CHECK(kept.dual_chunk->sparse);

    const std::string of = "from_huggingface: dual_chunk_attention_config";
    const auto refused = [](const char* inside) {
        return refusal(
            "qwen2",
            ("{\"head_dim\":64,\"dual_chunk_attention_config\":" + std::string(inside) + "}").c_str());
    };
    CHECK(refused("[]") == of + " must be an object, got []");
    CHECK(refused("{}") == of + ".chunk_size must be given, got nothing");
    CHECK(refused(R"({"chunk_size":8})") == of + ".local_size must be given, got nothing");
    CHECK(refused(R"({"chunk_size":8,"local_size":8})") ==
          of + ".local_size must be below chunk_size, got 8");
    CHECK(refused(R"({"chunk_size":0,"local_size":0})") ==
          of + ".chunk_size must be a whole number in [1, 2^63), got 0");
    CHECK(refused(R"({"chunk_size":8.5,"local_size":0})") ==
          of + ".chunk_size must be a whole number in [1, 2^63), got 8.5");
    CHECK(refused(R"({"chunk_size":9007199254740993,"local_size":0})") ==
          of + ".chunk_size must be a number of positions <= 2^40, got 9007199254740993");
    CHECK(refused(R"({"chunk_size":8,"local_size":-1})") ==
          of + ".local_size must be a whole number in [0, 2^63), got -1");
    CHECK(refused(R"({"chunk_size":8,"local_size":1,"original_max_position_embeddings":"9"})") ==
          of + ".original_max_position_embeddings must be a whole number in [0, 2^63), got \"9\"");
    CHECK(refused(R"({"chunk_size":8,"local_size":1,"sparse_attention_enabled":1})") ==
          of + ".sparse_attention_enabled must be true or false, got 1");
    CHECK(refused(R"({"chunk_size":8,"local_size":1,"chunks":2})") ==
          of + ".chunks must be a key that is read here (it would be ignored), got 2");
    auto scaled = config_of("qwen2", published);
    scaled["rope_scaling"] = {
        {"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 32768}};
    CHECK(support::refusal([&] { static_cast<void>(from_huggingface(scaled)); }) ==
          of + " must be absent beside a scaling, which its code ignores, got \"yarn\"");
    const auto lenient = from_huggingface(scaled, {.keys = strictness::lenient});
    CHECK(lenient.ignored == names{"rope_scaling.rope_type"});
    CHECK(make_model_schemes(lenient)[0].spectrum_for(1).magnitude() == 1);
}

TEST_CASE("huggingface_sizes: absurd sizes are refused by their key", "[models][huggingface][errors]") {
    CHECK(refusal("llama", R"({"head_dim":64,"num_hidden_layers":1000000000000000000})") ==
          "from_huggingface: num_hidden_layers must be a number of layers <= 65536, got 1000000000000000000");
    CHECK(refusal("llama", R"({"head_dim":1000000000000})") ==
          "from_huggingface: head_dim must be a number of channels <= 65536, got 1000000000000");
    CHECK(refusal("llama", R"({"hidden_size":1000000000000,"num_attention_heads":1})") ==
          "from_huggingface: hidden_size must be that of heads of <= 65536 channels, got 1000000000000");
    CHECK(
        refusal("deepseek_v3", R"({"qk_nope_head_dim":4611686018427387904})") ==
        "from_huggingface: qk_nope_head_dim must be a number of channels <= 65536, got 4611686018427387904");
    CHECK(refusal("gemma4_text", R"({"global_head_dim":4611686018427387904})") ==
          "from_huggingface: global_head_dim must be a number of channels <= 65536, got 4611686018427387904");
    CHECK(refusal("llama", R"({"head_dim":64,"num_hidden_layers":-1})") ==
          "from_huggingface: num_hidden_layers must be a whole number in [1, 2^63), got -1");
    json many = config_of("llama", R"({"head_dim":64,"num_hidden_layers":300})");
    for (int l = 0; l < 300; ++l) {
        const auto kind = "k" + std::to_string(l) + "_attention";
        many["layer_types"].push_back(kind);
        many["rope_parameters"][kind] = {{"rope_theta", 1000 + l}};
    }
    const auto text = support::refusal([&] { static_cast<void>(from_huggingface(many)); });
    CHECK(text.find("must be one of at most 256 different sets of rope parameters, got more") !=
          std::string::npos);
}

TEST_CASE("huggingface_sizes: the factor on q.k of classes with a key for it", "[models][huggingface]") {
    const auto scale = [](const char* model_type, const char* more) {
        auto config =
            config_of(model_type, R"({"hidden_size":4096,"num_attention_heads":32,"head_dim":128})");
        config.update(json::parse(more));
        return make_model_schemes(from_huggingface(config))[0].logit_scale;
    };
    // Gemma 3 27B: logits are q.k / sqrt(168), which is q.k / sqrt(128) times this.
    for (const char* gemma : {"gemma2", "gemma3_text", "vaultgemma", "t5gemma2_text"})
        CHECK(scale(gemma, R"({"query_pre_attn_scalar":168})") ==
              Approx(std::sqrt(128.0 / 168)).epsilon(1e-15));
    CHECK(scale("gemma3_text", "{}") == 1);
    CHECK(scale("gemma3_text", R"({"query_pre_attn_scalar":null})") == 1);
    CHECK(scale("gemma3_text", R"({"query_pre_attn_scalar":128})") == 1);  // to the last bit
    for (const char* granite : {"granite", "granitemoe", "granitemoehybrid", "hyperclovax"})
        CHECK(scale(granite, R"({"attention_multiplier":0.015625,"head_dim":64,
            "layer_types":["attention","attention"]})") == 0.125);
    // 1/sqrt(128) as files write it.
    CHECK(scale("hyperclovax", R"({"attention_multiplier":0.08838834764831845})") == 1);
    CHECK(scale("hyperclovax", R"({"attention_multiplier":0.08838835})") == 1);
    // Keys that the class does not look at.
    CHECK(scale("llama", R"({"query_pre_attn_scalar":168,"attention_multiplier":0.5})") == 1);
    CHECK(scale("gemma3_text", R"({"attention_multiplier":0.5})") == 1);
    for (const char* wrong : {"0", "-1"})
        CHECK(refusal("gemma2", (std::string(R"({"query_pre_attn_scalar":)") + wrong +
                                 R"(,"hidden_size":64,"num_attention_heads":1})")
                                    .c_str()) ==
              std::string("from_huggingface: query_pre_attn_scalar must be a number > 0, got ") + wrong +
                  ".0");
    CHECK(refusal("granite", R"({"attention_multiplier":"1","hidden_size":64,"num_attention_heads":1})") ==
          "from_huggingface: attention_multiplier must be a finite number, got \"1\"");
}
