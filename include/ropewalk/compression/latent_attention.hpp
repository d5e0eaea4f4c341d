// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Multi-head latent attention (DeepSeek): one layer over a latent cache, absorbed, expanded or naive.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/attention/exact.hpp>
#include <ropewalk/attention/partial_attention.hpp>
#include <ropewalk/compression/latent_cache.hpp>
#include <ropewalk/compression/latent_form.hpp>
#include <ropewalk/compression/latent_prefill.hpp>
#include <ropewalk/compression/latent_weights.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/mla.hpp>

namespace ROPEWALK_NAMESPACE {

/// One layer of multi-head latent attention, up to the output projection.
/// Throws:   invalid_config when a matrix does not have the shape that the config requires.
/// Cost:     absorbed, every cached row is read once for all heads of some tokens: heads * (2 latent +
///           rope_dim) multiply-adds per cached token; expanded, see cheaper_form. attend, attend_part,
///           join_parts and attend_newest allocate nothing; functions that return a matrix allocate it.
/// Accuracy: f64: both forms and forward_naive agree to 1e-12.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, class MLA, both of its attn_impl.
template <class T = float>
class latent_attention {
  public:
    using matrix = typename latent_weights<T>::matrix;  ///< a row-major matrix of T

    latent_attention(const mla::config& c, latent_weights<T> weights)
        : latent_attention(c, std::move(weights), mla::softmax_scale(c)) {}
    /// With a scale on the scores other than the config's.
    latent_attention(const mla::config& c, latent_weights<T> weights, double softmax_scale);

    /// The config.
    const mla::config& sizes() const noexcept { return config_; }
    /// The scale on the scores.
    double softmax_scale() const noexcept { return scale_; }

    /// Queries of tokens at positions first, first + 1, ..., with their last rope_dim channels rotated.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * (nope + rope)].
    matrix make_queries(const matrix& x, index first) const;
    /// [q_nope W_k | q_pe] for each head: the factor of a row of the cache.
    /// Shapes: queries as make_queries gives them -> [tokens, heads * (latent + rope)].
    matrix make_absorbed(const matrix& queries) const;
    /// Appends W_kv_a x to a cache.
    /// Throws: invalid_config when x is not [tokens, hidden], or a cache of another latent, rope_dim,
    ///         rms_epsilon or rotation.
    template <class E>
    void append(const matrix& x, latent_cache<E>& cache) const {
        static_assert(std::is_same_v<detail::cache_compute_t<E>, T>, "a cache of the layer's compute type");
        require_own("latent_attention::append", cache);
        detail::require_equal("latent_attention::append", "x must be [tokens, hidden]", config_.hidden,
                              x.cols());
        const matrix raw = x * weights_.wkv_a.transpose();
        cache.append(raw.data(), raw.rows(), weights_.key_norm);
    }

    /// Absorbed attention of one query token over the first `tokens` rows of a cache.
    /// Shapes:   absorbed [heads, latent + rope], latents out [heads, latent]; both contiguous.
    /// Requires: a cache of this config, tokens <= cache.tokens(); one call at a time per object.
    /// Returns:  true; false, with `out` untouched, when the call does not fit and ROPEWALK_ON_MISFIT lets
    ///           the program continue.
    template <class E>
    bool attend(const T* absorbed, const latent_cache<E>& cache, index tokens, T* out) noexcept {
        return attend_part(absorbed, cache, tokens, {}, workspace_, out);
    }
    /// The same over one part of the rows, for threads that split a long cache; join_parts then combines the
    /// parts.
    /// Shapes:   workspace of attend_workspace() bytes, one per thread; out [heads, latent]; log_weight
    ///           [heads] when given: the logarithm of the sum of exp(score).
    /// Requires, Returns: as attend.
    template <class E>
    bool attend_part(const T* absorbed, const latent_cache<E>& cache, index tokens, part_of part,
                     std::span<std::byte> workspace, T* out, T* log_weight = nullptr) const noexcept;
    /// Bytes that attend_part needs.
    index attend_workspace() const noexcept { return static_cast<index>(workspace_.size()); }
    /// Attention over all rows from its parts.
    /// Shapes:   outs [parts, heads, latent], log_weights [parts, heads], out [heads, latent].
    /// Returns:  as attend; also false when outs and log_weights have different numbers of parts.
    bool join_parts(std::span<const T> outs, std::span<const T> log_weights, T* out) const noexcept;
    /// Values of all heads from their summed latents.
    /// Shapes:   [tokens, heads * latent] -> [tokens, heads * value_dim].
    matrix make_values(const matrix& latents) const;

