// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// k-means codebooks of keys under a query metric (A2ATS): Lloyd's steps by threads and in batches.
#pragma once

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include <ropewalk/compression/vector_quantizer.hpp>
#include <ropewalk/core/simd_sums.hpp>
#include <ropewalk/kernels/partition.hpp>

namespace ROPEWALK_NAMESPACE {

/// Parameters of the k-means training.
struct codebook_options {
    index codewords = 4096;   ///< how many
    index iterations = 300;   ///< Lloyd steps at most
    double tolerance = 1e-4;  ///< stop when the codewords together move less than this
    std::uint64_t seed = 0;   ///< of the k-means++ start
    index batch = 0;          ///< keys per step, except for the last three steps; 0: all
};

/// The result of the k-means training.
/// Shapes:   codewords [count, channels] as z = k L; labels [keys] of the final codewords; loss and shift
///           have one number per step: the sum of squared distances before the step (to the codewords it
///           starts from; for a batch, times its share of the keys), and how far the codewords moved in it.
template <class T = float>
struct codebook_fit {
    typename vector_quantizer<T>::matrix codewords;  ///< [count, channels], as z = k L
    std::vector<std::int32_t> labels;                ///< [keys], of the final codewords
    std::vector<double> loss;                        ///< of each step
    std::vector<double> shift;                       ///< of each step
    double objective = 0;                            ///< sum of squared distances to the final codewords

    /// The quantizer of these codewords.
    vector_quantizer<T> quantizer(const query_metric& metric) const {
        return {codewords.template cast<double>(), metric.cholesky};
    }
};

namespace detail {

/// |a - b|^2.
template <class T>
T squared_distance(const T* a, const T* b, index n) noexcept {
    constexpr index lanes = simd::lanes<T>;
    simd::pack<T> sum = simd::broadcast(T(0)), other = sum;
    index i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
        const auto x = simd::load(a + i) - simd::load(b + i);
        const auto y = simd::load(a + i + lanes) - simd::load(b + i + lanes);
        sum = simd::fma(x, x, sum);
        other = simd::fma(y, y, other);
    }
    T all = simd::sum_lanes(sum + other);
    for (; i < n; ++i) all += (a[i] - b[i]) * (a[i] - b[i]);
    return all;
}

/// A random number, uniform in [0, 1), the same on every platform.
inline double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1p-53; }

/// k-means++: the first codeword is a random key, and each next one is a key chosen with probability
/// proportional to its squared distance to the nearest codeword so far. With fewer distinct keys than
/// codewords, the remaining codewords repeat the first.
template <class Matrix>
Matrix seeded_codewords(const Matrix& z, index codewords, std::mt19937_64& engine) {
    using T = typename Matrix::Scalar;
    const index keys = z.rows(), d = z.cols();
    Matrix start(codewords, d);
    const auto pick_any = static_cast<index>(uniform(engine) * static_cast<double>(keys));
    start.row(0) = z.row(std::min(pick_any, keys - 1));
    std::vector<T> nearest(static_cast<std::size_t>(keys), std::numeric_limits<T>::infinity());
    for (index c = 1; c < codewords; ++c) {
        const T* const last = start.data() + (c - 1) * d;
        double left = 0;
        for (index n = 0; n < keys; ++n) {
            T& least = nearest[static_cast<std::size_t>(n)];
            if (least > 0) least = std::min(least, squared_distance(z.data() + n * d, last, d));
            left += static_cast<double>(least);
        }
        left *= uniform(engine);
        index at = 0;
        for (index n = 0; n < keys; ++n) {
            const T least = nearest[static_cast<std::size_t>(n)];
            if (least <= 0) continue;
            at = n;
            left -= static_cast<double>(least);
            if (left < 0) break;
        }
        start.row(c) = z.row(at);
    }
    return start;
}

}  // namespace detail

/// k-means on z = k L, step by step, so that the caller's threads share the expensive part of a step. The
/// minimised sum over keys of |z - z_codeword|^2 is, up to a factor, the squared error of the queries'
/// scores. With a batch, each step uses some keys in shuffled order and moves each codeword to the mean of
/// all keys assigned to it so far; the last three steps use all keys. Without a batch every step uses all
/// keys.
/// Shapes:   keys [count, channels], unrotated; `start`, when given, [codewords, channels] as z, instead of
///           the k-means++ start (with a batch: from as many keys, at least four per codeword).
/// Throws:   the constructor only: invalid_config without keys, on channels that differ from the metric's or
///           from those of `start`, numbers that are not finite, codewords outside 1 .. 65536, iterations,
///           tolerance or batch < 0.
/// Cost:     keys (of a step) * codewords * channels multiply-adds per step, shared by the parts of assign;
///           the start reads its keys once per codeword. Memory: two or three copies of the keys in T.
/// Accuracy: distances in T, means and the loss in f64. Deterministic for a seed and independent of the
///           parts. A label of a step is the nearest codeword up to rounding of |z| |codeword|, a label of
///           the result up to rounding of the distance. A codeword without keys becomes the zero vector in a
///           step over all keys, as in the official code; apart from that, the loss of such steps never
///           increases. Batches of two keys per codeword end 2 to 6 % above the objective reached with all
///           keys.
/// Threads:  parts of one assign may run at the same time; the caller waits for all of them before step().
/// Source:   junhuihe-hjh/A2ATS kmeans_gpu/kmeans.py; k-means++, Arthur and Vassilvitskii 2007; batches,
///           Sculley 2010.
///
///     codebook_training<> training(keys, metric, {.batch = 8192});
///     while (!training.done()) {
///         pool.run(parts, [&](index p) { training.assign({parts, p}); });
///         training.step();
///     }
///     training.result().quantizer(metric);
template <class T = float>
class codebook_training {
  public:
    codebook_training(const Eigen::MatrixXd& keys, const query_metric& metric,
                      const codebook_options& options, const Eigen::MatrixXd& start = {});

