// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/vision_towers.hpp>

#include <cmath>
#include <functional>
#include <numbers>

#include <ropewalk/angles/make_angles.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using grid_thw = qwen_vl_vision::grid_thw;

namespace {

tower read(const char* text, const tower_reading& reading = {}) {
    return from_tower(json::parse(text), reading);
}

/// base^(-2 i / channels), in more digits than the library has.
long double rung(double base, ropewalk::index i, ropewalk::index channels) {
    return std::pow(static_cast<long double>(base), -2.0L * static_cast<long double>(i) / channels);
}

/// The angles of every pair of every token against a formula of (token, pair).
void check_angles(const rotary_scheme& rope, const position_ids& where, ropewalk::index tokens,
                  const std::function<long double(ropewalk::index, ropewalk::index)>& want) {
    const auto s = rope.spectrum_for(1);
    REQUIRE(where.tokens() == tokens);
    const auto got = make_angles(s, where);
    for (ropewalk::index n = 0; n < tokens; ++n) {
        if (!where.touched(n)) continue;
        for (ropewalk::index p = 0; p < s.pairs(); ++p) {
            INFO("token " << n << ", pair " << p);
            CHECK(got[static_cast<std::size_t>(n * s.pairs() + p)] ==
                  Approx(static_cast<double>(want(n, p))).epsilon(1e-13).margin(1e-300));
        }
    }
}
/// Row and column of token n of a grid of merge x merge blocks.
std::pair<ropewalk::index, ropewalk::index> merged(ropewalk::index n, ropewalk::index width,
                                                   ropewalk::index merge) {
    const ropewalk::index unit = merge * merge, block = n / unit, inside = n % unit;
    return {block / (width / merge) * merge + inside / merge,
            block % (width / merge) * merge + inside % merge};
}

}  // namespace

TEST_CASE("vision_towers: the Qwen family, row first, in merge blocks", "[models][towers]") {
    const std::vector<grid_thw> grid{{1, 4, 6}};
    for (
        const char* config :
        {R"({"model_type": "qwen2_vl", "vision_config": {"embed_dim": 1280, "hidden_size": 3584, "num_heads": 16,
              "spatial_merge_size": 2, "depth": 32}})",
         R"({"model_type": "qwen2_5_vl", "vision_config": {"model_type": "qwen2_5_vl", "hidden_size": 1280,
              "num_heads": 16, "depth": 32, "tokens_per_second": 2}})",
         R"({"model_type": "qwen2_5_omni", "thinker_config": {"model_type": "qwen2_5_omni_thinker",
              "vision_config": {"model_type": "qwen2_5_omni_vision_encoder", "depth": 32}}})",
         R"({"model_type": "glm4v", "vision_config": {"hidden_size": 1280, "num_heads": 16, "depth": 32}})"}) {
        INFO(config);
        const auto eyes = read(config);
        CHECK(eyes.layers == 32);
        CHECK(eyes.rope.head_dim == 80);
        CHECK(eyes.rope.read_layout == pair_layout(half_split{}));
        check_angles(eyes.rope, eyes.patches(grid), 24, [](ropewalk::index n, ropewalk::index p) {
            const auto [row, column] = merged(n, 6, 2);
            return rung(1e4, p % 20, 40) * static_cast<long double>(p < 20 ? row : column);
        });
        CHECK_FALSE(eyes.frames);
    }
    // Qwen3-VL: 1152 / 16.
    CHECK(read(R"({"model_type": "qwen3_vl", "vision_config": {"model_type": "qwen3_vl"}})").rope.head_dim ==
          72);
    // PaddleOCR's patches go row by row.
    const auto paddle = read(R"({"model_type": "paddleocr_vl", "vision_config": {"hidden_size": 1152}})");
    check_angles(paddle.rope, paddle.patches(grid), 24, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p % 18, 36) * static_cast<long double>(p < 18 ? n / 6 : n % 6);
    });
}

