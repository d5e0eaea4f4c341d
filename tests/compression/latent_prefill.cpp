// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_attention.hpp>

#include <cmath>
#include <limits>
#include <thread>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using rw::latent_form;

namespace {

template <class T>
using matrix = typename rw::latent_weights<T>::matrix;

template <class T>
matrix<T> gaussian(rw::index rows, rw::index cols, unsigned seed) {
    return support::gaussian(rows, cols, seed).template cast<T>();
}

template <class T>
rw::latent_attention<T> layer_of(const rw::mla::config& c) {
    rw::latent_weights<T> w;
    w.wq = gaussian<T>(c.heads * (c.nope_dim + c.rope_dim), c.hidden, 1);
    w.wkv_a = gaussian<T>(c.latent + c.rope_dim, c.hidden, 5);
    w.key_norm.assign(std::size_t(c.latent), T(1));
    w.wkv_b = gaussian<T>(c.heads * (c.nope_dim + c.value_dim), c.latent, 7);
    return {c, w, 0.05};
}

// No whole registers, and whole ones.
const rw::mla::config odd{
    .hidden = 12, .heads = 5, .query_rank = 0, .latent = 18, .nope_dim = 4, .rope_dim = 8, .value_dim = 9};
const rw::mla::config whole{
    .hidden = 12, .heads = 4, .query_rank = 0, .latent = 32, .nope_dim = 16, .rope_dim = 8, .value_dim = 16};

/// One call in `parts` parts, each in a workspace of its own size.
template <class T, class E>
matrix<T> in_parts(const rw::latent_attention<T>& layer, const matrix<T>& queries,
                   const rw::latent_cache<E>& cache, latent_form form, rw::index parts) {
    const rw::index tokens = queries.rows();
    matrix<T> out = matrix<T>::Constant(tokens, layer.sizes().heads * layer.sizes().value_dim, T(NAN));
    std::vector<std::byte> workspace(std::size_t(layer.newest_workspace(cache, tokens, form)));
    for (rw::index p = 0; p < parts; ++p)
        REQUIRE(layer.attend_newest(queries.data(), cache, tokens, form, std::span(workspace), out.data(),
                                    {parts, p}));
    return out;
}

}  // namespace

TEST_CASE("latent_prefill: both forms are the naive reading, and no bit depends on the split",
          "[compression][mla]") {
    for (const auto& c : {odd, whole})
        for (const rw::index cached : {0, 50})
            for (const rw::index tokens : {1, 2, 7, 49, 130}) {
                CAPTURE(c.latent, cached, tokens);
                const auto layer = layer_of<double>(c);
                const auto before = gaussian<double>(cached, c.hidden, 20),
                           x = gaussian<double>(tokens, c.hidden, 21);
                rw::latent_cache<double> cache(c), plain(c);
                layer.append(before, cache), layer.append(before, plain);
                const auto want = layer.forward_naive(x, plain);
                const auto queries = layer.make_queries(x, cached);
                layer.append(x, cache);
                for (const auto form : {latent_form::absorbed, latent_form::expanded}) {
                    const auto once = in_parts(layer, queries, cache, form, 1);
                    CHECK((once - want).cwiseAbs().maxCoeff() < 1e-12 * want.cwiseAbs().maxCoeff());
                    for (const rw::index parts : {2, 3, 8})
                        CHECK(in_parts(layer, queries, cache, form, parts) == once);
                }
            }
}

TEST_CASE("latent_prefill: parts on threads of their own", "[compression][mla]") {
    const auto layer = layer_of<float>(whole);
    const auto x = gaussian<float>(70, whole.hidden, 21);
    rw::latent_cache<rw::bf16> cache(whole);
    layer.append(x, cache);
    const auto queries = layer.make_queries(x, 0);
    for (const auto form : {latent_form::absorbed, latent_form::expanded}) {
        const auto once = in_parts(layer, queries, cache, form, 1);
        matrix<float> out = matrix<float>::Zero(once.rows(), once.cols());
        std::vector<std::thread> threads;
        for (rw::index p = 0; p < 3; ++p)
            threads.emplace_back([&, p] {
                std::vector<std::byte> workspace(std::size_t(layer.newest_workspace(cache, 70, form)));
                layer.attend_newest(queries.data(), cache, 70, form, std::span(workspace), out.data(),
                                    {3, p});
            });
        for (auto& t : threads) t.join();
        CHECK(out == once);
    }
}

TEST_CASE("latent_prefill: a newer token's NaN does not reach an older one", "[compression][mla]") {
    for (const auto form : {latent_form::absorbed, latent_form::expanded}) {
        const auto layer = layer_of<double>(odd);
        auto x = gaussian<double>(60, odd.hidden, 21);
        rw::latent_cache<double> clean(odd), poisoned(odd);
        const auto want = layer.forward(x, clean, form);
        x(41, 3) = NAN;
        const auto got = layer.forward(x, poisoned, form);
        CHECK((got.topRows(41) - want.topRows(41)).cwiseAbs().maxCoeff() < 1e-13);
        CHECK(got.bottomRows(19).array().isNaN().all());
    }
}

TEST_CASE("latent_prefill: what does not fit is told, and nothing is written", "[compression][mla][errors]") {
    const auto layer = layer_of<double>(odd);
    rw::latent_cache<double> cache(odd);
    layer.append(gaussian<double>(3, odd.hidden, 21), cache);
    CHECK(layer.newest_workspace(cache, 3, latent_form::expanded) > 0);
    CHECK_THROWS_WITH(
        layer.newest_workspace(cache, std::numeric_limits<rw::index>::max() / 2, latent_form::absorbed),
        ContainsSubstring("must fit"));
}
