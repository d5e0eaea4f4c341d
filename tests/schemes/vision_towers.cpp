// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/vision_towers.hpp>

#include <cmath>

#include <ropewalk/angles/make_angles.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>

#include "support/catch.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace towers = ropewalk::vision_towers;

namespace {

/// base^(-2 i / channels), in more digits than the library has.
long double rung(double base, ropewalk::index i, ropewalk::index channels) {
    return std::pow(static_cast<long double>(base), -2.0L * static_cast<long double>(i) / channels);
}
/// Angles [tokens, pairs] of a tower.
std::vector<double> angles(const rotary_scheme& rope, const position_ids& where) {
    return make_angles(rope.spectrum_for(1), where);
}
void check_angle(double got, long double want) {
    CHECK(got == Approx(static_cast<double>(want)).epsilon(1e-14).margin(1e-300));
}

}  // namespace

TEST_CASE("vision_towers: Kimi's axes alternate, column first", "[schemes][towers]") {
    const auto rope = towers::kimi_k25();
    CHECK(rope.rotary_dim == 72);
    CHECK(rope.read_layout == pair_layout(half_split{}));
    const auto where = positions::grid({.height = 3, .width = 5, .frames = 2});
    const auto got = angles(rope, where);
    for (ropewalk::index n = 0; n < 30; ++n)
        for (ropewalk::index p = 0; p < 36; ++p) {
            const ropewalk::index row = n % 15 / 5, column = n % 5;
            check_angle(got[static_cast<std::size_t>(n * 36 + p)],
                        rung(1e4, p / 2, 36) * static_cast<long double>(p % 2 == 0 ? column : row));
        }
    CHECK_REFUSES("vision_towers::kimi_k25: head_dim must be a multiple of 4, got 70",
                  towers::kimi_k25({.head_dim = 70}));
    CHECK_REFUSES("vision_towers::kimi_k25: head_dim must be in 4 .. 65536, got 65540",
                  towers::kimi_k25({.head_dim = 65540}));
}

TEST_CASE("vision_towers: Muse Glimmer reads columns before rows", "[schemes][towers]") {
    const auto rope = towers::muse_glimmer({.head_dim = 16});
    CHECK(rope.read_layout == pair_layout(half_split{}));
    const auto got = angles(rope, positions::grid({.height = 2, .width = 3}));
    for (ropewalk::index p = 0; p < 8; ++p)  // row 1, column 2
        check_angle(got[static_cast<std::size_t>(5 * 8 + p)], rung(1e4, p % 4, 8) * (p < 4 ? 2 : 1));
}

TEST_CASE("vision_towers: MiniMax M3 has three blocks and leaves two channels alone", "[schemes][towers]") {
    const auto rope = towers::minimax_m3_vl();
    CHECK(rope.head_dim == 80);
    CHECK(rope.rotary_dim == 78);
    CHECK(rope.read_layout == pair_layout(half_split{}));
    const std::vector<qwen_vl_vision::grid_thw> grids{{2, 4, 6}, {1, 2, 2}};
    const auto where = towers::time_patches(grids, 2);
    REQUIRE(where.tokens() == 52);
    const auto got = angles(rope, where);
    // Frames; in them blocks of 2 x 2 row by row; in them rows and columns.
    std::size_t n = 0;
    for (const auto& g : grids)
        for (ropewalk::index f = 0; f < g.frames; ++f)
            for (ropewalk::index top = 0; top < g.height; top += 2)
                for (ropewalk::index left = 0; left < g.width; left += 2)
                    for (ropewalk::index i = 0; i < 4; ++i, ++n)
                        for (ropewalk::index p = 0; p < 39; ++p) {
                            const ropewalk::index at[3] = {f, top + i / 2, left + i % 2};
                            check_angle(got[n * 39 + static_cast<std::size_t>(p)],
                                        rung(1e4, p % 13, 26) * static_cast<long double>(at[p / 13]));
                        }
    const std::vector<qwen_vl_vision::grid_thw> odd{{1, 3, 4}};
    CHECK_REFUSES("vision_towers::time_patches: height must be a multiple of merge, got 3",
                  towers::time_patches(odd, 2));
}

