// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/models/presets.hpp>

#include "models/preset_rows.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;

namespace {

presets::longrope_factors longrope48() {
    presets::longrope_factors f;
    for (int i = 0; i < 48; ++i) {
        f.short_factors.push_back(1 + i / 64.0);
        f.long_factors.push_back(1 + i / 2.0);
    }
    return f;
}
std::string with_longrope48(std::string text) {
    auto json = nlohmann::json::parse(text);
    json["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", longrope48().short_factors},
                            {"long_factor", longrope48().long_factors}};
    return json.dump();
}

std::vector<preset_rows::row> rows() {
    using namespace presets;
    constexpr auto hf = weights::hugging_face;
    static const std::string phi3 =
        with_longrope48(R"({"model_type":"phi3","hidden_size":3072,"num_attention_heads":32,
        "num_hidden_layers":32,"max_position_embeddings":131072,"original_max_position_embeddings":4096,"rope_theta":10000.0})");
    static const std::string phi4 = with_longrope48(
        R"({"model_type":"phi3","hidden_size":3072,"num_attention_heads":24,"num_hidden_layers":32,
        "max_position_embeddings":131072,"original_max_position_embeddings":4096,"rope_theta":10000.0,"partial_rotary_factor":0.75})");
    return {
        {"falcon3_7b", falcon3_7b(hf),
         R"({"model_type":"llama","hidden_size":3072,"num_attention_heads":12,"head_dim":256,"num_hidden_layers":28,"max_position_embeddings":32768,"rope_theta":1000042})"},
        {"chatglm_6b", chatglm_6b(hf),
         R"({"model_type":"chatglm","hidden_size":4096,"num_attention_heads":32,"num_layers":28,"max_sequence_length":2048,"position_encoding_2d":true})"},
        {"qwen25_7b", qwen25_7b(hf),
         R"({"model_type":"qwen2","hidden_size":3584,"num_attention_heads":28,"num_hidden_layers":28,"max_position_embeddings":32768,"rope_theta":1000000.0})"},
        {"qwen25_7b_yarn", qwen25_7b_yarn(hf),
         R"({"model_type":"qwen2","hidden_size":3584,"num_attention_heads":28,"num_hidden_layers":28,"max_position_embeddings":32768,"rope_theta":1000000.0,
            "rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32768}})"},
        {"qwen3_8b", qwen3_8b(hf),
         R"({"model_type":"qwen3","hidden_size":4096,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":36,"max_position_embeddings":40960,"rope_theta":1000000})"},
        {"qwen3_8b_yarn", qwen3_8b_yarn(hf),
         R"({"model_type":"qwen3","hidden_size":4096,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":36,"max_position_embeddings":40960,"rope_theta":1000000,
            "rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768}})"},
        {"qwen3_next_80b", qwen3_next_80b(hf),
         R"({"model_type":"qwen3_next","hidden_size":2048,"num_attention_heads":16,"head_dim":256,"num_hidden_layers":48,"max_position_embeddings":262144,
            "rope_theta":10000000,"partial_rotary_factor":0.25,"full_attention_interval":4})"},
        {"gemma_7b", gemma_7b(hf),
         R"({"model_type":"gemma","hidden_size":3072,"num_attention_heads":16,"head_dim":256,"num_hidden_layers":28,"max_position_embeddings":8192,"rope_theta":10000.0})"},
        {"gemma2_27b", gemma2_27b(hf),
         R"({"model_type":"gemma2","hidden_size":4608,"num_attention_heads":32,"head_dim":128,"query_pre_attn_scalar":144,"num_hidden_layers":46,"max_position_embeddings":8192,"rope_theta":10000.0})"},
        {"gemma2_9b", gemma2_9b(hf),
         R"({"model_type":"gemma2","hidden_size":3584,"num_attention_heads":16,"head_dim":256,"num_hidden_layers":42,"max_position_embeddings":8192,"rope_theta":10000.0})"},
        {"gemma3_4b", gemma3_4b(hf),
         R"({"model_type":"gemma3","text_config":{"model_type":"gemma3_text","hidden_size":2560,"num_attention_heads":8,"num_hidden_layers":34,"max_position_embeddings":131072,
            "rope_scaling":{"rope_type":"linear","factor":8.0}}})"},
        {"gemma3_12b", gemma3_12b(hf),
         R"({"model_type":"gemma3_text","hidden_size":3840,"num_attention_heads":16,"head_dim":256,"num_hidden_layers":48,"max_position_embeddings":131072,
            "rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rope_scaling":{"rope_type":"linear","factor":8.0}})"},
        {"gemma3_27b", gemma3_27b(hf),
         R"({"model_type":"gemma3_text","hidden_size":5376,"num_attention_heads":32,"head_dim":128,"query_pre_attn_scalar":168,"num_hidden_layers":62,"max_position_embeddings":131072,
            "rope_theta":1000000.0,"rope_local_base_freq":10000.0,"rope_scaling":{"rope_type":"linear","factor":8.0}})"},
        {"gemma3_1b", gemma3_1b(hf),
         R"({"model_type":"gemma3_text","hidden_size":1152,"num_attention_heads":4,"head_dim":256,"num_hidden_layers":26,"max_position_embeddings":32768,
            "rope_theta":1000000,"rope_local_base_freq":10000,"rope_scaling":null,"sliding_window_pattern":6})"},
        {"gemma4", gemma4(hf),
         R"({"model_type":"gemma4_text","hidden_size":2304,"num_attention_heads":8,"num_hidden_layers":30,"max_position_embeddings":131072})"},
        {"gpt_neox_20b", gpt_neox_20b(hf),
         R"({"model_type":"gpt_neox","hidden_size":6144,"num_attention_heads":64,"num_hidden_layers":44,"max_position_embeddings":2048,"rotary_pct":0.25,"rotary_emb_base":10000})"},
        {"falcon_7b", falcon_7b(hf),
         R"({"model_type":"falcon","hidden_size":4544,"num_attention_heads":71,"num_hidden_layers":32,"max_position_embeddings":2048,"alibi":false})"},
        {"stablelm_3b", stablelm_3b(hf),
         R"({"model_type":"stablelm","hidden_size":2560,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":4096,"partial_rotary_factor":0.25})"},
        {"stablelm2_1_6b", stablelm2_1_6b(hf),
         R"({"model_type":"stablelm","hidden_size":2048,"num_attention_heads":32,"num_hidden_layers":24,"max_position_embeddings":4096,"rope_pct":0.25})"},
        {"phi1_5", phi1_5(hf),
         R"({"model_type":"phi","hidden_size":2048,"num_attention_heads":32,"num_hidden_layers":24,"max_position_embeddings":2048,"partial_rotary_factor":0.5})"},
        {"phi2", phi2(hf),
         R"({"model_type":"phi","hidden_size":2560,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":2048,"partial_rotary_factor":0.4})"},
        {"phi3_mini_4k", phi3_mini_4k(hf),
         R"({"model_type":"phi3","hidden_size":3072,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":4096,"original_max_position_embeddings":4096,"rope_scaling":null})"},
        {"phi3_mini_128k", phi3_mini_128k(hf, longrope48()), phi3.c_str()},
        {"phi4_mini", phi4_mini(hf, longrope48()), phi4.c_str()},
        {"phi4_14b", phi4_14b(hf),
         R"({"model_type":"phi3","hidden_size":5120,"num_attention_heads":40,"num_hidden_layers":40,"max_position_embeddings":16384,"original_max_position_embeddings":16384,"rope_theta":250000})"},
        {"olmo_7b", olmo_7b(hf),
         R"({"model_type":"olmo","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":2048,"rope_theta":10000.0})"},
        {"olmo2_7b", olmo2_7b(hf),
         R"({"model_type":"olmo2","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":4096,"rope_theta":500000})"},
        {"olmo3_7b", olmo3_7b(hf),
         R"({"model_type":"olmo3","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":65536,"rope_theta":500000,
            "rope_scaling":{"rope_type":"yarn","factor":8.0,"attention_factor":1.2079441541679836,"original_max_position_embeddings":8192}})"},
        {"gpt_oss_20b", gpt_oss_20b(hf),
         R"({"model_type":"gpt_oss","hidden_size":2880,"num_attention_heads":64,"head_dim":64,"num_hidden_layers":24,"max_position_embeddings":131072,"rope_theta":150000,
            "rope_scaling":{"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"truncate":false,"original_max_position_embeddings":4096}})"},
        {"roformer_base", roformer_base(hf),
         R"({"model_type":"roformer","hidden_size":768,"num_attention_heads":12,"num_hidden_layers":12,"max_position_embeddings":1536,"rotary_value":false})"},
        {"gpt_j_6b", gpt_j_6b(hf),
         R"({"model_type":"gptj","n_embd":4096,"n_head":16,"n_layer":28,"n_positions":2048,"rotary_dim":64})"},
        {"codegen_350m", codegen_350m(hf),
         R"({"model_type":"codegen","n_embd":1024,"n_head":16,"n_layer":20,"n_positions":2048,"rotary_dim":32})"},
        {"chatglm3_6b", chatglm3_6b(hf),
         R"({"model_type":"chatglm","hidden_size":4096,"num_attention_heads":32,"kv_channels":128,"num_layers":28,"seq_length":8192,"original_rope":true})"},
        {"glm4_9b_0414", glm4_9b_0414(hf),
         R"({"model_type":"glm4","hidden_size":4096,"num_attention_heads":32,"head_dim":128,"num_hidden_layers":40,"max_position_embeddings":32768,"partial_rotary_factor":0.5})"},
        {"glm4_9b_chat", glm4_9b_chat(hf),
         R"({"model_type":"chatglm","hidden_size":4096,"num_attention_heads":32,"kv_channels":128,"num_layers":40,"seq_length":131072,"rope_ratio":500})"},
        {"command_r_35b", command_r_35b(hf),
         R"({"model_type":"cohere","hidden_size":8192,"num_attention_heads":64,"num_hidden_layers":40,"max_position_embeddings":131072,"rope_theta":8000000.0})"},
        {"command_r_plus", command_r_plus(hf),
         R"({"model_type":"cohere","hidden_size":12288,"num_attention_heads":96,"num_hidden_layers":64,"max_position_embeddings":131072,"rope_theta":75000000.0})"},
        {"command_r7b", command_r7b(hf),
         R"({"model_type":"cohere2","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"max_position_embeddings":8192,"rope_theta":50000,"sliding_window_pattern":4})"},
        {"deepseek_v3", deepseek_v3(hf),
         R"({"model_type":"deepseek_v3","hidden_size":7168,"num_attention_heads":128,"num_hidden_layers":61,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"max_position_embeddings":163840,
            "rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":4096}})"},
        {"deepseek_v2", deepseek_v2(hf),
         R"({"model_type":"deepseek_v2","hidden_size":5120,"num_attention_heads":128,"num_hidden_layers":60,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"max_position_embeddings":163840,
            "rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,"original_max_position_embeddings":4096}})"},
    };
}

}  // namespace

TEST_CASE("presets: each equals what the reader makes of the model's config text", "[models][presets]") {
    preset_rows::check(rows());
}

TEST_CASE("presets: the weights' origin decides the layout", "[models][presets]") {
    CHECK(presets::qwen3_8b(weights::gguf).read_layout == pair_layout(half_split{}));
    CHECK(presets::gpt_j_6b(weights::hugging_face).read_layout == pair_layout(interleaved{}));
    CHECK(presets::deepseek_v3(weights::hugging_face).write_layout == pair_layout(half_split{}));
    CHECK(presets::deepseek_v3(weights::gguf).write_layout == pair_layout(interleaved{}));
    CHECK_REFUSES("qwen3_8b: weights must be hugging_face or gguf (Meta never published it), got meta",
                  presets::qwen3_8b(weights::meta));
}

TEST_CASE("presets: gpt-oss's scaling as plain data is what its preset turns by", "[models][presets]") {
    const auto s = make_spectrum(presets::gpt_oss_parameters(), 64, 1);
    const auto preset = presets::gpt_oss_20b(weights::hugging_face).spectrum_for(1);
    CHECK(s.omegas() == preset.omegas());
    CHECK(s.magnitude() == preset.magnitude());
}