    /// Whether labels and objective are those of the final codewords.
    bool done() const noexcept { return phase_ == phase::done; }
    /// Finds the nearest codewords for the part's share of this step's keys.
    void assign(part_of part = {}) noexcept {
        if (done()) return;
        const work_range own = partition(looked_at(), part);
        const T* const z = (in_batch() ? batch_ : z_).data() + own.first * z_.cols();
        std::int32_t* const labels = fit_.labels.data() + own.first;
        if (phase_ == phase::labels)
            detail::fill_nearest<detail::nearest_by::differences>(columns_, z, own.count, labels,
                                                                  distances_.data() + own.first);
        else
            detail::fill_nearest<detail::nearest_by::products>(columns_, z, own.count, labels,
                                                               distances_.data() + own.first);
    }
    /// Moves the codewords; call it after all parts of an assign.
    void step();
    /// The result so far; labels and objective once done().
    const codebook_fit<T>& result() const noexcept { return fit_; }

  private:
    using matrix = typename vector_quantizer<T>::matrix;
    enum class phase { steps, labels, done };
    static constexpr index whole_steps = 3;

    index taken() const noexcept { return static_cast<index>(fit_.loss.size()); }
    bool in_batch() const noexcept {
        return phase_ == phase::steps && batch_.rows() > 0 && taken() < options_.iterations - whole_steps;
    }
    index looked_at() const noexcept { return in_batch() ? batch_.rows() : z_.rows(); }
    void shuffle() noexcept {
        for (std::size_t i = order_.size(); i > 1; --i)  // std::shuffle differs by platform
            std::swap(order_[i - 1], order_[engine_() % i]);
        next_ = 0;
    }
    void gather(matrix& to) noexcept {
        for (index n = 0; n < to.rows(); ++n) {
            if (next_ == order_.size()) shuffle();
            to.row(n) = z_.row(order_[next_++]);
        }
    }

    codebook_options options_;
    matrix z_, batch_;
    codebook_fit<T> fit_;
    detail::codeword_columns<T> columns_;
    std::vector<T> distances_;
    Eigen::MatrixXd sums_;           // sums of the members in a step
    Eigen::VectorXd members_, met_;  // counts: in a step; in all steps with batches
    std::mt19937_64 engine_;
    std::vector<index> order_;
    std::size_t next_ = 0;
    phase phase_ = phase::steps;
};

template <class T>
codebook_training<T>::codebook_training(const Eigen::MatrixXd& keys, const query_metric& metric,
                                        const codebook_options& options, const Eigen::MatrixXd& start)
    : options_(options), engine_(options.seed) {
    constexpr const char* who = "make_codebook";
    const index count = keys.rows(), d = keys.cols(), codewords = options.codewords;
    detail::require(count >= 1, who, "keys must not be empty, their number", count);
    detail::require_equal(who, "keys must have the metric's channels", metric.cholesky.rows(), d);
    detail::require(keys.allFinite(), who, "keys must be finite, their sum", keys.sum());
    detail::require(codewords >= 1 && codewords <= 65536, who, "codewords must be 1 to 65536", codewords);
    detail::require(options.iterations >= 0, who, "iterations must be >= 0", options.iterations);
    detail::require(options.tolerance >= 0, who, "tolerance must be >= 0", options.tolerance);
    detail::require(options.batch >= 0, who, "batch must be >= 0", options.batch);
    if (start.size() != 0)
        detail::require_shape(who, "start must be [codewords, channels]", codewords, d, start);
    {
        const Eigen::MatrixXd wide = keys * metric.cholesky;
        z_ = wide.cast<T>();
        detail::require(z_.allFinite(), who, "keys must be finite under the metric, their sum", wide.sum());
    }
    const bool batches = options.batch > 0 && options.batch < count;
    if (batches) {
        for (index n = 0; n < count; ++n) order_.push_back(n);
        shuffle();
    }
    if (start.size() > 0) {
        fit_.codewords = start.cast<T>();
    } else if (batches) {
        matrix some(std::min(count, std::max(options.batch, 4 * codewords)), d);
        gather(some);
        fit_.codewords = detail::seeded_codewords(some, codewords, engine_);
    } else {
        fit_.codewords = detail::seeded_codewords(z_, codewords, engine_);
    }
    detail::require(fit_.codewords.allFinite(), who, "start must be finite, its sum", start.sum());
    fit_.labels.resize(static_cast<std::size_t>(count));
    distances_.resize(static_cast<std::size_t>(count));
    sums_.resize(codewords, d);
    members_.resize(codewords);
    met_ = Eigen::VectorXd::Zero(codewords);
    columns_ = detail::codeword_columns<T>(fit_.codewords.data(), codewords, d);
    if (batches) {
        batch_.resize(options.batch, d);
        gather(batch_);
    }
    if (options_.iterations == 0) phase_ = phase::labels;
}

