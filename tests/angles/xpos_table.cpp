// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/angles/xpos_table.hpp>

#include <cmath>

#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
namespace rw = ropewalk;

TEST_CASE("xpos: decay and magnitudes by their formula in long double", "[angles][xpos_table]") {
    const auto zeta = xpos_decay(64);
    CHECK(zeta[0] == Approx(0.2857142857142857).epsilon(1e-15));
    CHECK(zeta[31] == Approx(0.9776785714285714).epsilon(1e-15));
    CHECK(std::pow(zeta[0], 100.0 / 512) == Approx(0.782954834501328).epsilon(1e-14));
    const std::vector<double> at{-3, 0, 2.5, 700};
    const xpos_config c{.rotary_dim = 10, .scale_base = 64, .centre = 5};
    for (const auto side : {xpos_side::query, xpos_side::key}) {
        const auto m = xpos_magnitudes(c, side, position_ids::from(at));
        for (rw::index n = 0; n < 4; ++n)
            for (rw::index i = 0; i < 5; ++i) {
                const long double z = (2 * i + 4.0L) / 14, e = ((long double)at[n] - 5) / 64;
                CHECK(m[n * 5 + i] ==
                      Approx(double(std::pow(z, side == xpos_side::query ? e : -e))).epsilon(1e-14));
            }
    }
}

TEST_CASE("xpos: centres of the three codes", "[angles][xpos_table]") {
    CHECK(xpos_centre(xpos_convention::half_up, 5, 5) == 3);    // exponents -3 .. 1
    CHECK(xpos_centre(xpos_convention::half_up, 6, 6) == 3);    // -3 .. 2
    CHECK(xpos_centre(xpos_convention::half_down, 1, 5) == 2);  // -2 .. 2
    CHECK(xpos_centre(xpos_convention::own_half_down, 2, 6) == 1);
    CHECK_REFUSES("xpos_centre: keys must be >= 0, got -1", xpos_centre(xpos_convention::half_up, 0, -1));
}

TEST_CASE("xpos: scores know the distance alone and decay with it", "[angles][xpos_table]") {
    const xpos_config c{.rotary_dim = 8, .scale_base = 32, .centre = 10};
    const auto q = support::noise(8, 1), k = support::noise(8, 2);
    const auto score = [&](double i, double j, double centre) {
        auto config = c;
        config.centre = centre;
        auto a = q, b = k;
        const auto at_i = position_ids::from(std::vector<double>{i});
        const auto at_j = position_ids::from(std::vector<double>{j});
        const auto rows_q = make_xpos_table<double>(config, xpos_side::query, at_i);
        const auto rows_k = make_xpos_table<double>(config, xpos_side::key, at_j);
        rotate(interleaved{}, heads_view<double>(a.data(), 1, 1, 8), rows_q);
        rotate(interleaved{}, heads_view<double>(b.data(), 1, 1, 8), rows_k);
        double sum = 0;
        for (int i2 = 0; i2 < 8; ++i2) sum += a[i2] * b[i2];
        return sum;
    };
    for (const double d : {0.0, 3.0, 40.0}) {
        long double want = 0;  // sum over pairs of zeta^(d / 32) Re(conj(q) k e^(-i d theta))
        for (int i = 0; i < 4; ++i) {
            const long double zeta = (2 * i + 3.2L) / 11.2L, angle = d * std::pow(1e4L, -i / 4.0L);
            const long double dot =
                (long double)q[2 * i] * k[2 * i] + (long double)q[2 * i + 1] * k[2 * i + 1];
            const long double cross =
                (long double)q[2 * i] * k[2 * i + 1] - (long double)q[2 * i + 1] * k[2 * i];
            want += std::pow(zeta, (long double)d / 32) * (dot * std::cos(angle) + cross * std::sin(angle));
        }
        for (const double from : {0.0, 17.0, 100.0})
            for (const double centre : {0.0, 10.0})  // the centre cancels
                CHECK(score(from + d, from, centre) == Approx(double(want)).epsilon(1e-12));
    }
}

TEST_CASE("xpos: the other side's transpose undoes a rotation", "[angles][xpos_table]") {
    const xpos_config c{.rotary_dim = 6, .scale_base = 16, .centre = 4};
    const auto where = position_ids::text(9);
    const auto rows_q = make_xpos_table<double>(c, xpos_side::query, where);
    const auto rows_k = make_xpos_table<double>(c, xpos_side::key, where);
    support::heads_buffer<double> x({1, 9, 2, 6});
    x.fill(3);
    const auto before = x.dense();
    rotate(half_split{}, x.view(), rows_q);
    rotate_gradient(half_split{}, x.view(), rows_k);
    CHECK(support::worst(x.dense(), before) < 1e-14);
    for (rw::index n = 0; n < 9; ++n)  // products of magnitudes
        for (rw::index i = 0; i < 3; ++i)
            CHECK(std::hypot(rows_q.cos_row(n)[i], rows_q.sin_row(n)[i]) *
                      std::hypot(rows_k.cos_row(n)[i], rows_k.sin_row(n)[i]) ==
                  Approx(1).epsilon(1e-14));
}

