// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/pope.hpp>

#include <cmath>

#include <ropewalk/attention/exact.hpp>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

namespace {

long double soft(long double x) { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0L); }

template <class T>
void against_long_double() {
    using C = compute_t<T>;
    for (const rw::index rotated : {0, 1, 4, 6, 15, 16, 17, 34, 64})
        for (const pair_layout layout :
             {pair_layout(half_split{}), pair_layout(interleaved{}), pair_layout::blocked_by(4)}) {
            if (!layout.fits(rotated)) continue;
            const rw::index tokens = 4, heads = 2, channels = std::max<rw::index>(6, rotated + 3);
            const auto s = pope::make_spectrum(std::max<rw::index>(rotated, 1), 100);
            const auto at = support::noise(tokens, 1, {0, 50});
            auto rows = make_rotation_table<C>(s, position_ids::from(at));
            if (rotated == 0) rows = rotation_table<C>(tokens, 1, 0);
            support::heads_buffer<T> x({1, tokens, heads, channels}, 3),
                out({1, tokens, heads, channels + rotated}, 2, 1);
            x.fill(2);
            const std::vector<std::int32_t> row{0, 1, -1, 3};
            const auto of_tokens = rows.rows(row);
            out.each([](T& v) { v = T(C(7)); });
            pope::widen(layout, x.view(), out.view(), of_tokens);
            CHECK(out.canaries_alive());
            const auto from = x.numbers(), got = out.numbers();
            const double ulp = std::is_same_v<C, double> ? 0x1p-52 : 0x1p-23;
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index h = 0; h < heads; ++h) {
                    const double* y = &got[(n * heads + h) * (channels + rotated)];
                    const double* v = &from[(n * heads + h) * channels];
                    for (rw::index c = 0; c < rotated; ++c) {
                        const long double mu = soft(v[c]),
                                          a = at[n] * std::pow(100.0L, -(long double)c / rotated);
                        const double want[2] = {n == 2 ? 7 : double(mu * std::cos(a)),
                                                n == 2 ? 7 : double(mu * std::sin(a))};
                        const rw::index place[2] = {layout.first(c, rotated), layout.second(c, rotated)};
                        for (int k = 0; k < 2; ++k)
                            CHECK(std::abs(y[place[k]] - want[k]) <=
                                  4 * ulp * double(mu) + 1e-13 + budgets::storage_rounding<T>(want[k]));
                    }
                    for (rw::index c = rotated; c < channels; ++c)
                        CHECK(y[rotated + c] == (n == 2 ? 7 : v[c]));
                }
        }
}

}  // namespace

TEST_CASE("pope: every type and layout against long double", "[kernels][pope]") {
    against_long_double<double>();
    against_long_double<float>();
    against_long_double<bf16>();
}

TEST_CASE("pope: scores know the distance and the phase alone", "[kernels][pope]") {
    const rw::index r = 4;
    const auto s = pope::make_spectrum(r);
    CHECK(s.omega(1) == Approx(0.1).epsilon(1e-15));
    const auto phases = pope::clamp_phases(std::vector<double>{-1, 0.3, -7, -0.25});
    CHECK(phases == std::vector<double>{-1, 0, -2 * std::acos(-1.0), -0.25});
    const auto q = support::noise(r, 1), k = support::noise(r, 2);
    const auto score = [&](double t, double from) {
        std::vector<double> a(2 * r), b(2 * r);
        auto qq = q, kk = k;
        const auto of_q = make_rotation_table<double>(s, position_ids::from(std::vector<double>{t}));
        const auto of_k =
            pope::make_key_table<double>(s, phases, position_ids::from(std::vector<double>{from}));
        pope::widen(interleaved{}, heads_view<double>(qq.data(), 1, 1, r),
                    heads_view<double>(a.data(), 1, 1, 2 * r), of_q.rows());
        pope::widen(interleaved{}, heads_view<double>(kk.data(), 1, 1, r),
                    heads_view<double>(b.data(), 1, 1, 2 * r), of_k.rows());
        double sum = 0;
        for (rw::index c = 0; c < 2 * r; ++c) sum += a[c] * b[c];
        return sum;
    };
    for (const double apart : {0.0, 5.0, 100.0}) {
        long double want = 0;
        for (rw::index c = 0; c < r; ++c)
            want += soft(q[c]) * soft(k[c]) * std::cos(-apart * std::pow(1e4L, -c / 4.0L) + phases[c]);
        for (const double from : {0.0, 33.0})
            CHECK(score(from + apart, from) == Approx(double(want)).epsilon(1e-12));
    }
}

