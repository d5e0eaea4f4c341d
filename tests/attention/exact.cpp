// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/attention/exact.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace rw = ropewalk;
using support::as;
using support::noise;
using support::worst;

namespace {

struct sizes {
    rw::index batches = 1, queries = 5, keys = 5, heads = 2, kv_heads = 2, channels = 8, value_channels = 8;
    rw::index q_count() const { return batches * queries * heads * channels; }
    rw::index k_count() const { return batches * keys * kv_heads * channels; }
    rw::index v_count() const { return batches * keys * kv_heads * value_channels; }
    rw::index out_count() const { return batches * queries * heads * value_channels; }
    rw::index score_count() const { return batches * heads * queries * keys; }
    rw::heads_shape q() const { return {batches, queries, heads, channels}; }
    rw::heads_shape k() const { return {batches, keys, kv_heads, channels}; }
    rw::heads_shape v() const { return {batches, keys, kv_heads, value_channels}; }
    rw::heads_shape out() const { return {batches, queries, heads, value_channels}; }
};

struct naive_result {
    std::vector<double> out, probabilities, scores;
};
using seen_rule = std::function<bool(rw::index b, rw::index h, rw::index n, rw::index j)>;
using bias_rule = std::function<double(rw::index b, rw::index h, rw::index n, rw::index j)>;

// Three separate loops in long double: scores, softmax, weighted mean.
template <class T>
naive_result naive(const sizes& s, const std::vector<T>& q, const std::vector<T>& k, const std::vector<T>& v,
                   double scale, const seen_rule& seen, const bias_rule& bias = {}) {
    naive_result r;
    r.out.resize(static_cast<std::size_t>(s.out_count()));
    const auto value = [](const T& x) {
        if constexpr (std::is_same_v<T, double>)
            return static_cast<long double>(x);
        else
            return static_cast<long double>(static_cast<float>(x));
    };
    for (rw::index b = 0; b < s.batches; ++b)
        for (rw::index h = 0; h < s.heads; ++h)
            for (rw::index n = 0; n < s.queries; ++n) {
                const rw::index kv = h / (s.heads / s.kv_heads);
                std::vector<long double> row;
                long double peak = -std::numeric_limits<long double>::infinity(), sum = 0;
                for (rw::index j = 0; j < s.keys; ++j) {
                    long double dot = 0;
                    for (rw::index c = 0; c < s.channels; ++c)
                        dot += value(q[std::size_t(((b * s.queries + n) * s.heads + h) * s.channels + c)]) *
                               value(k[std::size_t(((b * s.keys + j) * s.kv_heads + kv) * s.channels + c)]);
                    dot = dot * static_cast<long double>(scale) + (bias ? bias(b, h, n, j) : 0.0);
                    row.push_back(dot);
                    if (seen(b, h, n, j)) peak = std::max(peak, dot);
                }
                std::vector<long double> p;
                for (rw::index j = 0; j < s.keys; ++j) {
                    p.push_back(seen(b, h, n, j) ? std::exp(row[std::size_t(j)] - peak) : 0.0L);
                    sum += p.back();
                }
                for (rw::index j = 0; j < s.keys; ++j) {
                    if (sum > 0) p[std::size_t(j)] /= sum;
                    r.probabilities.push_back(static_cast<double>(p[std::size_t(j)]));
                    r.scores.push_back(static_cast<double>(row[std::size_t(j)]));
                }
                for (rw::index c = 0; c < s.value_channels; ++c) {
                    long double mean = 0;
                    for (rw::index j = 0; j < s.keys; ++j)
                        if (p[std::size_t(j)] > 0)
                            mean += p[std::size_t(j)] *
                                    value(v[std::size_t(
                                        ((b * s.keys + j) * s.kv_heads + kv) * s.value_channels + c)]);
                    r.out[std::size_t(((b * s.queries + n) * s.heads + h) * s.value_channels + c)] =
                        static_cast<double>(mean);
                }
            }
    return r;
}

// Runs one case in T with every output and compares each with the naive one.
template <class T>
void check(const sizes& s, rw::attend_options<T> options, double tolerance, const seen_rule& seen,
           const bias_rule& bias = {}) {
    const auto q = as<T>(noise(s.q_count(), 1)), k = as<T>(noise(s.k_count(), 2)),
               v = as<T>(noise(s.v_count(), 3));
    const double scale = options.scale.value_or(1 / std::sqrt(double(s.channels)));
    const auto wanted = naive(s, q, k, v, scale, seen, bias);
    std::vector<T> online(std::size_t(s.out_count()), T(7)), out = online;
    std::vector<T> probabilities(std::size_t(s.score_count()), T(7)), scores = probabilities;
    rw::attend(rw::heads_view(q.data(), s.q()), rw::heads_view(k.data(), s.k()),
               rw::heads_view(v.data(), s.v()), rw::heads_view(online.data(), s.out()), options);
    CHECK(worst(online, wanted.out) <= tolerance);
    options.probabilities = probabilities;
    options.scores = scores;
    rw::attend(rw::heads_view(q.data(), s.q()), rw::heads_view(k.data(), s.k()),
               rw::heads_view(v.data(), s.v()), rw::heads_view(out.data(), s.out()), options);
    CHECK(out == online);
    CHECK(worst(probabilities, wanted.probabilities) <= tolerance);
    CHECK(worst(scores, wanted.scores) <= tolerance);
}

template <class T>
void check_all_masks(double tolerance) {
    const auto everything = [](rw::index, rw::index, rw::index, rw::index) { return true; };
    const auto causal = [](rw::index, rw::index, rw::index n, rw::index j) { return j <= n; };
    // Key counts around the tile of 64, values narrower and wider than keys, grouped heads, two batches.
    for (rw::index keys : {0, 1, 5, 63, 64, 65, 130}) {
        CAPTURE(keys);
        check<T>({.queries = keys, .keys = keys}, {}, tolerance, everything);
        check<T>({.queries = keys, .keys = keys, .heads = 6, .kv_heads = 2}, {.causal = true}, tolerance,
                 causal);
        check<T>(
            {.batches = 2, .queries = keys, .keys = keys, .heads = 4, .kv_heads = 1, .value_channels = 3},
            {.scale = 0.7, .causal = true}, tolerance, causal);
        for (rw::index window : {1, 2, 64, 65, 200}) {
            CAPTURE(window);
            check<T>(
                {.queries = keys, .keys = keys}, {.causal = true, .window = window}, tolerance,
                [=](rw::index, rw::index, rw::index n, rw::index j) { return j <= n && n - j < window; });
            check<T>(
                {.queries = keys, .keys = keys}, {.window = window}, tolerance,
                [=](rw::index, rw::index, rw::index n, rw::index j) { return std::abs(n - j) < window; });
        }
    }
    // Values of exactly one, of several and of several and a part of the blocks they are summed in.
    for (rw::index wide : {32, 64, 70})
        check<T>({.queries = 66, .keys = 66, .channels = 5, .value_channels = wide}, {.causal = true},
                 tolerance, causal);
    // Cross attention, and queries that stand anywhere along the keys.
    check<T>({.queries = 3, .keys = 70}, {}, tolerance, everything);
    check<T>({.queries = 3, .keys = 70}, {.causal = true}, tolerance,
             [](rw::index, rw::index, rw::index n, rw::index j) { return j <= 67 + n; });
    check<T>({.queries = 3, .keys = 70}, {.causal = true, .window = 4, .first_query = 10}, tolerance,
             [](rw::index, rw::index, rw::index n, rw::index j) { return j <= 10 + n && 10 + n - j < 4; });
    // More queries than keys, aligned at the end: the first queries see nothing.
    check<T>({.queries = 6, .keys = 4}, {.causal = true}, tolerance,
             [](rw::index, rw::index, rw::index n, rw::index j) { return j <= n - 2; });
}

}  // namespace

