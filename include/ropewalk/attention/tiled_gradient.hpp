// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend_gradient: the backward pass of attention in tiles, from the saved log-sum-exp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include <ropewalk/attention/tiled.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// The tensors of a backward pass: what attend read and wrote, the gradient of a loss with respect to its
/// result, and the gradients with respect to its inputs.
/// Shapes:   as in attend; d_out and out like attend's out, log_weight as attend wrote it, dq like q, dk like
///           k, dv like v.
template <class Q, class K, class V, class O, class D, class DQ, class DK, class DV>
struct gradient_tensors {
    heads_view<Q> q;                           ///< as attend read it
    heads_view<K> k;                           ///< as attend read it
    heads_view<V> v;                           ///< as attend read it
    heads_view<O> out;                         ///< what attend wrote
    heads_view<D> d_out;                       ///< gradient of the loss with respect to out
    std::span<const compute_t<Q>> log_weight;  ///< [batches, queries, heads]
    heads_view<DQ> dq;                         ///< written: gradient with respect to q
    heads_view<DK> dk;                         ///< written: gradient with respect to k
    heads_view<DV> dv;                         ///< written: gradient with respect to v
};
// Clang before version 17 cannot deduce the template arguments of an aggregate.
template <class Q, class K, class V, class O, class D, class DQ, class DK, class DV>
gradient_tensors(heads_view<Q>, heads_view<K>, heads_view<V>, heads_view<O>, heads_view<D>,
                 std::span<const compute_t<Q>>, heads_view<DQ>, heads_view<DK>, heads_view<DV>)
    -> gradient_tensors<Q, K, V, O, D, DQ, DK, DV>;

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::detail {

/// Checks the tensors of a backward pass against those of the forward pass, and their memory.
template <class Tensors>
void check_gradients(const char* who, const Tensors& t) {
    require_extents(who, "d_out must have out's extents", t.out.shape, t.d_out.shape);
    require_extents(who, "dq must have q's extents", t.q.shape, t.dq.shape);
    require_extents(who, "dk must have k's extents", t.k.shape, t.dk.shape);
    require_extents(who, "dv must have v's extents", t.v.shape, t.dv.shape);
    require_readable(who, "q", t.q);
    require_readable(who, "k", t.k);
    require_readable(who, "v", t.v);
    require_readable(who, "out", t.out);
    require_readable(who, "d_out", t.d_out);
    require_writable(who, "dq", t.dq);
    require_writable(who, "dk", t.dk);
    require_writable(who, "dv", t.dv);
}

/// Memory of one backward call: that of a tile, and the gradients of one kv head during the loop over
/// queries.
template <class T>
struct gradient_scratch {
    T *queries, *d_out, *query_rows, *d_out_rows, *dq, *log_weight, *product, *shares, *d_scores, *keys,
        *values, *finite, *row, *dk, *dv;
    index bytes;

    gradient_scratch(const char* who, workspace_cutter cutter, heads_shape q, heads_shape v,
                     const attention::tiled_options<T>& options) {
        require(options.query_tile > 0, who, "query_tile must be > 0", options.query_tile);
        require(options.key_tile > 0, who, "key_tile must be > 0", options.key_tile);
        const index lanes = strip_lanes<T>;
        const index strips = (std::min(options.query_tile, detail::limit_of_bits(32)) + lanes - 1) / lanes;
        const index rows = strips * lanes;
        const index width = whole_packs<T>(std::min(q.channels, detail::limit_of_bits(40)));
        const index value_width = whole_packs<T>(std::min(v.channels, detail::limit_of_bits(40)));
        const index most = std::max(width, value_width);
        queries = cutter.template cut<T>(who, {rows, width});
        d_out = cutter.template cut<T>(who, {rows, value_width});
        query_rows = cutter.template cut<T>(who, {rows, width});
        d_out_rows = cutter.template cut<T>(who, {rows, value_width});
        dq = cutter.template cut<T>(who, {rows, width});
        log_weight = cutter.template cut<T>(who, {rows});
        product = cutter.template cut<T>(who, {rows});
        shares = cutter.template cut<T>(who, {options.key_tile, lanes});
        d_scores = cutter.template cut<T>(who, {options.key_tile, lanes});
        keys = cutter.template cut<T>(who, {options.key_tile, width});
        values = cutter.template cut<T>(who, {options.key_tile, value_width});
        finite = cutter.template cut<T>(who, {std::max(options.key_tile, lanes), most});
        row = cutter.template cut<T>(who, {most});
        dk = cutter.template cut<T>(who, {v.tokens, width});
        dv = cutter.template cut<T>(who, {v.tokens, value_width});
        bytes = cutter.bytes();
    }
};

/// scores [keys, stride] become shares exp(score - log_weight), and d_shares become
/// d_scores = share * (d_share - product); one query per lane.
template <std::size_t Packs, class T>
void gradient_strip(T* scores, T* d_shares, index stride, index keys, const T* log_weight,
                    const T* product) noexcept {
    constexpr index lanes = simd::lanes<T>;
    simd::pack<T> weight[Packs], sum[Packs];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t p = 0; p < Packs; ++p) {
        weight[p] = simd::load(log_weight + static_cast<index>(p) * lanes);
        sum[p] = simd::load(product + static_cast<index>(p) * lanes);
    }
    for (index j = 0; j < keys; ++j) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p) {
            T* const score = scores + j * stride + static_cast<index>(p) * lanes;
            T* const d_share = d_shares + j * stride + static_cast<index>(p) * lanes;
            const simd::pack<T> share =
                simd::exp_of_negative(simd::load(static_cast<const T*>(score)) - weight[p]);
            simd::store(score, share);
            simd::store(d_share, share * (simd::load(static_cast<const T*>(d_share)) - sum[p]));
        }
    }
}

