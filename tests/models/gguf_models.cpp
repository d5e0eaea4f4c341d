// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/gguf_models.hpp>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <ropewalk/models/gguf.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using i64 = std::int64_t;
using longs = std::vector<i64>;
using keys = std::map<std::string, gguf_value>;
namespace checks = ropewalk::ROPEWALK_ISA::detail;

namespace {

gguf_metadata file(const std::string& arch, keys more) {
    gguf_metadata f;
    f.values["general.architecture"] = arch;
    f.values[arch + ".block_count"] = i64{8};
    f.values[arch + ".attention.key_length"] = i64{64};
    for (auto& [key, value] : more) f.values[arch + "." + key] = value;
    return f;
}
model_schemes schemes(const std::string& arch, keys more = {}) {
    return make_model_schemes(from_gguf(file(arch, std::move(more))));
}
/// A letter a layer: R rotates as the first that does, S with another scheme, N is NoPE.
std::string layers(const model_schemes& model) {
    std::string all;
    int first = -1;
    for (ropewalk::index l = 0; l < model.layers(); ++l) {
        if (model[l].rotates && first < 0) first = model.scheme_of(l);
        all += !model[l].rotates ? 'N' : model.scheme_of(l) == first ? 'R' : 'S';
    }
    return all;
}
/// The base of a plain ladder, from its second pair.
double base_of(const rotary_scheme& rope) {
    return std::pow(rope.spectrum_for(1).omega(1), -static_cast<double>(rope.rotary_dim) / 2);
}

const std::vector<const char*> of_interleaved{
    "arcee",     "arctic",      "baichuan", "bailingmoe",    "chameleon",     "chatglm",   "cohere2",
    "command-r", "deci",        "deepseek", "deepseek2",     "deepseek2-ocr", "ernie4_5",  "ernie4_5-moe",
    "glm-dsa",   "glm4",        "granite",  "granitehybrid", "granitemoe",    "internlm2", "llada",
    "llama",     "llama-embed", "llama4",   "maincoder",     "minicpm",       "mistral3",  "mistral4",
    "neo-bert",  "olmo",        "plm",      "smollm3",       "xverse"};
const std::vector<const char*> of_half_split{
    "afmoe",      "apertus",      "bailingmoe2", "bitnet",        "codeshell",   "cogvlm",
    "dbrx",       "dflash-draft", "dots1",       "dream",         "eurobert",    "exaone",
    "exaone-moe", "exaone4",      "falcon",      "falcon-h1",     "gemma",       "gemma-embedding",
    "gemma2",     "gemma3",       "gemma3n",     "gemma4",        "glm4moe",     "gpt-oss",
    "gptneox",    "grok",         "grovemoe",    "hunyuan-dense", "hunyuan-moe", "hunyuan_vl",
    "jais2",      "jina-bert-v3", "lfm2",        "lfm2moe",       "llada-moe",   "mimo2",
    "minicpm3",   "minimax-m2",   "modern-bert", "nemotron",      "nomic-bert",  "nomic-bert-moe",
    "olmo2",      "olmoe",        "openelm",     "orion",         "paddleocr",   "pangu-embedded",
    "phi2",       "phi3",         "phimoe",      "plamo",         "plamo2",      "plamo3",
    "qwen",       "qwen2",        "qwen2moe",    "qwen2vl",       "qwen3",       "qwen35",
    "qwen35moe",  "qwen3moe",     "qwen3next",   "qwen3vl",       "qwen3vlmoe",  "rnd1",
    "seed_oss",   "smallthinker", "stablelm",    "starcoder2",    "step35"};
const std::vector<const char*> of_no_rotation{
    "(unknown)",    "arwkv7",      "bloom",      "clip",   "gpt2", "jais",       "jamba",
    "jina-bert-v2", "kimi-linear", "mamba",      "mamba2", "mpt",  "nemotron_h", "nemotron_h_moe",
    "refact",       "rwkv6",       "rwkv6qwen2", "rwkv7",  "t5",   "t5encoder",  "wavtokenizer-dec"};
const std::vector<const char*> of_files_with_keys{"bert", "gptj", "starcoder"};

/// What a file of the architecture cannot do without.
keys needed_by(const std::string& name) {
    if (name == "qwen2vl" || name == "paddleocr") return {{"rope.dimension_sections", longs{8, 12, 12, 0}}};
    if (name == "qwen3vl" || name == "qwen3vlmoe" || name == "qwen35" || name == "qwen35moe")
        return {{"rope.dimension_sections", longs{12, 10, 10, 0}}};
    if (name == "mimo2" || name == "step35")
        return {{"attention.sliding_window_pattern", longs{0, 1, 1, 1, 0, 1, 1, 1}}};
    return {};
}

}  // namespace

