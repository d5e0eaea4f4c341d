// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/householder.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"

namespace {

using namespace support;

/// H k in extended precision.
std::vector<long double> carried(const double* k, const double* w, double beta, rw::index channels) {
    long double dot = 0;
    for (rw::index c = 0; c < channels; ++c) dot += static_cast<long double>(k[c]) * w[c];
    std::vector<long double> out;
    for (rw::index c = 0; c < channels; ++c) out.push_back(k[c] - beta * dot * w[c]);
    return out;
}

template <class K>
void check_update(rw::index channels, rw::index kv_heads, rw::index group, double tolerance,
                  double storage_ulp) {
    using C = rw::compute_t<K>;
    const rw::index tokens = 5, heads = kv_heads * group;
    const auto wide = noise(tokens * kv_heads * channels, 1);
    auto keys = as<K>(wide), alone = keys;
    const auto k64 = widened(keys);
    const auto w = as<C>(unit_rows(kv_heads, channels, 2)), q = as<C>(noise(heads * channels, 3));
    const auto beta = as<C>(noise(kv_heads, 4, {.centre = 1}));
    std::vector<C> scores(static_cast<std::size_t>(heads * tokens));
    const rw::path::step_transform<C> t{{w.data(), 1, kv_heads, channels}, beta};
    rw::path::update_keys_and_score(rw::heads_view<K>(keys.data(), tokens, kv_heads, channels), t,
                                    rw::heads_view<const C>(q.data(), 1, heads, channels), scores);
    rw::path::update_keys(rw::heads_view<K>(alone.data(), tokens, kv_heads, channels), t);
    CHECK(widened(keys) == widened(alone));
    const auto w64 = widened(w), beta64 = widened(beta), got = widened(keys), q64 = widened(q);
    for (rw::index j = 0; j < tokens; ++j)
        for (rw::index h = 0; h < kv_heads; ++h) {
            const auto at = (j * kv_heads + h) * channels;
            const auto want = carried(k64.data() + at, w64.data() + h * channels,
                                      beta64[static_cast<std::size_t>(h)], channels);
            for (rw::index c = 0; c < channels; ++c) {
                const double off = static_cast<double>(
                    std::abs(static_cast<long double>(got[static_cast<std::size_t>(at + c)]) -
                             want[static_cast<std::size_t>(c)]));
                CHECK(off <= tolerance + storage_ulp * static_cast<double>(
                                                           std::abs(want[static_cast<std::size_t>(c)])));
            }
            for (rw::index g = 0; g < group; ++g) {
                long double dot = 0;
                for (rw::index c = 0; c < channels; ++c)
                    dot += static_cast<long double>(
                               q64[static_cast<std::size_t>((h * group + g) * channels + c)]) *
                           got[static_cast<std::size_t>(at + c)];
                CHECK(std::abs(static_cast<double>(
                          static_cast<long double>(
                              scores[static_cast<std::size_t>((h * group + g) * tokens + j)]) -
                          dot)) <= tolerance * 8);
            }
        }
}

}  // namespace

TEST_CASE("householder: one step of every key and its scores, any channels, any type",
          "[path][householder]") {
    for (rw::index channels : {1, 3, 4, 8, 15, 16, 17, 32, 40, 64, 96, 100, 128, 144, 200}) {
        check_update<double>(channels, 2, 2, 1e-14, 0);
        check_update<float>(channels, 2, 3, 1e-5, 0);
        check_update<rw::bf16>(channels, 1, 4, 1e-5, 1.0 / 256);
        check_update<rw::f16>(channels, 3, 1, 1e-5, 1.0 / 2048);
    }
}

TEST_CASE("householder: strides are kept and nothing beside the rows is written", "[path][householder]") {
    const rw::index tokens = 3, heads = 2, channels = 20, head_stride = 27, token_stride = 70;
    std::vector<float> memory(static_cast<std::size_t>(tokens * token_stride), 77.f);
    rw::heads_view<float> keys(memory.data(), {.tokens = tokens, .heads = heads, .channels = channels},
                               {.token = token_stride, .head = head_stride});
    std::vector<float> packed = as<float>(noise(tokens * heads * channels, 5));
    for (rw::index j = 0; j < tokens; ++j)
        for (rw::index h = 0; h < heads; ++h)
            std::copy_n(packed.data() + (j * heads + h) * channels, channels, keys.at(0, j, h));
    const auto w = as<float>(unit_rows(heads, channels, 6));
    const std::vector<float> beta{1.5f, 0.25f};
    const rw::path::step_transform<float> t{{w.data(), 1, heads, channels}, beta};
    rw::path::update_keys(keys, t);
    rw::path::update_keys(rw::heads_view<float>(packed.data(), tokens, heads, channels), t);
    std::size_t canaries = 0;
    for (float v : memory) canaries += v == 77.f;
    CHECK(canaries == memory.size() - packed.size());
    for (rw::index j = 0; j < tokens; ++j)
        for (rw::index h = 0; h < heads; ++h)
            CHECK(std::equal(keys.at(0, j, h), keys.at(0, j, h) + channels,
                             packed.data() + (j * heads + h) * channels));
}

