// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/huggingface_json.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;

namespace {

/// One config as Hugging Face writes it, what it must come to, and one key that, spoiled, must be refused.
struct config_text {
    const char* name;
    const char* text;
    std::function<void(const model_config&, const model_schemes&)> check;
    const char* spoiled_key;    // JSON pointer
    const char* spoiled_value;  // JSON; "" removes the key
    const char* refusal;
};

double last_omega(const rotary_scheme& s, std::int64_t length = 1) {
    const auto spectrum = s.spectrum_for(length);
    return spectrum.omega(spectrum.pairs() - 1);
}
double slowest(double base, double rotary_dim) { return std::pow(base, -(rotary_dim - 2) / rotary_dim); }
bool near(double got, double want, double relative = 1e-14) {
    return std::abs(got - want) <= relative * std::abs(want);
}
std::string map_of(const model_schemes& m) {
    std::string kinds;
    for (ropewalk::index l = 0; l < m.layers(); ++l)
        kinds += m[l].rotates ? static_cast<char>('a' + m.scheme_of(l)) : '-';
    return kinds;
}
std::string ones(int pairs, double v) {
    std::string s = "[";
    for (int i = 0; i < pairs; ++i) s += (i ? "," : "") + std::to_string(v);
    return s + "]";
}
std::string phi_text(const char* type, const char* model, const char* more, int pairs) {
    return std::string(R"({"model_type":")") + model + R"(","hidden_size":3072,"num_attention_heads":)" +
           (pairs == 48 && std::string(more).empty() ? "32" : "24") +
           R"(,"num_key_value_heads":8,"num_hidden_layers":32,"max_position_embeddings":131072,
           "original_max_position_embeddings":4096,"rope_theta":10000.0,)" +
           more + R"("rope_scaling":{"type":")" + type + R"(","short_factor":)" + ones(pairs, 1.25) +
           R"(,"long_factor":)" + ones(pairs, 8.0) + "}}";
}
const std::string phi3_128k = phi_text("longrope", "phi3", "", 48);
const std::string phi3_su = phi_text("su", "phi3", "", 48);
const std::string phi3_old_yarn = phi_text("yarn", "phi3", "", 48);
const std::string phi4_mini = phi_text("longrope", "phi3", R"("partial_rotary_factor":0.75,)", 48);

void check_phi3(const model_config&, const model_schemes& m) {
    CHECK(m[0].rotary_dim == 96);
    CHECK(m[0].length_dependent);
    CHECK(m[0].original_context == 4096);
    CHECK(near(m[0].spectrum_for(1).magnitude(), 1.1902380714238083));
    CHECK(near(last_omega(m[0], 4096), slowest(1e4, 96) / 1.25));
    CHECK(near(last_omega(m[0], 4097), slowest(1e4, 96) / 8));
}

const std::vector<config_text>& texts() {
    static const std::vector<config_text> all = {
        {"Llama 2, v4",
         R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":4096,"num_attention_heads":32,
             "num_key_value_heads":32,"num_hidden_layers":32,"max_position_embeddings":4096,"rope_scaling":null,
             "vocab_size":32000,"torch_dtype":"float16"})",
         [](const model_config& c, const model_schemes& m) {
             CHECK(c.query_heads == 32);
             CHECK(c.key_heads == 32);
             CHECK(m.layers() == 32);
             CHECK(m.distinct().size() == 1);
             CHECK(m[31].rotary_dim == 128);
             CHECK(m[31].read_layout == half_split{});
             CHECK(near(last_omega(m[0]), slowest(1e4, 128)));
         },
         "/num_attention_heads", "33",
         "from_huggingface: hidden_size must be a multiple of num_attention_heads, got 4096"},
        {"Llama 3.1, v4",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,
             "num_hidden_layers":32,"max_position_embeddings":131072,"rope_theta":500000.0,"rope_scaling":{
             "factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192,
             "rope_type":"llama3"}})",
         [](const model_config& c, const model_schemes& m) {
             CHECK(c.key_heads == 8);
             CHECK(c.ropes[0].scaling == rope_scaling::llama3);
             const auto plain = frequencies::geometric({.rotary_dim = 128, .base = 5e5});
             const auto s = m[0].spectrum_for(1);
             for (ropewalk::index i = 0; i < 29; ++i) CHECK(s.omega(i) == plain.omega(i));
             for (ropewalk::index i = 35; i < 64; ++i) CHECK(near(s.omega(i), plain.omega(i) / 8));
             CHECK(m[0].original_context == 8192);
             CHECK(m[0].max_context == 131072);
         },
         "/rope_scaling/low_freq_factor", "",
         "from_huggingface: rope_scaling.low_freq_factor must be given, got nothing"},
        {"Llama 3.2 1B, v5",
         R"({"model_type":"llama","hidden_size":2048,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,
             "num_hidden_layers":16,"max_position_embeddings":131072,"rope_parameters":{"rope_theta":500000.0,
             "factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192,
             "rope_type":"llama3"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].rotary_dim == 64);
             CHECK(near(last_omega(m[0]), slowest(5e5, 64) / 32));
         },
         "/rope_parameters/rope_theta", "-5", "llama3: base must be finite and > 0, got -5"},
        {"YaRN Llama 2 64k, v4 with its older keys",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":65536,"rope_scaling":{"factor":16.0,"original_max_position_embeddings":4096,
             "type":"yarn","finetuned":true}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(near(m[0].spectrum_for(1).magnitude(), 1.2772588722239782));
             CHECK(near(last_omega(m[0]), slowest(1e4, 128) / 16));
             CHECK_FALSE(m[0].length_dependent);
         },
         "/rope_scaling/original_max_position_embeddings", "",
         "from_huggingface: rope_scaling.original_max_position_embeddings must be given, got nothing"},
        {"linear, v4 with the older type key",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":16384,"rope_scaling":{"type":"linear","factor":4.0}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(near(last_omega(m[0]), slowest(1e4, 128) / 4));
         },
         "/rope_scaling/factor", "\"4\"",
         R"(from_huggingface: rope_scaling.factor must be a finite number, got "4")"},
        {"dynamic NTK, v4",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":4096,"rope_scaling":{"rope_type":"dynamic","type":"dynamic","factor":2.0}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].length_dependent);
             CHECK(near(last_omega(m[0], 4096), slowest(1e4, 128)));
             CHECK(near(last_omega(m[0], 8192), slowest(30527.7367488067, 128), 1e-13));
         },
         "/max_position_embeddings", "",
         "from_huggingface: max_position_embeddings must be given, got nothing"},
        {"NTK-aware, static",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":4096,"rope_scaling":{"rope_type":"ntk","factor":4.0}})",
         [](const model_config&, const model_schemes& m) {
             // The base times 4, and every frequency over 4^(1/64).
             CHECK(near(last_omega(m[0]), slowest(4e4, 128) / std::pow(4.0, 1.0 / 64), 1e-13));
             CHECK(near(m[0].spectrum_for(1).omega(0), 1 / std::pow(4.0, 1.0 / 64), 1e-13));
             CHECK_FALSE(m[0].length_dependent);
         },
         "/rope_scaling/rope_type", "\"ntq\"",
         R"(from_huggingface: rope_scaling.rope_type must be a scaling that is known here, got "ntq")"},
        {"Hunyuan, v4: dynamic with alpha is static up to the trained length",
         R"({"model_type":"hunyuan_v1_dense","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,
             "head_dim":128,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":10000.0,
             "rope_scaling":{"alpha":1000.0,"beta_fast":32,"beta_slow":1,"factor":1.0,"mscale":1.0,
             "mscale_all_dim":0.0,"type":"dynamic"}})",
         [](const model_config& c, const model_schemes& m) {
             CHECK(c.ropes[0].alpha == 1000.0);
             for (const std::int64_t length : {1, 32768})
                 CHECK(near(m[0].spectrum_for(length).omega(63), slowest(1e4, 128) / 1000, 1e-13));
             // Past it the official code goes on by factor, without alpha: 65536 / 32768 = 2.
             CHECK(near(m[0].spectrum_for(65536).omega(63), slowest(1e4, 128) / 2, 1e-13));
             REQUIRE(c.ropes[0].notes.size() == 1);
         },
         "/rope_scaling/alpha", "0", "ntk: alpha must be finite and > 0, got 0"},
        {"Qwen2.5 with its YaRN recipe, v4",
         R"({"model_type":"qwen2","hidden_size":3584,"num_attention_heads":28,"num_key_value_heads":4,
             "num_hidden_layers":28,"max_position_embeddings":32768,"rope_theta":1000000.0,"use_sliding_window":false,
             "rope_scaling":{"factor":4.0,"original_max_position_embeddings":32768,"type":"yarn"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(near(m[0].spectrum_for(1).magnitude(), 1.138629436111989));
             const auto s = m[0].spectrum_for(1);
             const auto plain = frequencies::geometric({.rotary_dim = 128, .base = 1e6});
             CHECK(near(s.omega(23),
                        plain.omega(23)));  // the ramp runs from 23.596 to 39.651, rounded outwards
             CHECK_FALSE(near(s.omega(24), plain.omega(24), 1e-3));
             CHECK(near(s.omega(40), plain.omega(40) / 4));
         },
         "/rope_scaling/factor", "0", "yarn: factor must be > 0, got 0"},
        {"Qwen3, v5 with YaRN",
         R"({"model_type":"qwen3","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":128,
             "num_hidden_layers":36,"max_position_embeddings":40960,"rope_parameters":{"rope_type":"yarn",
             "rope_theta":1000000,"factor":4.0,"original_max_position_embeddings":32768}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].original_context == 32768);
             CHECK(near(m[0].spectrum_for(1).magnitude(), 1.138629436111989));
             CHECK(m[0].max_context == 131072);  // 4 * 32768, past max_position_embeddings
         },
         "/rope_parameters/betafast", "32",
         "from_huggingface: rope_parameters.betafast must be a key that is read here (it would be ignored), "
         "got 32"},
        {"gpt-oss, v4",
         R"({"model_type":"gpt_oss","hidden_size":2880,"num_attention_heads":64,"num_key_value_heads":8,"head_dim":64,
             "num_hidden_layers":4,"max_position_embeddings":131072,"initial_context_length":4096,"rope_theta":150000,
             "layer_types":["sliding_attention","full_attention","sliding_attention","full_attention"],
             "rope_scaling":{"beta_fast":32.0,"beta_slow":1.0,"factor":32.0,"original_max_position_embeddings":4096,
             "rope_type":"yarn","truncate":false}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaaa");
             CHECK(near(m[0].spectrum_for(1).magnitude(), 1.3465735902799727));
             // 8.0928 is not rounded down to 8: pair 9 has 9.7 % of the ramp behind it, not 10 %
             const double share = (9 - 8.0928) / (17.3980 - 8.0928);
             const double plain = std::pow(150000.0, -9.0 / 32);
             CHECK(near(m[0].spectrum_for(1).omega(9), plain * (1 - share) + plain / 32 * share, 1e-4));
         },
         "/rope_scaling/truncate", "\"no\"",
         R"(from_huggingface: rope_scaling.truncate must be true or false, got "no")"},
        {"gpt-oss, v5: base from the class",
         R"({"model_type":"gpt_oss","num_attention_heads":64,"num_hidden_layers":24,"max_position_embeddings":131072,
             "rope_parameters":{"beta_fast":32.0,"beta_slow":1.0,"factor":32.0,"original_max_position_embeddings":4096,
             "rope_type":"yarn","truncate":false}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(near(last_omega(m[0]), slowest(150000, 64) / 32));
         },
         "/rope_parameters/beta_slow", "64",
         "from_huggingface: rope_parameters.beta_fast must be at least beta_slow, got 32.0"},
        {"DeepSeek-V3, v4",
         R"({"model_type":"deepseek_v3","hidden_size":7168,"num_attention_heads":128,"num_key_value_heads":128,
             "num_hidden_layers":61,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,"kv_lora_rank":512,
             "max_position_embeddings":163840,"rope_theta":10000,"rope_scaling":{"beta_fast":32,"beta_slow":1,
             "factor":40,"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":4096,"type":"yarn"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].head_dim == 192);
             CHECK(m[0].first_channel == 128);
             CHECK(m[0].rotary_dim == 64);
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].write_layout == half_split{});
             CHECK(m[0].spectrum_for(1).magnitude() == 1.0);
             CHECK(near(m[0].logit_scale, 1.8738542, 1e-7));
             CHECK(near(last_omega(m[0]), slowest(1e4, 64) / 40));
         },
         "/qk_rope_head_dim", "\"64\"",
         R"(from_huggingface: qk_rope_head_dim must be a whole number in [0, 2^63), got "64")"},
        {"DeepSeek-V2, v4",
         R"({"model_type":"deepseek_v2","hidden_size":5120,"num_attention_heads":128,"num_hidden_layers":60,
             "qk_nope_head_dim":128,"qk_rope_head_dim":64,"max_position_embeddings":163840,"rope_theta":10000,
             "rope_scaling":{"beta_fast":32,"beta_slow":1,"factor":40,"mscale":0.707,"mscale_all_dim":0.707,
             "original_max_position_embeddings":4096,"type":"yarn"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].spectrum_for(1).magnitude() == 1.0);
             CHECK(near(m[0].logit_scale, std::pow(0.0707 * std::log(40.0) + 1, 2)));
         },
         "/rope_scaling/mscale", "\"0.707\"",
         R"(from_huggingface: rope_scaling.mscale must be a finite number, got "0.707")"},
        {"Phi-3 mini 128k, v4", phi3_128k.c_str(), check_phi3, "/rope_scaling/long_factor", "[1, 2]",
         "longrope: long_factors must hold one number > 0 a pair, got 2 numbers for 48 pairs"},
        {"Phi-3 mini 128k, the older name su", phi3_su.c_str(), check_phi3, "/rope_scaling/short_factor", "",
         "from_huggingface: rope_scaling.short_factor must be given, got nothing"},
        {"Phi-3 mini 128k, the oldest name yarn", phi3_old_yarn.c_str(), check_phi3,
         "/rope_scaling/short_factor/3", "\"1\"",
         R"(from_huggingface: rope_scaling.short_factor must be an array of finite numbers, got "1")"},
        {"Phi-4 mini, v4", phi4_mini.c_str(),
         [](const model_config& c, const model_schemes& m) {
             CHECK(m[0].head_dim == 128);
             check_phi3(c, m);
         },
         "/partial_rotary_factor", "1.5",
         "partial_rotary_dim: partial_rotary_factor must be in [0, 1], got 1.5"},
        {"Gemma 3 4B, v4",
         R"({"model_type":"gemma3","text_config":{"model_type":"gemma3_text","hidden_size":2560,
             "num_attention_heads":8,"num_key_value_heads":4,"num_hidden_layers":8,"head_dim":256,
             "max_position_embeddings":131072,"rope_theta":1000000.0,"rope_local_base_freq":10000.0,
             "sliding_window_pattern":6,"rope_scaling":{"factor":8.0,"rope_type":"linear"}},
             "vision_config":{"model_type":"siglip_vision_model"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaaaabaa");
             CHECK(near(last_omega(m[0]), slowest(1e4, 256)));
             CHECK(near(last_omega(m[5]), slowest(1e6, 256) / 8));
         },
         "/text_config/rope_local_base_freq", "[1]",
         "from_huggingface: text_config.rope_local_base_freq must be a finite number, got [1]"},
        {"Gemma 3, v5: one dictionary a layer type",
         R"({"model_type":"gemma3_text","hidden_size":2560,"num_attention_heads":8,"num_hidden_layers":6,
             "head_dim":256,"max_position_embeddings":131072,"layer_types":["sliding_attention","sliding_attention",
             "sliding_attention","sliding_attention","sliding_attention","full_attention"],"rope_parameters":{
             "full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1000000.0},
             "sliding_attention":{"rope_type":"default","rope_theta":10000.0}}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaaaab");
             CHECK(near(last_omega(m[0]), slowest(1e4, 256)));
             CHECK(near(last_omega(m[5]), slowest(1e6, 256) / 8));
         },
         "/rope_parameters/sliding_attention", "",
         "from_huggingface: rope_parameters.sliding_attention must be given, got nothing"},
        {"a layer type whose parameters are null has no position, v5",
         R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":3,
             "layer_types":["sliding_attention","full_attention","sliding_attention"],
             "rope_parameters":{"full_attention":null,"sliding_attention":{"rope_type":"default","rope_theta":10000.0}}})",
         [](const model_config&, const model_schemes& m) { CHECK(map_of(m) == "a-a"); }, "/layer_types",
         R"(["full_attention"])",
         "from_huggingface: layer_types must be as long as num_hidden_layers, got 1"},
        {"Gemma 4, v5",
         R"({"model_type":"gemma4","text_config":{"model_type":"gemma4_text","hidden_size":2304,
             "num_attention_heads":8,"num_hidden_layers":8,"head_dim":256,"global_head_dim":512,
             "max_position_embeddings":131072,"rope_parameters":{"full_attention":{"rope_type":"proportional",
             "partial_rotary_factor":0.25,"rope_theta":1000000.0},
             "sliding_attention":{"rope_type":"default","rope_theta":10000.0}}}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaaaabab");  // the last layer is always global
             CHECK(m[0].head_dim == 256);
             CHECK(m[5].head_dim == 512);
             CHECK(m[5].rotary_dim == 512);
             const auto s = m[5].spectrum_for(1);
             CHECK(near(s.omega(63), std::pow(1e6, -63 / 256.0)));
             CHECK(s.omega(64) == 0.0);
         },
         "/text_config/rope_parameters/full_attention/partial_rotary_factor", "-1",
         "p_rope: p must be in [0, 1], got -1"},
        {"GPT-NeoX 20B, v4 with its own keys",
         R"({"model_type":"gpt_neox","hidden_size":6144,"num_attention_heads":64,"num_hidden_layers":44,
             "max_position_embeddings":2048,"rotary_pct":0.25,"rotary_emb_base":10000})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].head_dim == 96);
             CHECK(m[0].rotary_dim == 24);
             CHECK(near(last_omega(m[0]), slowest(1e4, 24)));
         },
         "/rotary_emb_base", "true", "from_huggingface: rotary_emb_base must be a finite number, got true"},
        {"GPT-J 6B, v4 with its own keys",
         R"({"model_type":"gptj","n_embd":4096,"n_head":16,"n_layer":28,"n_positions":2048,"rotary":true,"rotary_dim":64})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m.layers() == 28);
             CHECK(m[0].head_dim == 256);
             CHECK(m[0].rotary_dim == 64);
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].max_context == 2048);
             CHECK(near(last_omega(m[0]), slowest(1e4, 64)));
         },
         "/rotary_dim", "63", "make_model_schemes: rotary_dim must be even and <= head_dim, got 63"},
        {"StableLM 3B, v4",
         R"({"model_type":"stablelm","hidden_size":2560,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":4096,"rope_theta":10000,"partial_rotary_factor":0.25})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].head_dim == 80);
             CHECK(m[0].rotary_dim == 20);
         },
         "/rope_scale", "2",
         "from_huggingface: rope_scale must be a key that is read here (it would be ignored), got 2"},
        {"Phi-2, v4",
         R"({"model_type":"phi","hidden_size":2560,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":2048,"rope_theta":10000.0,"rope_scaling":null,"partial_rotary_factor":0.4})",
         [](const model_config&, const model_schemes& m) { CHECK(m[0].rotary_dim == 32); }, "/hidden_size",
         "\"wide\"", R"(from_huggingface: hidden_size must be a whole number in [1, 2^63), got "wide")"},
        {"GLM-4 0414, v4",
         R"({"model_type":"glm4","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":2,"head_dim":128,
             "num_hidden_layers":40,"max_position_embeddings":32768,"rope_theta":10000.0,"partial_rotary_factor":0.5})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].write_layout == interleaved{});
             CHECK(m[0].rotary_dim == 64);
         },
         "/head_dim", "0", "from_huggingface: head_dim must be a whole number in [1, 2^63), got 0"},
        {"GLM-4 9B chat, its own keys",
         R"({"model_type":"chatglm","hidden_size":4096,"num_attention_heads":32,"multi_query_group_num":2,
             "kv_channels":128,"num_layers":40,"seq_length":131072,"rope_ratio":500,"original_rope":true})",
         [](const model_config& c, const model_schemes& m) {
             CHECK(c.key_heads == 2);
             CHECK(m[0].max_context == 131072);
             CHECK(near(last_omega(m[0]), slowest(5e6, 64)));
         },
         "/rope_ratio", "\"500\"", R"(from_huggingface: rope_ratio must be a finite number, got "500")"},
        {"Command-R 35B, v4",
         R"({"model_type":"cohere","hidden_size":8192,"num_attention_heads":64,"num_hidden_layers":40,
             "max_position_embeddings":8192,"rope_theta":8000000.0,"logit_scale":0.0625})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].logit_scale == 1.0);  // Cohere's key of that name scales the output logits
             CHECK(near(last_omega(m[0]), slowest(8e6, 128)));
         },
         "/rope_theta", "0", "geometric: base must be finite and > 0, got 0"},
        {"Command-R7B, v4: full layers have no position",
         R"({"model_type":"cohere2","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":128,
             "num_hidden_layers":8,"max_position_embeddings":8192,"rope_theta":50000,"sliding_window_pattern":4})",
         [](const model_config&, const model_schemes& m) { CHECK(map_of(m) == "aaa-aaa-"); },
         "/sliding_window_pattern", "0",
         "from_huggingface: sliding_window_pattern must be a whole number in [1, 2^63), got 0"},
        {"SmolLM3, v4: a list of layers with 1 for rope",
         R"({"model_type":"smollm3","hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":4,
             "num_hidden_layers":8,"max_position_embeddings":65536,"rope_theta":5000000.0,"no_rope_layer_interval":4,
             "no_rope_layers":[1,1,1,0,1,1,1,0]})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaa-aaa-");
             CHECK(near(last_omega(m[0]), slowest(5e6, 128)));
         },
         "/no_rope_layers", "[1,1]",
         "from_huggingface: no_rope_layers must be as long as num_hidden_layers, got 2"},
        {"Llama 4 Scout, v4",
         R"({"model_type":"llama4","text_config":{"model_type":"llama4_text","hidden_size":5120,
             "num_attention_heads":40,"num_key_value_heads":8,"head_dim":128,"num_hidden_layers":8,
             "max_position_embeddings":10485760,"rope_theta":500000.0,"no_rope_layers":[],
             "rope_scaling":{"factor":16.0,"high_freq_factor":1.0,"low_freq_factor":1.0,
             "original_max_position_embeddings":8192,"rope_type":"llama3"}}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaa-aaa-");
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].notes.size() == 1);
             CHECK(near(last_omega(m[0]), slowest(5e5, 128) / 16));
         },
         "/text_config/rope_scaling/high_freq_factor", "0.5",
         "llama3: high_freq_factor must be >= low_freq_factor, got 0.5"},
        {"Qwen2-VL, v4",
         R"({"model_type":"qwen2_vl","hidden_size":3584,"num_attention_heads":28,"num_key_value_heads":4,
             "num_hidden_layers":28,"max_position_embeddings":32768,"rope_theta":1000000.0,
             "rope_scaling":{"type":"mrope","mrope_section":[16,24,24]},"vision_config":{"embed_dim":1280}})",
         [](const model_config&, const model_schemes& m) {
             const auto s = m[0].spectrum_for(1);
             CHECK(s.axes() == 3);
             CHECK(s.axis_of(0, 15) == 0);
             CHECK(s.axis_of(0, 16) == 1);
             CHECK(s.axis_of(0, 40) == 2);
         },
         "/rope_scaling/mrope_section", "[16,24,23]",
         "from_huggingface: rope_scaling.mrope_section must be sections of 64 pairs in all, got 63"},
        {"Qwen3-VL, v5: sections spread over the ladder",
         R"({"model_type":"qwen3_vl","text_config":{"model_type":"qwen3_vl_text","hidden_size":4096,
             "num_attention_heads":32,"head_dim":128,"num_hidden_layers":36,"max_position_embeddings":262144,
             "rope_parameters":{"rope_type":"default","rope_theta":5000000,"mrope_interleaved":true,
             "mrope_section":[24,20,20]}}})",
         [](const model_config&, const model_schemes& m) {
             const auto s = m[0].spectrum_for(1);
             CHECK(s.axis_of(0, 58) == 1);
             CHECK(s.axis_of(0, 61) == 0);
             CHECK(near(last_omega(m[0]), slowest(5e6, 128)));
         },
         "/text_config/rope_parameters/mrope_interleaved", "1",
         "from_huggingface: text_config.rope_parameters.mrope_interleaved must be true or false, got 1"},
        {"Qwen3-Next: rotary in the attention layers only",
         R"({"model_type":"qwen3_next","hidden_size":2048,"num_attention_heads":16,"num_key_value_heads":2,
             "head_dim":256,"num_hidden_layers":8,"full_attention_interval":4,"max_position_embeddings":262144,
             "rope_theta":10000000,"partial_rotary_factor":0.25,"rope_scaling":null})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "---b---b");
             CHECK(m[3].rotary_dim == 64);
             CHECK(near(last_omega(m[3]), slowest(1e7, 64)));
         },
         "/num_hidden_layers", "70000",
         "from_huggingface: num_hidden_layers must be a number of layers <= 65536, got 70000"},
        {"OLMo 3, v4: the scaling belongs to full attention only",
         R"({"model_type":"olmo3","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":4,
             "max_position_embeddings":65536,"rope_theta":500000,"layer_types":["sliding_attention",
             "sliding_attention","sliding_attention","full_attention"],"rope_scaling":{
             "attention_factor":1.2079441541679836,"beta_fast":32.0,"beta_slow":1.0,"factor":8.0,
             "original_max_position_embeddings":8192,"rope_type":"yarn"}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(map_of(m) == "aaab");
             CHECK(m[0].spectrum_for(1).magnitude() == 1.0);
             CHECK(m[3].spectrum_for(1).magnitude() == 1.2079441541679836);
             CHECK(near(last_omega(m[0]), slowest(5e5, 128)));
             CHECK(near(last_omega(m[3]), slowest(5e5, 128) / 8));
         },
         "/rope_scaling/attention_factor", "0", "yarn: attention_factor must be finite and > 0, got 0"},
        {"Ministral 3, v5: mscale pair and a note on the queries",
         R"({"model_type":"ministral3","hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,
             "head_dim":128,"num_hidden_layers":34,"max_position_embeddings":262144,"rope_parameters":{
             "rope_type":"yarn","type":"yarn","rope_theta":1000000.0,"factor":16.0,"beta_fast":32.0,"beta_slow":1.0,
             "mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":16384,"llama_4_scaling_beta":0.1}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].spectrum_for(1).magnitude() == 1.0);
             CHECK(m[0].logit_scale == 1.0);
             REQUIRE(m[0].notes.size() == 1);
         },
         "/rope_parameters/type", "\"linear\"",
         R"(from_huggingface: rope_parameters.type must be what rope_type says, got "linear")"},
        {"Apertus, v5",
         R"({"model_type":"apertus","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":65536,"rope_parameters":{"rope_type":"llama3","rope_theta":12000000.0,
             "factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(near(last_omega(m[0]), slowest(1.2e7, 128) / 8));
         },
         "/rope_scaling", R"({"type":"linear","factor":2})",
         R"(from_huggingface: rope_scaling.type must be what rope_parameters says, got "linear")"},
        {"dynamic YaRN of jquesnelle/yarn",
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
             "max_position_embeddings":4096,"rope_scaling":{"type":"dynamic-yarn","original_max_position_embeddings":2048,
             "finetuned":false}})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].length_dependent);
             CHECK(m[0].spectrum_for(4096).magnitude() == 1.0);
             CHECK(near(m[0].spectrum_for(8192).magnitude(), 1.138629436111989));
         },
         "/rope_scaling/finetuned", "1",
         "from_huggingface: rope_scaling.finetuned must be true or false, got 1"},
        {"RoFormer",
         R"({"model_type":"roformer","hidden_size":768,"num_attention_heads":12,"num_hidden_layers":12,
             "max_position_embeddings":1536,"rotary_value":false})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].rotary_dim == 64);
             CHECK(m[0].read_layout == interleaved{});
             CHECK(m[0].notes.empty());
         },
         "/rotary_value", "1", "from_huggingface: rotary_value must be true or false, got 1"},
        {"Falcon 7B",
         R"({"model_type":"falcon","hidden_size":4544,"num_attention_heads":71,"num_hidden_layers":32,"alibi":false,
             "multi_query":true})",
         [](const model_config&, const model_schemes& m) {
             CHECK(m[0].head_dim == 64);
             CHECK(m[0].rotates);
         },
         "/alibi", "0", "from_huggingface: alibi must be true or false, got 0"},
    };
    return all;
}

}  // namespace

