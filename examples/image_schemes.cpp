// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
//
// One image in 16 x 16 patches, then in 32 x 32, under ten schemes. Printed: axis (row, column, time or text)
// and channels of pair 0; tokens that keep their bits; how much a score changes when both patches move; and
// when their places stay but patches get smaller (0 where coordinates are relative to the image).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <ropewalk/ropewalk.hpp>

namespace rw = ropewalk;

struct encoder {
    const char* name;
    rw::rotary_scheme rope;
    rw::position_ids (*tokens)(rw::index side);
    rw::index first = 0, merge = 1;  ///< token of the first patch; patches are in merge x merge blocks
};

bool compare(const encoder& e) {
    const rw::index dim = e.rope.head_dim, m = e.merge;
    const auto omega = e.rope.spectrum_for(1);
    std::mt19937 engine(5);
    std::normal_distribution<float> normal(0, std::pow(static_cast<float>(dim), -0.25f));
    std::vector<float> drawn(static_cast<std::size_t>(2 * dim));  // one query and one key for all tokens
    for (float& x : drawn) x = normal(engine);
    double here[3] = {}, most = 0;
    rw::index others = 0, kept = 0;
    for (rw::index cut = 2, side = 32; cut > 0; --cut, side /= 2) {  // coarse (r, c) is finer (2 r, 2 c)
        const auto where = e.tokens(side);
        std::vector<float> x;
        for (rw::index n = 0; n < where.tokens(); ++n) x.insert(x.end(), drawn.begin(), drawn.end());
        const rw::heads_view<float> qk(x.data(), where.tokens(), 2, dim);
        rw::rotate(e.rope, qk.head_slice(0, 1), qk.head_slice(1, 1), rw::make_factored_table(omega, where));
        const auto at = [&](rw::index r, rw::index c, rw::index h) {
            return qk.at(0, e.first + ((r / m * (side / m) + c / m) * m + r % m) * m + c % m, h);
        };
        const auto dot = [&](rw::index r, rw::index c) {  // with the key 3 below and 2 to the left
            return std::inner_product(at(r, c, 0), at(r, c, 0) + dim, at(r + 3 * cut, c - 2 * cut, 1), 0.0);
        };
        here[cut] = dot(4 * cut, 6 * cut);
        for (rw::index r = 0; r < side - 3 * cut; ++r)
            for (rw::index c = 2 * cut; c < side; ++c) most = std::max(most, std::abs(dot(r, c) - here[cut]));
        others = where.tokens() - side * side, kept = 0;
        for (rw::index n = 0; n < others; ++n)
            kept += std::equal(drawn.begin(), drawn.end(), qk.at(0, n < e.first ? n : n + side * side, 0));
    }
    std::printf("%-16s %5td  %c 0+%-4td %7td of %-3td %12.1e %14.1e\n", e.name, omega.pairs(),
                "trc"[3 - omega.axes() + omega.axis_of(0, 0)], e.rope.read_layout.second(0, omega.pairs()),
                kept, others, most, std::abs(here[2] - here[1]));
    return most < 1e-5;
}

int main() {
    using namespace ropewalk;
    std::puts("scheme           pairs  pair 0    bits kept   when both move   patches halved");
    const encoder all[] = {
        {"EVA-02", eva02::axial({}),
         [](auto n) { return eva02::patches({.height = n, .trained_height = 16}); }, 1},
        {"DINOv3", dinov3::axial(dinov3::periods({})),
         [](auto n) { return dinov3::patches({.height = n, .width = n}); }, 5},
        {"SAM 2", sam::axial({}), [](auto n) { return sam::patches({.height = n, .width = n}); }},
        {"SAM 3", sam::axial({.head_dim = 64}),
         [](auto n) { return sam::patches({.height = n, .width = n, .scale = 16 / double(n)}); }},
        {"Pixtral", pixtral::axial({}), [](auto n) { return pixtral::patches({{.height = n, .width = n}}); }},
        {"Qwen2-VL tower", qwen_vl_vision::axial({}),
         [](auto n) { return qwen_vl_vision::patches({{.height = n, .width = n}}); }, 0, 2},
        {"Llama 4", llama4_vision::axial({}), [](auto n) { return llama4_vision::patches({.side = n}); }},
        {"Gemma 4", gemma4_vision::axial({}), [](auto n) { return gemma4_vision::patches(n, n); }},
        {"Qwen-Image", qwen_image::joint({}),
         [](auto n) {
             return qwen_image::joint_positions({.images = {{.height = n, .width = n}}, .text_tokens = 8});
         },
         8},
        {"Lumina-Image 2.0", lumina::joint({}),
         [](auto n) { return lumina::joint_positions({.caption_tokens = 8, .height = n, .width = n}); }, 8}};
    return std::all_of(std::begin(all), std::end(all), compare) ? 0 : 1;
}
