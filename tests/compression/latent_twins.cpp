// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/latent_twins.hpp>

#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using support::gaussian;

namespace {

double apart(const std::vector<double>& a, const std::vector<double>& b) {
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    return worst;
}

const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
const Eigen::MatrixXd x = gaussian(5, 6, 1);
const rw::rotated_heads plain{.heads = 2, .wq = gaussian(16, 6, 2), .wk = gaussian(16, 6, 3)};

}  // namespace

TEST_CASE("latent_twins: ordinary heads score distances only", "[compression][mla]") {
    CHECK(apart(rw::make_rotated_scores(plain, x, omega), rw::make_rotated_scores(plain, x, omega, 1000)) <
          1e-11);
}

TEST_CASE("latent_twins: compressing after rotation loses relativity", "[compression][mla]") {
    auto narrow = plain;
    narrow.down = gaussian(7, 16, 4);
    narrow.up = gaussian(16, 7, 5);
    const auto here = rw::make_rotated_scores(narrow, x, omega),
               there = rw::make_rotated_scores(narrow, x, omega, 3);
    CHECK(apart(here, there) > 0.1);
}

TEST_CASE("latent_twins: what commutes with every rotation keeps relativity", "[compression][mla]") {
    auto scaled = plain;
    scaled.down = Eigen::MatrixXd::Identity(16, 16);
    scaled.up = Eigen::MatrixXd::Zero(16, 16);
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 4; ++i)
            scaled.up(h * 8 + i, h * 8 + i) = scaled.up(h * 8 + i + 4, h * 8 + i + 4) = 0.3 + i + h;
    CHECK(apart(rw::make_rotated_scores(scaled, x, omega), rw::make_rotated_scores(scaled, x, omega, 77)) <
          1e-11);
    auto one = plain;
    one.down = one.up = Eigen::MatrixXd::Identity(16, 16);
    CHECK(apart(rw::make_rotated_scores(one, x, omega), rw::make_rotated_scores(plain, x, omega)) < 1e-12);
}

TEST_CASE("latent_twins: queries compressed after rotation, as the keys are", "[compression][mla]") {
    // Scores are bilinear: P q . k = q . P^T k, so compressed queries are keys through the transposed pair.
    const auto down = gaussian(7, 16, 6), up = gaussian(16, 7, 7);
    auto by_queries = plain, by_keys = plain;
    by_queries.query_down = down;
    by_queries.query_up = up;
    by_keys.down = up.transpose();
    by_keys.up = down.transpose();
    // One head, so that the compression mixes no other head's channels into the product.
    for (auto* w : {&by_queries, &by_keys}) w->heads = 1;
    const auto wide = rw::frequencies::geometric({.rotary_dim = 16});
    const auto a = rw::make_rotated_scores(by_queries, x, wide),
               b = rw::make_rotated_scores(by_keys, x, wide);
    CHECK(apart(a, b) < 1e-10);
    auto single = plain;
    single.heads = 1;
    CHECK(apart(a, rw::make_rotated_scores(single, x, wide)) > 0.1);
    CHECK(apart(a, rw::make_rotated_scores(by_queries, x, wide, 3)) > 0.1);  // relativity is lost

    auto same = plain;  // two heads, nothing lost
    same.query_down = same.query_up = Eigen::MatrixXd::Identity(16, 16);
    CHECK(apart(rw::make_rotated_scores(same, x, omega), rw::make_rotated_scores(plain, x, omega)) < 1e-12);
}

TEST_CASE("latent_twins: what is refused, and how it says so", "[compression][mla][errors]") {
    auto bad = plain;
    bad.heads = 3;
    CHECK_THROWS_WITH(rw::make_rotated_scores(bad, x, omega),
                      ContainsSubstring("heads must divide") && ContainsSubstring("got 3"));
    bad = plain;
    bad.up = gaussian(16, 4, 1);
    CHECK_THROWS_WITH(rw::make_rotated_scores(bad, x, omega), ContainsSubstring("down must be"));
    bad.down = gaussian(5, 16, 1);
    CHECK_THROWS_WITH(rw::make_rotated_scores(bad, x, omega), ContainsSubstring("up must be"));
    bad = plain;
    bad.query_up = gaussian(16, 4, 1);
    CHECK_THROWS_WITH(rw::make_rotated_scores(bad, x, omega), ContainsSubstring("query_down must be"));
    bad.query_down = gaussian(5, 16, 1);
    CHECK_THROWS_WITH(rw::make_rotated_scores(bad, x, omega), ContainsSubstring("query_up must be"));
    CHECK_THROWS_WITH(rw::make_rotated_scores(plain, gaussian(5, 7, 1), omega),
                      ContainsSubstring("wq must be"));
    CHECK_THROWS_WITH(rw::make_rotated_scores(plain, x, rw::frequencies::geometric({.rotary_dim = 6})),
                      ContainsSubstring("got 3"));
}