TEST_CASE("huggingface: every config text comes to its numbers", "[models][huggingface]") {
    CHECK(texts().size() >= 25);
    for (const auto& t : texts()) {
        INFO(t.name);
        const auto config = from_huggingface(json::parse(t.text));
        CHECK(config.ignored.empty());
        t.check(config, make_model_schemes(config));
    }
}

TEST_CASE("huggingface: every config text refuses one spoiled key by its name",
          "[models][huggingface][errors]") {
    for (const auto& t : texts()) {
        INFO(t.name);
        json spoiled = json::parse(t.text);
        const json::json_pointer where(t.spoiled_key);
        if (std::string(t.spoiled_value).empty()) {
            spoiled[where.parent_pointer()].erase(where.back());
        } else {
            spoiled[where] = json::parse(t.spoiled_value);
        }
        CHECK_REFUSES(t.refusal, from_huggingface(spoiled));
    }
}

TEST_CASE("huggingface: a model_type that is not known needs a layout", "[models][huggingface][errors]") {
    json config = json::parse(
        R"({"model_type":"newcomer","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":2,
            "rope_theta":10000})");
    CHECK_REFUSES(
        "from_huggingface: model_type must be one whose pair layout is known here (or pass a layout), "
        "got \"newcomer\"",
        from_huggingface(config));
    CHECK(make_model_schemes(from_huggingface(config, {.layout = interleaved{}}))[0].read_layout ==
          interleaved{});
    // A key that a class would give a meaning of its own, unless it is switched off.
    for (const char* key : {"use_dynamic_ntk", "use_logn_attn", "attn_layer_period", "kda_layers"}) {
        INFO(key);
        auto other = config;
        for (const json& off : {json(false), json()}) {
            other[key] = off;
            CHECK(from_huggingface(other, {.layout = interleaved{}}).ignored ==
                  std::vector<std::string>{"model_type"});
        }
        other[key] = true;
        CHECK_REFUSES(std::string("from_huggingface: ") + key +
                          " must be absent in a model_type that is not known (its class gives it a meaning), "
                          "got true",
                      from_huggingface(other, {.layout = interleaved{}}));
        const auto ignored =
            from_huggingface(other, {.keys = strictness::lenient, .layout = interleaved{}}).ignored;
        CHECK(std::count(ignored.begin(), ignored.end(), key) == 1);
    }
    config.erase("model_type");
    CHECK_REFUSES("from_huggingface: model_type must be given, got nothing", from_huggingface(config));
}

