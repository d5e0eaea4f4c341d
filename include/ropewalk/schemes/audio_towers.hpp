// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotary schemes of audio encoders: plain frame positions, and Music Flamingo's rotation by time.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

/// Rotary schemes of audio encoders: by the frame number, or (Music Flamingo) by window and time.
/// Source: huggingface/transformers, the models named below.
namespace ROPEWALK_NAMESPACE::audio_towers {

struct music_flamingo_config {
    index width = 1280;        ///< channels of the encoder's output, which is rotated as one head
    double base = 1200;        ///< rope_theta; times are divided by it too
    double partial = 0.2;      ///< partial_rotary_factor: share of the width for each of the two axes
    double frame_step = 0.01;  ///< seconds of a mel frame; the encoder keeps every fourth
};

}  // namespace ROPEWALK_NAMESPACE::audio_towers

namespace ROPEWALK_NAMESPACE::detail {

/// The number of channels that Music Flamingo gives each of its two axes.
inline index music_flamingo_channels(const char* who, const audio_towers::music_flamingo_config& config) {
    require(config.width >= 4 && config.width <= 65536, who, "width must be in 4 .. 65536", config.width);
    require(config.partial > 0 && config.partial <= 0.5, who, "partial must be in (0, 0.5]", config.partial);
    require(std::isfinite(config.base) && config.base > 1, who, "base must be finite and > 1", config.base);
    const auto channels = static_cast<index>(static_cast<double>(config.width) * config.partial);
    require(channels >= 2 && channels % 2 == 0, who, "partial must leave an even number of channels",
            channels);
    return channels;
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::audio_towers {

/// Music Flamingo: the encoder's output is rotated, before the projector and outside attention. It has two
/// axes, the window of 30 seconds and the frame within it, each with the frequencies base^(-2 i / channels).
/// The pairs are interleaved from channel 0; the other channels are untouched. Its positions are those of
/// music_flamingo_frames.
/// Throws:   invalid_config on a width outside 4 .. 65536, a base that is not > 1, or a partial that is not
///           in (0, 1/2] or leaves an odd number of channels.
/// Source:   huggingface/transformers models/musicflamingo, MusicFlamingoRotaryEmbedding.
inline rotary_scheme music_flamingo(const music_flamingo_config& config = {}) {
    constexpr const char* who = "audio_towers::music_flamingo";
    const index channels = detail::music_flamingo_channels(who, config);
    auto rope =
        make_fixed_scheme({.name = who, .head_dim = config.width, .layout = interleaved{}},
                          frequencies::axial({.channels = {channels, channels}, .base = config.base}));
    rope.notes.push_back("rotates the encoder's output, not queries and keys");
    return rope;
}

/// Positions of the frames of consecutive windows. Frame j of window w, at t seconds from the start, has the
/// coordinates -2 pi t w / base and -2 pi t (2 pi j / base): both axes are scaled by its time.
/// Shapes:   [windows * frames, 2], window by window.
/// Throws:   invalid_config on negative counts, more than 2^24 frames, or a frame_step that is not finite and
///           > 0.
/// Source:   huggingface/transformers models/musicflamingo.
inline position_ids music_flamingo_frames(index windows, index frames,
                                          const music_flamingo_config& config = {}) {
    constexpr const char* who = "audio_towers::music_flamingo_frames";
    detail::require(windows >= 0, who, "windows must be >= 0", windows);
    detail::require(frames >= 0 && frames <= 1500000 && (frames == 0 || windows <= (index{1} << 24) / frames),
                    who, "frames must be >= 0 and windows * frames <= 2^24", frames);
    detail::require(std::isfinite(config.frame_step) && config.frame_step > 0, who,
                    "frame_step must be finite and > 0", config.frame_step);
    detail::require(std::isfinite(config.base) && config.base > 1, who, "base must be finite and > 1",
                    config.base);
    constexpr double turn = 2 * std::numbers::pi;
    const double step = 4 * config.frame_step;
    std::vector<double> at;
    for (index w = 0; w < windows; ++w)
        for (index j = 0; j < frames; ++j) {
            const double t = static_cast<double>(w * frames + j) * step;
            at.push_back(-turn * t * static_cast<double>(w) / config.base);
            at.push_back(-turn * t * (turn * static_cast<double>(j) / config.base));
        }
    return position_ids::from_tokens_axes(at, 2);
}

struct line_config {
    std::string name = {};  ///< name in messages and in explain
    index head_dim = 0;
    index rotary_dim = 0;  ///< channels that rotate, from the first on; 0: all
    double base = 1e4;
    pair_layout layout = {};
};

/// The scheme of an encoder that rotates by the frame number.
/// Throws:   invalid_config on an odd rotary_dim, one above head_dim, a head_dim above 65536 or a base that
///           is not > 0.
/// Source:   RoFormer, Su et al. 2021.
inline rotary_scheme line(const line_config& config) {
    detail::require(config.head_dim >= 2 && config.head_dim <= 65536, config.name.c_str(),
                    "head_dim must be in 2 .. 65536", config.head_dim);
    const index rotated = config.rotary_dim == 0 ? config.head_dim : config.rotary_dim;
    return make_fixed_scheme({.name = config.name, .head_dim = config.head_dim, .layout = config.layout},
                             frequencies::geometric({.rotary_dim = rotated, .base = config.base}));
}

}  // namespace ROPEWALK_NAMESPACE::audio_towers
