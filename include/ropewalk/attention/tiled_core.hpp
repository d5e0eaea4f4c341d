// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The core of tiled attention: options, scratch memory, and the loop over tiles of queries and keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>

#include <ropewalk/attention/masks.hpp>
#include <ropewalk/attention/score_source.hpp>
#include <ropewalk/attention/softmax_strip.hpp>
#include <ropewalk/attention/tile_pieces.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/core/simd_transpose.hpp>
#include <ropewalk/kernels/partition.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// How one call of attend runs and what else it writes. T is the type of the arithmetic: double for f64
/// queries, else float.
/// Shapes: log_weight [batches, queries, heads]; probabilities [batches, heads, queries, keys]; empty: not
///         wanted.
template <class T>
struct tiled_options {
    std::optional<double> scale = {};  ///< on q . k; 1 / sqrt(channels) when not given
    std::span<T> log_weight = {};      ///< log of the sum of exp(score); -infinity where nothing is seen
    std::span<T> probabilities = {};   ///< 0 where hidden; costs a second pass over the keys
    part_of part = {};                 ///< the share of heads and query tiles that this call computes
    index query_tile = 96;             ///< queries at a time
    index key_tile = 64;               ///< keys at a time
};

}  // namespace ROPEWALK_NAMESPACE::attention

/// Source: online softmax, Milakov and Gimelshein 2018; Dao et al. 2022.
namespace ROPEWALK_NAMESPACE::detail {

/// Memory of one attention call.
template <class T>
struct tiled_scratch {
    T *queries, *sums, *peak, *weight, *scores, *factor, *keys, *values, *finite, *row;
    T *far_queries, *far_keys, *far_scores;  // of further `copies`, one after the other
    index query_numbers;                     // of one copy of the queries
    index bytes;

    tiled_scratch(const char* who, workspace_cutter cutter, index channels, index value_channels,
                  const attention::tiled_options<T>& options, index copies = 1) {
        require(options.query_tile > 0, who, "query_tile must be > 0", options.query_tile);
        require(options.key_tile > 0, who, "key_tile must be > 0", options.key_tile);
        const index lanes = strip_lanes<T>;
        const index strips = (std::min(options.query_tile, detail::limit_of_bits(32)) + lanes - 1) / lanes;
        const index width = whole_packs<T>(std::min(channels, detail::limit_of_bits(40)));
        const index value_width = whole_packs<T>(std::min(value_channels, detail::limit_of_bits(40)));
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
        query_numbers = strips * width * lanes;
        const index more = copies - 1;
        far_queries = cutter.template cut<T>(who, {more, strips, width, lanes});
        far_keys = cutter.template cut<T>(who, {more, options.key_tile, width});
        far_scores = cutter.template cut<T>(who, {more, options.key_tile, lanes});
        bytes = cutter.bytes();
    }
};

/// Checks the sizes that q, k, v and the result must share.
inline void check_attention(const char* who, heads_shape q, heads_shape k, heads_shape v, heads_shape out) {
    for (index n : {q.batches, q.tokens, q.heads, q.channels, k.tokens, k.heads, v.channels})
        require(n >= 0, who, "extents must be >= 0", n);
    require_equal(who, "k.batches must equal q.batches", q.batches, k.batches);
    require_equal(who, "v.batches must equal q.batches", q.batches, v.batches);
    require_equal(who, "out.batches must equal q.batches", q.batches, out.batches);
    require_equal(who, "v.tokens must equal k.tokens", k.tokens, v.tokens);
    require_equal(who, "out.tokens must equal q.tokens", q.tokens, out.tokens);
    require(q.heads == 0 || (k.heads > 0 && q.heads % k.heads == 0), who,
            "k.heads must be > 0 and divide q.heads", k.heads);
    require_equal(who, "v.heads must equal k.heads", k.heads, v.heads);
    require_equal(who, "out.heads must equal q.heads", q.heads, out.heads);
    require_equal(who, "k.channels must equal q.channels", q.channels, k.channels);
    require_equal(who, "out.channels must equal v.channels", v.channels, out.channels);
}

template <class Q, class K, class V, class O>
void check_attention(const char* who, heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out) {
    check_attention(who, q.shape, k.shape, v.shape, out.shape);
    require_readable(who, "q", q);
    require_readable(who, "k", k);
    require_readable(who, "v", v);
    require_writable(who, "out", out);
}

/// The scale of scores: as given, or 1 / sqrt(channels).
inline double checked_scale(const char* who, std::optional<double> scale, index channels) {
    const double s = scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(channels, 1))));
    require(std::isfinite(s), who, "scale must be finite", s);
    return s;
}

