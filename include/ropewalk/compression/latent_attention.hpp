// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/schemes/mla.hpp>

namespace ROPEWALK_NAMESPACE {

/// The cache of one layer of multi-head latent attention: a row [latent | rotated shared key] a token.
/// Shapes:   E is the storage type; rows are contiguous.
/// Throws:   invalid_config on a config that mla::make_scheme refuses and on sizes that disagree; append
///           and reserve are the only calls that allocate.
/// Cost:     latent + rope_dim numbers a token, for all heads together.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, class MLA, "absorb".
template <class E = float>
class latent_cache {
  public:
    using value = compute_t<E>;  ///< what arithmetic runs in

    explicit latent_cache(const mla::config& c)
        : config_(c), rope_(mla::make_scheme(c)), omega_(rope_.spectrum_for(1)) {}

    /// The config.
    const mla::config& sizes() const noexcept { return config_; }
    /// How fast the shared keys rotate.
    const spectrum& frequencies() const noexcept { return omega_; }
    index tokens() const noexcept { return tokens_; }
    index width() const noexcept { return mla::cached_channels(config_); }
    /// [tokens, 1, latent + rope_dim]: what an absorbed query is multiplied with.
    heads_view<const E> keys() const noexcept { return {rows_.data(), tokens_, 1, width()}; }
    /// [tokens, 1, latent]: what the weights of a softmax sum up.
    heads_view<const E> latents() const noexcept { return keys().channel_slice(0, config_.latent); }
    /// [tokens, 1, rope_dim]: the rotated key that all heads share.
    heads_view<const E> shared_keys() const noexcept {
        return keys().channel_slice(config_.latent, config_.rope_dim);
    }
    /// Room for so many tokens, so that append does not allocate rows.
    /// Throws: invalid_config on tokens < 0 or more than fit.
    void reserve(index tokens) {
        rows_.reserve(static_cast<std::size_t>(detail::checked_product(
            "latent_cache::reserve", "tokens must be >= 0 and fit", {tokens, width()})));
    }

    /// New tokens, raw [tokens, latent + rope_dim] = W_kv_a x: one pass normalises the latent into the cache
    /// and rotates the key behind it. They stand at tokens(), tokens() + 1, ...
    /// Throws: invalid_config when norm is not [latent] or count < 0.
    void append(const value* raw, index count, std::span<const value> norm) {
        detail::require(static_cast<index>(norm.size()) == config_.latent, "latent_cache::append",
                        "norm must be [latent]", norm.size());
        detail::require(count >= 0, "latent_cache::append", "count must be >= 0", count);
        constexpr index most = std::numeric_limits<index>::max();
        rows_.resize(static_cast<std::size_t>(
            detail::checked_product("latent_cache::append", "count must fit beside the cached tokens",
                                    {count > most - tokens_ ? most : tokens_ + count, width()})));
        const index pairs = omega_.pairs();
        std::vector<value> cos_sin(static_cast<std::size_t>(2 * pairs));
        for (index n = 0; n < count; ++n, ++tokens_) {
            const value* from = raw + n * width();
            E* const to = rows_.data() + tokens_ * width();
            double squares = 0;
            for (index c = 0; c < config_.latent; ++c)
                squares += static_cast<double>(from[c]) * static_cast<double>(from[c]);
            const double mean = squares / static_cast<double>(config_.latent) + config_.rms_epsilon;
            // Zeros without an epsilon: 0 times infinity would be NaN.
            const auto factor = static_cast<value>(mean == 0 ? 0.0 : 1 / std::sqrt(mean));
            for (index c = 0; c < config_.latent; ++c)
                to[c] = E(static_cast<value>(from[c] * factor * norm[static_cast<std::size_t>(c)]));
            fill_cos_sin(static_cast<double>(tokens_), omega_.turns_data().data(), omega_.magnitude(), pairs,
                         cos_sin.data(), cos_sin.data() + pairs);
            rotate_into(rope_, heads_view<const value>(from + config_.latent, 1, 1, config_.rope_dim),
                        heads_view<E>(to + config_.latent, 1, 1, config_.rope_dim), one_row(cos_sin.data()));
        }
    }

