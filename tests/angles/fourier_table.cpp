// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/fourier_table.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/frequencies/keep_pairs.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("fourier_table: every entry by its sum in long double", "[angles][fourier_table]") {
    const rw::index kept = 3, outputs = 4, heads = 2, pairs = 6;
    const auto omega = frequencies::geometric({.rotary_dim = 2 * kept});
    const auto c = support::noise(heads * kept * outputs, 1), s = support::noise(heads * kept * outputs, 2);
    const std::vector<double> at{0, 1, -3.5, 1000};
    for (const auto rest : {rest_pairs::zero, rest_pairs::one})
        for (const auto norm : {coefficient_norm::as_given, coefficient_norm::sum_to_one}) {
            const auto table = make_fourier_table<double>(
                {.pairs = pairs, .outputs = outputs, .heads = heads, .group = 3, .rest = rest, .norm = norm},
                omega, c, s, position_ids::from(at));
            REQUIRE(table.table().heads() == 6);
            for (rw::index p = 0; p < 4; ++p)
                for (rw::index h = 0; h < 6; ++h)
                    for (rw::index j = 0; j < pairs; ++j) {
                        long double cos = 0, sin = 0, sum_c = 0, sum_s = 0;
                        for (rw::index u = 0; u < kept && j < outputs; ++u) {
                            const long double angle = (long double)at[p] * std::pow(1e4L, -u / 3.0L);
                            const auto k = (h / 3 * kept + u) * outputs + j;
                            cos += std::cos(angle) * c[k];
                            sin += std::sin(angle) * s[k];
                            sum_c += c[k];
                            sum_s += s[k];
                        }
                        if (j < outputs && norm == coefficient_norm::sum_to_one) cos /= sum_c, sin /= sum_s;
                        if (j >= outputs) cos = 1, sin = rest == rest_pairs::one;
                        CHECK(table.table().cos_row(p, h)[j] ==
                              Approx(double(cos)).margin(1e-13).epsilon(1e-12));
                        CHECK(table.table().sin_row(p, h)[j] ==
                              Approx(double(sin)).margin(1e-13).epsilon(1e-12));
                        CHECK(table.squared_scale(p, h, j) ==
                              Approx(double(cos * cos + sin * sin)).margin(1e-13).epsilon(1e-12));
                    }
        }
}

TEST_CASE("fourier_table: identity coefficients are RoPE over the kept pairs",
          "[angles][fourier_table][reduces]") {
    const rw::index pairs = 4;
    const auto full = frequencies::geometric({.rotary_dim = 2 * pairs});
    const auto kept = frequencies::select_pairs(full, std::vector<rw::index>{0, 1, 2});
    std::vector<double> identity(9);
    for (int i = 0; i < 3; ++i) identity[4 * i] = 1;
    const auto where = position_ids::text(20);
    const auto mixed =
        make_fourier_table<float>({.pairs = pairs, .outputs = 3}, kept, identity, identity, where);
    const auto plain = make_rotation_table<float>(
        frequencies::keep_pairs(full, std::vector<std::uint8_t>{1, 1, 1, 0}), where);
    for (rw::index p = 0; p < 20; ++p)
        for (rw::index i = 0; i < pairs; ++i) {
            CHECK(mixed.table().cos_row(p)[i] == Approx(plain.cos_row(p)[i]).margin(1e-7));
            CHECK(mixed.table().sin_row(p)[i] == Approx(plain.sin_row(p)[i]).margin(1e-7));
        }
    mixed.require_orthogonal();
    // Position 0 gives the column sums, here 1.
    CHECK(mixed.table().cos_row(0)[1] == 1);
}

