// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/path/prefill.hpp>

#include <ropewalk/path/householder.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

namespace {

using namespace support;
namespace path = rw::path;

struct problem {
    rw::index batches = 1, tokens = 13, heads = 4, kv_heads = 2, channels = 8, value_channels = 6;
    std::vector<double> q, k, v, w, beta, log_gate;

    explicit problem(rw::index n = 13, rw::index b = 1) : batches(b), tokens(n) {
        q = noise(batches * tokens * heads * channels, 1);
        k = noise(batches * tokens * kv_heads * channels, 2);
        v = noise(batches * tokens * kv_heads * value_channels, 3);
        w = unit_rows(batches * tokens * kv_heads, channels, 4);
        beta = noise(batches * tokens * kv_heads, 5, {.centre = 1});
        for (double g : noise(batches * tokens * heads, 6, {.centre = -1}))
            log_gate.push_back(std::min(g, 0.0));
    }
};
struct result {
    std::vector<double> out, logits, cache;
};

template <class T>
result run(const problem& p, rw::index block, std::vector<rw::index> ends = {}, bool gated = true,
           bool naive = false) {
    auto q = as<T>(p.q), k = as<T>(p.k), v = as<T>(p.v), w = as<T>(p.w), beta = as<T>(p.beta),
         gate = as<T>(p.log_gate);
    const auto view = [&](std::vector<T>& x, rw::index heads, rw::index channels) {
        return rw::heads_view<T>(x.data(), {p.batches, p.tokens, heads, channels});
    };
    std::vector<T> out(static_cast<std::size_t>(p.batches * p.tokens * p.heads * p.value_channels)),
        cache(k.size());
    std::vector<T> logits(static_cast<std::size_t>(p.batches * p.heads * p.tokens * p.tokens), T(5));
    path::attend_options<T> options{.block = block, .sequence_ends = ends, .logits = logits};
    if (gated) options.log_gate = gate;
    const auto ws = view(w, p.kv_heads, p.channels);
    const auto o = view(out, p.heads, p.value_channels);
    if (naive)
        path::attend_naive(view(q, p.heads, p.channels), view(k, p.kv_heads, p.channels),
                           view(v, p.kv_heads, p.value_channels), ws, beta, o, options);
    else
        path::attend(view(q, p.heads, p.channels), view(k, p.kv_heads, p.channels),
                     view(v, p.kv_heads, p.value_channels), ws, beta, o, options);
    path::fill_key_cache(view(k, p.kv_heads, p.channels), ws, beta, view(cache, p.kv_heads, p.channels),
                         options);
    return {widened(out), widened(logits), widened(cache)};
}

}  // namespace

TEST_CASE("path prefill: any block gives the product written out", "[path][prefill]") {
    const problem p(13, 2);
    const result want = run<double>(p, 1, {}, true, true);
    for (rw::index block : {1, 2, 3, 5, 8, 12, 13, 14, 64}) {
        const result got = run<double>(p, block);
        CHECK(worst(got.out, want.out) < 1e-12);
        CHECK(worst(got.logits, want.logits) < 1e-12);
        CHECK(worst(got.cache, run<double>(p, 4).cache) < 1e-12);
        const result narrow = run<float>(p, block);
        CHECK(worst(narrow.out, want.out) < 1e-4);
        CHECK(worst(narrow.logits, want.logits) < 1e-4);
        CHECK(worst(narrow.cache, got.cache) < 1e-4);
    }
}

TEST_CASE("path prefill: long sequences stay close to the definition", "[path][prefill]") {
    const problem p(300);
    const result want = run<double>(p, 1, {}, false, true);
    for (rw::index block : {16, 64}) {
        CHECK(worst(run<double>(p, block, {}, false).out, want.out) < 1e-12);
        CHECK(worst(run<float>(p, block, {}, false).out, want.out) < 1e-4);
    }
}

TEST_CASE("path prefill: the key cache is every key past all later tokens", "[path][prefill]") {
    const problem p(11);
    auto keys = p.k;  // by decode steps: update the earlier keys at every token
    const rw::heads_view<double> view(keys.data(), p.tokens, p.kv_heads, p.channels);
    for (rw::index t = 1; t < p.tokens; ++t) {
        const auto at = static_cast<std::size_t>(t * p.kv_heads);
        path::update_keys(view.token_slice(0, t),
                          {{p.w.data() + static_cast<rw::index>(at) * p.channels, 1, p.kv_heads, p.channels},
                           std::span(p.beta).subspan(at, static_cast<std::size_t>(p.kv_heads))});
    }
    for (rw::index block : {1, 4, 32}) CHECK(worst(run<double>(p, block).cache, keys) < 1e-13);
}