TEST_CASE("pope: query head q meets kv head q / group, and q mod kv heads by slices with a step",
          "[kernels][pope]") {
    const rw::index tokens = 5, heads = 6, kv = 2, group = heads / kv, r = 4, d = 6, wide = r + d;
    const auto s = pope::make_spectrum(r);
    const auto q = support::noise(tokens * heads * d, 1), k = support::noise(tokens * kv * d, 2),
               v = support::noise(tokens * kv * d, 3), phases = support::noise(kv * r, 4, {-2, 1});
    const auto where = position_ids::text(tokens);
    std::vector<double> wide_q(tokens * heads * wide), wide_k(tokens * kv * wide);
    const heads_view<double> queries(wide_q.data(), tokens, heads, wide),
        keys(wide_k.data(), tokens, kv, wide);
    const auto of_queries = make_rotation_table<double>(s, where);
    const auto of_keys = pope::make_key_table<double>(s, phases, where);
    pope::widen(half_split{}, heads_view<const double>(q.data(), tokens, heads, d), queries,
                of_queries.rows());
    pope::widen(half_split{}, heads_view<const double>(k.data(), tokens, kv, d), keys, of_keys.rows());
    const heads_view<const double> values(v.data(), tokens, kv, d);
    const double scale = 1 / std::sqrt(double(d));
    // From the definition: query head h beside kv head g.
    const auto want = [&](rw::index h, rw::index g, rw::index n, rw::index channel) {
        long double total = 0, sum = 0;
        for (rw::index j = 0; j <= n; ++j) {
            long double score = 0;
            for (rw::index c = 0; c < d; ++c) {
                const double a = q[(n * heads + h) * d + c], b = k[(j * kv + g) * d + c];
                score += c < r ? soft(a) * soft(b) *
                                     std::cos((n - j) * std::pow(1e4L, -c / 4.0L) - phases[g * r + c])
                               : (long double)a * b;
            }
            const long double weight = std::exp(score * scale);
            total += weight;
            sum += weight * v[(j * kv + g) * d + channel];
        }
        return double(sum / total);
    };
    std::vector<double> got(tokens * heads * d);
    const heads_view<double> out(got.data(), tokens, heads, d);
    const attend_options<double> causal{.scale = scale, .causal = true};
    attend(heads_view<const double>(queries), heads_view<const double>(keys), values, out, causal);
    double orders_differ = 0;
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < d; ++c) {
                CHECK(out.at(0, n, h)[c] == Approx(want(h, h / group, n, c)).margin(1e-13));
                orders_differ += std::abs(want(h, h / group, n, c) - want(h, h % kv, n, c));
            }
    CHECK(orders_differ > 1);
    for (rw::index g = 0; g < kv; ++g)
        attend(heads_view<const double>(queries).head_slice(g, group, kv),
               heads_view<const double>(keys).head_slice(g, 1), values.head_slice(g, 1),
               out.head_slice(g, group, kv), causal);
    for (rw::index n = 0; n < tokens; ++n)
        for (rw::index h = 0; h < heads; ++h)
            for (rw::index c = 0; c < d; ++c)
                CHECK(out.at(0, n, h)[c] == Approx(want(h, h % kv, n, c)).margin(1e-13));
}

