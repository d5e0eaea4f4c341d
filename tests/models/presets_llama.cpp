// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/presets_llama.hpp>

#include <string>

#include "models/preset_rows.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

std::vector<preset_rows::row> rows() {
    using namespace presets;
    constexpr auto hf = weights::hugging_face;
    return {
        {"llama1_7b", llama1_7b(hf),
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":2048})"},
        {"llama2_7b", llama2_7b(hf),
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":4096,"rope_scaling":null})"},
        {"code_llama_7b", code_llama_7b(hf),
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":16384,"rope_theta":1000000})"},
        {"llama3_8b", llama3_8b(hf),
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":8192,"rope_theta":500000.0})"},
        {"llama3_70b", llama3_70b(hf),
         R"({"model_type":"llama","hidden_size":8192,"num_attention_heads":64,"num_hidden_layers":80,"max_position_embeddings":8192,"rope_theta":500000.0})"},
        {"llama31_8b", llama31_8b(hf),
         R"({"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":131072,"rope_theta":500000.0,
            "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"},
        {"llama32_1b", llama32_1b(hf),
         R"({"model_type":"llama","hidden_size":2048,"num_attention_heads":32,"head_dim":64,"num_hidden_layers":16,"max_position_embeddings":131072,
            "rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"},
        {"llama32_3b", llama32_3b(hf),
         R"({"model_type":"llama","hidden_size":3072,"num_attention_heads":24,"num_hidden_layers":28,"max_position_embeddings":131072,"rope_theta":500000.0,
            "rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"},
        {"llama4_scout", llama4_scout(hf),
         R"({"model_type":"llama4_text","hidden_size":5120,"num_attention_heads":40,"head_dim":128,"num_hidden_layers":48,"max_position_embeddings":10485760,
            "rope_theta":500000.0,"no_rope_layers":[],"rope_scaling":{"rope_type":"llama3","factor":16.0,"low_freq_factor":1.0,"high_freq_factor":1.0,"original_max_position_embeddings":8192}})"},
        {"mistral_7b", mistral_7b(hf),
         R"({"model_type":"mistral","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":10000.0,"sliding_window":4096})"},
        {"mistral_7b_v02", mistral_7b_v02(hf),
         R"({"model_type":"mistral","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":1000000.0,"sliding_window":null})"},
        {"mixtral_8x7b", mixtral_8x7b(hf),
         R"({"model_type":"mixtral","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":1000000.0})"},
        {"mistral_nemo", mistral_nemo(hf),
         R"({"model_type":"mistral","hidden_size":5120,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":40,"max_position_embeddings":131072,"rope_theta":1000000.0})"},
        {"mistral_small3", mistral_small3(hf),
         R"({"model_type":"mistral","hidden_size":5120,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":40,"max_position_embeddings":32768,"rope_theta":100000000.0})"},
        {"ministral3_8b", ministral3_8b(hf),
         R"({"model_type":"ministral3","hidden_size":4096,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":34,"max_position_embeddings":262144,
            "rope_parameters":{"rope_type":"yarn","rope_theta":1000000.0,"factor":16.0,"beta_fast":32.0,"beta_slow":1.0,"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":16384,"llama_4_scaling_beta":0.1}})"},
        {"yi_34b_200k", yi_34b_200k(hf),
         R"({"model_type":"llama","hidden_size":7168,"num_attention_heads":56,"num_hidden_layers":60,"max_position_embeddings":200000,"rope_theta":5000000.0})"},
        {"internlm2_7b", internlm2_7b(hf),
         R"({"model_type":"internlm2","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":1000000,"rope_scaling":{"type":"dynamic","factor":2.0}})"},
        {"internlm2_7b, 3", internlm2_7b(hf, 3),
         R"({"model_type":"internlm2","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":32768,"rope_theta":1000000,"rope_scaling":{"type":"dynamic","factor":3.0}})"},
        {"smollm3_3b", smollm3_3b(hf),
         R"({"model_type":"smollm3","hidden_size":2048,"num_attention_heads":16,"num_hidden_layers":36,"max_position_embeddings":65536,"rope_theta":5000000.0,"no_rope_layer_interval":4})"},
        {"smollm3_3b_yarn", smollm3_3b_yarn(hf),
         R"({"model_type":"smollm3","hidden_size":2048,"num_attention_heads":16,"num_hidden_layers":36,"max_position_embeddings":65536,"rope_theta":5000000.0,"no_rope_layer_interval":4,
            "rope_scaling":{"type":"yarn","factor":2.0,"original_max_position_embeddings":65536}})"},
        {"apertus_8b", apertus_8b(hf),
         R"({"model_type":"apertus","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":65536,
            "rope_parameters":{"rope_type":"llama3","rope_theta":12000000,"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}})"},
    };
}