    /// Moves tokens [first, first + count) by `distance` positions: their shared keys rotate once more, their
    /// latents stay. Later tokens keep their place; dropping rows is the caller's matter.
    /// Throws:   invalid_config when the tokens are not in the cache or the distance is not finite.
    /// Accuracy: one more rounding in E a shift.
    /// Source:   R(p + delta) = R(delta) R(p); what llama.cpp calls a context shift.
    void shift(index first, index count, double distance) {
        require_cached("latent_cache::shift", first, count);
        detail::require(std::isfinite(distance), "latent_cache::shift", "distance must be finite", distance);
        const index pairs = omega_.pairs();
        std::vector<value> cos_sin(static_cast<std::size_t>(2 * pairs));
        fill_cos_sin(distance, omega_.turns_data().data(), omega_.magnitude(), pairs, cos_sin.data(),
                     cos_sin.data() + pairs);
        for (index n = first; n < first + count; ++n)
            rotate(rope_, heads_view<E>(rows_.data() + n * width() + config_.latent, 1, 1, config_.rope_dim),
                   one_row(cos_sin.data()));
    }
    /// Forgets tokens [first, first + count); those behind move up in memory, not in position.
    /// Throws: invalid_config when the tokens are not in the cache.
    void erase(index first, index count) {
        require_cached("latent_cache::erase", first, count);
        const auto at = rows_.begin() + first * width();
        rows_.erase(at, at + count * width());
        tokens_ -= count;
    }

  private:
    void require_cached(const char* who, index first, index count) const {
        detail::require(count >= 0 && count <= tokens_, who, "count must be 0 to the cached tokens", count);
        detail::require(first >= 0 && first <= tokens_ - count, who, "tokens must be in the cache, the first",
                        first);
    }
    rows_view<value> one_row(const value* cos_sin) const noexcept {
        rows_view<value> rows;
        rows.cos = cos_sin;
        rows.sin = cos_sin + omega_.pairs();
        rows.table_rows = rows.tokens = 1;
        rows.pairs = omega_.pairs();
        rows.magnitude = omega_.magnitude();
        return rows;
    }

    mla::config config_;
    rotary_scheme rope_;
    spectrum omega_;
    index tokens_ = 0;
    std::vector<E> rows_;
};

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

/// One layer of multi-head latent attention, up to the output projection.
/// Throws:   invalid_config when a matrix has not the shape that the config gives it.
/// Cost:     absorbed decode reads every cached row once for all heads: heads * (2 latent + rope_dim)
///           multiply-adds a cached token; naive attention expands keys and values of all heads first.
/// Accuracy: f64: naive and absorbed agree to 1e-12.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, class MLA, both of its attn_impl.
template <class T = float>
class latent_attention {
  public:
    using matrix = typename latent_weights<T>::matrix;  ///< a row-major matrix of T

    latent_attention(const mla::config& c, latent_weights<T> weights)
        : latent_attention(c, std::move(weights), mla::softmax_scale(c)) {}
    /// With another scale on the scores than the config's.
    latent_attention(const mla::config& c, latent_weights<T> weights, double softmax_scale);

    /// The config.
    const mla::config& sizes() const noexcept { return config_; }
    /// On the scores.
    double softmax_scale() const noexcept { return scale_; }

