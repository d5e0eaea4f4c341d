// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_on_the_fly.hpp>

#include <cmath>

#include "support/budgets.hpp"
#include "support/catch.hpp"
#include "support/heads_buffer.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

namespace {

/// The row error that the doc comment allows, beside what rotate itself may add.
double row_doubt(const rw::spectrum& s, const rw::position_ids& where, double extra) {
    double largest = 0;
    for (double p : where.values()) largest = std::max(largest, std::abs(p));
    double omega = 0;
    for (rw::index h = 0; h < s.heads(); ++h)
        for (rw::index a = 0; a < s.axes(); ++a)
            for (rw::index i = 0; i < s.pairs(); ++i) omega = std::max(omega, std::abs(s.omega(h, a, i)));
    return s.magnitude() * (extra + double(s.axes()) * std::ldexp(largest * omega, -52));
}

template <class T>
void check_against_table(const rw::spectrum& s, const rw::position_ids& where, rw::index heads) {
    using C = rw::compute_t<T>;
    const auto table = rw::make_rotation_table<double>(s, where);
    for (rw::pair_layout layout : {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        heads_buffer<T> x({1, where.tokens(), heads, 2 * s.pairs()}, 1, 1);
        heads_buffer<double> want({1, where.tokens(), heads, 2 * s.pairs()});
        const auto before = x.fill(3).numbers();
        std::size_t at = 0;
        want.each([&](double& v) { v = before[at++]; });
        rw::rotate(layout, want.view(), table);
        const std::vector<double> positions = where.values();
        rw::rotate(layout, x.view(), rw::rows_on_the_fly(s, positions));
        CHECK(x.canaries_alive());
        const auto got = x.numbers(), exact = want.numbers();
        double norm = 0;  // a bound on every pair norm
        for (double v : before) norm = std::max(norm, std::abs(v));
        norm *= std::sqrt(2.0);
        const double doubt = norm * row_doubt(s, where, std::is_same_v<C, double> ? 1e-15 : 2e-7);
        double worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i)
            worst =
                std::max(worst, std::abs(got[i] - exact[i]) /
                                    (doubt + budgets::rotation<T>(norm * std::abs(s.magnitude()), exact[i])));
        CHECK(worst <= 1);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("rows_on_the_fly: every form of spectrum, at positions near and far", "[kernels][fly]",
                   double, float, rw::f16, rw::bf16) {
    const auto far =
        rw::position_ids::from(std::vector<double>{0, 1, -7, 0.25, 131071, 1e7, 123456789, -1e6});
    for (rw::index pairs : {1, 7, 15, 16, 17, 33, 64, 100, 512}) {
        const auto line = rw::frequencies::geometric({.rotary_dim = 2 * pairs}).with_magnitude(1.2);
        check_against_table<TestType>(line, far, 3);
    }
    const auto line = rw::frequencies::geometric({.rotary_dim = 48});
    const auto plane = rw::frequencies::assign_axes(line, rw::axis_map::sections({6, 10, 8}));
    const auto grid =
        rw::position_ids::from_tokens_axes(std::vector<double>{0, 0, 0, 1, 2, 3, -4, 70000, 0.5, 9, 9, 9}, 3);
    check_against_table<TestType>(plane, grid, 2);
    std::vector<double> omega;
    for (int i = 0; i < 3 * 3 * 21; ++i) omega.push_back(std::sin(1.7 * i));
    check_against_table<TestType>(rw::spectrum::mixed(omega, 3, 3, 0.8), grid, 3);
    check_against_table<TestType>(rw::spectrum::selected(std::span(omega).first(3 * 21), {}, 1, 3), far, 3);
}

TEST_CASE("rows_on_the_fly: int32, int64, float and double positions are one call", "[kernels][fly]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 64});
    const auto run = [&](const auto& positions) {
        heads_buffer<float> q({1, 3, 4, 64}), k({1, 3, 1, 64});
        rw::rotate(rw::half_split{}, q.fill(1).view(), k.fill(2).view(),
                   rw::rows_on_the_fly(rope, positions));
        auto both = q.dense();
        for (float v : k.dense()) both.push_back(v);
        return both;
    };
    const auto want = run(std::vector<double>{5, -2, 70000});
    CHECK(support::same_bits(run(std::vector<std::int32_t>{5, -2, 70000}), want));
    CHECK(support::same_bits(run(std::vector<std::int64_t>{5, -2, 70000}), want));
    CHECK(support::same_bits(run(std::vector<float>{5, -2, 70000}), want));
    heads_buffer<float> q({1, 3, 4, 64}), k({1, 3, 1, 64});
    const std::vector<int> positions{5, -2, 70000};
    rw::rotate(rw::half_split{}, q.fill(1).view(), rw::rows_on_the_fly(rope, positions));
    rw::rotate(rw::half_split{}, k.fill(2).view(), rw::rows_on_the_fly(rope, positions));
    auto apart = q.dense();
    for (float v : k.dense()) apart.push_back(v);
    CHECK(support::same_bits(apart, want));
}

TEST_CASE("rows_on_the_fly: position 0 is the identity, and no bit depends on the split", "[kernels][fly]") {
    const auto rope = rw::frequencies::geometric({.rotary_dim = 40});
    heads_buffer<float> x({1, 2, 3, 40});
    const auto before = x.fill(1).dense();
    const std::vector<int> origin{0, 0};
    rw::rotate(rw::interleaved{}, x.view(), rw::rows_on_the_fly(rope, origin));
    CHECK(support::same_bits(x.dense(), before));
    std::vector<double> positions{3, 1e6, -4, 0.5, 17, 99, 2};
    heads_buffer<rw::bf16> whole({1, 7, 3, 40}), split({1, 7, 3, 40}, 1, 1);
    rw::rotate(rw::half_split{}, whole.fill(2).view(), rw::rows_on_the_fly(rope, positions));
    split.fill(2);
    for (rw::index part = 0; part < 10; ++part)
        rw::rotate(rw::half_split{}, split.view(), rw::rows_on_the_fly(rope, positions),
                   rw::part_of{10, part});
    CHECK(support::same_bits(whole.dense(), split.dense()));
    rw::rotate(rw::half_split{}, rw::heads_view<float>{}, rw::rows_on_the_fly(rope, std::span<const int>()));
}
