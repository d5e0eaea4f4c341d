// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The projections of a layer of multi-head latent attention, and bilinear factors for spectral analysis.
#pragma once

#include <vector>

#include <Eigen/Core>

#include <ropewalk/schemes/mla.hpp>

namespace ROPEWALK_NAMESPACE {

/// The projections of one layer, [out, in] as checkpoints store them.
/// Shapes: query heads are [nope | rope] channels; wkv_a rows [latent | shared key]; wkv_b rows of each head
///         [nope key | value].
template <class T>
struct latent_weights {
    /// A row-major matrix of T.
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    matrix wq = {};                  ///< [heads * (nope + rope), hidden] when query_rank is 0
    matrix wq_a = {};                ///< [query_rank, hidden]
    std::vector<T> query_norm = {};  ///< [query_rank]
    matrix wq_b = {};                ///< [heads * (nope + rope), query_rank]
    matrix wkv_a = {};               ///< [latent + rope, hidden]
    std::vector<T> key_norm = {};    ///< [latent]
    matrix wkv_b = {};               ///< [heads * (nope + value), latent]
};

/// A head's query and key matrices as factors of the bilinear form x^T (q k^T) y, the score of x and y, for
/// spectra of attention weights (make_product_report(f.q, f.k)).
/// Shapes:   q and k [hidden, channels].
struct score_factors {
    Eigen::MatrixXd q = {};  ///< of the queries
    Eigen::MatrixXd k = {};  ///< of the keys
};

namespace detail {

template <class T>
score_factors factors_of(const char* who, const mla::config& c, const latent_weights<T>& w, index head,
                         bool rotary) {
    const index d = c.nope_dim + c.rope_dim, first = head * d + (rotary ? c.nope_dim : 0),
                count = rotary ? c.rope_dim : c.nope_dim, up = c.nope_dim + c.value_dim;
    require(head >= 0 && head < c.heads, who, "head must be one of the config's", head);
    const auto wide = [](const auto& m) -> Eigen::MatrixXd { return m.template cast<double>(); };
    const auto gain = [](const std::vector<T>& norm) -> Eigen::VectorXd {
        return Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>(norm.data(),
                                                                     static_cast<Eigen::Index>(norm.size()))
            .template cast<double>();
    };
    score_factors f;
    if (c.query_rank == 0) {
        require_shape(who, "wq must be [heads * (nope + rope), hidden]", c.heads * d, c.hidden, w.wq);
        f.q = wide(w.wq.middleRows(first, count)).transpose();
    } else {
        require_shape(who, "wq_a must be [query_rank, hidden]", c.query_rank, c.hidden, w.wq_a);
        require_shape(who, "wq_b must be [heads * (nope + rope), query_rank]", c.heads * d, c.query_rank,
                      w.wq_b);
        require_equal(who, "query_norm must be [query_rank]", c.query_rank, w.query_norm.size());
        f.q = (wide(w.wq_b.middleRows(first, count)) * gain(w.query_norm).asDiagonal() * wide(w.wq_a))
                  .transpose();
    }
    require_shape(who, "wkv_a must be [latent + rope, hidden]", c.latent + c.rope_dim, c.hidden, w.wkv_a);
    if (rotary) {
        f.k = wide(w.wkv_a.bottomRows(c.rope_dim)).transpose();
        return f;
    }
    require_shape(who, "wkv_b must be [heads * (nope + value), latent]", c.heads * up, c.latent, w.wkv_b);
    require_equal(who, "key_norm must be [latent]", c.latent, w.key_norm.size());
    f.k = (wide(w.wkv_b.middleRows(head * up, count)) * gain(w.key_norm).asDiagonal() *
           wide(w.wkv_a.topRows(c.latent)))
              .transpose();
    return f;
}

}  // namespace detail

/// W_Q^h and W_K^h of the channels that do not rotate, with compression and norm gains multiplied in. The
/// norms also divide by the size of their input, a positive number, which does not change directions.
/// Throws:   invalid_config on a head that does not exist or weights without the config's shapes.
/// Cost:     matrix products in f64; for study.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, "absorb".
template <class T>
score_factors make_content_factors(const mla::config& c, const latent_weights<T>& w, index head) {
    return detail::factors_of("make_content_factors", c, w, head, false);
}
/// The same for the channels that rotate, at distance 0; all heads share the key's factor.
/// Throws, Cost, Source: as make_content_factors.
template <class T>
score_factors make_rotary_factors(const mla::config& c, const latent_weights<T>& w, index head) {
    return detail::factors_of("make_rotary_factors", c, w, head, true);
}

}  // namespace ROPEWALK_NAMESPACE
