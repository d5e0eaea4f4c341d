// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Finds images, videos and sounds in a batch of token ids, as Hugging Face's get_rope_index does.
#pragma once

#include <ropewalk/positions/multimodal.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// Whether a video is one block of frames (Qwen2-VL, Qwen2.5-VL, VideoRoPE, HoPE), or each frame is a block
/// of its own between text tokens (Qwen3-VL, whose prompts hold a timestamp before each frame).
enum class video_blocks : std::uint8_t { whole, frame_by_frame };

/// The token ids that a model uses for images, videos and sound. The defaults are those of the Qwen-VL
/// family.
/// Source: the config.json of Qwen2-VL (image_token_id, video_token_id, vision_config.spatial_merge_size).
struct media_tokens {
    std::int64_t image = 151655;                ///< the id of an image token
    std::int64_t video = 151656;                ///< the id of a video token
    index spatial_merge = 2;                    ///< patches merged into one token, along each side
    video_blocks blocks = video_blocks::whole;  ///< whether each frame is a block

    /// The id of an audio token; no_audio: a family without sound, whose markers are text. In a family with
    /// sound the four markers below belong to the blocks they enclose, as tmrope_rule places them.
    std::int64_t audio = no_audio;
    std::int64_t audio_start = 0;   ///< the marker before sound
    std::int64_t audio_end = 0;     ///< the marker after sound
    std::int64_t vision_start = 0;  ///< the marker before an image or a video
    std::int64_t vision_end = 0;    ///< the marker after an image or a video

    static constexpr std::int64_t no_audio = -1;  ///< the value of `audio` in a family without sound
};

/// The ids of Qwen2.5-Omni.
/// Source: its config.json (audio_token_index / audio_token_id, audio_start_token_id, ...).
inline constexpr media_tokens qwen25_omni_tokens = {.audio = 151646,
                                                    .audio_start = 151647,
                                                    .audio_end = 151648,
                                                    .vision_start = 151652,
                                                    .vision_end = 151653};
/// The ids of Qwen3-Omni.
inline constexpr media_tokens qwen3_omni_tokens = {.audio = 151675,
                                                   .audio_start = 151669,
                                                   .audio_end = 151670,
                                                   .vision_start = 151652,
                                                   .vision_end = 151653};

/// A batch as a processor passes it to a model.
/// Shapes: input_ids and attention_mask [batches, tokens] (an empty mask keeps every token); grids [n, 3] as
///         frames, height, width in patches before merging, in the order of the whole batch; seconds_per_grid
///         [videos] (empty: 1); temporal_scales [images + videos], in the order in which they first appear in
///         the batch (empty: that of the rule). Counts are of videos, also where every frame is a block.
///         audio_lengths [sounds]: the audio tokens of each (audio_tokens of its mel frames), the sounds of
///         videos included (empty: as many as input_ids contains).
/// Source: Hugging Face processors of Qwen2-VL (image_grid_thw, video_grid_thw, second_per_grid_ts).
struct token_batch {
    index batches = 1;
    std::span<const std::int64_t> input_ids = {};       ///< [batches, tokens]
    std::span<const std::int64_t> attention_mask = {};  ///< [batches, tokens], 0 = padding; empty: none
    std::span<const index> image_grids = {};            ///< [images, 3]
    std::span<const index> video_grids = {};            ///< [videos, 3]
    std::span<const double> seconds_per_grid = {};      ///< [videos]; empty: 1
    std::span<const double> temporal_scales = {};       ///< [images + videos]; empty: that of the rule
    std::span<const index> audio_lengths = {};          ///< [sounds] in audio tokens; empty: not checked
};

/// One sequence of the batch: its segments and its padding mask.
struct media_sequence {
    std::vector<media_segment> segments = {};  ///< in order
    std::vector<std::uint8_t> mask = {};       ///< [padded tokens], 0 = padding
};

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// Returns the grids of one kind in order, after merging: whole or frame by frame.
class grid_reader {
  public:
    grid_reader(const char* name, std::span<const index> grids, const positions::media_tokens& tokens,
                positions::video_blocks blocks)
        : name_(name), grids_(grids), merge_(tokens.spatial_merge), blocks_(blocks) {
        require(grids.size() % 3 == 0, "find_media",
                (std::string(name) + "_grids must hold three numbers a grid").c_str(), grids.size());
        for (std::size_t i = 0; i < grids.size(); ++i) {
            const char* const side = i % 3 == 0 ? "frames" : i % 3 == 1 ? "height" : "width";
            const std::string which = std::string(name) + " " + text(i / 3) + ": " + side;
            require(grids[i] >= 1, "find_media", (which + " must be >= 1").c_str(), grids[i]);
            require(i % 3 == 0 || grids[i] % merge_ == 0, "find_media",
                    (which + " must be a multiple of spatial_merge").c_str(), grids[i]);
        }
    }
    index count() const noexcept { return static_cast<index>(grids_.size() / 3); }
    /// The number of grids whose last frame was returned.
    index used() const noexcept { return next_; }
    /// Whether the next block starts a new grid, rather than continuing with its frames.
    bool at_start() const noexcept { return frame_ == 0; }

