// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/compressed_keys.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("compressed_keys: the spectrum's published numbers", "[attention][compressed_keys]") {
    const auto s = compressed_keys::make_spectrum();
    CHECK(s.magnitude() == 1);
    CHECK(s.omega(15) == Approx(3.635538584e-3).epsilon(1e-9));
    CHECK(s.omega(20) == Approx(2.969777783e-4).epsilon(1e-9));
    CHECK(s.omega(25) == Approx(5.372312671e-6).epsilon(1e-9));
    CHECK(s.omega(31) == Approx(5.680529037e-7).epsilon(1e-9));
    const auto plain = compressed_keys::make_spectrum({.base = 1e4, .factor = 1});
    for (rw::index i = 0; i < 32; ++i)
        CHECK(plain.omega(i) == Approx(frequencies::geometric({.rotary_dim = 64}).omega(i)).epsilon(1e-15));
}

TEST_CASE("compressed_keys: pooling by its formula in long double", "[attention][compressed_keys]") {
    const rw::index rate = 3, d = 4, tokens = 11;
    for (const auto with : {compressed_keys::overlap::none, compressed_keys::overlap::previous}) {
        const bool joined = with == compressed_keys::overlap::previous;
        const rw::index width = joined ? 2 * d : d;
        const auto kv = support::noise(tokens * width, 1), gate = support::noise(tokens * width, 2, {0, 3});
        const auto bias = support::noise(rate * width, 3), weight = support::noise(d, 4);
        const auto got = compressed_keys::pool({.rate = rate, .with = with}, {kv, gate, bias, weight});
        REQUIRE(got.size() == 3 * d);
        for (rw::index w = 0; w < 3; ++w) {
            std::vector<long double> mean(d);
            long double square = 0;
            for (rw::index c = 0; c < d; ++c) {
                long double sum = 0, total = 0;
                const auto add = [&](rw::index window, rw::index column) {
                    for (rw::index t = 0; t < rate; ++t) {
                        const auto at = (window * rate + t) * width + column;
                        const long double e = std::exp((long double)gate[at] + bias[t * width + column]);
                        sum += e * kv[at], total += e;
                    }
                };
                add(w, joined ? d + c : c);
                if (joined && w > 0) add(w - 1, c);
                mean[c] = sum / total;
                square += mean[c] * mean[c] / d;
            }
            for (rw::index c = 0; c < d; ++c)
                CHECK(got[w * d + c] ==
                      Approx(double(mean[c] / std::sqrt(square + 1e-6L) * weight[c])).margin(1e-14));
        }
    }
    CHECK(compressed_keys::window_positions({.rate = 4, .first_window = 2}, 3) ==
          std::vector<double>{8, 12, 16});
}

TEST_CASE("compressed_keys: a window of one token is its norm; equal gates give the mean",
          "[attention][compressed_keys][reduces]") {
    const std::vector<double> kv{3, 4, 1, 0}, gate{5, -1, 2, 2}, bias{0, 0}, one{1, 1};
    const auto each = compressed_keys::pool({.rate = 1, .epsilon = 0}, {kv, gate, bias, one});
    CHECK(each[0] == Approx(3 / std::sqrt(12.5)).epsilon(1e-15));
    CHECK(each[2] == Approx(std::sqrt(2.0)).epsilon(1e-15));
    const std::vector<double> flat(4), none(4);
    const auto mean = compressed_keys::pool({.rate = 2, .epsilon = 0}, {kv, flat, none, one});
    CHECK(mean[0] == Approx(mean[1]).epsilon(1e-15));  // (2, 2) over its own size
}

