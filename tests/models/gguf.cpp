// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/gguf.hpp>

#include <ropewalk/models/presets.hpp>

#include <algorithm>
#include <cmath>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

gguf_metadata file(const std::string& arch, std::map<std::string, gguf_value> more) {
    gguf_metadata f;
    f.values["general.architecture"] = arch;
    for (auto& [key, value] : more) f.values[arch + "." + key] = value;
    return f;
}
using i64 = std::int64_t;

/// A preset for GGUF weights and what the reader makes of the file must turn alike.
void check_same(const rotary_scheme& read, const rotary_scheme& preset) {
    CHECK(read.head_dim == preset.head_dim);
    CHECK(read.first_channel == preset.first_channel);
    CHECK(read.rotary_dim == preset.rotary_dim);
    CHECK(read.read_layout == preset.read_layout);
    CHECK(read.write_layout == preset.write_layout);
    CHECK(read.rotates == preset.rotates);
    CHECK(read.logit_scale == Approx(preset.logit_scale).epsilon(1e-7));
    if (!read.rotates) return;
    const auto a = read.spectrum_for(1), b = preset.spectrum_for(1);
    REQUIRE(a.pairs() == b.pairs());
    CHECK(a.magnitude() == Approx(b.magnitude()).epsilon(1e-7));
    for (ropewalk::index i = 0; i < a.pairs(); ++i) CHECK(a.omega(i) == Approx(b.omega(i)).epsilon(1e-6));
}

}  // namespace

TEST_CASE("gguf: Llama 3.1 with its rope_freqs tensor", "[models][gguf]") {
    auto f = file("llama", {{"block_count", i64{32}},
                            {"embedding_length", i64{4096}},
                            {"attention.head_count", i64{32}},
                            {"attention.head_count_kv", i64{8}},
                            {"context_length", i64{131072}},
                            {"rope.dimension_count", i64{128}},
                            {"rope.freq_base", 500000.0}});
    const auto preset = presets::llama31_8b(weights::gguf);
    for (double v : frequencies::pair_factors(frequencies::geometric({.rotary_dim = 128, .base = 5e5}),
                                              preset.spectrum_for(1)))
        f.rope_freqs.push_back(static_cast<float>(v));
    const auto config = from_gguf(f);
    CHECK(config.key_heads == 8);
    check_same(make_model_schemes(config)[0], preset);
}

TEST_CASE("gguf: DeepSeek-V3, whose log multiplier is a tenth of mscale_all_dim", "[models][gguf]") {
    const auto config = from_gguf(file("deepseek2", {{"block_count", i64{61}},
                                                     {"attention.head_count", i64{128}},
                                                     {"attention.key_length", i64{192}},
                                                     {"context_length", i64{163840}},
                                                     {"rope.dimension_count", i64{64}},
                                                     {"rope.freq_base", 10000.0},
                                                     {"rope.scaling.type", std::string("yarn")},
                                                     {"rope.scaling.factor", 40.0},
                                                     {"rope.scaling.original_context_length", i64{4096}},
                                                     {"rope.scaling.yarn_log_multiplier", 0.1}}));
    check_same(make_model_schemes(config)[0], presets::deepseek_v3(weights::gguf));
}

TEST_CASE("gguf: YaRN, linear and its older key, Hunyuan's alpha, Mistral's multiplier", "[models][gguf]") {
    const auto read = [](const std::string& arch, std::map<std::string, gguf_value> more) {
        more["block_count"] = i64{2};
        more["attention.head_count"] = i64{32};
        more["embedding_length"] = i64{4096};
        more["context_length"] = i64{131072};
        return make_model_schemes(from_gguf(file(arch, std::move(more))))[0];
    };
    const auto qwen = read("qwen2", {{"rope.freq_base", 1e6},
                                     {"rope.scaling.type", std::string("yarn")},
                                     {"rope.scaling.factor", 4.0},
                                     {"rope.scaling.original_context_length", i64{32768}}});
    CHECK(qwen.read_layout == pair_layout(half_split{}));
    CHECK(qwen.spectrum_for(1).magnitude() == Approx(1.138629436111989).epsilon(1e-15));
    CHECK(read("llama", {{"rope.scale_linear", 8.0}}).spectrum_for(1).omega(0) == 0.125);
    CHECK(read("llama", {{"rope.scaling.factor", 0.0}}).spectrum_for(1).omega(0) == 1.0);
    CHECK(read("llama", {{"rope.scaling.type", std::string("none")}, {"rope.scaling.factor", 4.0}})
              .spectrum_for(1)
              .omega(0) == 1.0);
    const auto hunyuan = read("hunyuan-dense", {{"rope.scaling.alpha", 1000.0}}).spectrum_for(1);
    CHECK(hunyuan.omega(63) == Approx(std::pow(1e4, -63.0 / 64) / 1000).epsilon(1e-12));
    const auto mistral = read("mistral3", {{"rope.scaling.type", std::string("yarn")},
                                           {"rope.scaling.factor", 16.0},
                                           {"rope.scaling.original_context_length", i64{16384}},
                                           {"rope.scaling.yarn_log_multiplier", 1.0}});
    CHECK(mistral.spectrum_for(1).magnitude() == 1.0);
    CHECK(mistral.logit_scale == 1.0);
}

