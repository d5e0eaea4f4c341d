// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/tower_models.hpp>

#include <map>
#include <string_view>

#include "support/catch.hpp"

namespace checks = ropewalk::ROPEWALK_ISA::detail;

TEST_CASE("tower_models: what the classes say of a tower whose config says nothing", "[models][towers]") {
    struct tower {
        int head_dim;  ///< hidden_size / num_attention_heads; 0: a config must say it
        double base = 1e4, partial = 1;
        bool interleaved = false;
        int merge = 2;
    };
    // The defaults of the configuration classes, and whether the modules rotate neighbours.
    const std::map<std::string_view, tower> classes{
        {"qwen2_vl", {80}},
        {"qwen2_5_vl", {80}},
        {"qwen3_vl", {72}},
        {"qwen3_vl_moe", {72}},
        {"qwen3_5", {72}},
        {"qwen3_5_moe", {72}},
        {"qwen2_5_omni_vision_encoder", {80}},
        {"qwen3_omni_moe_vision_encoder", {72}},
        {"glm4v_vision", {128}},
        {"glm4v_moe_vision", {128}},
        {"glm_ocr_vision", {64}},
        {"ernie4_5_vl_moe_vision", {80}},
        {"exaone4_5_vision", {0}},
        {"video_llama_3_vision", {.head_dim = 64, .merge = 1}},
        {"paddleocr_vl_vision", {72}},
        {"pixtral", {64}},
        {"llama4_vision_model", {48}},
        {"gemma4_vision", {64, 100}},
        {"dinov3_vit", {64, 100}},
        {"kimi_k25_vision", {72}},
        {"moonvit", {.head_dim = 72, .interleaved = true}},
        {"kimi_vl", {.head_dim = 72, .interleaved = true}},
        {"muse_glimmer_vision", {0}},
        {"minimax_m3_vl_vision", {80}},
        {"mlcd_vision_model", {104}},
        {"mlcd", {104}},
        {"efficientloftr", {32, 1e4, 4}},
        {"lightglue", {64}},
        {"sam2_video", {256}},
        {"sam3_tracker_video", {256}},
        {"sam3_vit_model", {64}},
        {"eva02", {64}},
        {"mimi", {64}},
        {"moonshine", {36, 1e4, 0.9, true}},
        {"moonshine_streaming_encoder", {40}},
        {"qwen2_5_omni_dit", {.head_dim = 64, .interleaved = true}},
        {"voxtral_realtime_encoder", {64}},
        {"glmasr_encoder", {64, 1e4, 0.5}},
        {"lasr_encoder", {64}},
        {"pe_audio_encoder", {128, 2e4, 1, true}},
        {"pe_video_encoder", {128, 2e4, 1, true}},
        {"pe_audio_video_encoder", {128, 2e4, 1, true}},
        {"timesfm2_5", {80}},
        {"seamless_m4t", {64}},
        {"wav2vec2-conformer", {64}},
        {"wav2vec2-bert", {64}},
        {"clvp_encoder", {64}},
        {"musicflamingo", {1280, 1200, 0.2}},
        {"vjepa2", {0}},
    };
    CHECK(classes.size() == checks::tower_families.size());
    for (const auto& family : checks::tower_families) {
        INFO(family.model_type);
        REQUIRE(classes.contains(family.model_type));
        const tower& want = classes.at(family.model_type);
        CHECK(want.head_dim == (family.head_dim != 0 ? family.head_dim
                                : family.heads != 0  ? family.width / family.heads
                                                     : family.width));
        CHECK(want.base == family.base);
        CHECK(want.partial == family.partial);
        CHECK(want.interleaved == family.interleaved);
        CHECK(want.merge == family.merge);
    }
}

TEST_CASE("tower_models: every tower is found by its name", "[models][towers]") {
    for (const auto& family : checks::tower_families) {
        INFO(family.model_type);
        CHECK(checks::find_tower_family(family.model_type) == &family);  // a second entry would never be read
        CHECK(family.base > 0);
        CHECK((family.heads == 0 || family.width % family.heads == 0));
    }
    // By the name of the model it stands in front of, and by the one that newer releases give it.
    CHECK(checks::find_tower_family("kimi_k25")->kind == checks::tower_kind::kimi);
    CHECK(checks::find_tower_family("glm4v")->kind == checks::tower_kind::merged);
    CHECK(checks::find_tower_family("qwen2_5_vl_vision")->kind == checks::tower_kind::merged);
    for (const char* name : {"", "kimi", "qwen", "clip_vision", "pixtral_vision"}) {
        INFO(name);
        CHECK(checks::find_tower_family(name) == nullptr);
    }
}
