// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/pair_matrix_table.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/mix_pairs.hpp>

#include <random>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

namespace {

template <class C>
std::vector<C> normals(std::size_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<C> out(count);
    for (C& x : out) x = static_cast<C>(normal(engine));
    return out;
}

}  // namespace

TEMPLATE_TEST_CASE("mix_pairs: every pair is multiplied by its matrix", "[kernels][mix_pairs]", double, float,
                   rw::f16, rw::bf16) {
    using C = rw::compute_t<TestType>;
    for (rw::index pairs : {1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 20, 24, 36, 40, 45, 60, 64, 72, 100})
        for (rw::pair_layout layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
              rw::pair_layout::blocked_by(4), rw::pair_layout::blocked_by(6), rw::pair_layout::blocked_by(8),
              rw::pair_layout::blocked_by(10), rw::pair_layout::blocked_by(18),
              rw::pair_layout::blocked_by(24), rw::pair_layout::blocked_by(40)}) {
            if (!layout.fits(pairs)) continue;
            const auto count = static_cast<std::size_t>(3 * pairs);
            const auto a = normals<C>(count, 1), b = normals<C>(count, 2), c = normals<C>(count, 3),
                       d = normals<C>(count, 4);
            const rw::pair_matrix_table<C> table(a, b, c, d, pairs);
            const std::vector<int> row_of_token{2, -1, 0, 1};
            heads_buffer<TestType> x({2, 2, 3, 2 * pairs}, 2, 1);
            const auto before = x.fill(5).numbers();
            rw::mix_pairs(layout, x.view(), table.rows(row_of_token));
            const auto after = x.numbers();
            double worst = 0;
            std::size_t head = 0;
            for (std::size_t token = 0; token < 4; ++token)
                for (int h = 0; h < 3; ++h, head += std::size_t(2 * pairs))
                    for (rw::index i = 0; i < pairs; ++i) {
                        const auto u = head + std::size_t(layout.first(i, pairs));
                        const auto v = head + std::size_t(layout.second(i, pairs));
                        const int row = row_of_token[token];
                        if (row < 0) {
                            worst =
                                std::max(worst, before[u] == after[u] && before[v] == after[v] ? 0.0 : 1e9);
                            continue;
                        }
                        const auto m = std::size_t(row * pairs + i);
                        const auto over = [&](double got, C p, C q) {
                            const long double x0 = before[u], x1 = before[v];
                            const auto want = static_cast<double>(p * x0 + q * x1);
                            const auto size = static_cast<double>(std::abs(p * x0) + std::abs(q * x1));
                            return std::abs(got - want) / budgets::rotation<TestType>(size, want);
                        };
                        worst = std::max({worst, over(after[u], a[m], b[m]), over(after[v], c[m], d[m])});
                    }
            CAPTURE(pairs, int(layout.kind));
            CHECK(worst <= 1);
            CHECK(x.canaries_alive());
            heads_buffer<TestType> split({2, 2, 3, 2 * pairs});
            split.fill(5);
            for (rw::index part = 0; part < 7; ++part)
                rw::mix_pairs(layout, split.view(), table.rows(row_of_token), rw::part_of{7, part});
            CHECK(support::same_bits(split.dense(), x.dense()));
        }
}

TEST_CASE("mix_pairs: (cos, -sin, sin, cos) is rotate", "[kernels][mix_pairs][reduces]") {
    const rw::index pairs = 24;
    const auto rope = rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 48}),
                                              rw::position_ids::text(1, 12345));
    std::vector<float> c(rope.cos_row(0).begin(), rope.cos_row(0).end());
    std::vector<float> s(rope.sin_row(0).begin(), rope.sin_row(0).end()), minus_s;
    for (float x : s) minus_s.push_back(-x);
    const rw::pair_matrix_table<float> table(c, minus_s, s, c, pairs);
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        heads_buffer<float> a({1, 1, 5, 48}), b({1, 1, 5, 48});
        rw::rotate(layout, a.fill(1).view(), rope);
        rw::mix_pairs(layout, b.fill(1).view(), table);
        CHECK(support::same_bits(a.dense(), b.dense()));
    }
}

TEST_CASE("mix_pairs: full-width cos and sin of rotate_half", "[kernels][mix_pairs]") {
    // out_j = x_j cos_j + rotate_half(x)_j sin_j with halves that differ: no rotation, still one pair map.
    const rw::index pairs = 3;
    const std::vector<double> cos{1, 2, 3, 4, 5, 6}, sin{0.5, 0.25, 2, -1, 3, 7};
    const auto table = rw::pair_matrix_table<double>::from_rotate_half(cos, sin, pairs);
    std::vector<double> x{1, -2, 3, 5, 8, -13};
    const std::vector<double> rotated{-5, -8, 13, 1, -2, 3};
    std::vector<double> want;
    for (std::size_t j = 0; j < 6; ++j) want.push_back(x[j] * cos[j] + rotated[j] * sin[j]);
    rw::mix_pairs(rw::half_split{}, rw::heads_view(x.data(), 1, 1, 6), table);
    CHECK(x == want);
}