TEST_CASE("vision_towers: Pixtral, Llama 4, Gemma 4 and DINOv3 through their own headers",
          "[models][towers]") {
    const std::vector<grid_thw> grid{{1, 2, 3}};
    const auto pixtral = read(R"({"model_type": "mistral3", "vision_config": {"model_type": "pixtral",
        "hidden_size": 1024, "num_attention_heads": 16, "head_dim": 64, "image_size": 1024, "patch_size": 16,
        "rope_theta": 10000.0}})");
    CHECK(pixtral.rope.read_layout == pair_layout(half_split{}));
    check_angles(pixtral.rope, pixtral.patches(grid), 6, [](ropewalk::index n, ropewalk::index p) {
        return p < 16 ? rung(1e4, 2 * p, 64) * static_cast<long double>(n / 3)
                      : rung(1e4, 2 * (p - 16) + 1, 64) * static_cast<long double>(n % 3);
    });
    CHECK_REFUSES("pixtral::patches: width must be >= 1 and at most max_side, got 65",
                  pixtral.patches(std::vector<grid_thw>{{1, 64, 65}}));

    const auto llama = read(R"({"model_type": "llama4", "vision_config": {"model_type": "llama4_vision_model",
        "hidden_size": 1408, "num_attention_heads": 16, "rope_theta": 10000}})");
    CHECK(llama.rope.head_dim == 88);
    CHECK(llama.rope.read_layout == pair_layout(interleaved{}));
    const auto square = llama.patches(std::vector<grid_thw>{{1, 2, 2}});
    CHECK_FALSE(square.touched(4));  // the class token comes last
    check_angles(llama.rope, square, 5, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p % 22, 44) * static_cast<long double>(1 + (p < 22 ? n % 2 : n / 2));
    });
    CHECK_REFUSES("from_tower: an image must be square: wanted 2, got 3", llama.patches(grid));
    CHECK_REFUSES("from_tower: frames of an image must be 1, got 2",
                  llama.patches(std::vector<grid_thw>{{2, 2, 2}}));

    const auto gemma = read(R"({"model_type": "gemma4", "vision_config": {"model_type": "gemma4_vision",
        "head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}})");
    CHECK(gemma.rope.read_layout == pair_layout::blocked_by(8));
    check_angles(gemma.rope, gemma.patches(grid), 6, [](ropewalk::index n, ropewalk::index p) {
        return rung(100, p % 4, 8) * static_cast<long double>(p < 4 ? n % 3 : n / 3);
    });

    const auto dino = read(R"({"model_type": "dinov3_vit", "hidden_size": 384, "num_attention_heads": 6,
        "num_register_tokens": 4, "rope_theta": 100.0, "num_hidden_layers": 12})");
    CHECK(dino.layers == 12);
    const auto where = dino.patches(grid);
    CHECK_FALSE(where.touched(4));
    check_angles(dino.rope, where, 11, [](ropewalk::index n, ropewalk::index p) {
        const auto m = static_cast<long double>(n - 5);
        const long double row = 2 * (std::floor(m / 3) + 0.5L) / 2 - 1;
        const long double column = 2 * (std::fmod(m, 3.0L) + 0.5L) / 3 - 1;
        return 2 * std::numbers::pi_v<long double> * rung(100, p % 16, 32) * (p < 16 ? row : column);
    });
}

