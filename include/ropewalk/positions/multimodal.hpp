// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Position streams of sequences of text, images, video and audio, built segment by segment under a rule.
#pragma once

#include <concepts>
#include <string>

#include <ropewalk/positions/sequence.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// The kind of a segment. shared_text does not advance the position of what follows, so that several
/// continuations of one prompt fit in one sequence (VRoPE's grouped answers).
enum class media : std::uint8_t { text, shared_text, image, video, audio, video_with_audio };

/// One segment of a sequence. Sizes are those that the language model sees, after spatial merging. The tokens
/// of a block are in the order frame, row, column; the column index changes fastest.
/// Source: the visual blocks of Qwen2-VL, VRoPE and VideoRoPE; vision_start and vision_end are text.
///
///     {.tokens = 12}, {.kind = media::video, .frames = 16, .height = 8, .width = 8}
struct media_segment {
    media kind = media::text;      ///< text, image, video or sound
    index tokens = 0;              ///< of text and audio; of video_with_audio the audio tokens
    index frames = 1;              ///< of video
    index height = 0;              ///< of images and video
    index width = 0;               ///< of images and video
    double seconds_per_frame = 1;  ///< second_per_grid_ts: the duration of one frame of the grid
    double temporal_scale = 0;     ///< step of a frame in VideoRoPE and HoPE; 0: that of the rule
    bool timed = false;            ///< whether seconds_per_frame was given: a rule without a clock refuses it

    /// Whether the segment has a grid.
    constexpr bool visual() const noexcept {
        return kind == media::image || kind == media::video || kind == media::video_with_audio;
    }
};

/// The sequence length that a published delta refers to: transformers 4.x and the code of VideoRoPE and HoPE
/// count padding, Qwen2.5-Omni and transformers 5.x do not.
enum class delta_length : std::uint8_t { padded, unpadded };

/// The positions of one sequence, and where generation goes on.
/// Source: huggingface/transformers get_rope_index (position_ids, rope_deltas).
struct position_stream {
    position_ids positions;    ///< the positions of the tokens
    double next_position = 0;  ///< of the first generated token, on every axis
    double position_step = 1;  ///< from one generated token to the next
    index tokens = 0;          ///< tokens, without padding

