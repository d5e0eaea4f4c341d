// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_attention.hpp>
#include <ropewalk/compression/latent_attention.hpp>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"
#include "tests/support/malloc_count.hpp"
#include "tests/support/numbers.hpp"

namespace rw = ropewalk;

#if defined(TEST_COUNTS_MALLOC)
namespace {

using matrix = rw::latent_weights<float>::matrix;

matrix normal(rw::index rows, rw::index cols, unsigned seed) {
    return support::gaussian(rows, cols, seed).cast<float>();
}

}  // namespace

TEMPLATE_TEST_CASE("latent attention: prefill in both forms, decode and a reserved append allocate nothing",
                   "[compression][mla][memory]", float, rw::bf16, rw::f8_e4m3) {
    const rw::mla::config c{.hidden = 12,
                            .heads = 5,
                            .query_rank = 0,
                            .latent = 72,
                            .nope_dim = 20,
                            .rope_dim = 8,
                            .value_dim = 24};
    rw::latent_weights<float> w;
    w.wq = normal(c.heads * (c.nope_dim + c.rope_dim), c.hidden, 1);
    w.wkv_a = normal(c.latent + c.rope_dim, c.hidden, 2);
    w.key_norm.assign(std::size_t(c.latent), 1.f);
    w.wkv_b = normal(c.heads * (c.nope_dim + c.value_dim), c.latent, 3);
    rw::latent_attention<float> layer(c, w);
    rw::latent_cache<TestType> cache(c);
    cache.reserve(200);
    const rw::index tokens = 150;
    const matrix x = normal(tokens, c.hidden, 4), raw = x * w.wkv_a.transpose();
    const std::span<const float> norm(w.key_norm);
    const matrix queries = layer.make_queries(x, 0);
    matrix out(tokens, c.heads * c.value_dim), latents(2, c.heads * c.latent), joined(1, c.heads * c.latent);
    std::vector<float> log_weights(std::size_t(2 * c.heads));
    const matrix absorbed = layer.make_absorbed(queries.bottomRows(1));
    const std::size_t start = mallocs;
    cache.append(raw.data(), tokens, norm);
    CHECK(mallocs - start == 0);
    for (const auto form : {rw::latent_form::absorbed, rw::latent_form::expanded}) {
        std::vector<std::byte> workspace(std::size_t(layer.newest_workspace(cache, tokens, form)));
        const std::size_t before = mallocs;
        layer.attend_newest(queries.data(), cache, tokens, form, std::span(workspace), out.data());
        CHECK(mallocs - before == 0);
    }
    std::vector<std::byte> workspace(std::size_t(layer.attend_workspace()));
    const std::size_t before = mallocs;
    layer.attend(absorbed.data(), cache, tokens, joined.data());
    for (rw::index p = 0; p < 2; ++p)
        layer.attend_part(absorbed.data(), cache, tokens, {2, p}, workspace,
                          latents.data() + p * c.heads * c.latent, log_weights.data() + p * c.heads);
    layer.join_parts({latents.data(), std::size_t(latents.size())}, log_weights, joined.data());
    CHECK(mallocs - before == 0);
    layer.forward(x.topRows(1), cache);
    CHECK(mallocs > before);  // the count sees Eigen's matrices
}

TEMPLATE_TEST_CASE("elite attention: decode and a reserved append allocate nothing",
                   "[compression][elite][memory]", float, rw::bf16) {
    const rw::index heads = 6, kv_heads = 2, d = 12, hidden = 20, latent = 40;
    const std::vector<rw::index> elite{0, 4, 5, 1, 2, 3};
    rw::elite_weights<float> w{.layout = rw::elite_layout(elite, kv_heads, d)};
    w.queries = normal(heads * d, hidden, 1);
    w.rope_keys = normal(kv_heads * 6, hidden, 2);
    w.down = normal(latent, hidden, 3);
    w.up_keys = normal(kv_heads * w.layout.nope_channels(), latent, 4);
    w.up_values = normal(kv_heads * d, latent, 5);
    rw::elite_attention<float> layer(w, rw::frequencies::geometric({.rotary_dim = d}));
    auto cache = layer.make_cache<TestType>();
    cache.reserve(150);
    const auto raw = support::as<float>(support::noise(150 * cache.width(), 6)),
               absorbed = support::as<float>(support::noise(heads * (latent + 6), 7));
    std::vector<float> out(std::size_t(heads * latent));
    const std::size_t before = mallocs;
    cache.append(raw.data(), 149);
    cache.append(raw.data() + 149 * cache.width(), 1);
    layer.attend(absorbed.data(), cache, 150, out.data());
    CHECK(mallocs - before == 0);
    layer.forward(normal(1, hidden, 8), cache);
    CHECK(mallocs > before);
}
#endif