TEST_CASE("attend: f64 equals a naive softmax in long double under every position mask",
          "[attention][exact]") {
    check_all_masks<double>(1e-13);
}

TEST_CASE("attend: f32 equals a naive softmax in long double under every position mask",
          "[attention][exact]") {
    check_all_masks<float>(3e-6);
}

TEST_CASE("attend: dense masks are shared, one a batch, or one a batch and head", "[attention][exact]") {
    const sizes s{.batches = 2, .queries = 7, .keys = 70, .heads = 3, .kv_heads = 3};
    std::vector<std::uint8_t> mask(std::size_t(s.score_count()));
    std::mt19937 engine(5);
    for (auto& m : mask) m = engine() % 3 == 0 ? 0 : static_cast<std::uint8_t>(1 + engine() % 200);
    const rw::index each = s.queries * s.keys;
    for (rw::index j = 0; j < s.keys; ++j)
        mask[std::size_t(2 * s.keys + j)] = 0;  // a query that sees nothing
    const std::span<const std::uint8_t> all(mask);
    check<double>(s, {.mask = all.first(std::size_t(each))}, 1e-13,
                  [&](rw::index, rw::index, rw::index n, rw::index j) {
                      return mask[std::size_t(n * s.keys + j)] != 0;
                  });
    check<double>(s, {.causal = true, .mask = all.first(std::size_t(2 * each))}, 1e-13,
                  [&](rw::index b, rw::index, rw::index n, rw::index j) {
                      return mask[std::size_t(b * each + n * s.keys + j)] != 0 && j <= 63 + n;
                  });
    check<double>(s, {.mask = all}, 1e-13, [&](rw::index b, rw::index h, rw::index n, rw::index j) {
        return mask[std::size_t((b * s.heads + h) * each + n * s.keys + j)] != 0;
    });
}

