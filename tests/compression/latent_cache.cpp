// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_cache.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
std::vector<T> noise(rw::index count, unsigned seed) {
    const Eigen::Matrix<T, Eigen::Dynamic, 1> m = support::gaussian(count, 1, seed).template cast<T>();
    return {m.data(), m.data() + count};
}
/// [rows, cols], row by row.
template <class T>
std::vector<T> gaussian(rw::index rows, rw::index cols, unsigned seed) {
    return noise<T>(rows * cols, seed);
}

const rw::mla::config low{
    .hidden = 12, .heads = 5, .query_rank = 7, .latent = 18, .nope_dim = 4, .rope_dim = 8, .value_dim = 9};

}  // namespace

TEST_CASE("latent_cache: a shift turns the shared key and nothing else", "[compression][mla]") {
    const auto raw = gaussian<double>(9, 18 + 8, 9);
    const auto norm = noise<double>(18, 10);
    rw::latent_cache<double> moved(low), late(low);
    moved.append(raw.data(), 6, norm);
    moved.shift(2, 3, 11);
    // The same tokens appended at positions 11 later.
    const auto filler = gaussian<double>(13, 26, 11);
    late.append(filler.data(), 13, norm);
    late.append(raw.data() + 2 * 26, 3, norm);
    rw::latent_cache<double> still(low);
    still.append(raw.data(), 6, norm);
    for (rw::index n = 0; n < 6; ++n)
        for (rw::index c = 0; c < 26; ++c) {
            const double got = moved.keys().at(0, n, 0)[c];
            const bool turned = n >= 2 && n < 5 && c >= 18;
            if (!turned) CHECK(got == still.keys().at(0, n, 0)[c]);
            if (turned) CHECK(got == Approx(late.keys().at(0, n - 2 + 13, 0)[c]).margin(1e-13));
        }
}

TEST_CASE("latent_cache: ranges that overflow, sizes that are no count", "[compression][mla][errors]") {
    constexpr rw::index most = std::numeric_limits<rw::index>::max();
    rw::latent_cache<double> cache(low);
    const auto raw = gaussian<double>(3, 26, 9);
    const auto norm = noise<double>(18, 10);
    cache.append(raw.data(), 3, norm);
    for (rw::index first : {most, rw::index{3}, rw::index{-1}}) {
        CHECK_THROWS_WITH(cache.erase(first, 1),
                          ContainsSubstring("erase: tokens must be in the cache, the first"));
        CHECK_THROWS_WITH(cache.shift(first, 1, 1),
                          ContainsSubstring("shift: tokens must be in the cache, the first"));
    }
    CHECK_THROWS_WITH(cache.erase(1, most), ContainsSubstring("count must be 0 to the cached tokens"));
    CHECK_THROWS_WITH(cache.shift(1, most, 1), ContainsSubstring("count must be 0 to the cached tokens"));
    CHECK_THROWS_WITH(cache.erase(0, -1), ContainsSubstring("got -1"));
    CHECK_THROWS_WITH(cache.reserve(-1), ContainsSubstring("latent_cache::reserve: tokens must be >= 0") &&
                                             ContainsSubstring("got -1"));
    CHECK_THROWS_AS(cache.reserve(most), rw::invalid_config);
    CHECK_THROWS_AS(cache.append(raw.data(), most, norm), rw::invalid_config);
    CHECK(cache.tokens() == 3);
    cache.erase(3, 0);
    cache.erase(1, 2);
    CHECK(cache.tokens() == 1);
}

TEST_CASE("latent_cache: a row is the norm of the latent and the rotated key, in any storage",
          "[compression][mla]") {
    const rw::index tokens = 5;
    const auto raw = noise<float>(tokens * 26, 9), norm = noise<float>(18, 10);
    const auto omega = rw::mla::make_spectrum(low);
    const auto check = [&](const auto& cache, double step) {
        REQUIRE(cache.tokens() == tokens);
        std::vector<float> row(26);
        for (rw::index n = 0; n < tokens; ++n) {
            rw::detail::read_row(cache.keys().at(0, n, 0), row.data(), 26);
            long double squares = 0;
            const float* const from = raw.data() + n * 26;
            for (rw::index c = 0; c < 18; ++c) squares += static_cast<long double>(from[c]) * from[c];
            const long double factor = 1 / std::sqrt(squares / 18 + 1e-6L);
            for (rw::index c = 0; c < 26; ++c) {
                long double want = c < 18 ? from[c] * factor * norm[std::size_t(c)] : 0;
                if (c >= 18) {
                    const rw::index i = (c - 18) / 2;
                    const long double angle = static_cast<long double>(omega.omega(i)) * n;
                    const long double x = from[18 + 2 * i], y = from[19 + 2 * i];
                    want = c % 2 == 0 ? x * std::cos(angle) - y * std::sin(angle)
                                      : x * std::sin(angle) + y * std::cos(angle);
                }
                const double got =
                    static_cast<double>(row[std::size_t(c)]) * static_cast<double>(cache.scale());
                CHECK(std::abs(got - double(want)) <= step * std::abs(double(want)) + 1e-3 * step);
            }
        }
    };
    const auto filled = [&](auto cache) {
        cache.append(raw.data(), tokens, norm);
        return cache;
    };
    check(filled(rw::latent_cache<float>(low)), 1e-5);
    check(filled(rw::latent_cache<rw::bf16>(low)), 1.0 / 256 + 1e-5);
    check(filled(rw::latent_cache<rw::f8_e4m3>(low, 0.01f)), 1.0 / 16 + 1e-5);
    check(filled(rw::latent_cache<rw::f8_e5m2>(low, 0.01f)), 1.0 / 8 + 1e-5);
    // A shift of codes reads, rotates and stores again.
    auto codes = filled(rw::latent_cache<rw::f8_e4m3>(low, 0.01f)), still = codes;
    codes.shift(1, 2, 5);
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index c = 0; c < 26; ++c) {
            const bool moved = codes.keys().at(0, n, 0)[c].bits != still.keys().at(0, n, 0)[c].bits;
            if (n < 1 || n > 2 || c < 18) CHECK_FALSE(moved);
        }
    CHECK(codes.shared_keys().at(0, 1, 0)[0].bits != still.shared_keys().at(0, 1, 0)[0].bits);
    CHECK_THROWS_WITH(rw::latent_cache<float>(low, 2.0f),
                      ContainsSubstring("scale must be 1 but for f8 codes, got 2"));
    CHECK_THROWS_WITH(rw::latent_cache<rw::f8_e4m3>(low, 0.0f),
                      ContainsSubstring("scale must be finite and > 0, got 0"));
}
