// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// EliteKV attention: decode over latents and rotated elite channels, absorbed or expanded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/compression/elite_cache.hpp>
#include <ropewalk/compression/latent_form.hpp>
#include <ropewalk/compression/low_rank.hpp>
#include <ropewalk/compression/row_products.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Scores of absorbed queries, with rows (token, head): one product with the latents, which all heads share,
/// plus one with the elite channels of each row's kv head.
template <class T, class E>
class elite_scores {
    static constexpr index strip = strip_lanes<T>;

  public:
    /// own_q [1, rows, 1, 2r] not scaled, own_k [1, keys, kv heads, 2r].
    elite_scores(score_source<const T, const E> latents, heads_view<const T> own_q, heads_view<const E> own_k,
                 index heads, double scale) noexcept
        : latents_(latents),
          own_q_(own_q),
          own_k_(own_k),
          heads_(heads),
          group_(heads / own_k.heads()),
          scale_(static_cast<T>(scale)) {}

    const heads_shape& q() const noexcept { return latents_.q(); }
    const heads_shape& k() const noexcept { return latents_.k(); }
    void read_queries(const query_tile& tile) noexcept { latents_.read_queries(tile); }
    void read_keys(index batch, index head, index first, index count, bool few) noexcept {
        latents_.read_keys(batch, head, first, count, few);
    }
    auto shared_values() const noexcept { return latents_.keys(); }
    void fill(const query_tile& tile, const tile_piece& piece, T* scores) const noexcept {
        latents_.fill(tile, piece, scores);
        if (own_q_.channels() == 0) return;
        constexpr index some_keys = 32;
        const stored_t<E>* keys[some_keys];
        T part[heads_at_once * some_keys];
        for (index r = 0, together = 0; r < piece.tile.queries; r += together) {
            const index row = piece.tile.first_query + r, head = row % heads_;
            together = std::min({heads_at_once, group_ - head % group_, piece.tile.queries - r});
            for (index first = 0; first < piece.tile.keys; first += some_keys) {
                const index count = std::min(some_keys, piece.tile.keys - first);
                for (index j = 0; j < count; ++j)
                    keys[j] = reinterpret_cast<const stored_t<E>*>(
                        own_k_.at(0, piece.tile.first_key + first + j, head / group_));
                fill_row_products(own_q_.at(0, row, 0), own_q_.strides.token, together, keys, count,
                                  own_q_.channels(), part, some_keys);
                for (index g = 0; g < together; ++g)
                    for (index j = 0; j < count; ++j)
                        scores[(first + j) * strip + r + g] += scale_ * part[g * some_keys + j];
            }
        }
    }

  private:
    score_source<const T, const E> latents_;
    heads_view<const T> own_q_;
    heads_view<const E> own_k_;
    index heads_, group_;
    T scale_;
};

}  // namespace detail

/// One layer of attention over an elite_cache, up to the output projection, with the weights of
/// elite_weights.
/// Throws:   invalid_config on weights of other shapes than their layout's, a spectrum that does not fit it
///           or a scale that is not finite.
/// Cost:     absorbed (decode), every cached row is read once for all heads: heads * (2 latent + 2r)
///           multiply-adds per cached token; expanded (a prompt), see cheaper_form.
/// Accuracy: f64: both forms agree with plain attention with effective_keys() and effective_values() to
///           1e-12.
/// Source:   EliteKV, arXiv 2503.01586; CiaranZhou/EliteKV modeling_llama_EliteKV.py.
///
///     elite_attention<float> layer(make_elite_weights(q, k, v, layout, 512), omega);
///     elite_cache<bf16> cache = layer.make_cache<bf16>();
///     const auto out = layer.forward(x, cache);  // a prompt, then token by token
template <class T = float>
class elite_attention {
  public:
    using matrix = typename elite_weights<T>::matrix;  ///< a row-major matrix of T

    /// scale on q . k: 1 / sqrt(head_dim) of the whole head when not given.
    elite_attention(elite_weights<T> weights, const spectrum& omega, std::optional<double> scale = {});

