// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/models/tower_reader.hpp>

#include <vector>

#include <ropewalk/frequencies/geometric.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using nlohmann::json;
using ropewalk::ROPEWALK_ISA::detail::tower_keys;

namespace {

/// The keys of a config, its base and share read.
struct held {
    json config;
    tower_keys keys;
    held(const char* type, const char* text)
        : config(json::parse(text)), keys(config, "vision_config", type) {
        keys.read_ladder();
    }
};

}  // namespace

TEST_CASE("tower_reader: a size under any of its names, or the class's", "[models][towers]") {
    CHECK(held("mimi", "{}").keys.head_dim() == 64);
    CHECK(held("mimi", R"({"hidden_size":1024,"num_attention_heads":4})").keys.head_dim() == 256);
    CHECK(held("mimi", R"({"head_dim":32,"hidden_size":1024})").keys.head_dim() == 32);
    CHECK(held("eva02", R"({"head_width":88})").keys.head_dim() == 88);
    CHECK(held("gemma4_vision", "{}").keys.head_dim() == 64);
    CHECK(held("kimi_k25_vision", R"({"vt_hidden_size":1024,"vt_num_attention_heads":8})").keys.head_dim() ==
          128);
    CHECK(held("kimi_k25_vision", R"({"qkv_hidden_size":1536,"vt_hidden_size":1024,
                                      "vt_num_attention_heads":12})")
              .keys.head_dim() == 128);
    for (const char* key : {"num_hidden_layers", "depth", "layers", "encoder_num_hidden_layers",
                            "vt_num_hidden_layers", "memory_attention_num_layers"})
        CHECK(held("mimi", json{{key, 7}}.dump().c_str()).keys.layers() == 7);
    CHECK(held("mimi", "{}").keys.layers() == 0);
    CHECK(held("mimi", R"({"depth":1e18})").keys.layers() == 65536);
    CHECK(held("qwen2_vl", "{}").keys.merge() == 2);
    CHECK(held("video_llama_3_vision", "{}").keys.merge() == 1);
    CHECK(held("qwen2_vl", R"({"spatial_merge_size":3})").keys.merge() == 3);
    CHECK(held("minimax_m3_vl_vision", R"({"img_token_compression_config":{"spatial_merge_size":4}})")
              .keys.merge() == 4);
    CHECK(held("sam2_video", R"({"memory_attention_num_attention_heads":2})").keys.memory_head_dim() == 128);
    CHECK(held("pixtral", R"({"image_size":1540,"patch_size":14})").keys.image_side() == 110);
}

TEST_CASE("tower_reader: the base and the share, from the dictionary or beside it", "[models][towers]") {
    const held nothing("glmasr_encoder", "{}");
    CHECK(nothing.keys.base() == 1e4);
    CHECK(nothing.keys.partial() == 0.5);
    const held inside("mimi", R"({"rope_parameters":{"rope_theta":500,"partial_rotary_factor":0.25}})");
    CHECK(inside.keys.base() == 500);
    CHECK(inside.keys.partial() == 0.25);
    CHECK(held("mimi", R"({"rope_theta":7})").keys.base() == 7);
    CHECK(held("mimi", R"({"rotary_embedding_base":8})").keys.base() == 8);
    CHECK(held("sam2_video", R"({"memory_attention_rope_theta":9})").keys.base() == 9);
}

TEST_CASE("tower_reader: refusals name the key below its path", "[models][towers][errors]") {
    const std::string of = "from_tower: vision_config.";
    CHECK_REFUSES(of + "model_type must be a tower that is known here, got clip", held("clip", "{}"));
    CHECK_REFUSES(of + "rope_theta must be > 0, got -1", held("mimi", R"({"rope_theta":-1})"));
    CHECK_REFUSES(of + "rope_theta must be a finite number, got \"x\"",
                  held("mimi", R"({"rope_theta":"x"})"));
    CHECK_REFUSES(of + "rope_scaling must be an object, got 3", held("mimi", R"({"rope_scaling":3})"));
    CHECK_REFUSES(of + "num_attention_heads must be given, got nothing",
                  held("exaone4_5_vision", R"({"hidden_size":64})").keys.head_dim());
    CHECK_REFUSES(of + "img_token_compression_config must be an object, got 1",
                  held("minimax_m3_vl_vision", R"({"img_token_compression_config":1})").keys.merge());
    CHECK_REFUSES(of + "rope_mode must be a key that is read here (it would be ignored), got \"2d\"",
                  held("mimi", R"({"rope_mode":"2d"})").keys.require_all_read());
    const held keys("mimi", "{}");
    CHECK_NOTHROW(keys.keys.require_bounded(frequencies::geometric({.rotary_dim = 8, .base = 1e4})));
    const std::vector<double> fast{1e5};
    const std::vector<int> one_axis{0};
    CHECK_REFUSES("from_tower: the frequencies must be <= 65536 radians a position, got 100000",
                  keys.keys.require_bounded(spectrum::selected(fast, one_axis, 1)));
}
