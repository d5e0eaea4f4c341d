// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/flux.hpp>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/rotate_factored.hpp>

#include "support/angles_of.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace flux = ropewalk::flux;
using support::angles_of;
using support::near;

TEST_CASE("FLUX: worked example of axes 4, 6, 6", "[schemes][flux]") {
    const auto rope = flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const std::vector<int> ids{1, 2, 3};
    CHECK(near(angles_of(rope, flux::positions_of_ids(std::span<const int>(ids), 3), 0),
               {1, 0.01, 2, 0.0928318, 0.00430887, 3, 0.139248, 0.0064633}));
    CHECK(rope.read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK(flux::joint({}).spectrum_for(1).axis_of(0, 35) == 1);
    CHECK(flux::joint({}).spectrum_for(1).axis_of(0, 36) == 2);
    CHECK(flux::flux2().spectrum_for(1).axes() == 4);
}

TEST_CASE("FLUX: one axis is GPT-J's RoPE", "[schemes][flux][reduces]") {
    CHECK(flux::joint({.axes_dim = {32}, .head_dim = 32}).spectrum_for(1).omegas() ==
          rw::frequencies::geometric({.rotary_dim = 32}).omegas());
}

TEST_CASE("FLUX.1: text is untouched, the image at (0, row, column), references behind", "[schemes][flux]") {
    const auto where =
        flux::flux1_positions({.text_tokens = 2, .generated = {2, 2}, .references = {{1, 2}, {1, 1}}});
    REQUIRE(where.tokens() == 9);
    CHECK_FALSE(where.touched(1));
    const auto v = where.values();
    CHECK(std::vector<double>(v.begin() + 6, v.end()) ==
          std::vector<double>{0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 2, 0, 0});
}

TEST_CASE("FLUX: ids that rest become untouched tokens, which are bit-identical", "[schemes][flux]") {
    const std::vector<float> ids{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0};
    const auto where = flux::positions_of_ids(std::span<const float>(ids), 3);
    CHECK_FALSE(where.touched(0));
    CHECK_FALSE(where.touched(1));
    CHECK(where.touched(2));
    CHECK(where.touched(3));
    CHECK_FALSE(where.touched(4));
    const auto rope = flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    support::heads_buffer<rw::bf16> x({1, 5, 2, 16});
    x.fill(1);
    const auto before = x.numbers();
    rw::rotate(rope, x.view(), rw::make_rotation_table(rope.spectrum_for(1), where));
    const auto after = x.numbers();
    for (std::size_t i = 0; i < before.size(); ++i)
        if (i < 64 || i >= 128) CHECK(after[i] == before[i]);
    CHECK(after != before);
}

TEST_CASE("FLUX: factored and plain tables turn the joint sequence alike", "[schemes][flux]") {
    const auto rope = flux::joint({});
    const auto where = flux::flux1_positions({.text_tokens = 7, .generated = {9, 5}, .references = {{4, 5}}});
    support::heads_buffer<float> a({1, where.tokens(), 2, 128}), b({1, where.tokens(), 2, 128});
    a.fill(2);
    b.fill(2);
    rw::rotate(rope, a.view(), rw::make_rotation_table(rope.spectrum_for(1), where));
    const auto factored = rw::make_factored_table(rope.spectrum_for(1), where);
    rw::rotate(rope.read_layout, b.view(), factored);
    CHECK(support::same_bits(a.dense(), b.dense()));
    CHECK(factored.row_count() < 40);
}

TEST_CASE("FLUX.2: text turns on its own axis, references at 10, 20, ...", "[schemes][flux]") {
    const auto where =
        flux::flux2_positions({.text_tokens = 2, .generated = {1, 2}, .references = {{1, 1}, {1, 1}}});
    CHECK(where.values() ==
          std::vector<double>{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0, 0, 20, 0, 0, 0});
}

TEST_CASE("FLUX: axes that do not fill the head are refused", "[schemes][flux]") {
    CHECK_REFUSES("flux::joint: axes_dim must sum to head_dim, got 126",
                  flux::joint({.axes_dim = {14, 56, 56}}));
    CHECK_REFUSES("axial: channels must be even and >= 0, got 15", flux::joint({.axes_dim = {15, 57, 56}}));
    CHECK_REFUSES("flux1_positions: height must be >= 0, got -1",
                  flux::flux1_positions({.generated = {-1, 2}}));
    CHECK_REFUSES("flux2_positions: text_tokens must be >= 0, got -5",
                  flux::flux2_positions({.text_tokens = -5}));
    const std::vector<int> ids{1, 2};
    CHECK_THROWS_AS(flux::positions_of_ids(std::span<const int>(ids), 3), rw::invalid_config);
}