    /// The weights it was made from.
    const elite_weights<T>& weights() const noexcept { return weights_; }
    /// An empty cache for this layer.
    template <class E>
    elite_cache<E> make_cache() const {
        return {weights_.layout, all_, weights_.latent()};
    }

    /// Queries of tokens at positions first, first + 1, ..., as packed heads with their elite channels
    /// rotated.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * head_dim].
    matrix make_queries(const matrix& x, index first) const;
    /// [q_nope up_keys | q_elite] for each head: the factor of a row of the cache.
    /// Shapes: queries as make_queries gives them -> [tokens, heads * (latent + 2r)].
    matrix make_absorbed(const matrix& queries) const;
    /// Appends to a cache.
    /// Throws: invalid_config when x is not [tokens, hidden], or a cache of another layout or latent.
    template <class E>
    void append(const matrix& x, elite_cache<E>& cache) const;

    /// Absorbed attention of one query token over the first `tokens` rows of a cache.
    /// Shapes:   absorbed [heads, latent + 2r], latents out [heads, latent]; both contiguous.
    /// Requires: a cache of this layer, tokens <= cache.tokens(); one call at a time per object.
    /// Returns:  true; false, with `out` untouched, when the call does not fit and ROPEWALK_ON_MISFIT lets
    ///           the program continue.
    template <class E>
    bool attend(const T* absorbed, const elite_cache<E>& cache, index tokens, T* out) noexcept {
        constexpr const char* who = "elite_attention::attend";
        if (tokens < 0 || tokens > cache.tokens())
            return detail::tell(who, {"tokens must be at most those of the cache", cache.tokens(), tokens});
        if (cache.latent() != weights_.latent())
            return detail::tell(
                who, {"latent of the cache must be the layer's", weights_.latent(), cache.latent()});
        if (cache.keys().heads() != weights_.layout.heads() ||
            cache.keys().channels() != weights_.layout.rope_channels())
            return detail::tell(who, {"elite channels of the cache must be the layer's",
                                      weights_.layout.rope_channels(), cache.keys().channels()});
        attend_rows(attention::full_mask{}, absorbed, 1, cache, tokens, out, workspace_);
        return true;
    }
    /// Values of all heads from their summed latents.
    /// Shapes:   [tokens, heads * latent] -> [tokens, heads * head_dim].
    matrix make_values(const matrix& latents) const;

    /// Appends new tokens to the cache, then each attends to all tokens up to itself, in the cheaper form or
    /// the one that is given.
    /// Shapes: x [tokens, hidden] -> [tokens, heads * head_dim].
    /// Throws: as append, before anything is appended.
    template <class E>
    matrix forward(const matrix& x, elite_cache<E>& cache, std::optional<latent_form> form = {}) const;

  private:
    index heads() const noexcept { return weights_.query_heads(); }
    index group() const noexcept { return heads() / weights_.layout.heads(); }

    /// Tiles of latents that stay in the L2 cache between the two products that read them.
    attention::tiled_options<T> tiles() const noexcept {
        constexpr index numbers = index{1} << (sizeof(T) == 4 ? 15 : 14);
        return {.key_tile =
                    std::clamp<index>(numbers / std::max<index>(weights_.latent(), 1) / 8 * 8, 8, 64)};
    }
    /// Attention of the absorbed rows of some tokens over the first `keys` rows of a cache.
    template <class Rules, class E>
    void attend_rows(const Rules& rules, const T* absorbed, index tokens, const elite_cache<E>& cache,
                     index keys, T* out, std::span<std::byte> workspace) const noexcept {
        const index latent = weights_.latent(), own = weights_.layout.rope_channels(),
                    rows = tokens * heads();
        const attention::tiled_options<T> options = tiles();
        const detail::tiled_scratch<T> at("elite_attention", detail::workspace_cutter(workspace), latent,
                                          latent, options);
        const heads_view<const T> q(absorbed, rows, 1, latent + own);
        const heads_view<const E> latents = cache.latents().token_slice(0, keys);
        const detail::elite_scores<T, E> scores(
            {q.channel_slice(0, latent), latents, scale_, at.queries, at.keys, at.row},
            q.channel_slice(latent, own), cache.keys().token_slice(0, keys), heads(), scale_);
        detail::tiled_attention(rules, scores, latents, heads_view<T>(out, rows, 1, latent), at, options)
            .run();
    }
    template <class E>
    matrix attend_expanded(matrix queries, const elite_cache<E>& cache) const;

