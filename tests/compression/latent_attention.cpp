// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_attention.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;

namespace {

template <class T>
typename rw::latent_weights<T>::matrix gaussian(rw::index rows, rw::index cols, unsigned seed) {
    return support::gaussian(rows, cols, seed).template cast<T>();
}

template <class T>
std::vector<T> noise(rw::index count, unsigned seed) {
    const auto m = gaussian<T>(count, 1, seed);
    return {m.data(), m.data() + count};
}

template <class T>
rw::latent_weights<T> weights_of(const rw::mla::config& c) {
    const rw::index queries = c.heads * (c.nope_dim + c.rope_dim);
    rw::latent_weights<T> w;
    if (c.query_rank == 0) {
        w.wq = gaussian<T>(queries, c.hidden, 1);
    } else {
        w.wq_a = gaussian<T>(c.query_rank, c.hidden, 2);
        w.wq_b = gaussian<T>(queries, c.query_rank, 3);
        w.query_norm = noise<T>(c.query_rank, 4);
    }
    w.wkv_a = gaussian<T>(c.latent + c.rope_dim, c.hidden, 5);
    w.key_norm = noise<T>(c.latent, 6);
    w.wkv_b = gaussian<T>(c.heads * (c.nope_dim + c.value_dim), c.latent, 7);
    return w;
}

const rw::mla::config direct{
    .hidden = 12, .heads = 3, .query_rank = 0, .latent = 10, .nope_dim = 6, .rope_dim = 4, .value_dim = 5};
const rw::mla::config low{
    .hidden = 12, .heads = 5, .query_rank = 7, .latent = 18, .nope_dim = 4, .rope_dim = 8, .value_dim = 9};

}  // namespace

TEST_CASE("latent_attention: absorbed and naive agree, prefill and decode", "[compression][mla]") {
    for (const auto& c : {direct, low}) {
        rw::latent_attention<double> layer(c, weights_of<double>(c));
        const auto x = gaussian<double>(70, c.hidden, 8);
        rw::latent_cache<double> a(c), b(c), stepwise(c);
        const auto absorbed = layer.forward(x, a);
        const auto naive = layer.forward_naive(x, b);
        CHECK((absorbed - naive).cwiseAbs().maxCoeff() < 1e-12 * naive.cwiseAbs().maxCoeff());
        for (rw::index n = 0; n < 70; ++n) {
            const auto one = layer.forward(x.row(n), stepwise);
            CHECK((one - absorbed.row(n)).cwiseAbs().maxCoeff() < 1e-12 * naive.cwiseAbs().maxCoeff());
        }
        CHECK(stepwise.tokens() == 70);
        CHECK(a.width() == c.latent + c.rope_dim);
    }
}

TEST_CASE("latent_attention: the scores of a later chunk are 0 where a key is newer than its query",
          "[compression][mla]") {
    rw::latent_attention<double> layer(low, weights_of<double>(low));
    const auto x = gaussian<double>(6, low.hidden, 8);
    rw::latent_cache<double> once(low), chunks(low);
    std::vector<double> whole(5 * 6 * 6, NAN), late(5 * 4 * 6, NAN);
    layer.forward_naive(x, once, std::span(whole));
    layer.forward_naive(x.topRows(2), chunks);
    layer.forward_naive(x.bottomRows(4), chunks, std::span(late));
    for (std::size_t h = 0; h < 5; ++h)
        for (std::size_t n = 0; n < 4; ++n)
            for (std::size_t j = 0; j < 6; ++j) {
                INFO(h << ' ' << n << ' ' << j);
                const double score = late[(h * 4 + n) * 6 + j];
                CHECK(score == Approx(whole[(h * 6 + 2 + n) * 6 + j]).epsilon(1e-12));
                CHECK((score == 0) == (j > 2 + n));
            }
}

