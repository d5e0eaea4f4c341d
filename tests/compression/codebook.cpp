// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/codebook.hpp>

#include <set>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
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

TEST_CASE("codebook: parts of an assignment change nothing, batches little", "[compression][codebook]") {
    const auto m = rw::make_query_metric(gaussian(60, 8, 1));
    const Eigen::MatrixXd keys = gaussian(2000, 8, 2);
    const auto trained = [&](const rw::codebook_options& options, rw::index parts) {
        rw::codebook_training<float> training(keys, m, options);
        while (!training.done()) {
            for (rw::index p = parts; p-- > 0;) training.assign({parts, p});
            training.step();
        }
        return training.result();
    };
    const auto whole = rw::make_codebook<float>(keys, m, {.codewords = 40, .iterations = 60});
    for (rw::index batch : {0, 128, 1999, 2000}) {
        const rw::codebook_options options{.codewords = 40, .iterations = 60, .batch = batch};
        const auto one = trained(options, 1);
        for (rw::index parts : {2, 3, 300}) {
            const auto many = trained(options, parts);
            CHECK(many.codewords == one.codewords);
            CHECK(many.labels == one.labels);
            CHECK(many.loss == one.loss);
        }
        CAPTURE(batch, one.objective, whole.objective);
        CHECK(one.objective < 1.05 * whole.objective);
        CHECK((batch == 0 || batch == 2000) == (one.codewords == whole.codewords));
        if (batch != 128) continue;
        CHECK(one.loss.size() == 60);
        // The last three steps saw every key: their losses fall, and the result is no worse.
        CHECK(one.loss[58] <= one.loss[57]);
        CHECK(one.loss[59] <= one.loss[58]);
        CHECK(one.objective <= one.loss[59]);
        // A batch's loss is that of its keys, scaled to all of them.
        CHECK(one.loss[50] == Approx(one.objective).epsilon(0.5));
    }
    const auto few = trained({.codewords = 40, .iterations = 2, .batch = 128}, 1);
    CHECK(few.loss[1] <= few.loss[0]);  // no more steps than see all keys
}

TEST_CASE("codebook: products find the codeword that differences find", "[compression][codebook]") {
    using rw::detail::nearest_by;
    for (rw::index d : {1, 5, 16, 130})
        for (rw::index count : {1, 15, 64, 65, 700}) {
            const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> words = gaussian(
                                                                                             count, d, 3),
                                                                                         z = gaussian(70, d,
                                                                                                      4);
            const rw::detail::codeword_columns<double> columns(words.data(), count, d);
            std::vector<std::int32_t> a(70), b(70);
            std::vector<double> far_a(70), far_b(70);
            rw::detail::fill_nearest<nearest_by::differences>(columns, z.data(), 70, a.data(), far_a.data());
            rw::detail::fill_nearest<nearest_by::products>(columns, z.data(), 70, b.data(), far_b.data());
            CHECK(a == b);
            for (rw::index n = 0; n < 70; ++n) {
                rw::index want = 0;
                const double least = (words.rowwise() - z.row(n)).rowwise().squaredNorm().minCoeff(&want);
                CHECK(a[static_cast<std::size_t>(n)] == want);
                CHECK(far_a[static_cast<std::size_t>(n)] == Approx(least).epsilon(1e-12));
                CHECK(far_b[static_cast<std::size_t>(n)] == Approx(least).epsilon(1e-12));
            }
        }
}

TEST_CASE("codebook: what is refused, and how it says so", "[compression][codebook][errors]") {
    const auto m = rw::make_plain_metric(3);
    const Eigen::MatrixXd k = gaussian(5, 3, 1);
    CHECK_THROWS_WITH(rw::make_codebook<>(Eigen::MatrixXd(0, 3), m, {}),
                      ContainsSubstring("keys must not be empty"));
    CHECK_THROWS_WITH(rw::make_codebook<>(gaussian(5, 4, 1), m, {}),
                      ContainsSubstring("metric's channels: wanted 3, got 4"));
    CHECK_THROWS_WITH(rw::make_codebook<>(std::nan("") * k, m, {}), ContainsSubstring("keys must be finite"));
    CHECK_THROWS_WITH(rw::make_codebook<>(1e200 * k, m, {}), ContainsSubstring("finite under the metric"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.codewords = 0}), ContainsSubstring("1 to 65536, got 0"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.iterations = -1}),
                      ContainsSubstring("iterations") && ContainsSubstring("-1"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.batch = -1}),
                      ContainsSubstring("batch must be >= 0, got -1"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.tolerance = -1}),
                      ContainsSubstring("tolerance") && ContainsSubstring("-1"));
    const auto quantizer = rw::make_codebook<>(k, m, {.codewords = 2}).quantizer(m);
    CHECK_THROWS_WITH(rw::make_approximate_scores(k, quantizer, std::vector<std::int32_t>{0, 2}),
                      ContainsSubstring("labels must name codewords, got 2"));
    CHECK_THROWS_WITH(rw::make_approximate_scores(gaussian(5, 4, 1), quantizer, {}),
                      ContainsSubstring("got 4"));
    CHECK_THROWS_WITH(rw::score_squared_error(k, k, quantizer, std::vector<std::int32_t>{0}),
                      ContainsSubstring("one a key, got 1"));
    CHECK_THROWS_WITH(rw::make_codebook<>(k, m, {.codewords = 2}, gaussian(3, 3, 1)),
                      ContainsSubstring("start") && ContainsSubstring("wanted [2, 3], got [3, 3]"));
    for (double bad : {std::nan(""), HUGE_VAL, 1e300}) {  // the last is none in f32
        Eigen::MatrixXd start = gaussian(2, 3, 1);
        start(1, 1) = bad;
        for (rw::index iterations : {0, 3})
            CHECK_THROWS_WITH(
                rw::make_codebook<float>(k, m, {.codewords = 2, .iterations = iterations}, start),
                ContainsSubstring("start must be finite"));
    }
}
