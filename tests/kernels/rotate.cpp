// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include <cmath>
#include <limits>
#include <set>

#include "support/catch.hpp"
#include "support/heads_buffer.hpp"
#include "support/rotation_oracle.hpp"

namespace rw = ropewalk;
using support::heads_buffer;

namespace {

rw::spectrum ladder(rw::index pairs) {
    return pairs == 0 ? rw::spectrum{} : rw::frequencies::geometric({.rotary_dim = 2 * pairs});
}

/// Positions as they come: zero, negative, fractional, far, repeated, in no order.
std::vector<double> odd_positions(rw::index tokens) {
    const double some[] = {0, -3, 1048576, 0.25, 7, 7, 131071, -0.5, 19, 4096.5, 1e7};
    std::vector<double> out;
    for (rw::index n = 0; n < tokens; ++n) out.push_back(some[static_cast<std::size_t>(n) % std::size(some)]);
    return out;
}

template <class T>
rw::rotation_table<rw::compute_t<T>> table_for(rw::index pairs, rw::index tokens, double magnitude = 1) {
    return rw::make_rotation_table<rw::compute_t<T>>(ladder(pairs).with_magnitude(magnitude),
                                                     rw::position_ids::from(odd_positions(tokens)));
}

std::vector<rw::pair_layout> layouts_of(rw::index pairs) {
    std::vector<rw::pair_layout> all{rw::half_split{}, rw::interleaved{}};
    for (rw::index group : {4, 8, 16})
        if (pairs > 0 && 2 * pairs % group == 0) all.push_back(rw::pair_layout::blocked_by(group));
    return all;
}

/// Sizes around the number of lanes, where full and partial registers meet.
template <class T>
std::set<rw::index> interesting_pairs() {
    const rw::index n = rw::simd::lanes<rw::compute_t<T>>;
    return {0, 1, n / 2 - 1, n / 2, n / 2 + 1, n - 1, n, n + 1, 2 * n, 3 * n + 1, 48, 64, 20 * n + 3};
}

}  // namespace

TEMPLATE_TEST_CASE("rotate: every size, layout, stride and offset keeps its accuracy and its bounds",
                   "[kernels][rotate]", double, float, rw::f16, rw::bf16) {
    unsigned seed = 1;
    double worst = 0;
    for (rw::index pairs : interesting_pairs<TestType>())
        for (rw::pair_layout layout : layouts_of(pairs))
            for (rw::index tokens : {0, 1, 2, 7})
                for (rw::index heads : {1, 3, 8})
                    for (rw::index batches : {1, 2})
                        for (rw::index gap : {0, 5}) {
                            const auto table = table_for<TestType>(pairs, batches * tokens, 1.25);
                            heads_buffer<TestType> x({batches, tokens, heads, 2 * pairs}, gap, gap ? 3 : 0);
                            const auto before = x.fill(++seed).numbers();
                            rw::rotate(layout, x.view(), table);
                            const double over =
                                support::worst_over_budget(layout, x.view(), before, table.rows());
                            worst = std::max(worst, over);
                            if (over > 1 || !x.canaries_alive()) {
                                CAPTURE(pairs, tokens, heads, batches, gap, int(layout.kind), layout.group);
                                CHECK(over <= 1);
                                CHECK(x.canaries_alive());
                            }
                        }
    CHECK(worst <= 1);
    CHECK(worst > 0.1);  // the budget is a budget, not a blank cheque
}

TEMPLATE_TEST_CASE("rotate: a layout as a type and as a value are one kernel", "[kernels][rotate]", double,
                   float, rw::f16, rw::bf16) {
    const auto table = table_for<TestType>(24, 5);
    const auto once = [&](auto call) {
        heads_buffer<TestType> x({1, 5, 3, 48});
        x.fill(3);
        call(x.view());
        return x.dense();
    };
    const auto typed = [&](auto layout) {
        return [&table, layout](auto v) { rw::rotate(layout, v, table); };
    };
    const auto valued = [&](rw::pair_layout l) { return [&, l](auto v) { rw::rotate(l, v, table); }; };
    CHECK(support::same_bits(once(typed(rw::half_split{})), once(valued(rw::half_split{}))));
    CHECK(support::same_bits(once(typed(rw::interleaved{})), once(valued(rw::interleaved{}))));
    CHECK(support::same_bits(once(typed(rw::blocked<16>{})), once(valued(rw::blocked<16>{}))));
    CHECK(support::same_bits(once(valued(rw::half_split{})), once(valued(rw::pair_layout::blocked_by(48)))));
    CHECK(support::same_bits(once(valued(rw::interleaved{})), once(valued(rw::pair_layout::blocked_by(2)))));
}

