// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/softmax_strip.hpp>
#include <ropewalk/attention/tile_pieces.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/partition.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// How one call of attend runs and what else it writes. T is the type arithmetic runs in: double for f64
/// queries, else float.
/// Shapes: log_weight [batches, queries, heads]; probabilities [batches, heads, queries, keys]; empty: not
///         wanted.
template <class T>
struct tiled_options {
    std::optional<double> scale = {};  ///< on q . k; 1 / sqrt(channels) when not given
    std::span<T> log_weight = {};      ///< log of the sum of exp(score); -infinity where nothing is seen
    std::span<T> probabilities = {};   ///< 0 where hidden; a second pass over the keys
    part_of part = {};                 ///< which share of the heads and query tiles this call does
    index query_tile = 96;             ///< queries at a time
    index key_tile = 64;               ///< keys at a time
};

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::detail {

/// Memory of one attention call.
template <class T>
struct tiled_scratch {
    T *queries, *sums, *peak, *weight, *scores, *factor, *keys, *values, *finite, *row;
    index bytes;

    tiled_scratch(const char* who, workspace_cutter cutter, index channels, index value_channels,
                  const attention::tiled_options<T>& options) {
        require(options.query_tile > 0, who, "query_tile must be > 0", options.query_tile);
        require(options.key_tile > 0, who, "key_tile must be > 0", options.key_tile);
        const index lanes = strip_lanes<T>;
        const index strips = (std::min(options.query_tile, index{1} << 32) + lanes - 1) / lanes;
        const index width = whole_packs<T>(std::min(channels, index{1} << 40));
        const index value_width = whole_packs<T>(std::min(value_channels, index{1} << 40));
        queries = cutter.template cut<T>(who, {strips, width, lanes});
        sums = cutter.template cut<T>(who, {strips, value_width, lanes});
        peak = cutter.template cut<T>(who, {strips, lanes});
        weight = cutter.template cut<T>(who, {strips, lanes});
        scores = cutter.template cut<T>(who, {options.key_tile, lanes});
        factor = cutter.template cut<T>(who, {lanes});
        keys = cutter.template cut<T>(who, {options.key_tile, width});
        values = cutter.template cut<T>(who, {options.key_tile, value_width});
        finite = cutter.template cut<T>(who, {options.key_tile, value_width});
        row = cutter.template cut<T>(who, {largest(width, value_width, options.key_tile)});
        bytes = cutter.bytes();
    }
};

/// Sizes that q, k, v and the result must share.
inline void check_attention(const char* who, heads_shape q, heads_shape k, heads_shape v, heads_shape out) {
    for (index n : {q.batches, q.tokens, q.heads, q.channels, k.tokens, k.heads, v.channels})
        require(n >= 0, who, "extents must be >= 0", n);
    require(k.batches == q.batches, who, "k.batches must equal q.batches", k.batches);
    require(v.batches == q.batches, who, "v.batches must equal q.batches", v.batches);
    require(out.batches == q.batches, who, "out.batches must equal q.batches", out.batches);
    require(v.tokens == k.tokens, who, "v.tokens must equal k.tokens", v.tokens);
    require(out.tokens == q.tokens, who, "out.tokens must equal q.tokens", out.tokens);
    require(q.heads == 0 || (k.heads > 0 && q.heads % k.heads == 0), who,
            "k.heads must be > 0 and divide q.heads", k.heads);
    require(v.heads == k.heads, who, "v.heads must equal k.heads", v.heads);
    require(out.heads == q.heads, who, "out.heads must equal q.heads", out.heads);
    require(k.channels == q.channels, who, "k.channels must equal q.channels", k.channels);
    require(out.channels == v.channels, who, "out.channels must equal v.channels", out.channels);
}

/// The scale of scores: given, or 1 / sqrt(channels).
inline double checked_scale(const char* who, std::optional<double> scale, index channels) {
    const double s = scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(channels, 1))));
    require(std::isfinite(s), who, "scale must be finite", s);
    return s;
}

/// One call of attend: tiles of queries go by, and past each of them the tiles of keys.
template <class Rules, class Q, class K, class V, class O>
class tiled_attention {
    using T = compute_t<Q>;
    static constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;

  public:
    tiled_attention(const Rules& rules, heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                    double scale, const tiled_scratch<T>& scratch,
                    const attention::tiled_options<T>& options) noexcept
        : rules_(rules),
          q_(q),
          k_(k),
          v_(v),
          out_(out),
          at_(scratch),
          options_(options),
          scale_(static_cast<T>(scale)),
          group_(q.heads() / k.heads()) {}