TEST_CASE("householder: the bits do not depend on how the cache lies", "[path][householder]") {
    const rw::index tokens = 11, heads = 3, channels = 40;
    for (rw::index group : {1, 2}) {
        const auto values = as<float>(noise(tokens * heads * channels, 5)),
                   q = as<float>(noise(heads * group * channels, 7));
        const auto w = as<float>(unit_rows(heads, channels, 6));
        const std::vector<float> beta{1.5f, 0.25f, 2.f};
        std::vector<float> together = values, apart(values.size()),
                           scores(static_cast<std::size_t>(tokens * heads * group)), others = scores;
        const rw::heads_view<float> by_token(together.data(), tokens, heads, channels);
        const auto by_head = rw::heads_view<float>::heads_first(apart.data(), by_token.shape);
        for (rw::index j = 0; j < tokens; ++j)
            for (rw::index h = 0; h < heads; ++h)
                std::copy_n(by_token.at(0, j, h), channels, by_head.at(0, j, h));
        const rw::path::step_transform<float> t{{w.data(), 1, heads, channels}, beta};
        const rw::heads_view<const float> queries(q.data(), 1, heads * group, channels);
        rw::path::update_keys_and_score(by_token, t, queries, scores);
        rw::path::update_keys_and_score(by_head, t, queries, others);
        CHECK(scores == others);
        for (rw::index j = 0; j < tokens; ++j)
            for (rw::index h = 0; h < heads; ++h)
                CHECK(std::equal(by_token.at(0, j, h), by_token.at(0, j, h) + channels, by_head.at(0, j, h)));
    }
}

TEST_CASE("householder: beta 2 reflects, beta 0 and w 0 leave alone, between them norms shrink",
          "[path][householder]") {
    const rw::index channels = 24;
    const auto w = unit_rows(1, channels, 8);
    const auto norm = [](const std::vector<double>& x) {
        double sum = 0;
        for (double v : x) sum += v * v;
        return std::sqrt(sum);
    };
    for (double beta : {0.0, 0.5, 1.0, 1.7, 2.0}) {
        const auto before = noise(channels, 9);
        auto key = before;
        const std::vector<double> betas{beta};
        const rw::path::step_transform<double> t{{w.data(), 1, 1, channels}, betas};
        rw::path::update_keys(rw::heads_view<double>(key.data(), 1, 1, channels), t);
        if (beta == 0) CHECK(key == before);
        if (beta == 2) {
            CHECK(norm(key) == Approx(norm(before)).epsilon(1e-14));
            rw::path::update_keys(rw::heads_view<double>(key.data(), 1, 1, channels), t);  // I, H, I, H, ...
            for (std::size_t c = 0; c < key.size(); ++c) CHECK(key[c] == Approx(before[c]).margin(1e-14));
        }
        CHECK(norm(key) <= norm(before) * (1 + 1e-14));
    }
    const std::vector<double> nothing(static_cast<std::size_t>(channels), 0.0), two{2.0};
    const auto before = noise(channels, 10);
    auto key = before;
    rw::path::update_keys(rw::heads_view<double>(key.data(), 1, 1, channels),
                          {{nothing.data(), 1, 1, channels}, two});
    CHECK(key == before);
}

TEST_CASE("householder: nothing to do is fine", "[path][householder]") {
    const std::vector<float> w(8, 0.f), beta(2, 1.f);
    float none = 5;
    rw::path::update_keys(rw::heads_view<float>(&none, 0, 2, 4), {{w.data(), 1, 2, 4}, beta});
    rw::path::update_keys(rw::heads_view<float>(&none, 3, 0, 4), {});
    CHECK(none == 5);
}

TEST_CASE("path householder: betas of any stride, and parts", "[path][householder]") {
    constexpr rw::index tokens = 23, heads = 6, kv_heads = 3, channels = 20;
    const auto start = noise(tokens * kv_heads * channels, 1), w = unit_rows(kv_heads, channels, 2),
               q = noise(heads * channels, 3), beta = noise(kv_heads, 4, {.centre = 1});
    std::vector<double> apart(4 * kv_heads, 9.0);
    for (rw::index h = 0; h < kv_heads; ++h)
        apart[static_cast<std::size_t>(4 * h)] = beta[static_cast<std::size_t>(h)];
    const rw::heads_view<const double> strided(apart.data(), {1, 1, kv_heads, 1}, {0, 0, 4});
    auto keys = start;
    std::vector<double> scores(heads * tokens);
    const rw::heads_view<const double> ws(w.data(), 1, kv_heads, channels),
        queries(q.data(), 1, heads, channels);
    rw::path::update_keys_and_score(rw::heads_view<double>(keys.data(), tokens, kv_heads, channels),
                                    {ws, beta}, queries, scores);
    for (rw::index parts : {1, 2, 5, 30}) {
        auto shared = start, unscored = start;
        std::vector<double> s(scores.size());
        for (rw::index part = parts; part-- > 0;) {
            CHECK(rw::path::update_keys_and_score(
                rw::heads_view<double>(shared.data(), tokens, kv_heads, channels), {ws, strided}, queries, s,
                {parts, part}));
            CHECK(rw::path::update_keys(rw::heads_view<double>(unscored.data(), tokens, kv_heads, channels),
                                        {ws, strided}, {parts, part}));
        }
        CHECK(shared == keys);
        CHECK(unscored == keys);
        CHECK(s == scores);
    }
}
