// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Scores of tiles: products of scaled queries and keys, for the tiled attention core.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ropewalk/attention/tile_pieces.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_transpose.hpp>

/// Sources of scores for the tiled attention core.
/// Source: tiles kept near the core, Dao et al. 2022.
namespace ROPEWALK_NAMESPACE::detail {

/// The rows of a tile: query * heads + head. `few` (decode): they are stored as rows, else as columns of
/// strips.
struct query_tile {
    index batch, first_head, heads, first_query, queries;
    bool few;

    index rows() const noexcept { return queries * heads; }
};

/// Scaled queries and keys, whose products are the scores.
template <class Q, class K>
class score_source {
    using T = compute_t<Q>;
    static constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;

  public:
    score_source(heads_view<Q> q, heads_view<K> k, double scale, T* queries, T* keys, T* row) noexcept
        : q_(q), k_(k), scale_(static_cast<T>(scale)), queries_(queries), copy_(keys), row_(row) {}

    const heads_shape& q() const noexcept { return q_.shape; }
    const heads_shape& k() const noexcept { return k_.shape; }

    void read_queries(const query_tile& tile) noexcept {
        const index rows = tile.rows(), channels = q_.channels(), width = whole_packs<T>(channels);
        const auto row_at = [&](index r) {
            return q_.at(tile.batch, tile.first_query + r / tile.heads, tile.first_head + r % tile.heads);
        };
        if (tile.few) {
            for (index r = 0; r < rows; ++r) {
                T* const to = queries_ + r * width;
                read_row(row_at(r), row_, channels);
                for (index c = 0; c < channels; ++c) to[c] = scale_ * row_[c];
                std::fill(to + channels, to + width, T(0));
            }
            return;
        }
        const simd::pack<T> scale = simd::broadcast(scale_);
        for (index first = 0; first < (rows + strip - 1) / strip * strip; first += lanes) {
            const stored_t<Q>* from[std::size_t{simd::lanes<T>}] = {};
            for (index r = 0; r < std::min(lanes, rows - first); ++r)
                from[r] = reinterpret_cast<const stored_t<Q>*>(row_at(first + r));
            T* const to = queries_ + strip_offset<T>(first, channels);
            index c = 0;
            for (; c + lanes <= channels; c += lanes) {
                simd::pack<T> x[std::size_t{simd::lanes<T>}];
                for (index r = 0; r < lanes; ++r)
                    x[r] = from[r] ? scale * simd::load(from[r] + c) : simd::broadcast(T(0));
                simd::transpose<T>(x);
                for (index i = 0; i < lanes; ++i) simd::store(to + (c + i) * strip, x[i]);
            }
            for (; c < channels; ++c)
                for (index r = 0; r < lanes; ++r)
                    to[c * strip + r] = from[r] ? scale_ * static_cast<T>(from[r][c]) : T(0);
        }
    }
    void read_keys(index batch, index head, index first, index count, bool few) noexcept {
        keys_ = tile_rows<T>(k_, batch, head, first, count, few, copy_);
        first_ = first;
    }
    /// Uses keys from `first` on that are stored elsewhere: read by another source, or transformed.
    void use_keys(matrix_at<const T> rows, index first) noexcept {
        keys_ = rows;
        first_ = first;
    }
    void share_keys(const score_source& other) noexcept { use_keys(other.keys_, other.first_); }
    /// Computes scores [keys, strip] of keys first .. first + count - 1 and `packs` registers of queries from
    /// row `row` on.
    void fill(const query_tile& tile, index row, index packs, index first, index count,
              T* scores) const noexcept {
        const index channels = q_.channels();
        const matrix_at<const T> from{keys_.data + (first - first_) * keys_.stride, keys_.stride};
        if (tile.few)
            row_products<T>(count, tile.rows(), channels, from, {queries_, whole_packs<T>(channels)},
                            {scores, strip});
        else
            tile_product<left::rows, onto::nothing, T>(count, packs, channels, from,
                                                       {queries_ + strip_offset<T>(row, channels), strip},
                                                       {scores, strip});
    }
    void fill(const query_tile& tile, const tile_piece& piece, T* scores) const noexcept {
        fill(tile, piece.row, piece.packs, piece.tile.first_key, piece.tile.keys, scores);
    }
    /// The keys that were read last.
    matrix_at<const T> keys() const noexcept { return keys_; }

  private:
    heads_view<Q> q_;
    heads_view<K> k_;
    T scale_;
    T *queries_, *copy_, *row_;
    matrix_at<const T> keys_{};
    index first_ = 0;  // the key in the first row
};

/// The same where values are the first channels of the keys.
template <class Q, class K>
struct shared_source : score_source<Q, K> {
    using score_source<Q, K>::score_source;
    auto shared_values() const noexcept { return this->keys(); }
};

}  // namespace ROPEWALK_NAMESPACE::detail