TEST_CASE("gguf: strict reading refuses a ramp of YaRN that runs the wrong way", "[models][gguf][errors]") {
    const auto f = file("qwen2", {{"block_count", i64{1}},
                                  {"attention.head_count", i64{32}},
                                  {"embedding_length", i64{4096}},
                                  {"rope.scaling.type", std::string("yarn")},
                                  {"rope.scaling.factor", 4.0},
                                  {"rope.scaling.original_context_length", i64{4}}});
    CHECK_REFUSES("yarn: original_context must let the ramp run upwards: low must be <= high, got 0",
                  make_model_schemes(from_gguf(f))[0].spectrum_for(1));
    CHECK(make_model_schemes(from_gguf(f, strictness::lenient))[0].spectrum_for(1).pairs() == 64);
}

TEST_CASE("gguf: what multiplies the magnitude, and what YaRN's temperature overwrites", "[models][gguf]") {
    const auto read = [](std::map<std::string, gguf_value> more) {
        more["block_count"] = i64{2};
        more["attention.head_count"] = i64{32};
        more["embedding_length"] = i64{4096};
        more["context_length"] = i64{131072};
        more["rope.scaling.original_context_length"] = i64{4096};
        return make_model_schemes(from_gguf(file("llama", std::move(more))))[0].spectrum_for(1);
    };
    const std::string yarn = "yarn", linear = "linear", none = "none";
    const double temperature = 1.138629436111989;  // 1 + 0.1 ln 4
    const char* all = "rope.scaling.attn_factor";
    const char* unblended = "rope.scaling.yarn_attn_factor";
    const char* blend = "rope.scaling.yarn_ext_factor";
    const char* type = "rope.scaling.type";
    const char* factor = "rope.scaling.factor";
    // rope.scaling.attn_factor multiplies whatever the type.
    CHECK(read({{all, 1.5}}).magnitude() == 1.5);
    CHECK(read({{all, 1.5}, {type, none}, {factor, 4.0}}).magnitude() == 1.5);
    CHECK(read({{all, 1.5}, {type, linear}, {factor, 4.0}}).magnitude() == 1.5);
    CHECK(read({{all, 1.5}, {type, yarn}, {factor, 4.0}}).magnitude() ==
          Approx(1.5 * temperature).epsilon(1e-15));
    // With a blend the temperature overwrites yarn_attn_factor, without one it stays and there is none.
    CHECK(read({{unblended, 1.5}, {type, yarn}, {factor, 4.0}}).magnitude() ==
          Approx(temperature).epsilon(1e-15));
    CHECK(read({{unblended, 1.5}, {type, linear}, {factor, 4.0}}).magnitude() == 1.5);
    CHECK(read({{unblended, 1.5}, {all, 2.0}}).magnitude() == 3);
    const auto flat = read({{blend, 0.0}, {unblended, 1.5}, {type, yarn}, {factor, 4.0}});
    CHECK(flat.magnitude() == 1.5);
    for (ropewalk::index i = 0; i < 64; ++i)
        CHECK(flat.omega(i) == Approx(std::pow(1e4, -i / 64.0) / 4).epsilon(1e-14));
    CHECK(read({{blend, 0.0}, {type, yarn}, {factor, 4.0}}).magnitude() == 1);
    // Half a blend has the whole temperature; a negative one is none given; one given counts for any type.
    const auto half = read({{blend, 0.5}, {type, yarn}, {factor, 4.0}});
    CHECK(half.magnitude() == Approx(temperature).epsilon(1e-15));
    CHECK(half.omega(0) == Approx(0.5 / 4 + 0.5).epsilon(1e-15));
    CHECK(read({{blend, -1.0}, {type, yarn}, {factor, 4.0}}).omega(0) == Approx(1).epsilon(1e-15));
    CHECK(read({{blend, -1.0}, {type, linear}, {factor, 4.0}}).omega(0) == 0.25);
    const auto blended = read({{blend, 1.0}, {type, linear}, {factor, 4.0}});
    CHECK(blended.omega(0) == Approx(1).epsilon(1e-15));
    CHECK(blended.magnitude() == Approx(temperature).epsilon(1e-15));
    // The type none never scales, and a factor of 1 has nothing to blend.
    CHECK(read({{blend, 1.0}, {type, none}, {factor, 4.0}}).magnitude() == 1);
    CHECK(read({{type, yarn}}).magnitude() == 1);
}

