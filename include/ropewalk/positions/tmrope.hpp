// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// TMRoPE: time-aligned M-RoPE positions for video with sound (Qwen2.5-Omni, Qwen3-Omni).
#pragma once

#include <ropewalk/positions/mrope.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// How the tokens of a video and of its sound are ordered, and the positions of the markers around them.
/// chunks:  two seconds of frames, two seconds of sound, and so on; both start markers share a position, and
///          so do both end markers (Qwen2.5-Omni).
/// by_time: each frame after the sound before it, the frame first if both start together; markers have
///          consecutive positions (Qwen3-Omni).
enum class sound_order : std::uint8_t { chunks, by_time };

/// The audio encoders, which differ in the length of their output. qwen25_omni: two convolutions halve the
/// mel frames. qwen3_omni: windows of 100 frames become 13 tokens each, and the remainder is halved three
/// times.
enum class audio_encoder : std::uint8_t { qwen25_omni, qwen3_omni };

/// The number of audio tokens of a sound.
/// Throws:   invalid_config on mel_frames < 0 (too few frames for a token give 0).
/// Source:   huggingface/transformers models/qwen2_5_omni and models/qwen3_omni_moe, the audio encoder's
///           output lengths.
///
///     audio_tokens(640, audio_encoder::qwen3_omni);   // 83
inline index audio_tokens(index mel_frames, audio_encoder encoder = audio_encoder::qwen25_omni) {
    detail::require(mel_frames >= 0, "audio_tokens", "mel_frames must be >= 0", mel_frames);
    const auto halved = [](index n) { return n == 0 ? 0 : (n - 1) / 2 + 1; };
    if (encoder == audio_encoder::qwen3_omni)
        return mel_frames / 100 * 13 + halved(halved(halved(mel_frames % 100)));
    const index once = halved(mel_frames);
    return once < 2 ? 0 : (once - 2) / 2 + 1;
}

/// Time-aligned M-RoPE: axes t, h, w as in mrope_rule, one position every 1 / tokens_per_second seconds, for
/// frames and sound alike. The rule places the start and end markers of vision and audio: one token each
/// around an image, a video or audio, and two around a video with audio (see sound_order).
/// media_segment::tokens of audio does not count markers.
/// Units:    positions of 40 ms by default.
/// Throws:   invalid_config on a clock of 0, a chunk shorter than one position or longer than 2^53, or a
///           video with audio that has no audio tokens.
/// Source:   Qwen2.5-Omni, Xu et al. 2025; huggingface/transformers models/qwen2_5_omni and
///           models/qwen3_omni_moe get_rope_index.
struct tmrope_rule {
    frame_clock clock = {.tokens_per_second = 25};  ///< how frames advance in time; f32 as in the reference
    double seconds_per_chunk = 2;  ///< seconds of video or sound before the other follows, chunks only
    sound_order order = sound_order::chunks;  ///< how frames and sound alternate

    /// Qwen3-Omni: frames at fractional positions, sound merged by time. `position_id_per_seconds` is the key
    /// of its config: 13 in the released checkpoints.
    /// Source:   huggingface/transformers models/qwen3_omni_moe get_rope_index; Qwen3-Omni's config.json.
    static constexpr tmrope_rule qwen3_omni(double position_id_per_seconds = 13) noexcept {
        return {
            .clock = {.tokens_per_second = position_id_per_seconds, .quantization = time_quantization::none},
            .order = sound_order::by_time};
    }

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const {
        clock.check("tmrope_rule");
        detail::require(clock.tokens_per_second > 0, "tmrope_rule", "tokens_per_second must be > 0",
                        clock.tokens_per_second);
        detail::require(chunk_positions() >= 1 && chunk_positions() <= 0x1p53, "tmrope_rule",
                        "seconds_per_chunk must cover 1 to 2^53 positions", seconds_per_chunk);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.highest + 1; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        switch (s.kind) {
            case media::text: return state.add_text(s.tokens);
            case media::shared_text: return state.add_shared_text(s.tokens);
            case media::audio: return state.add_text(s.tokens + 2);
            case media::image:
            case media::video:
                state.add_text(1);
                mrope_rule{.clock = clock}.place(state, s, number);
                return state.add_text(1);
            case media::video_with_audio: break;
        }
        detail::require_segment(s.tokens >= 1, number, s, "tokens must be >= 1", s.tokens);
        add_two_markers(state);
        if (order == sound_order::chunks) {
            place_chunks(state, s, number);
        } else {
            place_by_time(state, s, number);
        }
        add_two_markers(state);
    }