TEST_CASE("gguf_models: every architecture is found by its name, and nothing else is", "[models][gguf]") {
    for (const auto& a : checks::gguf_architectures) {
        INFO(a.name);
        CHECK(checks::find_gguf_architecture(a.name) == &a);  // a second entry would never be read
        // A layer is NoPE by its own period or for being global, and has a base of its own only if it slides.
        CHECK((a.nope_every == 0 || a.global_every == 0));
        CHECK((!a.nope_global || a.global_every > 0));
        CHECK((a.local_base == 0 || a.global_every > 0 || a.listed_sliding));
        CHECK((!a.global_first || a.global_every > 0));
        CHECK((a.rotates != checks::gguf_rotation::never || !a.half_split));
    }
    for (const char* name : {"", "Llama", "llam", "qwen2_moe", "gpt_oss"}) {
        INFO(name);
        CHECK(checks::find_gguf_architecture(name) == nullptr);
    }
}

TEST_CASE("gguf_models: all 128 architectures, by the pairs that they rotate", "[models][gguf]") {
    std::set<std::string> seen;
    const auto check = [&](const std::vector<const char*>& names, bool rotates, const pair_layout& layout) {
        for (const char* name : names) {
            INFO(name);
            CHECK(seen.insert(name).second);
            const auto config = from_gguf(file(name, needed_by(name)));
            const auto model = make_model_schemes(config);
            CHECK(config.ignored.empty());
            CHECK(model.layers() == 8);
            CHECK((layers(model) == "NNNNNNNN") == !rotates);
            for (ropewalk::index l = 0; l < 8; ++l)
                if (model[l].rotates) {
                    CHECK(model[l].read_layout == layout);
                    CHECK(model[l].write_layout == layout);
                    CHECK(model[l].rotary_dim == (std::string(name) == "step35" && l % 4 == 0 ? 32 : 64));
                }
        }
    };
    check(of_interleaved, true, interleaved{});
    check(of_half_split, true, half_split{});
    check(of_no_rotation, false, interleaved{});
    check(of_files_with_keys, false, interleaved{});
    CHECK(seen.size() == 128);
    CHECK(checks::gguf_architectures.size() == 128);
}

TEST_CASE("gguf_models: BERT, StarCoder and GPT-J rotate in files with rope keys", "[models][gguf]") {
    const keys said{{"rope.dimension_count", i64{32}}};
    CHECK(schemes("gptj", said)[0].rotary_dim == 32);
    CHECK(schemes("gptj", said)[0].read_layout == pair_layout(interleaved{}));
    CHECK(schemes("bert", said)[0].read_layout == pair_layout(half_split{}));
    CHECK(schemes("starcoder", said)[0].read_layout == pair_layout(interleaved{}));
}