TEST_CASE("huggingface: use_mrope says what sections say, and nothing without them",
          "[models][huggingface][mrope]") {
    json config = json::parse(
        R"({"model_type":"qwen2_vl","hidden_size":1024,"num_attention_heads":8,"num_hidden_layers":2,
            "use_mrope":true,"rope_scaling":{"type":"mrope","mrope_section":[16,24,24]}})");
    const auto read = from_huggingface(config);
    CHECK(read.ignored.empty());
    CHECK(read.ropes[0].sections.size() == 3);
    config["use_mrope"] = false;
    CHECK(from_huggingface(config).ignored.empty());
    config = json::parse(
        R"({"model_type":"llama","hidden_size":1024,"num_attention_heads":8,"num_hidden_layers":2})");
    for (const json& scaling : {json(), json{{"type", "linear"}, {"factor", 2.0}}}) {
        INFO(scaling.dump());
        config["rope_scaling"] = scaling;
        config["use_mrope"] = false;
        CHECK(from_huggingface(config).ignored.empty());
        config["use_mrope"] = true;
        CHECK_REFUSES("from_huggingface: use_mrope must be false where there is no mrope_section, got true",
                      from_huggingface(config));
        CHECK(from_huggingface(config, {.keys = strictness::lenient}).ignored ==
              std::vector<std::string>{"use_mrope"});
    }
}