/// Checks the sizes of what attend writes besides its result, and its part. Returns batches * queries *
/// heads.
template <class T>
index check_options(const char* who, heads_shape q, index keys, const attention::tiled_options<T>& options) {
    require_part(who, options.part);
    const index rows =
        checked_product(who, "batches * queries * heads must fit", {q.batches, q.tokens, q.heads});
    require(options.log_weight.empty() || static_cast<index>(options.log_weight.size()) == rows, who,
            "log_weight must hold batches * queries * heads numbers", options.log_weight.size());
    if (!options.probabilities.empty()) {
        const index pairs = checked_product(who, "batches * heads * queries * keys must fit", {rows, keys});
        require_equal(who, "probabilities must hold batches * heads * queries * keys numbers", pairs,
                      options.probabilities.size());
    }
    return rows;
}

/// One call of attend: a loop over tiles of queries, and for each of them a loop over tiles of keys. Scores
/// is score_source or a type with the same members.
template <class T, class Rules, class Scores, class V, class O>
class tiled_attention {
    static constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;

  public:
    tiled_attention(const Rules& rules, Scores scores, heads_view<V> v, heads_view<O> out,
                    const tiled_scratch<T>& scratch, const attention::tiled_options<T>& options) noexcept
        : rules_(rules),
          scores_(scores),
          v_(v),
          out_(out),
          at_(scratch),
          options_(options),
          q_(scores.q()),
          group_(scores.q().heads / scores.k().heads) {}

    void run() noexcept {
        // Few queries (decode): all heads that read the same keys make one tile.
        const index together = q_.tokens * group_;
        const bool grouped = together <= std::min(strip, options_.query_tile);
        const index heads = grouped ? group_ : 1, tile = grouped ? q_.tokens : options_.query_tile;
        const index tiles = (q_.tokens + tile - 1) / tile, rows = q_.heads / heads;
        // Parts take every parts-th tile, since late tiles cost more under a causal mask.
        for (index item = options_.part.part; item < q_.batches * rows * tiles; item += options_.part.parts) {
            const index first = item % tiles * tile;
            tile_ = {item / (rows * tiles),
                     item / tiles % rows * heads,
                     heads,
                     first,
                     std::min(tile, q_.tokens - first),
                     grouped && 2 * together <= lanes};
            run_tile();
        }
    }

