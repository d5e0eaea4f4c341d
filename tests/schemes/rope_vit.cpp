// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/rope_vit.hpp>

#include <numbers>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::angles_of;
using support::near;

namespace {

/// All scores of a sequence with itself, one head.
std::vector<double> scores(const rw::rotary_scheme& rope, const rw::position_ids& where, rw::index heads) {
    const rw::heads_shape shape{1, where.tokens(), heads, rope.head_dim};
    support::heads_buffer<double> q(shape), k(shape);
    // The same content in every token, so that only positions tell scores apart.
    support::heads_buffer<double> one({1, 1, heads, rope.head_dim});
    one.fill(1);
    const auto content = one.numbers();
    std::size_t at = 0;
    q.each([&](double& x) { x = content[at++ % content.size()]; });
    at = 0;
    k.each([&](double& x) { x = content[(at++ * 7 + 3) % content.size()]; });
    rw::rotate(rope, q.view(), k.view(), rw::make_rotation_table<double>(rope.spectrum_for(1), where));
    std::vector<double> all;
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index n = 0; n < where.tokens(); ++n)
            for (rw::index m = 0; m < where.tokens(); ++m) {
                double sum = 0;
                for (rw::index c = 0; c < rope.head_dim; ++c)
                    sum += q.view().at(0, n, h)[c] * k.view().at(0, m, h)[c];
                all.push_back(sum);
            }
    return all;
}

std::vector<double> learned(rw::index heads, rw::index head_dim) {
    std::vector<double> phi;
    for (rw::index h = 0; h < heads; ++h) phi.push_back(0.7 + static_cast<double>(h));
    return rw::frequencies::make_mixed_start({.head_dim = head_dim}, phi);
}

}  // namespace