    void run() noexcept {
        // Few queries (decode): all heads that read the same keys make one tile.
        const index together = q_.tokens() * group_;
        const bool grouped = together <= std::min(strip, options_.query_tile);
        few_ = grouped && 2 * together <= lanes;
        heads_ = grouped ? group_ : 1;
        const index tile = grouped ? q_.tokens() : options_.query_tile;
        const index tiles = (q_.tokens() + tile - 1) / tile, rows = q_.heads() / heads_;
        // Parts take tiles in turn: under a causal mask late ones cost more.
        for (index item = options_.part.part; item < q_.batches() * rows * tiles;
             item += options_.part.parts) {
            batch_ = item / (rows * tiles);
            head_ = item / tiles % rows * heads_;
            first_query_ = item % tiles * tile;
            queries_ = std::min(tile, q_.tokens() - first_query_);
            run_tile();
        }
    }

  private:
    void run_tile() noexcept {
        read_queries();
        const index rows = queries_ * heads_, strips = (rows + strip - 1) / strip;
        std::fill_n(at_.peak, strips * strip, -std::numeric_limits<T>::infinity());
        std::fill_n(at_.weight, strips * strip, T(0));
        std::fill_n(at_.sums, strips * strip * whole_packs<T>(v_.channels()), T(0));
        pass_keys([&](const tile_piece& piece) {
            T* const scores = at_.scores + piece.row % strip;
            T* const factor = at_.factor + piece.row % strip;
            T* const peak = at_.peak + piece.row;
            T* const weight = at_.weight + piece.row;
            if (piece.packs == 3)
                softmax_strip<3>(scores, strip, piece.tile.keys, peak, weight, factor);
            else if (piece.packs == 2)
                softmax_strip<2>(scores, strip, piece.tile.keys, peak, weight, factor);
            else
                softmax_strip<1>(scores, strip, piece.tile.keys, peak, weight, factor);
            add_values(piece);
        });
        write_results();
        if (!options_.probabilities.empty()) write_probabilities();
    }

    /// Calls f(piece) with the scores of every piece in its columns of at_.scores, hidden ones at -infinity.
    template <class F>
    void pass_keys(const F& f) noexcept {
        for (index first = 0; first < k_.tokens(); first += options_.key_tile) {
            const attention::score_tile whole{batch_,
                                              head_,
                                              heads_,
                                              first_query_,
                                              queries_,
                                              first,
                                              std::min(options_.key_tile, k_.tokens() - first)};
            const attention::seen_keys any = rules_.tile(whole);
            if (any.keys <= 0) continue;
            const index kv = head_ / group_;
            keys_ = tile_rows<T>(k_, batch_, kv, any.first_key, any.keys, few_, at_.keys);
            values_ = tile_rows<T>(v_, batch_, kv, any.first_key, any.keys, few_, at_.values);
            rows_first_ = any.first_key;
            each_piece<T>(rules_, whole, any, [&](const tile_piece& piece) {
                fill_scores(piece);
                if (!piece.complete) hide(piece);
                f(piece);
            });
        }
    }
    /// Queries times scale: a column each of a strip, or for few of them a row each.
    void read_queries() noexcept {
        const index rows = queries_ * heads_, channels = q_.channels(), width = whole_packs<T>(channels);
        for (index r = 0; r < (few_ ? rows : (rows + strip - 1) / strip * strip); ++r) {
            if (r < rows)
                read_row(q_.at(batch_, first_query_ + r / heads_, head_ + r % heads_), at_.row, channels);
            else
                std::fill_n(at_.row, channels, T(0));
            if (few_) {
                T* const to = at_.queries + r * width;
                for (index c = 0; c < channels; ++c) to[c] = scale_ * at_.row[c];
                std::fill(to + channels, to + width, T(0));
            } else {
                T* const to = at_.queries + strip_offset<T>(r, channels);
                for (index c = 0; c < channels; ++c) to[c * strip] = scale_ * at_.row[c];
            }
        }
    }
    void fill_scores(const tile_piece& piece) noexcept {
        const index channels = q_.channels();
        const matrix_at<const T> from = seen_rows(keys_, piece);
        const matrix_at<T> scores{at_.scores + piece.row % strip, strip};
        if (few_)
            row_products<T>(piece.tile.keys, queries_ * heads_, channels, from,
                            {at_.queries, whole_packs<T>(channels)}, scores);
        else
            tile_product<left::rows, onto::nothing, T>(
                piece.tile.keys, piece.packs, channels, from,
                {at_.queries + strip_offset<T>(piece.row, channels), strip}, scores);
    }
    void hide(const tile_piece& piece) noexcept {
        const attention::score_tile& tile = piece.tile;
        for (index j = 0; j < tile.keys; ++j) {
            T* to = at_.scores + j * strip + piece.row % strip;
            for (index n = tile.first_query; n < tile.first_query + tile.queries; ++n)
                for (index h = head_; h < head_ + heads_; ++h, ++to) {
                    if (!rules_.seen(batch_, h, n, tile.first_key + j))
                        *to = -std::numeric_limits<T>::infinity();
                    else if constexpr (attention::biased_rules<Rules>)
                        *to += static_cast<T>(rules_.bias(batch_, h, n, tile.first_key + j));
                }
        }
    }
    matrix_at<const T> seen_rows(matrix_at<const T> rows, const tile_piece& piece) const noexcept {
        return {rows.data + (piece.tile.first_key - rows_first_) * rows.stride, rows.stride};
    }

