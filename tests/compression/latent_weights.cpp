// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_weights.hpp>

#include <ropewalk/compression/latent_attention.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;

namespace {

rw::latent_weights<double> weights_of(const rw::mla::config& c) {
    const auto vector = [](rw::index n, unsigned seed) {
        const auto m = support::gaussian(n, 1, seed);
        return std::vector<double>(m.data(), m.data() + n);
    };
    rw::latent_weights<double> w;
    const rw::index queries = c.heads * (c.nope_dim + c.rope_dim);
    if (c.query_rank == 0) {
        w.wq = support::gaussian(queries, c.hidden, 1);
    } else {
        w.wq_a = support::gaussian(c.query_rank, c.hidden, 2);
        w.wq_b = support::gaussian(queries, c.query_rank, 3);
        w.query_norm = vector(c.query_rank, 4);
    }
    w.wkv_a = support::gaussian(c.latent + c.rope_dim, c.hidden, 5);
    w.key_norm = vector(c.latent, 6);
    w.wkv_b = support::gaussian(c.heads * (c.nope_dim + c.value_dim), c.latent, 7);
    return w;
}

}  // namespace

TEST_CASE("latent_weights: the factors' product is the score at one position, up to the norms",
          "[compression][mla]") {
    for (const rw::index rank : {0, 7}) {
        rw::mla::config c{.hidden = 12,
                          .heads = 3,
                          .query_rank = rank,
                          .latent = 10,
                          .nope_dim = 6,
                          .rope_dim = 4,
                          .value_dim = 5,
                          .max_context = 16,
                          .rms_epsilon = 0};
        const auto w = weights_of(c);
        const rw::latent_attention<double> layer(c, w, 1.0);
        const Eigen::MatrixXd x = support::gaussian(1, c.hidden, 8);
        rw::latent_cache<double> cache(c);
        std::vector<double> scores(3);
        layer.forward_naive(x, cache, std::span<double>(scores));
        // What the norms divide by.
        const auto size = [](const Eigen::MatrixXd& v) {
            return std::sqrt(v.squaredNorm() / static_cast<double>(v.size()));
        };
        const double query = rank == 0 ? 1 : size(w.wq_a * x.transpose());
        const double key = size(w.wkv_a.topRows(c.latent) * x.transpose());
        for (rw::index h = 0; h < c.heads; ++h) {
            const auto content = rw::make_content_factors(c, w, h), rotary = rw::make_rotary_factors(c, w, h);
            const double want = ((x * content.q) * (x * content.k).transpose())(0, 0) / query / key +
                                ((x * rotary.q) * (x * rotary.k).transpose())(0, 0) / query;
            CHECK(scores[std::size_t(h)] == Approx(want).epsilon(1e-11));
        }
    }
}

TEST_CASE("latent_weights: a head that is not there, weights of other shapes", "[compression][mla][errors]") {
    const rw::mla::config c{.hidden = 12,
                            .heads = 3,
                            .query_rank = 7,
                            .latent = 10,
                            .nope_dim = 6,
                            .rope_dim = 4,
                            .value_dim = 5};
    auto w = weights_of(c);
    CHECK_THROWS_WITH(rw::make_content_factors(c, w, 3),
                      ContainsSubstring("make_content_factors: head must be one of the config's, got 3"));
    w.query_norm.pop_back();
    CHECK_THROWS_WITH(rw::make_rotary_factors(c, w, 0),
                      ContainsSubstring("query_norm must be [query_rank]: wanted 7, got 6"));
    w = weights_of(c);
    w.wkv_b.conservativeResize(4, 10);
    CHECK_THROWS_WITH(rw::make_content_factors(c, w, 0), ContainsSubstring("wkv_b must be"));
}
