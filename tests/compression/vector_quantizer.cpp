// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/vector_quantizer.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using support::gaussian;

TEST_CASE("vector_quantizer: the metric measures the squared error of scores", "[compression][vq]") {
    const Eigen::MatrixXd q = gaussian(50, 6, 1);
    const auto m = rw::make_query_metric(q, 0);
    const Eigen::VectorXd e = gaussian(6, 1, 2);
    const Eigen::MatrixXd h = q.transpose() * q;
    const double factor = std::sqrt(h.squaredNorm() / 36);
    CHECK((q * e).squaredNorm() == Approx(e.dot(h * e)).epsilon(1e-13));
    CHECK((e.transpose() * m.cholesky).squaredNorm() ==
          Approx((q * e).squaredNorm() / factor).epsilon(1e-12));
    CHECK(m.gram.squaredNorm() / 36 == Approx(1).epsilon(1e-14));
    CHECK((m.gram - h / factor).norm() < 1e-13);
    // Neither scale nor order of the queries matters.
    CHECK((rw::make_query_metric(1e-170 * q, 0).cholesky - m.cholesky).norm() < 1e-12);
    CHECK((rw::make_query_metric(1e170 * q.colwise().reverse(), 0).cholesky - m.cholesky).norm() < 1e-12);
}

TEST_CASE("vector_quantizer: fewer queries than channels need epsilon", "[compression][vq][errors]") {
    const Eigen::MatrixXd few = gaussian(3, 6, 3);
    CHECK_THROWS_WITH(rw::make_query_metric(few, 0), ContainsSubstring("positive definite, got 0"));
    const auto m = rw::make_query_metric(few);
    CHECK(m.cholesky.allFinite());
    CHECK((m.cholesky * m.cholesky.transpose() - m.gram - 1e-6 * Eigen::MatrixXd::Identity(6, 6)).norm() <
          1e-14);
    CHECK_THROWS_WITH(rw::make_query_metric(Eigen::MatrixXd::Zero(4, 6)),
                      ContainsSubstring("must not all be zero"));
    CHECK_THROWS_WITH(rw::make_query_metric(Eigen::MatrixXd(0, 6)),
                      ContainsSubstring("must not all be zero"));
    CHECK_THROWS_WITH(rw::make_query_metric(Eigen::MatrixXd(6, 0)), ContainsSubstring("must have a channel"));
    CHECK_THROWS_WITH(rw::make_query_metric(few, -1), ContainsSubstring("epsilon must be >= 0, got -1"));
    Eigen::MatrixXd bad = few;
    bad(0, 0) = std::numeric_limits<double>::infinity();
    CHECK_THROWS_WITH(rw::make_query_metric(bad), ContainsSubstring("queries must be finite"));
    CHECK_THROWS_WITH(rw::make_plain_metric(0), ContainsSubstring("channels must be >= 1, got 0"));
}

TEMPLATE_TEST_CASE("vector_quantizer: every key gets its nearest codeword", "[compression][vq]", float,
                   double) {
    using matrix = typename rw::vector_quantizer<TestType>::matrix;
    const auto lanes = rw::simd::lanes<TestType>;
    for (rw::index d : {1, 3, 8, 20, 64})
        for (rw::index count :
             {rw::index{1}, rw::index{2}, lanes - 1, lanes, lanes + 1, 4 * lanes, 5 * lanes + 3}) {
            const auto m = rw::make_query_metric(gaussian(3 * d, d, unsigned(d)));
            const Eigen::MatrixXd codewords = gaussian(count, d, unsigned(count + 7));
            const rw::vector_quantizer<TestType> quantizer(codewords, m.cholesky, rw::codeword_space::keys);
            matrix keys = gaussian(23, d, 5).template cast<TestType>();
            std::vector<std::uint16_t> labels(23);
            quantizer.encode(rw::heads_view(keys.data(), 23, 1, d), labels);
            for (rw::index n = 0; n < 23; ++n) {
                const Eigen::RowVectorXd k = keys.row(n).template cast<double>();
                const Eigen::VectorXd apart =
                    ((codewords.rowwise() - k) * m.cholesky).rowwise().squaredNorm();
                CAPTURE(d, count, n, labels[n]);
                REQUIRE(labels[n] < count);
                CHECK(apart[labels[n]] <= apart.minCoeff() * (1 + 1e-5) + 1e-9);
            }
        }
}

