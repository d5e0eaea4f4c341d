// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/grape.hpp>

#include <cmath>

#include <ropewalk/angles/skew_exponential.hpp>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("grape: a plane against the matrix exponential", "[schemes][grape]") {
    const rw::index d = 6;
    const auto a = support::noise(d, 1), b = support::noise(d, 2);
    for (const double eta : {0.0, 1e-7, 0.2, 1.0, -3.0, 20.0}) {
        const grape::plane plane(a, b, 0.5);
        std::vector<double> l(d * d), r(d * d);
        for (rw::index i = 0; i < d; ++i)
            for (rw::index j = 0; j < d; ++j) l[i * d + j] = eta * (a[i] * b[j] - b[i] * a[j]);
        fill_rotation_exponential(l, d, r);
        const auto x0 = support::noise(d, 3);
        auto x = x0;
        plane.rotate_tokens(heads_view<double>(x.data(), 1, 1, d), std::vector<double>{2 * eta});
        for (rw::index i = 0; i < d; ++i) {
            double want = 0;
            for (rw::index j = 0; j < d; ++j) want += r[i * d + j] * x0[j];
            CHECK(x[i] == Approx(want).margin(1e-13 * (1 + std::abs(eta))));
        }
    }
}

TEST_CASE("grape: unit vectors across each other are a pair, clockwise", "[schemes][grape][reduces]") {
    const grape::plane plane(std::vector<double>{1, 0, 0}, std::vector<double>{0, 2, 0});
    CHECK(plane.area() == 2);
    std::vector<double> x{1, 0, 5};
    plane.rotate_tokens(heads_view<double>(x.data(), 1, 1, 3), std::vector<double>{0.3});
    CHECK(x[0] == Approx(std::cos(0.6)).epsilon(1e-15));
    CHECK(x[1] == Approx(-std::sin(0.6)).epsilon(1e-15));
    CHECK(x[2] == 5);
}

TEST_CASE("grape: parallel vectors turn nothing, nearly parallel ones keep their digits",
          "[schemes][grape]") {
    const std::vector<double> a{1, 2, -1};
    CHECK(grape::plane(a, std::vector<double>{2, 4, -2}).area() == 0);
    CHECK(grape::plane(std::vector<double>{0, 0}, std::vector<double>{1, 2}).area() == 0);
    std::vector<double> x{1, 1, 1};
    grape::plane(a, a).rotate_tokens(heads_view<double>(x.data(), 1, 1, 3), std::vector<double>{7});
    CHECK(x == std::vector<double>{1, 1, 1});
    // b = a + 1e-9 c with c across a: the area is 1e-9 |a| |c|, which the difference of products loses.
    const std::vector<double> near{1 + 1e-9, 2, -1 + 1e-9};
    CHECK(grape::plane(a, near).area() == Approx(1e-9 * std::sqrt(12.0)).epsilon(1e-6));
}

TEST_CASE("grape: factors and their derivatives are one curve on both sides of the series",
          "[schemes][grape]") {
    for (const double eta : {0.7, -2.0})
        for (const double t : {1e-6, 0.3, 0.499, 0.501, 0.9, 4.0}) {
            const double s = t / std::abs(eta);
            const auto f = grape::plane_factors::at(eta, s);
            const long double u = (long double)eta * s, square = (long double)s * s;
            CHECK(f.first == Approx(double(std::sin(u) / s)).epsilon(1e-14));
            const long double half = std::sin(u / 2);
            CHECK(f.second == Approx(double(2 * half * half / square)).epsilon(1e-14));
            const auto at = [&](long double s2) {
                const long double r = std::sqrt(s2), v = eta * r, h = std::sin(v / 2);
                return std::pair<long double, long double>{std::sin(v) / r, 2 * h * h / s2};
            };
            if (t < 0.1) continue;
            const long double h = square * 1e-5L;
            CHECK(f.first_by_square ==
                  Approx(double((at(square + h).first - at(square - h).first) / (2 * h))).epsilon(1e-8));
            CHECK(f.second_by_square ==
                  Approx(double((at(square + h).second - at(square - h).second) / (2 * h))).epsilon(1e-8));
        }
    const auto zero = grape::plane_factors::at(2, 0);
    CHECK(zero.first == 2);
    CHECK(zero.second == 2);
    CHECK(zero.first_by_square == Approx(-8.0 / 6).epsilon(1e-15));
    CHECK(zero.second_by_square == Approx(-16.0 / 24).epsilon(1e-15));
}

TEST_CASE("grape: the plane's gradient by differences", "[schemes][grape]") {
    const rw::index d = 5;
    for (const double position : {0.1, 1.0, 5.0}) {
        auto a = support::noise(d, 1), b = support::noise(d, 2);
        const auto x = support::noise(d, 3), g = support::noise(d, 4);
        std::vector<double> by_a(d), by_b(d);
        grape::plane(a, b, 0.7).add_gradient(position, x, g, by_a, by_b);
        const auto loss = [&] {
            auto y = x;
            grape::plane(a, b, 0.7).rotate_tokens(heads_view<double>(y.data(), 1, 1, d),
                                                  std::vector<double>{position});
            double sum = 0;
            for (rw::index i = 0; i < d; ++i) sum += g[i] * y[i];
            return sum;
        };
        const auto check = [&](std::vector<double>& p, const std::vector<double>& grad) {
            for (rw::index i = 0; i < d; ++i) {
                const double old = p[i];
                p[i] = old + 1e-5;
                const double up = loss();
                p[i] = old - 1e-5;
                const double down = loss();
                p[i] = old;
                CHECK(grad[i] == Approx((up - down) / 2e-5).margin(2e-8));
            }
        };
        check(a, by_a);
        check(b, by_b);
    }
}

TEST_CASE("grape: positions of the text", "[schemes][grape]") {
    const auto at = grape::context_positions(std::vector<double>{0, 16, -16, 5});
    CHECK(at[0] == 0);
    CHECK(at[1] == 0.5);
    CHECK(at[2] == Approx(0.5 + 1 / (1 + std::exp(-1.0))).epsilon(1e-15));
    CHECK(at[3] == Approx(1.5).epsilon(1e-15));
    CHECK_REFUSES("grape::context_positions: scale must be finite and not 0, got 0",
                  grape::context_positions(at, 0));
}

TEST_CASE("grape: refuses vectors that do not fit", "[schemes][grape][errors]") {
    const std::vector<double> a{1, 0}, b{0, 1};
    CHECK_REFUSES("grape::plane: b must have a's channels: wanted 2, got 1",
                  grape::plane(a, std::vector<double>{1}));
    CHECK_REFUSES("grape::plane: a must be finite, got nan", grape::plane(std::vector<double>{1, NAN}, b));
    std::vector<double> x(4);
    const grape::plane plane(a, b);
    CHECK_REFUSES("grape::plane::rotate_tokens: positions must have one entry a token: wanted 2, got 1",
                  plane.rotate_tokens(heads_view<double>(x.data(), 2, 1, 2), std::vector<double>{1}));
    CHECK_REFUSES("grape::plane::add_gradient: vectors must have the plane's channels: wanted 2, got 4",
                  plane.add_gradient(1, x, a, x, x));
}
