// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/analysis/marchenko_pastur.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using support::gaussian;

TEST_CASE("marchenko_pastur: the density integrates to one between its edges", "[analysis][mp]") {
    for (double gamma : {0.1, 0.5, 0.9}) {
        const auto law = rw::make_marchenko_pastur(1.7, gamma);
        const int steps = 200000;
        const double width = (law.upper - law.lower) / steps;
        double area = 0, mean = 0;
        for (int i = 0; i < steps; ++i) {
            const double x = law.lower + (i + 0.5) * width;
            area += law.density(x) * width;
            mean += x * law.density(x) * width;
        }
        CHECK(area == Approx(1).epsilon(1e-4));
        CHECK(mean == Approx(1.7).epsilon(1e-4));
        CHECK(law.density(law.lower) == 0);
        CHECK(law.density(law.upper + 1) == 0);
        CHECK(law.density(-1) == 0);
    }
}

TEST_CASE("marchenko_pastur: a law that was not made, and one of no variance, have no density",
          "[analysis][mp]") {
    for (const auto& law : {rw::marchenko_pastur{}, rw::make_marchenko_pastur(0, 0.5)}) {
        CHECK(law.sigma2 == 0);
        CHECK(law.lower == 0);
        CHECK(law.upper == 0);
        for (const double x : {-1.0, 0.0, 1e-300, 1.0}) CHECK(law.density(x) == 0);
    }
    CHECK(rw::marchenko_pastur{}.gamma == 0);
}

TEST_CASE("marchenko_pastur: Gaussian matrices have no eigenvalue far above the edge", "[analysis][mp]") {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        const auto r = rw::make_spectral_report(gaussian(200, 80, seed));
        CHECK(r.eigenvalues.front() <= r.law.upper * (1 + 2 * std::pow(200, -2.0 / 3)));
        CHECK(r.spikes <= 2);
        CHECK(r.law.sigma2 == Approx(1).epsilon(0.05));
        CHECK(r.law.gamma == Approx(0.4));
    }
}

TEST_CASE("marchenko_pastur: orthogonal and rank-one matrices", "[analysis][mp]") {
    const Eigen::MatrixXd q = Eigen::MatrixXd(gaussian(24, 8, 3).householderQr().householderQ()).leftCols(8);
    const auto flat = rw::make_spectral_report(q);
    CHECK(flat.stable_rank == Approx(8));
    CHECK(flat.effective_rank == Approx(8));
    CHECK(flat.participation_ratio == Approx(8));
    CHECK(flat.spikes == 0);

    const Eigen::MatrixXd one = gaussian(24, 1, 4) * gaussian(1, 8, 5);
    const auto spiked = rw::make_spectral_report(one);
    CHECK(spiked.stable_rank == Approx(1));
    CHECK(spiked.effective_rank == Approx(1));
    CHECK(spiked.spikes == 1);
    CHECK(spiked.spike_energy == Approx(1));
    CHECK(spiked.soft_rank == Approx(std::pow(1 + std::sqrt(8.0 / 24), 2) / 8));
}

TEST_CASE("marchenko_pastur: trimming finds the rank of a deficient matrix, not the noise of its zeros",
          "[analysis][mp]") {
    const auto trimmed = rw::variance_estimate::trimmed;
    for (unsigned seed = 1; seed <= 5; ++seed) {
        const auto one = rw::make_spectral_report(gaussian(24, 1, seed) * gaussian(1, 8, seed + 50), trimmed);
        CHECK(one.spikes == 1);
        CHECK(one.law.upper == 0);
        CHECK(one.spike_energy == Approx(1));
        CHECK(std::count(one.eigenvalues.begin(), one.eigenvalues.end(), 0.0) == 7);
        const Eigen::MatrixXd a = gaussian(24, 4, seed), b = gaussian(24, 4, seed + 20);
        for (const auto& r :
             {rw::make_product_report(a, b, trimmed), rw::make_spectral_report(a * b.transpose(), trimmed)}) {
            CHECK(r.spikes == 4);
            CHECK(r.law.upper == 0);
        }
    }
}

TEST_CASE("marchenko_pastur: a wide matrix is its transpose", "[analysis][mp]") {
    const Eigen::MatrixXd x = gaussian(9, 31, 6);
    const auto wide = rw::make_spectral_report(x);
    const auto tall = rw::make_spectral_report(x.transpose());
    REQUIRE(wide.eigenvalues.size() == 9);
    for (std::size_t i = 0; i < 9; ++i) CHECK(wide.eigenvalues[i] == Approx(tall.eigenvalues[i]));
    CHECK(wide.law.upper == Approx(tall.law.upper));
}