TEST_CASE("fourier_table: inverse undoes, and refuses what cannot be undone", "[angles][fourier_table]") {
    const auto omega = frequencies::geometric({.rotary_dim = 4});
    const auto c = support::noise(4, 3, {1, 0.3}), s = support::noise(4, 4, {1, 0.3});
    const auto where = position_ids::text(5);
    const auto table =
        make_fourier_table<double>({.pairs = 3, .outputs = 2, .rest = rest_pairs::one}, omega, c, s, where);
    support::heads_buffer<double> x({1, 5, 2, 6});
    x.fill(1);
    const auto before = x.dense();
    rotate(half_split{}, x.view(), table.table());
    CHECK(support::worst(x.dense(), before) > 0.1);
    const auto back = table.inverse();
    rotate(half_split{}, x.view(), back);
    CHECK(support::worst(x.dense(), before) < 1e-12);

#if defined(__cpp_exceptions)
    CHECK(support::refusal([&] { table.require_orthogonal(); })
              .starts_with(
                  "fourier_table: coefficients must leave every pair a rotation, squared scale 1, got "));
#endif
    const std::vector<double> nothing(4, 0.0);
    const auto dead = make_fourier_table<double>({.pairs = 3, .outputs = 2}, omega, nothing, nothing, where);
    CHECK_REFUSES(
        "fourier_table::inverse: coefficients must leave every pair a squared scale >= least, got 0",
        dead.inverse());
}

TEST_CASE("fourier_table: no shift law, and the gradient is the transpose", "[angles][fourier_table]") {
    const auto omega = frequencies::geometric({.rotary_dim = 4});
    const auto c = support::noise(4, 3), s = support::noise(4, 4);
    const auto where = position_ids::text(8);
    const auto table = make_fourier_table<double>({.pairs = 2, .outputs = 2}, omega, c, s, where);
    const auto at = [&](rw::index p) { return table.table().cos_row(p); };
    const auto sine = [&](rw::index p) { return table.table().sin_row(p); };
    // R(1)^T R(3) is not R(5)^T R(7): what a shift of a cached key would need.
    const double near = at(1)[0] * at(3)[0] + sine(1)[0] * sine(3)[0];
    const double far = at(5)[0] * at(7)[0] + sine(5)[0] * sine(7)[0];
    CHECK(std::abs(near - far) > 1e-3);

    support::heads_buffer<double> x({1, 8, 1, 4}), g({1, 8, 1, 4});
    x.fill(5), g.fill(6);
    const auto dx = x.dense(), dg = g.dense();
    rotate(half_split{}, x.view(), table.table());
    rotate_gradient(half_split{}, g.view(), table.table());
    double left = 0, right = 0;  // <g, R x> = <R^T g, x>
    for (std::size_t i = 0; i < dx.size(); ++i) left += dg[i] * x.dense()[i], right += g.dense()[i] * dx[i];
    CHECK(left == Approx(right).epsilon(1e-12));
}

TEST_CASE("fourier_table: untouched tokens stay", "[angles][fourier_table]") {
    position_ids where;
    where.append(untouched_run{1}).append(text_run{2, 0, 1});
    const auto table =
        make_fourier_table<double>({.pairs = 1, .outputs = 1}, frequencies::geometric({.rotary_dim = 2}),
                                   std::vector<double>{2}, std::vector<double>{2}, where);
    std::vector<double> x(6, 1.0);
    rotate(half_split{}, heads_view<double>(x.data(), 3, 1, 2), table.table());
    CHECK(x[0] == 1);
    CHECK(x[1] == 1);
    CHECK(x[2] == 2);
}