TEST_CASE("RoPE-ViT axial: worked example", "[schemes][rope_vit]") {
    const auto rope = rw::rope_vit::axial({.head_dim = 8});
    const auto where = rw::rope_vit::patches({.height = 5, .width = 4});
    // token (x 2, y 3) behind the class token
    CHECK(near(angles_of(rope, where, 1 + 3 * 4 + 2), {2, 0.2, 3, 0.3}));
    CHECK(rope.read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK_FALSE(where.touched(0));
    CHECK_REFUSES("rope_vit::axial: head_dim must be a multiple of 4 and > 0, got 6",
                  rw::rope_vit::axial({.head_dim = 6}));
}

TEST_CASE("RoPE-ViT mixed: worked example", "[schemes][rope_vit]") {
    const std::vector<double> phi{std::numbers::pi / 6};
    const auto weights = rw::frequencies::make_mixed_start({.head_dim = 8}, phi);
    const auto rope = rw::rope_vit::mixed({.heads = 1, .head_dim = 8}, weights);
    const auto where = rw::rope_vit::patches({.height = 5, .width = 4, .class_tokens = 0});
    CHECK(near(angles_of(rope, where, 3 * 4 + 2), {2 * 0.866025 + 3 * 0.5, 2 * 0.273861 + 3 * 0.158114,
                                                   -2 * 0.5 + 3 * 0.866025, -2 * 0.158114 + 3 * 0.273861}));
    CHECK_REFUSES("rope_vit::mixed: head_dim must be even and > 0, got 7",
                  rw::rope_vit::mixed({.head_dim = 7}, weights));
}

TEST_CASE("RoPE-ViT: Swin's table is the mixed one at angle 0", "[schemes][rope_vit][reduces]") {
    const auto swin = rw::rope_vit::axial({.head_dim = 16, .base = 50});
    const auto mixed = rw::rope_vit::mixed(
        {.heads = 1, .head_dim = 16},
        rw::frequencies::make_mixed_start({.head_dim = 16, .base = 50}, std::vector<double>{0}));
    const auto where = rw::rope_vit::patches({.height = 7, .width = 7, .class_tokens = 0});
    for (rw::index n = 0; n < 49; ++n)
        CHECK(near(angles_of(swin, where, n), angles_of(mixed, where, n), 1e-14));
    CHECK(rw::rope_vit::swin_query_scale(16) == 0.25);
    CHECK_REFUSES("swin_query_scale: head_dim must be >= 1, got 0", rw::rope_vit::swin_query_scale(0));
}

TEST_CASE("RoPE-ViT: scores depend on offsets only, but not those of the class token",
          "[schemes][rope_vit]") {
    const auto mixed = rw::rope_vit::mixed({.heads = 2, .head_dim = 8}, learned(2, 8));
    for (const auto& rope : {rw::rope_vit::axial({.head_dim = 8}), mixed}) {
        const auto where = rw::rope_vit::patches({.height = 3, .width = 4});
        const std::vector<double> offset{5, -11};
        const auto here = scores(rope, where, 2);
        const auto there = scores(rope, rw::positions::shifted(where, offset), 2);
        double class_change = 0;
        for (std::size_t i = 0; i < here.size(); ++i) {
            const std::size_t pair = i % 169;
            if (pair / 13 == 0 || pair % 13 == 0)
                class_change = std::max(class_change, std::abs(here[i] - there[i]));
            else
                CHECK(there[i] == Approx(here[i]).epsilon(1e-12).margin(1e-12));
        }
        CHECK(class_change > 0.01);
    }
}

TEST_CASE("RoPE-ViT: grids of one count are told apart", "[schemes][rope_vit]") {
    // 4 x 16 and 8 x 8: a table that is chosen by its number of tokens gives the wrong one.
    const auto omega = rw::rope_vit::axial({.head_dim = 8}).spectrum_for(1);
    const auto wide = rw::rope_vit::patches({.height = 4, .width = 16});
    const auto square = rw::rope_vit::patches({.height = 8, .width = 8});
    CHECK(wide.tokens() == square.tokens());
    CHECK(rw::make_angles(omega, wide) != rw::make_angles(omega, square));
}

TEST_CASE("RoPE-ViT mixed: gh + gw rows a head instead of gh * gw", "[schemes][rope_vit]") {
    const auto rope = rw::rope_vit::mixed({.heads = 3, .head_dim = 32}, learned(3, 32));
    const auto where = rw::rope_vit::patches({.height = 14, .width = 10});
    const auto factored = rw::make_factored_table<float>(rope.spectrum_for(1), where);
    const auto full = rw::make_rotation_table<float>(rope.spectrum_for(1), where);
    CHECK(factored.row_count() == 24);
    CHECK(full.row_count() == 140);
    support::heads_buffer<float> a({1, 141, 3, 32}), b({1, 141, 3, 32});
    a.fill(5);
    b.fill(5);
    rw::rotate(rw::interleaved{}, a.view(), factored);
    rw::rotate(rope, b.view(), full);
    const auto x = a.numbers(), y = b.numbers();
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= 3e-6);
    for (std::size_t i = 0; i < 96; ++i) CHECK(x[i] == y[i]);  // the class token
}

TEST_CASE("RoPE-ViT: patches refuse what they were given, by its name", "[schemes][rope_vit][errors]") {
    CHECK_REFUSES("rope_vit::patches: height must be >= 0, got -1",
                  rw::rope_vit::patches({.height = -1, .width = 2}));
    CHECK_REFUSES("rope_vit::patches: class_tokens must be >= 0, got -1",
                  rw::rope_vit::patches({.height = 2, .width = 2, .class_tokens = -1}));
    CHECK_REFUSES(
        "rope_vit::patches: width must be at most 134217728, got " + std::to_string(support::huge(40)),
        rw::rope_vit::patches({.height = 1, .width = support::huge(40)}));
    CHECK_REFUSES("rope_vit::axial: base must be finite and > 0, got -1", rw::rope_vit::axial({.base = -1}));
}