TEST_CASE("vision_towers: the towers without a header of their own", "[models][towers]") {
    const std::vector<grid_thw> grid{{2, 2, 4}};
    const auto kimi = read(R"({"model_type": "kimi_k25", "vision_config": {"hidden_size": 1152,
        "num_attention_heads": 16, "num_hidden_layers": 27, "rope_parameters": null}})");
    CHECK(kimi.layers == 27);
    check_angles(kimi.rope, kimi.patches(grid), 16, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p / 2, 36) * static_cast<long double>(p % 2 == 0 ? n % 4 : n % 8 / 4);
    });
    const auto muse =
        read(R"({"model_type": "muse_glimmer_vision", "hidden_size": 64, "num_attention_heads": 4,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}})");
    check_angles(muse.rope, muse.patches(grid), 16, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p % 4, 8) * static_cast<long double>(p < 4 ? n % 4 : n % 8 / 4);
    });
    const auto minimax = read(R"({"model_type": "minimax_m3_vl", "vision_config": {"hidden_size": 1280,
        "num_attention_heads": 16, "spatial_merge_size": 2}})");
    CHECK(minimax.rope.rotary_dim == 78);
    check_angles(minimax.rope, minimax.patches(grid), 16, [](ropewalk::index n, ropewalk::index p) {
        const auto [row, column] = merged(n % 8, 4, 2);
        const ropewalk::index at[3] = {n / 8, row, column};
        return rung(1e4, p % 13, 26) * static_cast<long double>(at[p / 13]);
    });
    const std::vector<grid_thw> still{{1, 2, 3}};
    const auto mlcd =
        read(R"({"model_type": "mlcd_vision_model", "hidden_size": 32, "num_attention_heads": 4})",
             {.learned = {0.1, 0.2, 0.3, 0.4}});
    check_angles(mlcd.rope, mlcd.patches(still), 7, [](ropewalk::index n, ropewalk::index p) {
        if (n == 0) return static_cast<long double>(0.1 * static_cast<double>(p + 1));
        return rung(1e4, p % 2, 4) * static_cast<long double>(p < 2 ? (n - 1) / 3 : (n - 1) % 3);
    });
    CHECK_REFUSES("vision_towers::mlcd: class_angles must hold one angle a pair: wanted 52, got 0",
                  read(R"({"model_type": "mlcd"})"));
    const auto loftr = read(R"({"model_type": "efficientloftr", "hidden_size": 256, "num_attention_heads": 8,
        "partial_rotary_factor": 4.0})");
    CHECK(loftr.rope.notes.size() == 1);
    check_angles(loftr.rope, loftr.patches(still), 6, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p / 2, 128) * static_cast<long double>(1 + (p % 2 == 0 ? n / 3 : n % 3));
    });
    CHECK_REFUSES("from_tower: partial_rotary_factor must give each axis half of the width, got 2",
                  read(R"({"model_type": "efficientloftr", "partial_rotary_factor": 2.0})"));
    const std::vector<double> weights(64, 0.25);
    const auto glue = read(R"({"model_type": "lightglue", "descriptor_dim": 256, "num_attention_heads": 4})",
                           {.learned = weights});
    CHECK(glue.rope.head_dim == 64);
    CHECK_FALSE(glue.patches);
    CHECK(glue.rope.spectrum_for(1).omega(0, 1, 31) == Approx(0.25).epsilon(1e-15));
    CHECK_REFUSES(
        "from_tower: model_type must be a rotation (mix_pairs takes vision_towers::vjepa2_table), got "
        "vjepa2",
        read(R"({"model_type": "vjepa2"})"));
}

