// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/factored_table.hpp>

#include <complex>
#include <cstring>
#include <numeric>
#include <random>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/yarn.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;

namespace {

std::vector<double> counted(rw::index n, double step = 1, double first = 0) {
    std::vector<double> v;
    for (rw::index i = 0; i < n; ++i) v.push_back(first + step * static_cast<double>(i));
    return v;
}

/// T x H x W with one level an axis, all starting at `origin`.
rw::grid_block clip(rw::index t, rw::index h, rw::index w, double origin) {
    return {.extents = {t, h, w},
            .coordinates = {{counted(t), {}, {}}, {{}, counted(h), {}}, {{}, {}, counted(w)}},
            .origin = {origin, origin, origin}};
}

/// Rows and columns follow the frame too, as on VideoRoPE's diagonal.
rw::grid_block diagonal(rw::index t, rw::index h, rw::index w, double step) {
    const auto time = counted(t, step);
    return {.extents = {t, h, w},
            .coordinates = {{time, {}, {}}, {time, counted(h, 1, -2), {}}, {time, {}, counted(w, 1, -3)}},
            .origin = {100, 100, 100}};
}

/// The row of one token, multiplied out in the plainest way.
template <class T>
std::complex<double> factor_of(const rw::factored_table<T>& table, rw::index token, rw::index head,
                               rw::index pair) {
    const rw::factored_rows_view<T> rows = table.rows();
    rw::index b = 0;
    while (rows.blocks[b].first_token + rows.blocks[b].tokens <= token) ++b;
    const auto& block = rows.blocks[b];
    rw::index rest = token - block.first_token;
    std::complex<double> product = 1;
    for (rw::index l = block.level_count; l-- > 0;) {
        const auto& level = rows.levels[block.first_level + l];
        const rw::index at = rest % level.extent;
        rest /= level.extent;
        if (level.offset < 0) continue;
        const T* row = rows.row_of(level, at, head);
        const std::complex<double> factor(row[pair], row[rows.pair_stride + pair]);
        if (pair < level.first_pair || pair >= level.end_pair) REQUIRE(factor == 1.0);
        product *= factor;
    }
    return product;
}

template <class T>
double worst_error(const rw::spectrum& s, const rw::position_ids& where) {
    const auto factored = rw::make_factored_table<T>(s, where);
    const auto plain = rw::make_rotation_table<double>(s, where);
    double worst = 0;
    for (rw::index n = 0; n < where.tokens(); ++n)
        for (rw::index h = 0; h < s.heads(); ++h)
            for (rw::index i = 0; i < s.pairs(); ++i)
                worst = std::max(
                    worst, std::abs(factor_of(factored, n, h, i) -
                                    std::complex<double>(plain.cos_row(n, h)[i], plain.sin_row(n, h)[i])));
    return worst;
}

rw::spectrum sections(double magnitude = 1) {
    return rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 128, .base = 1e6}),
                                        rw::axis_map::sections({24, 20, 20}))
        .with_magnitude(magnitude);
}

}  // namespace

TEST_CASE("factored table: a pair moved by one level has the bits of the plain table", "[angles][factored]") {
    const double magnitude = GENERATE(1.0, 1.25);
    const auto s = sections(magnitude);
    rw::position_ids where(3);
    where.append(rw::text_run{5, 0, 1});
    where.append(clip(5, 7, 9, 5));
    where.append(rw::text_run{3, 14, 1});
    const auto factored = rw::make_factored_table<float>(s, where);
    const auto plain = rw::make_rotation_table<float>(s, where);
    for (rw::index n = 0; n < where.tokens(); ++n)
        for (rw::index i = 0; i < s.pairs(); ++i) {
            const auto f = factor_of(factored, n, 0, i);
            REQUIRE(static_cast<float>(f.real()) == plain.cos_row(n)[i]);
            REQUIRE(static_cast<float>(f.imag()) == plain.sin_row(n)[i]);
        }
}

