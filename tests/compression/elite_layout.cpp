// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/elite_layout.hpp>

#include <numeric>
#include <random>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "tests/support/catch.hpp"

namespace rw = ropewalk;

namespace {

std::vector<double> noise(rw::index count, unsigned seed) {
    std::mt19937_64 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<double> x(static_cast<std::size_t>(count));
    for (double& v : x) v = normal(engine);
    return x;
}

}  // namespace

TEST_CASE("elite_layout: others first, elite last, ascending in both", "[compression][elite]") {
    const std::vector<rw::index> elite{3, 1, 0, 2};  // two heads, two pairs each
    const rw::elite_layout layout(elite, 2, 10);
    CHECK(layout.count() == 2);
    CHECK(layout.nope_channels() == 6);
    std::vector<rw::index> first, second;
    for (rw::index c = 0; c < 10; ++c) {
        first.push_back(layout.channel(0, c));
        second.push_back(layout.channel(1, c));
    }
    CHECK(first == std::vector<rw::index>{0, 2, 4, 5, 7, 9, 1, 3, 6, 8});
    CHECK(second == std::vector<rw::index>{1, 3, 4, 6, 8, 9, 0, 2, 5, 7});
    const rw::elite_layout pairs(elite, 2, 10, rw::interleaved{});
    CHECK(pairs.channel(0, 6) == 2);
    CHECK(pairs.channel(0, 8) == 3);
}

TEST_CASE("elite_layout: packed scores are the hybrid scores, and distances are all that counts",
          "[compression][elite]") {
    // 4 query heads over 2 kv heads: the reference turns q and k in place with resting pairs.
    const rw::index tokens = 6, d = 8, heads = 4, kv = 2;
    const std::vector<rw::index> elite{0, 3, 1, 2};
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 40});
    for (const rw::pair_layout& from :
         {rw::pair_layout(rw::half_split{}), rw::pair_layout(rw::interleaved{})}) {
        const rw::elite_layout layout(elite, kv, d, from);
        auto q = noise(tokens * heads * d, 1), k = noise(tokens * kv * d, 2);
        const auto scored = [&](double first) {
            std::vector<double> pq(q.size()), pk(k.size()), s(heads * tokens * tokens), unused(pq.size());
            const rw::heads_view qv(pq.data(), tokens, heads, d), kv_(pk.data(), tokens, kv, d);
            layout.fill_packed(rw::heads_view(q.data(), tokens, heads, d), qv);
            layout.fill_packed(rw::heads_view(k.data(), tokens, kv, d), kv_);
            const auto where = rw::position_ids::text(tokens, first);
            const auto rope_q = layout.scheme(omega, heads), rope_k = layout.scheme(omega, kv);
            rw::rotate(rope_q, qv, rw::make_rotation_table<double>(rope_q.spectrum_for(1), where));
            rw::rotate(rope_k, kv_, rw::make_rotation_table<double>(rope_k.spectrum_for(1), where));
            rw::attend(qv, kv_, kv_, rw::heads_view(unused.data(), tokens, heads, d), {.scores = s});
            return s;
        };
        const auto packed = scored(0), moved = scored(1000);
        for (rw::index h = 0; h < heads; ++h) {
            std::vector<std::uint8_t> keep(4, 0);
            for (rw::index i = 0; i < 2; ++i) keep[elite[h / 2 * 2 + i]] = 1;
            const auto table = rw::make_rotation_table<double>(rw::frequencies::keep_pairs(omega, keep),
                                                               rw::position_ids::text(tokens));
            auto q2 = q, k2 = k;
            const auto one_q = rw::heads_view(q2.data(), tokens, heads, d).head_slice(h, 1);
            const auto one_k = rw::heads_view(k2.data(), tokens, kv, d).head_slice(h / 2, 1);
            rw::rotate(from, one_q, one_k, table);
            for (rw::index n = 0; n < tokens; ++n)
                for (rw::index j = 0; j < tokens; ++j) {
                    const double want =
                        std::inner_product(one_q.at(0, n, 0), one_q.at(0, n, 0) + d, one_k.at(0, j, 0), 0.0) /
                        std::sqrt(double(d));
                    CHECK(packed[(h * tokens + n) * tokens + j] == Approx(want).margin(1e-12));
                    CHECK(moved[(h * tokens + n) * tokens + j] == Approx(want).margin(1e-11));
                }
        }
    }
}

TEST_CASE("elite_layout: all pairs is full rotation, none is no rotation", "[compression][elite][reduces]") {
    const auto omega = rw::frequencies::geometric({.rotary_dim = 8});
    const rw::elite_layout all(std::vector<rw::index>{0, 1, 2, 3}, 1, 8);
    for (rw::index c = 0; c < 8; ++c) CHECK(all.channel(0, c) == c);
    CHECK(all.scheme(omega, 1).spectrum_for(1).omegas() == omega.omegas());
    const rw::elite_layout none(std::vector<rw::index>{}, 1, 8);
    auto x = noise(3 * 8, 3), before = x;
    const auto rope = none.scheme(omega, 1);
    CHECK_FALSE(rope.rotates);
    rw::rotate(rope, rw::heads_view(x.data(), 3, 1, 8),
               rw::make_rotation_table<double>(rope.spectrum_for(1), rw::position_ids::text(3)));
    CHECK(x == before);
}

TEST_CASE("elite_layout: packed weights give packed vectors", "[compression][elite]") {
    const rw::elite_layout layout(std::vector<rw::index>{2, 0}, 2, 6);
    const Eigen::MatrixXd w = Eigen::MatrixXd::Random(24, 5), x = Eigen::MatrixXd::Random(1, 5);
    using row_major = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    row_major q = x * w.transpose(), want(1, 24);
    layout.fill_packed(rw::heads_view(q.data(), 1, 4, 6), rw::heads_view(want.data(), 1, 4, 6));
    CHECK((x * layout.packed_rows(w).transpose() - want).norm() < 1e-14);
}

TEST_CASE("elite_layout: what is refused, and how it says so", "[compression][elite][errors]") {
    using list = std::vector<rw::index>;
    CHECK_THROWS_WITH(rw::elite_layout(list{0, 0}, 1, 8), ContainsSubstring("name a pair once, got 0"));
    CHECK_THROWS_WITH(rw::elite_layout(list{4}, 1, 8), ContainsSubstring("pairs of the head, got 4"));
    CHECK_THROWS_WITH(rw::elite_layout(list{-1}, 1, 8), ContainsSubstring("got -1"));
    CHECK_THROWS_WITH(rw::elite_layout(list{0, 1, 2}, 2, 8), ContainsSubstring("heads * count pairs, got 3"));
    CHECK_THROWS_WITH(rw::elite_layout(list{0, 1, 2, 3, 0}, 1, 8),
                      ContainsSubstring("at most head_dim / 2 pairs a head, got 5"));
    CHECK_THROWS_WITH(rw::elite_layout(list{}, 1, 7), ContainsSubstring("even and > 0, got 7"));
    const rw::elite_layout layout(list{0, 1}, 2, 8);
    CHECK_THROWS_WITH(layout.scheme(rw::frequencies::geometric({.rotary_dim = 8}), 3),
                      ContainsSubstring("got 3"));
    CHECK_THROWS_WITH(layout.scheme(rw::frequencies::geometric({.rotary_dim = 6}), 2),
                      ContainsSubstring("got 3"));
    CHECK_THROWS_WITH(layout.packed_rows(Eigen::MatrixXd(Eigen::MatrixXd::Ones(17, 2))),
                      ContainsSubstring("got 17"));
}