TEST_CASE("latent_attention: single precision and 16-bit caches", "[compression][mla]") {
    rw::latent_attention<double> wide(low, weights_of<double>(low));
    rw::latent_attention<float> narrow(low, weights_of<float>(low), 0.05);
    const auto x = gaussian<double>(20, low.hidden, 8);
    rw::latent_attention<double> same_scale(low, weights_of<double>(low), 0.05);
    rw::latent_cache<double> a(low);
    rw::latent_cache<float> b(low);
    rw::latent_cache<rw::bf16> c(low);
    const auto want = same_scale.forward(x, a);
    const double size = want.cwiseAbs().maxCoeff();
    const rw::latent_weights<float>::matrix xf = x.cast<float>();
    CHECK((narrow.forward(xf, b).cast<double>() - want).cwiseAbs().maxCoeff() < 1e-4 * size);
    CHECK((narrow.forward(xf, c).cast<double>() - want).cwiseAbs().maxCoeff() < 0.2 * size);
}

TEST_CASE("latent_attention: the factor of YaRN is in the logits", "[compression][mla]") {
    auto plain = direct;
    plain.max_context = plain.original_context;
    const rw::latent_attention<double> a(direct, weights_of<double>(direct)),
        b(plain, weights_of<double>(plain));
    const double m = 0.1 * std::log(40.0) + 1;
    CHECK(a.softmax_scale() / b.softmax_scale() == Approx(m * m).epsilon(1e-14));
    CHECK(b.softmax_scale() == Approx(1 / std::sqrt(10.0)).epsilon(1e-15));
}

TEST_CASE("latent_attention: a cache of another config is refused before anything is read",
          "[compression][mla][errors]") {
    rw::latent_attention<double> layer(low, weights_of<double>(low));
    const auto x = gaussian<double>(3, low.hidden, 8);
    const auto refused = [&](const rw::mla::config& c, const char* parameter) {
        rw::latent_cache<double> other(c);
        CHECK_THROWS_WITH(layer.append(x, other),
                          ContainsSubstring("latent_attention::append") && ContainsSubstring(parameter));
        CHECK_THROWS_WITH(layer.forward(x, other),
                          ContainsSubstring("::forward: ") && ContainsSubstring(parameter));
        CHECK_THROWS_WITH(layer.forward_naive(x, other),
                          ContainsSubstring("forward_naive") && ContainsSubstring(parameter));
        CHECK(other.tokens() == 0);
    };
    auto c = low;
    c.latent = 4096;
    refused(c, "layer's latent: wanted 18, got 4096");
    c = low;
    c.rope_dim = 4096;
    refused(c, "layer's rope_dim: wanted 8, got 4096");
    c = low;
    std::swap(c.latent, c.rope_dim);  // the same width
    refused(c, "layer's latent: wanted 18, got 8");
    c = low;
    c.base = 5e5;
    refused(c, "must have the frequencies of the layer");
    c = low;
    c.factor = 8;
    refused(c, "must have the frequencies of the layer");
    c = low;
    c.rms_epsilon = 1e-5;
    refused(c, "layer's rms_epsilon: wanted 1e-06, got 1e-05");
    // What has no say in the cache may differ.
    c = low;
    c.heads = 1;
    c.value_dim = 3;
    rw::latent_cache<double> alike(c);
    CHECK(layer.forward(x, alike).rows() == 3);

    std::vector<double> scores(7);
    rw::latent_cache<double> cache(low);
    CHECK_THROWS_WITH(layer.forward_naive(x, cache, std::span<double>(scores)),
                      ContainsSubstring("scores must hold"));
    CHECK(cache.tokens() == 0);
}

TEST_CASE("latent_attention: the norm of low-rank queries takes their size away", "[compression][mla]") {
    auto c = low;
    c.rms_epsilon = 0;
    auto weights = weights_of<double>(c);
    const auto x = gaussian<double>(9, c.hidden, 8);
    rw::latent_cache<double> a(c), b(c);
    const auto want = rw::latent_attention<double>(c, weights).forward(x, a);
    weights.wq_a *= 4;  // exact
    CHECK(rw::latent_attention<double>(c, weights).forward(x, b) == want);
}