TEST_CASE("huggingface: numbers past int64 and configs that are no object", "[models][huggingface][errors]") {
    json config =
        json::parse(R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,"num_hidden_layers":2,
                                  "max_position_embeddings":18446744073709551615})");
    CHECK_REFUSES(
        "from_huggingface: max_position_embeddings must be a whole number in [1, 2^63), "
        "got 18446744073709551615",
        from_huggingface(config));
    CHECK_REFUSES("from_huggingface: the config must be an object, got [1,2]",
                  from_huggingface(json::parse("[1,2]")));
    CHECK_REFUSES(
        "from_huggingface: rope_scaling must be an object or null, got \"yarn\"",
        from_huggingface(json::parse(R"({"model_type":"llama","hidden_size":512,"num_attention_heads":4,
                                                   "num_hidden_layers":2,"rope_scaling":"yarn"})")));
}

#if defined(__cpp_exceptions)
TEST_CASE("huggingface: whatever stands in whatever key, it is read or refused as invalid_config",
          "[models][huggingface][errors]") {
    const char* const values[] = {"null",
                                  "true",
                                  "-1",
                                  "0",
                                  "0.5",
                                  "3",
                                  "1e300",
                                  "1e-300",
                                  "9223372036854775807",
                                  "18446744073709551615",
                                  "\"x\"",
                                  "[]",
                                  "{}",
                                  "[null]",
                                  "[[1]]",
                                  "{\"a\":1}"};
    int read = 0, refused = 0;
    for (const auto& t : texts()) {
        const json flat = json::parse(t.text).flatten();
        for (const auto& [where, old] : flat.items())
            for (const char* value : values)
                for (const auto keys : {strictness::strict, strictness::lenient}) {
                    INFO(t.name << " " << where << " = " << value);
                    json spoiled = json::parse(t.text);
                    spoiled[json::json_pointer(where)] = json::parse(value);
                    try {
                        const auto model = make_model_schemes(from_huggingface(spoiled, {.keys = keys}));
                        for (const auto& rope : model.distinct())
                            static_cast<void>(rope.spectrum_for(100000));
                        ++read;
                    } catch (const invalid_config& e) {
                        CHECK(std::string(e.what()).find(" must ") != std::string::npos);
                        ++refused;
                    }
                }
    }
    CHECK(read > 1000);
    CHECK(refused > 1000);
}
#endif

