// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_attention.hpp>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"
#include "tests/support/plain_attention.hpp"

namespace rw = ropewalk;
using rw::latent_form;

namespace {

constexpr rw::index d = 12, hidden = 20;

struct sizes {
    rw::index heads, kv_heads, rounds, latent;
};

const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 50});

rw::elite_layout layout_of(const sizes& s) {
    std::vector<rw::index> elite;
    for (rw::index h = 0; h < s.kv_heads; ++h)
        for (rw::index i = 0; i < s.rounds; ++i) elite.push_back((i + h) % (d / 2));
    return {elite, s.kv_heads, d};
}

/// Any factors will do: the effective weights are what they stand for.
template <class T>
rw::elite_weights<T> weights_of(const sizes& s) {
    rw::elite_weights<T> w{.layout = layout_of(s)};
    const auto normal = [](rw::index rows, rw::index cols, unsigned seed) {
        return typename rw::elite_weights<T>::matrix(
            (0.4 * support::gaussian(rows, cols, seed)).template cast<T>());
    };
    w.queries = normal(s.heads * d, hidden, 1);
    w.rope_keys = normal(s.kv_heads * 2 * s.rounds, hidden, 2);
    w.down = normal(s.latent, hidden, 3);
    w.up_keys = normal(s.kv_heads * w.layout.nope_channels(), s.latent, 4);
    w.up_values = normal(s.kv_heads * d, s.latent, 5);
    return w;
}

/// Plain attention over the keys and values that the cache stands for.
Eigen::MatrixXd plain(const rw::elite_weights<double>& w, const Eigen::MatrixXd& x, rw::index heads) {
    using matrix = rw::elite_weights<double>::matrix;
    matrix q = x * w.queries.transpose(), k = x * w.effective_keys().transpose(),
           v = x * w.effective_values().transpose(), out(x.rows(), heads * d);
    const rw::index tokens = x.rows(), kv = w.layout.heads();
    const rw::heads_view<double> qv(q.data(), tokens, heads, d), keys(k.data(), tokens, kv, d);
    const auto where = rw::position_ids::text(tokens);
    if (w.layout.count() > 0)
        for (const auto& view : {qv, keys}) {
            const auto rope = w.layout.scheme(omega, view.heads());
            rw::rotate(rope, view, rw::make_rotation_table<double>(rope.spectrum_for(1), where));
        }
    support::plain_attend(qv, keys, rw::heads_view<double>(v.data(), tokens, kv, d),
                          rw::heads_view<double>(out.data(), tokens, heads, d), {.causal = true});
    return out;
}

const sizes all_sizes[] = {{4, 4, 2, 7}, {6, 2, 3, 16}, {5, 1, 1, 3},
                           {2, 2, 0, 9}, {3, 3, 6, 5},  {16, 16, 2, 33}};

}  // namespace

TEST_CASE("elite_attention: both forms are attention over the effective weights, prefill, chunks and decode",
          "[compression][elite]") {
    for (const sizes& s : all_sizes) {
        CAPTURE(s.heads, s.kv_heads, s.rounds, s.latent);
        const rw::elite_attention<double> layer(weights_of<double>(s), omega);
        const Eigen::MatrixXd x = support::gaussian(70, hidden, 6);
        const Eigen::MatrixXd want = plain(layer.weights(), x, s.heads);
        const double bound = 1e-12 * std::max(1.0, want.cwiseAbs().maxCoeff());
        for (const auto form : {latent_form::absorbed, latent_form::expanded}) {
            auto whole = layer.make_cache<double>(), chunks = whole;
            CHECK((layer.forward(x, whole, form) - want).cwiseAbs().maxCoeff() < bound);
            rw::index first = 0;
            for (const rw::index count : {1, 2, 40, 27}) {
                const auto out = layer.forward(x.middleRows(first, count), chunks, form);
                CHECK((out - want.middleRows(first, count)).cwiseAbs().maxCoeff() < bound);
                first += count;
            }
            REQUIRE(first == 70);
        }
        auto stepwise = layer.make_cache<double>();
        for (rw::index n = 0; n < 70; ++n)
            CHECK((layer.forward(x.row(n), stepwise) - want.row(n)).cwiseAbs().maxCoeff() < bound);
    }
}