TEST_CASE("latent_attention: what is refused, and how it says so", "[compression][mla][errors]") {
    using layer = rw::latent_attention<double>;
    auto w = weights_of<double>(direct);
    w.wkv_b = gaussian<double>(4, 10, 1);
    CHECK_THROWS_WITH(
        layer(direct, w),
        ContainsSubstring("wkv_b must be [heads * (nope + value), latent]: wanted [33, 10], got [4, 10]"));
    w = weights_of<double>(direct);
    w.key_norm.pop_back();
    CHECK_THROWS_WITH(layer(direct, w), ContainsSubstring("key_norm must be [latent]: wanted 10, got 9"));
    CHECK_THROWS_WITH(layer(low, weights_of<double>(direct)),
                      ContainsSubstring("wq_a must be [query_rank, hidden]"));
    CHECK_THROWS_WITH(layer(direct, weights_of<double>(direct), std::nan("")),
                      ContainsSubstring("softmax_scale"));
    layer good(direct, weights_of<double>(direct));
    rw::latent_cache<double> cache(direct);
    CHECK_THROWS_WITH(good.append(gaussian<double>(2, 13, 1), cache),
                      ContainsSubstring("[tokens, hidden]: wanted 12, got 13"));
    CHECK_THROWS_WITH(good.make_queries(gaussian<double>(2, 12, 1), -1),
                      ContainsSubstring("first must be >= 0, got -1"));
    CHECK_THROWS_WITH(good.make_values(gaussian<double>(2, 12, 1)), ContainsSubstring("heads * latent"));
    CHECK_THROWS_WITH(good.make_absorbed(gaussian<double>(2, 12, 1)),
                      ContainsSubstring("heads * (nope + rope)"));
    CHECK_THROWS_WITH(cache.shift(0, 1, 1), ContainsSubstring("count must be 0 to the cached tokens, got 1"));
    CHECK_THROWS_WITH(cache.erase(0, 1), ContainsSubstring("latent_cache::erase: count must be"));
    CHECK_THROWS_WITH(cache.shift(0, 0, INFINITY), ContainsSubstring("distance must be finite"));
    CHECK_THROWS_WITH(cache.append(nullptr, 0, noise<double>(3, 1)),
                      ContainsSubstring("norm must be [latent]: wanted 10, got 3"));
    CHECK_THROWS_WITH(rw::latent_cache<>({.latent = 0}),
                      ContainsSubstring("mla: latent must be 1 to 2^30, got 0"));
    CHECK(good.forward(gaussian<double>(0, 12, 1), cache).rows() == 0);
}

TEST_CASE("latent_cache: dropping the oldest tokens and moving the rest keeps attention relative",
          "[compression][mla]") {
    rw::latent_attention<double> layer(low, weights_of<double>(low));
    const auto x = gaussian<double>(12, low.hidden, 12);
    rw::latent_cache<double> whole(low), fresh(low);
    layer.forward(x, whole);
    whole.erase(0, 4);
    whole.shift(0, 8, -4);
    const rw::latent_weights<double>::matrix rest = x.bottomRows(8);
    layer.forward(rest, fresh);
    REQUIRE(whole.tokens() == 8);
    for (rw::index n = 0; n < 8; ++n)
        for (rw::index c = 0; c < whole.width(); ++c)
            CHECK(whole.keys().at(0, n, 0)[c] == Approx(fresh.keys().at(0, n, 0)[c]).margin(1e-13));
    const rw::latent_weights<double>::matrix next = gaussian<double>(1, low.hidden, 13);
    CHECK((layer.forward(next, whole) - layer.forward(next, fresh)).cwiseAbs().maxCoeff() < 1e-11);
}

