// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/object_mask.hpp>

#include <cmath>
#include <limits>
#include <numeric>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
namespace injection = ropewalk::kv_injection;

namespace {

using indices = std::vector<rw::index>;
using numbers = std::vector<double>;

/// Attention averaged over heads, [tokens, tokens], by the definition.
numbers plain_attention(rw::heads_view<const double> q, rw::heads_view<const double> k, double scale) {
    const rw::index tokens = q.tokens(), group = q.heads() / k.heads();
    numbers mean(static_cast<std::size_t>(tokens * tokens));
    for (rw::index h = 0; h < q.heads(); ++h)
        for (rw::index n = 0; n < tokens; ++n) {
            numbers row;
            for (rw::index j = 0; j < tokens; ++j) {
                double dot = 0;
                for (rw::index c = 0; c < q.channels(); ++c)
                    dot += q.at(0, n, h)[c] * k.at(0, j, h / group)[c];
                row.push_back(std::exp(scale * dot));
            }
            const double sum = std::accumulate(row.begin(), row.end(), 0.0);
            for (rw::index j = 0; j < tokens; ++j)
                mean[static_cast<std::size_t>(n * tokens + j)] +=
                    row[static_cast<std::size_t>(j)] / sum / static_cast<double>(q.heads());
        }
    return mean;
}

/// A drawing as a map: '#' is 1, '+' is 0.5, anything else 0.
numbers drawn(const std::string& rows) {
    numbers map;
    for (const char c : rows) map.push_back(c == '#' ? 1 : c == '+' ? 0.5 : 0);
    return map;
}

}  // namespace

TEST_CASE("object mask: a word's map is the attention both ways, by the definition",
          "[attention][freeflux][object_mask]") {
    // 3 text tokens, 40 image tokens (more than one block of queries), 2 tokens behind; grouped heads
    constexpr rw::index tokens = 45, channels = 6;
    support::heads_buffer<double> q({1, tokens, 4, channels}, 1), k({1, tokens, 2, channels}, 2);
    q.fill(1);
    k.fill(2);
    for (const double scale : {1 / std::sqrt(6.0), 0.9}) {
        const auto attention = plain_attention(q.view(), k.view(), scale);
        for (const indices& word : {indices{1}, indices{0, 2, 44}}) {
            injection::word_on_image where{.image = {3, 40}, .word = word};
            if (scale == 0.9) where.scale = scale;
            const auto map = injection::make_word_map(q.view(), k.view(), where);
            REQUIRE(map.size() == 40);
            for (rw::index i = 0; i < 40; ++i) {
                double want = 0;
                for (const rw::index w : word)
                    want += (attention[static_cast<std::size_t>(w * tokens + 3 + i)] +
                             attention[static_cast<std::size_t>((3 + i) * tokens + w)]) /
                            2 / static_cast<double>(word.size());
                CHECK(map[static_cast<std::size_t>(i)] == Approx(want).epsilon(1e-12));
            }
        }
    }
    CHECK(q.canaries_alive());
    CHECK(k.canaries_alive());
}

TEST_CASE("object mask: 16-bit queries and keys give the map of their values",
          "[attention][freeflux][object_mask]") {
    support::heads_buffer<rw::bf16> q({1, 9, 2, 16}), k({1, 9, 2, 16});
    support::heads_buffer<double> wide_q({1, 9, 2, 16}), wide_k({1, 9, 2, 16});
    q.fill(3);
    k.fill(4);
    const auto copy = [](auto& from, auto& to) {
        const auto all = from.numbers();
        auto at = all.begin();
        to.each([&](double& x) { x = *at++; });
    };
    copy(q, wide_q);
    copy(k, wide_k);
    const indices word{0, 1};
    const injection::word_on_image where{.image = {2, 7}, .word = word};
    const auto map = injection::make_word_map(q.view(), k.view(), where),
               want = injection::make_word_map(wide_q.view(), wide_k.view(), where);
    for (std::size_t i = 0; i < map.size(); ++i) CHECK(std::abs(map[i] - want[i]) < 3e-6);
    CHECK(injection::make_word_map(q.view(), k.view(), {.image = {2, 0}, .word = word}).empty());
}

