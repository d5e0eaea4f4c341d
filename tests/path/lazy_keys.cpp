// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/lazy_keys.hpp>

#include <cmath>

#include <ropewalk/path/householder.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;

constexpr rw::index tokens = 21, heads = 6, kv_heads = 2, channels = 24;

struct stream {
    std::vector<double> q = noise(tokens * heads * channels, 1), k = noise(tokens * kv_heads * channels, 2),
                        w = unit_rows(tokens * kv_heads, channels, 4),
                        beta = noise(tokens * kv_heads, 5, {.centre = 1});
};

}  // namespace

TEST_CASE("path lazy keys: a cache that is only read gives the scores of the updated one", "[path][lazy]") {
    const stream s;
    for (rw::index block : {1, 4, 7, 64}) {
        path::lazy_keys<double> lazy({.kv_heads = kv_heads, .channels = channels, .block = block});
        path::lazy_keys<float> narrow({.kv_heads = kv_heads, .channels = channels, .block = block});
        auto keys = s.k;
        const auto k32 = as<float>(s.k), w32 = as<float>(s.w), beta32 = as<float>(s.beta),
                   q32 = as<float>(s.q);
        for (rw::index n = 0; n < tokens; ++n) {
            const auto at = n * kv_heads * channels;
            const auto own = static_cast<std::size_t>(n * kv_heads);
            const rw::heads_view<const double> w(s.w.data() + at, 1, kv_heads, channels),
                q(s.q.data() + n * heads * channels, 1, heads, channels);
            lazy.append({s.k.data() + at, 1, kv_heads, channels}, w,
                        std::span(s.beta).subspan(own, kv_heads));
            narrow.append({k32.data() + at, 1, kv_heads, channels}, {w32.data() + at, 1, kv_heads, channels},
                          std::span(beta32).subspan(own, kv_heads));
            std::vector<double> eager(static_cast<std::size_t>(heads * n)),
                scores(static_cast<std::size_t>(heads * (n + 1)));
            std::vector<float> scores32(scores.size());
            path::update_keys_and_score(rw::heads_view<double>(keys.data(), n, kv_heads, channels),
                                        {w, std::span(s.beta).subspan(own, kv_heads)}, q, eager);
            lazy.fill_scores(q, scores);
            narrow.fill_scores({q32.data() + n * heads * channels, 1, heads, channels}, scores32);
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index j = 0; j < n; ++j) {
                    const double want = eager[static_cast<std::size_t>(h * n + j)];
                    CHECK(scores[static_cast<std::size_t>(h * (n + 1) + j)] == Approx(want).margin(1e-12));
                    CHECK(static_cast<double>(scores32[static_cast<std::size_t>(h * (n + 1) + j)]) ==
                          Approx(want).margin(1e-4));
                }
        }
        CHECK(lazy.tokens() == tokens);
    }
    path::lazy_keys<float> lazy({.kv_heads = 1, .channels = 4});
    const std::vector<float> row(4, 0.5f), beta{-1.f};
    CHECK(refusal([&] {
              lazy.append({row.data(), 1, 1, 4}, {row.data(), 1, 1, 4}, beta);
          }) == "path::lazy_keys::append: beta must be in [0, 2], got -1");
    const std::vector<float> rows(8, 0.5f), good{1.f};
    const rw::heads_view<const float> one(rows.data(), 1, 1, 4),
        two(rows.data(), {.batches = 2, .tokens = 1, .heads = 1, .channels = 4});
    std::vector<float> scores(1);
    for (auto [k, w] : {std::pair(two, one), std::pair(one, two)})
        CHECK(refusal([&, k = k, w = w] { lazy.append(k, w, good); }) ==
              "path::lazy_keys::append: k and w must be of one batch, got 2");
    for (const float outside : {std::nextafter(2.f, 3.f), std::nextafter(0.f, -1.f), std::nanf("")})
        CHECK(refusal([&] {
                  lazy.append(one, one, std::vector<float>{outside});
              }).starts_with("path::lazy_keys::append: beta must be in [0, 2], got "));
    CHECK(lazy.tokens() == 0);
    path::lazy_keys<float> borders({.kv_heads = 1, .channels = 4});
    for (const float border : {0.f, 2.f}) borders.append(one, one, std::vector<float>{border});
    CHECK(borders.tokens() == 2);
    lazy.append(one, one, good);
    CHECK(refusal([&] { lazy.fill_scores(two, scores); }) ==
          "path::lazy_keys::fill_scores: q must be of one batch, got 2");
    CHECK(refusal([] { path::lazy_keys<float>({.kv_heads = 1, .channels = 4, .block = 0}); }) ==
          "path::lazy_keys: block must be > 0, got 0");
}