TEST_CASE("latent_cache: without an epsilon a latent of zeros stays zeros", "[compression][mla]") {
    auto c = low;
    c.rms_epsilon = 0;
    rw::latent_attention<double> layer(c, weights_of<double>(c));
    rw::latent_cache<double> cache(c);
    const rw::latent_weights<double>::matrix zeros = rw::latent_weights<double>::matrix::Zero(2, c.hidden);
    const auto out = layer.forward(zeros, cache);
    CHECK(out.cwiseAbs().maxCoeff() == 0);
    for (rw::index i = 0; i < c.latent; ++i) CHECK(cache.latents().at(0, 0, 0)[i] == 0);
}

TEST_CASE("latent_attention: both forms give the same, whatever stands in the cache", "[compression][mla]") {
    for (const auto& c : {direct, low})
        for (const rw::index cached : {0, 1, 65})
            for (const rw::index tokens : {1, 2, 7, 70}) {
                CAPTURE(cached, tokens);
                const rw::latent_attention<double> layer(c, weights_of<double>(c));
                const auto before = gaussian<double>(cached, c.hidden, 20),
                           x = gaussian<double>(tokens, c.hidden, 21);
                rw::latent_cache<double> a(c), b(c), naive(c);
                for (auto* each : {&a, &b, &naive}) layer.append(before, *each);
                const auto want = layer.forward_naive(x, naive);
                const double bound = 1e-12 * want.cwiseAbs().maxCoeff();
                CHECK((layer.forward(x, a, rw::latent_form::absorbed) - want).cwiseAbs().maxCoeff() < bound);
                CHECK((layer.forward(x, b, rw::latent_form::expanded) - want).cwiseAbs().maxCoeff() < bound);
            }
}

TEST_CASE("latent_attention: parts of the keys join to one decode step", "[compression][mla]") {
    const rw::index tokens = 131;
    rw::latent_attention<double> layer(low, weights_of<double>(low));
    rw::latent_cache<double> cache(low);
    layer.append(gaussian<double>(tokens, low.hidden, 22), cache);
    const auto absorbed =
        layer.make_absorbed(layer.make_queries(gaussian<double>(1, low.hidden, 23), tokens - 1));
    const auto numbers = static_cast<std::size_t>(low.heads * low.latent);
    std::vector<double> whole(numbers), joined(numbers);
    std::vector<std::byte> workspace(std::size_t(layer.attend_workspace()));
    for (const rw::index seen : {tokens, rw::index{3}, rw::index{0}}) {
        REQUIRE(layer.attend(absorbed.data(), cache, seen, whole.data()));
        for (const rw::index parts : {1, 2, 3, 7}) {
            std::vector<double> outs(std::size_t(parts) * numbers), weights(std::size_t(parts * low.heads));
            for (rw::index p = 0; p < parts; ++p)
                REQUIRE(layer.attend_part(absorbed.data(), cache, seen, {parts, p}, workspace,
                                          outs.data() + std::size_t(p) * numbers,
                                          weights.data() + p * low.heads));
            REQUIRE(layer.join_parts(outs, weights, joined.data()));
            for (std::size_t i = 0; i < numbers; ++i) CHECK(joined[i] == Approx(whole[i]).margin(1e-13));
        }
    }
}

TEST_CASE("latent_attention: 8-bit latents, both forms, within the codes' steps", "[compression][mla]") {
    const rw::latent_attention<float> layer(low, weights_of<float>(low), 0.05);
    const auto x = gaussian<float>(40, low.hidden, 24);
    rw::latent_cache<float> exact(low);
    rw::latent_cache<rw::f8_e4m3> codes(low, 0.02f), again(low, 0.02f);
    const auto want = layer.forward(x, exact);
    const auto absorbed = layer.forward(x, codes, rw::latent_form::absorbed),
               expanded = layer.forward(x, again, rw::latent_form::expanded);
    const float size = want.cwiseAbs().maxCoeff();
    CHECK((absorbed - expanded).cwiseAbs().maxCoeff() < 1e-4f * size);  // the same codes
    CHECK((absorbed - want).cwiseAbs().maxCoeff() < 0.2f * size);
    CHECK((absorbed - want).cwiseAbs().maxCoeff() > 1e-4f * size);
}