    void add_values(const tile_piece& piece) noexcept {
        const attention::score_tile& tile = piece.tile;
        const index channels = v_.channels(), width = whole_packs<T>(channels), rows = tile.queries * heads_;
        const matrix_at<const T> seen = seen_rows(values_, piece);
        const matrix_at<const T> scores{at_.scores + piece.row % strip, strip};
        const T* const factor = at_.factor + piece.row % strip;
        T* const sums = at_.sums + (few_ ? 0 : strip_offset<T>(piece.row, width));
        const index row_stride = few_ ? width : 1, channel_stride = few_ ? 1 : strip;
        // A weight of 0 hides a number, but not a NaN or an infinity: those are added pair by pair.
        const bool careful = !piece.complete && !all_finite<T>(seen, tile.keys, channels);
        const matrix_at<const T> values =
            careful ? finite_rows<T>(seen, tile.keys, channels, at_.finite) : seen;
        if (few_) {
            for (index r = 0; r < rows; ++r)
                for (index c = 0; c < width; ++c) sums[r * width + c] *= factor[r];
            tile_product<left::columns, onto::sum, T>(rows, width / lanes, tile.keys, scores, values,
                                                      {sums, width});
        } else {
            tile_product<left::columns, onto::scaled_sum, T>(channels, piece.packs, tile.keys, values, scores,
                                                             {sums, strip}, factor);
        }
        if (!careful) return;
        for (index j = 0; j < tile.keys; ++j)
            for (index c = 0; c < channels; ++c) {
                const T value = seen.data[j * seen.stride + c];
                if (std::abs(value) < std::numeric_limits<T>::infinity()) continue;
                for (index r = 0; r < rows; ++r)
                    if (rules_.seen(batch_, head_ + r % heads_, tile.first_query + r / heads_,
                                    tile.first_key + j))
                        sums[r * row_stride + c * channel_stride] += scores.data[j * strip + r] * value;
            }
    }

    void write_results() noexcept {
        const index channels = v_.channels(), width = whole_packs<T>(channels);
        for (index r = 0; r < queries_ * heads_; ++r) {
            const index n = first_query_ + r / heads_, h = head_ + r % heads_;
            const T weight = at_.weight[r];
            const T share = weight == 0 ? T(0) : 1 / weight;
            const T* const from = at_.sums + (few_ ? r * width : strip_offset<T>(r, width));
            const index stride = few_ ? 1 : strip;
            for (index c = 0; c < channels; ++c) at_.row[c] = from[c * stride] * share;
            write_row(at_.row, out_.at(batch_, n, h), channels);
            if (!options_.log_weight.empty())
                options_.log_weight[static_cast<std::size_t>((batch_ * q_.tokens() + n) * q_.heads() + h)] =
                    weight == 0 ? -std::numeric_limits<T>::infinity() : at_.peak[r] + std::log(weight);
        }
    }

    T* probabilities(index n, index h) const noexcept {
        return options_.probabilities.data() + ((batch_ * q_.heads() + h) * q_.tokens() + n) * k_.tokens();
    }
    void write_probabilities() noexcept {
        for (index r = 0; r < queries_ * heads_; ++r)
            std::fill_n(probabilities(first_query_ + r / heads_, head_ + r % heads_), k_.tokens(), T(0));
        pass_keys([&](const tile_piece& piece) {
            const attention::score_tile& tile = piece.tile;
            for (index r = 0; r < tile.queries * heads_; ++r) {
                T* const to =
                    probabilities(tile.first_query + r / heads_, head_ + r % heads_) + tile.first_key;
                const T peak = at_.peak[piece.row + r], weight = at_.weight[piece.row + r];
                for (index j = 0; j < tile.keys; ++j) {
                    const T score = at_.scores[j * strip + piece.row % strip + r];
                    to[j] =
                        score == -std::numeric_limits<T>::infinity() ? T(0) : std::exp(score - peak) / weight;
                }
            }
        });
    }

