// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/compression/key_codes.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("key_codes: channels, the published example", "[compression][key_codes]") {
    const std::vector<double> x{-1, 0, .4, 2};
    const heads_view<const double> k(x.data(), 4, 1, 1);
    for (const rw::index bits : {2, 3}) {
        const auto codes = key_codes::encode_channels({.bits = bits}, k);
        CHECK(codes.codes ==
              (bits == 2 ? std::vector<std::uint8_t>{0, 1, 1, 3} : std::vector<std::uint8_t>{0, 2, 3, 7}));
        std::vector<double> back(4);
        key_codes::decode_channels({.bits = bits}, codes, heads_view<double>(back.data(), 4, 1, 1));
        CHECK(back[0] == -1);
        CHECK(back[2] == Approx(bits == 2 ? 0 : 2.0 / 7).margin(1e-15));
        CHECK(back[3] == Approx(2).epsilon(1e-15));
    }
}

TEST_CASE("key_codes: channels within half a step, sinks and constants exactly", "[compression][key_codes]") {
    auto x = support::noise(20 * 2 * 4, 1);
    for (int n = 0; n < 20; ++n) x[n * 8 + 3] = 0.7;
    x[3] = 100;  // the sink is outside the range of its channel
    const key_codes::channel_config c{.bits = 5, .exact_tokens = 1};
    auto back = x;
    const auto codes = key_codes::encode_channels(c, heads_view<const double>(x.data(), 20, 2, 4));
    key_codes::decode_channels(c, codes, heads_view<double>(back.data(), 20, 2, 4));
    for (int i = 0; i < 160; ++i) {
        CHECK(std::abs(back[i] - x[i]) <= (i < 8 ? 0 : codes.step[i % 8] / 2 * (1 + 1e-12)));
        if (i % 8 == 3) CHECK(back[i] == x[i]);
    }
}

TEST_CASE("key_codes: before the rotation a channel with an offset costs less than after",
          "[compression][key_codes]") {
    const rw::index tokens = 64, d = 8;
    auto k = support::noise(tokens * d, 2, {0, 0.1});
    for (rw::index n = 0; n < tokens; ++n) k[n * d] += 5;  // one strong channel
    const auto rows =
        make_rotation_table<double>(frequencies::geometric({.rotary_dim = d}), position_ids::text(tokens));
    const auto error = [&](std::vector<double> x) {
        auto back = x;
        const auto codes =
            key_codes::encode_channels({.bits = 3}, heads_view<const double>(x.data(), tokens, 1, d));
        key_codes::decode_channels({.bits = 3}, codes, heads_view<double>(back.data(), tokens, 1, d));
        double sum = 0;
        for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - back[i]) * (x[i] - back[i]);
        return sum;
    };
    const double before = error(k);
    rotate(half_split{}, heads_view<double>(k.data(), tokens, 1, d), rows);
    CHECK(before < error(k) / 100);
}

TEST_CASE("key_codes: groups, the published example and its quirk", "[compression][key_codes]") {
    const std::vector<double> x{-1, 0, .4, 2};
    const std::vector<rw::index> order{0, 1, 2, 3};
    const auto two = key_codes::encode_groups({.bits = 2, .group = 4}, x, order);
    CHECK(two.codes == std::vector<std::uint8_t>{0, 1, 1, 3});
    CHECK(key_codes::decode_groups({.bits = 2, .group = 4}, two, order) == std::vector<double>{-1, 0, 0, 2});
    const auto three = key_codes::encode_groups({.bits = 3, .group = 4}, x, order);
    CHECK(three.codes == std::vector<std::uint8_t>{0, 3, 4, 7});  // 9 - 1 steps, and 8 codes
    const auto back = key_codes::decode_groups({.bits = 3, .group = 4}, three, order);
    CHECK(back == std::vector<double>{-1.125, 0, .375, 1.5});
}

TEST_CASE("key_codes: the order is undone, a constant group is exact", "[compression][key_codes]") {
    const std::vector<double> rows{3, 1, 2, 2, /**/ 3, 1, 2.5, 2.5};
    const auto order = key_codes::channel_order(rows, 4);
    CHECK(order == std::vector<rw::index>{1, 2, 3, 0});
    const auto codes = key_codes::encode_groups({.bits = 4, .group = 2}, rows, order);
    const auto back = key_codes::decode_groups({.bits = 4, .group = 2}, codes, order);
    for (int i = 0; i < 8; ++i) CHECK(std::abs(back[i] - rows[i]) <= 0.1);
    const std::vector<double> flat(4, 0.3);
    CHECK(key_codes::decode_groups({.group = 4}, key_codes::encode_groups({.group = 4}, flat, order),
                                   order) == flat);
    CHECK(key_codes::encode_groups({.group = 4}, flat, order).codes == std::vector<std::uint8_t>(4, 0));
}