TEST_CASE("attend: documents see only themselves, like separate calls", "[attention][exact]") {
    const std::vector<std::int32_t> documents{0, 0, 0, 7, 7, 1, 1, 1};
    check<double>({.queries = 8, .keys = 8}, {.causal = true, .query_documents = documents}, 1e-13,
                  [&](rw::index, rw::index, rw::index n, rw::index j) {
                      return j <= n && documents[std::size_t(n)] == documents[std::size_t(j)];
                  });
    // Another batch, other documents; keys of their own.
    const std::vector<std::int32_t> queries{1, 2, 3, 1}, keys{2, 1, 1, 3, 3, 3};
    check<double>({.batches = 2, .queries = 2, .keys = 3},
                  {.query_documents = queries, .key_documents = keys}, 1e-13,
                  [&](rw::index b, rw::index, rw::index n, rw::index j) {
                      return queries[std::size_t(2 * b + n)] == keys[std::size_t(3 * b + j)];
                  });
}

TEST_CASE("attend: a bias is added to the score and -infinity hides a key", "[attention][exact]") {
    const sizes s{.queries = 6, .keys = 6};
    std::vector<double> bias = noise(2 * 36, 9, {.width = 3});
    check<double>(
        s, {.bias = bias}, 1e-13, [](rw::index, rw::index, rw::index, rw::index) { return true; },
        [&](rw::index, rw::index h, rw::index n, rw::index j) {
            return bias[std::size_t(h * 36 + n * 6 + j)];
        });
    std::vector<double> causal(36, 0.0);
    for (std::size_t n = 0; n < 6; ++n)
        for (std::size_t j = n + 1; j < 6; ++j) causal[n * 6 + j] = -std::numeric_limits<double>::infinity();
    const auto q = noise(96, 1), k = noise(96, 2), v = noise(96, 3);
    std::vector<double> masked(96), biased(96);
    const rw::heads_view qv(q.data(), s.q()), kv(k.data(), s.k()), vv(v.data(), s.v());
    rw::attend(qv, kv, vv, rw::heads_view(masked.data(), s.out()), {.causal = true});
    rw::attend(qv, kv, vv, rw::heads_view(biased.data(), s.out()), {.bias = causal});
    CHECK(masked == biased);
}

