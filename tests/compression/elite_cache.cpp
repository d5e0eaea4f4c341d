// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_cache.hpp>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/numbers.hpp"

namespace rw = ropewalk;

namespace {

constexpr rw::index heads = 3, d = 12, latent = 5;
const std::vector<rw::index> elite{0, 4, 5, 1, 2, 3};  // two pairs a head
const rw::elite_layout layout(elite, heads, d);
const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 50});
constexpr rw::index pairs = heads * 4, width = pairs + latent;

}  // namespace

TEST_CASE("elite_cache: elite channels rotate with their own head's pairs, the latent is stored as it is",
          "[compression][elite]") {
    const rw::index tokens = 7;
    const auto raw = support::noise(tokens * width, 1);
    const auto check = [&]<class E>(rw::elite_cache<E> cache, double step) {
        using C = rw::compute_t<E>;
        const std::vector<C> numbers(raw.begin(), raw.end());
        cache.append(numbers.data(), 3);
        cache.append(numbers.data() + 3 * width, tokens - 3);
        REQUIRE(cache.tokens() == tokens);
        CHECK(cache.width() == width);
        CHECK(cache.bytes() == tokens * width * rw::index(sizeof(E)));
        for (rw::index n = 0; n < tokens; ++n) {
            const double* const from = raw.data() + n * width;
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index i = 0; i < 2; ++i) {
                    const rw::index pair = layout.pairs()[std::size_t(2 * h + i)];
                    const double angle = omega.omega(pair) * double(n), x = from[4 * h + i],
                                 y = from[4 * h + 2 + i];
                    const double a = double(C(cache.keys().at(0, n, h)[i])),
                                 b = double(C(cache.keys().at(0, n, h)[2 + i]));
                    const double size = std::hypot(x, y);
                    CHECK(std::abs(a - (x * std::cos(angle) - y * std::sin(angle))) <= step * size);
                    CHECK(std::abs(b - (x * std::sin(angle) + y * std::cos(angle))) <= step * size);
                }
            for (rw::index c = 0; c < latent; ++c)
                CHECK(std::abs(double(C(cache.latents().at(0, n, 0)[c])) - from[pairs + c]) <=
                      step * std::abs(from[pairs + c]));
        }
    };
    check(rw::elite_cache<double>(layout, omega, latent), 1e-14);
    check(rw::elite_cache<float>(layout, omega, latent), 3e-7);
    check(rw::elite_cache<rw::bf16>(layout, omega, latent), 1.0 / 256);
}

TEST_CASE("elite_cache: a shift rotates the elite channels of some tokens and nothing else",
          "[compression][elite]") {
    const auto raw = support::noise(6 * width, 2);
    rw::elite_cache<double> cache(layout, omega, latent), late(layout, omega, latent);
    cache.append(raw.data(), 6);
    const auto before = cache;
    cache.shift(2, 3, 11);
    const auto filler = support::noise(13 * width, 3);
    late.append(filler.data(), 13);
    late.append(raw.data() + 2 * width, 3);  // at 13, that is 11 after 2
    for (rw::index n = 0; n < 6; ++n) {
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < 4; ++c) {
                const double got = cache.keys().at(0, n, h)[c];
                if (n < 2 || n > 4)
                    CHECK(got == before.keys().at(0, n, h)[c]);
                else
                    CHECK(got == Approx(late.keys().at(0, n + 11, h)[c]).margin(1e-13));
            }
        for (rw::index c = 0; c < latent; ++c)
            CHECK(cache.latents().at(0, n, 0)[c] == before.latents().at(0, n, 0)[c]);
    }
    cache.erase(0, 2);
    CHECK(cache.tokens() == 4);
    CHECK(cache.latents().at(0, 0, 0)[1] == before.latents().at(0, 2, 0)[1]);
}

TEST_CASE("elite_cache: without elite pairs, and what is refused", "[compression][elite][errors]") {
    const rw::elite_layout none({}, heads, d);
    rw::elite_cache<float> bare(none, omega, latent);
    const std::vector<float> raw(2 * latent, 3.f);
    bare.append(raw.data(), 2);
    bare.shift(0, 2, 5);
    CHECK(bare.width() == latent);
    CHECK(bare.latents().at(0, 1, 0)[latent - 1] == 3.f);

    rw::elite_cache<float> cache(layout, omega, latent);
    CHECK_THROWS_WITH(cache.append(nullptr, -1),
                      ContainsSubstring("elite_cache::append: count must be >= 0, got -1"));
    CHECK_THROWS_AS(cache.append(nullptr, PTRDIFF_MAX), rw::invalid_config);
    // Rows of whole pages are kept apart by one line more.
    CHECK(cache.stride() == width);
    const rw::elite_cache<float> paged(layout, omega, 2048 - pairs);
    CHECK(paged.width() == 2048);
    CHECK(paged.stride() == 2064);
    CHECK_THROWS_WITH(cache.shift(0, 1, 1), ContainsSubstring("count must be 0 to the cached tokens, got 1"));
    CHECK_THROWS_WITH(cache.shift(0, 0, INFINITY), ContainsSubstring("distance must be finite"));
    CHECK_THROWS_WITH(cache.erase(1, 0), ContainsSubstring("tokens must be in the cache, the first, got 1"));
    CHECK_THROWS_WITH(cache.reserve(-1), ContainsSubstring("tokens must be >= 0 and fit"));
    CHECK_THROWS_WITH(rw::elite_cache<float>(layout, omega, -1),
                      ContainsSubstring("latent must be >= 0, got -1"));
    CHECK(cache.tokens() == 0);
}
