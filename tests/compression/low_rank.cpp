// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#include <ropewalk/compression/low_rank.hpp>

#include <ropewalk/attention/exact.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/frequencies/geometric.hpp>
#include <ropewalk/kernels/rotate.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/gaussian.hpp"

namespace rw = ropewalk;
using support::gaussian;

namespace {

const std::vector<rw::index> elite{0, 3, 1, 2};
const rw::elite_layout layout(elite, 2, 8);
const Eigen::MatrixXd wq = gaussian(32, 12, 1), wk = gaussian(16, 12, 2), wv = gaussian(16, 12, 3);

}  // namespace

TEST_CASE("low_rank: the best factorisation of a rank", "[compression][low_rank]") {
    const Eigen::MatrixXd a = gaussian(9, 14, 4);
    for (rw::index rank : {0, 1, 5, 9}) {
        const auto f = rw::make_low_rank(a, rank);
        CHECK((f.down.transpose() * f.down - Eigen::MatrixXd::Identity(rank, rank)).norm() < 1e-13);
        CHECK((a - f.product()).squaredNorm() == Approx(f.squared_error()).margin(1e-12));
        const Eigen::MatrixXd u = gaussian(9, rank, 5);
        if (rank > 0) CHECK(f.squared_error() <= (a - u * u.householderQr().solve(a)).squaredNorm() + 1e-12);
    }
    CHECK(rw::make_low_rank(a, 9).squared_error() < 1e-20);
}

TEST_CASE("low_rank: one latent for keys and values beats two of the same total", "[compression][low_rank]") {
    const auto a = rw::make_joint_matrix(wk, wv, layout);
    REQUIRE(a.rows() == 12);
    REQUIRE(a.cols() == 2 * (4 + 8));
    for (rw::index rank : {2, 6, 8}) {
        const auto joint = rw::make_low_rank(a, rank);
        for (rw::index keys = 0; keys <= std::min<rw::index>(rank, 8); ++keys)
            CHECK(joint.squared_error() <=
                  rw::make_split_low_rank(wk, wv, layout, keys, rank - keys).squared_error() + 1e-12);
    }
    // Head 1 turns pairs 1 and 2: its first joint column is channel 0 of that head.
    CHECK((a.col(12) - wk.row(8).transpose()).norm() == 0);
    CHECK((a.col(16) - wv.row(8).transpose()).norm() == 0);
}

TEST_CASE("low_rank: the best split of a width loses least of all splits", "[compression][low_rank]") {
    // Keys have 8 columns without the elite ones, values 16, over 12 inputs: ranks 8 and 12.
    for (rw::index width : {0, 1, 5, 9, 16, 20}) {
        const auto best = rw::make_best_split(wk, wv, layout, width);
        CHECK(best.keys + best.values == width);
        const double loss = rw::make_split_low_rank(wk, wv, layout, best.keys, best.values).squared_error();
        for (rw::index keys = std::max<rw::index>(0, width - 12); keys <= std::min<rw::index>(width, 8);
             ++keys)
            CHECK(loss <=
                  rw::make_split_low_rank(wk, wv, layout, keys, width - keys).squared_error() + 1e-12);
    }
    const Eigen::MatrixXd zero = 0 * wk;
    CHECK(rw::make_best_split(zero, wv, layout, 5).keys == 0);
    CHECK(rw::make_best_split(zero, zero, layout, 5).keys == 5);  // equal: keys first
    CHECK_THROWS_WITH(rw::make_best_split(wk, wv, layout, 21), ContainsSubstring("together, got 21"));
    CHECK_THROWS_WITH(rw::make_best_split(wk, wv, layout, -1), ContainsSubstring("together, got -1"));
}

TEST_CASE("low_rank: two latents side by side reproduce what each factorisation does",
          "[compression][low_rank]") {
    const auto full = rw::make_elite_weights<double>(wq, wk, wv, layout, rw::latent_split{8, 12});
    CHECK(full.latent() == 20);
    CHECK((full.effective_keys() - layout.packed_rows(wk)).norm() < 1e-12);
    CHECK((full.effective_values() - wv).norm() < 1e-12);
    const auto cut = rw::make_elite_weights<double>(wq, wk, wv, layout, rw::latent_split{3, 4});
    CHECK(cut.latent() == 7);
    CHECK(cut.queries == full.queries);
    CHECK(cut.rope_keys == full.rope_keys);
    CHECK(cut.up_keys.rightCols(4).norm() == 0);
    CHECK(cut.up_values.leftCols(3).norm() == 0);
    const double lost = (cut.effective_keys() - layout.packed_rows(wk)).squaredNorm() +
                        (cut.effective_values() - wv).squaredNorm();
    CHECK(lost == Approx(rw::make_split_low_rank(wk, wv, layout, 3, 4).squared_error()));
    // No key or no value latent is legal; more than a side has is not.
    CHECK(rw::make_elite_weights<double>(wq, wk, wv, layout, rw::latent_split{0, 2}).latent() == 2);
    CHECK_THROWS_WITH(rw::make_elite_weights<>(wq, wk, wv, layout, rw::latent_split{9, 1}),
                      ContainsSubstring("rank") && ContainsSubstring("got 9"));
}