    elite_weights<T> weights_;
    spectrum all_;  // of every pair of a head
    rotary_scheme rope_;
    double scale_;
    std::vector<std::byte> workspace_;  // of one absorbed call
};

template <class T>
elite_attention<T>::elite_attention(elite_weights<T> weights, const spectrum& omega,
                                    std::optional<double> scale)
    : weights_(std::move(weights)), all_(omega) {
    constexpr const char* who = "elite_attention";
    const elite_layout& layout = weights_.layout;
    const index d = layout.head_dim(), hidden = weights_.queries.cols();
    detail::require(weights_.queries.rows() > 0 && weights_.queries.rows() % (d * layout.heads()) == 0, who,
                    "queries must be [heads * head_dim, hidden], heads a multiple of the kv heads",
                    weights_.queries.rows());
    detail::require_shape(who, "rope_keys must be [kv heads * 2r, hidden]",
                          layout.heads() * layout.rope_channels(), hidden, weights_.rope_keys);
    detail::require_shape(who, "down must be [latent, hidden]", weights_.latent(), hidden, weights_.down);
    detail::require_shape(who, "up_keys must be [kv heads * nope, latent]",
                          layout.heads() * layout.nope_channels(), weights_.latent(), weights_.up_keys);
    detail::require_shape(who, "up_values must be [kv heads * head_dim, latent]", layout.heads() * d,
                          weights_.latent(), weights_.up_values);
    scale_ = detail::checked_scale(who, scale, d);
    rope_ = layout.scheme(omega, heads());
    workspace_.resize(static_cast<std::size_t>(
        detail::tiled_scratch<T>(who, {}, weights_.latent(), weights_.latent(), tiles()).bytes));
}

template <class T>
auto elite_attention<T>::make_queries(const matrix& x, index first) const -> matrix {
    constexpr const char* who = "elite_attention::make_queries";
    detail::require_equal(who, "x must be [tokens, hidden]", weights_.queries.cols(), x.cols());
    detail::require(first >= 0, who, "first must be >= 0", first);
    matrix q = x * weights_.queries.transpose();
    if (weights_.layout.count() > 0 && q.rows() > 0)
        rotate(rope_, heads_view<T>(q.data(), q.rows(), heads(), weights_.layout.head_dim()),
               make_rotation_table<T>(rope_.spectrum_for(1),
                                      position_ids::text(q.rows(), static_cast<double>(first))));
    return q;
}

template <class T>
auto elite_attention<T>::make_absorbed(const matrix& queries) const -> matrix {
    const index d = weights_.layout.head_dim(), nope = weights_.layout.nope_channels(),
                own = weights_.layout.rope_channels(), width = weights_.latent() + own;
    detail::require_equal("elite_attention::make_absorbed", "queries must be [tokens, heads * head_dim]",
                          heads() * d, queries.cols());
    matrix out(queries.rows(), heads() * width);
    if (queries.rows() == 0) return out;  // Eigen adds offsets to the null of an empty matrix
    for (index h = 0; h < heads(); ++h) {
        out.middleCols(h * width, weights_.latent()).noalias() =
            queries.middleCols(h * d, nope) * weights_.up_keys.middleRows(h / group() * nope, nope);
        out.middleCols(h * width + weights_.latent(), own) = queries.middleCols(h * d + nope, own);
    }
    return out;
}

