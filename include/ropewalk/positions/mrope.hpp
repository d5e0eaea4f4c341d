// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// M-RoPE's positions (Qwen2-VL and later) and the baselines that give a token one number.
#pragma once

#include <ropewalk/positions/grid.hpp>
#include <ropewalk/positions/multimodal.hpp>

namespace ROPEWALK_NAMESPACE::positions {

/// How seconds become a temporal index. trunc_after_product: trunc(frame * seconds * rate).
/// trunc_interval_first: frame * trunc(seconds) * rate, as in some 4.x and 5.x releases of transformers (with
/// half a second per frame all frames get the same index). none: the product, not truncated.
enum class time_quantization : std::uint8_t { trunc_after_product, trunc_interval_first, none };

/// The arithmetic of that product; near whole numbers the three truncate differently.
/// float32: each product rounded to f32, as in the reference.
/// float64: each product rounded to f64: 29 * 0.08 * 25 is below 58.
/// exact:   seconds and rate are converted back to the fractions they were written as (0.08 is 2 / 25, the
///          double nearest to 2 / 30 is 2 / 30; denominators up to 2^20), and only the whole product is
///          rounded. A number that is no such fraction, or a product above 2^62, is computed as float64.
enum class time_arithmetic : std::uint8_t { float64, float32, exact };

/// Where text goes on after a block. max_plus_one: one past the largest position on any axis (transformers
/// 4.x, Qwen's fine-tuning code). spatial_max: start + max(height, width), whatever the number of frames
/// (transformers from 5.3).
enum class block_transition : std::uint8_t { max_plus_one, spatial_max };

/// frame_clock::tokens_per_second of the released Qwen2.5-VL checkpoints.
/// Source: the config.json of Qwen2.5-VL; QwenLM/Qwen3-VL rope2d.py.
inline constexpr double qwen25_vl_tokens_per_second = 2;

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// numerator / denominator; denominator 0: not a known fraction.
struct fraction {
    std::int64_t numerator = 0, denominator = 0;
};

/// The fraction with a denominator up to 2^20 whose nearest double is x >= 0. It is a convergent of x, since
/// a double is closer to the number it was rounded from than to any other fraction with such a denominator.
inline fraction fraction_of(double x) noexcept {
    if (!(x < 0x1p31)) return {};
    double left = x;
    std::int64_t before[2] = {0, 1}, now[2] = {1, 0};  // numerators, denominators
    for (int term = 0; term < 40; ++term) {
        const double whole = std::floor(left);
        if (!(whole < 0x1p31)) return {};
        const auto factor = static_cast<std::int64_t>(whole);
        const std::int64_t n = factor * now[0] + before[0], d = factor * now[1] + before[1];
        if (d > std::int64_t{1} << 20 || n > std::int64_t{1} << 51) return {};
        if (static_cast<double>(n) / static_cast<double>(d) == x) return {n, d};
        before[0] = now[0], before[1] = now[1], now[0] = n, now[1] = d;
        left = 1 / (left - whole);
    }
    return {};
}

/// count * seconds * rate from exact fractions, truncated (if `whole`) or rounded once.
inline double exact_time(index count, double seconds, double rate, bool whole) noexcept {
    const double product = static_cast<double>(count) * seconds * rate;
    const fraction s = fraction_of(seconds), r = fraction_of(rate);
    const double n =
        static_cast<double>(count) * static_cast<double>(s.numerator) * static_cast<double>(r.numerator);
    if (s.denominator == 0 || r.denominator == 0 || !(n < 0x1p62))
        return whole ? std::trunc(product) : product;
    const std::int64_t top = count * s.numerator * r.numerator, bottom = s.denominator * r.denominator;
    const auto quotient = static_cast<double>(top / bottom);
    return whole ? quotient : quotient + static_cast<double>(top % bottom) / static_cast<double>(bottom);
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// How frames advance in time. tokens_per_second 0 counts frames, as Qwen2-VL does.
struct frame_clock {
    double tokens_per_second = 0;  ///< positions per second; 0 counts frames
    /// Where the product is truncated.
    time_quantization quantization = time_quantization::trunc_after_product;
    time_arithmetic arithmetic = time_arithmetic::float32;  ///< the arithmetic of the product

    void check(const char* who) const {
        detail::require(std::isfinite(tokens_per_second) && tokens_per_second >= 0, who,
                        "tokens_per_second must be finite and >= 0", tokens_per_second);
    }
    /// Temporal position of a frame, relative to the start of the block.
    double at(index frame, double seconds_per_frame) const noexcept {
        if (tokens_per_second == 0) return static_cast<double>(frame);
        const double seconds = quantization == time_quantization::trunc_interval_first
                                   ? std::trunc(seconds_per_frame)
                                   : seconds_per_frame;
        if (arithmetic == time_arithmetic::exact)
            return detail::exact_time(frame, seconds, tokens_per_second,
                                      quantization != time_quantization::none);
        const double product =
            arithmetic == time_arithmetic::float32
                ? static_cast<double>(static_cast<float>(frame) * static_cast<float>(seconds) *
                                      static_cast<float>(tokens_per_second))
                : static_cast<double>(frame) * seconds * tokens_per_second;
        return quantization == time_quantization::none ? product : std::trunc(product);
    }
    /// Temporal positions of all frames of a block.
    std::vector<double> frames(index count, double seconds_per_frame) const {
        std::vector<double> t(static_cast<std::size_t>(count));
        for (index f = 0; f < count; ++f) t[static_cast<std::size_t>(f)] = at(f, seconds_per_frame);
        return t;
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions

namespace ROPEWALK_NAMESPACE::detail {

/// The times of the frames of a segment. A product that overflows is refused here, where the segment can be
/// named.
inline std::vector<double> times_of(const positions::frame_clock& clock, const positions::media_segment& s,
                                    index number) {
    auto times = clock.frames(s.frames, s.seconds_per_frame);
    // The first time is 0 times an interval and the last is the largest: all are finite if these two are.
    require_segment(std::isfinite(times.front()) && std::isfinite(times.back()), number, s,
                    "seconds_per_frame must give every frame a finite position", s.seconds_per_frame);
    return times;
}

/// Frames at `times`, rows and columns counted from 0, all from `start`.
inline grid_block clip_block(std::vector<double> times, const positions::media_segment& s, double start) {
    const auto frames = static_cast<index>(times.size());
    return {{frames, s.height, s.width},
            {{std::move(times), {}, {}},
             {{}, positions::evenly_spaced(s.height), {}},
             {{}, {}, positions::evenly_spaced(s.width)}},
            {start, start, start}};
}

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::positions {

/// M-RoPE: axes t, h, w. Text has the same position on all three. A block that starts at `cur` has t = cur +
/// time of the frame, h = cur + row, w = cur + column.
/// {}                               Qwen2-VL, and Qwen3-VL when every frame is a block of its own
/// {.clock.tokens_per_second = 2}   Qwen2.5-VL (time from media_segment::seconds_per_frame)
/// Units:    positions; the first generated token is one past the largest position so far.
/// Throws:   invalid_config on audio (see tmrope_rule), on options that are not finite, and on seconds
///           without a clock: they would have no effect, and every model that uses them has a clock.
/// Source:   Qwen2-VL, Wang et al. 2024; QwenLM/Qwen3-VL rope2d.py get_rope_index_2, _25 and _3;
///           huggingface/transformers models/qwen2_5_vl.
struct mrope_rule {
    frame_clock clock = {};  ///< how frames advance in time
    /// Where the text after a block goes on.
    block_transition transition = block_transition::max_plus_one;

    static constexpr index axes() noexcept { return 3; }
    /// Positions from one text token to the next.
    static constexpr double step() noexcept { return 1; }
    void check() const { clock.check("mrope_rule"); }
    double next_position(const detail::stream_state& state) const noexcept { return state.highest + 1; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (s.kind == media::text) return state.add_text(s.tokens);
        if (s.kind == media::shared_text) return state.add_shared_text(s.tokens);
        detail::require_silent(number, s);
        // 0 is a repeated still image: no time passes.
        const bool untimed = !s.timed && (s.seconds_per_frame == 1 || s.seconds_per_frame == 0);
        detail::require_segment(clock.tokens_per_second > 0 || untimed, number, s,
                                "seconds_per_frame must not be given to a rule that counts frames "
                                "(clock.tokens_per_second 0)",
                                s.seconds_per_frame);
        auto times = detail::times_of(clock, s, number);
        const double start = state.next;
        const auto side = static_cast<double>(std::max(s.height, s.width));
        const double end = start + std::max(times.back() + 1, side);  // one past the largest position
        state.add(detail::clip_block(std::move(times), s, start), s.frames * s.height * s.width);
        state.next = transition == block_transition::max_plus_one ? end : start + side;
        state.highest = std::max(state.highest, end - 1);
    }
};

/// The baselines of the video papers, which give each token one number.
/// vanilla:     a running index over all tokens, plain RoPE.
/// time:        every token of a frame has the position of the frame.
/// tad:         the sum of both; generated tokens advance by 2. The reference code has no delta of its own
///              for TAD. It uses that of `time` and places generated tokens at 2 * (tokens before it, padding
///              counted) + delta. Without padding these are the same positions as here. In a padded row they
///              are too large by one for every padding token, while next_position goes on right after the
///              prompt.
enum class baseline : std::uint8_t { vanilla, time, tad };

/// Vanilla, time and TAD RoPE. One axis is enough; `axis_count` 3 repeats it for a model that has three.
/// Throws:   invalid_config on axis_count < 1 or audio.
/// Source:   Wiselnn570/VideoRoPE modeling_videorope.py get_vanilla_rope_index, get_time_rope_index.
struct baseline_rule {
    baseline kind = baseline::vanilla;  ///< which of the baselines
    index axis_count = 1;               ///< axes, all with the same position

    index axes() const noexcept { return axis_count; }
    /// Positions from one generated token to the next.
    double step() const noexcept { return kind == baseline::tad ? 2 : 1; }
    void check() const {
        detail::require(axis_count >= 1, "baseline_rule", "axis_count must be >= 1", axis_count);
    }
    double next_position(const detail::stream_state& state) const noexcept { return state.next; }

    void place(detail::stream_state& state, const media_segment& s, index number) const {
        if (s.kind == media::text) return state.add_text(s.tokens, step());
        if (s.kind == media::shared_text) return state.add_shared_text(s.tokens, step());
        detail::require_silent(number, s);
        const index patches = s.height * s.width;
        if (kind == baseline::vanilla) return state.add_text(s.frames * patches);
        const double inside = kind == baseline::tad ? 1 : 0;
        const double frame_step = 1 + inside * static_cast<double>(patches);
        const auto axes = static_cast<std::size_t>(axis_count);
        const std::vector<std::vector<double>> levels{
            evenly_spaced(s.frames, 0, frame_step),
            inside != 0 ? evenly_spaced(patches) : std::vector<double>{}};
        state.add(grid_block{{s.frames, patches},
                             std::vector<std::vector<std::vector<double>>>(axes, levels),
                             std::vector<double>(axes, state.next)},
                  s.frames * patches);
        state.next += frame_step * static_cast<double>(s.frames);
    }
};

}  // namespace ROPEWALK_NAMESPACE::positions