  private:
    double chunk_positions() const noexcept {
        return std::trunc(clock.tokens_per_second * seconds_per_chunk);
    }
    void add_two_markers(detail::stream_state& state) const {
        if (order == sound_order::by_time) return state.add_text(2);
        state.add(text_run{2, state.next, 0}, 2);
        state.highest = std::max(state.highest, state.next);
        state.next += 1;
    }
    /// Appends frames or sound that start at `start`; the next position is one past this piece alone.
    static void add_frames(detail::stream_state& state, const position_ids& piece) {
        double last = state.next;
        for (const auto& segment : piece.segments()) {
            const auto& grid = *segment.grid();
            for (std::size_t axis = 0; axis < 3; ++axis) {
                double most = grid.origin[axis];
                for (const auto& along : grid.coordinates[axis])
                    if (!along.empty()) most += *std::max_element(along.begin(), along.end());
                last = &segment == piece.segments().data() && axis == 0 ? most : std::max(last, most);
            }
            index tokens = 1;
            for (const index extent : grid.extents) tokens *= extent;
            state.add(segment, tokens);
        }
        state.next = last + 1;
        state.highest = std::max(state.highest, last);
    }
    static void add_sound(detail::stream_state& state, double start, index first, index count) {
        if (count == 0) return;
        state.next = start + static_cast<double>(first);
        state.add_text(count);
    }

    void place_chunks(detail::stream_state& state, const media_segment& s, index number) const {
        const double start = state.next;
        const auto chunk = static_cast<index>(chunk_positions());
        const index patches = s.height * s.width;
        const auto times = detail::times_of(clock, s, number);
        position_ids video(3);
        video.append(detail::clip_block(times, s, start));
        // A token ends the chunk before it when its time reaches the next multiple of the chunk. One token
        // ends at most one chunk, so frames far apart form chunks of single tokens.
        std::vector<index> cuts{0};
        for (index f = 0; f < s.frames; ++f)
            for (index p = 0; p < patches; ++p) {
                if (times[static_cast<std::size_t>(f)] < static_cast<double>(cuts.size()) * chunk_positions())
                    break;
                cuts.push_back(f * patches + p);
            }
        cuts.push_back(s.frames * patches);
        const auto video_chunks = static_cast<index>(cuts.size()) - 1;
        index heard = 0;
        for (index c = 0; c < video_chunks; ++c) {
            const index first = cuts[static_cast<std::size_t>(c)];
            add_frames(state, slice_tokens(video, first, cuts[static_cast<std::size_t>(c) + 1] - first));
            // Sound that is longer than the video has nothing to alternate with.
            const index left = s.tokens - heard;
            const index now = c + 1 < video_chunks ? std::min(chunk, left) : left;
            add_sound(state, start, heard, now);
            heard += now;
        }
    }

    void place_by_time(detail::stream_state& state, const media_segment& s, index number) const {
        const double start = state.next;
        const index patches = s.height * s.width;
        const auto times = detail::times_of(clock, s, number);
        position_ids video(3);
        video.append(detail::clip_block(times, s, start));
        index heard = 0;
        for (index f = 0; f < s.frames; ++f) {
            // Compared as doubles: a frame may be further away than any count of tokens reaches.
            const double before = std::ceil(times[static_cast<std::size_t>(f)]);
            const index until =
                before < static_cast<double>(s.tokens) ? static_cast<index>(before) : s.tokens;
            if (until > heard) {
                add_sound(state, start, heard, until - heard);
                heard = until;
            }
            const bool rest = heard == s.tokens;  // all sound is placed: the remaining frames are one piece
            add_frames(state, slice_tokens(video, f * patches, (rest ? s.frames - f : 1) * patches));
            if (rest) return;
        }
        add_sound(state, start, heard, s.tokens - heard);
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions
