// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/skew_exponential.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

std::vector<double> skew(rw::index side, unsigned seed, double size = 1) {
    const auto v = support::noise(side * side, seed, {0, size});
    std::vector<double> s(side * side);
    for (rw::index r = 0; r < side; ++r)
        for (rw::index c = 0; c < r; ++c) s[c * side + r] = -(s[r * side + c] = v[r * side + c]);
    return s;
}

/// The exponential in long double: many halvings, a long sum.
std::vector<long double> reference(const std::vector<double>& s, rw::index side) {
    using matrix = std::vector<long double>;
    const auto times = [side](const matrix& a, const matrix& b) {
        matrix out(a.size());
        for (rw::index r = 0; r < side; ++r)
            for (rw::index c = 0; c < side; ++c)
                for (rw::index k = 0; k < side; ++k) out[r * side + c] += a[r * side + k] * b[k * side + c];
        return out;
    };
    matrix a(s.begin(), s.end()), sum(a.size()), term(a.size());
    for (auto& v : a) v = std::ldexp(v, -12);
    for (rw::index i = 0; i < side; ++i) sum[i * side + i] = term[i * side + i] = 1;
    for (int k = 1; k < 25; ++k) {
        term = times(term, a);
        for (std::size_t i = 0; i < a.size(); ++i) sum[i] += term[i] /= k;
    }
    for (int k = 0; k < 12; ++k) sum = times(sum, sum);
    return sum;
}

}  // namespace

TEST_CASE("skew_exponential: against long double, and a rotation", "[angles][skew_exponential]") {
    for (const rw::index side : {1, 2, 3, 4, 5, 8, 16})
        for (const double size : {1e-9, 1e-3, 1.0, 30.0}) {
            const auto s = skew(side, unsigned(side), size);
            std::vector<double> r(side * side);
            fill_rotation_exponential(s, side, r);
            const auto want = reference(s, side);
            for (std::size_t i = 0; i < r.size(); ++i)
                CHECK(std::abs(double(r[i] - want[i])) < 1e-15 * (4 + side * size * 8));
            for (rw::index a = 0; a < side; ++a)
                for (rw::index b = 0; b < side; ++b) {
                    double dot = 0;
                    for (rw::index k = 0; k < side; ++k) dot += r[k * side + a] * r[k * side + b];
                    CHECK(std::abs(dot - (a == b)) < 1e-15 * (4 + side * size * 8));
                }
        }
}

TEST_CASE("skew_exponential: side 2 is a pair, side 3 the published numbers",
          "[angles][skew_exponential][reduces]") {
    std::vector<double> r(4);
    fill_rotation_exponential(std::vector<double>{0, -1000.5, 1000.5, 0}, 2, r);
    CHECK(r == std::vector<double>{std::cos(1000.5), -std::sin(1000.5), std::sin(1000.5), std::cos(1000.5)});
    std::vector<double> y(9);
    fill_rotation_exponential(std::vector<double>{0, .3, -.4, -.3, 0, 1.2, .4, -1.2, 0}, 3, y);
    CHECK(y[0] == Approx(0.89164184).epsilon(1e-7));
    CHECK(y[3] == Approx(-0.01431191).epsilon(1e-6));
    CHECK(y[6] == Approx(0.45251519).epsilon(1e-7));
}

TEST_CASE("skew_exponential: zero is the identity, and one generator adds up", "[angles][skew_exponential]") {
    for (const rw::index side : {1, 2, 3, 4, 6}) {
        std::vector<double> r(side * side), a(r), b(r), both(r);
        fill_rotation_exponential(std::vector<double>(side * side), side, r);
        for (rw::index i = 0; i < side * side; ++i) CHECK(r[i] == (i % (side + 1) == 0));
        const auto s = skew(side, 7);
        auto half = s, third = s;
        for (auto& v : half) v *= 0.5;
        for (auto& v : third) v *= 1.5;
        fill_rotation_exponential(s, side, a), fill_rotation_exponential(half, side, b);
        fill_rotation_exponential(third, side, both);
        for (rw::index i = 0; i < side; ++i)
            for (rw::index j = 0; j < side; ++j) {
                double sum = 0;
                for (rw::index k = 0; k < side; ++k) sum += a[i * side + k] * b[k * side + j];
                CHECK(sum == Approx(both[i * side + j]).margin(2e-14));
            }
    }
}

TEST_CASE("skew_exponential: the gradient by differences", "[angles][skew_exponential]") {
    for (const rw::index side : {2, 3, 4, 5}) {
        const auto s = skew(side, 3), x = support::noise(side, 4), g = support::noise(side, 5);
        std::vector<double> direction, gamma(side * side);
        for (rw::index r = 0; r < side; ++r)
            for (rw::index c = 0; c < side; ++c) direction.push_back(1e6 * g[r] * x[c]);
        fill_exponential_gradient(s, direction, side, gamma);
        const auto loss = [&](const std::vector<double>& at) {
            const auto r = reference(at, side);
            long double sum = 0;
            for (rw::index i = 0; i < side; ++i)
                for (rw::index j = 0; j < side; ++j) sum += 1e6L * g[i] * r[i * side + j] * x[j];
            return sum;
        };
        const double h = 1e-6;
        for (rw::index r = 0; r < side; ++r)
            for (rw::index c = 0; c < r; ++c) {
                auto up = s, down = s;
                up[r * side + c] += h, up[c * side + r] -= h;
                down[r * side + c] -= h, down[c * side + r] += h;
                const double by_difference = double((loss(up) - loss(down)) / (2 * h));
                CHECK(gamma[r * side + c] - gamma[c * side + r] ==
                      Approx(by_difference).epsilon(1e-6).margin(1e-2));
            }
    }
}

TEST_CASE("skew_exponential: refuses what is no rotation", "[angles][skew_exponential][errors]") {
    std::vector<double> r(4);
    CHECK_REFUSES("fill_rotation_exponential: matrices must be skew-symmetric, sum, got 2",
                  fill_rotation_exponential(std::vector<double>{0, 1, 1, 0}, 2, r));
    // But not what fused products leave of u v^T - v u^T.
    fill_rotation_exponential(std::vector<double>{3e-25, std::nextafter(0.5, 1.0), -0.5, 0}, 2, r);
    CHECK(r[0] == Approx(std::cos(0.5)).epsilon(1e-15));
    CHECK(r[2] == -r[1]);
#if !defined(__FAST_MATH__)  // which says that there is no NaN
    CHECK_REFUSES("fill_rotation_exponential: entries must be finite, got nan",
                  fill_rotation_exponential(std::vector<double>{NAN, 1, -1, 0}, 2, r));
#endif
    CHECK_REFUSES("fill_rotation_exponential: side must be in 1 .. 64, got 65",
                  fill_rotation_exponential(r, 65, r));
    CHECK_REFUSES("fill_rotation_exponential: matrices must hold side * side numbers: wanted 9, got 4",
                  fill_rotation_exponential(r, 3, r));
#if !defined(__FAST_MATH__)  // which says that there is no NaN
    CHECK_REFUSES("fill_exponential_gradient: direction must be finite, got nan",
                  fill_exponential_gradient(std::vector<double>(4), std::vector<double>{NAN, 0, 0, 0}, 2, r));
#endif
}
