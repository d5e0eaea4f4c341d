// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <random>

#include <ropewalk/compression/vector_quantizer.hpp>

namespace ROPEWALK_NAMESPACE {

/// How Lloyd's steps run.
struct codebook_options {
    index codewords = 4096;   ///< how many
    index iterations = 300;   ///< Lloyd steps at most
    double tolerance = 1e-4;  ///< stop once the centroids together move less than this
    std::uint64_t seed = 0;   ///< of the k-means++ start
};

/// What Lloyd's steps leave behind.
/// Shapes:   codewords [count, channels] as z = k L; labels [keys] of the final codewords; loss and shift
///           one number a step taken: the sum of squared distances before the step (to the codewords it
///           starts from) and how far the codewords moved in it.
template <class T = float>
struct codebook_fit {
    typename vector_quantizer<T>::matrix codewords;  ///< [count, channels], as z = k L
    std::vector<std::int32_t> labels;                ///< [keys], of the final codewords
    std::vector<double> loss;                        ///< of each step
    std::vector<double> shift;                       ///< of each step
    double objective = 0;                            ///< sum of squared distances to the final codewords

    /// Ready to encode and score.
    vector_quantizer<T> quantizer(const query_metric& metric) const {
        return {codewords.template cast<double>(), metric.cholesky};
    }
};

namespace detail {

/// Uniform in [0, 1), the same on every platform.
inline double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }

/// k-means++: the first codeword is any key, each next one a key with a chance proportional to its squared
/// distance to the nearest so far. With fewer distinct keys than codewords the rest repeat the first.
template <class Matrix>
Matrix seeded_codewords(const Matrix& z, const codebook_options& options) {
    std::mt19937_64 engine(options.seed);
    const Eigen::Index keys = z.rows();
    Matrix start(options.codewords, z.cols());
    const auto pick_any = static_cast<Eigen::Index>(uniform(engine) * static_cast<double>(keys));
    start.row(0) = z.row(std::min(pick_any, keys - 1));
    Eigen::VectorXd nearest = Eigen::VectorXd::Constant(keys, std::numeric_limits<double>::infinity());
    for (Eigen::Index c = 1; c < start.rows(); ++c) {
        const auto apart = (z.rowwise() - start.row(c - 1)).rowwise().squaredNorm();
        nearest = nearest.cwiseMin(apart.template cast<double>());
        double left = uniform(engine) * nearest.sum();
        Eigen::Index at = 0;
        for (Eigen::Index n = 0; n < keys; ++n) {
            if (nearest[n] <= 0) continue;
            at = n;
            left -= nearest[n];
            if (left < 0) break;
        }
        start.row(c) = z.row(at);
    }
    return start;
}

}  // namespace detail