template <class T>
void codebook_training<T>::step() {
    if (done()) return;
    const index seen = looked_at(), codewords = fit_.codewords.rows();
    double loss = 0;
    for (index n = 0; n < seen; ++n) loss += static_cast<double>(distances_[static_cast<std::size_t>(n)]);
    if (phase_ == phase::labels) {
        fit_.objective = loss;
        phase_ = phase::done;
        return;
    }
    const bool batch = in_batch();
    const matrix& z = batch ? batch_ : z_;
    sums_.setZero();
    members_.setZero();
    for (index n = 0; n < seen; ++n) {
        const index label = fit_.labels[static_cast<std::size_t>(n)];
        sums_.row(label) += z.row(n).template cast<double>();
        members_[label] += 1;
    }
    matrix next(codewords, z.cols());
    for (index c = 0; c < codewords; ++c) {
        if (!batch) {
            next.row(c) = (sums_.row(c) / std::max(members_[c], 1.0)).template cast<T>();
            continue;
        }
        met_[c] += members_[c];
        const auto old = fit_.codewords.row(c).template cast<double>();
        next.row(c) = (old + (sums_.row(c) - members_[c] * old) / std::max(met_[c], 1.0)).template cast<T>();
    }
    fit_.loss.push_back(loss * static_cast<double>(z_.rows()) / static_cast<double>(seen));
    fit_.shift.push_back((next.template cast<double>() - fit_.codewords.template cast<double>()).norm());
    fit_.codewords = std::move(next);
    columns_.fill(fit_.codewords.data());
    // Random batches always move codewords, so only steps over all keys can show convergence.
    if (taken() == options_.iterations || (!batch && fit_.shift.back() < options_.tolerance))
        phase_ = phase::labels;
    if (in_batch()) gather(batch_);
}

/// A codebook of the keys of one kv head under a metric: runs codebook_training to its end on this thread.
/// Shapes, throws, cost, accuracy and source: as codebook_training.
template <class T = float>
codebook_fit<T> make_codebook(const Eigen::MatrixXd& keys, const query_metric& metric,
                              const codebook_options& options, const Eigen::MatrixXd& start = {}) {
    codebook_training<T> training(keys, metric, options, start);
    while (!training.done()) {
        training.assign();
        training.step();
    }
    return training.result();
}

/// The scores q . codeword / sqrt(channels), which approximate q . k / sqrt(channels).
/// Shapes:   queries [count, channels], labels [keys] -> [count, keys].
/// Throws:   invalid_config on channels that differ or a label that is not a codeword.
/// Source:   A2ATS, arXiv 2502.12665.
template <class T>
Eigen::MatrixXd make_approximate_scores(const Eigen::MatrixXd& queries, const vector_quantizer<T>& quantizer,
                                        std::span<const std::int32_t> labels) {
    constexpr const char* who = "make_approximate_scores";
    detail::require_equal(who, "queries must have the codewords' channels", quantizer.channels(),
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

/// The sum over queries and keys of (q . k - q . codeword)^2, which the query-aware codebook minimises.
/// Throws:   invalid_config as make_approximate_scores, and unless there is one label per key.
/// Source:   A2ATS, arXiv 2502.12665.
template <class T>
double score_squared_error(const Eigen::MatrixXd& queries, const Eigen::MatrixXd& keys,
                           const vector_quantizer<T>& quantizer, std::span<const std::int32_t> labels) {
    detail::require(keys.rows() == static_cast<Eigen::Index>(labels.size()), "score_squared_error",
                    "labels must be one a key", labels.size());
    detail::require_equal("score_squared_error", "keys must have the queries' channels", queries.cols(),
                          keys.cols());
    const double root = std::sqrt(static_cast<double>(keys.cols()));
    return (queries * keys.transpose() - root * make_approximate_scores(queries, quantizer, labels))
        .squaredNorm();
}

}  // namespace ROPEWALK_NAMESPACE
