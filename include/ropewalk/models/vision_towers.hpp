// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <ropewalk/models/json_reader.hpp>
#include <ropewalk/models/tower_models.hpp>
#include <ropewalk/positions/timeline.hpp>
#include <ropewalk/schemes/audio_towers.hpp>
#include <ropewalk/schemes/dinov3.hpp>
#include <ropewalk/schemes/gemma4_vision.hpp>
#include <ropewalk/schemes/llama4_vision.hpp>
#include <ropewalk/schemes/pixtral.hpp>
#include <ropewalk/schemes/qwen_vl_vision.hpp>
#include <ropewalk/schemes/vision_towers.hpp>

namespace ROPEWALK_NAMESPACE {

/// The encoder of images, video or sound in front of a language model, or standing alone.
/// Source: huggingface/transformers, vision_config and audio_config.
struct tower {
    std::string model_type = {};
    index layers = 0;  ///< 0: not said
    rotary_scheme rope =
        {};  ///< of all of them; its notes say what else is rotated, or what is instead of q and k
    /// Where the patches of images and clips stand, their class and register tokens included; empty: no
    /// images.
    std::function<position_ids(std::span<const qwen_vl_vision::grid_thw> grids)> patches = {};
    /// Where the frames of a sound stand, a class token in front of them counted; empty: no sound.
    std::function<position_ids(index tokens)> frames = {};
};

/// Which of a model's towers is read, and what its config does not hold.
struct tower_reading {
    const char* part = "vision_config";  ///< or audio_config; a config without it is the tower's own
    /// Learned angles or frequencies from the checkpoint: MLCD's class_pos_emb, LightGlue's projector.
    std::vector<double> learned = {};
};

namespace detail {

/// Builds a tower from the keys of its config.
class tower_reader {
  public:
    static constexpr const char* who = "from_tower";
    /// The fastest pair that a config may ask for: beyond it positions of some millions would need more
    /// digits than a double has.
    static constexpr double most_radians = 65536;

    tower_reader(const nlohmann::json& node, std::string path, std::string model_type,
                 const tower_reading& reading)
        : keys_(who, node, std::move(path)), reading_(reading) {
        const auto* family = find_tower_family(model_type);
        if (family == nullptr)
            fail(std::string(who) + ": " + keys_.path_of("model_type") +
                 " must be a tower that is known here, got " + model_type);
        family_ = *family;
        read_.model_type = std::move(model_type);
    }

    tower read() {
        if (family_.kind == tower_kind::vjepa2)
            fail(std::string(who) + ": " + keys_.path_of("model_type") +
                 " must be a rotation (mix_pairs takes vision_towers::vjepa2_table), got vjepa2");
        for (const char* key : {"num_hidden_layers", "depth", "encoder_num_hidden_layers"})
            if (const auto n = keys_.count(key); n && read_.layers == 0)
                read_.layers = static_cast<index>(std::min<std::int64_t>(*n, 65536));
        base_ = family_.base;
        double partial = family_.partial;
        for (const char* key : {"rope_parameters", "rope_scaling"})
            if (const auto* dictionary = keys_.find(key)) {
                json_object rope(who, *dictionary, keys_.path_of(key));
                for (const char* type : {"rope_type", "type"})
                    if (const auto word = rope.word(type);
                        word && *word != "default" && *word != "axial" && *word != "2d")
                        rope.reject(type, "default or axial", *rope.find(type));
                base_ = rope.number("rope_theta").value_or(base_);
                partial = rope.number("partial_rotary_factor").value_or(partial);
                for (const auto& left : rope.unread())
                    rope.reject(left, "a key that is read here", dictionary->at(left));
            }
        base_ = keys_.number("rope_theta").value_or(base_);
        base_ = keys_.number("rotary_embedding_base").value_or(base_);
        partial = keys_.number("partial_rotary_factor").value_or(partial);
        if (!(base_ > 0))
            fail(std::string(who) + ": " + keys_.path_of("rope_theta") + " must be > 0, got " + text(base_));
        build(partial);
        require_bounded();
        for (const auto& key : keys_.unread())
            if (key.find("rope") != std::string::npos || key.find("rotary") != std::string::npos)
                keys_.reject(key, "a key that is read here (it would be ignored)", keys_.node().at(key));
        read_.rope.name = read_.model_type;
        return std::move(read_);
    }

