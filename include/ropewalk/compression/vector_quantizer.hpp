// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Query-aware vector quantisation of unrotated keys (A2ATS): metric, nearest codewords and scores.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <Eigen/Cholesky>

#include <ropewalk/compression/row_products.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/fit_view.hpp>

namespace ROPEWALK_NAMESPACE {

/// The distance of two keys as queries measure it. For the difference e of two keys it is
/// sum over q of (q . e)^2 = e^T H e. With z = k L (row vectors) it becomes the ordinary squared distance.
/// Shapes:   gram and cholesky [channels, channels].
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS vqkey/notebooks/construct_codebooks.py.
struct query_metric {
    Eigen::MatrixXd gram;      ///< H / sqrt(mean over its entries of H^2)
    Eigen::MatrixXd cholesky;  ///< lower factor L of gram + epsilon I
};

/// The metric of a set of queries, which are rotated already (A2ATS: all to the far position).
/// Shapes:   given: queries [count, channels], of all heads of a group and all calibration tokens.
/// Throws:   invalid_config when there is no channel, queries are not finite or all zero, epsilon is
///           negative, or gram + epsilon I is singular (epsilon 0 and fewer independent queries than
///           channels).
/// Cost:     count * channels^2 multiply-adds, once.
/// Accuracy: f64. Store the factor in at least 32 bits: in bf16 epsilon has no effect.
/// Source:   as query_metric; H = Q^T Q is a sum, which the normalisation turns into a mean.
template <class Derived>  // so that only callers compile the decomposition
query_metric make_query_metric(const Eigen::MatrixBase<Derived>& given, double epsilon = 1e-6) {
    constexpr const char* who = "make_query_metric";
    const Eigen::MatrixXd queries = given;
    detail::require(queries.cols() >= 1, who, "queries must have a channel, columns", queries.cols());
    detail::require(queries.allFinite(), who, "queries must be finite, their sum", queries.sum());
    detail::require(std::isfinite(epsilon) && epsilon >= 0, who, "epsilon must be >= 0", epsilon);
    const double largest = queries.size() == 0 ? 0 : queries.cwiseAbs().maxCoeff();
    detail::require(largest > 0, who, "queries must not all be zero, the largest magnitude", largest);
    const Eigen::MatrixXd scaled = queries / largest;  // squares neither overflow nor underflow
    query_metric m;
    m.gram = scaled.transpose() * scaled;
    m.gram /= std::sqrt(m.gram.squaredNorm() / static_cast<double>(m.gram.size()));
    const Eigen::MatrixXd shifted =
        m.gram + epsilon * Eigen::MatrixXd::Identity(m.gram.rows(), m.gram.cols());
    const Eigen::LLT<Eigen::MatrixXd> factor(shifted);
    m.cholesky = factor.matrixL();
    const double least = m.cholesky.diagonal().minCoeff();
    const double size = static_cast<double>(m.gram.rows()) * shifted.diagonal().maxCoeff();
    const bool regular =
        factor.info() == Eigen::Success && least * least > size * std::numeric_limits<double>::epsilon();
    detail::require(regular, who, "epsilon must make H + epsilon I positive definite", epsilon);
    return m;
}

/// The identity metric, without queries: plain vector quantisation.
/// Throws:   invalid_config on channels < 1.
/// Source:   H = I.
inline query_metric make_plain_metric(index channels) {
    detail::require(channels >= 1, "make_plain_metric", "channels must be >= 1", channels);
    const Eigen::MatrixXd one = Eigen::MatrixXd::Identity(channels, channels);
    return {one, one};
}

namespace detail {

/// How the nearest codeword is found: by the least sum of squared differences, or by the largest z . c -
/// |c|^2 / 2, which is half the work but has rounding errors of |z| |c|.
enum class nearest_by { differences, products };

/// Codewords [count, channels] in the order in which the search reads them: groups of one register of
/// codewords, channel by channel. The last group is padded with copies of codeword 0, which never win a tie
/// against the original.
template <class T>
class codeword_columns {
    using pack = simd::pack<T>;

  public:
    static constexpr index lanes = simd::lanes<T>;
    static constexpr std::size_t groups_at_once = 4;
    static constexpr index vectors_at_once = 64;

