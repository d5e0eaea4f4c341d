// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/gguf.hpp>

#include <ropewalk/schemes/presets.hpp>

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

TEST_CASE("gguf: Llama 3.1 with its rope_freqs tensor", "[schemes][gguf]") {
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

TEST_CASE("gguf: DeepSeek-V3, whose log multiplier is a tenth of mscale_all_dim", "[schemes][gguf]") {
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

TEST_CASE("gguf: YaRN, linear and its older key, Hunyuan's alpha, Mistral's multiplier", "[schemes][gguf]") {
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
    const auto scaled = read("llama", {{"rope.scaling.type", std::string("yarn")},
                                       {"rope.scaling.factor", 4.0},
                                       {"rope.scaling.original_context_length", i64{4096}},
                                       {"rope.scaling.yarn_attn_factor", 1.5}});
    CHECK(scaled.spectrum_for(1).magnitude() == Approx(1.5 * 1.138629436111989).epsilon(1e-15));
}

TEST_CASE("gguf: LongRoPE takes its factors from the tensors and its magnitude from attn_factor",
          "[schemes][gguf]") {
    auto f = file("phi3", {{"block_count", i64{32}},
                           {"embedding_length", i64{3072}},
                           {"attention.head_count", i64{32}},
                           {"context_length", i64{131072}},
                           {"rope.dimension_count", i64{96}},
                           {"rope.scaling.type", std::string("longrope")},
                           {"rope.scaling.original_context_length", i64{4096}},
                           {"rope.scaling.attn_factor", 1.1902380714238083}});
    CHECK_REFUSES(
        "from_gguf: rope_factors_long.weight and rope_factors_short.weight must be given with longrope, got "
        "nothing",
        from_gguf(f));
    f.rope_factors_short.assign(48, 1.25f);
    f.rope_factors_long.assign(48, 8.0f);
    const auto rope = make_model_schemes(from_gguf(f))[0];
    CHECK(rope.spectrum_for(1).magnitude() == 1.1902380714238083);
    CHECK(rope.spectrum_for(4096).omega(0) == Approx(0.8).epsilon(1e-15));
    CHECK(rope.spectrum_for(4097).omega(0) == 0.125);
}

TEST_CASE("gguf: layers that slide, layers without position", "[schemes][gguf]") {
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

TEST_CASE("gguf: refuses what is missing, wrong or would be ignored", "[schemes][gguf][errors]") {
    CHECK_REFUSES("from_gguf: general.architecture must be a string, got nothing", from_gguf({}));
    CHECK_REFUSES("from_gguf: general.architecture must be one whose pair layout is known here, got novel",
                  from_gguf(file("novel", {})));
    CHECK_REFUSES("from_gguf: llama.block_count must be given, got nothing", from_gguf(file("llama", {})));
    std::map<std::string, gguf_value> good{
        {"block_count", i64{2}}, {"attention.head_count", i64{4}}, {"embedding_length", i64{256}}};
    auto bad = good;
    bad["rope.freq_base"] = std::string("high");
    CHECK_REFUSES("from_gguf: llama.rope.freq_base must be a finite number, got another type or value",
                  from_gguf(file("llama", bad)));
    bad = good;
    bad["rope.scaling.type"] = std::string("wavelet");
    CHECK_REFUSES(
        "from_gguf: llama.rope.scaling.type must be none, linear, yarn or longrope, got another type or "
        "value",
        from_gguf(file("llama", bad)));
    bad = good;
    bad["rope.bogus"] = 1.0;
    CHECK_REFUSES(
        "from_gguf: llama.rope.bogus must be a key that is read here, got one that would be ignored",
        from_gguf(file("llama", bad)));
    CHECK(from_gguf(file("llama", bad), strictness::lenient).ignored ==
          std::vector<std::string>{"llama.rope.bogus"});
}