    const Rules& rules_;
    heads_view<Q> q_;
    heads_view<K> k_;
    heads_view<V> v_;
    heads_view<O> out_;
    tiled_scratch<T> at_;
    attention::tiled_options<T> options_;
    T scale_;
    index group_;       // query heads a kv head
    bool few_ = false;  // queries lie in rows, not in columns
    index heads_ = 1;   // of a tile, interleaved with its queries: row = query * heads + head
    index batch_ = 0, head_ = 0, first_query_ = 0, queries_ = 0;  // the tile of now
    matrix_at<const T> keys_{}, values_{};
    index rows_first_ = 0;  // the key of their first row
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// Bytes of workspace that one call of attend needs: it does not grow with the tokens.
/// Throws: invalid_config on tile sizes that are not positive or a size that does not fit.
template <class Q, class K, class V>
index attend_workspace(heads_view<Q> q, heads_view<K>, heads_view<V> v,
                       const tiled_options<compute_t<Q>>& options = {}) {
    return detail::tiled_scratch<compute_t<Q>>("attend_workspace", {}, q.channels(), v.channels(), options)
        .bytes;
}

/// Softmax attention in tiles: out = softmax(scale q k^T) v over what the mask lets each query see, without a
/// score matrix.
/// Shapes:   q [batches, queries, heads, channels], k [batches, keys, kv heads, channels], v [batches, keys,
/// kv
///           heads, value channels], out [batches, queries, heads, value channels]; any strides, each of any
///           element type. The kv heads divide the heads: query head h reads kv head h / (heads / kv heads).
///           workspace: at least attend_workspace bytes, one for each part that runs at the same time.
/// Requires: out shares no memory with the inputs.
/// Throws:   invalid_config on sizes that disagree, before anything is written. Allocates nothing.
/// Cost:     (channels + value channels) multiply-adds a pair of query and key that lie in a tile in which
///           something is seen; tiles that the mask hides are skipped.
/// Accuracy: f64 within 1e-13 and f32 within 3e-6 of extended precision, for values and scores of order 1. A
///           query that sees nothing gets zeros. A key that is hidden from a query cannot change its result,
///           NaN included. No bit depends on the split into parts.
/// Source:   online softmax, Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao et al. 2022.
///
///     std::vector<std::byte> workspace(attend_workspace(q, k, v));
///     attend(causal_mask{}, q, k, v, out, workspace);                                  // prefill and decode
///     attend(both(causal_mask{}, document_mask{documents}), q, k, v, out, workspace);  // packed documents
template <attention_mask Mask, class Q, class K, class V, class O>
void attend(const Mask& mask, heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
            std::span<std::byte> workspace, const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend";
    detail::check_attention(who, q.shape, k.shape, v.shape, out.shape);
    const double scale = detail::checked_scale(who, options.scale, q.channels());
    const index needed = attend_workspace(q, k, v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_workspace bytes", workspace.size());
    detail::require(
        options.part.parts > 0 && options.part.part >= 0 && options.part.part < options.part.parts, who,
        "part must be one of parts", options.part.part);
    const index rows = detail::checked_product(who, "batches * queries * heads must fit",
                                               {q.batches(), q.tokens(), q.heads()});
    detail::require(options.log_weight.empty() || static_cast<index>(options.log_weight.size()) == rows, who,
                    "log_weight must hold batches * queries * heads numbers", options.log_weight.size());
    if (!options.probabilities.empty()) {
        const index pairs =
            detail::checked_product(who, "batches * heads * queries * keys must fit", {rows, k.tokens()});
        detail::require(static_cast<index>(options.probabilities.size()) == pairs, who,
                        "probabilities must hold batches * heads * queries * keys numbers",
                        options.probabilities.size());
    }
    const auto rules = mask.over(score_extent{q.batches(), q.heads(), q.tokens(), k.tokens()});
    if (rows == 0) return;
    const detail::tiled_scratch<T> scratch(who, detail::workspace_cutter(workspace), q.channels(),
                                           v.channels(), options);
    detail::tiled_attention(rules, q, k, v, out, scale, scratch, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