TEST_CASE("attend: one decode step gives the row that a prefill gave", "[attention][exact]") {
    const sizes s{.queries = 80, .keys = 80, .heads = 4, .kv_heads = 2};
    const auto q = as<float>(noise(s.q_count(), 1)), k = as<float>(noise(s.k_count(), 2)),
               v = as<float>(noise(s.v_count(), 3));
    std::vector<float> prefill(std::size_t(s.out_count())), step(std::size_t(s.heads * s.value_channels));
    const rw::heads_view qv(q.data(), s.q()), kv(k.data(), s.k()), vv(v.data(), s.v());
    rw::attend(qv, kv, vv, rw::heads_view(prefill.data(), s.out()), {.causal = true, .window = 70});
    for (rw::index n : {0, 1, 63, 64, 79}) {
        rw::attend(qv.token_slice(n, 1), kv.token_slice(0, n + 1), vv.token_slice(0, n + 1),
                   rw::heads_view(step.data(), 1, s.heads, s.value_channels), {.causal = true, .window = 70});
        // The two group their sums differently; each is within 3e-6 of the truth.
        const auto row = prefill.begin() + n * s.heads * s.value_channels;
        CHECK(worst(step, std::vector<double>(row, row + s.heads * s.value_channels)) <= 6e-6);
    }
}

TEST_CASE("attend: strided views, 16-bit caches and 16-bit outputs", "[attention][exact]") {
    // Packed [token, q heads | k heads | v heads, channels], heads-first output, against contiguous copies.
    const rw::index tokens = 9, heads = 4, kv_heads = 2, channels = 8;
    const auto packed = as<float>(noise(tokens * 8 * channels, 4));
    const rw::heads_view all(packed.data(), tokens, 8, channels);
    std::vector<float> out(std::size_t(tokens * heads * channels));
    const auto view = rw::heads_view<float>::heads_first(out.data(), {1, tokens, heads, channels});
    rw::attend(all.head_slice(0, heads), all.head_slice(4, kv_heads), all.head_slice(6, kv_heads), view,
               {.causal = true});
    std::vector<float> q, k, v;
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < 8; ++h)
            for (rw::index c = 0; c < channels; ++c)
                (h < 4 ? q : h < 6 ? k : v).push_back(all.at(0, n, h)[c]);
    std::vector<float> wanted(out.size());
    rw::attend(rw::heads_view(q.data(), tokens, heads, channels),
               rw::heads_view(k.data(), tokens, kv_heads, channels),
               rw::heads_view(v.data(), tokens, kv_heads, channels),
               rw::heads_view(wanted.data(), tokens, heads, channels), {.causal = true});
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < channels; ++c)
                CHECK(view.at(0, n, h)[c] == wanted[std::size_t((n * heads + h) * channels + c)]);

    // A cache in 16 bits is read as f32: the same as widening it first. An output in 16 bits is rounded once.
    const auto narrow = [&]<class H>(H) {
        std::vector<H> k16, v16, out16(wanted.size());
        std::vector<float> k32, v32, out32(wanted.size());
        for (float x : k) k16.push_back(H(x)), k32.push_back(static_cast<float>(H(x)));
        for (float x : v) v16.push_back(H(x)), v32.push_back(static_cast<float>(H(x)));
        const rw::heads_view qv(q.data(), tokens, heads, channels);
        rw::attend(qv, rw::heads_view(k32.data(), tokens, kv_heads, channels),
                   rw::heads_view(v32.data(), tokens, kv_heads, channels),
                   rw::heads_view(out32.data(), tokens, heads, channels), {.causal = true});
        rw::attend(qv, rw::heads_view(k16.data(), tokens, kv_heads, channels),
                   rw::heads_view(v16.data(), tokens, kv_heads, channels),
                   rw::heads_view(out16.data(), tokens, heads, channels), {.causal = true});
        for (std::size_t i = 0; i < out32.size(); ++i) CHECK(out16[i].bits == H(out32[i]).bits);
    };
    narrow(rw::bf16{});
    narrow(rw::f16{});
}

