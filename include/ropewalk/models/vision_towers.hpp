// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// from_tower: reads the rotary embedding of an image, video or audio encoder from a config.json.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/models/tower_reader.hpp>
#include <ropewalk/positions/timeline.hpp>
#include <ropewalk/schemes/audio_towers.hpp>
#include <ropewalk/schemes/dinov3.hpp>
#include <ropewalk/schemes/eva02.hpp>
#include <ropewalk/schemes/gemma4_vision.hpp>
#include <ropewalk/schemes/llama4_vision.hpp>
#include <ropewalk/schemes/pixtral.hpp>
#include <ropewalk/schemes/qwen_vl_vision.hpp>
#include <ropewalk/schemes/sam.hpp>
#include <ropewalk/schemes/vision_towers.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Builds the scheme and positions of an encoder from the keys of its config.
class tower_reader {
  public:
    static constexpr const char* who = tower_keys::who;

    tower_reader(const nlohmann::json& node, std::string path, std::string model_type,
                 const tower_reading& reading)
        : keys_(node, std::move(path), model_type), reading_(reading) {
        read_.model_type = std::move(model_type);
    }

    tower read() {
        if (keys_.family().kind == tower_kind::vjepa2)
            fail(std::string(who) + ": " + keys_.keys().path_of("model_type") +
                 " must be a rotation (mix_pairs takes vision_towers::vjepa2_table), got vjepa2");
        read_.layers = keys_.layers();
        keys_.read_ladder();
        build();
        if (read_.rope.frequencies) keys_.require_bounded(read_.rope.spectrum_for(1));
        keys_.require_all_read();
        read_.rope.name = read_.model_type;
        return std::move(read_);
    }

  private:
    using grids = std::span<const qwen_vl_vision::grid_thw>;

    index head_dim() { return keys_.head_dim(); }
    void note(std::string text) { read_.rope.notes.push_back(std::move(text)); }

    /// Positions of several grids, one after another, each independent.
    template <class One>
    static std::function<position_ids(grids)> each(index axes, One one) {
        return [axes, one](grids all) {
            position_ids ids(axes);
            for (const auto& g : all) ids.append(one(g));
            return ids;
        };
    }
    static std::function<position_ids(grids)> rows_of_frames() {
        return each(2, [](const qwen_vl_vision::grid_thw& g) {
            const positions::grid_config one{.height = g.height, .width = g.width, .frames = g.frames};
            require_grid(who, one);
            return positions::grid(one);
        });
    }
    /// Requires a still image: the encoder has no time axis and does not repeat frames.
    static void require_still(const qwen_vl_vision::grid_thw& g) {
        require(g.frames == 1, who, "frames of an image must be 1", g.frames);
    }
    void along_a_line(index head_dim, index rotated) {
        read_.rope = audio_towers::line(
            {.name = who,
             .head_dim = head_dim,
             .rotary_dim = rotated,
             .base = keys_.base(),
             .layout = keys_.family().interleaved ? pair_layout(interleaved{}) : pair_layout(half_split{})});
        read_.frames = [](index tokens) { return positions::timeline({.tokens = tokens}); };
    }

