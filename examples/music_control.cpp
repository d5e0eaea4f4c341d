// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// MuseControlLite controls Stable Audio Open by a melody or by other sound: a second cross-attention rotates
// queries (audio), keys and values (condition) on one time line. Every frame is the same vector with its own
// noise, so only time distinguishes frames. Where does attention peak, and where if a third is masked?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/schemes/musecontrollite.hpp>
#include <ropewalk/schemes/stable_audio.hpp>

namespace rw = ropewalk;
namespace muse = ropewalk::musecontrollite;
constexpr rw::index frames = 1024, all_frames = 1 + frames, head_channels = 64;  // a global token, then audio
constexpr rw::index third = frames / 3, gap_size = third * head_channels;        // the gap: the middle third
constexpr double seconds = frames * 2048 / 44100.0;  // a latent frame is 2048 samples

struct tensor {
    rw::index tokens, heads;
    std::vector<float> x = std::vector<float>(static_cast<std::size_t>(tokens * heads * head_channels));
    rw::heads_view<float> view() { return {x.data(), tokens, heads, head_channels}; }
};
tensor noisy(rw::index tokens, rw::index heads, unsigned seed) {
    std::mt19937 common, own(seed);
    std::normal_distribution<float> normal, noise(0, 0.5F);
    tensor t{tokens, heads};
    for (float* head = t.x.data(); head != t.x.data() + t.x.size(); head += head_channels, common.seed())
        std::generate_n(head, head_channels, [&] { return normal(common) + noise(own); });
    return t;
}

/// Prints the mean seconds from an audio frame to the peak of its attention; returns those in the gap.
double show(const char* name, tensor q, tensor condition) {
    const rw::index global = condition.tokens % frames, keys = condition.tokens - global;
    const auto kv = condition.view().token_slice(global, keys);  // values rotate too, and are the keys here
    tensor out{frames, q.heads};
    std::vector<float> scores(static_cast<std::size_t>(frames * q.heads * keys));
    rw::attend(q.view().token_slice(1, frames), kv, kv, out.view(), {.scores = scores});
    double sum[2] = {}, count[2] = {};
    for (auto row = scores.begin(); row != scores.end(); row += keys) {
        const rw::index n = (row - scores.begin()) / keys % frames, in_gap = n / third == 1;
        const rw::index apart = (std::max_element(row, row + keys) - row) * frames - n * keys;
        sum[in_gap] += std::abs(static_cast<double>(apart)) * seconds / static_cast<double>(frames * keys);
        ++count[in_gap];
    }
    std::printf("%-40s %10.3f %10.3f\n", name, sum[0] / count[0], sum[1] / count[1]);
    return sum[1] / count[1];
}

int main() {
    const auto rope = muse::cross_attention({.head_dim = head_channels});
    const auto steer = [omega = rope.spectrum_for(1)](const char* name, tensor q, tensor k, auto rotate) {
        rotate(q.view(), rw::make_rotation_table(omega, muse::query_positions(q.tokens, k.tokens)));
        rotate(k.view(), rw::make_rotation_table(omega, muse::key_positions(k.tokens)));
        return show(name, q, k);
    };
    const auto published = [&](auto x, const auto& table) { rw::rotate(rope, x, table); };
    const auto released = [](auto x, const auto& table) { muse::rotate_as_released(x, table); };
    // Two query heads read one head of the condition, as in the model.
    auto q = noisy(all_frames, 2, 2), melody = noisy(frames, 1, 3), sound = noisy(all_frames, 1, 4);
    std::puts("seconds from audio to attention's peak      outside     in gap");
    show("no rotation", q, melody);
    bool holds = steer("rotated", q, melody, published) < 0.2;
    steer("rotated, four condition frames to one", q, noisy(4 * frames, 1, 5), published);
    steer("the released code's map", q, melody, released);
    // A masked condition is zero, and so are its keys and values: the projections have no bias.
    std::fill_n(melody.view().at(0, third, 0), gap_size, 0.0F);
    steer("rotated, melody masked in the gap", q, melody, published);
    std::copy_n(sound.view().at(0, third, 0), gap_size, melody.view().at(0, third, 0));
    holds = holds && steer("rotated, other sound given there", q, melody, published) < 0.2;
    const auto self = rw::stable_audio::self_attention({.head_dim = head_channels});
    rw::rotate(self, q.view(), sound.view(),
               rw::make_rotation_table(self.spectrum_for(1), rw::position_ids::text(all_frames)));
    show("Stable Audio's own self-attention", q, sound);
    return holds ? 0 : 1;
}