TEMPLATE_TEST_CASE("rotate: q and k in one call are q and k by themselves, bit for bit", "[kernels][rotate]",
                   double, float, rw::f16, rw::bf16) {
    for (rw::index pairs : {4, 20, 64})
        for (rw::pair_layout layout : layouts_of(pairs)) {
            const auto table = table_for<TestType>(pairs, 6, 1.1);
            heads_buffer<TestType> q({2, 3, 8, 2 * pairs}, 3), k({2, 3, 2, 2 * pairs});
            heads_buffer<TestType> q1({2, 3, 8, 2 * pairs}), k1({2, 3, 2, 2 * pairs}, 1, 1);
            q.fill(1), q1.fill(1), k.fill(2), k1.fill(2);
            rw::rotate(layout, q.view(), k.view(), table);
            rw::rotate(layout, q1.view(), table);
            rw::rotate(layout, k1.view(), table);
            CHECK(support::same_bits(q.dense(), q1.dense()));
            CHECK(support::same_bits(k.dense(), k1.dense()));
            rw::unrotate(layout, q.view(), k.view(), table);
            rw::unrotate(layout, q1.view(), table);
            CHECK(support::same_bits(q.dense(), q1.dense()));
            rw::rotate_gradient(layout, q.view(), k.view(), table);
            rw::rotate_gradient(layout, q1.view(), table);
            CHECK(support::same_bits(q.dense(), q1.dense()));
        }
}

TEST_CASE("rotate: different tables for q and k", "[kernels][rotate]") {
    const auto rope = ladder(8);
    const auto at_q = rw::make_rotation_table(rope, rw::position_ids::text(4, 100));
    const auto at_k = rw::make_rotation_table(rope, rw::position_ids::text(6));
    heads_buffer<float> q({1, 4, 2, 16}), k({1, 6, 1, 16}), q1({1, 4, 2, 16}), k1({1, 6, 1, 16});
    q.fill(1), q1.fill(1), k.fill(2), k1.fill(2);
    rw::rotate(rw::half_split{}, q.view(), k.view(), at_q, at_k);
    rw::rotate(rw::half_split{}, q1.view(), at_q);
    rw::rotate(rw::half_split{}, k1.view(), at_k);
    CHECK(support::same_bits(q.dense(), q1.dense()));
    CHECK(support::same_bits(k.dense(), k1.dense()));
    rw::rotate(rw::interleaved{}, q.view(), k.view(), at_q, at_k);
    rw::rotate(rw::interleaved{}, q1.view(), at_q);
    CHECK(support::same_bits(q.dense(), q1.dense()));
}

TEMPLATE_TEST_CASE("rotate: no bit depends on alignment, chunking or the split over threads",
                   "[kernels][rotate]", double, float, rw::f16, rw::bf16) {
    for (rw::index pairs : {5, 24, 37})
        for (rw::pair_layout layout : layouts_of(pairs)) {
            const rw::index tokens = 5;
            const auto table = table_for<TestType>(pairs, tokens);
            heads_buffer<TestType> whole({1, tokens, 6, 2 * pairs});
            rw::rotate(layout, whole.fill(9).view(), table);
            for (rw::index shift : {1, 2, 3, 7}) {
                heads_buffer<TestType> moved({1, tokens, 6, 2 * pairs}, shift, shift);
                rw::rotate(layout, moved.fill(9).view(), table);
                CHECK(support::same_bits(whole.dense(), moved.dense()));
            }
            heads_buffer<TestType> chunked({1, tokens, 6, 2 * pairs});
            chunked.fill(9);
            const auto view = chunked.view();
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index h = 0; h < 6; h += 2)
                    rw::rotate(layout, view.token_slice(n, 1).head_slice(h, 2),
                               table.rows().token_slice(n, 1));
            CHECK(support::same_bits(whole.dense(), chunked.dense()));
            for (rw::index parts : {2, 3, 5, 8, 13, 64}) {
                heads_buffer<TestType> split({1, tokens, 6, 2 * pairs});
                split.fill(9);
                for (rw::index part = parts; part-- > 0;)
                    rw::rotate(layout, split.view(), table, rw::part_of{parts, part});
                CHECK(support::same_bits(whole.dense(), split.dense()));
            }
        }
}