TEST_CASE("factored table: T + H + W rows, never T x H x W", "[angles][factored]") {
    rw::position_ids where(3);
    where.append(clip(64, 16, 16, 12));
    const auto table = rw::make_factored_table<float>(sections(), where);
    REQUIRE(table.row_count() == 64 + 16 + 16);
    REQUIRE(table.byte_count() * 50 < 64u * 16u * 16u * 64u * 2u * sizeof(float));
    CHECK(table.byte_count() ==
          96u * 2u * 64u * sizeof(float) + 3 * sizeof(rw::factored_level) + sizeof(rw::factored_block));
    where.append(clip(8, 16, 16, 76));
    CHECK(rw::make_factored_table<float>(sections(), where).byte_count() ==
          (96u + 40u) * 2u * 64u * sizeof(float) + 6 * sizeof(rw::factored_level) +
              2 * sizeof(rw::factored_block));
}

TEST_CASE("factored table: a level that moves one pair only has rows", "[angles][factored]") {
    rw::position_ids where(2);
    where.append(rw::grid_block{
        .extents = {32, 31}, .coordinates = {{counted(32), {}}, {{}, counted(31)}}, .origin = {1, 2}});
    const auto axes_of = [&](std::vector<int> axes) {
        return rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 6}), axes, 2);
    };
    for (const auto& s : {axes_of({0, 1, 1}), axes_of({1, 0, 1}), axes_of({1, 1, 0})}) {
        CHECK(rw::make_factored_table<float>(s, where).row_count() == 63);
        CHECK(worst_error<float>(s, where) < 0x1p-23);
    }
}

TEST_CASE("factored table: products of levels stay within their bound", "[angles][factored][accuracy]") {
    const double magnitude = 1.1;
    rw::position_ids where(3);
    where.append(diagonal(9, 6, 7, 0.75));
    where.append(diagonal(40, 3, 33, 2));
    const auto s = sections(magnitude);
    // Two levels move the rows' and columns' pairs.
    CHECK(worst_error<float>(s, where) < magnitude * (std::sqrt(2.0) * 0x1p-24 + 2.4e-7));
    CHECK(worst_error<double>(s, where) < magnitude * 1.5e-15);
}

TEST_CASE("factored table: learned mixed spectra, head by head", "[angles][factored][accuracy]") {
    std::mt19937 random(7);
    std::uniform_real_distribution<double> any(-1, 1);
    std::vector<double> omega(3 * 2 * 20);
    for (double& w : omega) w = any(random);
    const auto s = rw::spectrum::mixed(omega, 3, 2);
    rw::position_ids where(2);
    where.append(rw::untouched_run{1});
    where.append(rw::grid_block{
        .extents = {14, 13}, .coordinates = {{{}, counted(13)}, {counted(14), {}}}, .origin = {}});
    const auto table = rw::make_factored_table<float>(s, where);
    REQUIRE(table.heads() == 3);
    REQUIRE(table.row_count() == 27);
    rw::position_ids grid(2);
    grid.append(where.segments()[1]);
    CHECK(worst_error<float>(s, grid) < std::sqrt(2.0) * 0x1p-24 + 2.4e-7);
}

TEST_CASE("factored table: long text is two levels", "[angles][factored][accuracy]") {
    const auto s = rw::frequencies::yarn({.rotary_dim = 32, .factor = 4, .original_context = 4096});
    const rw::index tokens = 10007;
    rw::position_ids where(1);
    where.append(rw::text_run{tokens, 1e9, 1});
    const auto table = rw::make_factored_table<float>(s, where);
    CHECK(table.row_count() < 300);
    CHECK(worst_error<float>(s, where) < s.magnitude() * (std::sqrt(2.0) * 0x1p-24 + 2.4e-7));
}

TEST_CASE("factored table: streams past 2^31 tokens", "[angles][factored]") {
    const auto s = rw::frequencies::geometric({.rotary_dim = 16});
    const rw::index tokens = support::huge(31) + 12345;  // past 2^30 where an index has 32 bits
    const auto table = rw::make_factored_table<float>(s, rw::position_ids::text(tokens));
    REQUIRE(table.tokens() == tokens);
    CHECK(table.byte_count() < 20'000'000);
    const rw::index last = tokens - 1;
    for (rw::index i = 0; i < 8; ++i) {
        const double angle = static_cast<double>(last) * s.omega(i);  // off by 2^-52 * 2^31
        const auto f = factor_of(table, last, 0, i);
        CHECK(std::abs(f - std::polar(1.0, angle)) < 2e-6);
    }
}