TEST_CASE("object mask: the Gaussian keeps an even map, spreads a peak and mirrors at the border",
          "[attention][freeflux][object_mask]") {
    const numbers even(12, 0.25);
    for (const double v : injection::make_smoothed_map(even, {3, 4})) CHECK(v == Approx(0.25).epsilon(1e-15));

    const double side = std::exp(-1.0), sum = 1 + 2 * side;                          // exp(-distance^2)
    CHECK(injection::make_smoothed_map(drawn("..#+"), {1, 4}, 0) == drawn("..#+"));  // any grid
    const auto middle = injection::make_smoothed_map(drawn(".........."
                                                           "....#....."
                                                           ".........."
                                                           ".........."),
                                                     {4, 10});
    CHECK(middle[14] == Approx(1 / (sum * sum)).epsilon(1e-14));
    CHECK(middle[15] == Approx(side / (sum * sum)).epsilon(1e-14));
    CHECK(middle[23] == Approx(side * side / (sum * sum)).epsilon(1e-14));
    CHECK(middle[3] == Approx(2 * middle[23]).epsilon(1e-14));  // row 1 is seen again above row 0
    CHECK(middle[16] == 0);
    // A peak one step from the corner is seen by the corner through all four diagonals.
    const auto corner = injection::make_smoothed_map(drawn("....#...."), {3, 3}, 0.8);
    const double wide = std::exp(-1 / (2 * 0.8 * 0.8));
    CHECK(corner[0] == Approx(4 * wide * wide / std::pow(1 + 2 * wide, 2)).epsilon(1e-14));
    CHECK(corner[8] == Approx(corner[0]).epsilon(1e-14));
}

TEST_CASE("object mask: FreeFlux's smoothing is exp(-d^2), its released code's sigma of 0.5",
          "[attention][freeflux][object_mask]") {
    // The released exponent is -(d / (2 sigma))^2.
    const double released = std::exp(-std::pow(1 / (2 * 0.5), 2));
    const auto map = injection::make_smoothed_map(drawn("....#...."), {3, 3});
    CHECK(map[4] == Approx(0.3319106649).epsilon(1e-9));  // 1 / (1 + 2 / e)^2
    CHECK(injection::make_smoothed_map(drawn("........."
                                             "....#...."
                                             "........."),
                                       {3, 9})[14] /
              map[4] ==
          Approx(released).epsilon(1e-14));
    CHECK(injection::object_region{}.sigma == injection::freeflux_sigma);
}

TEST_CASE("object mask: the largest region counts diagonals, and the first of equals wins",
          "[attention][freeflux][object_mask]") {
    const auto region = [](const std::string& rows, injection::grid_extents grid) {
        std::vector<std::uint8_t> inside;
        for (const char c : rows) inside.push_back(c == '#' ? 7 : 0);
        return injection::largest_region(inside, grid);
    };
    CHECK(region("#..##"
                 ".#..."
                 "#...#",
                 {3, 5}) == indices{0, 6, 10});
    CHECK(region("##..##", {1, 6}) == indices{0, 1});
    CHECK(region("#"
                 "."
                 "#"
                 "#",
                 {4, 1}) == indices{2, 3});
    // The end of one row and the start of the next are no neighbours.
    CHECK(region("..##"
                 "...."
                 "...#"
                 "#...",
                 {4, 4}) == indices{2, 3});
    CHECK(region("....", {2, 2}).empty());
    CHECK(region("####", {2, 2}) == indices{0, 1, 2, 3});
}