    codeword_columns() = default;
    codeword_columns(const T* codewords, index count, index channels) : count_(count), channels_(channels) {
        padded_ = (count + step - 1) / step * step;
        columns_.resize(static_cast<std::size_t>(padded_ * channels));
        offsets_.resize(static_cast<std::size_t>(padded_));
        fill(codewords);
    }
    /// Replaces the codewords by as many others.
    void fill(const T* codewords) noexcept {
        T* to = columns_.data();
        for (index c = 0; c < padded_; c += lanes) {
            T* const offsets = offsets_.data() + c;
            std::fill_n(offsets, lanes, T(0));
            for (index i = 0; i < channels_; ++i)
                for (index l = 0; l < lanes; ++l) {
                    const T x = codewords[(c + l < count_ ? c + l : 0) * channels_ + i];
                    offsets[l] -= x * x / 2;
                    *to++ = x;
                }
        }
    }

    /// The first nearest codeword of each of up to vectors_at_once vectors, z [vectors, channels], and its
    /// squared distance. Codewords are read in blocks that stay in the L2 cache.
    template <nearest_by By>
    void nearest(const T* z, index vectors, std::int32_t* label, T* distance) const noexcept {
        constexpr auto held = static_cast<std::size_t>(vectors_at_once * lanes);
        T best[held], best_at[held];
        std::fill_n(best, vectors * lanes, farthest<By>);
        std::fill_n(best_at, vectors * lanes, T(0));
        const index words = std::max(step, (index{128} << 10) / (channels_ * index{sizeof(T)}) / step * step);
        for (index c = 0; c < padded_; c += words) {
            const index end = std::min(c + words, padded_);
            index n = 0;
            for (; n + rows <= vectors; n += rows)
                search<By, rows_at_once>(z + n * channels_, c, end, best + n * lanes, best_at + n * lanes);
            for (; n < vectors; ++n)
                search<By, 1>(z + n * channels_, c, end, best + n * lanes, best_at + n * lanes);
        }
        for (index n = 0; n < vectors; ++n) {
            T nearest = farthest<By>;
            label[n] = 0;
            for (index l = 0; l < lanes; ++l) {
                const auto at =
                    static_cast<std::int32_t>(best_at[n * lanes + l]) * static_cast<std::int32_t>(lanes) +
                    static_cast<std::int32_t>(l);
                const T value = best[n * lanes + l];
                if (nearer<By>(value, nearest) || (value == nearest && at < label[n]))
                    nearest = value, label[n] = at;
            }
            if (label[n] >= count_) label[n] = 0;  // no distance was finite
            distance[n] =
                By == nearest_by::differences ? nearest : squared_distance(z + n * channels_, label[n]);
        }
    }
    index channels() const noexcept { return channels_; }

  private:
    static constexpr index step = lanes * static_cast<index>(groups_at_once);
    static constexpr auto rows = static_cast<index>(rows_at_once);
    template <nearest_by By>
    static constexpr T farthest = By == nearest_by::differences ? std::numeric_limits<T>::max()
                                                                : std::numeric_limits<T>::lowest();
    template <nearest_by By, class V>
    static auto nearer(V a, V b) noexcept {
        if constexpr (By == nearest_by::differences)
            return a < b;
        else
            return b < a;
    }

    template <nearest_by By, std::size_t N>
    void search(const T* z, index first, index end, T* best_of, T* at_of) const noexcept {
        const index stride = channels_ * lanes;
        pack best[N], best_at[N];
        for (std::size_t v = 0; v < N; ++v) {
            best[v] = simd::load(static_cast<const T*>(best_of + static_cast<index>(v) * lanes));
            best_at[v] = simd::load(static_cast<const T*>(at_of + static_cast<index>(v) * lanes));
        }
        for (index c = first; c < end; c += step) {
            const T* from = columns_.data() + c * channels_;
            pack sum[N][groups_at_once];
            for (std::size_t g = 0; g < groups_at_once; ++g) {
                const pack start = By == nearest_by::differences
                                       ? simd::broadcast(T(0))
                                       : simd::load(offsets_.data() + c + static_cast<index>(g) * lanes);
                for (std::size_t v = 0; v < N; ++v) sum[v][g] = start;
            }
            for (index i = 0; i < channels_; ++i, from += lanes) {
                pack column[groups_at_once];
                for (std::size_t g = 0; g < groups_at_once; ++g)
                    column[g] = simd::load(from + static_cast<index>(g) * stride);
                for (std::size_t v = 0; v < N; ++v) {
                    const pack x = simd::broadcast(z[static_cast<index>(v) * channels_ + i]);
                    for (std::size_t g = 0; g < groups_at_once; ++g) {
                        if constexpr (By == nearest_by::differences) {
                            const pack apart = x - column[g];
                            sum[v][g] = simd::fma(apart, apart, sum[v][g]);
                        } else {
                            sum[v][g] = simd::fma(x, column[g], sum[v][g]);
                        }
                    }
                }
            }
            for (std::size_t v = 0; v < N; ++v)
                for (std::size_t g = 0; g < groups_at_once; ++g) {
                    const pack at = simd::broadcast(static_cast<T>(c / lanes) + static_cast<T>(g));
                    const auto closer = nearer<By>(sum[v][g], best[v]);
                    best_at[v] = simd::choose(closer, at, best_at[v]);
                    best[v] = simd::choose(closer, sum[v][g], best[v]);
                }
        }
        for (std::size_t v = 0; v < N; ++v) {
            simd::store(best_of + static_cast<index>(v) * lanes, best[v]);
            simd::store(at_of + static_cast<index>(v) * lanes, best_at[v]);
        }
    }
    T squared_distance(const T* z, std::int32_t label) const noexcept {
        const T* const from = columns_.data() + label / lanes * lanes * channels_ + label % lanes;
        T sum = 0;
        for (index i = 0; i < channels_; ++i) sum += (z[i] - from[i * lanes]) * (z[i] - from[i * lanes]);
        return sum;
    }