TEST_CASE("gguf: alpha moves the base that another scaling then finds", "[models][gguf]") {
    const auto s =
        make_model_schemes(from_gguf(file("hunyuan-dense", {{"block_count", i64{2}},
                                                            {"attention.key_length", i64{128}},
                                                            {"rope.scaling.alpha", 1000.0},
                                                            {"rope.scaling.type", std::string("linear")},
                                                            {"rope.scaling.factor", 4.0}})))[0]
            .spectrum_for(1);
    CHECK(s.omega(0) == Approx(0.25).epsilon(1e-15));
    CHECK(s.omega(63) == Approx(std::pow(1e4, -63.0 / 64) / 4000).epsilon(1e-12));
}

TEST_CASE("gguf: the tensors decide between rope_freqs, long and short factors and none", "[models][gguf]") {
    // The keys of Phi-3, Phi-3.5 and Phi-4 mini as published: no rope.scaling.type.
    auto f = file("phi3", {{"block_count", i64{32}},
                           {"embedding_length", i64{3072}},
                           {"attention.head_count", i64{32}},
                           {"context_length", i64{131072}},
                           {"rope.dimension_count", i64{96}},
                           {"rope.freq_base", 10000.0},
                           {"rope.scaling.original_context_length", i64{4096}},
                           {"rope.scaling.attn_factor", 1.1902380714238083}});
    const auto typed = [&](const std::string& type) {
        auto g = f;
        g.values["phi3.rope.scaling.type"] = type;
        return g;
    };
    CHECK(make_model_schemes(from_gguf(f))[0].spectrum_for(5000).omega(0) == 1);
    CHECK_REFUSES(
        "from_gguf: rope_factors_long.weight and rope_factors_short.weight must be given with longrope, got "
        "nothing",
        from_gguf(typed("longrope")));
    f.rope_factors_short.assign(48, 1.25f);
    CHECK_REFUSES(
        "from_gguf: rope_factors_long.weight and rope_factors_short.weight must be given together, got the "
        "short one",
        from_gguf(f));
    f.rope_factors_long.assign(47, 8.0f);
    CHECK_REFUSES(
        "from_gguf: rope_factors_long.weight must hold one number > 0 a pair, got 47 numbers for 48 pairs",
        from_gguf(f));
    f.rope_factors_long.assign(48, 8.0f);
    for (const auto& g : {f, typed("longrope"), typed("none"), typed("linear"), typed("yarn")}) {
        const auto rope = make_model_schemes(from_gguf(g))[0];
        CHECK(rope.length_dependent);
        CHECK(rope.spectrum_for(1).magnitude() == 1.1902380714238083);
        CHECK(rope.spectrum_for(5000).magnitude() == 1.1902380714238083);
        CHECK(rope.spectrum_for(4096).omega(0) == Approx(0.8).epsilon(1e-15));
        CHECK(rope.spectrum_for(4097).omega(0) == 0.125);
    }
    // A factor scales the divided angle, by whatever the type does with it.
    auto scaled = typed("linear");
    scaled.values["phi3.rope.scaling.factor"] = 2.0;
    CHECK(make_model_schemes(from_gguf(scaled))[0].spectrum_for(4097).omega(0) ==
          Approx(0.0625).epsilon(1e-15));
    scaled = typed("yarn");
    scaled.values["phi3.rope.scaling.factor"] = 2.0;
    const auto mixed = make_model_schemes(from_gguf(scaled))[0].spectrum_for(4097);
    const auto yarn = frequencies::yarn({.rotary_dim = 96, .factor = 2, .original_context = 4096});
    CHECK(mixed.magnitude() == Approx(yarn.magnitude() * 1.1902380714238083).epsilon(1e-15));
    for (ropewalk::index i = 0; i < 48; ++i)
        CHECK(mixed.omega(i) == Approx(yarn.omega(i) / 8).epsilon(1e-14));
    // rope_freqs wins, alone.
    for (auto g : {f, typed("longrope"), typed("yarn")}) {
        g.rope_freqs.assign(48, 4.0f);
        const auto rope = make_model_schemes(from_gguf(g))[0];
        CHECK(!rope.length_dependent);
        CHECK(rope.spectrum_for(1).omega(0) == 0.25);
        CHECK(rope.spectrum_for(5000).omega(0) == 0.25);
        CHECK(rope.spectrum_for(1).magnitude() == 1.1902380714238083);
    }
    f.rope_freqs.assign(2, 4.0f);
    CHECK_REFUSES("from_gguf: rope_freqs.weight must hold one number > 0 a pair, got 2 numbers for 48 pairs",
                  from_gguf(f));
}