    void build() {
        const double base_of = keys_.base(), partial = keys_.partial();
        switch (keys_.family().kind) {
            case tower_kind::merged: {
                const index merge = keys_.merge();
                read_.rope = qwen_vl_vision::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = [merge](grids all) { return qwen_vl_vision::patches(all, merge); };
                return;
            }
            case tower_kind::row_major:
                read_.rope = qwen_vl_vision::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::pixtral: {
                const index side = keys_.image_side();
                read_.rope = pixtral::axial(
                    {.head_dim = head_dim(), .base = base_of, .from = pixtral::weights::hugging_face});
                read_.patches = each(2, [side](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return pixtral::patches({{g.height, g.width}}, side);
                });
                return;
            }
            case tower_kind::llama4: {
                read_.rope = llama4_vision::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = each(2, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    require_equal(who, "an image must be square", g.height, g.width);
                    return llama4_vision::patches({.side = g.height});
                });
                return;
            }
            case tower_kind::gemma4:
                read_.rope = gemma4_vision::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::dinov3: {
                const index prefix =
                    1 + static_cast<index>(std::min<std::int64_t>(
                            keys_.keys().count("num_register_tokens", 0).value_or(0), 65536));
                read_.rope = dinov3::axial(dinov3::periods({.head_dim = head_dim(), .base = base_of}));
                read_.patches = each(2, [prefix](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return dinov3::patches({.height = g.height, .width = g.width, .prefix_tokens = prefix});
                });
                return;
            }
            case tower_kind::kimi:
                read_.rope = vision_towers::kimi_k25({.head_dim = head_dim(), .base = base_of});
                read_.patches = rows_of_frames();
                if (keys_.family().interleaved || keys_.keys().has("vt_num_attention_heads")) {
                    read_.rope.read_layout = read_.rope.write_layout = pair_layout(interleaved{});
                    note("pairs as Moonshot stores its weights; transformers permutes them to half-split");
                }
                return;
            case tower_kind::muse:
                read_.rope = vision_towers::muse_glimmer({.head_dim = head_dim(), .base = base_of});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::minimax: {
                require_rope("rope_mode", "3d");
                require_rope("position_embedding_type", "rope");
                const index merge = keys_.merge();
                read_.rope = vision_towers::minimax_m3_vl({.head_dim = head_dim(), .base = base_of});
                read_.patches = [merge](grids all) { return vision_towers::time_patches(all, merge); };
                return;
            }
            case tower_kind::mlcd:
                read_.rope = vision_towers::mlcd({.head_dim = head_dim(), .base = base_of}, reading_.learned);
                read_.patches = each(3, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return vision_towers::mlcd_patches(g.height, g.width);
                });
                return;
            case tower_kind::efficientloftr: {
                const index all = keys_.width();
                const double channels =
                    static_cast<double>(all) / static_cast<double>(keys_.heads()) * partial;
                require(channels * 2 == static_cast<double>(all), who,
                        "partial_rotary_factor must give each axis half of the width", partial);
                read_.rope = vision_towers::efficientloftr({.head_dim = all, .base = base_of});
                note("rotates q and k before they are cut into heads, in self-attention alone");
                read_.patches = each(2, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return vision_towers::loftr_patches(g.height, g.width);
                });
                return;
            }
            case tower_kind::lightglue:
                read_.rope = vision_towers::lightglue(head_dim(), reading_.learned);
                note(
                    "keypoints stand at vision_towers::lightglue_keypoints; rotates in self-attention alone");
                return;
            case tower_kind::line: {
                const index whole = head_dim();
                require(partial > 0 && partial <= 1, who, "partial_rotary_factor must be in (0, 1]", partial);
                const auto rotated = static_cast<index>(static_cast<double>(whole) * partial);
                along_a_line(whole, rotated);
                return;
            }
            case tower_kind::conformer: {
                const auto kind = keys_.keys().word("position_embeddings_type").value_or("relative");
                along_a_line(head_dim(), 0);
                note(
                    "rotates the layer's input, head by head, before q and k are projected; values are "
                    "projected "
                    "from the input as it is");
                if (kind == "rotary") return;
                read_.rope.rotates = false;
                read_.rope.notes = {"position_embeddings_type is " + kind + ": nothing is rotated"};
                return;
            }
            case tower_kind::clvp: {
                const index whole = head_dim();
                const index rotated =
                    std::max<index>(keys_.size_of({"projection_dim"}, 768) / (keys_.heads() * 2), 32);
                if (!keys_.keys().flag("use_rotary_embedding").value_or(true)) {
                    along_a_line(whole, 0);
                    read_.rope.rotates = false;
                    return;
                }
                along_a_line(whole, rotated);
                note("values are rotated as well");
                return;
            }
            case tower_kind::music_flamingo: {
                audio_towers::music_flamingo_config config{
                    .width = encoder_width(), .base = base_of, .partial = partial};
                config.frame_step = keys_.keys().number("audio_frame_step").value_or(0.01);
                read_.rope = audio_towers::music_flamingo(config);
                read_.frames = [config](index tokens) {  // windows of 30 seconds: 750 frames each
                    constexpr index window = 750;
                    require(tokens % window == 0, who, "frames must be whole windows of 750", tokens);
                    return audio_towers::music_flamingo_frames(tokens / window, window, config);
                };
                return;
            }
            case tower_kind::sam_memory:
                read_.rope = sam::axial({.head_dim = keys_.memory_head_dim(), .base = base_of});
                // The training grid, which the code replaces for any other size, and keys of training.
                keys_.keys().counts("memory_attention_rope_feat_sizes");
                keys_.keys().number("memory_attention_rope_dropout");
                note(
                    "of memory attention: keys of memory frames repeat the rows of queries and object "
                    "pointers stand still, sam::memory_key_rows");
                read_.patches = each(2, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return sam::patches({.height = g.height, .width = g.width});
                });
                return;
            case tower_kind::sam3: {
                const auto window = static_cast<double>(keys_.size_of({"window_size"}, 24));
                read_.rope = sam::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = each(2, [window](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    require(g.height >= 1, who, "height must be >= 1", g.height);
                    return sam::patches({.height = g.height,
                                         .width = g.width,
                                         .scale = window / static_cast<double>(g.height)});
                });
                note("a grid is a window of a windowed layer, or the image of a global one");
                return;
            }
            case tower_kind::eva02: {
                const bool squeezed = keys_.keys().flag("intp_freq").value_or(false);
                const index trained = squeezed ? keys_.size_of({"pt_hw_seq_len"}, 16) : 0;
                read_.rope = eva02::axial({.head_dim = head_dim(), .base = base_of});
                read_.patches = each(2, [trained](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return eva02::patches({.height = g.height, .width = g.width, .trained_height = trained});
                });
                read_.rope.rotates = keys_.keys().flag("rope").value_or(false);
                return;
            }
            case tower_kind::first_head:
                along_a_line(head_dim(), 0);
                note("rotates the first head of q and k alone (head_slice(0, 1))");
                return;
            case tower_kind::still:
                along_a_line(head_dim(), 0);
                read_.rope.rotates = false;
                read_.rope.notes = {"this encoder has no positions at all"};
                return;
            case tower_kind::vjepa2: return;
        }
    }
    /// Requires that a key names the rotary embedding; encoders with another are not supported.
    void require_rope(const char* key, const char* word) {
        if (const auto said = keys_.keys().word(key); said && *said != word)
            keys_.keys().reject(key, word, *said);
    }
    index encoder_width() {
        const auto* audio = keys_.keys().find("audio_config");
        if (audio == nullptr) return keys_.family().width;
        json_object inner(who, *audio, keys_.keys().path_of("audio_config"));
        const auto n = inner.count("hidden_size");
        if (n && *n > 65536)
            inner.reject("hidden_size", "a whole number in [1, 65536]", *inner.find("hidden_size"));
        return n ? static_cast<index>(*n) : keys_.family().width;
    }

    tower_keys keys_;
    const tower_reading& reading_;
    tower read_;
};

}  // namespace detail