TEST_CASE("xpos: an endless scale_base is RoPE", "[angles][xpos_table][reduces]") {
    const auto where = position_ids::text(30);
    const auto rows =
        make_xpos_table<double>({.rotary_dim = 8, .scale_base = 1e300}, xpos_side::query, where);
    const auto plain = make_rotation_table<double>(frequencies::geometric({.rotary_dim = 8}), where);
    for (rw::index n = 0; n < 30; ++n)
        for (rw::index i = 0; i < 4; ++i) {
            CHECK(rows.cos_row(n)[i] == plain.cos_row(n)[i]);
            CHECK(rows.sin_row(n)[i] == plain.sin_row(n)[i]);
        }
}

TEST_CASE("xpos: calls that do not fit are told as for any rows", "[angles][xpos_table][errors]") {
    const xpos_config c{.rotary_dim = 8, .scale_base = 16, .centre = 3};
    const auto rows = make_xpos_table<float>(c, xpos_side::query, position_ids::text(5));
    std::vector<float> memory(2 * 5 * 3 * 10, 1.0f);
    const auto view = [&](rw::index tokens, rw::index heads, rw::index channels) {
        return heads_view<float>(memory.data(), tokens, heads, channels);
    };
    CHECK(fit(interleaved{}, view(5, 3, 8), rows).ok());
    CHECK(to_string(fit(interleaved{}, view(5, 3, 10), rows)) ==
          "channels must be twice the pairs of the rows: wanted 8, got 10");
    CHECK(to_string(fit(interleaved{}, view(6, 3, 8), rows)) ==
          "rows must be one per token (batches * tokens): wanted 6, got 5");
    CHECK(to_string(fit(pair_layout::blocked_by(6), view(5, 3, 8), rows)) ==
          "rotated channels must be a multiple of the layout's group: wanted 6, got 8");
    CHECK(to_string(fit(interleaved{}, view(5, 3, 8).head_slice(2, 2), rows)) ==
          "extents must be >= 0 (a slice outside its view has -1): wanted 0, got -1");
    const std::vector<int> missing{0, 5};
    CHECK_REFUSES("rotation_table::rows: row or position must be -1 (untouched) or below 5, got 5",
                  rows.rows(missing));
}

TEST_CASE("xpos: unrotate divides by each pair's own magnitude, untouched tokens stay",
          "[angles][xpos_table]") {
    const xpos_config c{.rotary_dim = 22, .scale_base = 16, .centre = 4};
    position_ids where = position_ids::text(6);
    where.append(untouched_run{1}).append(text_run{2, 40, 1});
    const auto rows = make_xpos_table<double>(c, xpos_side::key, where);
    support::heads_buffer<double> x({1, 9, 2, 22});
    x.fill(3);
    const auto before = x.dense();
    rotate(interleaved{}, x.view(), rows);
    const auto rotated = x.dense();
    for (std::size_t i = 6 * 44; i < 7 * 44; ++i) CHECK(rotated[i] == before[i]);
    const auto magnitudes = xpos_magnitudes(c, xpos_side::key, where);
    for (rw::index n = 0; n < 9; ++n)
        for (rw::index i = 0; i < 11; ++i) {
            const long double zeta = (2 * i + 8.8L) / 30.8L;
            const double p = n < 6 ? double(n) : 33.0 + double(n);
            const double want = n == 6 ? 1 : double(std::pow(zeta, (4 - (long double)p) / 16));
            CHECK(magnitudes[n * 11 + i] == Approx(want).epsilon(1e-14));
            const double length = std::hypot(before[n * 44 + 2 * i], before[n * 44 + 2 * i + 1]);
            CHECK(std::hypot(rotated[n * 44 + 2 * i], rotated[n * 44 + 2 * i + 1]) ==
                  Approx(want * length).epsilon(1e-13));
        }
    unrotate(interleaved{}, x.view(), rows);
    CHECK(support::worst(x.dense(), before) < 1e-14);
}

TEST_CASE("xpos: refuses what overflows", "[angles][xpos_table][errors]") {
    CHECK_REFUSES("xpos: rotary_dim must be even and > 0, got 5", xpos_decay(5));
    CHECK_REFUSES("xpos: scale_base must be finite and > 0, got 0",
                  xpos_magnitudes({.rotary_dim = 4, .scale_base = 0}, xpos_side::key, position_ids::text(1)));
    const auto far = position_ids::from(std::vector<double>{65536});
    CHECK_REFUSES(
        "make_xpos_table: centre must be near enough for magnitudes that the table's type holds, "
        "position, got 65536",
        make_xpos_table<float>({.rotary_dim = 64}, xpos_side::query, far));
    CHECK(make_xpos_table<float>({.rotary_dim = 64, .centre = 40000}, xpos_side::query, far).row_count() ==
          1);
    CHECK(make_xpos_table<double>({.rotary_dim = 64}, xpos_side::query, far).row_count() == 1);
}
