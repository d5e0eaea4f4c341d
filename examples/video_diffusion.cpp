// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// The clips of three video diffusion transformers: the memory of their rows beside that of the reference
// tables, how CogVideoX fits a wide clip into its training grid, and when a longer HunyuanVideo clip repeats
// itself with and without RIFLEx.
#include <cmath>
#include <cstdio>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/frequencies/riflex.hpp>
#include <ropewalk/schemes/cogvideox.hpp>
#include <ropewalk/schemes/hunyuan_video.hpp>
#include <ropewalk/schemes/wan.hpp>

namespace rw = ropewalk;
namespace positions = ropewalk::positions;

void compare(const char* name, const rw::rotary_scheme& rope, const rw::position_ids& where) {
    const auto table = rw::make_factored_table(rope.spectrum_for(1), where);
    // The reference implementations store cos and sin of every token and channel.
    const double full = static_cast<double>(where.tokens() * rope.rotary_dim) * 2 * sizeof(float);
    std::printf("%-14s %7td tokens   rows %6.1f kB   a table of all tokens %6.1f MB\n", name, where.tokens(),
                static_cast<double>(table.byte_count()) / 1e3, full / 1e6);
}

/// The similarity of frames 0 and `frame` for one temporal pair: the cosine of their angle.
double likeness(const rw::spectrum& s, rw::index pair, double frame) {
    return std::cos(s.omega(pair) * frame);
}

int main() {
    compare("CogVideoX", rw::cogvideox::joint(),
            positions::cogvideox_grid({.frames = 13, .height = 30, .width = 45, .text_before = 226}));
    compare("Wan", rw::wan::self_attention(),
            positions::video_grid({.frames = 21, .height = 45, .width = 80}));
    const auto hunyuan = rw::hunyuan_video::joint();
    compare("HunyuanVideo", hunyuan,
            positions::video_grid({.frames = 33, .height = 45, .width = 80, .text_after = 256}));

    const auto crop = positions::cogvideox_crop({.frames = 13, .height = 48, .width = 85});
    std::printf("\nCogVideoX sees a grid of 48 x 85 as rows %td to %td of 30 and columns %td to %td of 45\n",
                crop.top, crop.top + crop.height, crop.left, crop.left + crop.width);

    const auto trained = hunyuan.spectrum_for(1);
    const rw::index k = rw::frequencies::riflex_component(trained, 50);  // observed to repeat near frame 50
    const auto longer = rw::frequencies::riflex(trained, {.component = k, .test_frames = 66});
    std::printf("\nHunyuanVideo, temporal pair %td against frame 0:\nframe     ", k);
    for (const int frame : {11, 22, 33, 44, 50, 55, 65}) std::printf("%7d", frame);
    for (const auto& [name, s] : {std::pair{"trained", trained}, std::pair{"RIFLEx", longer}}) {
        std::printf("\n%-10s", name);
        for (const int frame : {11, 22, 33, 44, 50, 55, 65}) std::printf("%+7.2f", likeness(s, k - 1, frame));
    }
    std::puts("");
}
