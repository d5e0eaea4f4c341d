// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/schemes/flux.hpp>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>

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
    CHECK(near(angles_of(rope, flux::positions_of_ids(std::span<const int>(ids)), 0),
               {1, 0.01, 2, 0.0928318, 0.00430887, 3, 0.139248, 0.0064633}));
    CHECK(rope.read_layout == rw::pair_layout(rw::interleaved{}));
    CHECK(flux::joint({}).spectrum_for(1).axis_of(0, 35) == 1);
    CHECK(flux::joint({}).spectrum_for(1).axis_of(0, 36) == 2);
    const auto flux2 = flux::flux2().spectrum_for(1);
    CHECK(flux2.axes() == 4);
    CHECK(flux2.pairs() == 64);
    for (const rw::index axis : {0, 1, 2, 3}) {
        CHECK(flux2.omega(16 * axis) == Approx(1));
        CHECK(flux2.omega(16 * axis + 1) == Approx(0.621850).epsilon(1e-6));  // 2000^(-1/16)
        CHECK(flux2.axis_of(0, 16 * axis + 15) == axis);
    }
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

TEST_CASE("FLUX.1 Kontext: references placed by offset are tiled", "[schemes][flux]") {
    const auto starts = [](const std::vector<flux::image>& references) {
        const auto ids = flux::flux1_positions({.text_tokens = 0,
                                                .generated = {1, 1},
                                                .references = references,
                                                .order = flux::reference_order::tiled});
        std::vector<std::vector<double>> first;
        rw::index n = 1;
        for (const auto& one : references) {
            first.push_back({ids.at(n, 0), ids.at(n, 1), ids.at(n, 2)});
            n += one.height * one.width;
        }
        CHECK(ids.tokens() == n);
        return first;
    };
    using at = std::vector<std::vector<double>>;
    CHECK(starts({{2, 3}, {2, 2}}) == at{{1, 0, 0}, {1, 2, 0}});
    // Tall ones go side by side, wide ones on top of each other; a third one after what both cover.
    CHECK(starts({{5, 2}, {5, 2}}) == at{{1, 0, 0}, {1, 0, 2}});
    CHECK(starts({{2, 5}, {2, 5}, {2, 2}}) == at{{1, 0, 0}, {1, 2, 0}, {1, 4, 0}});
    CHECK(starts({{2, 2}, {2, 2}, {2, 2}}) == at{{1, 0, 0}, {1, 2, 0}, {1, 0, 2}});
    CHECK(starts({}).empty());
    // One reference has the same ids under both orders.
    const auto ids = [](flux::reference_order order) {
        return flux::flux1_positions(
                   {.text_tokens = 3, .generated = {2, 2}, .references = {{3, 2}}, .order = order})
            .values();
    };
    CHECK(ids(flux::reference_order::tiled) == ids(flux::reference_order::counted));
    CHECK_REFUSES("flux1_positions: order must be an order of references, got 2",
                  ids(static_cast<flux::reference_order>(2)));
}

TEST_CASE("FLUX: the text that is named becomes untouched and keeps its bits, patch (0, 0, 0) does not",
          "[schemes][flux]") {
    // Two tokens of text and an image of 1 x 3: all ids of token 2 are 0 too.
    const std::vector<float> ids{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2};
    const auto where = flux::positions_of_ids(std::span<const float>(ids), {.text_tokens = 2});
    const auto own = flux::flux1_positions({.text_tokens = 2, .generated = {1, 3}});
    CHECK(where.values() == own.values());
    for (rw::index n = 0; n < 5; ++n) {
        CHECK(where.touched(n) == (n >= 2));
        CHECK(own.touched(n) == where.touched(n));
    }
    const auto rope = flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    support::heads_buffer<rw::bf16> x({1, 5, 2, 16});
    x.fill(1);
    const auto before = x.numbers();
    rw::rotate(rope, x.view(), rw::make_rotation_table(rope.spectrum_for(1), where));
    const auto after = x.numbers();
    for (std::size_t i = 0; i < 64; ++i) CHECK(after[i] == before[i]);
    CHECK(after != before);
    // Nothing named: every token stands somewhere.
    CHECK(flux::positions_of_ids(std::span<const float>(ids)).all_touched());
}

