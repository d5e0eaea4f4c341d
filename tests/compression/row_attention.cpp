// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/row_attention.hpp>

#include <random>

#include "tests/support/catch.hpp"
#include "tests/support/refusal.hpp"

namespace rw = ropewalk;

namespace {

template <class E>
std::vector<E> noise(rw::index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<E> x(static_cast<std::size_t>(count));
    for (E& v : x) v = E(normal(engine));
    return x;
}

template <class E>
double wide(E x) {
    return static_cast<double>(static_cast<rw::compute_t<E>>(x));
}

struct sizes {
    rw::index heads, kv_heads, channels, value_channels, tokens;
};

/// Exact attention over the listed rows in extended precision.
template <class T, class E>
std::vector<double> plain(const sizes& s, rw::heads_view<T> q, rw::heads_view<E> k, rw::heads_view<E> v,
                          double scale, const std::vector<std::int32_t>& rows, rw::heads_view<T> own_q = {},
                          rw::heads_view<E> own_k = {}) {
    std::vector<double> out(static_cast<std::size_t>(s.heads * s.value_channels), 0.0);
    for (rw::index h = 0; h < s.heads; ++h) {
        const rw::index kv = h / (s.heads / s.kv_heads);
        std::vector<long double> score;
        long double top = -1e300L, sum = 0;
        for (auto n : rows) {
            long double dot = 0;
            for (rw::index c = 0; c < s.channels; ++c)
                dot += (long double)(wide(q.at(0, 0, h)[c])) * wide(k.at(0, n, kv)[c]);
            for (rw::index c = 0; c < own_q.channels(); ++c)
                dot += (long double)(wide(own_q.at(0, 0, h)[c])) *
                       wide(own_k.at(0, n, h / (s.heads / own_k.heads()))[c]);
            score.push_back(scale * dot);
            top = std::max(top, score.back());
        }
        for (auto& x : score) sum += x = std::exp(x - top);
        for (std::size_t j = 0; j < rows.size(); ++j)
            for (rw::index c = 0; c < s.value_channels; ++c)
                out[h * s.value_channels + c] += double(score[j] / sum * wide(v.at(0, rows[j], kv)[c]));
    }
    return out;
}

template <class T, class E>
double worst_error(const sizes& s, const std::vector<std::int32_t>& rows, unsigned seed) {
    auto q = noise<T>(s.heads * s.channels, seed);
    auto k = noise<E>(s.tokens * s.kv_heads * s.channels, seed + 1);
    auto v = noise<E>(s.tokens * s.kv_heads * s.value_channels, seed + 2);
    std::vector<T> out(s.heads * s.value_channels, T(7));
    const rw::heads_view<T> qv(q.data(), 1, s.heads, s.channels),
        ov(out.data(), 1, s.heads, s.value_channels);
    const rw::heads_view<E> kv(k.data(), s.tokens, s.kv_heads, s.channels);
    const rw::heads_view<E> vv(v.data(), s.tokens, s.kv_heads, s.value_channels);
    rw::row_attention<T> attention(
        {.heads = s.heads, .key_channels = s.channels, .value_channels = s.value_channels});
    const double scale = 1 / std::sqrt(double(s.channels));
    attention.attend(qv, kv, vv, ov,
                     {.scale = scale, .listed = rows.data(), .count = rw::index(rows.size())});
    const auto want = plain(s, qv, kv, vv, scale, rows);
    double worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(double(out[i]) - want[i]));
    return worst;
}

}  // namespace

TEST_CASE("row_attention: exact softmax over the listed rows, any sizes and storage",
          "[compression][row_attention]") {
    unsigned seed = 1;
    for (rw::index heads : {1, 2, 3, 4, 5, 8})
        for (rw::index kv : {1, 2, 4})
            for (rw::index channels : {1, 3, 16, 37, 128})
                for (rw::index count : {1, 2, 5, 31, 32, 33, 70}) {
                    if (heads % kv) continue;
                    const sizes s{heads, kv, channels, channels == 37 ? 20 : channels, 80};
                    std::vector<std::int32_t> rows;
                    for (rw::index j = 0; j < count; ++j) rows.push_back(std::int32_t(j * 80 / count));
                    CAPTURE(heads, kv, channels, count);
                    CHECK(worst_error<double, double>(s, rows, ++seed) < 1e-13);
                    CHECK(worst_error<float, float>(s, rows, seed) < 3e-6);
                    CHECK(worst_error<float, rw::bf16>(s, rows, seed) < 3e-6);
                    CHECK(worst_error<float, rw::f16>(s, rows, seed) < 3e-6);
                }
}