TEST_CASE("gguf_models: NoPE architectures need no heads and keep an eye on their keys", "[models][gguf]") {
    gguf_metadata mamba;
    mamba.values = {{"general.architecture", std::string("mamba")},
                    {"mamba.block_count", i64{24}},
                    {"mamba.embedding_length", i64{768}},
                    {"mamba.attention.head_count", i64{0}}};
    CHECK(layers(make_model_schemes(from_gguf(mamba))) == std::string(24, 'N'));
    gguf_metadata clip;
    clip.values = {{"general.architecture", std::string("clip")}, {"clip.vision.block_count", i64{27}}};
    CHECK(make_model_schemes(from_gguf(clip)).layers() == 27);
    // Keys that conversions write and nothing reads; keys that nothing knows.
    CHECK(layers(schemes("kimi-linear", {{"rope.dimension_count", i64{64}}, {"rope.freq_base", 1e4}})) ==
          "NNNNNNNN");
    CHECK_REFUSES("from_gguf: jamba.rope.freq_base must be a finite number, got high",
                  schemes("jamba", {{"rope.freq_base", std::string("high")}}));
    CHECK_REFUSES(
        "from_gguf: jamba.rope.bogus must be a key that is read here, got one that would be ignored",
        schemes("jamba", {{"rope.bogus", 1.0}}));
    auto odd = file("mpt", {});
    odd.rope_freqs.assign(32, 1.0f);
    CHECK_REFUSES("from_gguf: the rotary tensors must be absent: no layer of this model rotates, got mpt",
                  from_gguf(odd));
    CHECK(from_gguf(odd, strictness::lenient).ignored == std::vector<std::string>{"rope tensors"});
}

TEST_CASE("gguf_models: which layers are NoPE", "[models][gguf]") {
    const keys window{{"attention.sliding_window", i64{4096}}};
    CHECK(layers(schemes("afmoe")) == "RRRNRRRN");
    CHECK(layers(schemes("smollm3")) == "RRRNRRRN");
    CHECK(layers(schemes("llama4")) == "RRRNRRRN");
    CHECK(layers(schemes("llama4", window)) == "RRRNRRRN");
    CHECK(layers(schemes("llama4", {{"attention.sliding_window", i64{0}}})) == "RRRRRRRR");
    CHECK(layers(schemes("cohere2", window)) == "RRRNRRRN");
    CHECK(layers(schemes("exaone-moe")) == "RRRNRRRN");
    CHECK(layers(schemes("exaone4", window)) == "RRRNRRRN");
    CHECK(layers(schemes("exaone4")) == "RRRRRRRR");  // EXAONE 4.0 1.2B
    CHECK(layers(schemes("exaone4", {{"block_count", i64{64}}})).substr(56) == "RRRNRRRN");
    CHECK(layers(schemes("exaone-moe", {{"attention.sliding_window_pattern",
                                         longs{1, 0, 1, 1, 1, 0, 1, 1}}})) == "RNRRRNRR");
    CHECK(layers(schemes("smallthinker", window)) == "NRRRNRRR");
    CHECK(layers(schemes("smallthinker")) == "RRRRRRRR");
    CHECK(layers(schemes("baichuan")) == "RRRRRRRR");
    CHECK(layers(schemes("baichuan", {{"block_count", i64{40}}})) == std::string(40, 'N'));  // 13B: ALiBi
    for (const char* arch : {"granite", "granitemoe", "granitehybrid"}) {
        INFO(arch);
        CHECK(layers(schemes(arch)) == "RRRRRRRR");
        CHECK(layers(schemes(arch, {{"rope.scaling.finetuned", true}})) == "RRRRRRRR");
        CHECK(layers(schemes(arch, {{"rope.scaling.finetuned", false}})) == "NNNNNNNN");
    }
    // MiniCPM shares Granite's graph and not its switch; elsewhere the key is of no consequence.
    CHECK(layers(schemes("minicpm", {{"rope.scaling.finetuned", false}})) == "RRRRRRRR");
}

