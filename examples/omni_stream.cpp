// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// A question, a video with its sound, and the answer: under M-RoPE with the sound after the frames as if it
// were text, as Qwen2.5-Omni numbers them (TMRoPE), and in the order of Qwen3-Omni. It prints the temporal
// positions of every part, and the sound with the highest score of a frame when all queries and keys are
// equal, so that only positions matter.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <vector>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>
#include <ropewalk/schemes/mrope.hpp>

namespace rw = ropewalk;
using namespace ropewalk::positions;

constexpr rw::index dim = 128, before = 8, side = 4;
constexpr rw::index seconds = 5, rate = 25;  // one frame and 25 audio tokens per second

/// Prints a stream; returns how many frames have the temporal position of the sound at the same time.
template <class Scheme>
rw::index show(const char* name, const Scheme& scheme, std::initializer_list<media_segment> segments) {
    const auto s = make_stream(scheme.rule, segments);
    const auto& where = s.positions;
    std::vector<rw::index> frames, sounds;  // token numbers; of a frame its first patch
    std::printf("%s\n", name);
    for (rw::index part = 0; where.segment_start(part) < s.tokens; ++part) {
        const rw::index first = where.segment_start(part), end = where.segment_start(part + 1);
        const auto* run = where.segments()[static_cast<std::size_t>(part)].text();
        const bool marker = run && run->step == 0, sound = run && !marker && first >= before;
        const char* const what = !run ? "frames" : marker ? "markers" : sound ? "sound" : "text";
        std::printf("%s %.0f-%.0f, ", what, where.at(first), where.at(end - 1));
        for (rw::index n = first; n < end && !run; n += side * side) frames.push_back(n);
        for (rw::index n = first; n < end && sound; ++n) sounds.push_back(n);
    }
    std::printf("answer %.0f-\n", s.decode_positions(1).at(0));

    std::vector<double> x(static_cast<std::size_t>(s.tokens * dim), 1.0);
    rw::rotate(scheme.rope, rw::heads_view(x.data(), s.tokens, 1, dim),
               rw::make_factored_table<double>(scheme.rope.spectrum_for(1), where));
    rw::index together = 0;
    double away = 0, score = 0;
    for (rw::index f = 0; f < seconds; ++f) {
        const rw::index frame = frames[static_cast<std::size_t>(f)], own = f * rate;
        const double* const q = x.data() + frame * dim;
        std::vector<double> scores;
        for (const rw::index sound : sounds)
            scores.push_back(std::inner_product(q, q + dim, x.data() + sound * dim, 0.0) / dim);
        const rw::index best = std::max_element(scores.begin(), scores.end()) - scores.begin();
        away += static_cast<double>(std::abs(best - own)) / rate / seconds;
        score += scores[static_cast<std::size_t>(own)] / seconds;
        together += where.at(frame) == where.at(sounds[static_cast<std::size_t>(own)]);
    }
    std::printf("    %td of %td frames share t with their sound, their score is %.3f\n", together, seconds,
                score);
    std::printf("    the sound a frame hears best is %.2f s away\n", away);
    return together;
}

int main() {
    const auto text = rw::make_fixed_scheme({}, rw::frequencies::geometric({.rotary_dim = dim, .base = 1e6}));
    const media_segment question{.tokens = before}, sound{.tokens = seconds * rate};
    media_segment film{.kind = media::video, .frames = seconds, .height = side, .width = side};
    const auto mrope = rw::mrope::over(text, {.rule = {.clock = {.tokens_per_second = rate}}});
    const auto behind = show("M-RoPE, sound behind the frames", mrope, {question, film, sound});
    film.kind = media::video_with_audio;
    film.tokens = sound.tokens;
    const auto by_chunk = rw::mrope::time_aligned_over(text, {});
    const auto chunks = show("TMRoPE, chunks of two seconds (Qwen2.5-Omni)", by_chunk, {question, film});
    const auto by_time = rw::mrope::time_aligned_over(text, {.rule = {.order = sound_order::by_time}});
    const auto timed = show("TMRoPE, each frame by its time (Qwen3-Omni)", by_time, {question, film});
    return behind == 0 && chunks == seconds && timed == seconds ? 0 : 1;
}