TEST_CASE("vector_quantizer: equal distances go to the first codeword", "[compression][vq]") {
    Eigen::MatrixXd codewords(40, 2);
    for (int c = 0; c < 40; ++c) codewords.row(c) << c % 4, 0;  // ten copies of four codewords
    const rw::vector_quantizer<> quantizer(codewords, Eigen::MatrixXd::Identity(2, 2));
    std::vector<float> keys{3, 0, 0, 0, 2, 5, 1.5f, 1};
    std::vector<std::uint16_t> labels(4);
    quantizer.encode(rw::heads_view(keys.data(), 4, 1, 2), labels);
    CHECK(labels == std::vector<std::uint16_t>{3, 0, 2, 1});
}

TEST_CASE("vector_quantizer: the two spaces of codewords agree", "[compression][vq]") {
    const auto m = rw::make_query_metric(gaussian(30, 5, 1));
    const Eigen::MatrixXd keys = gaussian(9, 5, 2);
    const rw::vector_quantizer<double> a(keys, m.cholesky, rw::codeword_space::keys);
    const rw::vector_quantizer<double> b(keys * m.cholesky, m.cholesky);
    CHECK((a.key_codewords() - b.key_codewords()).norm() < 1e-12);
    CHECK((a.metric_codewords() - b.metric_codewords()).norm() < 1e-12);
    std::vector<double> scores(2 * 9);
    const Eigen::Matrix<double, 2, 5, Eigen::RowMajor> q = gaussian(2, 5, 3);
    b.fill_scores(q.data(), 2, scores.data());
    for (int h = 0; h < 2; ++h)
        for (int c = 0; c < 9; ++c)
            CHECK(scores[h * 9 + c] == Approx(q.row(h).dot(keys.row(c))).margin(1e-12));
}

TEST_CASE("vector_quantizer: 16-bit keys are read as what they are", "[compression][vq]") {
    const Eigen::MatrixXd codewords = gaussian(30, 12, 4);
    const rw::vector_quantizer<> quantizer(codewords, rw::make_plain_metric(12).cholesky);
    std::vector<rw::bf16> keys(7 * 12);
    std::vector<float> same(keys.size());
    const Eigen::MatrixXd x = gaussian(7, 12, 6);
    for (std::size_t i = 0; i < keys.size(); ++i)
        same[i] = float(keys[i] = rw::bf16(float(x(i / 12, i % 12))));
    std::vector<std::uint16_t> a(7), b(7);
    quantizer.encode(rw::heads_view(keys.data(), 7, 1, 12), a);
    quantizer.encode(rw::heads_view(same.data(), 7, 1, 12), b);
    CHECK(a == b);
}

TEST_CASE("vector_quantizer: what is refused, and how it says so", "[compression][vq][errors]") {
    const Eigen::MatrixXd c = gaussian(4, 3, 1), one = Eigen::MatrixXd::Identity(3, 3);
    using quantizer = rw::vector_quantizer<>;
    CHECK_THROWS_WITH(
        quantizer(c, Eigen::MatrixXd::Identity(4, 4)),
        ContainsSubstring("[channels, channels]") && ContainsSubstring("wanted [3, 3], got [4, 4]"));
    CHECK_THROWS_WITH(quantizer(Eigen::MatrixXd(0, 3), one), ContainsSubstring("1 to 65536, got 0"));
    CHECK_THROWS_WITH(quantizer(gaussian(65537, 1, 1), Eigen::MatrixXd::Identity(1, 1)),
                      ContainsSubstring("got 65537"));
    CHECK_THROWS_WITH(quantizer(gaussian(2, 1025, 1), Eigen::MatrixXd::Identity(1025, 1025)),
                      ContainsSubstring("got 1025"));
    CHECK_THROWS_WITH(quantizer(c, Eigen::MatrixXd::Zero(3, 3)),
                      ContainsSubstring("positive diagonal") && ContainsSubstring("got 0"));
    CHECK_THROWS_WITH(quantizer(std::nan("") * c, one), ContainsSubstring("codewords must be finite"));
    CHECK_THROWS_WITH(quantizer(c, 1e-300 * one), ContainsSubstring("must be regular"));
}
