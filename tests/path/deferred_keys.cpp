// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/deferred_keys.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;

/// Keys of all tokens as of the last one, in f64, one kv head.
std::vector<double> exact_keys(const std::vector<double>& k, const std::vector<double>& w,
                               const std::vector<double>& beta, rw::index tokens, rw::index channels) {
    std::vector<double> keys(k.begin(), k.begin() + tokens * channels);
    for (rw::index t = 0; t < tokens; ++t)
        path::update_keys(rw::heads_view<double>(keys.data(), t, 1, channels),
                          {{w.data() + t * channels, 1, 1, channels},
                           std::span(beta).subspan(static_cast<std::size_t>(t), 1)});
    return keys;
}

template <class K>
double relative_error(const std::vector<K>& got, const std::vector<double>& want) {
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        error += std::pow(widened(got[i]) - want[i], 2);
        norm += want[i] * want[i];
    }
    return std::sqrt(error / norm);
}

template <class K, class C>
void append_all(path::deferred_keys<K>& state, rw::heads_view<K> cache, const std::vector<C>& k,
                const std::vector<C>& w, const std::vector<C>& beta, rw::index first, rw::index last) {
    const rw::index heads = cache.heads(), channels = cache.channels();
    for (rw::index t = first; t < last; ++t)
        state.append(
            cache, {k.data() + t * heads * channels, 1, heads, channels},
            {{w.data() + t * heads * channels, 1, heads, channels},
             std::span(beta).subspan(static_cast<std::size_t>(t * heads), static_cast<std::size_t>(heads))});
}

}  // namespace

TEST_CASE("deferred keys: bf16 is rounded once a block and stays below 1 % over 16384 tokens",
          "[path][deferred_keys]") {
    constexpr rw::index channels = 32, tokens = 16384;
    // The oldest keys have been through every transform: all tokens behind the first 64 only move those.
    constexpr rw::index kept = 64;
    const auto k = noise(tokens * channels, 1), w = unit_rows(tokens, channels, 2),
               beta = std::vector<double>(tokens, 2.0);  // reflections: no key fades
    std::vector<double> want(k.begin(), k.begin() + kept * channels);
    auto each_token = as<rw::bf16>(want);
    const auto k32 = as<float>(k), w32 = as<float>(w), beta32 = as<float>(beta);
    for (rw::index t = 0; t < tokens; ++t) {
        const rw::index before = std::min(t, kept);
        path::update_keys(rw::heads_view<double>(want.data(), before, 1, channels),
                          {{w.data() + t * channels, 1, 1, channels},
                           std::span(beta).subspan(static_cast<std::size_t>(t), 1)});
        path::update_keys(rw::heads_view<rw::bf16>(each_token.data(), before, 1, channels),
                          {{w32.data() + t * channels, 1, 1, channels},
                           std::span(beta32).subspan(static_cast<std::size_t>(t), 1)});
    }
    std::vector<rw::bf16> cache(tokens * channels);
    path::deferred_keys<rw::bf16> state({.kv_heads = 1, .channels = channels});
    append_all(state, rw::heads_view<rw::bf16>(cache.data(), tokens, 1, channels), k32, w32, beta32, 0,
               tokens);
    CHECK(state.stored() == tokens);
    const double once_a_block = relative_error(cache, want);
    CAPTURE(once_a_block, relative_error(each_token, want));
    CHECK(once_a_block < 0.01);
    CHECK(once_a_block > 0.001);  // it is rounded
    CHECK(relative_error(each_token, want) > 0.1);
}