TEST_CASE("pope: at one place and without phases the score is of magnitudes", "[kernels][pope][reduces]") {
    std::vector<double> x{1, -2}, y(4);
    const auto rows = make_rotation_table<double>(pope::make_spectrum(2), position_ids::text(1));
    pope::widen(half_split{}, heads_view<double>(x.data(), 1, 1, 2), heads_view<double>(y.data(), 1, 1, 4),
                rows);
    CHECK(y[0] == Approx(1.3132616875182228).epsilon(1e-15));
    CHECK(y[1] == Approx(0.1269280110429725).epsilon(1e-15));
    CHECK(y[2] == 0);
    const std::vector<double> none(2);
    const auto keys = pope::make_key_table<double>(pope::make_spectrum(2), none, position_ids::text(3));
    const auto plain = make_rotation_table<double>(pope::make_spectrum(2), position_ids::text(3));
    for (rw::index n = 0; n < 3; ++n)
        for (rw::index c = 0; c < 2; ++c) CHECK(keys.cos_row(n)[c] == plain.cos_row(n)[c]);
}

TEST_CASE("pope: softplus and its derivative over all magnitudes", "[kernels][pope]") {
    const auto check = []<class T>(T, double relative, double least) {
        std::vector<T> x;
        for (double v = -least; v <= least; v += 0.0625) x.push_back(T(v));
        for (const double v : {0.0, 1e-6, -1e-6, 1e-3, -0.34657}) x.push_back(T(v));
        const auto n = rw::index(x.size());
        std::vector<T> y(2 * x.size()), g(2 * x.size(), T(1)), by(x.size());
        rotation_table<T> rows(1, 1, n);  // cos 1, sin 0
        std::fill_n(rows.cos_data(0), n, T(1));
        const heads_view<const T> in(x.data(), 1, 1, n), gradient(g.data(), 1, 1, 2 * n);
        pope::widen(half_split{}, in, heads_view<T>(y.data(), 1, 1, 2 * n), rows.rows());
        pope::widen_gradient(half_split{}, in, gradient, heads_view<T>(by.data(), 1, 1, n), rows.rows());
        for (rw::index i = 0; i < n; ++i) {
            const long double mu = soft(x[i]), slope = 1 / (1 + std::exp(-(long double)x[i]));
            CHECK(std::abs(double(y[i] - mu)) <= relative * double(mu));
            CHECK(std::abs(double(by[i] - slope)) <= relative * double(slope));
            CHECK(y[n + i] == 0);
        }
    };
    check(float(0), 4e-7, 80);
    check(double(0), 1e-15, 700);
}

TEST_CASE("pope: a gradient of many channels is that of channels one by one", "[kernels][pope]") {
    for (const pair_layout layout :
         {pair_layout(half_split{}), pair_layout(interleaved{}), pair_layout::blocked_by(4)})
        for (const rw::index r : {2, 18, 36, 64}) {
            const rw::index tokens = 3, heads = 2, d = r + 5;
            const auto x = support::noise(tokens * heads * d, 1, {0, 4}),
                       g = support::noise(tokens * heads * (d + r), 2);
            std::vector<double> by(x.size(), 9.0);
            const auto rows =
                make_rotation_table<double>(pope::make_spectrum(r), position_ids::text(tokens, 5));
            pope::widen_gradient(layout, heads_view<const double>(x.data(), tokens, heads, d),
                                 heads_view<const double>(g.data(), tokens, heads, d + r),
                                 heads_view<double>(by.data(), tokens, heads, d), rows.rows());
            for (rw::index at = 0; at < tokens * heads; ++at)
                for (rw::index c = 0; c < d; ++c) {
                    const double* of = &g[at * (d + r)];
                    double want = c < r ? 0 : of[r + c];
                    if (c < r)
                        want = double((of[layout.first(c, r)] * (long double)rows.cos_row(at / heads)[c] +
                                       of[layout.second(c, r)] * (long double)rows.sin_row(at / heads)[c]) /
                                      (1 + std::exp(-(long double)x[at * d + c])));
                    CHECK(by[at * d + c] == Approx(want).margin(2e-15));
                }
        }
}

