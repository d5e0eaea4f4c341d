// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The keys of an image, video or audio encoder's config, with the defaults of its class.
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
#include <ropewalk/schemes/qwen_vl_vision.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// An encoder of images, video or sound, part of a language model or on its own.
/// Source: huggingface/transformers, vision_config and audio_config.
struct tower {
    std::string model_type = {};
    index layers = 0;  ///< 0: unknown
    rotary_scheme rope =
        {};  ///< of all layers; its notes say what is rotated besides q and k, or instead of them
    /// Positions of the patches of images and clips, including class and register tokens; empty: no images.
    std::function<position_ids(std::span<const qwen_vl_vision::grid_thw> grids)> patches = {};
    /// Positions of the frames of a sound, including a class token before them; empty: no sound.
    std::function<position_ids(index tokens)> frames = {};
};

/// Which encoder of a model is read, and numbers that its config does not have.
struct tower_reading {
    const char* part = "vision_config";  ///< or audio_config; a config without it is the encoder's own
    /// Learned angles or frequencies from the checkpoint: MLCD's class_pos_emb, LightGlue's projector.
    std::vector<double> learned = {};
};

namespace detail {

/// The keys of an encoder's config; where one is missing, the default of its class.
class tower_keys {
  public:
    static constexpr const char* who = "from_tower";
    /// The highest frequency that a config may have, in radians per position: beyond it positions of some
    /// millions would need more digits than a double has.
    static constexpr double most_radians = 65536;

    tower_keys(const nlohmann::json& node, std::string path, const std::string& model_type)
        : keys_(who, node, std::move(path)) {
        const auto* family = find_tower_family(model_type);
        if (family == nullptr)
            fail(std::string(who) + ": " + keys_.path_of("model_type") +
                 " must be a tower that is known here, got " + model_type);
        family_ = *family;
    }

    json_object& keys() noexcept { return keys_; }
    const tower_family& family() const noexcept { return family_; }
    double base() const noexcept { return base_; }
    double partial() const noexcept { return partial_; }

    /// The number of layers; 0: unknown.
    index layers() {
        index n = 0;
        for (const char* key : {"num_hidden_layers", "depth", "encoder_num_hidden_layers", "layers",
                                "vt_num_hidden_layers", "memory_attention_num_layers"})
            if (const auto said = keys_.count(key); said && n == 0)
                n = static_cast<index>(std::min<std::int64_t>(*said, 65536));
        return n;
    }

    /// Reads base and rotary share from the dictionary, else from the top level.
    void read_ladder() {
        base_ = family_.base;
        partial_ = family_.partial;
        for (const char* key : {"rope_parameters", "rope_scaling"})
            if (const auto* dictionary = keys_.find(key)) {
                json_object rope(who, *dictionary, keys_.path_of(key));
                for (const char* type : {"rope_type", "type"})
                    if (const auto word = rope.word(type);
                        word && *word != "default" && *word != "axial" && *word != "2d")
                        rope.reject(type, "default or axial", *rope.find(type));
                base_ = rope.number("rope_theta").value_or(base_);
                partial_ = rope.number("partial_rotary_factor").value_or(partial_);
                for (const auto& left : rope.unread())
                    rope.reject(left, "a key that is read here", dictionary->at(left));
            }
        for (const char* key : {"rope_theta", "rotary_embedding_base", "memory_attention_rope_theta"})
            base_ = keys_.number(key).value_or(base_);
        partial_ = keys_.number("partial_rotary_factor").value_or(partial_);
        if (!(base_ > 0))
            fail(std::string(who) + ": " + keys_.path_of("rope_theta") + " must be > 0, got " + text(base_));
    }

    /// The value of the first of several keys that is present, a whole number in 1 .. 65536.
    index size_of(std::initializer_list<const char*> names, index otherwise) {
        for (const char* name : names)
            if (const auto n = keys_.count(name)) {
                if (*n > 65536) keys_.reject(name, "a whole number in [1, 65536]", *keys_.find(name));
                return static_cast<index>(*n);
            }
        if (otherwise == 0) keys_.missing(*(names.begin() + (names.size() > 1 ? 1 : 0)));
        return otherwise;
    }
    index width() {
        return size_of(
            {"embed_dim", "hidden_size", "descriptor_dim", "qkv_hidden_size", "vt_hidden_size", "width"},
            family_.width);
    }
    index heads() {
        return size_of({"num_heads", "num_attention_heads", "encoder_num_attention_heads",
                        "speech_encoder_attention_heads", "vt_num_attention_heads"},
                       family_.heads);
    }
    index head_dim() {
        for (const char* key : {"head_dim", "head_width"})
            if (keys_.has(key)) return size_of({key}, 0);
        if (family_.head_dim != 0) return family_.head_dim;
        // Qwen2-VL's hidden_size is that of the language model; the encoder's own width is embed_dim.
        const index all = width(), each = heads();
        if (all % each != 0)
            fail(std::string(who) + ": " + keys_.path_of("hidden_size") + " must be the width of " +
                 text(each) + " heads, got " + text(all));
        return all / each;
    }
    index image_side() {
        return std::max<index>(1, size_of({"image_size"}, 1024) / size_of({"patch_size"}, 16));
    }
    /// Patches per side that merge into one token. MiniMax keeps the number in a dictionary.
    index merge() {
        if (const auto* inner = keys_.find("img_token_compression_config"); inner != nullptr)
            if (const auto n =
                    keys_.inner("img_token_compression_config", *inner).count("spatial_merge_size");
                n && *n <= 65536 && !keys_.has("spatial_merge_size"))
                return static_cast<index>(*n);
        return size_of({"spatial_merge_size"}, family_.merge);
    }
    /// The channels of a head in SAM 2's memory attention.
    index memory_head_dim() {
        const index all = size_of({"memory_attention_hidden_size"}, family_.width);
        const index less = size_of({"memory_attention_downsample_rate"}, 1);
        const index each = size_of({"memory_attention_num_attention_heads"}, 1);
        if (all % (less * each) != 0)
            fail(std::string(who) + ": " + keys_.path_of("memory_attention_hidden_size") +
                 " must be the width of " + text(each) + " heads, got " + text(all));
        return all / (less * each);
    }

    void require_bounded(const spectrum& s) const {
        for (index a = 0; a < s.axes(); ++a)
            for (index i = 0; i < s.pairs(); ++i)
                require(std::abs(s.omega(0, a, i)) <= most_radians, who,
                        "the frequencies must be <= 65536 radians a position", s.omega(0, a, i));
    }
    void require_all_read() const {
        for (const auto& key : keys_.unread_rotary())
            keys_.reject(key, "a key that is read here (it would be ignored)", keys_.node().at(key));
    }

  private:
    json_object keys_;
    tower_family family_{};
    double base_ = 1e4;
    double partial_ = 1;
};

}  // namespace detail
}  // namespace ROPEWALK_NAMESPACE