    /// Queries of tokens standing at first, first + 1, ...; their last rope_dim channels rotated.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * (nope + rope)].
    matrix make_queries(const matrix& x, index first) const;
    /// [q_nope W_k | q_pe] head by head: what a row of the cache is multiplied with.
    /// Shapes: queries as make_queries gives them -> [tokens, heads * (latent + rope)].
    matrix make_absorbed(const matrix& queries) const;
    /// Appends W_kv_a x to a cache.
    /// Throws: invalid_config when x is not [tokens, hidden], or a cache of another latent, rope_dim,
    ///         rms_epsilon or rotation.
    template <class E>
    void append(const matrix& x, latent_cache<E>& cache) const {
        static_assert(std::is_same_v<compute_t<E>, T>, "a cache of the layer's compute type");
        require_own("latent_attention::append", cache);
        detail::require(x.cols() == config_.hidden, "latent_attention::append", "x must be [tokens, hidden]",
                        x.cols());
        const matrix raw = x * weights_.wkv_a.transpose();
        cache.append(raw.data(), raw.rows(), weights_.key_norm);
    }

    /// Absorbed attention of one query token over the first `tokens` rows of a cache.
    /// Shapes:   absorbed [heads, latent + rope], latents out [heads, latent]; both contiguous.
    /// Requires: a cache of this config, tokens <= cache.tokens(); one call at a time an object.
    /// Returns:  true; false, with `out` untouched, where the call does not fit and ROPEWALK_ON_MISFIT lets
    ///           the program go on.
    template <class E>
    bool attend(const T* absorbed, const latent_cache<E>& cache, index tokens, T* out) noexcept {
        const index width = config_.latent + config_.rope_dim;
        constexpr const char* who = "latent_attention::attend";
        if (tokens > cache.tokens())
            return detail::tell(who, {"tokens must be at most those of the cache", cache.tokens(), tokens});
        if (cache.sizes().latent != config_.latent)
            return detail::tell(
                who, {"latent of the cache must be the layer's", config_.latent, cache.sizes().latent});
        if (cache.width() != width)
            return detail::tell(who, {"width of the cache must be latent + rope_dim", width, cache.width()});
        return attention_.attend(heads_view<const T>(absorbed, 1, config_.heads, width), cache.keys(),
                                 cache.latents(), heads_view<T>(out, 1, config_.heads, config_.latent),
                                 {.scale = scale_, .count = tokens});
    }
    /// Values of all heads from their summed latents.
    /// Shapes:   [tokens, heads * latent] -> [tokens, heads * value_dim].
    matrix make_values(const matrix& latents) const;

    /// New tokens through the cache: appended, then each attends to everything up to itself.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * value_dim].
    /// Throws: as append, before anything is appended.
    template <class E>
    matrix forward(const matrix& x, latent_cache<E>& cache) {
        require_own("latent_attention::forward", cache);
        const index first = cache.tokens(), width = config_.latent + config_.rope_dim;
        const matrix absorbed = make_absorbed(make_queries(x, first));
        append(x, cache);
        matrix latents(x.rows(), config_.heads * config_.latent);
        for (index n = 0; n < x.rows(); ++n)
            attend(absorbed.data() + n * config_.heads * width, cache, first + n + 1,
                   latents.data() + n * latents.cols());
        return make_values(latents);
    }
    /// The same with every head's keys and values written out: the plain reading of the definition.
    /// Shapes: scores, when given, [heads, new tokens, cached tokens], 0 where causality hides a key.
    /// Throws: as append, and on scores of another size.
    template <class E>
    matrix forward_naive(const matrix& x, latent_cache<E>& cache, std::span<T> scores = {}) const;

  private:
    /// A cache of another config would be read beside its rows, or hold keys that are rotated otherwise.
    template <class E>
    void require_own(const char* who, const latent_cache<E>& cache) const {
        const mla::config& c = cache.sizes();
        detail::require(c.latent == config_.latent, who, "cache must have the layer's latent", c.latent);
        detail::require(c.rope_dim == config_.rope_dim, who, "cache must have the layer's rope_dim",
                        c.rope_dim);
        detail::require(c.rms_epsilon == config_.rms_epsilon, who, "cache must have the layer's rms_epsilon",
                        c.rms_epsilon);
        for (index i = 0; i < omega_.pairs(); ++i)
            detail::require(cache.frequencies().omega(i) == omega_.omega(i), who,
                            "cache must rotate its keys as the layer does, its frequency being",
                            cache.frequencies().omega(i));
    }
    Eigen::Map<const matrix, 0, Eigen::OuterStride<>> up(index head, index first, index rows) const {
        const index each = config_.nope_dim + config_.value_dim;
        return {weights_.wkv_b.data() + (head * each + first) * config_.latent, rows, config_.latent,
                Eigen::OuterStride<>(config_.latent)};
    }