TEMPLATE_TEST_CASE("rotate: tail lanes round as full registers do", "[kernels][rotate]", double, float,
                   rw::f16, rw::bf16) {
    // The first pairs of a longer half-split head are the pairs of a shorter one with the same table.
    const rw::index n = rw::simd::lanes<rw::compute_t<TestType>>;
    const auto table = table_for<TestType>(2 * n, 3);
    for (rw::index pairs = 1; pairs < 2 * n; ++pairs) {
        auto rows = table.rows();
        heads_buffer<TestType> full({1, 3, 1, 4 * n}), cut({1, 3, 1, 2 * pairs});
        full.fill(4);
        auto f = full.view(), c = cut.view();
        for (rw::index t = 0; t < 3; ++t)
            for (rw::index i = 0; i < pairs; ++i) {
                c.at(0, t, 0)[i] = f.at(0, t, 0)[i];
                c.at(0, t, 0)[pairs + i] = f.at(0, t, 0)[2 * n + i];
            }
        rw::rotate(rw::half_split{}, f, rows);
        rows.pairs = pairs;
        rw::rotate(rw::half_split{}, c, rows);
        bool same = true;
        for (rw::index t = 0; t < 3; ++t)
            for (rw::index i = 0; i < pairs; ++i)
                same =
                    same && std::memcmp(&c.at(0, t, 0)[i], &f.at(0, t, 0)[i], sizeof(TestType)) == 0 &&
                    std::memcmp(&c.at(0, t, 0)[pairs + i], &f.at(0, t, 0)[2 * n + i], sizeof(TestType)) == 0;
        CHECK(same);
    }
}

TEMPLATE_TEST_CASE("rotate: rows of heads differ when the spectrum says so", "[kernels][rotate]", double,
                   float, rw::bf16) {
    const rw::index pairs = 20, heads = 3, tokens = 4;
    std::vector<double> omega;
    for (rw::index i = 0; i < heads * 2 * pairs; ++i) omega.push_back(0.01 * double(i % 17) - 0.05);
    const auto rope = rw::spectrum::mixed(omega, heads, 2);
    const auto where = rw::position_ids::from_tokens_axes(std::vector<double>{0, 0, 1, 5, -2, 7.5, 3, 3}, 2);
    const auto table = rw::make_rotation_table<rw::compute_t<TestType>>(rope, where);
    for (rw::pair_layout layout : layouts_of(pairs)) {
        heads_buffer<TestType> x({1, tokens, heads, 2 * pairs}, 2);
        const auto before = x.fill(5).numbers();
        rw::rotate(layout, x.view(), table);
        CHECK(support::worst_over_budget(layout, x.view(), before, table.rows()) <= 1);
        CHECK(x.canaries_alive());
        heads_buffer<TestType> split({1, tokens, heads, 2 * pairs});
        split.fill(5);
        for (rw::index part = 0; part < 9; ++part)
            rw::rotate(layout, split.view(), table, rw::part_of{9, part});
        CHECK(support::same_bits(x.dense(), split.dense()));
    }
}

TEMPLATE_TEST_CASE("rotate: untouched rows are neither read nor written", "[kernels][rotate]", double, float,
                   rw::f16, rw::bf16) {
    const rw::index pairs = 24;
    const auto table = table_for<TestType>(pairs, 4);
    const std::vector<std::int32_t> row_of_token{2, rw::untouched_row, 0, 0, -1, 3};
    heads_buffer<TestType> x({2, 3, 2, 2 * pairs}, 1);
    x.fill(8);
    auto poison = x.view().token_slice(1, 1);  // tokens (0, 1) and (1, 1) are the untouched ones
    for (rw::index b = 0; b < 2; ++b)
        poison.at(b, 0, 0)[0] = TestType(std::numeric_limits<rw::compute_t<TestType>>::infinity());
    const auto before = x.dense();
    rw::rotate(rw::half_split{}, x.view(), table.rows(row_of_token));
    const auto after = x.dense();
    const auto token = static_cast<std::ptrdiff_t>(2 * 2 * pairs);
    for (std::ptrdiff_t n : {1, 4})
        CHECK(std::memcmp(&before[std::size_t(n * token)], &after[std::size_t(n * token)],
                          std::size_t(token) * sizeof(TestType)) == 0);
    for (std::ptrdiff_t n : {0, 2, 3, 5}) {
        const bool zero_row = row_of_token[std::size_t(n)] == 0;  // position 0 is the identity
        CHECK((std::memcmp(&before[std::size_t(n * token)], &after[std::size_t(n * token)],
                           std::size_t(token) * sizeof(TestType)) == 0) == zero_row);
    }
    CHECK(x.canaries_alive());
}