TEST_CASE("gguf_models: layers without attention", "[models][gguf]") {
    const keys heads{{"attention.head_count", i64{32}},
                     {"attention.head_count_kv", longs{0, 0, 8, 0, 0, 8, 0, 8}}};
    for (const char* arch : {"lfm2", "lfm2moe", "granitehybrid", "plamo2", "deci"}) {
        INFO(arch);
        CHECK(layers(schemes(arch, heads)) == "NNRNNRNR");
        CHECK(from_gguf(file(arch, heads)).key_heads == 8);
        CHECK(from_gguf(file(arch, heads)).query_heads == 32);
    }
    CHECK(layers(schemes("deci", {{"attention.head_count", longs{0, 32, 32, 0, 32, 32, 32, 32}}})) ==
          "NRRNRRRR");
    CHECK(layers(schemes("falcon-h1")) == "RRRRRRRR");  // attends beside its recurrence
    const longs eleven{11, 11, 10, 0};
    for (const char* arch : {"qwen35", "qwen35moe", "qwen3next"}) {
        INFO(arch);
        keys more{{"attention.key_length", i64{256}}, {"rope.dimension_count", i64{64}}};
        if (std::string(arch) != "qwen3next") more["rope.dimension_sections"] = eleven;
        CHECK(layers(schemes(arch, more)) == "NNNRNNNR");
        more["full_attention_interval"] = i64{2};
        CHECK(layers(schemes(arch, more)) == "NRNRNRNR");
        // The layers that predict further tokens attend.
        more["block_count"] = i64{9};
        more["nextn_predict_layers"] = i64{1};
        CHECK(layers(schemes(arch, more)) == "NRNRNRNRR");
        more["attention.recurrent_layers"] = longs{1, 1, 0, 0, 1, 1, 1, 0};
        CHECK(layers(schemes(arch, more)) == "NNRRNNNRR");
        more["attention.recurrent_layers"] = longs{1, 1, 0};
        CHECK_REFUSES(
            std::string("from_gguf: ") + arch +
                ".attention.recurrent_layers must be an array with one number a layer, got [1, 1, 0]",
            schemes(arch, more));
    }
}

TEST_CASE("gguf_models: bases and widths of sliding layers", "[models][gguf]") {
    const keys window{{"attention.sliding_window", i64{128}}, {"rope.freq_base", 160000.0}};
    // ModernBERT: the first of three is global.
    const auto bert = schemes("modern-bert", window);
    CHECK(layers(bert) == "RSSRSSRS");
    CHECK(base_of(bert[0]) == Approx(160000).epsilon(1e-9));
    CHECK(base_of(bert[1]) == Approx(1e4).epsilon(1e-9));
    CHECK(layers(schemes("modern-bert")) == "RRRRRRRR");
    // PLaMo 3: the last of eight.
    const auto plamo = schemes("plamo3", window);
    CHECK(layers(plamo) == "RRRRRRRS");
    CHECK(base_of(plamo[0]) == Approx(1e4).epsilon(1e-9));
    CHECK(base_of(plamo[7]) == Approx(160000).epsilon(1e-9));
    CHECK(layers(schemes("plamo3")) == "RRRRRRRR");
    // MiMo V2: listed, with a partial rotation of its own base.
    keys listed{{"attention.key_length", i64{192}},
                {"rope.dimension_count", i64{64}},
                {"rope.freq_base", 5e6},
                {"rope.freq_base_swa", 2e4},
                {"attention.sliding_window_pattern", longs{0, 1, 1, 1, 0, 1, 1, 1}}};
    const auto mimo = schemes("mimo2", listed);
    CHECK(layers(mimo) == "RSSSRSSS");
    CHECK(mimo[0].rotary_dim == 64);
    CHECK(base_of(mimo[0]) == Approx(5e6).epsilon(1e-9));
    CHECK(base_of(mimo[1]) == Approx(2e4).epsilon(1e-9));
    CHECK_REFUSES("from_gguf: mimo2.attention.sliding_window_pattern must be given, got nothing",
                  schemes("mimo2"));
    CHECK_REFUSES(
        "from_gguf: step35.attention.sliding_window_pattern must be an array with one number a "
        "layer, got 4",
        schemes("step35", {{"attention.sliding_window_pattern", i64{4}}}));
}