/// One backward call: for every kv head a loop over tiles of its queries, and for each of them a loop over
/// tiles of keys.
template <class Rules, class Tensors>
class tiled_gradient {
    using T = std::remove_const_t<typename decltype(Tensors::log_weight)::element_type>;
    static constexpr index lanes = simd::lanes<T>, strip = strip_lanes<T>;

  public:
    tiled_gradient(const Rules& rules, const Tensors& tensors, double scale,
                   const gradient_scratch<T>& scratch, const attention::tiled_options<T>& options) noexcept
        : rules_(rules),
          x_(tensors),
          at_(scratch),
          options_(options),
          scale_(static_cast<T>(scale)),
          channels_(tensors.q.channels()),
          value_channels_(tensors.v.channels()),
          width_(whole_packs<T>(channels_)),
          value_width_(whole_packs<T>(value_channels_)) {}

    void run() noexcept {
        const index kv_heads = x_.k.heads(), group = x_.q.heads() / std::max<index>(kv_heads, 1);
        for (index item = options_.part.part; item < x_.q.batches() * kv_heads; item += options_.part.parts) {
            batch_ = item / kv_heads;
            kv_ = item % kv_heads;
            std::fill_n(at_.dk, x_.k.tokens() * width_, T(0));
            std::fill_n(at_.dv, x_.k.tokens() * value_width_, T(0));
            for (head_ = kv_ * group; head_ < (kv_ + 1) * group; ++head_)
                for (first_query_ = 0; first_query_ < x_.q.tokens(); first_query_ += options_.query_tile) {
                    queries_ = std::min(options_.query_tile, x_.q.tokens() - first_query_);
                    run_tile();
                }
            for (index j = 0; j < x_.k.tokens(); ++j) {
                write_row(at_.dk + j * width_, x_.dk.at(batch_, j, kv_), channels_);
                write_row(at_.dv + j * value_width_, x_.dv.at(batch_, j, kv_), value_channels_);
            }
        }
    }

  private:
    void run_tile() noexcept {
        read_queries();
        for (index first = 0; first < x_.k.tokens(); first += options_.key_tile) {
            const index count = std::min(options_.key_tile, x_.k.tokens() - first);
            const attention::score_tile tile{batch_, head_, 1, first_query_, queries_, first, count};
            const attention::seen_keys any = rules_.tile(tile);
            if (any.keys <= 0) continue;
            const auto keys = tile_rows<T>(x_.k, batch_, kv_, any.first_key, any.keys, false, at_.keys);
            const auto values = tile_rows<T>(x_.v, batch_, kv_, any.first_key, any.keys, false, at_.values);
            each_piece<T>(rules_, tile, any, [&](const tile_piece& piece) {
                const index skipped = piece.tile.first_key - any.first_key;
                add(piece, {keys.data + skipped * keys.stride, keys.stride},
                    {values.data + skipped * values.stride, values.stride});
            });
        }
        write_queries();
    }