TEST_CASE("fourier_table: calls that do not fit are told as for any rows",
          "[angles][fourier_table][errors]") {
    const auto omega = frequencies::geometric({.rotary_dim = 4});
    const auto c = support::noise(3 * 4, 3), s = support::noise(3 * 4, 4);
    const auto make = [&](rw::index group) {
        return make_fourier_table<float>({.pairs = 4, .outputs = 2, .heads = 3, .group = group}, omega, c, s,
                                         position_ids::text(5));
    };
    const auto of_k = make(1), of_q = make(2);
    std::vector<float> memory(2 * 5 * 6 * 10, 1.0f);
    const auto view = [&](rw::index tokens, rw::index heads, rw::index channels) {
        return heads_view<float>(memory.data(), tokens, heads, channels);
    };
    const auto told = [](const misfit& m) { return to_string(m); };
    CHECK(fit(half_split{}, view(5, 3, 8), of_k).ok());
    CHECK(fit(half_split{}, view(5, 6, 8), of_q).ok());
    CHECK(fit(pair_layout::blocked_by(4), view(5, 3, 8), of_k).ok());
    // Query heads with the rows of the kv heads, another width, other tokens, a layout that does not divide.
    CHECK(told(fit(half_split{}, view(5, 6, 8), of_k)) ==
          "rows with heads of their own must be as many as the heads of the view: wanted 6, got 3");
    CHECK(told(fit(half_split{}, view(5, 3, 10), of_k)) ==
          "channels must be twice the pairs of the rows: wanted 8, got 10");
    CHECK(told(fit(half_split{}, view(4, 3, 8), of_k)) ==
          "rows must be one per token (batches * tokens): wanted 4, got 5");
    CHECK(told(fit(pair_layout::blocked_by(6), view(5, 3, 8), of_k)) ==
          "rotated channels must be a multiple of the layout's group: wanted 6, got 8");
    CHECK(told(fit(half_split{}, view(5, 6, 8), view(5, 3, 8), of_k)) ==
          "q: rows with heads of their own must be as many as the heads of the view: wanted 6, got 3");
    const std::vector<int> some{4, 0};
    CHECK(fit(half_split{}, view(2, 3, 8), of_k.rows(some)).ok());
    const std::vector<int> missing{0, 5};
    CHECK_REFUSES("rotation_table::rows: row or position must be -1 (untouched) or below 5, got 5",
                  of_k.rows(missing));
}

TEST_CASE("fourier_table: unrotate divides by each pair's own squared scale", "[angles][fourier_table]") {
    const auto omega = frequencies::geometric({.rotary_dim = 4});
    const auto c = support::noise(4, 3, {1, 0.3}), s = support::noise(4, 4, {1, 0.3});
    const auto table = make_fourier_table<double>({.pairs = 3, .outputs = 2, .rest = rest_pairs::one}, omega,
                                                  c, s, position_ids::text(5));
    support::heads_buffer<double> x({1, 5, 2, 6});
    x.fill(1);
    const auto before = x.dense();
    rotate(half_split{}, x.view(), table);
    unrotate(half_split{}, x.view(), table);
    CHECK(support::worst(x.dense(), before) < 1e-13);
}

#if defined(__cpp_exceptions)
TEST_CASE("fourier_table: refuses sizes and numbers that do not fit", "[angles][fourier_table][errors]") {
    const auto omega = frequencies::geometric({.rotary_dim = 4});
    const auto where = position_ids::text(2);
    const std::vector<double> ok(4, 1.0), bad{1, 1, NAN, 1}, few(3, 1.0), zero_sum{1, 1, -1, 1};
    static_cast<void>(bad);
    const auto make = [&](fourier_config c, const auto& cos, const auto& sin) {
        return support::refusal([&] { static_cast<void>(make_fourier_table<>(c, omega, cos, sin, where)); });
    };
    CHECK(make({.pairs = 1, .outputs = 2}, ok, ok) ==
          "make_fourier_table: outputs must be in 0 .. pairs, got 2");
    CHECK(make({.pairs = 2, .outputs = 2}, few, ok) ==
          "make_fourier_table: cos_coefficients must hold heads * kept * outputs numbers, got 3");
#if !defined(__FAST_MATH__)  // which says that there is no NaN
    CHECK(make({.pairs = 2, .outputs = 2}, ok, bad) ==
          "make_fourier_table: sin_coefficients must be finite, got nan");
#endif
    CHECK(make({.pairs = 2, .outputs = 2, .norm = coefficient_norm::sum_to_one}, zero_sum, ok) ==
          "make_fourier_table: coefficients of an output must not sum to 0, output, got 0");
    CHECK(make({.pairs = 2, .outputs = 2, .heads = 0}, ok, ok) ==
          "make_fourier_table: heads must be >= 1, got 0");
    CHECK(make({.pairs = 2, .outputs = 2, .group = 0}, ok, ok) ==
          "make_fourier_table: group must be >= 1, got 0");
}
#endif