    index count_ = 0, channels_ = 0, padded_ = 0;
    aligned_vector<T> columns_, offsets_;
};

/// The labels of many vectors; `distances` may be null.
template <nearest_by By, class T>
void fill_nearest(const codeword_columns<T>& codewords, const T* z, index count, std::int32_t* labels,
                  T* distances) noexcept {
    constexpr index most = codeword_columns<T>::vectors_at_once;
    T distance[static_cast<std::size_t>(most)];
    for (index n = 0; n < count; n += most)
        codewords.template nearest<By>(z + n * codewords.channels(), std::min(most, count - n), labels + n,
                                       distances ? distances + n : distance);
}

/// sum_j weight[h][j] row_j over the rows of a contiguous [count, channels] array.
template <class T>
void add_weighted_array(const T* rows, index count, index channels, const T* weights, index weight_stride,
                        index heads, T* sums, index sum_stride) noexcept {
    constexpr index chunk = 64;
    const T* pointers[chunk];
    for (index j = 0; j < count; j += chunk) {
        const index some = std::min(chunk, count - j);
        for (index r = 0; r < some; ++r) pointers[r] = rows + (j + r) * channels;
        add_weighted_rows(pointers, some, channels, weights + j, weight_stride, heads, sums, sum_stride);
    }
}

/// out[h][j] = x_h . row_j over the rows of a contiguous [count, channels] array.
template <class T>
void fill_array_products(const T* x, index heads, const T* rows, index count, index channels, T* out,
                         index out_stride) noexcept {
    constexpr index chunk = 8;
    const T* pointers[chunk];
    for (index j = 0; j < count; j += chunk) {
        const index some = std::min(chunk, count - j);
        for (index r = 0; r < some; ++r) {
            pointers[r] = rows + (j + r) * channels;
            if (j + r + 2 * chunk < count) prefetch_row(pointers[r] + 2 * chunk * channels, channels);
        }
        fill_row_products(x, channels, heads, pointers, some, channels, out + j, out_stride);
    }
}

}  // namespace detail

/// Whether codewords are given as keys k or as z = k L.
enum class codeword_space { keys, metric };

/// A codebook of unrotated keys with its metric: encodes every key as the number of a codeword, and computes
/// the scores of a query with all codewords. It is valid at all positions, because keys are quantised before
/// rotation.
/// Shapes:   codewords [count, channels], cholesky [channels, channels] lower.
/// Throws:   invalid_config when count is not in 1 .. 65536, channels are not in 1 .. 1024 or differ,
///           numbers are not finite in T, or the factor is singular.
/// Cost:     (2 count + channels) * channels numbers of type T. Encoding a key reads the codebook once:
///           count * channels subtractions and multiply-adds. Encoding and scoring never allocate.
/// Accuracy: the chosen codeword is the nearest up to rounding in T, and the first of equally near ones.
/// Source:   junhuihe-hjh/A2ATS; a codeword as a key is z L^-1, computed once in the constructor.
template <class T = float>
class vector_quantizer {
  public:
    /// A row-major matrix of T.
    using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    static constexpr index most_channels = 1024;  ///< the longest key