TEST_CASE("vision_towers: more of the Qwen family, and Kimi's as Moonshot stores it", "[models][towers]") {
    const std::vector<grid_thw> grid{{2, 4, 6}};
    struct merged_tower {
        const char* config;
        ropewalk::index layers, quarter;
    };
    for (const auto& want : std::initializer_list<merged_tower>{
             {R"({"model_type": "ernie4_5_vl_moe", "vision_config": {"model_type": "ernie4_5_vl_moe_vision",
                  "hidden_size": 1280, "num_heads": 16, "depth": 32, "spatial_merge_size": 2}})",
              32, 20},
             {R"({"model_type": "glm_ocr", "vision_config": {"model_type": "glm_ocr_vision", "depth": 24}})",
              24, 16},
             {R"({"model_type": "exaone4_5", "vision_config": {"hidden_size": 2048, "num_heads": 32,
                  "num_key_value_heads": 8, "depth": 28}})",
              28, 16},
             {R"({"model_type": "video_llama_3", "vision_config": {"hidden_size": 768,
                  "num_attention_heads": 12, "spatial_merge_size": 2, "num_hidden_layers": 12}})",
              12, 16}}) {
        INFO(want.config);
        const auto eyes = read(want.config);
        CHECK(eyes.layers == want.layers);
        CHECK(eyes.rope.read_layout == pair_layout(half_split{}));
        CHECK(eyes.rope.rotary_dim == 4 * want.quarter);
        check_angles(eyes.rope, eyes.patches(grid), 48, [&](ropewalk::index n, ropewalk::index p) {
            const auto [row, column] = merged(n % 24, 6, 2);
            return rung(1e4, p % want.quarter, 2 * want.quarter) *
                   static_cast<long double>(p < want.quarter ? row : column);
        });
    }
    // An image of VideoLLaMA 3 is not merged: its patches go row by row.
    const auto image = read(R"({"model_type": "video_llama_3", "vision_config": {}})");
    check_angles(image.rope, image.patches(std::vector<grid_thw>{{1, 3, 5}}), 15,
                 [](ropewalk::index n, ropewalk::index p) {
                     return rung(1e4, p % 16, 32) * static_cast<long double>(p < 16 ? n / 5 : n % 5);
                 });

    for (const char* config :
         {R"({"model_type": "kimi_vl", "vision_config": {"model_type": "moonvit", "hidden_size": 1152,
              "num_attention_heads": 16, "num_hidden_layers": 27}})",
          R"({"model_type": "kimi_k25", "vision_config": {"model_type": "", "vt_hidden_size": 1152,
              "vt_num_attention_heads": 16, "vt_num_hidden_layers": 27}})"}) {
        INFO(config);
        const auto moon = read(config);
        CHECK(moon.layers == 27);
        CHECK(moon.rope.head_dim == 72);
        CHECK(moon.rope.read_layout == pair_layout(interleaved{}));
        CHECK(moon.rope.write_layout == pair_layout(interleaved{}));
        CHECK(moon.rope.notes.size() == 1);
        check_angles(moon.rope, moon.patches(grid), 48, [](ropewalk::index n, ropewalk::index p) {
            return rung(1e4, p / 2, 36) * static_cast<long double>(p % 2 == 0 ? n % 6 : n % 24 / 6);
        });
    }
    // What MiniMax publishes: CLIP's name over a rotation of its own.
    const auto minimax = read(R"({"model_type": "minimax_m3_vl", "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 1280, "num_attention_heads": 16,
        "position_embedding_type": "rope", "rope_mode": "3d", "rope_theta": 10000.0,
        "img_token_compression_config": {"spatial_merge_size": 1, "temporal_patch_size": 2}}})");
    CHECK(minimax.rope.rotary_dim == 78);
    check_angles(minimax.rope, minimax.patches(grid), 48, [](ropewalk::index n, ropewalk::index p) {
        const ropewalk::index at[3] = {n / 24, n % 24 / 6, n % 6};
        return rung(1e4, p % 13, 26) * static_cast<long double>(at[p / 13]);
    });
    CHECK_REFUSES("from_tower: vision_config.rope_mode must be 3d, got \"2d\"",
                  read(R"({"model_type": "minimax_m3_vl", "vision_config": {"rope_mode": "2d"}})"));
    CHECK_REFUSES(
        "from_tower: vision_config.model_type must be a tower that is known here, got clip_vision_model",
        read(R"({"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}})"));
}