TEST_CASE("gguf: layers that slide, layers without position", "[models][gguf]") {
    const auto gemma =
        make_model_schemes(from_gguf(file("gemma3", {{"block_count", i64{34}},
                                                     {"attention.head_count", i64{8}},
                                                     {"attention.key_length", i64{256}},
                                                     {"context_length", i64{131072}},
                                                     {"rope.freq_base", 1e6},
                                                     {"rope.scaling.type", std::string("linear")},
                                                     {"rope.scaling.factor", 8.0}})));
    const auto preset = presets::gemma3_4b(weights::gguf);
    for (ropewalk::index l = 0; l < 34; ++l) check_same(gemma[l], preset[l]);
    const auto cohere = make_model_schemes(from_gguf(file("cohere2", {{"block_count", i64{32}},
                                                                      {"attention.head_count", i64{32}},
                                                                      {"embedding_length", i64{4096}},
                                                                      {"rope.freq_base", 50000.0}})));
    const auto r7b = presets::command_r7b(weights::gguf);
    for (ropewalk::index l = 0; l < 32; ++l) check_same(cohere[l], r7b[l]);
    const auto smol = make_model_schemes(from_gguf(file("smollm3", {{"block_count", i64{36}},
                                                                    {"attention.head_count", i64{16}},
                                                                    {"embedding_length", i64{2048}},
                                                                    {"rope.freq_base", 5e6}})));
    for (ropewalk::index l = 0; l < 36; ++l) check_same(smol[l], presets::smollm3_3b(weights::gguf)[l]);
}

TEST_CASE("gguf: every architecture has the pairs that its weights were stored for", "[models][gguf]") {
    const std::map<std::string, gguf_value> keys{{"block_count", i64{1}}, {"attention.key_length", i64{64}}};
    for (const char* name :
         {"llama", "llama4", "deepseek2", "command-r", "cohere2", "chatglm", "glm4", "gptj", "olmo",
          "baichuan", "internlm2", "minicpm", "granite", "mistral3", "smollm3", "ernie4_5"})
        CHECK(from_gguf(file(name, keys)).read_layout == pair_layout(interleaved{}));
    for (const char* name :
         {"qwen",   "qwen2",    "qwen2moe", "qwen3",         "qwen3moe",        "qwen3next",  "gemma",
          "gemma2", "gemma3",   "gemma3n",  "gemma4",        "gemma-embedding", "phi2",       "phi3",
          "phimoe", "falcon",   "gptneox",  "stablelm",      "olmo2",           "starcoder2", "gpt-oss",
          "exaone", "nemotron", "apertus",  "hunyuan-dense", "hunyuan-moe"})
        CHECK(from_gguf(file(name, keys)).read_layout == pair_layout(half_split{}));
}

TEST_CASE("gguf: OLMo 3 scales its full-attention layers alone", "[models][gguf]") {
    const std::map<std::string, gguf_value> keys{{"block_count", i64{32}},
                                                 {"attention.head_count", i64{32}},
                                                 {"embedding_length", i64{4096}},
                                                 {"context_length", i64{65536}},
                                                 {"attention.sliding_window", i64{4096}},
                                                 {"rope.freq_base", 5e5},
                                                 {"rope.scaling.type", std::string("yarn")},
                                                 {"rope.scaling.factor", 8.0},
                                                 {"rope.scaling.original_context_length", i64{8192}}};
    const auto preset = presets::olmo3_7b(weights::gguf);
    const auto olmo3 = make_model_schemes(from_gguf(file("olmo2", keys)));
    for (ropewalk::index l = 0; l < 32; ++l) check_same(olmo3[l], preset[l]);
    // rope.scaling.attn_factor is a part of the scaling.
    auto warm = keys;
    warm["rope.scaling.attn_factor"] = 1.5;
    const auto warmed = make_model_schemes(from_gguf(file("olmo2", warm)));
    CHECK(warmed[0].spectrum_for(1).magnitude() == 1);
    CHECK(warmed[3].spectrum_for(1).magnitude() == Approx(1.5 * 1.2079441541679836).epsilon(1e-15));
    // Layers listed one by one; the file's own base of the sliding ones.
    auto listed = keys;
    listed["attention.sliding_window_pattern"] = std::vector<i64>{1, 0, 1};
    listed["block_count"] = i64{3};
    listed["rope.freq_base_swa"] = 1e4;
    const auto three = make_model_schemes(from_gguf(file("olmo2", listed)));
    CHECK(three[0].spectrum_for(1).magnitude() == 1);
    CHECK(three[1].spectrum_for(1).magnitude() == Approx(1.2079441541679836).epsilon(1e-15));
    CHECK(three[2].spectrum_for(1).omega(63) == Approx(std::pow(1e4, -63.0 / 64)).epsilon(1e-12));
    listed["block_count"] = i64{4};
    CHECK_REFUSES(
        "from_gguf: olmo2.attention.sliding_window_pattern must be an array with one number a layer, got [1, "
        "0, 1]",
        from_gguf(file("olmo2", listed)));
    // OLMo 2 has no window: every layer is alike.
    auto olmo2 = keys;
    olmo2.erase("attention.sliding_window");
    CHECK(make_model_schemes(from_gguf(file("olmo2", olmo2))).distinct().size() == 1);
}