TEST_CASE("gguf_models: Step 3.5 halves its global layers and keeps the tensors for them", "[models][gguf]") {
    auto f = file("step35", {{"block_count", i64{5}},
                             {"nextn_predict_layers", i64{1}},
                             {"attention.key_length", i64{128}},
                             {"rope.dimension_count", i64{128}},
                             {"rope.freq_base", 5e6},
                             {"rope.freq_base_swa", 1e4},
                             {"attention.sliding_window_pattern", longs{0, 1, 1, 1}}});
    for (int i = 0; i < 64; ++i) f.rope_freqs.push_back(i < 32 ? 2.0f : 1000.0f);
    const auto model = make_model_schemes(from_gguf(f));
    CHECK(layers(model) == "RSSSR");
    CHECK(model[0].rotary_dim == 64);
    CHECK(model[1].rotary_dim == 128);
    for (ropewalk::index i = 0; i < 32; ++i)
        CHECK(model[0].spectrum_for(1).omega(i) == Approx(std::pow(5e6, -i / 32.0) / 2).epsilon(1e-13));
    for (ropewalk::index i = 0; i < 64; ++i)
        CHECK(model[1].spectrum_for(1).omega(i) == Approx(std::pow(1e4, -i / 64.0)).epsilon(1e-13));
    f.values["step35.rope.dimension_count"] = i64{126};
    CHECK_REFUSES("from_gguf: step35.rope.dimension_count must be a multiple of 4, got 126", from_gguf(f));
}

TEST_CASE("gguf_models: latent attention rotates the end of a head", "[models][gguf]") {
    for (const char* arch : {"deepseek2", "glm-dsa", "mistral4", "minicpm3", "plm"}) {
        INFO(arch);
        const auto rope =
            schemes(arch, {{"attention.key_length", i64{192}}, {"rope.dimension_count", i64{64}}})[0];
        CHECK(rope.first_channel == 128);
        CHECK(rope.rotary_dim == 64);
        CHECK(rope.notes.size() == (std::string(arch) == "glm-dsa" ? 1 : 0));
    }
    CHECK(schemes("deepseek2-ocr", {{"rope.dimension_count", i64{32}}})[0].first_channel == 0);
}

TEST_CASE("gguf_models: models that have sections or have none", "[models][gguf]") {
    for (const char* arch : {"glm4", "glm4moe", "hunyuan_vl"}) {
        INFO(arch);
        const bool pairs_interleave = std::string(arch) == "glm4";
        const auto text = schemes(arch)[0];
        CHECK(text.spectrum_for(1).axes() == 1);
        CHECK(text.read_layout ==
              (pairs_interleave ? pair_layout(interleaved{}) : pair_layout(half_split{})));
        const auto sight = schemes(arch, {{"rope.dimension_sections", longs{8, 12, 12, 0}}})[0];
        CHECK(frequencies::axes_of_pairs(sight.spectrum_for(1)) == axis_map::sections({8, 12, 12}));
        CHECK(sight.read_layout == pair_layout(half_split{}));
    }
    const auto four = schemes("hunyuan_vl", {{"rope.dimension_sections", longs{8, 8, 8, 8}}})[0];
    CHECK(four.spectrum_for(1).axes() == 4);
    CHECK_REFUSES("from_gguf: paddleocr.rope.dimension_sections must be given, got nothing",
                  schemes("paddleocr"));
    // A draft of a model with sections has one axis.
    CHECK(schemes("dflash-draft", {{"rope.dimension_sections", longs{32, 0, 0, 0}}})[0]
              .spectrum_for(1)
              .axes() == 1);
}

TEST_CASE("gguf_models: Grok's ramp starts at 8 turns", "[models][gguf]") {
    const keys yarn{{"rope.scaling.type", std::string("yarn")},
                    {"rope.scaling.factor", 16.0},
                    {"rope.scaling.original_context_length", i64{8192}}};
    const auto s = schemes("grok", yarn)[0].spectrum_for(1);
    const auto own = frequencies::yarn(
        {.rotary_dim = 64, .factor = 16, .original_context = 8192, .beta_fast = 8, .beta_slow = 1});
    const auto usual = schemes("llama", yarn)[0].spectrum_for(1);
    bool differs = false;
    for (ropewalk::index i = 0; i < 32; ++i) {
        CHECK(s.omega(i) == Approx(own.omega(i)).epsilon(1e-14));
        differs = differs || std::abs(s.omega(i) / usual.omega(i) - 1) > 1e-3;
    }
    CHECK(differs);
}