TEST_CASE("marchenko_pastur: trimming finds a spike that the plain variance hides", "[analysis][mp]") {
    Eigen::MatrixXd x = gaussian(200, 40, 7);
    x += 40 * gaussian(200, 1, 8).normalized() * gaussian(40, 1, 9).normalized().transpose() * 5;
    x += 6 * gaussian(200, 1, 10).normalized() * gaussian(40, 1, 11).normalized().transpose() * 5;
    const auto plain = rw::make_spectral_report(x);
    const auto trimmed = rw::make_spectral_report(x, rw::variance_estimate::trimmed);
    CHECK(plain.spikes == 1);
    CHECK(trimmed.spikes == 2);
    CHECK(trimmed.law.upper < plain.law.upper);
    CHECK(trimmed.law.sigma2 == Approx(1).epsilon(0.1));
    CHECK(trimmed.eigenvalues == plain.eigenvalues);
    // What the law makes of the variance: the number of spikes is scale-free.
    CHECK(rw::make_spectral_report(1e-3 * x, rw::variance_estimate::trimmed).spikes == 2);
}

TEST_CASE("marchenko_pastur: the thin QR route gives the product's spectrum", "[analysis][mp]") {
    for (auto [m, n, p] : {std::array{40, 40, 8}, std::array{24, 40, 8}, std::array{6, 40, 8},
                           std::array{40, 5, 8}, std::array{3, 2, 8}}) {
        const Eigen::MatrixXd a = gaussian(m, p, 12), b = gaussian(n, p, 13);
        const auto fast = rw::make_product_report(a, b);
        const auto slow = rw::make_spectral_report(a * b.transpose());
        REQUIRE(fast.eigenvalues.size() == slow.eigenvalues.size());
        for (std::size_t i = 0; i < fast.eigenvalues.size(); ++i)
            CHECK(std::abs(fast.eigenvalues[i] - slow.eigenvalues[i]) < 1e-12 * slow.eigenvalues[0]);
        CHECK(fast.law.gamma == slow.law.gamma);
        CHECK(fast.effective_rank == Approx(slow.effective_rank));
        CHECK(fast.spikes == slow.spikes);
    }
}

TEST_CASE("marchenko_pastur: zero matrices and tiny entries give numbers, not NaN", "[analysis][mp]") {
    for (auto how : {rw::variance_estimate::plain, rw::variance_estimate::trimmed}) {
        const auto r = rw::make_spectral_report(Eigen::MatrixXd::Zero(5, 3), how);
        CHECK(r.spikes == 0);
        CHECK(r.spike_energy == 0);
        CHECK(r.soft_rank == 1);
        CHECK(r.stable_rank == 0);
        CHECK(r.effective_rank == 0);
        CHECK(r.participation_ratio == 0);
        for (double scale : {1e-200, 1e-160, 1e150}) {
            const auto tiny = rw::make_spectral_report(scale * gaussian(6, 4, 14), how);
            CHECK(std::isfinite(tiny.effective_rank));
            CHECK(std::isfinite(tiny.soft_rank));
            CHECK(std::isfinite(tiny.spike_energy));
        }
    }
}

TEST_CASE("marchenko_pastur: what is refused, and how it says so", "[analysis][mp][errors]") {
    Eigen::MatrixXd x = gaussian(4, 4, 15);
    x(1, 2) = std::nan("");
    CHECK_THROWS_WITH(rw::make_spectral_report(x), ContainsSubstring("matrix must be finite"));
    CHECK_THROWS_AS(rw::make_spectral_report(Eigen::MatrixXd(0, 3)), rw::invalid_config);
    CHECK_THROWS_WITH(rw::make_spectral_report(Eigen::MatrixXd::Constant(3, 3, 1e200)),
                      ContainsSubstring("finite squared singular values"));
    CHECK_THROWS_WITH(rw::make_product_report(Eigen::MatrixXd::Ones(3, 2), Eigen::MatrixXd::Ones(3, 4)),
                      ContainsSubstring("same columns: wanted 2, got 4"));
    CHECK_THROWS_WITH(rw::make_product_report(x, x), ContainsSubstring("a must be finite"));
    CHECK_THROWS_WITH(rw::make_marchenko_pastur(1, 1.5),
                      ContainsSubstring("gamma must be in (0, 1], got 1.5"));
    CHECK_THROWS_WITH(rw::make_marchenko_pastur(-1, 0.5), ContainsSubstring("sigma2"));
}