TEST_CASE("gguf: EmbeddingGemma, Gemma 3n, Gemma 4, Qwen3-Next, Phi MoE", "[models][gguf]") {
    const auto n = make_model_schemes(from_gguf(file(
        "gemma3n", {{"block_count", i64{30}}, {"attention.key_length", i64{256}}, {"rope.freq_base", 1e6}})));
    for (ropewalk::index l = 0; l < 30; ++l) {
        CHECK(n[l].read_layout == pair_layout(half_split{}));
        const double base = l % 5 == 4 ? 1e6 : 1e4;
        CHECK(n[l].spectrum_for(1).omega(127) == Approx(std::pow(base, -127.0 / 128)).epsilon(1e-12));
    }
    // Gemma 4's p-RoPE is written as divisors of 1e30 over the pairs at rest; it is of the global layers.
    std::vector<i64> slides(30, 1);
    for (std::size_t l = 5; l < 30; l += 6) slides[l] = 0;
    auto f = file("gemma4", {{"block_count", i64{30}},
                             {"attention.key_length", i64{512}},
                             {"attention.key_length_swa", i64{256}},
                             {"attention.sliding_window_pattern", slides},
                             {"rope.dimension_count", i64{512}},
                             {"rope.dimension_count_swa", i64{256}},
                             {"rope.freq_base", 1e6},
                             {"rope.freq_base_swa", 1e4}});
    f.rope_freqs.assign(256, 1e30f);
    std::fill_n(f.rope_freqs.begin(), 64, 1.0f);
    const auto four = make_model_schemes(from_gguf(f));
    const auto preset = presets::gemma4(weights::gguf);
    for (ropewalk::index l = 0; l < 30; ++l) {
        CHECK(four[l].head_dim == preset[l].head_dim);
        CHECK(four[l].rotary_dim == preset[l].rotary_dim);
        CHECK(four[l].read_layout == preset[l].read_layout);
        const auto a = four[l].spectrum_for(1), b = preset[l].spectrum_for(1);
        REQUIRE(a.pairs() == b.pairs());
        for (ropewalk::index i = 0; i < a.pairs(); ++i)
            CHECK(a.omega(i) == Approx(b.omega(i)).epsilon(1e-12).margin(1e-29));
    }
    const std::map<std::string, gguf_value> next{{"block_count", i64{48}},
                                                 {"attention.key_length", i64{256}},
                                                 {"rope.dimension_count", i64{64}},
                                                 {"rope.freq_base", 1e7}};
    const auto read = make_model_schemes(from_gguf(file("qwen3next", next)));
    const auto qwen = presets::qwen3_next_80b(weights::gguf);
    for (ropewalk::index l = 0; l < 48; ++l) check_same(read[l], qwen[l]);
    auto own = next;
    own["full_attention_interval"] = i64{3};
    CHECK(make_model_schemes(from_gguf(file("qwen3next", own)))[2].rotates);
    CHECK(!make_model_schemes(from_gguf(file("qwen3next", own)))[3].rotates);
    own["attention.recurrent_layers"] = std::vector<i64>(48, 0);
    CHECK(make_model_schemes(from_gguf(file("qwen3next", own))).distinct().size() == 1);
    auto moe = file("phimoe", {{"block_count", i64{32}},
                               {"attention.head_count", i64{32}},
                               {"embedding_length", i64{4096}},
                               {"context_length", i64{131072}},
                               {"rope.scaling.original_context_length", i64{4096}}});
    moe.rope_factors_short.assign(64, 1.0f);
    moe.rope_factors_long.assign(64, 4.0f);
    const auto phi = make_model_schemes(from_gguf(moe))[0];
    CHECK(phi.read_layout == pair_layout(half_split{}));
    CHECK(phi.spectrum_for(4097).omega(0) == 0.25);
}