namespace {

/// q . k of every two tokens of one head: q and k are the same for all positions.
std::vector<double> scores(const rw::rotary_scheme& rope, const rw::position_ids& at_q,
                           const rw::position_ids& at_k) {
    support::heads_buffer<double> q({1, at_q.tokens(), 1, rope.head_dim}),
        k({1, at_k.tokens(), 1, rope.head_dim});
    q.fill(1);
    k.fill(2);
    rw::rotate(rope, q.view(), rw::make_rotation_table<double>(rope.spectrum_for(1), at_q));
    rw::rotate(rope, k.view(), rw::make_rotation_table<double>(rope.spectrum_for(1), at_k));
    std::vector<double> all;
    for (rw::index i = 0; i < at_q.tokens(); ++i)
        for (rw::index j = 0; j < at_k.tokens(); ++j) {
            double sum = 0;
            for (rw::index c = 0; c < rope.head_dim; ++c)
                sum += q.view().at(0, i, 0)[c] * k.view().at(0, j, 0)[c];
            all.push_back(sum);
        }
    return all;
}

}  // namespace

TEST_CASE("FLUX: a constant added to all ids leaves scores unchanged", "[schemes][flux][invariant]") {
    const auto rope = flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const std::vector<double> ids{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0}, by{1, 5, -7};
    // Text that turns moves with the rest.
    const auto all = flux::positions_of_ids(std::span<const double>(ids));
    const auto moved = rw::positions::shifted(all, by);
    CHECK(support::near(scores(rope, moved, moved), scores(rope, all, all), 1e-11));
    // Untouched text stays where it is: the image's own scores are unchanged, those with the text are not.
    const auto resting = flux::positions_of_ids(std::span<const double>(ids), {.text_tokens = 2});
    const auto image = rw::positions::shifted(resting, by);
    CHECK(image.at(2, 1) == 5);  // patch (0, 0, 0)
    const auto before = scores(rope, resting, resting), after = scores(rope, image, image);
    for (rw::index i = 0; i < 5; ++i)
        for (rw::index j = 0; j < 5; ++j) {
            const bool same = (i < 2) == (j < 2);
            CHECK((std::abs(after[i * 5 + j] - before[i * 5 + j]) < 1e-12) == same);
        }
}

