// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/grape_planes.hpp>

#include <cmath>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/axis_orders.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("grape_planes: start values are interleaved RoPE with cyclic axes",
          "[schemes][grape_planes][reduces]") {
    const rw::index dim = 12, planes = 6;
    std::vector<double> a(planes * dim), b(planes * dim), directions(planes * 3);
    for (rw::index p = 0; p < planes; ++p) {
        a[p * dim + 2 * p] = 2;  // lengths do not matter
        b[p * dim + 2 * p + 1] = 3, b[p * dim + 2 * p] = 5;
        directions[p * 3 + p % 3] = 0.5;
    }
    const grape::learned_planes map({.channels = dim, .planes = planes}, a, b, directions);
    position_ids where(3);
    where.append(listed_run{support::noise(3 * 3, 1, {0, 20})}).append(untouched_run{1});
    support::heads_buffer<double> x({1, 4, 2, dim}, 3), y({1, 4, 2, dim});
    x.fill(7), y.fill(7);
    map.rotate_tokens(x.view(), where);
    const auto rows = make_rotation_table<double>(
        frequencies::assign_axes(frequencies::geometric({.rotary_dim = dim}), axis_map::cyclic(planes)),
        where);
    rotate(interleaved{}, y.view(), rows);
    CHECK(support::worst(x.dense(), y.dense()) < 1e-13);
    CHECK(x.canaries_alive());
}

TEST_CASE("grape_planes: one plane by its formula in long double", "[schemes][grape_planes]") {
    const rw::index dim = 5;
    const auto a = support::noise(dim, 1), b = support::noise(dim, 2), d = support::noise(2, 3);
    const auto x0 = support::noise(dim, 4);
    const grape::learned_planes map({.channels = dim, .planes = 1}, a, b, d);
    std::vector<long double> e(a.begin(), a.end()), f(b.begin(), b.end());
    const auto dot = [](const auto& u, const auto& v) {
        long double s = 0;
        for (std::size_t i = 0; i < u.size(); ++i) s += (long double)u[i] * v[i];
        return s;
    };
    const long double na = std::sqrt(dot(e, e));
    for (auto& v : e) v /= na;
    const long double along = dot(e, f);
    for (int i = 0; i < dim; ++i) f[i] -= along * e[i];
    const long double nb = std::sqrt(dot(f, f)), nd = std::sqrt(dot(d, d));
    for (auto& v : f) v /= nb;
    const long double angle = (3 * (long double)d[0] - 2 * (long double)d[1]) / nd;
    auto x = x0;
    const auto where = position_ids::from_tokens_axes(std::vector<double>{3, -2}, 2);
    CHECK(map.angles(where)[0] == Approx(double(angle)).epsilon(1e-14));
    map.rotate_tokens(heads_view<double>(x.data(), 1, 1, dim), where);
    const long double xe = dot(x0, e), xf = dot(x0, f), c = std::cos(angle), s = std::sin(angle);
    double norm = 0, before = 0;
    for (int i = 0; i < dim; ++i) {
        CHECK(x[i] == Approx(double(x0[i] + ((c - 1) * xe - s * xf) * e[i] + ((c - 1) * xf + s * xe) * f[i]))
                          .epsilon(1e-13));
        norm += x[i] * x[i], before += x0[i] * x0[i];
    }
    CHECK(norm == Approx(before).epsilon(1e-13));  // a single plane is a rotation
}

TEST_CASE("grape_planes: planes that are not orthogonal change the norm", "[schemes][grape_planes]") {
    const std::vector<double> a{1, 0, 0, 1, 1, 0}, b{0, 1, 0, 0, 0, 1}, d{1, 1};
    const grape::learned_planes map({.channels = 3, .planes = 2, .base = 1}, a, b, d);
    std::vector<double> x{1, 2, 3};
    map.rotate_tokens(heads_view<double>(x.data(), 1, 1, 3), position_ids::from(std::vector<double>{1.0}));
    CHECK(std::abs(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] - 14) > 0.1);
}

TEST_CASE("grape_planes: refuses what is no plane", "[schemes][grape_planes][errors]") {
    const std::vector<double> a{1, 0}, b{0, 1}, d{1}, zero{0, 0}, none{0};
    CHECK_REFUSES("learned_planes: plane_a must hold vectors of length > 0, got 0",
                  grape::learned_planes({.channels = 2, .planes = 1}, zero, b, d));
    CHECK_REFUSES("learned_planes: plane_b must hold vectors of length > 0, got 0",
                  grape::learned_planes({.channels = 2, .planes = 1}, a, a, d));
    CHECK_REFUSES("learned_planes: directions must hold vectors of length > 0, got 0",
                  grape::learned_planes({.channels = 2, .planes = 1}, a, b, none));
    CHECK_REFUSES("learned_planes: plane_b must hold planes * channels numbers: wanted 2, got 1",
                  grape::learned_planes({.channels = 2, .planes = 1}, a, d, d));
    const grape::learned_planes map({.channels = 2, .planes = 1}, a, b, d);
    std::vector<double> x(4);
    CHECK_REFUSES("learned_planes::rotate_tokens: positions must have one entry a token: wanted 2, got 1",
                  map.rotate_tokens(heads_view<double>(x.data(), 2, 1, 2), position_ids::text(1)));
}
