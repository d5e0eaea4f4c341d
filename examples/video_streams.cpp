// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// Text, a video clip and text under four schemes: where the second text continues, how it scores the patches
// of the clip when queries and keys are constant, and how the temporal pairs distinguish 256 frames.
//     video_streams [FOLDER]      writes the heat maps and the decay over frames there as SVG
#include <cmath>
#include <cstdio>

#include <ropewalk/ropewalk.hpp>

#include "figures/svg.hpp"

namespace rw = ropewalk;
using namespace ropewalk::positions;

constexpr rw::index frames = 8, side = 12, dim = 128, before = 32, behind = before + frames * side * side;

/// q.k of one token with every token, mean over the chosen pairs; q and k are all ones before the rotation.
template <class Chosen>
std::vector<double> scores(const rw::rotary_scheme& rope, const position_stream& s, rw::index query,
                           Chosen chosen) {
    std::vector<double> x(static_cast<std::size_t>(s.tokens * dim), 1.0), mean;
    rw::rotate(rope, rw::heads_view(x.data(), s.tokens, 1, dim),
               rw::make_factored_table<double>(rope.spectrum_for(1), s.positions));
    for (auto k = x.begin(), q = k + query * dim; k != x.end(); k += dim) {
        double sum = 0, count = 0;
        for (rw::index i = 0; i < dim; ++i)
            if (chosen(static_cast<std::size_t>(i % (dim / 2)))) sum += q[i] * k[i], ++count;
        mean.push_back(sum / count);
    }
    return mean;
}

template <class Scheme>
svg::series show(const char* name, const Scheme& scheme, const std::string& folder) {
    const media_segment clip{.kind = media::video, .frames = frames, .height = side, .width = side};
    const auto s = make_stream(scheme.rule, {{.tokens = before}, clip, {.tokens = 32}});
    const auto seen = scores(scheme.rope, s, behind, [](std::size_t) { return true; });
    svg::heat_map map{std::string(name) + ": how text behind a clip sees its 8 frames of 12 x 12 patches",
                      "frame after frame", "row", side, frames * (side + 1) - 1};
    map.height = 220;
    double right = 0, lower = 0;  // right minus left, lower minus upper: means over half of the patches
    for (rw::index r = 0; r < side; ++r)
        for (rw::index x = 0; x < frames * (side + 1) - 1; ++x) {
            const rw::index f = x / (side + 1), c = x % (side + 1), n = before + (f * side + r) * side + c;
            map.values.push_back(c == side ? NAN : seen[static_cast<std::size_t>(n)]);
            if (c == side) continue;
            right += (c < side / 2 ? -2 : 2) * map.values.back() / (frames * side * side);
            lower += (r < side / 2 ? -2 : 2) * map.values.back() / (frames * side * side);
        }
    if (!folder.empty()) svg::write(folder + "/video_streams_" + name + ".svg", map);

    // One patch per frame; temporal pairs only, which in VRoPE are all pairs.
    const auto film =
        make_stream(scheme.rule, {{.kind = media::video, .frames = 256, .height = 1, .width = 1}});
    const auto axis = rw::frequencies::axes_of_pairs(scheme.rope.spectrum_for(1));
    svg::series time{name, {}, {}};
    const auto of_time = [&](std::size_t i) { return scheme.rule.axes() != 3 || axis[i] <= 0; };
    time.y = scores(scheme.rope, film, 0, of_time);
    for (std::size_t f = 0; f < time.y.size(); ++f) time.x.push_back(static_cast<double>(f));
    std::printf("%-10s %12.0f %+14.4f %+15.4f %18.3f %11.3f\n", name, s.positions.at(behind), right, lower,
                *std::min_element(time.y.begin(), time.y.begin() + 32), time.y.back());
    return time;
}

int main(int argc, char** argv) {
    const std::string folder = argc > 1 ? argv[1] : "";
    const auto text = rw::make_fixed_scheme({}, rw::frequencies::geometric({.rotary_dim = dim}));
    std::puts("scheme     text goes on   right - left   lower - upper   least, 31 frames   255 apart");
    svg::chart decay{"Pairs of time, constant q and k", "frames apart", "mean of cos"};
    decay.lines = {show("mrope", rw::mrope::over(text, {}), folder),
                   show("vrope", rw::vrope::over(text), folder),
                   show("video_rope", rw::video_rope::over(text, {}), folder),
                   show("hope", rw::hope_video::over(text, {.scale = 0.75}), folder)};
    if (!folder.empty()) svg::write(folder + "/video_streams_time.svg", decay);
}
