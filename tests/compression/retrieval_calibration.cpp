// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/retrieval_calibration.hpp>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/schemes/fixed_scheme.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using support::gaussian;

namespace {

rw::rotary_scheme plain_scheme(rw::index d) {
    return rw::make_fixed_scheme({.head_dim = d}, rw::frequencies::geometric({.rotary_dim = d}));
}
std::vector<float> noise(rw::index count, unsigned seed) {
    const Eigen::VectorXf x = gaussian(count, 1, seed).cast<float>();
    return {x.data(), x.data() + count};
}

}  // namespace

TEST_CASE("retrieval_calibration: a kv head's queries at the far position, its keys as they are",
          "[compression][retrieval]") {
    const rw::index batches = 2, tokens = 30, kv_heads = 2, group = 3, d = 8;
    auto q = noise(batches * tokens * kv_heads * group * d, 1), k = noise(batches * tokens * kv_heads * d, 2);
    const rw::heads_view queries(q.data(), rw::heads_shape{batches, tokens, kv_heads * group, d});
    const rw::heads_view keys(k.data(), rw::heads_shape{batches, tokens, kv_heads, d});
    const auto rope = plain_scheme(d);
    const rw::codebook_options book{.codewords = 9, .seed = 4};
    const auto made = rw::make_retrieval_quantizers<double>(queries, keys, rope,
                                                            {.relative_position = 70, .codebook = book});
    REQUIRE(made.size() == 2);
    // By hand: angle 70 * omega for every query, in the half-split layout.
    const auto omega = rope.spectrum_for(1);
    for (rw::index kv = 0; kv < kv_heads; ++kv) {
        Eigen::MatrixXd far(batches * tokens * group, d), own(batches * tokens, d);
        rw::index line = 0;
        for (rw::index g = 0; g < group; ++g)
            for (rw::index b = 0; b < batches; ++b)
                for (rw::index n = 0; n < tokens; ++n, ++line)
                    for (rw::index i = 0; i < d / 2; ++i) {
                        const float* from = queries.at(b, n, kv * group + g);
                        const double c = std::cos(70 * omega.omega(i)), s = std::sin(70 * omega.omega(i));
                        const double x = double(from[i]), y = double(from[i + d / 2]);
                        far(line, i) = x * c - y * s;
                        far(line, i + d / 2) = x * s + y * c;
                    }
        for (rw::index b = 0; b < batches; ++b)
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index i = 0; i < d; ++i) own(b * tokens + n, i) = double(keys.at(b, n, kv)[i]);
        const auto metric = rw::make_query_metric(far);
        const auto want = rw::make_codebook<double>(own, metric, book).quantizer(metric);
        CHECK((made[std::size_t(kv)].key_codewords() - want.key_codewords()).norm() < 1e-9);
        const auto shared = rw::make_retrieval_quantizers<double>(
            queries, keys, rope, {.relative_position = 70, .codebook = book, .part = {3, kv}});
        REQUIRE(shared.size() == 1);
        CHECK(shared[0].key_codewords() == made[std::size_t(kv)].key_codewords());
    }
    CHECK(rw::make_retrieval_quantizers<double>(queries, keys, rope, {.codebook = book, .part = {3, 2}})
              .empty());
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers<double>(queries, keys, rope, {.part = {3, 3}}),
                      ContainsSubstring("part must be one of parts, got 3"));
}

TEST_CASE("retrieval_calibration: the far position matters, the storage format does not",
          "[compression][retrieval]") {
    const rw::index tokens = 60, d = 8;
    const auto wide_q = noise(tokens * d, 3), wide_k = noise(tokens * d, 4);
    const std::vector<rw::bf16> q(wide_q.begin(), wide_q.end()), k(wide_k.begin(), wide_k.end());
    std::vector<float> rounded_q, rounded_k;
    for (rw::bf16 x : q) rounded_q.push_back(float(x));
    for (rw::bf16 x : k) rounded_k.push_back(float(x));
    const auto rope = plain_scheme(d);
    const auto made = [&](const auto& x, const auto& y, double far) {
        return rw::make_retrieval_quantizers(rw::heads_view(x.data(), tokens, 1, d),
                                             rw::heads_view(y.data(), tokens, 1, d), rope,
                                             {.relative_position = far, .codebook = {.codewords = 5}})[0];
    };
    CHECK(made(q, k, 40).metric_codewords() == made(rounded_q, rounded_k, 40).metric_codewords());
    CHECK(made(q, k, 40).metric_codewords() != made(q, k, 41).metric_codewords());
}

