// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/windowed_query.hpp>

#include <random>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

template <class S, class T>
void check(rw::pair_layout layout, rw::index pairs) {
    const rw::index heads = 3, tokens = 4, d = 2 * pairs;
    std::mt19937 engine(unsigned(pairs) + 1);
    std::normal_distribution<float> normal;
    std::vector<S> q(std::size_t(tokens * heads * d));
    for (S& x : q) x = S(normal(engine));
    const auto omega = rw::frequencies::geometric({.rotary_dim = d});
    const auto own = rw::make_rotation_table<T>(omega, rw::position_ids::text(tokens, 90));
    const auto fixed = rw::make_rotation_table<T>(omega, rw::position_ids::text(tokens, 2048));
    std::vector<T> near(q.size(), T(9)), far(q.size(), T(9)), want_near(q.size()), want_far(q.size());
    for (std::size_t i = 0; i < q.size(); ++i)
        want_near[i] = want_far[i] = static_cast<T>(static_cast<rw::compute_t<S>>(q[i]));
    const auto view = [&](auto& x) { return rw::heads_view(x.data(), tokens, heads, d); };
    rw::rotate(layout, view(want_near), own);
    rw::rotate(layout, view(want_far), fixed);
    rw::rotate_twice(layout, view(q), view(near), view(far), own, fixed);
    CAPTURE(pairs);
    CHECK(near == want_near);
    CHECK(far == want_far);
}

}  // namespace

TEST_CASE("windowed_query: the same bits as two rotations, every layout, size and storage",
          "[compression][wrope]") {
    for (rw::index pairs : {1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 64})
        for (const rw::pair_layout& layout :
             {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{}),
              rw::pair_layout::blocked_by(2 * pairs), rw::pair_layout::blocked_by(2)}) {
            check<double, double>(layout, pairs);
            check<float, float>(layout, pairs);
            check<rw::bf16, float>(layout, pairs);
            check<rw::f16, float>(layout, pairs);
        }
}

TEST_CASE("windowed_query: untouched tokens are not written", "[compression][wrope]") {
    std::vector<float> q(2 * 4, 1.0f), near(8, 9.0f), far(8, 9.0f);
    const auto table =
        rw::make_rotation_table(rw::frequencies::geometric({.rotary_dim = 4}), rw::position_ids::text(2));
    const std::vector<std::int32_t> rows{-1, 1};
    rw::rotate_twice(rw::half_split{}, rw::heads_view(q.data(), 2, 1, 4),
                     rw::heads_view(near.data(), 2, 1, 4), rw::heads_view(far.data(), 2, 1, 4),
                     table.rows(rows), table.rows(rows));
    for (int i = 0; i < 4; ++i) {
        CHECK(near[i] == 9);
        CHECK(far[4 + i] != 9);
    }
}