    positions::media_segment take(positions::media kind, index sequence, index token) {
        if (next_ == count())
            fail(std::string("find_media: ") + name_ + " token " + text(token) + " of sequence " +
                 text(sequence) + " must be one of the tokens of the grids, got " + text(count()) + " " + name_ + " grids");
        const index* const grid = grids_.data() + 3 * next_;
        const bool whole = blocks_ == positions::video_blocks::whole;
        taken_ = std::string(name_) + " " + text(next_) + (whole ? "" : ", frame " + text(frame_));
        frame_ += whole ? grid[0] : 1;
        if (frame_ == grid[0]) {
            frame_ = 0;
            ++next_;
        }
        return {.kind = kind,
                .frames = whole ? grid[0] : 1,
                .height = grid[1] / merge_,
                .width = grid[2] / merge_};
    }
    /// The name of what take() returned last, for messages.
    const std::string& taken() const noexcept { return taken_; }

    /// Refuses grids that no token used.
    void require_all_used() const {
        if (frame_ != 0)
            fail(std::string("find_media: ") + name_ + " " + text(next_) + " must have tokens for " +
                 text(grids_[static_cast<std::size_t>(3 * next_)]) + " frames, got " + text(frame_));
        const std::string kind(name_);
        require(next_ == count(), "find_media",
                (kind + "_grids must belong to " + kind + " tokens of input_ids").c_str(),
                text(count()) + " for " + text(next_) + " " + kind + "s");
    }

  private:
    const char* name_;
    std::span<const index> grids_;
    index merge_;
    positions::video_blocks blocks_;
    index next_ = 0;   // index of the current grid
    index frame_ = 0;  // the next frame of it
    std::string taken_;
};

/// What starts at a token, in a family with sound.
enum class opening : std::uint8_t { none, vision, sound, vision_and_sound };

/// Reads the markers of a family with sound, and counts its sounds. In a family without sound it finds none.
class sound_reader {
  public:
    sound_reader(std::span<const index> lengths, const positions::media_tokens& tokens)
        : lengths_(lengths), tokens_(tokens) {
        constexpr const char* who = "find_media";
        require(lengths.empty() || audible(), who, "audio_lengths must be empty where tokens have no audio",
                lengths.size());
        require(!audible() || tokens.blocks == positions::video_blocks::whole, who,
                "blocks must be whole where tokens have audio", static_cast<int>(tokens.blocks));
    }