TEST_CASE("vision_towers: SAM 2's memory attention, SAM 3's encoder and EVA-02", "[models][towers]") {
    const auto memory = read(R"({"model_type": "sam2_video", "memory_attention_hidden_size": 256,
        "memory_attention_num_layers": 4, "memory_attention_num_attention_heads": 1,
        "memory_attention_downsample_rate": 1, "memory_attention_rope_feat_sizes": [64, 64],
        "memory_attention_rope_dropout": 0.1, "memory_attention_rope_theta": 10000,
        "vision_config": {"model_type": "sam2_vision_model"}})");
    CHECK(memory.layers == 4);
    CHECK(memory.rope.head_dim == 256);
    CHECK(memory.rope.read_layout == pair_layout(interleaved{}));
    CHECK(memory.rope.notes.size() == 1);
    check_angles(memory.rope, memory.patches(std::vector<grid_thw>{{1, 2, 3}}), 6,
                 [](ropewalk::index n, ropewalk::index p) {
                     return rung(1e4, p % 64, 128) * static_cast<long double>(p < 64 ? n % 3 : n / 3);
                 });
    CHECK(read(R"({"model_type": "sam3_tracker_video", "memory_attention_downsample_rate": 4,
                   "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}})")
              .rope.head_dim == 64);
    CHECK_REFUSES("from_tower: memory_attention_hidden_size must be the width of 1 heads, got 256",
                  read(R"({"model_type": "sam2_video", "memory_attention_downsample_rate": 7})"));

    const auto sam3 = read(R"({"model_type": "sam3", "vision_config": {"model_type": "sam3_vision_model",
        "backbone_config": {"model_type": "sam3_vit_model", "hidden_size": 1024, "num_attention_heads": 16,
        "num_hidden_layers": 32, "window_size": 4, "rope_theta": 10000.0}}})");
    CHECK(sam3.layers == 32);
    // A window stands at whole numbers; the image of a global layer is squeezed into one: 3 x 4 at 8 x 4.
    for (const ropewalk::index side : {4, 8}) {
        INFO("side " << side);
        check_angles(sam3.rope, sam3.patches(std::vector<grid_thw>{{1, side, side}}), side * side,
                     [side](ropewalk::index n, ropewalk::index p) {
                         const auto at = static_cast<long double>(p < 16 ? n % side : n / side);
                         return rung(1e4, p % 16, 32) * at * 4 / static_cast<long double>(side);
                     });
    }
    CHECK_REFUSES(
        "from_tower: vision_config.backbone_config.window_size must be a whole number in [1, 2^63), "
        "got 0",
        read(R"({"model_type": "sam3", "vision_config": {"backbone_config":
                           {"model_type": "sam3_vit_model", "window_size": 0}}})"));

    // EVA-CLIP's own text: trained on 16 x 16, running on 24 x 24, a class token in front.
    const auto eva = read(R"({"embed_dim": 768, "vision_cfg": {"image_size": 336, "layers": 24, "width": 1024,
        "head_width": 64, "patch_size": 14, "eva_model_name": "eva-clip-l-14-336", "rope": true,
        "pt_hw_seq_len": 16, "intp_freq": true}})");
    CHECK(eva.layers == 24);
    CHECK(eva.rope.read_layout == pair_layout(interleaved{}));
    const auto where = eva.patches(std::vector<grid_thw>{{1, 24, 24}});
    CHECK_FALSE(where.touched(0));
    check_angles(eva.rope, where, 577, [](ropewalk::index n, ropewalk::index p) {
        const auto m = n - 1;
        return rung(1e4, p % 16, 32) * static_cast<long double>(p < 16 ? m / 24 : m % 24) / 24 * 16;
    });
    CHECK_FALSE(
        read(R"({"vision_cfg": {"eva_model_name": "eva-clip-g-14-x", "head_width": 88}})").rope.rotates);
    CHECK_REFUSES("from_tower: vision_cfg.model_type must be given, got nothing",
                  read(R"({"vision_cfg": {"head_width": 88}})"));
}

