// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <vector>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/compression/codebook.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// What the quantizers of a layer are made from, beside its queries and keys.
struct retrieval_calibration {
    double relative_position = 2048;  ///< b, as the retrieval_cache will score: queries are rotated to it
    std::int64_t context_length = 1;  ///< what the scheme's frequencies are asked for
    double epsilon = 1e-6;            ///< of make_query_metric
    codebook_options codebook = {};   ///< how many codewords, and how they are found
};

namespace detail {

/// Every row of one head, [batches * tokens, channels], in f64.
template <class E>
Eigen::MatrixXd rows_of_head(heads_view<E> x, index head) {
    Eigen::MatrixXd rows(x.batches() * x.tokens(), x.channels());
    for (index b = 0; b < x.batches(); ++b)
        for (index n = 0; n < x.tokens(); ++n)
            for (index c = 0; c < x.channels(); ++c)
                rows(b * x.tokens() + n, c) =
                    static_cast<double>(static_cast<compute_t<E>>(x.at(b, n, head)[c]));
    return rows;
}

}  // namespace detail

/// One quantizer a kv head, from the queries and keys of a calibration text, both before rotation: the
/// metric of all queries of the head's group at the far position, and a codebook of the keys under it.
/// Shapes:   q [batches, tokens, heads, head_dim], k [batches, tokens, kv heads, head_dim]; batches are
///           texts. Positions do not matter: codewords serve all of them.
/// Throws:   invalid_config when kv heads do not divide the heads or channels differ from each other or from
///           rope.head_dim, and as make_query_metric and make_codebook.
/// Cost:     make_codebook's a kv head, once.
/// Source:   junhuihe-hjh/A2ATS vqkey/notebooks/construct_codebooks.py.
///
///     retrieval_cache cache(make_retrieval_quantizers(q, k, rope), rope, {.heads = 32});
template <class T = float, class Q, class K>
std::vector<vector_quantizer<T>> make_retrieval_quantizers(heads_view<Q> q, heads_view<K> k,
                                                           const rotary_scheme& rope,
                                                           const retrieval_calibration& options = {}) {
    constexpr const char* who = "make_retrieval_quantizers";
    detail::require(k.heads() > 0 && q.heads() > 0 && q.heads() % k.heads() == 0, who,
                    "q.heads must be a multiple of k.heads", q.heads());
    detail::require(k.channels() == rope.head_dim, who, "k.channels must be rope.head_dim", k.channels());
    detail::require(q.channels() == rope.head_dim, who, "q.channels must be rope.head_dim", q.channels());
    detail::require(std::isfinite(options.relative_position), who, "relative_position must be finite",
                    options.relative_position);
    const auto table =
        make_rotation_table<double>(rope.spectrum_for(options.context_length),
                                    position_ids::from(std::vector{options.relative_position}));
    const index group = q.heads() / k.heads(), each = q.batches() * q.tokens();
    std::vector<vector_quantizer<T>> quantizers;
    for (index kv = 0; kv < k.heads(); ++kv) {
        using rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
        rows queries(group * each, q.channels());
        for (index g = 0; g < group; ++g)
            queries.middleRows(g * each, each) = detail::rows_of_head(q, kv * group + g);
        rotate(rope, heads_view<double>(queries.data(), queries.rows(), 1, queries.cols()),
               repeat_row(table, 0, queries.rows()));
        const query_metric metric = make_query_metric(queries, options.epsilon);
        quantizers.push_back(
            make_codebook<T>(detail::rows_of_head(k, kv), metric, options.codebook).quantizer(metric));
    }
    return quantizers;
}

}  // namespace ROPEWALK_NAMESPACE