TEST_CASE("path prefill: sequences of a packed row do not see each other", "[path][prefill][ragged]") {
    const problem packed(13);
    const std::vector<rw::index> ends{4, 5, 13};
    const result got = run<double>(packed, 3, ends);
    const result naive = run<double>(packed, 3, ends, true, true);
    CHECK(worst(got.out, naive.out) < 1e-12);
    rw::index start = 0;
    for (rw::index end : ends) {
        problem alone = packed;
        alone.tokens = end - start;
        const auto cut = [&](std::vector<double>& x, rw::index each) {
            x = std::vector<double>(x.begin() + start * each, x.begin() + end * each);
        };
        cut(alone.q, 32), cut(alone.k, 16), cut(alone.v, 12), cut(alone.w, 16), cut(alone.beta, 2),
            cut(alone.log_gate, 4);
        const result one = run<double>(alone, 3);
        CHECK(one.out == std::vector<double>(got.out.begin() + start * 24, got.out.begin() + end * 24));
        CHECK(one.cache == std::vector<double>(got.cache.begin() + start * 16, got.cache.begin() + end * 16));
        for (rw::index h = 0; h < 4; ++h)
            for (rw::index i = start; i < end; ++i)
                for (rw::index j = 0; j < 13; ++j) {
                    const double logit = got.logits[static_cast<std::size_t>((h * 13 + i) * 13 + j)];
                    if (j < start || j > i) {
                        CHECK(logit == 0);
                    } else {
                        CHECK(logit == one.logits[static_cast<std::size_t>(
                                           (h * (end - start) + i - start) * (end - start) + j - start)]);
                    }
                }
        start = end;
    }
}

TEST_CASE("path prefill: beta 0 and w 0 are attention without positions, gates of 0 no gate",
          "[path][prefill][reduces]") {
    problem p(9);
    std::fill(p.beta.begin(), p.beta.end(), 0.0);
    const result none = run<double>(p, 4, {}, false);
    for (rw::index h = 0; h < p.heads; ++h)
        for (rw::index i = 0; i < 9; ++i)
            for (rw::index j = 0; j <= i; ++j) {
                double dot = 0;
                for (rw::index c = 0; c < 8; ++c)
                    dot += p.q[static_cast<std::size_t>((i * 4 + h) * 8 + c)] *
                           p.k[static_cast<std::size_t>((j * 2 + h / 2) * 8 + c)];
                CHECK(none.logits[static_cast<std::size_t>((h * 9 + i) * 9 + j)] ==
                      Approx(dot / std::sqrt(8.0)).margin(1e-14));
            }
    problem still(9);
    std::fill(still.w.begin(), still.w.end(), 0.0);
    CHECK(worst(run<double>(still, 4, {}, false).out, none.out) < 1e-14);
    problem open(9);
    std::fill(open.log_gate.begin(), open.log_gate.end(), 0.0);
    CHECK(run<double>(open, 4, {}, true).out == run<double>(open, 4, {}, false).out);
}

TEST_CASE("path prefill: a block beyond any sequence is one block", "[path][prefill]") {
    const problem p(10);
    const result want = run<double>(p, 64);
    for (rw::index block : {std::numeric_limits<rw::index>::max(), support::huge(62)}) {
        const result got = run<double>(p, block);
        CHECK(got.out == want.out);
        CHECK(got.logits == want.logits);
        CHECK(got.cache == want.cache);
    }
}

TEST_CASE("path prefill: a later token cannot reach an earlier query, NaN included", "[path][prefill]") {
    const problem clean(13);
    const result want = run<double>(clean, 4), naive = run<double>(clean, 4, {}, true, true);
    CHECK(worst(want.out, naive.out) < 1e-12);
    const auto poison = [](std::vector<double>& x, rw::index per_token, rw::index kv_head_width) {
        x[static_cast<std::size_t>(7 * per_token + kv_head_width)] = std::nan("");  // token 7, kv head 1
    };
    problem by_value(13), by_key(13), by_transform(13);
    poison(by_value.v, 12, 6);
    poison(by_key.k, 16, 8);
    poison(by_transform.w, 16, 8);
    for (const problem* p : {&by_value, &by_key, &by_transform})
        for (rw::index block : {1, 4, 64}) {
            const result got = run<double>(*p, block);
            for (rw::index n = 0; n < 13; ++n)
                for (rw::index h = 0; h < 4; ++h)
                    for (rw::index c = 0; c < 6; ++c) {
                        const auto at = static_cast<std::size_t>((n * 4 + h) * 6 + c);
                        const bool reached = n >= 7 && h >= 2 && (p != &by_value || c == 0);
                        if (!reached) CHECK(got.out[at] == Approx(want.out[at]).margin(1e-12));
                        // The transform of token 7 does not hit its own key, but all before it.
                        if (reached) CHECK(std::isnan(got.out[at]));
                    }
        }
}