    /// Reads queries (times scale) and the result's gradients, as rows and as columns of strips.
    void read_queries() noexcept {
        const auto columns = [](const T* row, index channels, T* strips, index r) {
            T* const to = strips + strip_offset<T>(r, channels);
            for (index c = 0; c < channels; ++c) to[c * strip] = row[c];
        };
        const index rows = (queries_ + strip - 1) / strip * strip;
        std::fill_n(at_.query_rows, rows * width_, T(0));
        std::fill_n(at_.d_out_rows, rows * value_width_, T(0));
        std::fill_n(at_.dq, rows * width_, T(0));
        std::fill_n(at_.log_weight, rows, T(0));
        std::fill_n(at_.product, rows, T(0));
        for (index r = 0; r < rows; ++r) {
            T* const query = at_.query_rows + r * width_;
            T* const d_out = at_.d_out_rows + r * value_width_;
            if (r < queries_) {
                const index n = first_query_ + r;
                read_row(x_.q.at(batch_, n, head_), query, channels_);
                for (index c = 0; c < channels_; ++c) query[c] *= scale_;
                read_row(x_.d_out.at(batch_, n, head_), d_out, value_channels_);
                read_row(x_.out.at(batch_, n, head_), at_.row, value_channels_);
                T product = 0;
                for (index c = 0; c < value_channels_; ++c) product += at_.row[c] * d_out[c];
                at_.product[r] = product;
                const auto row = (batch_ * x_.q.tokens() + n) * x_.q.heads() + head_;
                at_.log_weight[r] = x_.log_weight[static_cast<std::size_t>(row)];
            }
            columns(query, channels_, at_.queries, r);
            columns(d_out, value_channels_, at_.d_out, r);
        }
    }
    void write_queries() noexcept {
        for (index r = 0; r < queries_; ++r) {
            const T* const from = at_.dq + strip_offset<T>(r, channels_);
            for (index c = 0; c < channels_; ++c) at_.row[c] = scale_ * from[c * strip];
            write_row(at_.row, x_.dq.at(batch_, first_query_ + r, head_), channels_);
        }
    }

    /// Adds the contributions of a piece to dq, dk and dv.
    void add(const tile_piece& piece, matrix_at<const T> keys, matrix_at<const T> values) noexcept {
        const attention::score_tile& tile = piece.tile;
        const bool complete = piece.complete;
        const index packs = piece.packs, row = piece.row;
        const matrix_at<T> shares{at_.shares + row % strip, strip},
            d_scores{at_.d_scores + row % strip, strip};
        tile_product<left::rows, onto::nothing, T>(tile.keys, packs, channels_, keys,
                                                   {at_.queries + strip_offset<T>(row, channels_), strip},
                                                   shares);
        tile_product<left::rows, onto::nothing, T>(tile.keys, packs, value_channels_, values,
                                                   {at_.d_out + strip_offset<T>(row, value_channels_), strip},
                                                   d_scores);
        if constexpr (attention::biased_rules<Rules>)
            if (!complete)
                each_pair(tile, [&](index j, index r, bool seen) {
                    if (seen)
                        shares.data[j * strip + r] += static_cast<T>(
                            rules_.bias(batch_, head_, tile.first_query + r, tile.first_key + j));
                });
        const T* const weight = at_.log_weight + row;
        const T* const product = at_.product + row;
        if (packs == 3)
            gradient_strip<3>(shares.data, d_scores.data, strip, tile.keys, weight, product);
        else if (packs == 2)
            gradient_strip<2>(shares.data, d_scores.data, strip, tile.keys, weight, product);
        else
            gradient_strip<1>(shares.data, d_scores.data, strip, tile.keys, weight, product);
        if (!complete)
            each_pair(tile, [&](index j, index r, bool seen) {
                if (!seen) shares.data[j * strip + r] = d_scores.data[j * strip + r] = T(0);
            });

        const matrix_at<const T> share{shares.data, strip}, d_score{d_scores.data, strip};
        T* const dq = at_.dq + strip_offset<T>(row, channels_);
        T* const dk = at_.dk + tile.first_key * width_;
        T* const dv = at_.dv + tile.first_key * value_width_;
        const matrix_at<const T> queries{at_.query_rows + row * width_, width_};
        const matrix_at<const T> d_out{at_.d_out_rows + row * value_width_, value_width_};
        add_product(
            tile, complete, keys, tile.keys, channels_,
            [&](matrix_at<const T> from) {
                tile_product<left::columns, onto::sum, T>(channels_, packs, tile.keys, from, d_score,
                                                          {dq, strip});
            },
            [&](index j, index c, T value, index r) {
                dq[c * strip + r] += d_score.data[j * strip + r] * value;
            },
            true);
        add_product(
            tile, complete, d_out, tile.queries, value_channels_,
            [&](matrix_at<const T> from) {
                tile_product<left::rows, onto::sum, T>(tile.keys, value_width_ / lanes, tile.queries, share,
                                                       from, {dv, value_width_});
            },
            [&](index r, index c, T value, index j) {
                dv[j * value_width_ + c] += share.data[j * strip + r] * value;
            },
            false);
        add_product(
            tile, complete, queries, tile.queries, channels_,
            [&](matrix_at<const T> from) {
                tile_product<left::rows, onto::sum, T>(tile.keys, width_ / lanes, tile.queries, d_score, from,
                                                       {dk, width_});
            },
            [&](index r, index c, T value, index j) {
                dk[j * width_ + c] += d_score.data[j * strip + r] * value;
            },
            false);
    }