    mla::config config_;
    latent_weights<T> weights_;
    double scale_;
    rotary_scheme rope_;
    spectrum omega_;
    row_attention<T> attention_;
};

template <class T>
latent_attention<T>::latent_attention(const mla::config& c, latent_weights<T> weights, double softmax_scale)
    : config_(c),
      weights_(std::move(weights)),
      scale_(softmax_scale),
      rope_(mla::make_scheme(c)),
      omega_(rope_.spectrum_for(1)),
      attention_({.heads = c.heads, .key_channels = c.latent + c.rope_dim, .value_channels = c.latent}) {
    constexpr const char* who = "latent_attention";
    detail::require(std::isfinite(softmax_scale), who, "softmax_scale must be finite", softmax_scale);
    const auto shaped = [](const matrix& m, const char* must, index rows, index cols) {
        detail::require(m.rows() == rows, who, must, m.rows());
        detail::require(m.cols() == cols, who, must, m.cols());
    };
    const index queries = c.heads * (c.nope_dim + c.rope_dim);
    if (c.query_rank == 0) {
        shaped(weights_.wq, "wq must be [heads * (nope + rope), hidden]", queries, c.hidden);
    } else {
        shaped(weights_.wq_a, "wq_a must be [query_rank, hidden]", c.query_rank, c.hidden);
        shaped(weights_.wq_b, "wq_b must be [heads * (nope + rope), query_rank]", queries, c.query_rank);
        detail::require(static_cast<index>(weights_.query_norm.size()) == c.query_rank, who,
                        "query_norm must be [query_rank]", weights_.query_norm.size());
    }
    shaped(weights_.wkv_a, "wkv_a must be [latent + rope, hidden]", c.latent + c.rope_dim, c.hidden);
    shaped(weights_.wkv_b, "wkv_b must be [heads * (nope + value), latent]",
           c.heads * (c.nope_dim + c.value_dim), c.latent);
    detail::require(static_cast<index>(weights_.key_norm.size()) == c.latent, who,
                    "key_norm must be [latent]", weights_.key_norm.size());
}

template <class T>
auto latent_attention<T>::make_queries(const matrix& x, index first) const -> matrix {
    detail::require(x.cols() == config_.hidden, "latent_attention::make_queries",
                    "x must be [tokens, hidden]", x.cols());
    detail::require(first >= 0, "latent_attention::make_queries", "first must be >= 0", first);
    matrix q;
    if (config_.query_rank == 0) {
        q = x * weights_.wq.transpose();
    } else {
        matrix low = x * weights_.wq_a.transpose();
        const Eigen::Map<const Eigen::Array<T, 1, Eigen::Dynamic>> norm(weights_.query_norm.data(),
                                                                        config_.query_rank);
        for (Eigen::Index n = 0; n < low.rows(); ++n) {
            const double mean =
                low.row(n).template cast<double>().squaredNorm() / static_cast<double>(config_.query_rank) +
                config_.rms_epsilon;
            low.row(n).array() *= norm * static_cast<T>(mean == 0 ? 0.0 : 1 / std::sqrt(mean));
        }
        q = low * weights_.wq_b.transpose();
    }
    const index d = config_.nope_dim + config_.rope_dim;
    rotate(rope_, heads_view<T>(q.data(), q.rows(), config_.heads, d),
           make_rotation_table<T>(omega_, position_ids::text(q.rows(), static_cast<double>(first))));
    return q;
}

template <class T>
auto latent_attention<T>::make_absorbed(const matrix& queries) const -> matrix {
    const index d = config_.nope_dim + config_.rope_dim, width = config_.latent + config_.rope_dim;
    detail::require(queries.cols() == config_.heads * d, "latent_attention::make_absorbed",
                    "queries must be [tokens, heads * (nope + rope)]", queries.cols());
    matrix out(queries.rows(), config_.heads * width);
    if (queries.rows() == 0) return out;  // Eigen adds offsets to the null of an empty matrix
    for (index h = 0; h < config_.heads; ++h) {
        out.middleCols(h * width, config_.latent) =
            queries.middleCols(h * d, config_.nope_dim) * up(h, 0, config_.nope_dim);
        out.middleCols(h * width + config_.latent, config_.rope_dim) =
            queries.middleCols(h * d + config_.nope_dim, config_.rope_dim);
    }
    return out;
}

template <class T>
auto latent_attention<T>::make_values(const matrix& latents) const -> matrix {
    detail::require(latents.cols() == config_.heads * config_.latent, "latent_attention::make_values",
                    "latents must be [tokens, heads * latent]", latents.cols());
    matrix out(latents.rows(), config_.heads * config_.value_dim);
    if (latents.rows() == 0) return out;  // as above
    for (index h = 0; h < config_.heads; ++h)
        out.middleCols(h * config_.value_dim, config_.value_dim) =
            latents.middleCols(h * config_.latent, config_.latent) *
            up(h, config_.nope_dim, config_.value_dim).transpose();
    return out;
}

template <class T>
template <class E>
auto latent_attention<T>::forward_naive(const matrix& x, latent_cache<E>& cache, std::span<T> scores) const
    -> matrix {
    constexpr const char* who = "latent_attention::forward_naive";
    require_own(who, cache);
    const index first = cache.tokens(), heads = config_.heads, d = config_.nope_dim + config_.rope_dim;
    if (!scores.empty())
        detail::require(static_cast<index>(scores.size()) ==
                            detail::checked_product(who, "heads * tokens * tokens must fit",
                                                    {heads, x.rows(), first + x.rows()}),
                        who, "scores must hold heads * new tokens * cached tokens numbers", scores.size());
    matrix q = make_queries(x, first);
    append(x, cache);
    const index keys = cache.tokens();
    matrix k(keys, heads * d), v(keys, heads * config_.value_dim), latent(keys, config_.latent);
    for (index n = 0; n < keys; ++n) {
        for (index c = 0; c < config_.latent; ++c)
            latent(n, c) = static_cast<T>(static_cast<compute_t<E>>(cache.latents().at(0, n, 0)[c]));
        for (index h = 0; h < heads; ++h)
            for (index c = 0; c < config_.rope_dim; ++c)
                k(n, h * d + config_.nope_dim + c) =
                    static_cast<T>(static_cast<compute_t<E>>(cache.shared_keys().at(0, n, 0)[c]));
    }
    for (index h = 0; h < (keys == 0 ? 0 : heads); ++h) {  // as above
        k.middleCols(h * d, config_.nope_dim) = latent * up(h, 0, config_.nope_dim).transpose();
        v.middleCols(h * config_.value_dim, config_.value_dim) =
            latent * up(h, config_.nope_dim, config_.value_dim).transpose();
    }
    matrix out(x.rows(), heads * config_.value_dim);
    ropewalk::attend(heads_view<T>(q.data(), q.rows(), heads, d), heads_view<T>(k.data(), keys, heads, d),
                     heads_view<T>(v.data(), keys, heads, config_.value_dim),
                     heads_view<T>(out.data(), q.rows(), heads, config_.value_dim),
                     {.scale = scale_, .causal = true, .scores = scores});
    for (index h = 0; h < (scores.empty() ? 0 : heads); ++h)
        for (index n = 0; n < x.rows(); ++n)
            std::fill_n(scores.data() + (h * x.rows() + n) * keys + first + n + 1, keys - first - n - 1,
                        T(0));
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