TEST_CASE("deferred keys: scores are those of updated keys at every token", "[path][deferred_keys]") {
    constexpr rw::index channels = 20, tokens = 23, heads = 4, kv_heads = 2;
    const auto q = noise(tokens * heads * channels, 1), k = noise(tokens * kv_heads * channels, 2),
               w = unit_rows(tokens * kv_heads, channels, 3),
               beta = noise(tokens * kv_heads, 4, {.centre = 1});
    const auto run = [&]<class K>(K, rw::index block, double bound) {
        using C = rw::compute_t<K>;
        const auto qc = as<C>(q), kc = as<C>(k), wc = as<C>(w), bc = as<C>(beta);
        std::vector<K> cache(static_cast<std::size_t>(tokens * kv_heads * channels));
        const rw::heads_view<K> view(cache.data(), tokens, kv_heads, channels);
        auto keys = k;
        path::deferred_keys<K> state(
            {.kv_heads = kv_heads, .channels = channels, .block = block, .heads = heads});
        for (rw::index t = 0; t < tokens; ++t) {
            append_all(state, view, kc, wc, bc, t, t + 1);
            CHECK(state.tokens() == t + 1);
            CHECK(state.stored() == (t + 1) / block * block);
            path::update_keys(rw::heads_view<double>(keys.data(), t, kv_heads, channels),
                              {{w.data() + t * kv_heads * channels, 1, kv_heads, channels},
                               std::span(beta).subspan(static_cast<std::size_t>(t * kv_heads), kv_heads)});
            std::vector<C> scores(static_cast<std::size_t>(heads * (t + 1)), C(7));
            state.fill_scores({cache.data(), view.shape, view.strides},
                              {qc.data() + t * heads * channels, 1, heads, channels}, scores);
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index j = 0; j <= t; ++j) {
                    double want = 0;
                    for (rw::index c = 0; c < channels; ++c)
                        want += q[static_cast<std::size_t>((t * heads + h) * channels + c)] *
                                keys[static_cast<std::size_t>((j * kv_heads + h / 2) * channels + c)];
                    REQUIRE(std::abs(scores[static_cast<std::size_t>(h * (t + 1) + j)] - want) < bound);
                }
        }
        state.settle(view);
        CHECK(state.stored() == tokens);
        CHECK(relative_error(cache, keys) < bound);
    };
    for (const rw::index block : {1, 4, 23, 64}) run(double{}, block, 1e-12);
    for (const rw::index block : {1, 4, 64}) run(float{}, block, 1e-4);
    run(rw::f16{}, 8, 0.01);
    run(rw::bf16{}, 8, 0.08);
}

TEST_CASE("deferred keys: go on from a filled cache and hand it back", "[path][deferred_keys]") {
    constexpr rw::index channels = 12, tokens = 17, before = 9;
    const auto k = noise(tokens * channels, 1), w = unit_rows(tokens, channels, 2),
               beta = noise(tokens, 3, {.centre = 1});
    auto cache = exact_keys(k, w, beta, before, channels);
    cache.resize(tokens * channels);
    const rw::heads_view<double> view(cache.data(), tokens, 1, channels);
    path::deferred_keys<double> state({.kv_heads = 1, .channels = channels, .block = 3});
    state.start_at(before);
    append_all(state, view, k, w, beta, before, tokens);
    CHECK(state.stored() == 15);
    state.settle(view);
    CHECK(worst(cache, exact_keys(k, w, beta, tokens, channels)) < 1e-13);
}

TEST_CASE("deferred keys: what does not fit is refused and changes nothing",
          "[path][deferred_keys][errors]") {
    using state_type = path::deferred_keys<float>;
    CHECK_REFUSES("path::deferred_keys: kv_heads must be > 0, got 0", state_type({.channels = 4}));
    CHECK_REFUSES("path::deferred_keys: channels must be > 0, got 0", state_type({.kv_heads = 1}));
    CHECK_REFUSES("path::deferred_keys: block must be > 0, got 0",
                  state_type({.kv_heads = 1, .channels = 4, .block = 0}));
    CHECK_REFUSES("path::deferred_keys: heads must be a multiple of kv_heads, got 3",
                  state_type({.kv_heads = 2, .channels = 4, .heads = 3}));
    CHECK_THROWS(state_type({.kv_heads = support::huge(40), .channels = support::huge(40)}));
    state_type state({.kv_heads = 1, .channels = 4, .block = 2});
    std::vector<float> cache(8), k(8, 1.0f), beta{1}, scores(3);
    const rw::heads_view<float> view(cache.data(), 2, 1, 4);
    const auto append = [&](rw::heads_view<float> to, rw::heads_view<const float> key,
                            std::span<const float> b) {
        state.append(to, key, {{k.data(), 1, 1, 4}, b});
        return 0;
    };
    const rw::heads_view<const float> one(k.data(), 1, 1, 4);
    CHECK_REFUSES(
        "path::deferred_keys::append: k must be one token of kv_heads heads and its channels, got 3",
        append(view, {k.data(), 1, 1, 3}, beta));
    const std::vector<float> large{2.5f};
    CHECK_REFUSES("path::deferred_keys::append: beta must be in [0, 2], got 2.5", append(view, one, large));
    CHECK_REFUSES("path::deferred_keys::append: beta must hold kv_heads numbers, got 0",
                  append(view, one, {}));
    CHECK_REFUSES("path::deferred_keys::append: cache must have room for every token, got 0",
                  append({cache.data(), 0, 1, 4}, one, beta));
    CHECK(state.tokens() == 0);
    append(view, one, beta);
    CHECK_REFUSES(
        "path::deferred_keys::fill_scores: scores must hold heads * tokens numbers: wanted 1, got 3",
        (state.fill_scores({cache.data(), 2, 1, 4}, one, scores), 0));
    CHECK_REFUSES("path::deferred_keys::start_at: tokens must be >= 0, got -1", (state.start_at(-1), 0));
}
