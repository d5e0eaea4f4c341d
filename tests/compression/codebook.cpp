// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/codebook.hpp>

#include <set>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using Catch::Matchers::Contains;
using support::gaussian;

TEST_CASE("codebook: the loss falls with every step and ends at the objective", "[compression][codebook]") {
    const auto m = rw::make_query_metric(gaussian(60, 8, 1));
    const Eigen::MatrixXd keys = gaussian(400, 8, 2);
    const auto fit = rw::make_codebook<double>(keys, m, {.codewords = 20, .seed = 3});
    REQUIRE(fit.loss.size() >= 3);
    for (std::size_t i = 1; i < fit.loss.size(); ++i) CHECK(fit.loss[i] <= fit.loss[i - 1]);
    CHECK(fit.objective <= fit.loss.back());
    CHECK(fit.shift.back() < 1e-4);
    CHECK(fit.shift.size() == fit.loss.size());
    double sum = 0;
    const Eigen::MatrixXd z = keys * m.cholesky;
    for (Eigen::Index n = 0; n < 400; ++n) sum += (z.row(n) - fit.codewords.row(fit.labels[n])).squaredNorm();
    CHECK(fit.objective == Approx(sum).epsilon(1e-12));
    CHECK(rw::make_codebook<double>(keys, m, {.codewords = 20, .seed = 3}).codewords == fit.codewords);
    CHECK(rw::make_codebook<double>(keys, m, {.codewords = 20, .seed = 4}).codewords != fit.codewords);
}

TEST_CASE("codebook: knowing the queries lowers the error of their scores", "[compression][codebook]") {
    // Queries that live in two of eight directions: the plain codebook spends itself on the other six.
    const Eigen::MatrixXd q = gaussian(200, 2, 5) * gaussian(2, 8, 6) + 0.05 * gaussian(200, 8, 7);
    const Eigen::MatrixXd k = gaussian(500, 8, 8);
    const auto aware = rw::make_query_metric(q), plain = rw::make_plain_metric(8);
    const auto a = rw::make_codebook<double>(k, aware, {.codewords = 16});
    const auto b = rw::make_codebook<double>(k, plain, {.codewords = 16});
    const double knowing = rw::score_squared_error(q, k, a.quantizer(aware), a.labels);
    CHECK(knowing < 0.5 * rw::score_squared_error(q, k, b.quantizer(plain), b.labels));
    // The objective is that error but for the factor of the normalisation and epsilon.
    const double factor = std::sqrt((q.transpose() * q).squaredNorm() / 64);
    CHECK(a.objective == Approx(knowing / factor).epsilon(1e-3));
    double sum = 0;
    const auto book = a.quantizer(aware).key_codewords();
    for (Eigen::Index n = 0; n < k.rows(); ++n)
        sum += (q * (k.row(n) - book.row(a.labels[n])).transpose()).squaredNorm();
    CHECK(knowing == Approx(sum).epsilon(1e-12));
}

TEST_CASE("codebook: a codeword a key leaves no error, more codewords than keys neither",
          "[compression][codebook]") {
    const auto m = rw::make_query_metric(gaussian(20, 4, 1));
    const Eigen::MatrixXd keys = gaussian(12, 4, 2);
    for (rw::index count : {12, 40}) {
        const auto fit = rw::make_codebook<double>(keys, m, {.codewords = count});
        CHECK(fit.objective < 1e-20);
        CHECK(std::set<int>(fit.labels.begin(), fit.labels.end()).size() == 12);
        CHECK(fit.codewords.allFinite());
    }
}

TEST_CASE("codebook: a codeword without keys becomes the zero vector", "[compression][codebook]") {
    const Eigen::MatrixXd keys = gaussian(10, 2, 1).array() + 50;
    Eigen::MatrixXd start(3, 2);
    start << 50, 50, -1000, 0, 0, -1000;
    const auto fit = rw::make_codebook<double>(keys, rw::make_plain_metric(2), {.codewords = 3}, start);
    CHECK(fit.codewords.row(1) == Eigen::RowVector2d(0, 0));
    CHECK(fit.codewords.row(2) == Eigen::RowVector2d(0, 0));
    CHECK((fit.codewords.row(0) - keys.colwise().mean()).norm() < 1e-12);
    CHECK(fit.labels == std::vector<std::int32_t>(10, 0));
}

TEST_CASE("codebook: equal keys, no steps, single precision", "[compression][codebook]") {
    const Eigen::MatrixXd same = Eigen::MatrixXd::Constant(30, 3, 2.5);
    const auto fit = rw::make_codebook<float>(same, rw::make_plain_metric(3), {.codewords = 5});
    CHECK(fit.objective == 0);
    CHECK(fit.labels == std::vector<std::int32_t>(30, 0));
    const auto none = rw::make_codebook<float>(gaussian(9, 3, 1), rw::make_plain_metric(3),
                                               {.codewords = 4, .iterations = 0});
    CHECK(none.loss.empty());
    CHECK(none.objective > 0);
}

TEST_CASE("codebook: what is refused, and how it says so", "[compression][codebook][errors]") {
    const auto m = rw::make_plain_metric(3);
    const Eigen::MatrixXd k = gaussian(5, 3, 1);
    CHECK_THROWS_WITH(rw::make_codebook<>(Eigen::MatrixXd(0, 3), m, {}), Contains("keys must not be empty"));
    CHECK_THROWS_WITH(rw::make_codebook<>(gaussian(5, 4, 1), m, {}), Contains("metric's channels, got 4"));
    CHECK_THROWS_WITH(rw::make_codebook<>(std::nan("") * k, m, {}), Contains("keys must be finite"));
    CHECK_THROWS_WITH(rw::make_codebook<>(1e200 * k, m, {}), Contains("finite under the metric"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.codewords = 0}), Contains("1 to 65536, got 0"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.iterations = -1}),
                      Contains("iterations") && Contains("-1"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.tolerance = -1}), Contains("tolerance") && Contains("-1"));
    const auto quantizer = rw::make_codebook<>(k, m, {.codewords = 2}).quantizer(m);
    CHECK_THROWS_WITH(rw::make_approximate_scores(k, quantizer, std::vector<std::int32_t>{0, 2}),
                      Contains("labels must name codewords, got 2"));
    CHECK_THROWS_WITH(rw::make_approximate_scores(gaussian(5, 4, 1), quantizer, {}), Contains("got 4"));
    CHECK_THROWS_WITH(rw::score_squared_error(k, k, quantizer, std::vector<std::int32_t>{0}),
                      Contains("one a key, got 1"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.codewords = 2}, gaussian(3, 3, 1)),
                      Contains("start") && Contains("got 3"));
    for (double bad : {std::nan(""), HUGE_VAL, 1e300}) {  // the last is none in f32
        Eigen::MatrixXd start = gaussian(2, 3, 1);
        start(1, 1) = bad;
        for (rw::index iterations : {0, 3})
            CHECK_THROWS_WITH(
                rw::make_codebook<float>(k, m, {.codewords = 2, .iterations = iterations}, start),
                Contains("start must be finite"));
    }
}