TEST_CASE("elite_attention: the hot call is a step of forward", "[compression][elite]") {
    const sizes s{6, 2, 3, 16};
    rw::elite_attention<double> layer(weights_of<double>(s), omega);
    auto cache = layer.make_cache<double>(), again = cache;
    const Eigen::MatrixXd x = support::gaussian(40, hidden, 6);
    layer.append(x, cache), layer.append(x.topRows(39), again);
    const auto absorbed = layer.make_absorbed(layer.make_queries(x.bottomRows(1), 39));
    rw::elite_weights<double>::matrix out(1, s.heads * s.latent);
    REQUIRE(layer.attend(absorbed.data(), cache, 40, out.data()));
    CHECK((layer.make_values(out) - layer.forward(x.bottomRows(1), again, latent_form::absorbed))
              .cwiseAbs()
              .maxCoeff() < 1e-13);
}

TEST_CASE("elite_attention: f32 and bf16 caches within their rounding", "[compression][elite]") {
    const sizes s{6, 2, 3, 16};
    const Eigen::MatrixXd x = support::gaussian(50, hidden, 6);
    const rw::elite_attention<float> layer(weights_of<float>(s), omega);
    const auto want = plain(weights_of<double>(s), x, s.heads);
    const double size = want.cwiseAbs().maxCoeff();
    const auto error = [&](auto cache) {
        return (layer.forward(x.cast<float>(), cache).template cast<double>() - want).cwiseAbs().maxCoeff() /
               size;
    };
    CHECK(error(layer.make_cache<float>()) < 1e-5);
    CHECK(error(layer.make_cache<rw::bf16>()) < 3e-2);
    CHECK(error(layer.make_cache<rw::bf16>()) > 1e-4);
}

TEST_CASE("elite_attention: what is refused, and how it says so", "[compression][elite][errors]") {
    const sizes s{6, 2, 3, 16};
    const auto make = [](rw::elite_weights<double> w, std::optional<double> scale = {}) {
        return rw::elite_attention<double>(std::move(w), omega, scale);
    };
    auto w = weights_of<double>(s);
    w.queries.conservativeResize(30, hidden);
    CHECK_THROWS_WITH(make(w),
                      ContainsSubstring("elite_attention: queries must be") && ContainsSubstring("got 30"));
    w = weights_of<double>(s);
    w.up_keys.conservativeResize(3, 16);
    CHECK_THROWS_WITH(
        make(w),
        ContainsSubstring("up_keys must be [kv heads * nope, latent]: wanted [12, 16], got [3, 16]"));
    CHECK_THROWS_WITH(make(weights_of<double>(s), std::nan("")), ContainsSubstring("scale must be finite"));
    const auto layer = make(weights_of<double>(s));
    rw::elite_cache<double> other(layout_of({6, 2, 2, 16}), omega, 16), narrow(layout_of(s), omega, 15);
    const Eigen::MatrixXd x = support::gaussian(2, hidden, 6);
    CHECK_THROWS_WITH(layer.append(x, other),
                      ContainsSubstring("cache must have the layer's layout, pairs a head, got 2"));
    CHECK_THROWS_WITH(layer.append(x, narrow),
                      ContainsSubstring("cache must have the layer's latent: wanted 16, got 15"));
    auto cache = layer.make_cache<double>();
    CHECK_THROWS_WITH(layer.forward(support::gaussian(2, 3, 1), cache),
                      ContainsSubstring("x must be [tokens, hidden]: wanted 20, got 3"));
    CHECK(cache.tokens() == 0);
    CHECK(layer.forward(support::gaussian(0, hidden, 1), cache).rows() == 0);
}