    /// The delta that references publish instead of next_position: a generated token has position
    /// position_step * (tokens before it) + delta. It is a constant of the prompt; slices of the prompt share
    /// it. Two published deltas differ from this one: that of TAD (see baseline), and that of a row without
    /// images of Qwen2-VL in transformers 4.x, which takes a maximum over the padding too. Padding is at 1,
    /// so for a left-padded row of a single token that delta is 2 - length, and generation would go on at 2
    /// instead of 1.
    double delta(delta_length length) const noexcept {
        const index count = length == delta_length::padded ? positions.tokens() : tokens;
        return next_position - position_step * static_cast<double>(count);
    }
    /// The positions of generated tokens [first, first + count).
    position_ids decode_positions(index count, index first = 0) const {
        position_ids ids(positions.axes());
        ids.append(
            text_run{count, next_position + position_step * static_cast<double>(first), position_step});
        return ids;
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

inline std::string name_of(const positions::media_segment& s) {
    const auto grid = [&](const char* kind) {
        return std::string(kind) + " " + text(s.frames) + " x " + text(s.height) + " x " + text(s.width);
    };
    switch (s.kind) {
        case positions::media::text: return "text";
        case positions::media::shared_text: return "shared text";
        case positions::media::image: return grid("image");
        case positions::media::video: return grid("video");
        case positions::media::audio: return "audio";
        default: return grid("video with audio");
    }
}

/// As require(); the message names the segment.
template <class V>
void require_segment(bool holds, index number, const positions::media_segment& s, const char* must,
                     const V& got) {
    if (!holds)
        fail("position_stream: segment " + text(number) + " (" + name_of(s) + "): " + must + ", got " +
             text(got));
}

/// Checks a segment after `so_far` tokens. Past 2^53 positions are no longer exact, and counts from a hostile
/// file could overflow.
inline void require_valid(index number, const positions::media_segment& s, index so_far) {
    using positions::media;
    constexpr index most = detail::limit_of_bits(53);
    const bool counted = !s.visual() || s.kind == media::video_with_audio;
    require_segment(!counted || s.tokens >= 0, number, s, "tokens must be >= 0", s.tokens);
    const index here = counted ? s.tokens : 0;
    require_segment(here <= most - so_far, number, s,
                    "tokens must keep the sequence within " ROPEWALK_DETAIL_LIMIT_53 " tokens", s.tokens);
    if (s.visual()) {
        require_segment(s.frames >= 1, number, s, "frames must be >= 1", s.frames);
        require_segment(s.kind != media::image || s.frames == 1, number, s, "frames of an image must be 1",
                        s.frames);
        require_segment(s.height >= 1, number, s, "height must be >= 1", s.height);
        require_segment(s.width >= 1, number, s, "width must be >= 1", s.width);
        constexpr const char* grid_must =
            "frames x height x width must keep the sequence within " ROPEWALK_DETAIL_LIMIT_53 " tokens";
        require_segment(s.frames <= most / s.height && s.frames * s.height <= most / s.width, number, s,
                        grid_must, text(s.frames) + " x " + text(s.height) + " x " + text(s.width));
        const index patches = s.frames * s.height * s.width;
        require_segment(patches <= most - so_far - here, number, s, grid_must, patches);
    }
    require_segment(std::isfinite(s.seconds_per_frame) && s.seconds_per_frame >= 0, number, s,
                    "seconds_per_frame must be finite and >= 0", s.seconds_per_frame);
    require_segment(std::isfinite(s.temporal_scale) && s.temporal_scale >= 0, number, s,
                    "temporal_scale must be finite and >= 0", s.temporal_scale);
}

/// Refuses sound, for rules that do not place it.
inline void require_silent(index number, const positions::media_segment& s) {
    using positions::media;
    require_segment(s.kind == media::image || s.kind == media::video, number, s,
                    "kind must be text, image or video (tmrope_rule places audio)",
                    s.kind == media::audio ? "audio" : "video with audio");
}

/// The state of a sequence that is being built under a rule.
struct stream_state {
    std::vector<position_segment> segments = {};
    double next = 0;      // position of the next text token
    double highest = -1;  // largest position on any axis so far
    index tokens = 0;
    bool open = false;  // whether the last segment is text that ends at `next`

    void add(position_segment segment, index count) {
        if (count == 0) return;
        segments.push_back(std::move(segment));
        tokens += count;
        open = false;
    }
    /// Consecutive text is one run. Decoding token by token then adds no segments, and a text that arrives in
    /// pieces has the same bits as one that arrives whole.
    void add_text(index count, double step = 1) {
        if (count == 0) return;
        if (open) {
            segments.back().text()->tokens += count;
            tokens += count;
        } else {
            add(text_run{count, next, step}, count);
        }
        const auto& run = *segments.back().text();
        next = run.first + run.step * static_cast<double>(run.tokens);
        highest = std::max(highest, next - step);
        open = true;
    }
    /// Text that does not advance `next`: whatever follows gets the same positions again.
    void add_shared_text(index count, double step = 1) { add(text_run{count, next, step}, count); }
};

/// Restores a state unless keep() was called. Segments are only ever added; of the earlier ones only a text
/// run at the end can have grown.
class stream_rollback {
  public:
    explicit stream_rollback(stream_state& state) noexcept
        : state_(state),
          segments_(state.segments.size()),
          next_(state.next),
          highest_(state.highest),
          tokens_(state.tokens),
          open_(state.open) {
        if (open_) last_ = *state.segments.back().text();
    }
    stream_rollback(const stream_rollback&) = delete;
    stream_rollback& operator=(const stream_rollback&) = delete;
    ~stream_rollback() {
        if (kept_) return;
        while (state_.segments.size() > segments_) state_.segments.pop_back();
        if (open_) *state_.segments.back().text() = last_;
        state_.next = next_;
        state_.highest = highest_;
        state_.tokens = tokens_;
        state_.open = open_;
    }
    void keep() noexcept { kept_ = true; }

  private:
    stream_state& state_;
    std::size_t segments_;
    double next_, highest_;
    index tokens_;
    bool open_, kept_ = false;
    text_run last_ = {};
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// How a scheme assigns positions to tokens: a struct of its options with
///   axes()                       the number of axes
///   check()                      throws invalid_config on invalid options
///   place(state, segment, n)     appends segment number n
///   next_position(state)         position of the first generated token
///   step()                       positions from one text token to the next
/// mrope_rule, tmrope_rule, baseline_rule, vrope_rule and video_rope_rule are such rules.
template <class R>
concept position_rule = requires(const R rule, detail::stream_state& state, const media_segment& segment) {
    { rule.axes() } -> std::convertible_to<index>;
    rule.check();
    rule.place(state, segment, index{});
    { rule.next_position(state) } -> std::convertible_to<double>;
    { rule.step() } -> std::convertible_to<double>;
};

/// Builds the positions of one sequence segment by segment. What is appended later never changes earlier
/// positions, so a conversation can grow message by message, and a prompt may arrive in chunks.
/// Throws:   invalid_config naming the segment (by its number, from 0) and what was expected.
/// Cost:     O(height + width + frames) for a visual block, O(1) for a text segment of any length.
///
///     stream_builder builder(video_rope_rule{.spacing = 2});
///     builder.append({.tokens = 12}).append({.kind = media::video, .frames = 16, .height = 8, .width = 8});
///     const position_stream prompt = builder.stream();
template <position_rule Rule>
class stream_builder {
  public:
    explicit stream_builder(Rule rule = {}) : rule_(std::move(rule)) { rule_.check(); }

    /// Appends the next segment: all of it or, after a failure, nothing.
    stream_builder& append(const media_segment& segment) {
        return append(std::span<const media_segment>(&segment, 1));
    }
    stream_builder& append(std::span<const media_segment> segments) {
        detail::stream_rollback rollback(state_);
        index number = count_;
        for (const auto& segment : segments) {
            detail::require_valid(number, segment, state_.tokens);
            rule_.place(state_, segment, number++);
        }
        rollback.keep();
        count_ = number;
        return *this;
    }
    /// Tokens so far.
    index tokens() const noexcept { return state_.tokens; }
    /// The positions so far, and where generation goes on.
    position_stream stream() const {
        position_stream out{position_ids(rule_.axes()), rule_.next_position(state_), rule_.step(),
                            state_.tokens};
        for (const auto& segment : state_.segments) out.positions.append(segment);
        return out;
    }

  private:
    Rule rule_;
    detail::stream_state state_;
    index count_ = 0;
};

/// The positions of all segments in one call.
/// Throws:   as stream_builder.
/// Source:   as stream_builder.
template <position_rule Rule>
position_stream make_stream(const Rule& rule, std::span<const media_segment> segments) {
    return stream_builder<Rule>(rule).append(segments).stream();
}
template <position_rule Rule>
position_stream make_stream(const Rule& rule, std::initializer_list<media_segment> segments) {
    return make_stream(rule, std::span<const media_segment>(segments.begin(), segments.size()));
}

/// The side on which sequences are padded.
enum class padding_side : std::uint8_t { left, right };  ///< the side on which sequences are padded

struct padding_config {
    padding_side side = padding_side::left;  ///< the side on which sequences are padded
    index tokens = 0;                        ///< length after padding; 0: that of the longest sequence
    std::optional<double> position = {};     ///< position of the padding; none: kernels leave it untouched
};

/// Pads the sequences of a batch to one length.
/// Throws:   invalid_config if a sequence is longer than config.tokens.
/// Source:   padding_side of Hugging Face processors; VRoPE's pad_position_ids.
inline std::vector<position_stream> pad_streams(std::vector<position_stream> streams,
                                                const padding_config& config) {
    index longest = 0;
    for (const auto& s : streams) longest = std::max(longest, s.positions.tokens());
    const index length = config.tokens == 0 ? longest : config.tokens;
    detail::require(length >= longest, "pad_streams", "tokens must be >= the longest sequence's", length);
    for (auto& s : streams) {
        position_ids padded(s.positions.axes());
        const index pads = length - s.positions.tokens();
        if (config.side == padding_side::left) padded.append(padding_run(pads, config.position));
        padded.append(s.positions);
        if (config.side == padding_side::right) padded.append(padding_run(pads, config.position));
        s.positions = std::move(padded);
    }
    return streams;
}

/// The positions of a batch, one sequence after the other, to build one table for the whole call.
/// Throws:   invalid_config if the sequences differ in axes or in tokens after padding.
inline position_ids join_batch(std::span<const position_stream> streams) {
    position_ids all(streams.empty() ? 1 : streams.front().positions.axes());
    for (const auto& s : streams) {
        detail::require_equal("join_batch", "sequences must have one length: pad them first",
                              streams.front().positions.tokens(), s.positions.tokens());
        all.append(s.positions);
    }
    return all;
}

}  // namespace ROPEWALK_NAMESPACE::positions