/// Reads an encoder's config: its scheme and the positions of its tokens. The config is the encoder's own, or
/// that of a model which holds it under vision_config (audio_config, by reading.part). That key may also be
/// inside a thinker_config or detector_config, and the encoder inside a backbone_config; EVA-CLIP holds it
/// under vision_cfg.
/// Throws: invalid_config naming the key path and the value: an unknown model_type, a wrong type, a number
///         out of range, another scaling than default, a rotary key that would be ignored, learned numbers
///         that are missing. V-JEPA 2 is refused by name, since its map is not a rotation.
/// Source: huggingface/transformers models/*/configuration_*.py; baaivision/EVA EVA-CLIP model_configs.
///
///     const auto eyes = from_tower(config);
///     const auto table = make_rotation_table(eyes.rope.spectrum_for(1), eyes.patches(grids));
inline tower from_tower(const nlohmann::json& config, const tower_reading& reading = {}) {
    constexpr const char* who = detail::tower_reader::who;
    const nlohmann::json* node = &config;
    std::string path, type;
    const auto enter = [&](const char* key) {
        if (!node->is_object() || !node->contains(key) || !(*node)[key].is_object()) return;
        node = &(*node)[key];
        path += (path.empty() ? "" : ".") + std::string(key);
    };
    const auto read_type = [&] {
        if (const auto own = detail::json_object(who, *node, path).word("model_type"); own && !own->empty())
            type = *own;
    };
    read_type();
    const auto* outer = detail::find_tower_family(type);
    // The rotation of these belongs to the model: after its encoder, or between its frames.
    if (outer == nullptr || (outer->kind != detail::tower_kind::music_flamingo &&
                             outer->kind != detail::tower_kind::sam_memory)) {
        for (const char* key : {"thinker_config", "detector_config", reading.part, "backbone_config"}) {
            enter(key);
            read_type();
        }
        if (node->is_object() && node->contains("vision_cfg") && !node->contains("model_type")) {
            enter("vision_cfg");  // EVA-CLIP has no model_type
            if (node->contains("eva_model_name")) type = "eva02";
        }
        // MiniMax uses CLIP's name for an encoder of its own.
        if (type == "clip_vision_model" && outer != nullptr && outer->kind == detail::tower_kind::minimax)
            type = outer->model_type;
    }
    if (type.empty()) detail::json_object(who, *node, path).missing("model_type");
    return detail::tower_reader(*node, path, type, reading).read();
}

}  // namespace ROPEWALK_NAMESPACE