    /// Appends new tokens to the cache, then each attends to all tokens up to itself, in the cheaper form or
    /// the one that is given.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * value_dim].
    /// Throws: as append, before anything is appended.
    template <class E>
    matrix forward(const matrix& x, latent_cache<E>& cache, std::optional<latent_form> form = {}) const {
        require_own("latent_attention::forward", cache);
        const index first = cache.tokens(), tokens = x.rows();
        const matrix queries = make_queries(x, first);
        append(x, cache);
        const latent_form chosen = form.value_or(cheaper_form(config_, first, tokens));
        matrix out(tokens, config_.heads * config_.value_dim);
        std::vector<std::byte> workspace(static_cast<std::size_t>(newest_workspace(cache, tokens, chosen)));
        attend_newest(queries.data(), cache, tokens, chosen, std::span<std::byte>(workspace), out.data());
        return out;
    }
    /// Causal attention of the newest `tokens` of a cache over the whole cache: the part of forward between
    /// its projections, in the caller's memory and in parts for the caller's threads.
    /// Shapes:   queries [tokens, heads * (nope + rope)] as make_queries gives them, out [tokens, heads *
    ///           value_dim], both contiguous; workspace of newest_workspace() bytes, one per part. Parts
    ///           share the heads: one by one expanded, absorbed in groups that fill a tile of rows.
    /// Requires: a cache of this config, tokens <= cache.tokens().
    /// Returns:  as attend. Allocates nothing; no bit depends on the split into parts.
    template <class E>
    bool attend_newest(const T* queries, const latent_cache<E>& cache, index tokens, latent_form form,
                       std::span<std::byte> workspace, T* out, part_of part = {}) const noexcept;
    /// Bytes that one part of attend_newest needs: expanded they grow with the cached tokens, absorbed with
    /// the new ones.
    /// Throws: invalid_config on a size that does not fit.
    template <class E>
    index newest_workspace(const latent_cache<E>& cache, index tokens, latent_form form) const {
        const detail::latent_layer<T> layer = own_layer();
        return detail::latent_prefill<T, E>(layer, cache, tokens, form).bytes();
    }
    /// The same with the keys and values of every head formed explicitly, directly by the definition.
    /// Shapes: scores, when given, [heads, new tokens, cached tokens], 0 where causality hides a key.
    /// Throws: as append, and on scores of another size.
    template <class E>
    matrix forward_naive(const matrix& x, latent_cache<E>& cache, std::span<T> scores = {}) const;

  private:
    using tile_options = attention::tiled_options<T>;

    detail::latent_layer<T> own_layer() const noexcept {
        return {config_.heads,         config_.latent, config_.nope_dim, config_.rope_dim, config_.value_dim,
                weights_.wkv_b.data(), scale_};
    }
    /// What a hot call reads of a cache.
    template <class E>
    misfit fit_cache(const latent_cache<E>& cache, index tokens, part_of part) const noexcept {
        const index width = config_.latent + config_.rope_dim;
        if (tokens < 0 || tokens > cache.tokens())
            return {"tokens must be at most those of the cache", cache.tokens(), tokens};
        if (cache.sizes().latent != config_.latent)
            return {"latent of the cache must be the layer's", config_.latent, cache.sizes().latent};
        if (cache.width() != width)
            return {"width of the cache must be latent + rope_dim", width, cache.width()};
        return detail::fit_part(part);
    }