TEST_CASE("pope: key rows of untouched tokens leave them", "[kernels][pope]") {
    position_ids where;
    where.append(untouched_run{1}).append(text_run{2, 7, 1});
    const std::vector<double> phases{-0.5, -1};
    const auto rows = pope::make_key_table<double>(pope::make_spectrum(2), phases, where);
    REQUIRE(rows.rows().tokens == 3);
    std::vector<double> x(6, 1.0), y(12, 9.0);
    pope::widen(half_split{}, heads_view<double>(x.data(), 3, 1, 2), heads_view<double>(y.data(), 3, 1, 4),
                rows);
    for (int c = 0; c < 4; ++c) CHECK(y[c] == 9);
    for (int n = 1; n < 3; ++n)
        for (int c = 0; c < 2; ++c) {
            const long double a = (6 + n) * std::pow(1e4L, -c / 2.0L) + phases[c];
            CHECK(y[4 * n + c] == Approx(double(soft(1) * std::cos(a))).margin(1e-14));
            CHECK(y[4 * n + 2 + c] == Approx(double(soft(1) * std::sin(a))).margin(1e-14));
        }
}

TEST_CASE("pope: gradients by differences", "[kernels][pope]") {
    const rw::index r = 3, d = 5, tokens = 2, heads = 2;
    const auto s = pope::make_spectrum(r);
    const auto where = position_ids::from(std::vector<double>{2, 9});
    auto x = support::noise(tokens * heads * d, 1), phases = support::noise(heads * r, 2, {-2, 1});
    auto g = support::noise(tokens * heads * (d + r), 3);
    const auto view = [&](std::vector<double>& v, rw::index channels) {
        return heads_view<double>(v.data(), tokens, heads, channels);
    };
    const auto wide = [&] {
        std::vector<double> out(g.size());
        const auto rows = pope::make_key_table<double>(s, phases, where);
        pope::widen(interleaved{}, view(x, d), view(out, d + r), rows);
        return out;
    };
    const auto loss = [&] {
        const auto y = wide();
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * g[i];
        return sum;
    };
    std::vector<double> by_x(x.size());
    const auto rows = pope::make_key_table<double>(s, phases, where);
    pope::widen_gradient(interleaved{}, view(x, d), view(g, d + r), view(by_x, d), rows);
    auto y = wide();
    const auto by_phase = pope::make_phase_gradient(interleaved{}, heads_view<const double>(view(y, d + r)),
                                                    heads_view<const double>(view(g, d + r)), r);
    const auto check = [&](std::vector<double>& p, const std::vector<double>& grad) {
        for (std::size_t i = 0; i < p.size(); ++i) {
            const double old = p[i];
            p[i] = old + 1e-5;
            const double up = loss();
            p[i] = old - 1e-5;
            const double down = loss();
            p[i] = old;
            CHECK(grad[i] == Approx((up - down) / 2e-5).margin(1e-8));
        }
    };
    check(x, by_x);
    check(phases, by_phase);
}

TEST_CASE("pope: far below zero a channel dies, far above it is itself", "[kernels][pope]") {
    std::vector<float> x{-200, 200, 0}, y(6);
    const auto rows = make_rotation_table<float>(pope::make_spectrum(3), position_ids::text(1));
    pope::widen(half_split{}, heads_view<float>(x.data(), 1, 1, 3), heads_view<float>(y.data(), 1, 1, 6),
                rows);
    CHECK(y[0] == 0);
    CHECK(y[1] == 200);
    CHECK(y[2] == Approx(std::log(2.0)).epsilon(1e-7));
}

TEST_CASE("pope: refuses bad numbers", "[kernels][pope][errors]") {
    CHECK_REFUSES("pope::make_spectrum: channels must be >= 1, got 0", pope::make_spectrum(0));
    CHECK_REFUSES("pope::clamp_phases: phases must be numbers, got nan",
                  pope::clamp_phases(std::vector<double>{NAN}));
    CHECK_REFUSES(
        "pope::make_key_table: phases must hold heads * channels numbers, got 3",
        pope::make_key_table<>(pope::make_spectrum(2), std::vector<double>(3), position_ids::text(1)));
}