TEST_CASE("huggingface: multimodal models without sections have those of their class",
          "[models][huggingface][mrope]") {
    const auto read = [](const std::string& type, strictness keys) {
        return make_model_schemes(from_huggingface(
            json::parse(R"({"model_type":")" + type +
                        R"(","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":4})"),
            {.keys = keys}));
    };
    for (const auto keys : {strictness::strict, strictness::lenient}) {
        for (const char* type :
             {"qwen2_vl", "qwen2_5_vl_text", "qwen2_5_omni_text", "qwen2_5_omni_thinker"}) {
            const auto s = read(type, keys)[0].spectrum_for(1);
            CHECK(frequencies::axes_of_pairs(s) == axis_map::sections({16, 24, 24}));
            CHECK(near(s.omega(63), slowest(1e6, 128)));
        }
        for (const char* type : {"qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text"}) {
            const auto s = read(type, keys)[0].spectrum_for(1);
            CHECK(frequencies::axes_of_pairs(s) == axis_map::interleaved_sections({24, 20, 20}));
            CHECK(near(s.omega(63), slowest(5e5, 128)));
        }
        for (const char* type : {"qwen3_5", "qwen3_5_text", "qwen3_5_moe_text"}) {
            const auto m = read(type, keys);
            CHECK(map_of(m) == "---b");  // the others are linear attention
            CHECK(m[3].head_dim == 256);
            CHECK(m[3].rotary_dim == 64);
            const auto s = m[3].spectrum_for(1);
            CHECK(frequencies::axes_of_pairs(s) == axis_map::interleaved_sections({11, 11, 10}));
            CHECK(near(s.omega(31), slowest(1e4, 64)));
        }
    }
    const auto omni = [](const char* sections) {
        return from_huggingface(json::parse(
            std::string(R"({"model_type":"qwen2_5_omni","thinker_config":{"model_type":"qwen2_5_omni_thinker",
                "position_id_per_seconds":25,"text_config":{"model_type":"qwen2_5_omni_text",
                "hidden_size":3584,"num_attention_heads":28,"num_hidden_layers":28,
                "max_position_embeddings":32768,"rope_theta":1000000.0,
                "rope_scaling":{"type":"default","rope_type":"default","mrope_section":)") +
            sections + "}}}}"));
    };
    CHECK(omni("[16,24,24]").ropes[0].sections == std::vector<ropewalk::index>{16, 24, 24});
    CHECK_REFUSES(
        "from_huggingface: thinker_config.text_config.rope_scaling.mrope_section must be sections of "
        "64 pairs in all, got 63",
        omni("[16,24,23]"));
}