    vector_quantizer(const Eigen::MatrixXd& codewords, const Eigen::MatrixXd& cholesky,
                     codeword_space space = codeword_space::metric) {
        constexpr const char* who = "vector_quantizer";
        detail::require(codewords.rows() >= 1 && codewords.rows() <= 65536, who,
                        "codewords must number 1 to 65536", codewords.rows());
        detail::require(codewords.cols() >= 1 && codewords.cols() <= most_channels, who,
                        "codewords must have 1 to 1024 channels", codewords.cols());
        detail::require_shape(who, "cholesky must be [channels, channels] of the codewords", codewords.cols(),
                              codewords.cols(), cholesky);
        detail::require(codewords.allFinite(), who, "codewords must be finite, their sum", codewords.sum());
        detail::require(cholesky.allFinite() && cholesky.diagonal().minCoeff() > 0, who,
                        "cholesky must be finite with a positive diagonal, its least entry there",
                        cholesky.diagonal().minCoeff());
        const Eigen::MatrixXd lower = cholesky.triangularView<Eigen::Lower>();
        Eigen::MatrixXd other = codewords;
        if (space == codeword_space::keys) {
            other = codewords * lower;
        } else {
            other = lower.transpose().triangularView<Eigen::Upper>().solve(codewords.transpose()).transpose();
        }
        cholesky_ = lower.cast<T>();
        keys_ = (space == codeword_space::keys ? codewords : other).cast<T>();
        metric_ = (space == codeword_space::keys ? other : codewords).cast<T>();
        detail::require(keys_.allFinite() && metric_.allFinite(), who,
                        "cholesky must be regular, its least diagonal entry", cholesky.diagonal().minCoeff());
        columns_ = detail::codeword_columns<T>(metric_.data(), count(), channels());
    }

    /// The number of codewords.
    index count() const noexcept { return keys_.rows(); }
    index channels() const noexcept { return keys_.cols(); }
    /// [count, channels], as keys.
    const matrix& key_codewords() const noexcept { return keys_; }
    /// [count, channels], as z = k L.
    const matrix& metric_codewords() const noexcept { return metric_; }

    /// The codeword of every key of one kv head, before rotation.
    /// Shapes:   keys [1, tokens, 1, channels] of compute type T; labels [tokens].
    /// Returns:  true; false, with nothing written, when sizes disagree and ROPEWALK_ON_MISFIT lets the
    ///           program continue.
    template <class E>
    bool encode(heads_view<E> keys, std::span<std::uint16_t> labels) const noexcept {
        static_assert(std::is_same_v<compute_t<E>, T>, "keys of the quantizer's compute type");
        constexpr const char* who = "vector_quantizer::encode";
        const auto labelled = static_cast<index>(labels.size());
        if (!detail::fits(who, detail::fit_readable("keys", keys))) return false;
        if (keys.channels() != channels())
            return detail::tell(who, {"channels must be the codewords'", channels(), keys.channels()});
        if (keys.heads() != 1) return detail::tell(who, {"heads must be 1", 1, keys.heads()});
        if (keys.batches() != 1) return detail::tell(who, {"batches must be 1", 1, keys.batches()});
        if (keys.tokens() != labelled)
            return detail::tell(who, {"labels must be as many as the tokens", keys.tokens(), labelled});
        constexpr index most = detail::codeword_columns<T>::vectors_at_once, numbers = 8 * most_channels;
        T key[numbers], z[numbers];
        std::int32_t label[static_cast<std::size_t>(most)];
        const index d = channels(), at_once = std::min(most, numbers / d);
        for (index n = 0; n < keys.tokens(); n += at_once) {
            const index some = std::min(at_once, keys.tokens() - n);
            for (index r = 0; r < some; ++r) {
                const auto* from = reinterpret_cast<const stored_t<E>*>(keys.at(0, n + r, 0));
                for (index i = 0; i < d; ++i) key[r * d + i] = static_cast<T>(from[i]);
            }
            fill_metric_rows(key, some, z);
            detail::fill_nearest<detail::nearest_by::differences>(columns_, z, some, label,
                                                                  static_cast<T*>(nullptr));
            for (index r = 0; r < some; ++r)
                labels[static_cast<std::size_t>(n + r)] = static_cast<std::uint16_t>(label[r]);
        }
        return true;
    }

    /// z = k L for contiguous keys [count, channels].
    void fill_metric_rows(const T* keys, index count, T* z) const noexcept {
        const index d = channels();
        std::fill_n(z, count * d, T(0));
        detail::add_weighted_array(cholesky_.data(), d, d, keys, d, count, z, d);
    }

    /// scores[h][c] = queries_h . codeword_c: the only dense product of a decode step.
    /// Shapes:   queries [heads, channels] contiguous, scores [heads, count].
    void fill_scores(const T* queries, index heads, T* scores) const noexcept {
        detail::fill_array_products(queries, heads, keys_.data(), count(), channels(), scores, count());
    }

  private:
    matrix keys_, metric_, cholesky_;
    detail::codeword_columns<T> columns_;
};

}  // namespace ROPEWALK_NAMESPACE