TEST_CASE("attend: huge scores stay finite and hidden NaN stays hidden", "[attention][exact]") {
    const sizes s{.queries = 70, .keys = 70};
    const auto big = as<float>(noise(s.q_count(), 1, {.width = 3e4})),
               k = as<float>(noise(s.k_count(), 2, {.width = 3e4}));
    auto v = as<float>(noise(s.v_count(), 3));
    std::vector<float> out(std::size_t(s.out_count())), p(std::size_t(s.score_count()));
    const rw::heads_view qv(big.data(), s.q()), kv(k.data(), s.k());
    rw::attend(qv, kv, rw::heads_view(v.data(), s.v()), rw::heads_view(out.data(), s.out()),
               {.causal = true, .probabilities = p});
    for (float x : out) CHECK(std::abs(x) <= 1.0f);
    for (rw::index row = 0; row < 2 * 70; ++row) {
        double sum = 0;
        for (rw::index j = 0; j < 70; ++j) sum += p[std::size_t(row * 70 + j)];
        CHECK(sum == Approx(1.0).margin(1e-5));
    }
    // The last key and value are NaN: only the last query notices.
    auto poisoned = k;
    for (std::size_t c = poisoned.size() - 16; c < poisoned.size(); ++c)
        poisoned[c] = v[c] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> poisoned_out(out.size());
    rw::attend(qv, rw::heads_view(poisoned.data(), s.k()), rw::heads_view(v.data(), s.v()),
               rw::heads_view(poisoned_out.data(), s.out()), {.causal = true});
    for (std::size_t i = 0; i < out.size(); ++i)
        CHECK((i < out.size() - 16 ? poisoned_out[i] == out[i] : std::isnan(poisoned_out[i])));
}

namespace {

/// One head of one channel; every query is `query`.
template <class T>
std::vector<T> attended(const std::vector<T>& keys, const std::vector<T>& values, T query,
                        const rw::attend_options<T>& options) {
    const auto tokens = static_cast<rw::index>(keys.size());
    const std::vector<T> q(keys.size(), query);
    std::vector<T> out(keys.size(), T(7));
    rw::attend(rw::heads_view(q.data(), tokens, 1, 1), rw::heads_view(keys.data(), tokens, 1, 1),
               rw::heads_view(values.data(), tokens, 1, 1), rw::heads_view(out.data(), tokens, 1, 1),
               options);
    return out;
}

}  // namespace