TEST_CASE("object mask: tokens of the whole sequence, cut from the mean of the layers",
          "[attention][freeflux][object_mask]") {
    const injection::object_region sharp{.grid = {4, 5}, .first_token = 100, .sigma = 0};
    const auto one = drawn(
        "##..."
        "#...."
        "....+"
        "...#+");
    CHECK(injection::make_object_tokens(one, sharp) == indices{100, 101, 105});
    // The maps' size plays no part, their offset neither.
    numbers scaled;
    for (const double v : one) scaled.push_back(3 + 40 * v);
    CHECK(injection::make_object_tokens(scaled, sharp) == indices{100, 101, 105});
    // A second layer that sees another place: halves are above 0.3 of the range, quarters are not, and of
    // two regions of three tokens the first stays.
    auto both = one;
    const auto second = drawn(
        "....."
        "....."
        "....."
        "..###");
    both.insert(both.end(), second.begin(), second.end());
    CHECK(injection::make_object_tokens(both, sharp) == indices{100, 101, 105});
    CHECK(injection::make_object_tokens(both, {.grid = {4, 5}, .sigma = 0, .threshold = 0.2}) ==
          indices{14, 17, 18, 19});
    CHECK(injection::make_object_tokens(both, {.grid = {4, 5}, .sigma = 0, .threshold = 0.6}) ==
          indices{18, 19});
    // Exactly at the threshold is outside.
    CHECK(injection::make_object_tokens(
              drawn("+#.."), {.grid = {2, 2}, .sigma = 0, .threshold = 0.5, .range_floor = 0}) == indices{1});
    // Smoothing is linear: the mean of smoothed layers is what is cut.
    const injection::object_region smooth{.grid = {4, 5}, .first_token = 100};
    auto halves = injection::make_smoothed_map(one, {4, 5});
    const auto other = injection::make_smoothed_map(second, {4, 5});
    halves.insert(halves.end(), other.begin(), other.end());
    CHECK(injection::make_object_tokens(both, smooth) == injection::make_object_tokens(halves, sharp));
}

TEST_CASE("object mask: where nothing stands out there is no object", "[attention][freeflux][object_mask]") {
    const numbers even(9, 0.1);
    CHECK(injection::make_object_tokens(even, {.grid = {3, 3}}).empty());
    CHECK(injection::make_object_tokens(even, {.grid = {3, 3}, .threshold = 0, .range_floor = 0}).empty());
    numbers nearly = even;
    nearly[4] += 1e-8;  // far below the floor
    CHECK(injection::make_object_tokens(nearly, {.grid = {3, 3}}).empty());
    CHECK(injection::make_object_tokens(nearly, {.grid = {3, 3}, .sigma = 0.5, .range_floor = 0}) ==
          indices{4});
    // Under the published smoothing a direct neighbour has 1 / e of the middle, above 0.3 of it.
    CHECK(injection::make_object_tokens(nearly, {.grid = {3, 3}, .range_floor = 0}) ==
          indices{1, 3, 4, 5, 7});
}

TEST_CASE("object mask: a word that one patch answers is found and kept in the injection",
          "[attention][freeflux][object_mask]") {
    // 2 text tokens, an image of 6 x 6; the word's query and key point where those of 2 x 2 tokens do.
    const indices sail{1}, object{14, 15, 20, 21};
    support::heads_buffer<float> q({1, 38, 1, 8}), k({1, 38, 1, 8});
    q.each([](float& x) { x = 0; });
    k.each([](float& x) { x = 0; });
    for (auto* x : {&q, &k}) {
        x->view().at(0, 1, 0)[0] = 4;
        for (const rw::index i : object) x->view().at(0, 2 + i, 0)[0] = 4;
    }
    const auto map = injection::make_word_map(q.view(), k.view(), {.image = {2, 36}, .word = sail});
    const auto keep = injection::make_object_tokens(map, {.grid = {6, 6}, .first_token = 2});
    CHECK(keep == indices{16, 17, 22, 23});
    support::heads_buffer<float> keys({2, 38, 1, 8}), values({2, 38, 1, 8});
    keys.fill(1);
    values.fill(2);
    const auto before = keys.dense();
    injection::inject_keys_values(keys.view(), values.view(), {}, {2, 36}, keep);
    for (rw::index n = 0; n < 38; ++n) {
        const bool own = n < 2 || std::find(keep.begin(), keep.end(), n) != keep.end();
        CHECK(keys.view().at(1, n, 0)[3] == before[static_cast<std::size_t>(((own ? 38 : 0) + n) * 8 + 3)]);
    }
}