    /// A cache of another config would be read at wrong offsets, or have keys that are rotated differently.
    template <class E>
    void require_own(const char* who, const latent_cache<E>& cache) const {
        const mla::config& c = cache.sizes();
        detail::require_equal(who, "cache must have the layer's latent", config_.latent, c.latent);
        detail::require_equal(who, "cache must have the layer's rope_dim", config_.rope_dim, c.rope_dim);
        detail::require_equal(who, "cache must have the layer's rms_epsilon", config_.rms_epsilon,
                              c.rms_epsilon);
        for (index i = 0; i < omega_.pairs(); ++i)
            detail::require_equal(who, "cache must have the frequencies of the layer", omega_.omega(i),
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
    std::vector<std::byte> workspace_;  // of one absorbed call
};

template <class T>
latent_attention<T>::latent_attention(const mla::config& c, latent_weights<T> weights, double softmax_scale)
    : config_(c),
      weights_(std::move(weights)),
      scale_(softmax_scale),
      rope_(mla::make_scheme(c)),
      omega_(rope_.spectrum_for(1)),
      workspace_(static_cast<std::size_t>(
          detail::tiled_scratch<T>("latent_attention", {}, c.latent + c.rope_dim, c.latent, tile_options{})
              .bytes)) {
    constexpr const char* who = "latent_attention";
    detail::require(std::isfinite(softmax_scale), who, "softmax_scale must be finite", softmax_scale);
    const index queries = c.heads * (c.nope_dim + c.rope_dim);
    if (c.query_rank == 0) {
        detail::require_shape(who, "wq must be [heads * (nope + rope), hidden]", queries, c.hidden,
                              weights_.wq);
    } else {
        detail::require_shape(who, "wq_a must be [query_rank, hidden]", c.query_rank, c.hidden,
                              weights_.wq_a);
        detail::require_shape(who, "wq_b must be [heads * (nope + rope), query_rank]", queries, c.query_rank,
                              weights_.wq_b);
        detail::require_equal(who, "query_norm must be [query_rank]", c.query_rank,
                              weights_.query_norm.size());
    }
    detail::require_shape(who, "wkv_a must be [latent + rope, hidden]", c.latent + c.rope_dim, c.hidden,
                          weights_.wkv_a);
    detail::require_shape(who, "wkv_b must be [heads * (nope + value), latent]",
                          c.heads * (c.nope_dim + c.value_dim), c.latent, weights_.wkv_b);
    detail::require_equal(who, "key_norm must be [latent]", c.latent, weights_.key_norm.size());
}

template <class T>
auto latent_attention<T>::make_queries(const matrix& x, index first) const -> matrix {
    detail::require_equal("latent_attention::make_queries", "x must be [tokens, hidden]", config_.hidden,
                          x.cols());
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
    detail::require_equal("latent_attention::make_absorbed",
                          "queries must be [tokens, heads * (nope + rope)]", config_.heads * d,
                          queries.cols());
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
    detail::require_equal("latent_attention::make_values", "latents must be [tokens, heads * latent]",
                          config_.heads * config_.latent, latents.cols());
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
bool latent_attention<T>::attend_part(const T* absorbed, const latent_cache<E>& cache, index tokens,
                                      part_of part, std::span<std::byte> workspace, T* out,
                                      T* log_weight) const noexcept {
    static_assert(std::is_same_v<detail::cache_compute_t<E>, T>, "a cache of the layer's compute type");
    constexpr const char* who = "latent_attention::attend";
    const index width = config_.latent + config_.rope_dim;
    if (!detail::fits(who, fit_cache(cache, tokens, part))) return false;
    if (workspace.size() < workspace_.size())
        return detail::tell(who, {"workspace must hold attend_workspace() bytes", attend_workspace(),
                                  static_cast<index>(workspace.size())});
    const work_range keys = partition(tokens, part);
    detail::attend_latents(
        attention::full_mask{}, heads_view<const T>(absorbed, config_.heads, 1, width), cache, keys.first,
        keys.count, scale_, heads_view<T>(out, config_.heads, 1, config_.latent), workspace,
        tile_options{.log_weight = log_weight
                                       ? std::span<T>(log_weight, static_cast<std::size_t>(config_.heads))
                                       : std::span<T>()});
    return true;
}

template <class T>
template <class E>
bool latent_attention<T>::attend_newest(const T* queries, const latent_cache<E>& cache, index tokens,
                                        latent_form form, std::span<std::byte> workspace, T* out,
                                        part_of part) const noexcept {
    static_assert(std::is_same_v<detail::cache_compute_t<E>, T>, "a cache of the layer's compute type");
    constexpr const char* who = "latent_attention::attend_newest";
    if (!detail::fits(who, fit_cache(cache, tokens, part))) return false;
    const detail::latent_layer<T> layer = own_layer();
    const detail::latent_prefill<T, E> prefill(layer, cache, tokens, form);
    const index needed = prefill.bytes();
    if (static_cast<index>(workspace.size()) < needed)
        return detail::tell(who, {"workspace must hold newest_workspace() bytes", needed,
                                  static_cast<index>(workspace.size())});
    if (tokens > 0) prefill.run(queries, out, workspace, part);
    return true;
}

template <class T>
bool latent_attention<T>::join_parts(std::span<const T> outs, std::span<const T> log_weights,
                                     T* out) const noexcept {
    constexpr const char* who = "latent_attention::join_parts";
    const auto heads = static_cast<std::size_t>(config_.heads),
               latent = static_cast<std::size_t>(config_.latent);
    if (log_weights.size() % heads != 0)
        return detail::tell(who, {"log_weights must be [parts, heads]", config_.heads,
                                  static_cast<index>(log_weights.size())});
    if (outs.size() != log_weights.size() * latent)
        return detail::tell(
            who, {"outs must be [parts, heads, latent]", static_cast<index>(log_weights.size() * latent),
                  static_cast<index>(outs.size())});
    const auto parts = static_cast<index>(log_weights.size() / heads);
    for (std::size_t h = 0; h < heads; ++h) {
        const auto at = [&](index p) { return static_cast<std::size_t>(p) * heads + h; };
        detail::join_rows(
            parts, config_.latent, [&](index p) { return static_cast<double>(log_weights[at(p)]); },
            [&](index p) { return outs.data() + at(p) * latent; }, out + h * latent);
    }
    return true;
}

template <class T>
template <class E>
auto latent_attention<T>::forward_naive(const matrix& x, latent_cache<E>& cache, std::span<T> scores) const
    -> matrix {
    constexpr const char* who = "latent_attention::forward_naive";
    require_own(who, cache);
    const index first = cache.tokens(), heads = config_.heads, d = config_.nope_dim + config_.rope_dim;
    if (!scores.empty())
        detail::require_equal(who, "scores must hold heads * new tokens * cached tokens numbers",
                              detail::checked_product(who, "heads * tokens * tokens must fit",
                                                      {heads, x.rows(), first + x.rows()}),
                              scores.size());
    matrix q = make_queries(x, first);
    append(x, cache);
    const index keys = cache.tokens();
    matrix k = matrix::Zero(keys, heads * d), v(keys, heads * config_.value_dim),
           latent(keys, config_.latent);
    for (index n = 0; n < keys; ++n) {
        detail::read_row(cache.latents().at(0, n, 0), latent.row(n).data(), config_.latent);
        for (index h = 0; h < heads; ++h)
            detail::read_row(cache.shared_keys().at(0, n, 0), k.row(n).data() + h * d + config_.nope_dim,
                             config_.rope_dim);
    }
    latent *= static_cast<T>(cache.scale());
    k *= static_cast<T>(cache.scale());                    // its other channels are filled in later
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