TEST_CASE("gguf: keys out of range are refused by name and value", "[models][gguf][errors]") {
    const auto read = [](const std::string& arch, const std::string& key, gguf_value value) {
        std::map<std::string, gguf_value> keys{{"block_count", i64{6}},
                                               {"attention.head_count", i64{32}},
                                               {"embedding_length", i64{4096}},
                                               {"context_length", i64{131072}}};
        keys[key] = std::move(value);
        return from_gguf(file(arch, keys), strictness::lenient);
    };
    const i64 huge = i64{1} << 61;
    const std::string huge_text = "2305843009213693952";
    for (const char* key : {"attention.key_length", "attention.key_length_mla"}) {
        const std::string must =
            std::string("from_gguf: llama.") + key + " must be a whole number in [1, 65536], got ";
        CHECK_REFUSES(must + huge_text, read("llama", key, huge));
        CHECK_REFUSES(must + "0", read("llama", key, i64{0}));
        CHECK_REFUSES(must + "-2", read("llama", key, i64{-2}));
    }
    CHECK_REFUSES("from_gguf: llama.block_count must be a whole number in [1, 65536], got 0",
                  read("llama", "block_count", i64{0}));
    CHECK_REFUSES("from_gguf: llama.rope.dimension_count must be a whole number in [1, 128], got 130",
                  read("llama", "rope.dimension_count", i64{130}));
    CHECK_REFUSES("from_gguf: llama.rope.dimension_count must be a whole number in [1, 128], got 0",
                  read("llama", "rope.dimension_count", i64{0}));
    CHECK_REFUSES("from_gguf: llama.rope.dimension_count must be even, got 63",
                  read("llama", "rope.dimension_count", i64{63}));
    CHECK_REFUSES(
        "from_gguf: llama.embedding_length must be the width of 32 heads of up to 65536 channels, got 4100",
        read("llama", "embedding_length", i64{4100}));
    CHECK_REFUSES(
        "from_gguf: llama.embedding_length must be the width of 32 heads of up to 65536 channels, got " +
            huge_text,
        read("llama", "embedding_length", huge));
    CHECK_REFUSES("from_gguf: attention.head_count must be >= 1, got 0",
                  read("llama", "attention.head_count", i64{0}));
    CHECK_REFUSES(
        "from_gguf: llama.attention.head_count must be a whole number >= 0 or an array with one a layer, got "
        "[-4, 2]",
        read("llama", "attention.head_count", std::vector<i64>{-4, 2}));
    for (const char* key : {"rope.freq_base", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
                            "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"})
        CHECK_REFUSES(std::string("from_gguf: llama.") + key + " must be a number > 0, got -0.5",
                      read("llama", key, -0.5));
    for (const char* key : {"rope.scaling.factor", "rope.scale_linear", "rope.scaling.alpha",
                            "rope.scaling.original_context_length"})
        CHECK_REFUSES(std::string("from_gguf: llama.") + key + " must be a number >= 0, got -0.5",
                      read("llama", key, -0.5));
    CHECK_REFUSES("from_gguf: gemma3.attention.sliding_window_pattern must be a whole number >= 1, got 0",
                  read("gemma3", "attention.sliding_window_pattern", i64{0}));
    CHECK_REFUSES("from_gguf: gemma3.rope.freq_base_swa must be a number > 0, got 0",
                  read("gemma3", "rope.freq_base_swa", 0.0));
    CHECK_REFUSES(
        "from_gguf: llama.rope.freq_base must be a finite number, got " + std::string(77, 'x') + "...",
        read("llama", "rope.freq_base", std::string(1000, 'x')));
}

TEST_CASE("gguf: a base of sliding layers is read where layers slide", "[models][gguf]") {
    std::map<std::string, gguf_value> keys{
        {"block_count", i64{6}}, {"attention.key_length", i64{64}}, {"rope.freq_base_swa", 123.0}};
    for (const char* arch : {"llama", "olmo2"}) {
        const std::string key = std::string(arch) + ".rope.freq_base_swa";
        CHECK_REFUSES("from_gguf: " + key + " must be a key that is read here, got one that would be ignored",
                      from_gguf(file(arch, keys)));
        const auto config = from_gguf(file(arch, keys), strictness::lenient);
        CHECK(config.ignored == std::vector<std::string>{key});
        CHECK(config.ropes.size() == 1);
    }
    keys["rope.scaling.factor"] = 2.0;
    const auto slow = [&](const char* arch, ropewalk::index layer, strictness reading) {
        return make_model_schemes(from_gguf(file(arch, keys), reading))[layer].spectrum_for(1).omega(31);
    };
    const double local = std::pow(123.0, -31.0 / 32), global = std::pow(1e4, -31.0 / 32) / 2;
    CHECK(slow("gemma3", 0, strictness::strict) == Approx(local).epsilon(1e-12));
    CHECK(slow("gemma3", 5, strictness::strict) == Approx(global).epsilon(1e-12));
    // Sliding layers that are scaled like the others, with their own base.
    CHECK(slow("gpt-oss", 0, strictness::strict) == Approx(local / 2).epsilon(1e-12));
    CHECK(slow("gpt-oss", 1, strictness::strict) == Approx(global).epsilon(1e-12));
    // An architecture that is not known says by its pattern that layers slide.
    keys["attention.sliding_window_pattern"] = i64{3};
    CHECK(slow("novel", 1, strictness::lenient) == Approx(local / 2).epsilon(1e-12));
    CHECK(slow("novel", 2, strictness::lenient) == Approx(global).epsilon(1e-12));
}

