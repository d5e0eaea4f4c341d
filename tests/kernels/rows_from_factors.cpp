// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rows_from_factors.hpp>

#include <random>

#include <ropewalk/frequencies/axis_map.hpp>
#include <ropewalk/frequencies/geometric.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

std::vector<double> counted(rw::index n) {
    std::vector<double> v;
    for (rw::index i = 0; i < n; ++i) v.push_back(static_cast<double>(i));
    return v;
}

/// Text, a clip, untouched tokens, a diagonal clip, listed tokens: every kind of segment.
rw::position_ids every_segment() {
    rw::position_ids where(3);
    where.append(rw::text_run{3, 0, 1});
    where.append(
        rw::grid_block{.extents = {3, 5, 7},
                       .coordinates = {{counted(3), {}, {}}, {{}, counted(5), {}}, {{}, {}, counted(7)}},
                       .origin = {3, 3, 3}});
    where.append(rw::untouched_run{4});
    where.append(rw::text_run{0, 0, 1});
    where.append(rw::grid_block{
        .extents = {2, 4, 9},
        .coordinates = {{counted(2), {}, {}}, {counted(2), counted(4), {}}, {counted(2), {}, counted(9)}},
        .origin = {20, 19, 16}});
    where.append(rw::listed_run{{1, 2, 3, 0.5, -1, 7}});
    where.append(rw::text_run{3, 1, 0});             // padding at one position
    where.append(rw::grid_block{.extents = {3, 40},  // frames whose patches stand together
                                .coordinates = {{counted(3), {}}, {counted(3), {}}, {counted(3), {}}},
                                .origin = {}});
    return where;
}

rw::spectrum three_axes(rw::index pairs, double magnitude = 1) {
    std::vector<int> axis_of;
    for (rw::index i = 0; i < pairs; ++i) axis_of.push_back(static_cast<int>(i % 3));
    return rw::frequencies::assign_axes(rw::frequencies::geometric({.rotary_dim = 2 * pairs}), axis_of, 3)
        .with_magnitude(magnitude);
}

/// The same for every head, or each head with frequencies of its own on two axes a pair.
rw::spectrum mixed(rw::index heads, rw::index pairs) {
    std::mt19937 random(3);
    std::uniform_real_distribution<double> any(-1, 1);
    std::vector<double> omega(static_cast<std::size_t>(heads * 3 * pairs));
    for (double& w : omega) w = any(random);
    return rw::spectrum::mixed(omega, heads, 3);
}

template <class T>
std::vector<T> numbers(rw::index count) {
    std::mt19937 random(11);
    std::uniform_real_distribution<float> any(-2, 2);
    std::vector<T> v;
    for (rw::index i = 0; i < count; ++i) v.push_back(static_cast<T>(any(random)));
    return v;
}