TEST_CASE("vision_towers: sound, frame by frame", "[models][towers]") {
    struct line {
        const char* config;
        ropewalk::index head_dim, rotary_dim;
        double base;
        bool pairs_interleave;
    };
    for (
        const line& want : std::initializer_list<line>{
            {R"({"model_type": "mimi", "hidden_size": 512, "num_attention_heads": 8})", 64, 64, 1e4, false},
            {R"({"model_type": "moonshine", "hidden_size": 288, "encoder_num_attention_heads": 8,
                  "encoder_num_hidden_layers": 6, "partial_rotary_factor": 0.9})",
             36, 32, 1e4, true},
            {R"({"model_type": "glmasr", "audio_config": {"model_type": "glmasr_encoder", "hidden_size": 1280,
                  "num_attention_heads": 20, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default",
                  "partial_rotary_factor": 0.5}}})",
             64, 32, 1e4, false},
            {R"({"model_type": "lasr_encoder"})", 64, 64, 1e4, false},
            {R"({"model_type": "pe_audio_encoder", "head_dim": 128, "rope_parameters": {"rope_theta": 20000}})",
             128, 128, 2e4, true},
            {R"({"model_type": "pe_video_encoder"})", 128, 128, 2e4, true},
            {R"({"model_type": "timesfm2_5", "head_dim": 80})", 80, 80, 1e4, false},
            {R"({"model_type": "clvp_encoder", "hidden_size": 768, "num_attention_heads": 12,
                  "projection_dim": 768})",
             64, 32, 1e4, false},
            {R"({"model_type": "seamless_m4t", "hidden_size": 1024, "speech_encoder_attention_heads": 16,
                  "position_embeddings_type": "rotary", "rotary_embedding_base": 10000})",
             64, 64, 1e4, false},
            {R"({"model_type": "wav2vec2-conformer", "position_embeddings_type": "rotary",
                  "rotary_embedding_base": 500})",
             64, 64, 500, false}}) {
        INFO(want.config);
        const auto ears = read(want.config, {.part = "audio_config"});
        CHECK(ears.rope.rotates);
        CHECK(ears.rope.head_dim == want.head_dim);
        CHECK(ears.rope.rotary_dim == want.rotary_dim);
        CHECK(ears.rope.read_layout ==
              (want.pairs_interleave ? pair_layout(interleaved{}) : pair_layout(half_split{})));
        check_angles(ears.rope, ears.frames(5), 5, [&](ropewalk::index n, ropewalk::index p) {
            return rung(want.base, p, want.rotary_dim) * static_cast<long double>(n);
        });
        CHECK_FALSE(ears.patches);
    }
    CHECK(read(R"({"model_type": "voxtral_realtime", "audio_config": {"model_type":
        "voxtral_realtime_encoder", "head_dim": 64, "hidden_size": 1280, "num_attention_heads": 32}})",
               {.part = "audio_config"})
              .rope.rotary_dim == 64);
    // The vocoder of Qwen2.5-Omni rotates one head of all; the encoder of streaming Moonshine none.
    const auto wave =
        read(R"({"model_type": "qwen2_5_omni_dit", "hidden_size": 1024, "num_attention_heads": 16,
        "num_hidden_layers": 22, "head_dim": 64, "rope_parameters": {"rope_theta": 10000.0}})");
    CHECK(wave.rope.read_layout == pair_layout(interleaved{}));
    CHECK(wave.rope.notes ==
          std::vector<std::string>{"rotates the first head of q and k alone (head_slice(0, 1))"});
    check_angles(wave.rope, wave.frames(5), 5, [](ropewalk::index n, ropewalk::index p) {
        return rung(1e4, p, 64) * static_cast<long double>(n);
    });
    const auto streaming = read(R"({"model_type": "moonshine_streaming", "encoder_config": {"model_type":
        "moonshine_streaming_encoder", "hidden_size": 320, "num_hidden_layers": 6}})",
                                {.part = "encoder_config"});
    CHECK(streaming.layers == 6);
    CHECK_FALSE(streaming.rope.rotates);
    CHECK(read(R"({"model_type": "clvp_encoder"})").rope.notes ==
          std::vector<std::string>{"values are rotated as well"});
    CHECK_FALSE(read(R"({"model_type": "clvp_encoder", "use_rotary_embedding": false})").rope.rotates);
    // Rotation before the projections, in words; and none where another embedding is asked for.
    const auto conformer = read(R"({"model_type": "seamless_m4t", "position_embeddings_type": "rotary"})");
    CHECK(conformer.rope.notes.front().find("before q and k are projected") != std::string::npos);
    CHECK_FALSE(
        read(R"({"model_type": "wav2vec2-bert", "position_embeddings_type": "relative_key"})").rope.rotates);

    const auto music = read(R"({"model_type": "musicflamingo", "audio_config": {"hidden_size": 1280},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1200.0, "partial_rotary_factor": 0.2}})");
    CHECK(music.rope.head_dim == 1280);
    check_angles(music.rope, music.frames(1500), 1500, [](ropewalk::index n, ropewalk::index p) {
        constexpr long double turn = 2 * std::numbers::pi_v<long double>;
        const long double t = static_cast<long double>(n) * 0.04L;
        const long double at = p < 128 ? static_cast<long double>(n / 750) / 1200
                                       : static_cast<long double>(n % 750) / 1200 * turn;
        return -turn * t * at * rung(1200, p % 128, 256);
    });
    CHECK_REFUSES("from_tower: frames must be whole windows of 750, got 751", music.frames(751));
    // The width is the encoder's own, and the published one where the config does not say.
    CHECK(read(R"({"model_type": "musicflamingo", "audio_config": {"hidden_size": 640}})").rope.head_dim ==
          640);
    CHECK(read(R"({"model_type": "musicflamingo", "audio_config": {}})").rope.head_dim == 1280);
    CHECK(read(R"({"model_type": "musicflamingo"})").rope.head_dim == 1280);
}

