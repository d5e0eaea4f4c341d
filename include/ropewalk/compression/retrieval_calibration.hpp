// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Makes retrieval_cache's quantizers from calibration text, or reads them from a file.
#pragma once

#include <vector>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/compression/codebook.hpp>
#include <ropewalk/core/stored_tensor.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// Parameters of the quantizers of a layer, besides its queries and keys.
struct retrieval_calibration {
    double relative_position = 2048;  ///< b of the retrieval_cache: queries are rotated to this distance
    std::int64_t context_length = 1;  ///< the context length of the scheme's frequencies
    double epsilon = 1e-6;            ///< of make_query_metric
    codebook_options codebook = {};   ///< number of codewords, and parameters of k-means
    part_of part = {};                ///< the share of the kv heads that this call does
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

/// One quantizer per kv head, from the queries and keys of a calibration text, both before rotation: the
/// metric of all queries of the head's group, rotated to the far position, and a codebook of the keys under
/// it.
/// Shapes:   q [batches, tokens, heads, head_dim], k [batches, tokens, kv heads, head_dim]; batches are
///           texts. Positions do not matter, since codewords are valid at all of them. Each part returns the
///           quantizers of its own heads, in order.
/// Throws:   invalid_config on an invalid part, when the heads are not a multiple of the kv heads, when
///           channels differ from each other or from rope.head_dim, and as make_query_metric and
///           make_codebook.
/// Cost:     that of make_codebook per kv head, once.
/// Source:   junhuihe-hjh/A2ATS vqkey/notebooks/construct_codebooks.py.
///
///     retrieval_cache cache(make_retrieval_quantizers(q, k, rope), rope, {.heads = 32});
template <class T = float, class Q, class K>
std::vector<vector_quantizer<T>> make_retrieval_quantizers(heads_view<Q> q, heads_view<K> k,
                                                           const rotary_scheme& rope,
                                                           const retrieval_calibration& options = {}) {
    constexpr const char* who = "make_retrieval_quantizers";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    detail::require(k.heads() > 0 && q.heads() > 0 && q.heads() % k.heads() == 0, who,
                    "q.heads must be a multiple of k.heads", q.heads());
    detail::require_equal(who, "k.channels must be rope.head_dim", rope.head_dim, k.channels());
    detail::require_equal(who, "q.channels must be rope.head_dim", rope.head_dim, q.channels());
    detail::require_part(who, options.part);
    detail::require(std::isfinite(options.relative_position), who, "relative_position must be finite",
                    options.relative_position);
    const auto table =
        make_rotation_table<double>(rope.spectrum_for(options.context_length),
                                    position_ids::from(std::vector{options.relative_position}));
    const index group = q.heads() / k.heads(), each = q.batches() * q.tokens();
    std::vector<vector_quantizer<T>> quantizers;
    const work_range own = partition(k.heads(), options.part);
    for (index kv = own.first; kv < own.first + own.count; ++kv) {
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

/// The sizes of a layer's stored quantizers.
struct retrieval_file {
    index kv_heads = 0;
    index codewords = 4096;  ///< per kv head
    index channels = 0;
};

/// The quantizers of a layer from its tensors: "codebooks", codewords as z = k L as the official calibration
/// stores them, and "cholesky_factors".
/// Shapes:   codebooks [kv heads, codewords, channels], cholesky_factors [kv heads, channels, channels];
///           tensors: a callable std::string_view -> stored_tensor<float or double>.
/// Throws:   invalid_config naming a tensor that is missing or has other extents, and as vector_quantizer.
/// Accuracy: that of the file: factors that were stored in bf16 lose the effect of epsilon.
/// Source:   junhuihe-hjh/A2ATS vqkey/notebooks/construct_codebooks.py: two files with one tensor per layer
///           each.
template <class T = float, class Stored = float, class Tensors>
std::vector<vector_quantizer<T>> read_retrieval_quantizers(const retrieval_file& file, Tensors&& tensors) {
    constexpr const char* who = "read_retrieval_quantizers";
    const auto [kv_heads, codewords, d] = file;
    detail::require(kv_heads >= 1, who, "kv_heads must be >= 1", kv_heads);
    detail::require(codewords >= 1, who, "codewords must be >= 1", codewords);
    detail::require(d >= 1, who, "channels must be >= 1", d);
    detail::checked_product(who, "kv_heads * codewords * channels must fit", {kv_heads, codewords, d});
    const auto books = detail::tensor_of<Stored>(who, tensors, "codebooks", {kv_heads, codewords, d});
    const auto factors = detail::tensor_of<Stored>(who, tensors, "cholesky_factors", {kv_heads, d, d});
    using rows = Eigen::Matrix<Stored, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    std::vector<vector_quantizer<T>> quantizers;
    for (index kv = 0; kv < kv_heads; ++kv)
        quantizers.emplace_back(
            Eigen::Map<const rows>(books.data() + kv * codewords * d, codewords, d).template cast<double>(),
            Eigen::Map<const rows>(factors.data() + kv * d * d, d, d).template cast<double>());
    return quantizers;
}

}  // namespace ROPEWALK_NAMESPACE