TEST_CASE("gguf: refuses what is missing, wrong or would be ignored", "[models][gguf][errors]") {
    CHECK_REFUSES("from_gguf: general.architecture must be a string, got nothing", from_gguf({}));
    CHECK_REFUSES(
        "from_gguf: general.architecture must be one whose pair layout is known here (or pass a layout), got "
        "novel",
        from_gguf(file("novel", {})));
    CHECK_REFUSES("from_gguf: llama.block_count must be given, got nothing", from_gguf(file("llama", {})));
    std::map<std::string, gguf_value> good{
        {"block_count", i64{2}}, {"attention.head_count", i64{4}}, {"embedding_length", i64{256}}};
    auto bad = good;
    bad["rope.freq_base"] = std::string("high");
    CHECK_REFUSES("from_gguf: llama.rope.freq_base must be a finite number, got high",
                  from_gguf(file("llama", bad)));
    bad = good;
    bad["rope.scaling.type"] = std::string("wavelet");
    CHECK_REFUSES("from_gguf: llama.rope.scaling.type must be none, linear, yarn or longrope, got wavelet",
                  from_gguf(file("llama", bad)));
    // Frequencies and magnitudes that no table holds.
    for (const auto& [key, value] :
         std::vector<std::pair<std::string, double>>{{"rope.freq_base", 1e-200},
                                                     {"rope.scaling.factor", 1e-308},
                                                     {"rope.scaling.attn_factor", 1e300},
                                                     {"rope.scaling.attn_factor", 1e-300}}) {
        bad = good;
        bad[key] = value;
        INFO(key << " " << value);
        CHECK_FALSE(support::refusal([&] { from_gguf(file("llama", bad)); }).empty());
        CHECK_FALSE(support::refusal([&] { from_gguf(file("llama", bad), strictness::lenient); }).empty());
    }
    bad = good;
    bad["rope.scaling.factor"] = 1 / 65536.0;  // the fastest pair at the limit
    CHECK(make_model_schemes(from_gguf(file("llama", bad)))[0].spectrum_for(1).omega(0) ==
          Approx(65536).epsilon(1e-12));
    bad["rope.scaling.factor"] = 1 / 65537.0;
    CHECK_FALSE(support::refusal([&] { from_gguf(file("llama", bad)); }).empty());
    auto tensors = file("llama", good);
    tensors.rope_factors_short.assign(32, 1.0f);
    tensors.rope_factors_long.assign(32, 1e-38f);  // only beyond the trained length
    tensors.values["llama.rope.scaling.original_context_length"] = i64{4096};
    CHECK_FALSE(support::refusal([&] { from_gguf(tensors); }).empty());
    bad = good;
    bad["rope.bogus"] = 1.0;
    CHECK_REFUSES(
        "from_gguf: llama.rope.bogus must be a key that is read here, got one that would be ignored",
        from_gguf(file("llama", bad)));
    CHECK(from_gguf(file("llama", bad), strictness::lenient).ignored ==
          std::vector<std::string>{"llama.rope.bogus"});
}

TEST_CASE("gguf: sections in the order of their architecture", "[models][gguf][mrope]") {
    const auto metadata = [](const std::string& arch, std::vector<i64> sections) {
        return file(arch, {{"block_count", i64{2}},
                           {"attention.head_count", i64{32}},
                           {"attention.key_length", i64{128}},
                           {"rope.freq_base", 5e6},
                           {"rope.dimension_sections", std::move(sections)}});
    };
    const auto map = [](const model_config& config) {
        const auto s = make_model_schemes(config)[0].spectrum_for(1);
        CHECK(make_model_schemes(config)[0].read_layout == pair_layout(half_split{}));
        CHECK(s.axes() == 3);
        CHECK(config.ignored.empty());
        return frequencies::axes_of_pairs(s);
    };
    for (const auto reading : {strictness::strict, strictness::lenient}) {
        CHECK(map(from_gguf(metadata("qwen2vl", {16, 24, 24, 0}), reading)) ==
              axis_map::sections({16, 24, 24}));
        for (const char* arch : {"qwen3vl", "qwen3vlmoe"})
            CHECK(map(from_gguf(metadata(arch, {24, 20, 20, 0}), reading)) ==
                  axis_map::interleaved_sections({24, 20, 20}));
        // An axis without pairs stays an axis: rows are still the second position of a token.
        CHECK(map(from_gguf(metadata("qwen2vl", {0, 32, 32, 0}), reading)) ==
              axis_map::sections({0, 32, 32}));
        CHECK(map(from_gguf(metadata("qwen2vl", {32, 32, 0, 0}), reading)) ==
              axis_map::sections({32, 32, 0}));
        CHECK_REFUSES("from_gguf: qwen3vl.rope.dimension_sections must be given, got nothing",
                      from_gguf(metadata("qwen3vl", {0, 0, 0, 0}), reading));
        const std::string range =
            "from_gguf: qwen2vl.rope.dimension_sections must be an array of whole numbers in "
            "[0, 64], got ";
        CHECK_REFUSES(range + "[16, -24, 72]", from_gguf(metadata("qwen2vl", {16, -24, 72}), reading));
        CHECK_REFUSES(range + "[4611686018427387904, 0, 0]",
                      from_gguf(metadata("qwen2vl", {i64{1} << 62, 0, 0}), reading));
    }
    CHECK_REFUSES(
        "from_gguf: qwen3.rope.dimension_sections must be absent: the order of sections is known of "
        "other architectures only, got [24, 20, 20, 0]",
        from_gguf(metadata("qwen3", {24, 20, 20, 0})));
    const auto lenient = from_gguf(metadata("qwen3", {24, 20, 20, 0}), strictness::lenient);
    CHECK(lenient.ignored == std::vector<std::string>{"qwen3.rope.dimension_sections"});
    CHECK(make_model_schemes(lenient)[0].spectrum_for(1).axes() == 1);
    CHECK(from_gguf(metadata("novel", {24, 20, 20, 0}), strictness::lenient).ignored ==
          std::vector<std::string>{"general.architecture", "novel.rope.dimension_sections"});
    CHECK(from_gguf(metadata("qwen3", {0, 0, 0, 0})).ropes[0].sections.empty());
}