TEST_CASE("key_codes: polar, the published steps", "[compression][key_codes]") {
    std::vector<double> k;  // radii .1, .5, .9, 1.3 at one angle
    for (const double r : {.1, .5, .9, 1.3}) k.push_back(r), k.push_back(0);
    const key_codes::polar_config c{.group = 4, .radius_bits = 2, .angle_bits = 4};
    const auto codes = key_codes::encode_polar(c, heads_view<const double>(k.data(), 4, 1, 2));
    CHECK(codes.radius_step[0] == Approx(.3).epsilon(1e-15));
    CHECK(codes.codes == std::vector<std::uint8_t>{0, 16, 32, 48});
    auto back = k;
    key_codes::decode_polar(c, codes, heads_view<double>(back.data(), 4, 1, 2));
    const double want[] = {.25, .55, .85, 1.15};
    for (int n = 0; n < 4; ++n) CHECK(back[2 * n] == Approx(want[n]).epsilon(1e-14));
}

TEST_CASE("key_codes: polar within half a step; moved by a position without decoding",
          "[compression][key_codes]") {
    const rw::index tokens = 11, heads = 2, d = 6;
    const auto k = support::noise(tokens * heads * d, 5);
    const key_codes::polar_config c{.group = 4};
    auto codes = key_codes::encode_polar(c, heads_view<const double>(k.data(), tokens, heads, d));
    auto back = k;
    key_codes::decode_polar(c, codes, heads_view<double>(back.data(), tokens, heads, d));
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index i = 0; i < 3; ++i) {
                const auto at = (n * heads + h) * d + i;
                if (n >= 8) {
                    CHECK(back[at] == k[at]);
                    continue;
                }
                const auto range = (n / 4 * heads + h) * 3 + i;
                const double off = std::hypot(back[at] - k[at], back[at + 3] - k[at + 3]);
                const double radius = std::hypot(k[at], k[at + 3]);
                CHECK(off <= (codes.radius_step[range] +
                              (radius + codes.radius_step[range]) * codes.angle_step[range]) /
                                     2 +
                                 1e-12);
            }
    const auto s = frequencies::geometric({.rotary_dim = d});
    for (std::size_t r = 0; r < codes.angle_low.size(); ++r)
        codes.angle_low[r] += 9 * s.omega(rw::index(r % 3));
    auto moved = back;
    key_codes::decode_polar(c, codes, heads_view<double>(moved.data(), tokens, heads, d));
    const auto rows = make_rotation_table<double>(s, position_ids::from(std::vector<double>(8, 9.0)));
    rotate(half_split{}, heads_view<double>(back.data(), 8, heads, d), rows);
    CHECK(support::worst(std::vector<double>(moved.begin(), moved.begin() + 96),
                         std::vector<double>(back.begin(), back.begin() + 96)) < 1e-13);
}

TEST_CASE("key_codes: refuses bad numbers", "[compression][key_codes][errors]") {
    std::vector<double> x{1, 2, 3, NAN};
    const heads_view<const double> bad(x.data(), 2, 1, 2), k(x.data(), 1, 1, 2);
    CHECK_REFUSES("key_codes::encode_channels: bits must be in 1 .. 8, got 9",
                  key_codes::encode_channels({.bits = 9}, k));
    CHECK_REFUSES("key_codes::encode_channels: keys must be finite, got nan",
                  key_codes::encode_channels({}, bad));
    CHECK_REFUSES("key_codes::encode_channels: exact_tokens must be in 0 .. tokens, got 2",
                  key_codes::encode_channels({.exact_tokens = 2}, k));
    const std::vector<rw::index> order{0, 1};
    CHECK_REFUSES("key_codes::encode_groups: bits must be in 2 .. 8, got 1",
                  key_codes::encode_groups({.bits = 1, .group = 2}, std::span(x).first(2), order));
    CHECK_REFUSES("key_codes::encode_groups: group must divide the width, got 3",
                  key_codes::encode_groups({.group = 3}, std::span(x).first(2), order));
    CHECK_REFUSES("key_codes::encode_groups: clip_ratio must be in (0, 1], got 0",
                  key_codes::encode_groups({.group = 2, .clip_ratio = 0}, std::span(x).first(2), order));
    CHECK_REFUSES("key_codes::encode_polar: radius_bits + angle_bits must be <= 8, got 10",
                  key_codes::encode_polar({.radius_bits = 5, .angle_bits = 5}, k));
    CHECK_REFUSES("key_codes::channel_order: rows must hold tokens * width numbers, got 4",
                  key_codes::channel_order(x, 3));
}