  private:
    using grids = std::span<const qwen_vl_vision::grid_thw>;

    void require_bounded() const {
        const auto s = read_.rope.spectrum_for(1);
        for (index a = 0; a < s.axes(); ++a)
            for (index i = 0; i < s.pairs(); ++i)
                require(std::abs(s.omega(0, a, i)) <= most_radians, who,
                        "the frequencies must be <= 65536 radians a position", s.omega(0, a, i));
    }

    /// The first of several keys, a whole number in 1 .. 65536.
    index size_of(std::initializer_list<const char*> names, index otherwise) {
        for (const char* name : names)
            if (const auto n = keys_.count(name)) {
                if (*n > 65536) keys_.reject(name, "a whole number in [1, 65536]", *keys_.find(name));
                return static_cast<index>(*n);
            }
        if (otherwise == 0) keys_.missing(*(names.begin() + (names.size() > 1 ? 1 : 0)));
        return otherwise;
    }
    index width() { return size_of({"embed_dim", "hidden_size", "descriptor_dim"}, family_.width); }
    index heads() {
        return size_of({"num_heads", "num_attention_heads", "encoder_num_attention_heads",
                        "speech_encoder_attention_heads"},
                       family_.heads);
    }
    index head_dim() {
        if (keys_.has("head_dim") || family_.head_dim != 0) return size_of({"head_dim"}, family_.head_dim);
        // Qwen2-VL's hidden_size is that of the language model; its own width is embed_dim.
        const index all = width(), each = heads();
        if (all % each != 0)
            fail(std::string(who) + ": " + keys_.path_of("hidden_size") + " must be the width of " +
                 text(each) + " heads, got " + text(all));
        return all / each;
    }
    index image_side() {
        return std::max<index>(1, size_of({"image_size"}, 1024) / size_of({"patch_size"}, 16));
    }

    /// One grid after another, each by itself.
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
    /// A still image: time is not one of its axes, and is not repeated.
    static void require_still(const qwen_vl_vision::grid_thw& g) {
        require(g.frames == 1, who, "frames of an image must be 1", g.frames);
    }
    void along_a_line(index head_dim, index rotated) {
        read_.rope = audio_towers::line(
            {.name = who,
             .head_dim = head_dim,
             .rotary_dim = rotated,
             .base = base_,
             .layout = family_.interleaved ? pair_layout(interleaved{}) : pair_layout(half_split{})});
        read_.frames = [](index tokens) { return positions::timeline({.tokens = tokens}); };
    }