TEST_CASE("vision_towers: MLCD's class token is rotated by what it learned", "[schemes][towers]") {
    std::vector<double> learned;
    for (int i = 0; i < 8; ++i) learned.push_back(0.3 * i - 1);
    const auto rope = towers::mlcd({.head_dim = 16}, learned);
    const auto where = towers::mlcd_patches(2, 3);
    REQUIRE(where.tokens() == 7);
    const auto got = angles(rope, where);
    for (std::size_t p = 0; p < 8; ++p) CHECK(got[p] == Approx(learned[p]).epsilon(1e-15).margin(1e-300));
    for (ropewalk::index n = 0; n < 6; ++n)
        for (ropewalk::index p = 0; p < 8; ++p)
            check_angle(got[static_cast<std::size_t>((n + 1) * 8 + p)],
                        rung(1e4, p % 4, 8) * static_cast<long double>(p < 4 ? n / 3 : n % 3));
    learned.pop_back();
    CHECK_REFUSES("vision_towers::mlcd: class_angles must hold one angle a pair: wanted 8, got 7",
                  towers::mlcd({.head_dim = 16}, learned));
}

TEST_CASE("vision_towers: EfficientLoFTR rotates the whole width, from 1", "[schemes][towers]") {
    const auto rope = towers::efficientloftr({.head_dim = 32});
    CHECK(rope.read_layout == pair_layout(interleaved{}));
    const auto got = angles(rope, towers::loftr_patches(2, 3));
    for (ropewalk::index n = 0; n < 6; ++n)
        for (ropewalk::index p = 0; p < 16; ++p)
            check_angle(got[static_cast<std::size_t>(n * 16 + p)],
                        rung(1e4, p / 2, 16) * static_cast<long double>(1 + (p % 2 == 0 ? n / 3 : n % 3)));
}

TEST_CASE("vision_towers: LightGlue's frequencies are learned", "[schemes][towers]") {
    const std::vector<double> weights{0.5, -1, 2, 0.25};
    const auto rope = towers::lightglue(4, weights);
    CHECK(rope.read_layout == pair_layout(interleaved{}));
    const auto got = angles(rope, towers::lightglue_keypoints(std::vector<double>{320, 60}, 240, 640));
    // (320 - 320) / 320 = 0 and (60 - 120) / 320 = -3/16.
    CHECK(got[0] == Approx(3.0 / 16).epsilon(1e-15));
    CHECK(got[1] == Approx(-0.25 * 3 / 16).epsilon(1e-15));
    CHECK_REFUSES("vision_towers::lightglue: weights must hold two numbers a pair: wanted 6, got 4",
                  towers::lightglue(6, weights));
    CHECK_REFUSES("vision_towers::lightglue_keypoints: width must be finite and > 0, got 0",
                  towers::lightglue_keypoints(weights, 1, 0));
}

TEST_CASE("vision_towers: V-JEPA 2 mixes pairs by two angles", "[schemes][towers]") {
    // A head of 20 channels: three blocks of 3 pairs and 2 channels that are left alone.
    const auto where = position_ids::from_tokens_axes(std::vector<double>{2, 5, 7}, 3);
    const auto table = towers::vjepa2_table(20, where);
    CHECK(table.pairs() == 9);
    std::vector<float> x(20), was(20);
    for (std::size_t i = 0; i < 20; ++i) was[i] = x[i] = 0.1f * static_cast<float>(i) - 0.7f;
    const auto rows = table.rows();
    mix_pairs(pair_layout(interleaved{}), heads_view<float>(x.data(), {1, 1, 1, 20}).channel_slice(0, 18),
              rows);
    const double at[3] = {2, 5, 7};
    for (std::size_t block = 0; block < 3; ++block)
        for (std::size_t k = 0; k < 6; ++k) {
            const long double angle = at[block] * rung(1e4, static_cast<ropewalk::index>(k % 3), 6);
            const std::size_t c = 6 * block + k;
            const long double turned = k % 2 == 0 ? -static_cast<long double>(was[c + 1]) : was[c - 1];
            CHECK(x[c] == Approx(static_cast<double>(was[c] * std::cos(angle) + turned * std::sin(angle)))
                              .margin(3e-7));
        }
    CHECK(x[18] == was[18]);
    CHECK(x[19] == was[19]);
    CHECK_REFUSES("vision_towers::vjepa2_table: positions must have three axes, got 1",
                  towers::vjepa2_table(20, position_ids::from(std::vector<double>{2, 5, 7})));
}