TEMPLATE_TEST_CASE("rotate: NaN and infinity stay in their pair", "[kernels][rotate]", double, float, rw::f16,
                   rw::bf16) {
    using C = rw::compute_t<TestType>;
    const rw::index pairs = 20;
    const auto table = table_for<TestType>(pairs, 5);
    for (rw::pair_layout layout : layouts_of(pairs))
        for (C bad : {std::numeric_limits<C>::quiet_NaN(), std::numeric_limits<C>::infinity()})
            for (rw::index pair : {0, 7, 19}) {
                heads_buffer<TestType> x({1, 5, 1, 2 * pairs}), clean({1, 5, 1, 2 * pairs});
                x.fill(2), clean.fill(2);
                const rw::index u = layout.first(pair, pairs), v = layout.second(pair, pairs);
                for (rw::index n = 0; n < 5; ++n) x.view().at(0, n, 0)[u] = TestType(bad);
                rw::rotate(layout, x.view(), table);
                rw::rotate(layout, clean.view(), table);
                for (rw::index n = 0; n < 5; ++n)
                    for (rw::index i = 0; i < 2 * pairs; ++i) {
                        const TestType got = x.view().at(0, n, 0)[i], want = clean.view().at(0, n, 0)[i];
                        if (i == u || i == v) {
                            if (n > 0 && i == u)
                                CHECK_FALSE(std::isfinite(static_cast<double>(static_cast<C>(got))));
                        } else if (std::memcmp(&got, &want, sizeof got) != 0) {
                            FAIL("a neighbour of the pair changed");
                        }
                    }
            }
}

TEMPLATE_TEST_CASE("unrotate and rotate_gradient: inverse and transpose, also with a magnitude",
                   "[kernels][rotate]", double, float) {
    const rw::index pairs = 37;
    const double m = 1.2079441541679836;
    const auto table = table_for<TestType>(pairs, 7, m);
    const double eps = std::numeric_limits<TestType>::epsilon();
    for (rw::pair_layout layout : layouts_of(pairs)) {
        heads_buffer<TestType> x({1, 7, 2, 2 * pairs});
        const auto before = x.fill(6).numbers();
        rw::rotate(layout, x.view(), table);
        rw::unrotate(layout, x.view(), table);
        const auto back = x.numbers();
        for (std::size_t i = 0; i < before.size(); ++i) CHECK(std::abs(back[i] - before[i]) <= 40 * eps);
        rw::rotate(layout, x.view(), table);
        rw::rotate_gradient(layout, x.view(), table);  // R^T R = m^2
        const auto squared = x.numbers();
        for (std::size_t i = 0; i < before.size(); ++i)
            CHECK(std::abs(squared[i] - m * m * before[i]) <= 60 * eps);
    }
}

TEST_CASE("rotate: row numbers of 64 bits", "[kernels][rotate]") {
    const auto table = table_for<float>(8, 4);
    const std::vector<std::int64_t> wide{3, -1, 0, 2};
    const std::vector<std::int32_t> narrow{3, -1, 0, 2};
    heads_buffer<float> a({1, 4, 2, 16}), b({1, 4, 2, 16});
    rw::rotate(rw::half_split{}, a.fill(1).view(), table.rows(wide));
    rw::rotate(rw::half_split{}, b.fill(1).view(), table.rows(narrow));
    CHECK(support::same_bits(a.dense(), b.dense()));
    rw::rotate(rw::half_split{}, a.view().token_slice(1, 2), table.rows(wide).token_slice(1, 2));
    rw::rotate(rw::half_split{}, b.view().token_slice(1, 2), table.rows(narrow).token_slice(1, 2));
    CHECK(support::same_bits(a.dense(), b.dense()));
}