    opening opens(const std::vector<std::int64_t>& ids, std::size_t n) const noexcept {
        if (!audible()) return opening::none;
        const auto at = [&](std::size_t i) { return n + i < ids.size() ? ids[n + i] : -1; };
        if (at(0) == tokens_.audio_start) return at(1) == tokens_.audio ? opening::sound : opening::none;
        if (at(0) != tokens_.vision_start) return opening::none;
        if (at(1) == tokens_.image || at(1) == tokens_.video) return opening::vision;
        const bool both = at(1) == tokens_.audio_start && (at(2) == tokens_.video || at(2) == tokens_.audio);
        return both ? opening::vision_and_sound : opening::none;
    }
    /// Reads a sound that is not part of a video; it starts at its marker.
    positions::media_segment take(const std::vector<std::int64_t>& ids, std::size_t& n, index sequence) {
        positions::media_segment s{.kind = positions::media::audio};
        for (++n; n < ids.size() && ids[n] == tokens_.audio; ++n) ++s.tokens;
        close(opening::sound, s, "audio " + text(next_), ids, n, static_cast<std::size_t>(sequence));
        return s;
    }
    /// Skips the markers after a block, and checks the number of its audio tokens.
    void close(opening opened, const positions::media_segment& s, const std::string& what,
               const std::vector<std::int64_t>& ids, std::size_t& n, std::size_t sequence) {
        const auto pass = [&](std::int64_t marker, const char* name) {
            if (n == ids.size() || ids[n] != marker)
                fail("find_media: " + what + " must be followed by " + name + " in sequence " +
                     text(sequence) + ", got " + (n == ids.size() ? "its end" : "id " + text(ids[n])));
            ++n;
        };
        if (opened == opening::sound || opened == opening::vision_and_sound) {
            if (!lengths_.empty() && (next_ >= lengths_.size() || lengths_[next_] != s.tokens))
                fail("find_media: audio " + text(next_) + " must have " +
                     (next_ < lengths_.size() ? text(lengths_[next_]) + " tokens" : "a length") +
                     " in sequence " + text(sequence) + ", got " + text(s.tokens));
            ++next_;
            pass(tokens_.audio_end, "audio_end");
        }
        if (opened == opening::vision || opened == opening::vision_and_sound)
            pass(tokens_.vision_end, "vision_end");
    }
    /// Refuses an image or a video without its marker.
    void require_opened(opening opened, const char* kind, std::size_t n, std::size_t sequence) const {
        if (audible() && opened == opening::none)
            fail(std::string("find_media: ") + kind + " token " + text(n) + " of sequence " + text(sequence) +
                 " must follow vision_start");
    }
    /// Refuses sound outside its markers.
    void require_plain(std::int64_t id, std::size_t n, std::size_t sequence) const {
        if (audible() && id == tokens_.audio)
            fail("find_media: audio token " + text(n) + " of sequence " + text(sequence) +
                 " must follow audio_start");
    }
    /// Refuses lengths that no sound used.
    void require_all_used() const {
        require(lengths_.empty() || next_ == lengths_.size(), "find_media",
                "audio_lengths must belong to sounds of input_ids",
                text(lengths_.size()) + " for " + text(next_) + " sounds");
    }

  private:
    bool audible() const noexcept { return tokens_.audio != positions::media_tokens::no_audio; }