TEST_CASE("retrieval_calibration: what is refused, and how it says so", "[compression][retrieval][errors]") {
    const auto x = noise(4 * 6 * 8, 5);
    const auto view = [&](rw::index tokens, rw::index heads, rw::index d) {
        return rw::heads_view(x.data(), tokens, heads, d);
    };
    const auto rope = plain_scheme(8);
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 3, 8), view(4, 2, 8), rope),
                      ContainsSubstring("q.heads must be a multiple of k.heads, got 3"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 2, 8), view(4, 0, 8), rope),
                      ContainsSubstring("got 2"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 2, 8), view(4, 2, 6), rope),
                      ContainsSubstring("k.channels must be rope.head_dim: wanted 8, got 6"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 2, 6), view(4, 2, 8), rope),
                      ContainsSubstring("q.channels must be rope.head_dim: wanted 8, got 6"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 2, 8), view(4, 2, 8), rope,
                                                    {.relative_position = std::nan("")}),
                      ContainsSubstring("relative_position must be finite, got nan"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(4, 2, 8), view(0, 2, 8), rope),
                      ContainsSubstring("keys must not be empty"));
    CHECK_THROWS_WITH(rw::make_retrieval_quantizers(view(0, 2, 8), view(4, 2, 8), rope),
                      ContainsSubstring("queries must not all be zero"));
}

TEST_CASE("retrieval_calibration: quantizers of the official shapes are read by name",
          "[compression][retrieval]") {
    constexpr rw::index kv_heads = 2, codewords = 6, d = 4;
    auto books = noise(kv_heads * codewords * d, 1), factors = noise(kv_heads * d * d, 2);
    for (rw::index kv = 0; kv < kv_heads; ++kv)
        for (rw::index i = 0; i < d; ++i) factors[std::size_t((kv * d + i) * d + i)] = 1.5f + float(i);
    std::string missing;
    rw::index wide = d;
    const auto tensors = [&](std::string_view name) -> rw::stored_tensor<float> {
        if (name == missing) return {};
        if (name == "codebooks") return {books, {kv_heads, codewords, wide}};
        if (name == "cholesky_factors") return {factors, {kv_heads, d, d}};
        return {};
    };
    const rw::retrieval_file file{.kv_heads = kv_heads, .codewords = codewords, .channels = d};
    const auto read = rw::read_retrieval_quantizers<double>(file, tensors);
    REQUIRE(read.size() == 2);
    for (rw::index kv = 0; kv < kv_heads; ++kv)
        for (rw::index c = 0; c < codewords; ++c)
            for (rw::index i = 0; i < d; ++i) {
                CHECK(read[std::size_t(kv)].metric_codewords()(c, i) ==
                      double(books[std::size_t((kv * codewords + c) * d + i)]));
                double z = 0;  // key times the lower factor
                for (rw::index j = i; j < d; ++j)
                    z += read[std::size_t(kv)].key_codewords()(c, j) *
                         double(factors[std::size_t((kv * d + j) * d + i)]);
                CHECK(z == Approx(double(books[std::size_t((kv * codewords + c) * d + i)])).margin(1e-12));
            }
    missing = "cholesky_factors";
    CHECK_THROWS_WITH(rw::read_retrieval_quantizers<double>(file, tensors),
                      ContainsSubstring("cholesky_factors must be [2, 4, 4], got none"));
    wide = 5;
    CHECK_THROWS_WITH(rw::read_retrieval_quantizers<double>(file, tensors),
                      ContainsSubstring("codebooks must be [2, 6, 4], got [2, 6, 5]"));
}