TEST_CASE("gguf: a layout for an architecture that is not in the table", "[models][gguf]") {
    std::map<std::string, gguf_value> keys{{"block_count", i64{3}}, {"attention.key_length", i64{64}}};
    const gguf_reading halves{.layout = half_split{}};
    CHECK_REFUSES("from_gguf: novel.rope.freq_base must be given, got nothing",
                  from_gguf(file("novel", keys), halves));
    keys["rope.freq_base"] = 5e5;
    const auto read = from_gguf(file("novel", keys), halves);
    CHECK(read.read_layout == pair_layout(half_split{}));
    CHECK(read.write_layout == pair_layout(half_split{}));
    CHECK(read.ignored == std::vector<std::string>{"general.architecture"});
    CHECK(make_model_schemes(read)[2].spectrum_for(1).omega(31) ==
          Approx(std::pow(5e5, -31.0 / 32)).epsilon(1e-14));
    CHECK(from_gguf(file("novel", keys), {.layout = interleaved{}}).read_layout ==
          pair_layout(interleaved{}));
    // What layers do is not a matter of the layout.
    for (const char* key : {"attention.sliding_window_pattern", "full_attention_interval",
                            "attention.key_length_mla", "rope.freq_base_swa"}) {
        auto more = keys;
        more[key] = i64{2};
        CHECK_REFUSES(std::string("from_gguf: novel.") + key +
                          " must be absent: what it means to this architecture is not known here, got 2",
                      from_gguf(file("novel", more), halves));
    }
    // A known architecture keeps its rules and turns the pairs that it is told to.
    const auto mla = from_gguf(file("deepseek2", {{"block_count", i64{1}},
                                                  {"attention.key_length", i64{192}},
                                                  {"rope.dimension_count", i64{64}}}),
                               halves);
    CHECK(mla.read_layout == pair_layout(half_split{}));
    CHECK(mla.first_channel == 128);
    CHECK(mla.ignored.empty());
}

TEST_CASE("gguf: one file of several says that rotary tensors may be in another", "[models][gguf]") {
    auto f = file("llama", {{"block_count", i64{1}}, {"attention.key_length", i64{64}}});
    f.values["split.count"] = i64{1};
    CHECK(from_gguf(f).ropes[0].notes.empty());
    f.values["split.count"] = i64{3};
    CHECK(make_model_schemes(from_gguf(f))[0].notes ==
          std::vector<std::string>{"one of 3 files: rotary tensors of another one are not seen here"});
    f.rope_freqs.assign(32, 1.0f);
    CHECK(from_gguf(f).ropes[0].notes.empty());
}

TEST_CASE("gguf: a file's own attention scale", "[models][gguf]") {
    auto f = file("granite", {{"block_count", i64{2}},
                              {"embedding_length", i64{2560}},
                              {"attention.head_count", i64{40}},
                              {"attention.scale", 0.015625}});
    const auto scale = [&](double said) {
        f.values["granite.attention.scale"] = said;
        return make_model_schemes(from_gguf(f))[0].logit_scale;
    };
    CHECK(scale(0.015625) == 0.125);
    CHECK(scale(0.125f) == 1);
    CHECK(scale(0) == 1);  // not given
    CHECK_REFUSES("from_gguf: granite.attention.scale must be a number >= 0, got -1", scale(-1));
    // Gemma's files have no such key; the 27B sizes alone scale by their width per head.
    const auto gemma = [](const char* arch, i64 layers, i64 width, i64 heads, i64 head_dim) {
        return make_model_schemes(from_gguf(file(arch, {{"block_count", layers},
                                                        {"embedding_length", width},
                                                        {"attention.head_count", heads},
                                                        {"attention.key_length", head_dim}})))[0]
            .logit_scale;
    };
    CHECK(gemma("gemma3", 62, 5376, 32, 128) == presets::gemma3_27b(weights::gguf)[0].logit_scale);
    CHECK(gemma("gemma2", 46, 4608, 32, 128) == presets::gemma2_27b(weights::gguf).logit_scale);
    CHECK(gemma("gemma3", 26, 1152, 4, 256) == 1);
}