    std::span<const index> lengths_;
    positions::media_tokens tokens_;
    std::size_t next_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// Finds the segments of every sequence of a batch from its token ids. A block starts at the first image or
/// video token after the last block and has as many tokens as its grid; everything else is text. Grids are
/// assigned in order over the whole batch; masked tokens are padding.
/// In a family with sound (media_tokens::audio) a block lies between markers, which belong to it: sound, an
/// image, a video, or a video whose sound is among its tokens (vision_start audio_start ... audio_end
/// vision_end), in the order in which tmrope_rule places them.
/// Throws:   invalid_config naming the image, video or sound: a grid that is not positive or not divisible by
///           the merge, visual tokens without a grid, a grid without tokens, sizes that disagree, a missing
///           marker.
/// Cost:     O(tokens).
/// Source:   huggingface/transformers models/qwen2_vl, models/qwen2_5_omni and models/qwen3_omni_moe
///           get_rope_index; QwenLM/Qwen3-VL rope2d.py.
inline std::vector<media_sequence> find_media(const token_batch& batch, const media_tokens& tokens = {}) {
    constexpr const char* who = "find_media";
    using detail::text;
    detail::require(tokens.spatial_merge >= 1, who, "spatial_merge must be >= 1", tokens.spatial_merge);
    detail::require(batch.batches >= 1, who, "batches must be >= 1", batch.batches);
    const auto total = static_cast<index>(batch.input_ids.size());
    detail::require(total % batch.batches == 0, who, "input_ids must hold batches * tokens ids", total);
    detail::require(batch.attention_mask.empty() || batch.attention_mask.size() == batch.input_ids.size(),
                    who, "attention_mask must be empty or as long as input_ids", batch.attention_mask.size());
    detail::grid_reader images("image", batch.image_grids, tokens, video_blocks::whole);
    detail::grid_reader videos("video", batch.video_grids, tokens, tokens.blocks);
    detail::sound_reader sounds(batch.audio_lengths, tokens);
    detail::require(
        batch.seconds_per_grid.empty() || static_cast<index>(batch.seconds_per_grid.size()) == videos.count(),
        who, "seconds_per_grid must be empty or one number a video", batch.seconds_per_grid.size());
    detail::require(batch.temporal_scales.empty() ||
                        static_cast<index>(batch.temporal_scales.size()) == images.count() + videos.count(),
                    who, "temporal_scales must be empty or one number an image or video",
                    batch.temporal_scales.size());
    for (const double scale : batch.temporal_scales)
        detail::require(std::isfinite(scale) && scale > 0, who, "temporal_scales must be finite and > 0",
                        scale);

    std::vector<media_sequence> sequences(static_cast<std::size_t>(batch.batches));
    std::size_t first_seen = 0;  // images and videos found so far
    double video_scale = 0;      // that of the video whose frames continue
    const auto length = static_cast<std::size_t>(total / batch.batches);
    for (std::size_t b = 0; b < sequences.size(); ++b) {
        media_sequence& sequence = sequences[b];
        sequence.mask.assign(length, 1);
        std::vector<std::int64_t> ids;
        for (std::size_t n = 0; n < length; ++n) {
            const bool real = batch.attention_mask.empty() || batch.attention_mask[b * length + n] != 0;
            sequence.mask[n] = real ? 1 : 0;
            if (real) ids.push_back(batch.input_ids[b * length + n]);
        }
        index plain = 0;
        const auto end_text = [&] {
            if (plain != 0) sequence.segments.push_back({.tokens = plain});
            plain = 0;
        };
        for (std::size_t n = 0; n < ids.size();) {
            using detail::opening;
            const opening opens = sounds.opens(ids, n);
            if (opens == opening::sound) {
                end_text();
                sequence.segments.push_back(sounds.take(ids, n, static_cast<index>(b)));
                continue;
            }
            const bool with_sound = opens == opening::vision_and_sound;
            n += with_sound ? 2 : opens == opening::vision ? 1 : 0;
            const bool image = !with_sound && ids[n] == tokens.image;
            if (!image && !with_sound && ids[n] != tokens.video) {
                sounds.require_plain(ids[n], n, b);
                ++plain;
                ++n;
                continue;
            }
            sounds.require_opened(opens, image ? "image" : "video", n, b);
            end_text();
            detail::grid_reader& grids = image ? images : videos;
            const auto number = static_cast<std::size_t>(grids.used());
            const bool starts = grids.at_start();
            media_segment block =
                grids.take(image ? media::image : media::video, static_cast<index>(b), static_cast<index>(n));
            if (image && block.frames != 1) {  // a repeated still image: no time passes
                block.kind = media::video;
                block.seconds_per_frame = 0;
            }
            if (!image && !batch.seconds_per_grid.empty()) {
                block.seconds_per_frame = batch.seconds_per_grid[number];
                block.timed = true;
            }
            if (!batch.temporal_scales.empty()) {
                block.temporal_scale = starts ? batch.temporal_scales[first_seen++] : video_scale;
                if (!image) video_scale = block.temporal_scale;
            }
            const index wanted = detail::checked_product(who, "frames x height x width must fit",
                                                         {block.frames, block.height, block.width});
            index found = 0;
            for (; n < ids.size(); ++n) {
                if (with_sound && ids[n] == tokens.audio) {
                    ++block.tokens;
                } else if (found < wanted && ids[n] == (image ? tokens.image : tokens.video)) {
                    ++found;
                } else {
                    break;
                }
            }
            if (found != wanted)
                detail::fail("find_media: " + grids.taken() + " (" + text(block.frames) + " x " +
                             text(block.height) + " x " + text(block.width) + " after merging) must have " +
                             text(wanted) + " tokens in sequence " + text(b) + ", got " + text(found));
            if (with_sound) block.kind = media::video_with_audio;
            sounds.close(opens, block, grids.taken(), ids, n, b);
            sequence.segments.push_back(block);
        }
        end_text();
    }
    images.require_all_used();
    videos.require_all_used();
    sounds.require_all_used();
    return sequences;
}

/// The position streams of a batch, from its segments, with padding where the masks are 0.
/// Throws:   as stream_builder.
/// Source:   huggingface/transformers get_rope_index; padding is at position 1 in 4.x, at 0 in 5.x.
///
///     const auto streams = make_streams(mrope_rule{}, find_media({.input_ids = ids, .image_grids = grids}));
///     const auto omni = make_streams(tmrope_rule{}, find_media(batch, qwen25_omni_tokens));
template <position_rule Rule>
std::vector<position_stream> make_streams(const Rule& rule, std::span<const media_sequence> sequences,
                                          std::optional<double> padding_position = {}) {
    std::vector<position_stream> streams;
    for (const auto& sequence : sequences) {
        position_stream s = make_stream(rule, std::span<const media_segment>(sequence.segments));
        s.positions =
            spread_over_mask(s.positions, std::span<const std::uint8_t>(sequence.mask), padding_position);
        streams.push_back(std::move(s));
    }
    return streams;
}
template <position_rule Rule>
std::vector<position_stream> make_streams(const Rule& rule, const std::vector<media_sequence>& sequences,
                                          std::optional<double> padding_position = {}) {
    return make_streams(rule, std::span<const media_sequence>(sequences), padding_position);
}

}  // namespace ROPEWALK_NAMESPACE::positions
