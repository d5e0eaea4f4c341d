// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Low-rank factorisations of key and value projections (EliteKV's J-LRD and S-LRD), and the packed weights.
#pragma once

#include <Eigen/SVD>

#include <ropewalk/compression/elite_layout.hpp>

namespace ROPEWALK_NAMESPACE {

/// The best low-rank approximation of a matrix: a ~ down * up.
/// Shapes:   down [rows, rank] with orthonormal columns, up [rank, columns] = singular values times right
///           vectors; all singular_values, descending. The factors are unique only up to an orthogonal
///           transformation of the latent.
/// Source:   Eckart and Young 1936.
struct low_rank_factors {
    Eigen::MatrixXd down;             ///< the compressing factor
    Eigen::MatrixXd up;               ///< the expanding factor
    Eigen::VectorXd singular_values;  ///< all singular values, descending

    /// The product of the factors.
    Eigen::MatrixXd product() const { return down * up; }
    /// |a - down up|^2, from the singular values that were dropped.
    double squared_error() const {
        return singular_values.tail(singular_values.size() - up.rows()).squaredNorm();
    }
};

/// The best approximation of a matrix by one of lower rank. It is a template so that programs that do not
/// call it do not compile the decomposition (about 20 seconds with GCC 12).
/// Throws:   invalid_config when rank is not in 0 .. min(rows, columns) or a is not finite.
/// Cost:     one singular value decomposition.
/// Accuracy: f64, 1e-12 of the largest singular value.
/// Source:   CiaranZhou/EliteKV convert/convert.py.
template <class Derived>
low_rank_factors make_low_rank(const Eigen::MatrixBase<Derived>& matrix, index rank) {
    const Eigen::MatrixXd a = matrix;
    detail::require(rank >= 0 && rank <= std::min(a.rows(), a.cols()), "make_low_rank",
                    "rank must be 0 to the smaller side of the matrix", rank);
    detail::require(a.allFinite(), "make_low_rank", "matrix must be finite, its sum", a.sum());
    if (a.size() == 0)
        return {Eigen::MatrixXd(a.rows(), 0), Eigen::MatrixXd(0, a.cols()), Eigen::VectorXd(0)};
    const Eigen::BDCSVD<Eigen::MatrixXd> svd(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
    return {svd.matrixU().leftCols(rank),
            svd.singularValues().head(rank).asDiagonal() * svd.matrixV().leftCols(rank).transpose(),
            svd.singularValues()};
}

namespace detail {

/// [hidden, heads * (nope + head_dim)] or one part of it, from torch's [out, in] weights.
inline Eigen::MatrixXd compressed_columns(const char* who, const Eigen::MatrixXd& k_weight,
                                          const Eigen::MatrixXd& v_weight, const elite_layout& layout,
                                          index k_columns, index v_columns) {
    const index rows = layout.heads() * layout.head_dim(), d = layout.head_dim();
    require_equal(who, "k_weight must be [kv heads * head_dim, hidden], its rows", rows, k_weight.rows());
    require_shape(who, "v_weight must have the shape of k_weight", rows, k_weight.cols(), v_weight);
    const Eigen::MatrixXd packed = layout.packed_rows(k_weight);
    Eigen::MatrixXd out(k_weight.cols(), layout.heads() * (k_columns + v_columns));
    for (index h = 0; h < layout.heads(); ++h) {
        const index at = h * (k_columns + v_columns);
        out.middleCols(at, k_columns) = packed.middleRows(h * d, k_columns).transpose();
        out.middleCols(at + k_columns, v_columns) = v_weight.middleRows(h * d, v_columns).transpose();
    }
    return out;
}

}  // namespace detail

/// The matrix that a latent approximates: per kv head [W_k without the elite channels | W_v].
/// Shapes:   k_weight, v_weight [kv heads * head_dim, hidden] as torch stores them ->
///           [hidden, kv heads * (nope + head_dim)].
/// Throws:   invalid_config on shapes that disagree with the layout.
/// Source:   CiaranZhou/EliteKV convert/convert.py.
inline Eigen::MatrixXd make_joint_matrix(const Eigen::MatrixXd& k_weight, const Eigen::MatrixXd& v_weight,
                                         const elite_layout& layout) {
    return detail::compressed_columns("make_joint_matrix", k_weight, v_weight, layout, layout.nope_channels(),
                                      layout.head_dim());
}

/// S-LRD, which compresses keys and values separately: two factorisations, two latents.
struct split_factors {
    low_rank_factors keys;    ///< the factors of the keys
    low_rank_factors values;  ///< the factors of the values
    /// The sum of both errors.
    double squared_error() const { return keys.squared_error() + values.squared_error(); }
};

/// The two factorisations. Throws: invalid_config as make_joint_matrix and make_low_rank.
/// Accuracy: for the same total rank never better than the joint factorisation (Eckart and Young).
/// Source:   EliteKV, arXiv 2503.01586, S-LRD.
template <class K, class V>
split_factors make_split_low_rank(const Eigen::MatrixBase<K>& k_weight, const Eigen::MatrixBase<V>& v_weight,
                                  const elite_layout& layout, index key_rank, index value_rank) {
    constexpr const char* who = "make_split_low_rank";
    return {
        make_low_rank(detail::compressed_columns(who, k_weight, v_weight, layout, layout.nope_channels(), 0),
                      key_rank),
        make_low_rank(detail::compressed_columns(who, k_weight, v_weight, layout, 0, layout.head_dim()),
                      value_rank)};
}

/// The widths of two latents, one for keys and one for values.
struct latent_split {
    index keys = 0;    ///< channels of the latent of the keys
    index values = 0;  ///< channels of the latent of the values
};

/// The split of a total width with the least error: it takes the largest singular values of both sides, keys
/// first where they are equal.
/// Throws:   invalid_config as make_joint_matrix, or on latent outside 0 .. the sum of both ranks.
/// Source:   Eckart and Young 1936, for a matrix of two blocks.
template <class K, class V>
latent_split make_best_split(const Eigen::MatrixBase<K>& k_weight, const Eigen::MatrixBase<V>& v_weight,
                             const elite_layout& layout, index latent) {
    const split_factors all = make_split_low_rank(k_weight, v_weight, layout, 0, 0);
    const Eigen::VectorXd &k = all.keys.singular_values, &v = all.values.singular_values;
    detail::require(latent >= 0 && latent <= k.size() + v.size(), "make_best_split",
                    "latent must be 0 to the ranks of keys and values together", latent);
    latent_split s;
    while (s.keys + s.values < latent)
        ++(s.values == v.size() || (s.keys < k.size() && k[s.keys] >= v[s.values]) ? s.keys : s.values);
    return s;
}

/// Numbers that a token leaves in the cache of a layer: the elite channels of all kv heads and the latent.
/// Source: EliteKV, arXiv 2503.01586.
inline index elite_cached_channels(const elite_layout& layout, index latent) noexcept {
    return layout.heads() * layout.rope_channels() + latent;
}
/// elite_cached_channels divided by the size of full keys and values of the same kv heads.
/// Source: as elite_cached_channels.
inline double elite_cache_ratio(const elite_layout& layout, index latent) noexcept {
    return static_cast<double>(elite_cached_channels(layout, latent)) /
           static_cast<double>(2 * layout.heads() * layout.head_dim());
}

/// The projections of one layer for an elite cache, made when a model is loaded.
/// Shapes:   all in T: queries [heads * head_dim, hidden] in packed order; rope_keys
///           [kv heads * 2r, hidden]; down [latent, hidden]; up_keys [kv heads * nope, latent]; up_values
///           [kv heads * head_dim, latent].
/// Source:   CiaranZhou/EliteKV convert/convert.py: q_nope_proj and q_rope_proj, k_rope_proj, kv_a_proj,
///           kv_b_proj.
template <class T = float>
struct elite_weights {
    /// A row-major matrix of T.
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    elite_layout layout;
    matrix queries = {};    ///< [heads * head_dim, hidden]
    matrix rope_keys = {};  ///< [kv heads * 2r, hidden]
    matrix down = {};       ///< [latent, hidden]
    matrix up_keys = {};    ///< [kv heads * nope, latent]
    matrix up_values = {};  ///< [kv heads * head_dim, latent]

    /// Channels of the latent.
    index latent() const noexcept { return down.rows(); }
    index query_heads() const noexcept { return queries.rows() / layout.head_dim(); }
    /// W_k of packed heads that the low-rank weights represent, [kv heads * head_dim, hidden].
    matrix effective_keys() const {
        const index nope = layout.nope_channels(), rope = layout.rope_channels(), d = layout.head_dim();
        matrix k(layout.heads() * d, down.cols());
        for (index h = 0; h < layout.heads(); ++h) {
            k.middleRows(h * d, nope) = up_keys.middleRows(h * nope, nope) * down;
            k.middleRows(h * d + nope, rope) = rope_keys.middleRows(h * rope, rope);
        }
        return k;
    }
    /// W_v that the low-rank weights represent.
    matrix effective_values() const { return up_values * down; }
};

namespace detail {

/// From down [hidden, latent] and up [latent, kv heads * (nope + head_dim)].
template <class T>
elite_weights<T> packed_elite_weights(const Eigen::MatrixXd& q_weight, const Eigen::MatrixXd& k_weight,
                                      const elite_layout& layout, const Eigen::MatrixXd& down,
                                      const Eigen::MatrixXd& up) {
    require_equal("make_elite_weights", "q_weight must have k_weight's columns (hidden)", k_weight.cols(),
                  q_weight.cols());
    const index nope = layout.nope_channels(), rope = layout.rope_channels(), d = layout.head_dim();
    const Eigen::MatrixXd keys = layout.packed_rows(k_weight);
    elite_weights<T> w{.layout = layout, .queries = layout.packed_rows(q_weight).template cast<T>()};
    w.down = down.transpose().cast<T>();
    w.rope_keys.resize(layout.heads() * rope, k_weight.cols());
    w.up_keys.resize(layout.heads() * nope, down.cols());
    w.up_values.resize(layout.heads() * d, down.cols());
    for (index h = 0; h < layout.heads(); ++h) {
        w.rope_keys.middleRows(h * rope, rope) = keys.middleRows(h * d + nope, rope).template cast<T>();
        const index at = h * (nope + d);
        w.up_keys.middleRows(h * nope, nope) = up.middleCols(at, nope).transpose().template cast<T>();
        w.up_values.middleRows(h * d, d) = up.middleCols(at + nope, d).transpose().template cast<T>();
    }
    return w;
}

}  // namespace detail

/// The weights of J-LRD: one latent for keys and values.
/// Throws:   invalid_config on shapes that disagree, or latent beyond the joint matrix's smaller side.
/// Cost:     the decomposition of the joint matrix.
/// Accuracy: with the largest latent the scores and values are those of the full weights, 1e-12 in f64.
/// Source:   as elite_weights.
template <class T = float>
elite_weights<T> make_elite_weights(const Eigen::MatrixXd& q_weight, const Eigen::MatrixXd& k_weight,
                                    const Eigen::MatrixXd& v_weight, const elite_layout& layout,
                                    index latent) {
    const low_rank_factors f = make_low_rank(make_joint_matrix(k_weight, v_weight, layout), latent);
    return detail::packed_elite_weights<T>(q_weight, k_weight, layout, f.down, f.up);
}

/// The weights of S-LRD: a latent for keys and one for values, side by side in that order; up_keys is zero on
/// the second, up_values on the first.
/// Throws:   invalid_config on shapes that disagree, or a width beyond the rank of its side.
/// Cost:     two decompositions.
/// Source:   EliteKV, arXiv 2503.01586, S-LRD.
template <class T = float>
elite_weights<T> make_elite_weights(const Eigen::MatrixXd& q_weight, const Eigen::MatrixXd& k_weight,
                                    const Eigen::MatrixXd& v_weight, const elite_layout& layout,
                                    latent_split latent) {
    const split_factors f = make_split_low_rank(k_weight, v_weight, layout, latent.keys, latent.values);
    const index nope = layout.nope_channels(), d = layout.head_dim();
    Eigen::MatrixXd down(k_weight.cols(), latent.keys + latent.values);
    down.leftCols(latent.keys) = f.keys.down;
    down.rightCols(latent.values) = f.values.down;
    Eigen::MatrixXd up = Eigen::MatrixXd::Zero(down.cols(), layout.heads() * (nope + d));
    for (index h = 0; h < layout.heads(); ++h) {
        const index at = h * (nope + d);
        up.block(0, at, latent.keys, nope) = f.keys.up.middleCols(h * nope, nope);
        up.block(latent.keys, at + nope, latent.values, d) = f.values.up.middleCols(h * d, d);
    }
    return detail::packed_elite_weights<T>(q_weight, k_weight, layout, down, up);
}

}  // namespace ROPEWALK_NAMESPACE
