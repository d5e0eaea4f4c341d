// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/schemes/rope_plus_plus.hpp>

#include <cmath>

#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/numbers.hpp"
#include "support/refusal.hpp"

using namespace ropewalk;
using rope_plus_plus::imaginary;
namespace rw = ropewalk;

TEST_CASE("rope_plus_plus: the two parts of the complex score", "[schemes][rope_plus_plus]") {
    const rw::index dim = 8;
    const auto s = frequencies::geometric({.rotary_dim = dim});
    auto q = support::noise(dim, 1);
    auto k = support::noise(dim, 2);
    const double t = 37, from = 12;
    long double real = 0, imag = 0;
    for (int i = 0; i < 4; ++i) {
        const long double a = (t - from) * std::pow(1e4L, -i / 4.0L);
        const long double dot = (long double)q[i] * k[i] + (long double)q[i + 4] * k[i + 4];
        const long double cross = (long double)q[i] * k[i + 4] - (long double)q[i + 4] * k[i];
        real += dot * std::cos(a) + cross * std::sin(a);
        imag += dot * std::sin(a) - cross * std::cos(a);
    }
    const auto at_q = position_ids::from(std::vector<double>{t});
    const auto at_k = position_ids::from(std::vector<double>{from});
    const auto rows_q = rope_plus_plus::make_query_table<double>(imaginary::paired, 1, s, at_q);
    const auto rows_k = make_rotation_table<double>(s, at_k);
    std::vector<double> wide(2 * dim);
    rope_plus_plus::widen_queries(heads_view<double>(q.data(), 1, 1, dim),
                                  heads_view<double>(wide.data(), 1, 2, dim));
    rotate(half_split{}, heads_view<double>(wide.data(), 1, 2, dim), rows_q);
    rotate(half_split{}, heads_view<double>(k.data(), 1, 1, dim), rows_k);
    double got_real = 0, got_imag = 0;
    for (int c = 0; c < dim; ++c) got_real += wide[c] * k[c], got_imag += wide[dim + c] * k[c];
    CHECK(got_real == Approx(double(real)).epsilon(1e-13));
    CHECK(got_imag == Approx(double(imag)).epsilon(1e-13));
}

TEST_CASE("rope_plus_plus: which heads are imaginary", "[schemes][rope_plus_plus]") {
    const auto marks = [](imaginary which, rw::index heads) {
        std::vector<int> all;
        const rw::index count = rope_plus_plus::output_heads(which, heads);
        for (rw::index h = 0; h < count; ++h) all.push_back(rope_plus_plus::is_imaginary(which, h, count));
        return all;
    };
    CHECK(marks(imaginary::paired, 2) == std::vector<int>{0, 1, 0, 1});
    CHECK(marks(imaginary::second_half, 4) == std::vector<int>{0, 0, 1, 1});
    CHECK(marks(imaginary::odd, 3) == std::vector<int>{0, 1, 0});
    CHECK(marks(imaginary::all, 2) == std::vector<int>{1, 1});
    CHECK(marks(imaginary::none, 2) == std::vector<int>{0, 0});
}

TEST_CASE("rope_plus_plus: all imaginary is RoPE of queries turned back a quarter",
          "[schemes][rope_plus_plus][reduces]") {
    const auto s = frequencies::geometric({.rotary_dim = 6}).with_magnitude(1.25);
    position_ids where;
    where.append(text_run{4, 3, 1}).append(untouched_run{1}).append(text_run{2, 50, 1});
    support::heads_buffer<double> a({1, 7, 3, 6}), b({1, 7, 3, 6});
    a.fill(9), b.fill(9);
    const auto imag = rope_plus_plus::make_query_table<double>(imaginary::all, 3, s, where);
    rotate(half_split{}, a.view(), imag);
    for (rw::index n = 0; n < 7; ++n)  // (x, y) -> (y, -x)
        for (rw::index h = 0; h < 3 && where.touched(n); ++h)
            for (rw::index i = 0; i < 3; ++i) {
                double* x = b.view().at(0, n, h);
                const double first = x[i];
                x[i] = x[i + 3];
                x[i + 3] = -first;
            }
    const auto plain = make_rotation_table<double>(s, where);
    rotate(half_split{}, b.view(), plain);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-15);
    const auto real = rope_plus_plus::make_query_table<double>(imaginary::none, 3, s, where);
    rotate(half_split{}, a.view(), real);
    rotate(half_split{}, b.view(), plain);
    CHECK(support::worst(a.dense(), b.dense()) < 1e-15);
}

TEST_CASE("rope_plus_plus: refuses heads that do not fit", "[schemes][rope_plus_plus][errors]") {
    const auto s = frequencies::geometric({.rotary_dim = 4});
    CHECK_REFUSES("rope_plus_plus::make_query_table: projected_heads must be >= 1, got 0",
                  rope_plus_plus::make_query_table(imaginary::all, 0, s, position_ids::text(1)));
    std::vector<float> x(24);
    CHECK_REFUSES("widen_queries: out.heads must be a multiple of q's, got 3",
                  rope_plus_plus::widen_queries(heads_view<float>(x.data(), 1, 2, 4),
                                                heads_view<float>(x.data() + 8, 1, 3, 4)));
}