  private:
    void run_tile() noexcept {
        scores_.read_queries(tile_);
        const index rows = tile_.rows(), strips = (rows + strip - 1) / strip;
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

    /// Calls f(piece) for every piece, with its scores in its columns of at_.scores; hidden ones are
    /// -infinity.
    template <class F>
    void pass_keys(const F& f) noexcept {
        const index keys = scores_.k().tokens;
        for (index first = 0; first < keys; first += options_.key_tile) {
            const attention::score_tile whole{tile_.batch,
                                              tile_.first_head,
                                              tile_.heads,
                                              tile_.first_query,
                                              tile_.queries,
                                              first,
                                              std::min(options_.key_tile, keys - first)};
            const attention::seen_keys any = rules_.tile(whole);
            if (any.keys <= 0) continue;
            const index kv = tile_.first_head / group_;
            scores_.read_keys(tile_.batch, kv, any.first_key, any.keys, tile_.few);
            // Values that are the first channels of the keys (latents) are read only once.
            if constexpr (requires { scores_.shared_values(); })
                values_ = scores_.shared_values();
            else
                values_ = tile_rows<T>(v_, tile_.batch, kv, any.first_key, any.keys, tile_.few, at_.values);
            values_first_ = any.first_key;
            values_count_ = any.keys;
            values_finite_.reset();
            each_piece<T>(rules_, whole, any, [&](const tile_piece& piece) {
                scores_.fill(tile_, piece, at_.scores + piece.row % strip);
                if (!piece.complete) hide(piece);
                f(piece);
            });
        }
    }

    void hide(const tile_piece& piece) noexcept {
        const attention::score_tile& tile = piece.tile;
        for (index j = 0; j < tile.keys; ++j) {
            if constexpr (!attention::biased_rules<Rules>) {
                // Most keys of a piece on the diagonal are seen by all of it: one question instead of one a
                // pair (documents of 512 tokens: pairs took 0.13 of the time).
                attention::score_tile one = tile;
                one.first_key += j;
                one.keys = 1;
                const attention::seen_keys all = rules_.tile(one);
                if (all.complete && all.keys > 0) continue;
            }
            T* to = at_.scores + j * strip + piece.row % strip;
            const index key = tile.first_key + j;
            if (tile_.heads == 1) {  // a loop that compilers turn into masks of whole registers
                for (index n = 0; n < tile.queries; ++n)
                    to[n] = shown(to[n], tile_.first_head, tile.first_query + n, key);
                continue;
            }
            for (index n = tile.first_query; n < tile.first_query + tile.queries; ++n)
                for (index h = tile_.first_head; h < tile_.first_head + tile_.heads; ++h, ++to)
                    *to = shown(*to, h, n, key);
        }
    }
    /// A score as the softmax takes it: with its bias, or hidden.
    T shown(T score, index h, index n, index key) const noexcept {
        if constexpr (attention::biased_rules<Rules>)
            score += static_cast<T>(rules_.bias(tile_.batch, h, n, key));
        return rules_.seen(tile_.batch, h, n, key) ? score : -std::numeric_limits<T>::infinity();
    }

    void add_values(const tile_piece& piece) noexcept {
        const attention::score_tile& tile = piece.tile;
        const index channels = v_.channels(), width = whole_packs<T>(channels),
                    rows = tile.queries * tile_.heads;
        const matrix_at<const T> seen{values_.data + (tile.first_key - values_first_) * values_.stride,
                                      values_.stride};
        const matrix_at<const T> scores{at_.scores + piece.row % strip, strip};
        const T* const factor = at_.factor + piece.row % strip;
        T* const sums = at_.sums + (tile_.few ? 0 : strip_offset<T>(piece.row, width));
        const index row_stride = tile_.few ? width : 1, channel_stride = tile_.few ? 1 : strip;
        // A weight of 0 does not hide a NaN or an infinity, so values with those are added pair by pair.
        const bool careful = !piece.complete && !values_finite();
        const matrix_at<const T> values =
            careful ? finite_rows<T>(seen, tile.keys, channels, at_.finite) : seen;
        if (tile_.few) {
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
                    if (rules_.seen(tile_.batch, tile_.first_head + r % tile_.heads,
                                    tile.first_query + r / tile_.heads, tile.first_key + j))
                        sums[r * row_stride + c * channel_stride] += scores.data[j * strip + r] * value;
            }
    }

    /// Whether the values of the keys that were read last are finite: asked once for all pieces.
    bool values_finite() noexcept {
        if (!values_finite_) values_finite_ = all_finite<T>(values_, values_count_, v_.channels());
        return *values_finite_;
    }

    void write_results() noexcept {
        const index channels = v_.channels(), width = whole_packs<T>(channels), rows = tile_.rows();
        const auto query_of = [&](index r) { return tile_.first_query + r / tile_.heads; };
        const auto head_of = [&](index r) { return tile_.first_head + r % tile_.heads; };
        for (index r = 0; r < rows && !options_.log_weight.empty(); ++r)
            options_.log_weight[static_cast<std::size_t>((tile_.batch * q_.tokens + query_of(r)) * q_.heads +
                                                         head_of(r))] =
                at_.weight[r] == 0 ? -std::numeric_limits<T>::infinity()
                                   : at_.peak[r] + std::log(at_.weight[r]);
        for (index first = 0; first < rows; first += lanes) {
            const index some = std::min(lanes, rows - first);
            T share[std::size_t{simd::lanes<T>}] = {};
            for (index r = 0; r < some; ++r)
                share[r] = at_.weight[first + r] == 0 ? T(0) : 1 / at_.weight[first + r];
            const index done = tile_.few ? 0 : write_squares(first, some, share);
            for (index r = 0; r < some && done < channels; ++r) {
                const T* const from =
                    at_.sums + (tile_.few ? (first + r) * width : strip_offset<T>(first + r, width));
                const index stride = tile_.few ? 1 : strip;
                for (index c = done; c < channels; ++c) at_.row[c] = from[c * stride] * share[r];
                write_row(at_.row + done,
                          out_.at(tile_.batch, query_of(first + r), head_of(first + r)) + done,
                          channels - done);
            }
        }
    }
    /// Writes sums of `some` rows from `first` on, times their shares, in squares of registers. Returns the
    /// number of channels written.
    index write_squares(index first, index some, const T* shares) noexcept {
        index c = 0;
        if constexpr (std::is_same_v<compute_t<O>, T>) {
            const index channels = v_.channels();
            const T* const from = at_.sums + strip_offset<T>(first, whole_packs<T>(channels));
            const simd::pack<T> share = simd::load(shares);
            stored_t<O>* to[std::size_t{simd::lanes<T>}];
            for (index r = 0; r < some; ++r)
                to[r] = reinterpret_cast<stored_t<O>*>(out_.at(tile_.batch,
                                                               tile_.first_query + (first + r) / tile_.heads,
                                                               tile_.first_head + (first + r) % tile_.heads));
            for (; c + lanes <= channels; c += lanes) {
                simd::pack<T> x[std::size_t{simd::lanes<T>}];
                for (index i = 0; i < lanes; ++i) x[i] = share * simd::load(from + (c + i) * strip);
                simd::transpose<T>(x);
                for (index r = 0; r < some; ++r) simd::store(to[r] + c, x[r]);
            }
        }
        return c;
    }

    T* probabilities(index n, index h) const noexcept {
        return options_.probabilities.data() +
               ((tile_.batch * q_.heads + h) * q_.tokens + n) * scores_.k().tokens;
    }
    void write_probabilities() noexcept {
        for (index r = 0; r < tile_.rows(); ++r)
            std::fill_n(
                probabilities(tile_.first_query + r / tile_.heads, tile_.first_head + r % tile_.heads),
                scores_.k().tokens, T(0));
        pass_keys([&](const tile_piece& piece) {
            const attention::score_tile& tile = piece.tile;
            for (index r = 0; r < tile.queries * tile_.heads; ++r) {
                T* const to =
                    probabilities(tile.first_query + r / tile_.heads, tile_.first_head + r % tile_.heads) +
                    tile.first_key;
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
    Scores scores_;
    heads_view<V> v_;
    heads_view<O> out_;
    tiled_scratch<T> at_;
    attention::tiled_options<T> options_;
    heads_shape q_;
    index group_;        // query heads per kv head
    query_tile tile_{};  // the current tile
    matrix_at<const T> values_{};
    index values_first_ = 0;  // the key of the first row of values_
    index values_count_ = 0;
    std::optional<bool> values_finite_{};
};

}  // namespace ROPEWALK_NAMESPACE::detail