template <class T>
template <class E>
void elite_attention<T>::append(const matrix& x, elite_cache<E>& cache) const {
    static_assert(std::is_same_v<compute_t<E>, T>, "a cache of the layer's compute type");
    constexpr const char* who = "elite_attention::append";
    const elite_layout &own = weights_.layout, &other = cache.layout();
    detail::require_equal(who, "x must be [tokens, hidden]", weights_.queries.cols(), x.cols());
    detail::require_equal(who, "cache must have the layer's latent", weights_.latent(), cache.latent());
    detail::require(
        other.heads() == own.heads() && other.head_dim() == own.head_dim() &&
            std::equal(own.pairs().begin(), own.pairs().end(), other.pairs().begin(), other.pairs().end()),
        who, "cache must have the layer's layout, pairs a head", other.count());
    const index pairs = weights_.rope_keys.rows();
    matrix raw(x.rows(), pairs + weights_.latent());
    if (x.rows() > 0) {
        raw.leftCols(pairs).noalias() = x * weights_.rope_keys.transpose();
        raw.rightCols(weights_.latent()).noalias() = x * weights_.down.transpose();
    }
    cache.append(raw.data(), raw.rows());
}

template <class T>
auto elite_attention<T>::make_values(const matrix& latents) const -> matrix {
    const index d = weights_.layout.head_dim(), latent = weights_.latent();
    detail::require_equal("elite_attention::make_values", "latents must be [tokens, heads * latent]",
                          heads() * latent, latents.cols());
    matrix out(latents.rows(), heads() * d);
    if (latents.rows() == 0) return out;
    for (index h = 0; h < heads(); ++h)
        out.middleCols(h * d, d).noalias() = latents.middleCols(h * latent, latent) *
                                             weights_.up_values.middleRows(h / group() * d, d).transpose();
    return out;
}

template <class T>
template <class E>
typename elite_attention<T>::matrix elite_attention<T>::forward(const matrix& x, elite_cache<E>& cache,
                                                                std::optional<latent_form> form) const {
    const index first = cache.tokens(), latent = weights_.latent();
    const matrix queries = make_queries(x, first);
    append(x, cache);
    const latent_channels channels{latent, weights_.layout.nope_channels(), weights_.layout.rope_channels(),
                                   weights_.layout.head_dim(), group()};
    if (form.value_or(cheaper_form(channels, first, x.rows())) == latent_form::expanded)
        return attend_expanded(queries, cache);
    const matrix absorbed = make_absorbed(queries);
    matrix latents(x.rows(), heads() * latent);
    std::vector<std::byte> workspace(workspace_.size());
    if (x.rows() > 0)
        attend_rows(detail::token_rows_mask{heads(), first}, absorbed.data(), x.rows(), cache, cache.tokens(),
                    latents.data(), std::span<std::byte>(workspace));
    return make_values(latents);
}

template <class T>
template <class E>
typename elite_attention<T>::matrix elite_attention<T>::attend_expanded(matrix queries,
                                                                        const elite_cache<E>& cache) const {
    const index tokens = queries.rows(), keys = cache.tokens(), d = weights_.layout.head_dim(),
                nope = weights_.layout.nope_channels(), own = weights_.layout.rope_channels();
    matrix out(tokens, heads() * d);
    if (tokens == 0) return out;
    // One kv head at a time: [nope | elite | value].
    matrix latent(keys, weights_.latent()), head(keys, 2 * d);
    for (index n = 0; n < keys; ++n)
        detail::read_row(cache.latents().at(0, n, 0), latent.row(n).data(), weights_.latent());
    const heads_view<T> all(head.data(), keys, 1, 2 * d), k = all.channel_slice(0, d),
                                                          v = all.channel_slice(d, d);
    const heads_view<T> q(queries.data(), tokens, heads(), d), to(out.data(), tokens, heads(), d);
    std::vector<std::byte> workspace(static_cast<std::size_t>(attention::attend_workspace(q, k, v)));
    for (index kv = 0; kv < weights_.layout.heads(); ++kv) {
        head.leftCols(nope).noalias() = latent * weights_.up_keys.middleRows(kv * nope, nope).transpose();
        head.rightCols(d).noalias() = latent * weights_.up_values.middleRows(kv * d, d).transpose();
        for (index n = 0; n < keys; ++n)
            detail::read_row(cache.keys().at(0, n, kv), head.row(n).data() + nope, own);
        attention::attend(attention::causal_mask{}, q.head_slice(kv * group(), group()), k, v,
                          to.head_slice(kv * group(), group()), std::span<std::byte>(workspace),
                          {.scale = scale_});
    }
    return out;
}

}  // namespace ROPEWALK_NAMESPACE