TEST_CASE("compressed_keys: rotated back, an output knows distances alone", "[attention][compressed_keys]") {
    const rw::index tokens = 9, heads = 2, d = 8, rotary = 4, rate = 2;
    const auto s = frequencies::geometric({.rotary_dim = rotary});
    const auto run = [&](double from, bool back) {
        auto q = support::noise(tokens * heads * d, 1), kv = support::noise(tokens * d, 2);
        auto pooled = support::noise(4 * d, 3);
        const heads_view<double> a(q.data(), tokens, heads, d), b(kv.data(), tokens, 1, d),
            c(pooled.data(), 4, 1, d);
        const auto own = make_rotation_table<double>(s, position_ids::text(tokens, from));
        const auto windows = make_rotation_table<double>(
            s, position_ids::from(std::vector<double>{from, from + 2, from + 4, from + 6}));
        rotate(interleaved{}, a.channel_slice(d - rotary, rotary), own);
        rotate(interleaved{}, b.channel_slice(d - rotary, rotary), own);
        rotate(interleaved{}, c.channel_slice(d - rotary, rotary), windows);
        std::vector<double> o(q.size());
        const heads_view<double> out(o.data(), tokens, heads, d);
        const std::vector<double> sinks{0.5, -1};
        compressed_keys::attend<double>(a, b, c, out, {.sliding_window = 3, .rate = rate, .sinks = sinks});
        if (back) unrotate(interleaved{}, out.channel_slice(d - rotary, rotary), own);
        return o;
    };
    CHECK(support::worst(run(0, true), run(500, true)) < 1e-12);
    CHECK(support::worst(run(0, false), run(500, false)) > 1e-2);
}

TEST_CASE("compressed_keys: attention by its formula in long double", "[attention][compressed_keys]") {
    const rw::index tokens = 7, d = 3, rate = 3, window = 2;
    const auto q = support::noise(tokens * d, 1), kv = support::noise(tokens * d, 2),
               pooled = support::noise(2 * d, 3);
    std::vector<double> o(tokens * d);
    const std::vector<double> sink{0.7};
    compressed_keys::attend<double>(
        heads_view<const double>(q.data(), tokens, 1, d), heads_view<const double>(kv.data(), tokens, 1, d),
        heads_view<const double>(pooled.data(), 2, 1, d), heads_view<double>(o.data(), tokens, 1, d),
        {.sliding_window = window, .rate = rate, .sinks = sink});
    for (rw::index n = 0; n < tokens; ++n) {
        long double total = std::exp(0.7L), sum[3] = {};
        const auto add = [&](const double* key) {
            long double dot = 0;
            for (int c = 0; c < d; ++c) dot += (long double)q[n * d + c] * key[c];
            const long double e = std::exp(dot / std::sqrt(3.0L));
            total += e;
            for (int c = 0; c < d; ++c) sum[c] += e * key[c];
        };
        for (rw::index j = 0; j <= n; ++j)
            if (n - j < window) add(&kv[j * d]);
        for (rw::index w = 0; w < 2; ++w)
            if ((w + 1) * rate <= n + 1) add(&pooled[w * d]);
        for (int c = 0; c < d; ++c) CHECK(o[n * d + c] == Approx(double(sum[c] / total)).margin(1e-14));
    }
}

TEST_CASE("compressed_keys: a prompt in pieces has the keys of the prompt in one",
          "[attention][compressed_keys]") {
    const rw::index rate = 2, d = 3, width = 2 * d, windows = 4;
    const auto kv = support::noise(windows * rate * width, 1),
               gate = support::noise(windows * rate * width, 2), bias = support::noise(rate * width, 3),
               weight = support::noise(d, 4);
    const auto whole = compressed_keys::pool({.rate = rate, .with = compressed_keys::overlap::previous},
                                             {kv, gate, bias, weight});
    const auto piece = [&](const std::vector<double>& x, rw::index first, rw::index count) {
        return std::span(x).subspan(std::size_t(first * rate * width), std::size_t(count * rate * width));
    };
    for (rw::index cut = 1; cut < windows; ++cut) {
        const auto later = compressed_keys::pool(
            {.rate = rate, .with = compressed_keys::overlap::previous, .first_window = cut},
            {piece(kv, cut, windows - cut), piece(gate, cut, windows - cut), bias, weight,
             piece(kv, cut - 1, 1), piece(gate, cut - 1, 1)});
        CHECK(later == std::vector<double>(whole.begin() + cut * d, whole.end()));
    }
    CHECK_REFUSES(
        "compressed_keys::pool: before_values must hold rate * width numbers with overlap and first_window "
        "> 0, else none, got 0",
        compressed_keys::pool({.rate = rate, .with = compressed_keys::overlap::previous, .first_window = 1},
                              {kv, gate, bias, weight}));
}