/// A codebook of the keys of one kv head under a metric, by k-means on z = k L. What is minimised,
/// sum over keys of |z - z_codeword|^2, is the squared error of the queries' scores up to a factor.
/// Shapes:   keys [count, channels], unrotated; `start`, when given, [codewords, channels] as z, instead of
///           the k-means++ start.
/// Throws:   invalid_config without keys, on channels that differ from the metric's or from those of
///           `start`, numbers that are not finite, codewords outside 1 .. 65536, iterations < 0 or
///           tolerance < 0.
/// Cost:     keys * codewords * channels subtractions and multiply-adds a step. An empty codeword becomes
///           the zero vector, as in the official code; the loss falls with every step but such ones.
/// Accuracy: distances in T, means and the loss in f64. Deterministic for a seed.
/// Source:   junhuihe-hjh/A2ATS kmeans_gpu/kmeans.py; k-means++, Arthur and Vassilvitskii 2007.
template <class T = float>
codebook_fit<T> make_codebook(const Eigen::MatrixXd& keys, const query_metric& metric,
                              const codebook_options& options, const Eigen::MatrixXd& start = {}) {
    constexpr const char* who = "make_codebook";
    using matrix = typename vector_quantizer<T>::matrix;
    const index count = keys.rows(), d = keys.cols(), codewords = options.codewords;
    detail::require(count >= 1, who, "keys must not be empty, their number", count);
    detail::require(d == metric.cholesky.rows(), who, "keys must have the metric's channels", d);
    detail::require(keys.allFinite(), who, "keys must be finite, their sum", keys.sum());
    detail::require(codewords >= 1 && codewords <= 65536, who, "codewords must be 1 to 65536", codewords);
    detail::require(options.iterations >= 0, who, "iterations must be >= 0", options.iterations);
    detail::require(options.tolerance >= 0, who, "tolerance must be >= 0", options.tolerance);
    detail::require(start.size() == 0 || (start.rows() == codewords && start.cols() == d), who,
                    "start must be [codewords, channels], its rows", start.rows());
    const Eigen::MatrixXd wide = keys * metric.cholesky;
    const matrix z = wide.cast<T>();
    detail::require(z.allFinite(), who, "keys must be finite under the metric, their sum", wide.sum());

    codebook_fit<T> fit;
    fit.codewords = start.size() ? matrix(start.cast<T>()) : detail::seeded_codewords(z, options);
    detail::require(fit.codewords.allFinite(), who, "start must be finite, its sum", start.sum());
    fit.labels.resize(static_cast<std::size_t>(count));
    std::vector<T> distances(static_cast<std::size_t>(count));
    const auto assign = [&] {
        const detail::codeword_columns<T> columns(fit.codewords.data(), codewords, d);
        detail::fill_nearest(columns, z.data(), count, fit.labels.data(), distances.data());
        double sum = 0;
        for (T v : distances) sum += static_cast<double>(v);
        return sum;
    };
    for (index step = 0; step < options.iterations; ++step) {
        fit.loss.push_back(assign());
        Eigen::MatrixXd means = Eigen::MatrixXd::Zero(codewords, d);
        Eigen::VectorXd members = Eigen::VectorXd::Zero(codewords);
        for (index n = 0; n < count; ++n) {
            const auto label = static_cast<Eigen::Index>(fit.labels[static_cast<std::size_t>(n)]);
            means.row(label) += z.row(n).template cast<double>();
            members[label] += 1;
        }
        for (Eigen::Index c = 0; c < codewords; ++c) means.row(c) /= std::max(members[c], 1.0);
        const matrix next = means.cast<T>();
        fit.shift.push_back((next.template cast<double>() - fit.codewords.template cast<double>()).norm());
        fit.codewords = next;
        if (fit.shift.back() < options.tolerance) break;
    }
    fit.objective = assign();
    return fit;
}

/// The scores q . codeword / sqrt(channels) that a codebook gives instead of q . k / sqrt(channels).
/// Shapes:   queries [count, channels], labels [keys] -> [count, keys].
/// Throws:   invalid_config on channels that differ or a label that is no codeword.
/// Source:   A2ATS, arXiv 2502.12665.
template <class T>
Eigen::MatrixXd make_approximate_scores(const Eigen::MatrixXd& queries, const vector_quantizer<T>& quantizer,
                                        std::span<const std::int32_t> labels) {
    constexpr const char* who = "make_approximate_scores";
    detail::require(queries.cols() == quantizer.channels(), who, "queries must have the codewords' channels",
                    queries.cols());
    const Eigen::MatrixXd table = queries * quantizer.key_codewords().template cast<double>().transpose() /
                                  std::sqrt(static_cast<double>(quantizer.channels()));
    Eigen::MatrixXd scores(queries.rows(), static_cast<Eigen::Index>(labels.size()));
    for (std::size_t n = 0; n < labels.size(); ++n) {
        detail::require(labels[n] >= 0 && labels[n] < quantizer.count(), who, "labels must name codewords",
                        labels[n]);
        scores.col(static_cast<Eigen::Index>(n)) = table.col(labels[n]);
    }
    return scores;
}

/// Sum over queries and keys of (q . k - q . codeword)^2: what the query-aware codebook keeps small.
/// Throws:   invalid_config as make_approximate_scores, and unless there is one label a key.
/// Source:   A2ATS, arXiv 2502.12665.
template <class T>
double score_squared_error(const Eigen::MatrixXd& queries, const Eigen::MatrixXd& keys,
                           const vector_quantizer<T>& quantizer, std::span<const std::int32_t> labels) {
    detail::require(keys.rows() == static_cast<Eigen::Index>(labels.size()), "score_squared_error",
                    "labels must be one a key", labels.size());
    detail::require(keys.cols() == queries.cols(), "score_squared_error",
                    "keys must have the queries' channels", keys.cols());
    const double root = std::sqrt(static_cast<double>(keys.cols()));
    return (queries * keys.transpose() - root * make_approximate_scores(queries, quantizer, labels))
        .squaredNorm();
}

}  // namespace ROPEWALK_NAMESPACE