    void build(double partial) {
        switch (family_.kind) {
            case tower_kind::merged: {
                const index merge = size_of({"spatial_merge_size"}, 2);
                read_.rope = qwen_vl_vision::axial({.head_dim = head_dim(), .base = base_});
                read_.patches = [merge](grids all) { return qwen_vl_vision::patches(all, merge); };
                return;
            }
            case tower_kind::row_major:
                read_.rope = qwen_vl_vision::axial({.head_dim = head_dim(), .base = base_});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::pixtral: {
                const index side = image_side();
                read_.rope = pixtral::axial(
                    {.head_dim = head_dim(), .base = base_, .from = pixtral::weights::hugging_face});
                read_.patches = each(2, [side](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return pixtral::patches({{g.height, g.width}}, side);
                });
                return;
            }
            case tower_kind::llama4: {
                read_.rope = llama4_vision::axial({.head_dim = head_dim(), .base = base_});
                read_.patches = each(2, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    require(g.height == g.width, who, "an image must be square", g.width);
                    return llama4_vision::patches({.side = g.height});
                });
                return;
            }
            case tower_kind::gemma4:
                read_.rope = gemma4_vision::axial({.head_dim = head_dim(), .base = base_});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::dinov3: {
                const index prefix = 1 + static_cast<index>(std::min<std::int64_t>(
                                             keys_.count("num_register_tokens", 0).value_or(0), 65536));
                read_.rope = dinov3::axial(dinov3::periods({.head_dim = head_dim(), .base = base_}));
                read_.patches = each(2, [prefix](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return dinov3::patches({.height = g.height, .width = g.width, .prefix_tokens = prefix});
                });
                return;
            }
            case tower_kind::kimi:
                read_.rope = vision_towers::kimi_k25({.head_dim = head_dim(), .base = base_});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::muse:
                read_.rope = vision_towers::muse_glimmer({.head_dim = head_dim(), .base = base_});
                read_.patches = rows_of_frames();
                return;
            case tower_kind::minimax: {
                const index merge = size_of({"spatial_merge_size"}, 2);
                read_.rope = vision_towers::minimax_m3_vl({.head_dim = head_dim(), .base = base_});
                read_.patches = [merge](grids all) { return vision_towers::time_patches(all, merge); };
                return;
            }
            case tower_kind::mlcd:
                read_.rope = vision_towers::mlcd({.head_dim = head_dim(), .base = base_}, reading_.learned);
                read_.patches = each(3, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return vision_towers::mlcd_patches(g.height, g.width);
                });
                return;
            case tower_kind::efficientloftr: {
                const index all = width();
                const double channels = static_cast<double>(all) / static_cast<double>(heads()) * partial;
                require(channels * 2 == static_cast<double>(all), who,
                        "partial_rotary_factor must give each axis half of the width", partial);
                read_.rope = vision_towers::efficientloftr({.head_dim = all, .base = base_});
                read_.rope.notes.push_back(
                    "rotates q and k before they are cut into heads, in self-attention alone");
                read_.patches = each(2, [](const qwen_vl_vision::grid_thw& g) {
                    require_still(g);
                    return vision_towers::loftr_patches(g.height, g.width);
                });
                return;
            }
            case tower_kind::lightglue:
                read_.rope = vision_towers::lightglue(head_dim(), reading_.learned);
                read_.rope.notes.push_back(
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
                const auto kind = keys_.word("position_embeddings_type").value_or("relative");
                along_a_line(head_dim(), 0);
                read_.rope.notes.push_back(
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
                const index rotated = std::max<index>(size_of({"projection_dim"}, 768) / (heads() * 2), 32);
                if (!keys_.flag("use_rotary_embedding").value_or(true)) {
                    along_a_line(whole, 0);
                    read_.rope.rotates = false;
                    return;
                }
                along_a_line(whole, rotated);
                read_.rope.notes.push_back("values are rotated as well");
                return;
            }
            case tower_kind::music_flamingo: {
                audio_towers::music_flamingo_config config{
                    .width = encoder_width(), .base = base_, .partial = partial};
                config.frame_step = keys_.number("audio_frame_step").value_or(0.01);
                read_.rope = audio_towers::music_flamingo(config);
                read_.frames = [config](index tokens) {  // windows of 30 seconds: 750 frames each
                    constexpr index window = 750;
                    require(tokens % window == 0, who, "frames must be whole windows of 750", tokens);
                    return audio_towers::music_flamingo_frames(tokens / window, window, config);
                };
                return;
            }
            case tower_kind::vjepa2: return;
        }
    }
    index encoder_width() {
        const auto* audio = keys_.find("audio_config");
        if (audio == nullptr) return family_.width;
        json_object inner(who, *audio, keys_.path_of("audio_config"));
        const auto n = inner.count("hidden_size");
        if (n && *n > 65536)
            inner.reject("hidden_size", "a whole number in [1, 65536]", *inner.find("hidden_size"));
        return n ? static_cast<index>(*n) : family_.width;
    }

    json_object keys_;
    const tower_reading& reading_;
    tower_family family_{};
    tower read_;
    double base_ = 1e4;
};

}  // namespace detail

/// Reads a tower's config: its scheme, and where its tokens stand. The config is the tower's own, or a
/// model's whose vision_config (audio_config, by reading.part) is the tower's, also inside a thinker_config.
/// Throws: invalid_config naming the key path and the value: an unknown model_type, a wrong type, a number
/// out of
///         range, another scaling than default, a rotary key that would be ignored, learned numbers that are
///         missing. V-JEPA 2 is refused by name: what it does is no rotation.
/// Source: huggingface/transformers models/*/configuration_*.py.
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
        if (const auto own = detail::json_object(who, *node, path).word("model_type")) type = *own;
    };
    read_type();
    if (type != "musicflamingo") {  // its rotation is the model's, behind its encoder
        enter("thinker_config");
        read_type();
        enter(reading.part);
        read_type();
    }
    if (type.empty()) detail::json_object(who, *node, path).missing("model_type");
    return detail::tower_reader(*node, path, type, reading).read();
}

}  // namespace ROPEWALK_NAMESPACE