TEST_CASE("FLUX.1: the norm of all tokens and the turn of the image in one call", "[schemes][flux][fused]") {
    const auto rope = flux::joint({.axes_dim = {4, 6, 6}, .head_dim = 16});
    const auto where = flux::flux1_positions({.text_tokens = 3, .generated = {2, 2}, .references = {{1, 2}}});
    const auto table = rw::make_rotation_table(rope.spectrum_for(1), where);
    std::vector<float> weight;
    for (int c = 0; c < 16; ++c) weight.push_back(0.5f + 0.1f * static_cast<float>(c));
    const rw::head_norm<float> norm_q({.channels = 16}, weight), norm_k({.channels = 16, .scale = 2}, weight);
    const rw::rotation_table<float> no_pairs(where.tokens(), 1, 0);
    const auto run = [&]<class T>(T) {
        support::heads_buffer<T> q({1, 9, 3, 16}), k({1, 9, 3, 16}), q2 = q.fill(1), k2 = k.fill(2);
        rw::normalize_and_rotate(rope.read_layout, q.view(), k.view(), norm_q, norm_k, table,
                                 {.untouched = rw::untouched_tokens::normalised});
        rw::normalize_and_rotate(rope.read_layout, q2.view(), norm_q, no_pairs,
                                 {.untouched = rw::untouched_tokens::normalised});
        rw::normalize_and_rotate(rope.read_layout, k2.view(), norm_k, no_pairs,
                                 {.untouched = rw::untouched_tokens::normalised});
        // 16-bit data round between two passes, so only tokens that do not turn have the same bits there.
        const rw::index same = sizeof(T) == 4 ? 9 : 3;
        if (sizeof(T) == 4) rw::rotate(rope, q2.view(), k2.view(), table);
        const auto bits = [&](support::heads_buffer<T>& x) {
            auto all = x.dense();
            all.resize(static_cast<std::size_t>(same * 3 * 16));
            return all;
        };
        CHECK(support::same_bits(bits(q), bits(q2)));
        CHECK(support::same_bits(bits(k), bits(k2)));
    };
    run(float{});
    run(rw::bf16{});
    run(rw::f16{});
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

TEST_CASE("FLUX.2: ids of references become ranks", "[schemes][flux]") {
    CHECK(flux::time_ranks(std::vector<int>{0, 0, 10, 20, 10}) == std::vector<rw::index>{0, 0, 1, 2, 1});
    CHECK(flux::time_ranks(std::vector<double>{30, 0, 10}) == std::vector<rw::index>{2, 0, 1});
    CHECK(flux::time_ranks(std::vector<double>{}).empty());
    CHECK_REFUSES("flux::time_ranks: times must be finite, got nan",
                  flux::time_ranks(std::vector<double>{0, std::nan("")}));
}

TEST_CASE("FLUX: axes that do not fill the head are refused", "[schemes][flux]") {
    CHECK_REFUSES("flux::joint: axes_dim must sum to head_dim: wanted 128, got 126",
                  flux::joint({.axes_dim = {14, 56, 56}}));
    CHECK_REFUSES("flux::joint: axes_dim must be even and >= 0, got 15",
                  flux::joint({.axes_dim = {15, 57, 56}}));
    CHECK_REFUSES("flux::joint: axes_dim must be even and >= 0, got -2",
                  flux::joint({.axes_dim = {-2, 74, 56}}));
    const rw::index big = PTRDIFF_MAX - 1;
    CHECK_REFUSES("flux::joint: axes_dim must sum to head_dim, got 9223372036854775806",
                  flux::joint({.axes_dim = {big, big, 132}}));
    CHECK_REFUSES("flux::joint: head_dim must be > 0, got 0", flux::joint({.axes_dim = {}, .head_dim = 0}));
    CHECK_REFUSES("flux1_positions: text_tokens must be >= 0, got -3",
                  flux::flux1_positions({.text_tokens = -3}));
    CHECK_REFUSES("flux1_positions: height must be at most 134217728, got " + support::largest_index(),
                  flux::flux1_positions({.generated = {PTRDIFF_MAX, 1}}));
    CHECK_REFUSES("flux1_positions: height must be >= 0, got -1",
                  flux::flux1_positions({.generated = {-1, 2}}));
    CHECK_REFUSES("flux2_positions: text_tokens must be >= 0, got -5",
                  flux::flux2_positions({.text_tokens = -5}));
    const std::vector<int> ids{1, 2};
    const std::vector<double> three{0, 0, 1}, hole{0, std::nan(""), 0};
    CHECK_REFUSES("flux::positions_of_ids: ids must hold a multiple of axes = 3 numbers, got 2",
                  flux::positions_of_ids(std::span<const int>(ids)));
    CHECK_REFUSES("flux::positions_of_ids: axes must be >= 1, got 0",
                  flux::positions_of_ids(std::span<const int>(ids), {.axes = 0}));
    CHECK_REFUSES("flux::positions_of_ids: text_tokens must be >= 0 and at most the tokens of ids, got 2",
                  flux::positions_of_ids(std::span<const double>(three), {.text_tokens = 2}));
    CHECK_REFUSES("flux::positions_of_ids: text_tokens must be >= 0 and at most the tokens of ids, got -1",
                  flux::positions_of_ids(std::span<const double>(three), {.text_tokens = -1}));
    CHECK_REFUSES("flux::positions_of_ids: ids of text_tokens must be 0, got 1",
                  flux::positions_of_ids(std::span<const double>(three), {.text_tokens = 1}));
    CHECK_REFUSES("flux::positions_of_ids: ids must be finite, got nan",
                  flux::positions_of_ids(std::span<const double>(hole)));
}
