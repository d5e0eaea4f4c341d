// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/attention/grape_bias.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

long double soft(long double x) { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0L); }

}  // namespace

TEST_CASE("grape_bias: slopes of ALiBi", "[attention][grape_bias]") {
    CHECK(grape::slopes(1) == std::vector<double>{std::exp2(-8)});
    CHECK(grape::slopes(2) == std::vector<double>{0.0625, 0.00390625});
    CHECK(grape::slopes(4) == std::vector<double>{.25, .0625, .015625, .00390625});
    CHECK(grape::slopes(8) ==
          std::vector<double>{.5, .25, .125, .0625, .03125, .015625, .0078125, .00390625});
    CHECK(grape::slopes(9).back() == std::exp2(-0.5));
    CHECK(grape::slopes(3) == std::vector<double>{0.0625, 0.00390625, 0.25});
    CHECK(grape::slopes(6) == std::vector<double>{.25, .0625, .015625, .00390625, .5, .125});
    CHECK_REFUSES("grape::slopes: heads must be in 1 .. 65536, got 0", grape::slopes(0));
    CHECK(grape::softplus(1) == Approx(1.3132616875182228).epsilon(1e-15));
    CHECK(grape::softplus(1000) == 1000);
    CHECK(grape::softplus(-1000) == 0);
}

TEST_CASE("grape_bias: each gate by its formula in long double", "[attention][grape_bias]") {
    const rw::index heads = 3, tokens = 6, d = 4;
    const auto q = support::noise(tokens * heads * d, 1), k = support::noise(tokens * heads * d, 2);
    const auto u = support::noise(heads * d, 3), v = support::noise(heads * d, 4),
               w = support::noise(heads, 5);
    const heads_view<const double> of_q(q.data(), tokens, heads, d), of_k(k.data(), tokens, heads, d);
    for (const auto by : {grape::gate::key, grape::gate::query, grape::gate::both})
        for (const auto norm : {grape::gate_norm::unit, grape::gate_norm::as_given}) {
            const auto bias = grape::make_bias({.by = by, .norm = norm}, {u, v, w}, of_q, of_k);
            for (rw::index h = 0; h < heads; ++h)
                for (rw::index i = 0; i < tokens; ++i)
                    for (rw::index j = 0; j < tokens; ++j) {
                        long double uk = 0, vq = 0, uu = 0, vv = 0;
                        for (rw::index c = 0; c < d; ++c) {
                            uk += (long double)u[h * d + c] * k[(j * heads + h) * d + c];
                            vq += (long double)v[h * d + c] * q[(i * heads + h) * d + c];
                            uu += (long double)u[h * d + c] * u[h * d + c];
                            vv += (long double)v[h * d + c] * v[h * d + c];
                        }
                        if (norm == grape::gate_norm::unit) uk /= std::sqrt(uu), vq /= std::sqrt(vv);
                        long double rate = 0;
                        if (by != grape::gate::query) rate += soft(uk / 2);
                        if (by != grape::gate::key) rate += soft(vq / 2);
                        const long double want =
                            j <= i ? -(i - j) * soft(w[h]) * grape::slopes(heads)[h] * rate : 0.0L;
                        const double got = bias[(h * tokens + i) * tokens + j];
                        CHECK(got == Approx(double(want)).margin(1e-15));
                        CHECK(got <= 0);
                        if (by == grape::gate::query && j > 0 && j <= i)
                            CHECK(got >= bias[(h * tokens + i) * tokens + j - 1]);
                    }
        }
}

TEST_CASE("grape_bias: a constant rate is ALiBi", "[attention][grape_bias][reduces]") {
    const std::vector<double> zero(8), one(2, std::log(std::exp(1.0) - 1));  // softplus 1
    const heads_view<const double> x(zero.data(), 2, 2, 2);
    const auto bias = grape::make_bias({.norm = grape::gate_norm::as_given},
                                       {.u = std::span(zero).first(4), .omega = one}, x, x);
    for (rw::index h = 0; h < 2; ++h)
        CHECK(bias[(h * 2 + 1) * 2] == Approx(-grape::slopes(2)[h] * std::log(2.0)).epsilon(1e-14));
}

TEST_CASE("grape_bias: the path by its formula in long double", "[attention][grape_bias]") {
    const rw::index heads = 2, tokens = 5, d = 6;
    const auto p = support::noise(tokens * heads * d, 1);
    const auto bias = grape::make_path_bias(heads_view<const double>(p.data(), tokens, heads, d));
    for (rw::index h = 0; h < heads; ++h)
        for (rw::index i = 0; i < tokens; ++i)
            for (rw::index j = 0; j < tokens; ++j) {
                long double want = 0;
                for (rw::index l = j + 1; l <= i; ++l) {
                    const double *a = &p[(i * heads + h) * d], *b = &p[(l * heads + h) * d];
                    long double square = 0, dot = 0;
                    for (rw::index c = 0; c < d; ++c) square += (long double)b[c] * b[c];
                    const long double by = 1 / std::sqrt(square / d + 0x1p-23L),
                                      co = std::cos((long double)l), si = std::sin((long double)l);
                    for (rw::index c = 0; c < d / 2; ++c)
                        dot += a[c] * by * (b[c] * co + b[c + 3] * si) +
                               a[c + 3] * by * (b[c + 3] * co - b[c] * si);
                    want -= grape::slopes(heads)[h] * soft(-dot / d);
                }
                CHECK(bias[(h * tokens + i) * tokens + j] == Approx(double(want)).margin(1e-15));
            }
}

TEST_CASE("grape_bias: refuses sizes that do not fit", "[attention][grape_bias][errors]") {
    const std::vector<double> x(12), w(2);
    const heads_view<const double> q(x.data(), 2, 2, 3);
    CHECK_REFUSES("grape::make_bias: u must hold heads * channels numbers, got 0",
                  grape::make_bias({}, {.omega = w}, q, q));
    CHECK_REFUSES("grape::make_bias: omega must hold one number a head: wanted 2, got 0",
                  grape::make_bias({}, {}, q, q));
    CHECK_REFUSES("grape::make_path_bias: channels must be even, got 3", grape::make_path_bias(q));
}