TEST_CASE("compressed_keys: a query sees the windows that were chosen for it",
          "[attention][compressed_keys]") {
    const rw::index tokens = 6, d = 4, rate = 2;
    const auto q = support::noise(tokens * d, 1), kv = support::noise(tokens * d, 2),
               pooled = support::noise(3 * d, 3);
    const auto run = [&](std::span<const double> keys, std::span<const std::int32_t> chosen) {
        std::vector<double> o(tokens * d);
        compressed_keys::attend<double>(heads_view<const double>(q.data(), tokens, 1, d),
                                        heads_view<const double>(kv.data(), tokens, 1, d),
                                        heads_view<const double>(keys.data(), 3, 1, d),
                                        heads_view<double>(o.data(), tokens, 1, d),
                                        {.sliding_window = 1, .rate = rate, .chosen = chosen});
        return o;
    };
    // All closed ones chosen is none chosen; one alone does not see the others.
    const std::vector<std::int32_t> all{-1, -1, -1, 0, -1, -1, 0, -1, -1, 1, 0, -1, 0, 1, -1, 2, 1, 0};
    const auto everything = run(pooled, {}), same = run(pooled, all);
    for (std::size_t i = 0; i < same.size(); ++i) CHECK(same[i] == Approx(everything[i]).margin(1e-15));
    const std::vector<std::int32_t> one{-1, 0, 0, 1, 0, 2};
    auto others = pooled;
    for (int c = 0; c < d; ++c)
        others[c] = others[d + c] = 1e3;  // windows 0 and 1, which token 5 did not choose
    const auto a = run(pooled, one), b = run(others, one);
    CHECK(std::equal(a.end() - d, a.end(), b.end() - d));
    CHECK_FALSE(std::equal(a.begin(), a.end(), b.begin()));
    const std::vector<std::int32_t> early{-1, -1, 1, -1, -1, -1};
    CHECK_REFUSES("compressed_keys::attend: chosen windows must be closed for their query, got 1",
                  run(pooled, early));
    CHECK_REFUSES("compressed_keys::attend: chosen must hold as many windows for each query, got 5",
                  run(pooled, std::span(early).first(5)));
}

TEST_CASE("compressed_keys: refuses sizes that do not fit", "[attention][compressed_keys][errors]") {
    const std::vector<double> kv(6), gate(6), bias(4), one(2), few(1);
    CHECK_REFUSES("compressed_keys::pool: rate must be >= 1, got 0",
                  compressed_keys::pool({.rate = 0}, {kv, gate, bias, one}));
    CHECK_REFUSES("compressed_keys::pool: gates must be as many as values: wanted 6, got 1",
                  compressed_keys::pool({.rate = 2}, {kv, few, bias, one}));
    CHECK_REFUSES("compressed_keys::pool: bias must hold rate * width numbers: wanted 4, got 1",
                  compressed_keys::pool({.rate = 2}, {kv, gate, few, one}));
    std::vector<double> o(6);
    const heads_view<const double> q(kv.data(), 3, 1, 2), none(nullptr, 0, 1, 2);
    const heads_view<double> out(o.data(), 3, 1, 2);
    CHECK_REFUSES("compressed_keys::attend: sliding_window must be >= 1, got 0",
                  compressed_keys::attend<double>(q, q, none, out, {.sliding_window = 0}));
    CHECK_REFUSES("compressed_keys::attend: sinks must hold a number a head, got 2",
                  compressed_keys::attend<double>(q, q, none, out, {.sinks = one}));
    const std::string one_head = "compressed_keys::attend: keys must have one head for all, got ";
    const std::vector<double> wide(12);
    const heads_view<const double> two_heads(wide.data(), 3, 2, 2), none_of_two(nullptr, 0, 2, 2);
    CHECK_REFUSES(one_head + "2", compressed_keys::attend<double>(q, two_heads, none, out, {}));
    CHECK_REFUSES(one_head + "2", compressed_keys::attend<double>(q, q, two_heads, out, {}));
    // Compressed keys that are not there may have any number of heads.
    CHECK_NOTHROW(compressed_keys::attend<double>(q, q, none_of_two, out, {}));
}