TEST_CASE("attend: does not swallow NaN", "[attention][exact][nan]") {
    const auto run = [&]<class T>(T) {
        const T nan = std::numeric_limits<T>::quiet_NaN();
        const auto one = attended<T>({1, nan, 1}, {10, 20, 30}, 1, {.causal = true});
        CHECK(one[0] == 10);
        CHECK(std::isnan(one[1]));
        CHECK(std::isnan(one[2]));
        for (const T v : attended<T>({1, nan, 1}, {10, 20, 30}, nan, {.causal = true})) CHECK(std::isnan(v));
        // A hidden key behind a NaN does not bring the maximum back, in the same tile or in the next.
        std::vector<T> keys(130, T(1)), values(130);
        for (std::size_t j = 0; j < 130; ++j) values[j] = static_cast<T>(j);
        keys[128] = nan;
        auto out = attended<T>(keys, values, 1, {.causal = true});
        CHECK(out[127] == Approx(63.5));
        CHECK(std::isnan(out[128]));
        CHECK(std::isnan(out[129]));
        keys[128] = 1;
        for (const std::size_t at : {0, 5, 63, 64, 100}) {
            keys[at] = nan;
            out = attended<T>(keys, values, 1, {.causal = true});
            for (std::size_t n = 0; n < 130; ++n) REQUIRE(std::isnan(out[n]) == (n >= at));
            out = attended<T>(keys, values, 1, {.causal = true, .window = 3});
            for (std::size_t n = 0; n < 130; ++n) REQUIRE(std::isnan(out[n]) == (n >= at && n < at + 3));
            keys[at] = 1;
        }
        // Its probabilities are NaN too.
        std::vector<T> p(9);
        attended<T>({1, nan, 1}, {10, 20, 30}, 1, {.causal = true, .probabilities = p});
        CHECK(p[0] == 1);
        CHECK(std::isnan(p[4]));
        CHECK(p[5] == 0);
    };
    run(double{});
    run(float{});
}

TEST_CASE("attend: a bias of -infinity hides a NaN or infinite key", "[attention][exact][nan]") {
    const auto run = [&]<class T>(T) {
        const T inf = std::numeric_limits<T>::infinity();
        const std::vector<T> bias{0, -inf, -inf, 0, 0, -inf, 0, -inf, 0};
        for (const T bad : {std::numeric_limits<T>::quiet_NaN(), inf, -inf}) {
            const auto out = attended<T>({1, bad, 1}, {10, 20, 30}, 1, {.bias = bias});
            CHECK(out[0] == 10);
            CHECK(std::isnan(out[1]) == (bad != -inf));  // an infinite score is no number as a softmax
            CHECK(out[2] == 20);
        }
        // Random biases against a mask of the same keys: the same bits.
        unsigned state = 1;
        const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
        for (int round = 0; round < 400; ++round) {
            const std::size_t n = 1 + next() % 9;
            std::vector<T> keys(n), values(n), hides(n * n);
            std::vector<std::uint8_t> mask(n * n);
            for (std::size_t j = 0; j < n; ++j) {
                const unsigned kind = next() % 6;
                keys[j] = kind == 0   ? std::numeric_limits<T>::quiet_NaN()
                          : kind == 1 ? inf
                                      : static_cast<T>(next() % 100) / 50;
                values[j] = kind == 0 && next() % 2 == 0 ? keys[j] : static_cast<T>(next() % 100);
            }
            for (std::size_t i = 0; i < n * n; ++i) {
                mask[i] = next() % 2;
                hides[i] = mask[i] ? T(0) : -inf;
            }
            const auto by_bias = attended<T>(keys, values, 1, {.bias = hides}),
                       by_mask = attended<T>(keys, values, 1, {.mask = mask});
            for (std::size_t i = 0; i < n; ++i) {
                bool nan = false;
                for (std::size_t j = 0; j < n; ++j)
                    nan = nan || (mask[i * n + j] && (!std::isfinite(keys[j]) || std::isnan(values[j])));
                REQUIRE(std::isnan(by_bias[i]) == nan);
                REQUIRE((nan || by_bias[i] == by_mask[i]));
            }
        }
    };
    run(double{});
    run(float{});
}

TEST_CASE("attend: nothing to attend to gives zeros, no tokens are a no-op", "[attention][exact]") {
    const std::vector<float> q(16, 1.0f);
    std::vector<float> out(16, 7.0f);
    const rw::heads_view none(q.data(), 0, 2, 8);
    rw::attend(rw::heads_view(q.data(), 1, 2, 8), none, none, rw::heads_view(out.data(), 1, 2, 8));
    CHECK(out == std::vector<float>(16, 0.0f));
    rw::attend(none, rw::heads_view(q.data(), 1, 2, 8), rw::heads_view(q.data(), 1, 2, 8),
               rw::heads_view(out.data(), 0, 2, 8));
    rw::attend(rw::heads_view(q.data(), 1, 0, 8), rw::heads_view(q.data(), 1, 0, 8),
               rw::heads_view(q.data(), 1, 0, 8), rw::heads_view(out.data(), 1, 0, 8));
    CHECK(out == std::vector<float>(16, 0.0f));
}