template <class T>
double worst_difference(const std::vector<T>& a, const std::vector<T>& b) {
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        worst = std::max(worst, std::abs(static_cast<double>(static_cast<rw::compute_t<T>>(a[i])) -
                                         static_cast<double>(static_cast<rw::compute_t<T>>(b[i]))));
    return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("rotate factored: equals the table of every token", "[kernels][factored]", double, float,
                   rw::bf16, rw::f16) {
    using C = rw::compute_t<TestType>;
    const auto where = every_segment();
    const auto layout = GENERATE(rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
                                 rw::pair_layout(rw::blocked<4>{}));
    const rw::index n = rw::simd::lanes<C>;
    for (const rw::index pairs : {rw::index{2}, n, n + 2, 3 * n + 6, rw::index{64}}) {
        const auto s = three_axes(pairs, 1.5);
        const rw::index tokens = where.tokens();
        auto q = numbers<TestType>(tokens * 3 * 2 * pairs);
        auto k = numbers<TestType>(tokens * 2 * pairs);
        auto q_want = q, k_want = k;
        rw::rotate(layout, rw::heads_view(q_want.data(), tokens, 3, 2 * pairs),
                   rw::heads_view(k_want.data(), tokens, 1, 2 * pairs), rw::make_rotation_table<C>(s, where));
        rw::rotate(layout, rw::heads_view(q.data(), tokens, 3, 2 * pairs),
                   rw::heads_view(k.data(), tokens, 1, 2 * pairs), rw::make_factored_table<C>(s, where));
        // Twice the table's bound (2 channels), times |x| * magnitude; 16 bits may round the other way.
        const double bound = std::is_same_v<C, double>            ? 1e-14
                             : std::is_same_v<TestType, float>    ? 2 * 3.0 * (2.4e-7 + 2.4e-7)
                             : std::is_same_v<TestType, rw::bf16> ? 0x1p-5
                                                                  : 0x1p-8;
        CHECK(worst_difference(q, q_want) <= bound);
        CHECK(worst_difference(k, k_want) <= bound);
    }
}

TEST_CASE("rotate factored: axial pairs have the same bits as the full table", "[kernels][factored]") {
    rw::position_ids where(3);
    where.append(every_segment().segments()[0]);
    where.append(every_segment().segments()[1]);
    where.append(every_segment().segments()[2]);
    const auto s = three_axes(64, 1.25);
    auto x = numbers<float>(where.tokens() * 2 * 128);
    auto want = x;
    rw::rotate(rw::half_split{}, rw::heads_view(want.data(), where.tokens(), 2, 128),
               rw::make_rotation_table(s, where));
    rw::rotate(rw::half_split{}, rw::heads_view(x.data(), where.tokens(), 2, 128),
               rw::make_factored_table(s, where));
    CHECK(x == want);
}

TEST_CASE("rotate factored: heads with frequencies of their own", "[kernels][factored]") {
    const auto where = every_segment();
    const rw::index heads = 5;
    const auto s = mixed(heads, 20);
    auto q = numbers<float>(where.tokens() * heads * 40);
    auto k = numbers<float>(where.tokens() * 3 * 40);
    auto q_want = q, k_want = k;
    const auto table = rw::make_rotation_table(s, where);
    const auto factored = rw::make_factored_table(s, where);
    // Keys of every other head read those heads' rows.
    rw::rotate(rw::interleaved{}, rw::heads_view(q_want.data(), where.tokens(), heads, 40),
               rw::heads_view(k_want.data(), where.tokens(), 3, 40), table, table.rows().head_slice(0, 3, 2));
    rw::rotate(rw::interleaved{}, rw::heads_view(q.data(), where.tokens(), heads, 40),
               rw::heads_view(k.data(), where.tokens(), 3, 40), factored,
               factored.rows().head_slice(0, 3, 2));
    CHECK(worst_difference(q, q_want) < 2e-6);
    CHECK(worst_difference(k, k_want) < 2e-6);
}

TEST_CASE("rotate factored: chunks and parts give the same bits", "[kernels][factored]") {
    const auto where = every_segment();
    const bool own_heads = GENERATE(false, true);
    const auto s = own_heads ? mixed(4, 24) : three_axes(24);
    const auto table = rw::make_factored_table(s, where);
    const rw::index tokens = where.tokens();
    const auto fresh = numbers<float>(tokens * 4 * 48);
    auto whole = fresh;
    rw::rotate(rw::half_split{}, rw::heads_view(whole.data(), tokens, 4, 48), table);
    for (const rw::index chunk : {1, 2, 7, 10, 50}) {  // 110 lies inside the untouched tokens
        auto x = fresh;
        for (rw::index first = 0; first < tokens; first += chunk) {
            const rw::index count = std::min(chunk, tokens - first);
            rw::rotate(rw::half_split{}, rw::heads_view(x.data(), tokens, 4, 48).token_slice(first, count),
                       table.rows().token_slice(first, count));
        }
        CHECK(x == whole);
    }
    for (const rw::index parts : {2, 3, 7, 400}) {
        auto x = fresh;
        for (rw::index part = 0; part < parts; ++part)
            rw::rotate(rw::half_split{}, rw::heads_view(x.data(), tokens, 4, 48), table, {parts, part});
        CHECK(x == whole);
    }
}

TEST_CASE("rotate factored: a batch is its sequences one after the other", "[kernels][factored]") {
    auto where = every_segment();
    where.append(every_segment());
    const auto s = three_axes(16);
    const rw::index tokens = where.tokens() / 2;
    auto together = numbers<double>(2 * tokens * 2 * 32);
    auto one = together;
    const auto table = rw::make_factored_table<double>(s, where);
    // [batches, heads, tokens, channels] in memory
    rw::rotate(rw::half_split{}, rw::heads_view<double>::heads_first(together.data(), {2, tokens, 2, 32}),
               table);
    for (rw::index b = 0; b < 2; ++b)
        rw::rotate(rw::half_split{},
                   rw::heads_view<double>::heads_first(one.data() + b * tokens * 64, {1, tokens, 2, 32}),
                   table.rows().token_slice(b * tokens, tokens));
    CHECK(together == one);
}

TEST_CASE("rotate factored: untouched tokens keep every bit", "[kernels][factored]") {
    const auto where = every_segment();
    const auto s = three_axes(16);
    const auto fresh = numbers<float>(where.tokens() * 32);
    auto x = fresh;
    rw::rotate(rw::half_split{}, rw::heads_view(x.data(), where.tokens(), 1, 32),
               rw::make_factored_table(s, where));
    for (rw::index n = 0; n < where.tokens(); ++n) {
        const bool same = std::equal(x.begin() + n * 32, x.begin() + (n + 1) * 32, fresh.begin() + n * 32);
        const bool at_zero = where.at(n, 0) == 0 && where.at(n, 1) == 0 && where.at(n, 2) == 0;
        CHECK(same == (!where.touched(n) || at_zero));
    }
}

TEST_CASE("rotate factored: unrotate turns back, the gradient keeps the magnitude", "[kernels][factored]") {
    const auto where = every_segment();
    const auto table = rw::make_factored_table<double>(three_axes(12, 2.0), where);
    const auto fresh = numbers<double>(where.tokens() * 24);
    auto x = fresh;
    rw::heads_view view(x.data(), where.tokens(), 1, 24);
    rw::rotate(rw::interleaved{}, view, table);
    rw::unrotate(rw::interleaved{}, view, table);
    CHECK(worst_difference(x, fresh) < 1e-14);
    rw::rotate(rw::interleaved{}, view, table);
    rw::rotate_gradient(rw::interleaved{}, view, table);
    for (rw::index n = 0; n < where.tokens(); ++n)
        for (rw::index c = 0; c < 24; ++c)
            CHECK(x[n * 24 + c] == Approx((where.touched(n) ? 4.0 : 1.0) * fresh[n * 24 + c]).margin(1e-13));
}

TEST_CASE("rotate factored: nothing to do", "[kernels][factored]") {
    const rw::factored_table<float> none;
    rw::rotate(rw::half_split{}, rw::heads_view<float>(nullptr, 0, 3, 8), none);
    const auto empty = rw::make_factored_table<float>(three_axes(4), rw::position_ids(3));
    rw::rotate(rw::half_split{}, rw::heads_view<float>(nullptr, 0, 3, 8), empty);
    // A view of no tokens into memory that has some.
    std::vector<float> numbers(24, 7.0f);
    rw::rotate(rw::half_split{}, rw::heads_view<float>(numbers.data(), 0, 3, 8), empty);
    CHECK(numbers == std::vector<float>(24, 7.0f));
}