TEST_CASE("vision_towers: what is wrong is refused by key path", "[models][towers][errors]") {
    const std::string of = "from_tower: ";
    CHECK_REFUSES(of + "the config must be an object, got 3", read("3"));
    CHECK_REFUSES(of + "model_type must be given, got nothing", read("{}"));
    CHECK_REFUSES(
        of + "vision_config.model_type must be a tower that is known here, got siglip_vision_model",
        read(R"({"model_type": "gemma3", "vision_config": {"model_type": "siglip_vision_model"}})"));
    CHECK_REFUSES(of + "vision_config.hidden_size must be a whole number in [1, 2^63), got \"wide\"",
                  read(R"({"model_type": "kimi_k25", "vision_config": {"hidden_size": "wide"}})"));
    CHECK_REFUSES(of + "hidden_size must be a whole number in [1, 65536], got 1000000000000000000",
                  read(R"({"model_type": "mimi", "hidden_size": 1000000000000000000})"));
    CHECK_REFUSES(of + "hidden_size must be the width of 7 heads, got 512",
                  read(R"({"model_type": "mimi", "num_attention_heads": 7})"));
    CHECK_REFUSES(of + "rope_theta must be > 0, got 0", read(R"({"model_type": "mimi", "rope_theta": 0})"));
    const std::string fast = of + "the frequencies must be <= 65536 radians a position, got ";
    // Past what any spectrum holds, the spectrum refuses first.
    CHECK(support::refusal([] {
              read(R"({"model_type": "mimi", "rope_theta": 1e-200})");
          }).starts_with("spectrum: frequencies must be at most 2^30 radians a position, got "));
    CHECK(support::refusal([] {
              read(R"({"model_type": "lightglue", "descriptor_dim": 8})", {.learned = {-1e9, 0}});
          }) == fast + "-1000000000");
    CHECK_REFUSES(of + "rope_parameters.rope_type must be default or axial, got \"yarn\"",
                  read(R"({"model_type": "mimi", "rope_parameters": {"rope_type": "yarn"}})"));
    CHECK_REFUSES(of + "rope_parameters.factor must be a key that is read here, got 2",
                  read(R"({"model_type": "mimi", "rope_parameters": {"factor": 2}})"));
    CHECK_REFUSES(of + "rope_interleaved must be a key that is read here (it would be ignored), got true",
                  read(R"({"model_type": "mimi", "rope_interleaved": true})"));
    CHECK_REFUSES(of + "hidden_size must be given, got nothing",
                  read(R"({"model_type": "muse_glimmer_vision", "num_attention_heads": 4})"));
    CHECK_REFUSES(of + "partial_rotary_factor must be in (0, 1], got 1.5",
                  read(R"({"model_type": "glmasr_encoder", "partial_rotary_factor": 1.5})"));
}