TEST_CASE("factored table: an inner level of few tokens is multiplied out", "[angles][factored]") {
    // The 2 x 2 merge order of Qwen2-VL's vision tower: blocks of four patches.
    const auto coarse = [](rw::index n) { return counted(n, 2); };
    rw::position_ids where(2);
    where.append(
        rw::grid_block{.extents = {20, 30, 2, 2},
                       .coordinates = {{coarse(20), {}, counted(2), {}}, {{}, coarse(30), {}, counted(2)}},
                       .origin = {}});
    const auto s = rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 40}),
                                                rw::axis_map::sections({10, 10}));
    const auto table = rw::make_factored_table<float>(s, where);
    REQUIRE(table.rows().blocks[0].level_count == 3);
    REQUIRE(table.row_count() == 20 + 30 + 4);
    CHECK(worst_error<float>(s, where) < std::sqrt(2.0) * 0x1p-24 + 2.4e-7);
}

TEST_CASE("factored table: copies and slices read the same rows", "[angles][factored]") {
    rw::position_ids where(3);
    where.append(clip(4, 6, 8, 0));
    auto first = rw::make_factored_table<float>(sections(), where);
    const auto copy = first;
    const auto moved = std::move(first);
    for (rw::index i = 0; i < 64; ++i) REQUIRE(factor_of(copy, 100, 0, i) == factor_of(moved, 100, 0, i));
    const auto slice = copy.rows().token_slice(10, 20);
    CHECK(slice.first_token == 10);
    CHECK(slice.tokens == 20);
}

TEST_CASE("factored table: refuses other axes and very wide heads", "[angles][factored][errors]") {
    CHECK_THROWS_WITH(rw::make_factored_table<float>(sections(), rw::position_ids::text(3)),
                      "factored_table: positions must have the spectrum's axes: wanted 3, got 1");
    CHECK_THROWS_WITH(rw::make_factored_table<float>(rw::frequencies::geometric({.rotary_dim = 2048}),
                                                     rw::position_ids::text(3)),
                      "factored_table: pairs must be <= 512, got 1024");
}

TEST_CASE("factored table: nothing is legal", "[angles][factored]") {
    const auto none = rw::make_factored_table<float>(sections(), rw::position_ids(3));
    CHECK(none.tokens() == 0);
    CHECK(none.row_count() == 0);
    rw::position_ids empty(3);
    empty.append(clip(0, 3, 3, 0));
    empty.append(rw::text_run{0, 0, 1});
    CHECK(rw::make_factored_table<float>(sections(), empty).tokens() == 0);
}

TEST_CASE("factored table: a level that moves nothing has no rows", "[angles][factored]") {
    // Frames of one picture: time is no axis, so the frames repeat the rows of the first.
    rw::position_ids frames(2);
    frames.append(rw::grid_block{
        .extents = {50, 6, 9}, .coordinates = {{{}, counted(6), {}}, {{}, {}, counted(9)}}, .origin = {}});
    const auto s = rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 40}),
                                                rw::axis_map::sections({10, 10}), 2);
    CHECK(rw::make_factored_table<float>(s, frames).row_count() == 15);
    CHECK(worst_error<float>(s, frames) < 0x1p-23);
    // Patches of a frame that share one position; an axis that no pair reads.
    rw::position_ids time(2);
    time.append(rw::grid_block{.extents = {7, 40, 3},
                               .coordinates = {{counted(7, 1, 3), {}, {}}, {{}, {}, counted(3)}},
                               .origin = {1, 2}});
    const auto first_axis = rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 40}),
                                                         std::vector<int>(20, 0), 2)
                                .with_magnitude(1.5);
    CHECK(rw::make_factored_table<float>(first_axis, time).row_count() == 7);
    CHECK(worst_error<float>(first_axis, time) < 1.5 * 0x1p-23);
}

TEST_CASE("factored table: padding at one position has one row", "[angles][factored]") {
    rw::position_ids where(1);
    where.append(rw::text_run{1000, 17, 0});
    where.append(rw::grid_block{.extents = {9, 9}, .coordinates = {{{}, {}}}, .origin = {23}});
    const auto s = rw::frequencies::geometric({.rotary_dim = 40}).with_magnitude(1.25);
    CHECK(rw::make_factored_table<float>(s, where).row_count() == 2);
    CHECK(worst_error<float>(s, where) < 1.25 * 0x1p-23);
}