TEST_CASE("path prefill: strided betas and gates, parts, and the log of the softmax sums",
          "[path][prefill]") {
    problem p(11, 2);
    const std::vector<rw::index> ends{3, 11};
    const result want = run<double>(p, 4, ends);
    // beta and gates as [batches, heads, tokens].
    const auto turned = [&](const std::vector<double>& x, rw::index heads) {
        std::vector<double> y(x.size());
        for (rw::index b = 0; b < 2; ++b)
            for (rw::index n = 0; n < 11; ++n)
                for (rw::index h = 0; h < heads; ++h)
                    y[static_cast<std::size_t>((b * heads + h) * 11 + n)] =
                        x[static_cast<std::size_t>((b * 11 + n) * heads + h)];
        return y;
    };
    auto beta = turned(p.beta, 2), gate = turned(p.log_gate, 4);
    const auto first = [](std::vector<double>& x, rw::index heads) {
        return rw::heads_view<double>::heads_first(x.data(), {2, 11, heads, 1});
    };
    const auto view = [](std::vector<double>& x, rw::index heads, rw::index channels) {
        return rw::heads_view<double>(x.data(), {2, 11, heads, channels});
    };
    for (rw::index parts : {1, 3, 8, 11}) {
        std::vector<double> out(want.out.size()), logits(want.logits.size(), 5), cache(want.cache.size()),
            log_weight(2 * 11 * 4), naive_weight(log_weight.size()), naive_out(out.size());
        path::attend_options<double> options{.block = 4, .log_gate = first(gate, 4), .sequence_ends = ends};
        for (rw::index part = 0; part < parts; ++part) {
            options.part = {parts, part};
            options.logits = logits;
            options.log_weight = log_weight;
            path::attend(view(p.q, 4, 8), view(p.k, 2, 8), view(p.v, 2, 6), view(p.w, 2, 8), first(beta, 2),
                         view(out, 4, 6), options);
            path::fill_key_cache(view(p.k, 2, 8), view(p.w, 2, 8), first(beta, 2), view(cache, 2, 8),
                                 options);
            options.logits = {};
            options.log_weight = naive_weight;
            path::attend_naive(view(p.q, 4, 8), view(p.k, 2, 8), view(p.v, 2, 6), view(p.w, 2, 8),
                               first(beta, 2), view(naive_out, 4, 6), options);
        }
        CHECK(out == want.out);
        CHECK(logits == want.logits);
        CHECK(cache == want.cache);
        CHECK(worst(naive_weight, log_weight) < 1e-12);
        for (rw::index b = 0; b < 2; ++b)
            for (rw::index h = 0; h < 4; ++h)
                for (rw::index n = 0; n < 11; ++n) {
                    double sum = 0;
                    for (rw::index j = n < 3 ? 0 : 3; j <= n; ++j)
                        sum +=
                            std::exp(want.logits[static_cast<std::size_t>(((b * 4 + h) * 11 + n) * 11 + j)]);
                    CHECK(log_weight[static_cast<std::size_t>((b * 11 + n) * 4 + h)] ==
                          Approx(std::log(sum)).margin(1e-13));
                }
    }
}

TEST_CASE("path prefill: what does not fit is refused with its value", "[path][prefill][errors]") {
    const auto with = [](auto change, rw::index block = 4, std::vector<rw::index> ends = {}) {
        problem p(5);
        change(p);
        return refusal([&] { run<double>(p, block, ends); });
    };
    CHECK(with([](problem& p) { p.beta[3] = 2.5; }) == "path::attend: beta must be in [0, 2], got 2.5");
    CHECK(with([](problem& p) { p.beta[0] = -0.25; }) == "path::attend: beta must be in [0, 2], got -0.25");
    CHECK(with([](problem& p) {
              p.beta[0] = std::nan("");
          }).starts_with("path::attend: beta must be in [0, 2], got"));
    CHECK(with([](problem& p) { p.beta.pop_back(); }) ==
          "path::attend: beta must hold batches * tokens * kv heads numbers, got 9");
    CHECK(with([](problem& p) { p.log_gate[1] = 0.5; }) ==
          "path::attend: log_gate must be <= 0 and finite, got 0.5");
    CHECK(with([](problem&) {}, 0) == "path::attend: block must be > 0, got 0");
    CHECK(with([](problem&) {}, 4, {3, 3, 5}) == "path::attend: sequence_ends must rise, got 3");
    CHECK(with([](problem&) {}, 4, {3}) == "path::attend: sequence_ends must end at the last token, got 3");
    CHECK(with([](problem& p) { p.kv_heads = 3; }) ==
          "path::attend: k.heads must be > 0 and divide q.heads, got 3");
    problem empty(0);
    CHECK(run<double>(empty, 4).out.empty());
}