TEST_CASE("object mask: what does not fit is refused", "[attention][freeflux][object_mask][errors]") {
    support::heads_buffer<float> q({1, 6, 2, 4}), k({1, 6, 2, 4}), two({2, 6, 2, 4}), five({1, 5, 2, 4});
    const indices text{0}, none, outside{6}, image{2};
    const auto map = [&](auto& queries, auto& keys, injection::token_range range, const indices& word) {
        return injection::make_word_map(queries.view(), keys.view(), {.image = range, .word = word});
    };
    CHECK_REFUSES("make_word_map: q.batches must be 1, got 2", map(two, two, {2, 4}, text));
    CHECK_REFUSES("make_word_map: k.tokens must equal q.tokens: wanted 6, got 5", map(q, five, {2, 4}, text));
    CHECK_REFUSES("make_word_map: image must lie inside the sequence, first token, got 3",
                  map(q, k, {3, 4}, text));
    CHECK_REFUSES("make_word_map: word must have tokens, got 0", map(q, k, {2, 4}, none));
    CHECK_REFUSES("make_word_map: word must name tokens of the sequence, got 6", map(q, k, {2, 4}, outside));
    CHECK_REFUSES("make_word_map: word must name no image tokens, got 2", map(q, k, {2, 4}, image));

    const numbers four(4, 1.0), line(3, 1.0);
    CHECK_REFUSES("make_smoothed_map: map must hold grid.height x grid.width numbers: wanted 6, got 4",
                  injection::make_smoothed_map(four, {2, 3}));
    CHECK_REFUSES("make_smoothed_map: grid.height must be >= 2 to be smoothed, got 1",
                  injection::make_smoothed_map(line, {1, 3}));
    CHECK_REFUSES("make_smoothed_map: grid.width must be >= 2 to be smoothed, got 1",
                  injection::make_smoothed_map(line, {3, 1}));
    CHECK_REFUSES("make_smoothed_map: sigma must be finite and >= 0, got -1",
                  injection::make_smoothed_map(four, {2, 2}, -1));
    CHECK_REFUSES("largest_region: grid.width must be >= 1, got 0", injection::largest_region({}, {2, 0}));
    const std::vector<std::uint8_t> flags(5);
    CHECK_REFUSES("largest_region: inside must hold grid.height x grid.width flags: wanted 4, got 5",
                  injection::largest_region(flags, {2, 2}));
    const auto cut = [](const numbers& maps, const injection::object_region& r) {
        return injection::make_object_tokens(maps, r);
    };
    CHECK_REFUSES("make_object_tokens: grid.height must be >= 1, got 0", cut(four, {}));
    CHECK_REFUSES("make_object_tokens: maps must hold grid.height x grid.width numbers a layer, got 3",
                  cut(line, {.grid = {2, 2}}));
    CHECK_REFUSES("make_object_tokens: maps must hold grid.height x grid.width numbers a layer, got 0",
                  cut({}, {.grid = {2, 2}}));
    CHECK_REFUSES("make_object_tokens: first_token must be >= 0, got -1",
                  cut(four, {.grid = {2, 2}, .first_token = -1}));
    CHECK_REFUSES("make_object_tokens: threshold must be in [0, 1), got 1",
                  cut(four, {.grid = {2, 2}, .threshold = 1}));
    CHECK_REFUSES("make_object_tokens: range_floor must be finite and >= 0, got -1",
                  cut(four, {.grid = {2, 2}, .range_floor = -1}));
    CHECK_REFUSES("make_object_tokens: maps must be finite, got inf",
                  cut({0, std::numeric_limits<double>::infinity(), 0, 0}, {.grid = {2, 2}}));
}
