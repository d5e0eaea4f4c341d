// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Reference variants of latent attention for comparison: ordinary heads, and keys compressed after rotation.
#pragma once

#include <cmath>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// Weights of the variants that multi-head latent attention is compared with: ordinary heads, and heads whose
/// keys are rotated before they are compressed.
/// Shapes: wq and wk [heads * head_dim, hidden]; down [latent, heads * head_dim] and up
///         [heads * head_dim, latent], or both empty: no compression; query_down and query_up likewise, for
///         the queries.
struct rotated_heads {
    index heads = 1;
    Eigen::MatrixXd wq = {};          ///< [heads * head_dim, hidden]
    Eigen::MatrixXd wk = {};          ///< [heads * head_dim, hidden]
    Eigen::MatrixXd down = {};        ///< the compressing factor
    Eigen::MatrixXd up = {};          ///< the expanding factor
    Eigen::MatrixXd query_down = {};  ///< [query latent, heads * head_dim]
    Eigen::MatrixXd query_up = {};    ///< [heads * head_dim, query latent]
    pair_layout layout = half_split{};
};

/// Scores of tokens at positions first, first + 1, ...: q_h = R_p W_q^h x, and keys k = R_p W_k x of all
/// heads. With a compression k_h = up^h (down k), which is MLA-PreRoPE. Its queries are either only rotated,
/// or treated like its keys: rotated at full width, then multiplied by query_down and query_up. Its cache
/// stores down k, which depends on positions. Its scores depend on the distance only where the product of up
/// and down commutes with every rotation (a multiple of the identity on each pair), for queries as for keys.
/// Shapes:   given: x [tokens, hidden] -> [heads, tokens, tokens], every query against every key, scaled by
///           head_dim^(-1/2).
/// Throws:   invalid_config on shapes that disagree or a spectrum that does not have head_dim / 2 pairs.
/// Cost:     plain matrix products in f64; for study.
/// Accuracy: f64. With up down = I the scores are those without compression.
/// Source:   the variants compared in arXiv 2507.09394, as interpreted from its abstract; there is no
///           official code.
template <class Derived>  // so that only callers compile its products
std::vector<double> make_rotated_scores(const rotated_heads& w, const Eigen::MatrixBase<Derived>& given,
                                        const spectrum& omega, double first = 0) {
    constexpr const char* who = "make_rotated_scores";
    const Eigen::MatrixXd x = given;
    using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const index width = w.wq.rows();
    detail::require(w.heads >= 1 && width % w.heads == 0, who, "heads must divide the rows of wq", w.heads);
    detail::require_equal(who, "wq must be [heads * head_dim, hidden], its columns", x.cols(), w.wq.cols());
    detail::require_shape(who, "wk must have the shape of wq", width, x.cols(), w.wk);
    detail::require(2 * omega.pairs() * w.heads == width, who, "omega must have head_dim / 2 pairs",
                    omega.pairs());
    const auto compresses = [width](const Eigen::MatrixXd& down, const Eigen::MatrixXd& up,
                                    const char* of_down, const char* of_up) {
        if (down.size() == 0 && up.size() == 0) return false;
        detail::require(down.cols() == width, who, of_down, down.cols());
        detail::require_shape(who, of_up, width, down.rows(), up);
        return true;
    };
    const bool compressed = compresses(w.down, w.up, "down must be [latent, heads * head_dim], its columns",
                                       "up must be [heads * head_dim, latent]");
    const bool compressed_queries = compresses(
        w.query_down, w.query_up, "query_down must be [query latent, heads * head_dim], its columns",
        "query_up must be [heads * head_dim, query latent]");
    matrix q = x * w.wq.transpose(), k = x * w.wk.transpose();
    const index tokens = x.rows(), d = width / w.heads;
    const heads_view<double> queries(q.data(), tokens, w.heads, d), keys(k.data(), tokens, w.heads, d);
    rotate(w.layout, queries, keys, make_rotation_table<double>(omega, position_ids::text(tokens, first)));
    if (compressed) k = (k * w.down.transpose() * w.up.transpose()).eval();
    if (compressed_queries) q = (q * w.query_down.transpose() * w.query_up.transpose()).eval();
    std::vector<double> scores(static_cast<std::size_t>(w.heads * tokens * tokens));
    matrix unused = matrix::Zero(tokens, width);
    attend(queries, keys, keys, heads_view<double>(unused.data(), tokens, w.heads, d), {.scores = scores});
    return scores;
}

}  // namespace ROPEWALK_NAMESPACE