/// A preset and its name; of several schemes the first, which rotates in every model here.
struct named_preset {
    const char* name;
    rotary_scheme (*make)(weights);
};

pair_layout layout_of(const named_preset& p, weights origin) {
    const auto scheme = p.make(origin);
    CHECK(scheme.write_layout == scheme.read_layout);
    return scheme.read_layout;
}

std::string refusal_of(const char* preset) {
    return std::string(preset) + ": weights must be hugging_face or gguf (Meta never published it), got meta";
}

}  // namespace

TEST_CASE("presets_llama: each equals what the reader makes of the model's config text",
          "[models][presets]") {
    preset_rows::check(rows());
}

TEST_CASE("presets_llama: what Meta published is interleaved there and in GGUF", "[models][presets]") {
    using namespace presets;
    for (const named_preset& p : {named_preset{"llama1_7b", llama1_7b},
                                  {"llama2_7b", llama2_7b},
                                  {"code_llama_7b", code_llama_7b},
                                  {"llama3_8b", llama3_8b},
                                  {"llama3_70b", llama3_70b},
                                  {"llama31_8b", llama31_8b},
                                  {"llama32_1b", llama32_1b},
                                  {"llama32_3b", llama32_3b}}) {
        INFO(p.name);
        CHECK(layout_of(p, weights::hugging_face) == half_split{});
        CHECK(layout_of(p, weights::meta) == interleaved{});
        CHECK(layout_of(p, weights::gguf) == interleaved{});
    }
    for (const weights origin : {weights::hugging_face, weights::meta, weights::gguf})
        CHECK(layout_of({"llama4_scout", [](weights w) { return llama4_scout(w)[0]; }}, origin) ==
              interleaved{});
}

TEST_CASE("presets_llama: what others published is interleaved in GGUF, and none of Meta's",
          "[models][presets][errors]") {
    using namespace presets;
    for (const named_preset& p : {named_preset{"mistral_7b", mistral_7b},
                                  {"mixtral_8x7b", mixtral_8x7b},
                                  {"mistral_nemo", mistral_nemo},
                                  {"mistral_small3", mistral_small3},
                                  {"ministral3_8b", ministral3_8b},
                                  {"yi_34b_200k", yi_34b_200k},
                                  {"mistral_7b_v02", mistral_7b_v02},
                                  {"internlm2_7b", [](weights w) { return internlm2_7b(w); }},
                                  {"smollm3_3b", [](weights w) { return smollm3_3b(w)[0]; }},
                                  {"smollm3_3b_yarn", [](weights w) { return smollm3_3b_yarn(w)[0]; }}}) {
        INFO(p.name);
        CHECK(layout_of(p, weights::hugging_face) == half_split{});
        CHECK(layout_of(p, weights::gguf) == interleaved{});
        CHECK_REFUSES(refusal_of(p.name), p.make(weights::meta));
    }
    // GGUF leaves Apertus's channels as they are.
    CHECK(layout_of({"apertus_8b", apertus_8b}, weights::hugging_face) == half_split{});
    CHECK(layout_of({"apertus_8b", apertus_8b}, weights::gguf) == half_split{});
    CHECK_REFUSES(refusal_of("apertus_8b"), apertus_8b(weights::meta));
}

TEST_CASE("presets_llama: Llama 3.1's scaling as plain data is what its preset turns by",
          "[models][presets]") {
    const auto s = make_spectrum(presets::llama31_parameters(), 128, 1);
    CHECK(s.omegas() == presets::llama31_8b(weights::meta).spectrum_for(1).omegas());
    CHECK(presets::llama31_parameters(32).factor == 32.0);
}