TEST_CASE("low_rank: what a cache takes", "[compression][low_rank]") {
    std::vector<rw::index> twelve, eight, four;
    for (int h = 0; h < 32; ++h)
        for (rw::index i = 0; i < 12; ++i) {
            twelve.push_back(i);
            if (i < 8) eight.push_back(i);
            if (i < 4) four.push_back(i);
        }
    CHECK(rw::elite_cache_ratio(rw::elite_layout(twelve, 32, 128), 2048) == Approx(0.34375));
    CHECK(rw::elite_cache_ratio(rw::elite_layout(eight, 32, 128), 1536) == Approx(0.25));
    CHECK(rw::elite_cache_ratio(rw::elite_layout(four, 32, 128), 768) == Approx(0.125));
    CHECK(rw::elite_cached_channels(rw::elite_layout(twelve, 32, 128), 2048) == 2816);
}

TEST_CASE("low_rank: an elite cache of full rank attends like the full cache", "[compression][low_rank]") {
    const rw::index tokens = 15, d = 8, heads = 4, kv = 2;
    const auto omega = rw::frequencies::geometric({.rotary_dim = d, .base = 40});
    const auto w = rw::make_elite_weights<double>(wq, wk, wv, layout, 12);
    CHECK(w.query_heads() == heads);
    CHECK(w.latent() == 12);
    CHECK((w.effective_keys() - layout.packed_rows(wk)).norm() < 1e-12);
    CHECK((w.effective_values() - wv).norm() < 1e-12);
    using matrix = rw::elite_weights<double>::matrix;
    const matrix x = gaussian(tokens, 12, 6);

    // The full way: packed keys, the elite slice rotated, plain attention of the last token.
    matrix q = x.bottomRows(1) * w.queries.transpose(), k = x * layout.packed_rows(wk).transpose(),
           v = x * wv.transpose();
    const auto rope_q = layout.scheme(omega, heads), rope_k = layout.scheme(omega, kv);
    rw::rotate(
        rope_q, rw::heads_view(q.data(), 1, heads, d),
        rw::make_rotation_table<double>(rope_q.spectrum_for(1), rw::position_ids::text(1, tokens - 1)));
    rw::rotate(rope_k, rw::heads_view(k.data(), tokens, kv, d),
               rw::make_rotation_table<double>(rope_k.spectrum_for(1), rw::position_ids::text(tokens)));
    matrix want(1, heads * d);
    rw::attend(rw::heads_view(q.data(), 1, heads, d), rw::heads_view(k.data(), tokens, kv, d),
               rw::heads_view(v.data(), tokens, kv, d), rw::heads_view(want.data(), 1, heads, d));

    // The cache: latents and rotated elite keys; queries through the keys' half of the up-projection.
    matrix latents = x * w.down.transpose(), rope_keys = x * w.rope_keys.transpose();
    const rw::heads_view own_k(rope_keys.data(), tokens, kv, layout.rope_channels());
    rw::rotate(rope_k, own_k,
               rw::make_rotation_table<double>(rope_k.spectrum_for(1), rw::position_ids::text(tokens)));
    matrix absorbed(heads, 12), out(heads, 12);
    for (rw::index h = 0; h < heads; ++h)
        absorbed.row(h) = q.middleCols(h * d, 4) * w.up_keys.middleRows(h / 2 * 4, 4);
    rw::row_attention<double> attention(
        {.heads = heads, .key_channels = 12, .value_channels = 12, .own_channels = 4});
    const rw::heads_view cached(latents.data(), tokens, 1, 12);
    attention.attend(rw::heads_view(absorbed.data(), 1, heads, 12), cached, cached,
                     rw::heads_view(out.data(), 1, heads, 12), {.scale = 1 / std::sqrt(8.0), .count = tokens},
                     rw::heads_view(q.data(), 1, heads, d).channel_slice(4, 4), own_k);
    for (rw::index h = 0; h < heads; ++h)
        CHECK((out.row(h) * w.up_values.middleRows(h / 2 * d, d).transpose() - want.middleCols(h * d, d))
                  .cwiseAbs()
                  .maxCoeff() < 1e-12);
}

TEST_CASE("low_rank: what is refused, and how it says so", "[compression][low_rank][errors]") {
    const Eigen::MatrixXd a = gaussian(4, 6, 1);
    CHECK_THROWS_WITH(rw::make_low_rank(a, 5), ContainsSubstring("smaller side of the matrix, got 5"));
    CHECK_THROWS_WITH(rw::make_low_rank(a, -1), ContainsSubstring("got -1"));
    CHECK_THROWS_WITH(rw::make_low_rank(std::nan("") * a, 1), ContainsSubstring("must be finite"));
    CHECK_THROWS_WITH(rw::make_joint_matrix(gaussian(15, 12, 1), wv, layout),
                      ContainsSubstring("k_weight") && ContainsSubstring("got 15"));
    CHECK_THROWS_WITH(rw::make_joint_matrix(wk, gaussian(16, 11, 1), layout), ContainsSubstring("v_weight"));
    CHECK_THROWS_WITH(rw::make_elite_weights<>(wq, wk, wv, layout, 13),
                      ContainsSubstring("rank") && ContainsSubstring("got 13"));
    CHECK_THROWS_WITH(rw::make_elite_weights<>(gaussian(16, 5, 1), wk, wv, layout, 4),
                      ContainsSubstring("q_weight must have k_weight's columns (hidden): wanted 12, got 5"));
    CHECK_THROWS_WITH(rw::make_elite_weights<>(gaussian(16, 5, 1), wk, wv, layout, rw::latent_split{2, 2}),
                      ContainsSubstring("q_weight must have k_weight's columns (hidden): wanted 12, got 5"));
    CHECK(rw::make_low_rank(Eigen::MatrixXd(3, 0), 0).squared_error() == 0);
}