TEST_CASE("attend: sizes that disagree are refused by name and value", "[attention][exact]") {
    const std::vector<double> x(4096);
    std::vector<double> y(4096);
    const auto refuse = [&](sizes s, const std::string& text, rw::attend_options<double> options = {},
                            rw::heads_shape out = {}) {
        std::string got;
        try {
            rw::attend(rw::heads_view(x.data(), s.q()), rw::heads_view(x.data(), s.k()),
                       rw::heads_view(x.data(), s.v()),
                       rw::heads_view(y.data(), out.channels ? out : s.out()), options);
        } catch (const rw::invalid_config& error) {
            got = error.what();
        }
        CHECK(got == "attend: " + text);
    };
    refuse({.heads = 3, .kv_heads = 2}, "k.heads must be > 0 and divide q.heads, got 2");
    refuse({.kv_heads = 0}, "k.heads must be > 0 and divide q.heads, got 0");
    refuse({}, "out.tokens must equal q.tokens: wanted 5, got 4", {}, {1, 4, 2, 8});
    refuse({}, "out.channels must equal v.channels: wanted 8, got 9", {}, {1, 5, 2, 9});
    refuse({}, "out.heads must equal q.heads: wanted 2, got 1", {}, {1, 5, 1, 8});
    refuse({}, "out.batches must equal q.batches: wanted 1, got 2", {}, {2, 5, 2, 8});
    refuse({}, "window must be >= 0, got -1", {.window = -1});
    refuse({}, "scale must be finite, got inf", {.scale = std::numeric_limits<double>::infinity()});
    // Distances to keys would overflow.
    for (const rw::index far_off : {PTRDIFF_MAX, PTRDIFF_MIN, rw::detail::limit_of_bits(53) + 1})
        refuse({}, "first_query must be within +-" + support::limit(53) + ", got " + std::to_string(far_off),
               {.first_query = far_off});
    const std::vector<std::uint8_t> mask(24);
    refuse({}, "mask must hold Lq * Lk flags, or that a batch, or that a batch and head, got 24",
           {.mask = mask});
    refuse({}, "bias must hold Lq * Lk numbers, or that a batch, or that a batch and head, got 7",
           {.bias = std::span(x).first(7)});
    const std::vector<std::int32_t> ids(4);
    refuse({}, "query_documents must hold one number a query token, got 4", {.query_documents = ids});
    refuse({.queries = 4}, "key_documents must be given when Lk differs from Lq, got none",
           {.query_documents = ids});
    refuse({}, "key_documents must come with query_documents, got 4", {.key_documents = ids});
    refuse({.queries = 4}, "key_documents must hold one number a key token, got 4",
           {.query_documents = ids, .key_documents = ids});
    refuse({}, "probabilities and scores must hold batches * heads * Lq * Lk numbers, got 3",
           {.probabilities = std::span(y).first(3)});
    CHECK_THROWS_AS(rw::attend(rw::heads_view(x.data(), 5, 2, 8), rw::heads_view(x.data(), 5, 2, 6),
                               rw::heads_view(x.data(), 5, 2, 8), rw::heads_view(y.data(), 5, 2, 8)),
                    rw::invalid_config);
    CHECK_THROWS_AS(rw::attend(rw::heads_view(x.data(), 5, 2, 8), rw::heads_view(x.data(), 5, 2, 8),
                               rw::heads_view(x.data(), 4, 2, 8), rw::heads_view(y.data(), 5, 2, 8)),
                    rw::invalid_config);
}