TEST_CASE("row_attention: no list means the first rows; no row at all gives zeros",
          "[compression][row_attention]") {
    auto q = noise<float>(2 * 8, 1), k = noise<float>(50 * 8, 2), v = noise<float>(50 * 8, 3);
    std::vector<float> out(16, 5.0f), listed(16);
    const rw::heads_view<const float> qv(q.data(), 1, 2, 8), kv(k.data(), 50, 1, 8), vv(v.data(), 50, 1, 8);
    rw::row_attention<> attention({.heads = 2, .key_channels = 8, .value_channels = 8});
    attention.attend(qv, kv, vv, rw::heads_view(out.data(), 1, 2, 8), {.scale = 0.3, .count = 0});
    CHECK(out == std::vector<float>(16, 0.0f));
    std::vector<std::int32_t> rows(41);
    for (int i = 0; i < 41; ++i) rows[i] = i;
    attention.attend(qv, kv, vv, rw::heads_view(out.data(), 1, 2, 8), {.scale = 0.3, .count = 41});
    attention.attend(qv, kv, vv, rw::heads_view(listed.data(), 1, 2, 8),
                     {.scale = 0.3, .listed = rows.data(), .count = 41});
    CHECK(out == listed);
}

TEST_CASE("row_attention: a second key part of every head, of a group or shared",
          "[compression][row_attention]") {
    for (rw::index own_heads : {1, 2, 6}) {
        const sizes s{6, 1, 10, 10, 40};
        auto q = noise<double>(60, 1), k = noise<double>(400, 2), own_q = noise<double>(6 * 5, 3);
        auto own_k = noise<double>(40 * own_heads * 5, 4);
        std::vector<std::int32_t> rows{0, 3, 4, 17, 39};
        std::vector<double> out(60);
        const rw::heads_view<double> qv(q.data(), 1, 6, 10), kv(k.data(), 40, 1, 10);
        const rw::heads_view<double> oq(own_q.data(), 1, 6, 5), ok(own_k.data(), 40, own_heads, 5);
        rw::row_attention<double> attention(
            {.heads = 6, .key_channels = 10, .value_channels = 10, .own_channels = 5});
        attention.attend(qv, kv, kv, rw::heads_view(out.data(), 1, 6, 10),
                         {.scale = 0.2, .listed = rows.data(), .count = 5}, oq, ok);
        const auto want = plain(s, qv, kv, kv, 0.2, rows, oq, ok);
        for (std::size_t i = 0; i < 60; ++i) CHECK(std::abs(out[i] - want[i]) < 1e-13);
    }
}

TEST_CASE("row_attention: huge score differences neither overflow nor make NaN",
          "[compression][row_attention]") {
    std::vector<float> q{1e4f}, k{-1e30f, 1e30f, 0, 3e33f}, v{1, 2, 3, 4}, out(1);
    rw::row_attention<> attention({.heads = 1, .key_channels = 1, .value_channels = 1});
    attention.attend(rw::heads_view(q.data(), 1, 1, 1), rw::heads_view(k.data(), 4, 1, 1),
                     rw::heads_view(v.data(), 4, 1, 1), rw::heads_view(out.data(), 1, 1, 1),
                     {.scale = 1, .count = 4});
    CHECK(out[0] == 4);
    attention.attend(rw::heads_view(q.data(), 1, 1, 1), rw::heads_view(k.data(), 1, 1, 1),
                     rw::heads_view(v.data(), 1, 1, 1), rw::heads_view(out.data(), 1, 1, 1),
                     {.scale = 1, .count = 1});
    CHECK(out[0] == 1);
}

TEST_CASE("row_attention: what is refused, and how it says so", "[compression][row_attention][errors]") {
    CHECK_THROWS_WITH(rw::row_attention<>({.heads = -2}), ContainsSubstring("sizes must be >= 0, got -2"));
    CHECK_THROWS_AS(rw::row_attention<>({.heads = 1 << 30, .key_channels = support::huge(40)}),
                    rw::invalid_config);
}