    /// A product with `from` [rows, channels]. Its numbers that are not finite are added pair by pair where
    /// the pair is seen, because a weight of 0 does not hide them. Rows are keys or queries.
    template <class Product, class Add>
    void add_product(const attention::score_tile& tile, bool complete, matrix_at<const T> from, index rows,
                     index channels, const Product& product, const Add& add_one,
                     bool rows_are_keys) noexcept {
        if (complete || all_finite<T>(from, rows, channels)) {
            product(from);
            return;
        }
        product(finite_rows<T>(from, rows, channels, at_.finite));
        for (index i = 0; i < rows; ++i)
            for (index c = 0; c < channels; ++c) {
                const T value = from.data[i * from.stride + c];
                if (std::abs(value) < std::numeric_limits<T>::infinity()) continue;
                for (index o = 0; o < (rows_are_keys ? tile.queries : tile.keys); ++o) {
                    const index n = rows_are_keys ? o : i, j = rows_are_keys ? i : o;
                    if (rules_.seen(batch_, head_, tile.first_query + n, tile.first_key + j))
                        add_one(i, c, value, o);
                }
            }
    }
    template <class F>
    void each_pair(const attention::score_tile& tile, const F& f) noexcept {
        for (index j = 0; j < tile.keys; ++j)
            for (index r = 0; r < tile.queries; ++r)
                f(j, r, bool(rules_.seen(batch_, head_, tile.first_query + r, tile.first_key + j)));
    }

    const Rules& rules_;
    const Tensors& x_;
    gradient_scratch<T> at_;
    attention::tiled_options<T> options_;
    T scale_;
    index channels_, value_channels_, width_, value_width_;
    index batch_ = 0, kv_ = 0, head_ = 0, first_query_ = 0, queries_ = 0;  // the current tile
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// Bytes of workspace that one call of attend_gradient needs: the gradients of one kv head's keys and values,
/// and the memory of a tile.
/// Throws: invalid_config on tile sizes that are not positive or a size that does not fit.
template <class Q, class V>
index attend_gradient_workspace(heads_view<Q> q, heads_view<V> v,
                                const tiled_options<compute_t<Q>>& options = {}) {
    return detail::gradient_scratch<compute_t<Q>>("attend_gradient_workspace", {}, q.shape, v.shape, options)
        .bytes;
}

/// The backward pass of attend: gradients with respect to q, k and v, from the saved log-sum-exp instead of a
/// matrix of probabilities. Overwrites dq, dk and dv.
/// Shapes:   as gradient_tensors. options: scale, tile sizes and part as in attend; log_weight and
/// probabilities
///           are not read. Parts share batches * kv heads; each writes the gradients of its own.
/// Requires: written tensors share no memory with tensors that are read.
/// Throws:   invalid_config on sizes that disagree, before anything is written. Allocates nothing.
/// Cost:     2.5 times attend's: five products of each tile that is at least partly visible.
/// Accuracy: f64 1e-12, f32 1e-5 of the exact gradient, for inputs of order 1. A hidden pair contributes
///           nothing, even if it is NaN.
/// Source:   Dao et al. 2022, appendix B; Rabe and Staats 2021.
///
///     attend(mask, q, k, v, out, workspace, {.log_weight = log_weight});
///     attend_gradient(mask, gradient_tensors{q, k, v, out, d_out, log_weight, dq, dk, dv}, workspace);
template <attention_mask Mask, class Q, class K, class V, class O, class D, class DQ, class DK, class DV>
void attend_gradient(const Mask& mask, const gradient_tensors<Q, K, V, O, D, DQ, DK, DV>& t,
                     std::span<std::byte> workspace, const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend_gradient";
    detail::check_attention(who, t.q.shape, t.k.shape, t.v.shape, t.out.shape);
    detail::check_gradients(who, t);
    const double scale = detail::checked_scale(who, options.scale, t.q.channels());
    const index needed = attend_gradient_workspace(t.q, t.v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_gradient_workspace bytes", workspace.size());
    detail::require_part(who, options.part);
    const index rows = detail::checked_product(who, "batches * queries * heads must fit",
                                               {t.q.batches(), t.q.tokens(), t.q.heads()});
    detail::require_equal(who, "log_weight must hold batches * queries * heads numbers", rows,
                          t.log_weight.size());
    const auto rules = mask.over(score_extent{t.q.batches(), t.q.heads(), t.q.tokens(), t.k.tokens()});
    const detail::gradient_scratch<T> scratch(who, detail::workspace_cutter(workspace), t.q.shape, t.v.shape,
                                              options);
    detail::tiled_gradient(rules, t, scale, scratch, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
