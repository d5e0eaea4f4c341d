// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// row_attention: exact attention of one query token over selected rows of a cache.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <ropewalk/compression/row_products.hpp>
#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/fit.hpp>

namespace ROPEWALK_NAMESPACE {

/// The largest sizes of a call of a row_attention.
struct row_attention_shape {
    index heads = 0;           ///< query heads
    index key_channels = 0;    ///< channels of a key
    index value_channels = 0;  ///< channels of a value
    index own_channels = 0;    ///< channels of a second part of every key, 0 = none
};

/// The rows that a decode step attends to, and the scale.
struct row_choice {
    double scale = 1;                      ///< on q . k
    const std::int32_t* listed = nullptr;  ///< token numbers, ascending; null: 0, 1, 2, ...
    index count = 0;                       ///< how many tokens are attended to
};

namespace detail {

/// Keys that are used as stored in memory.
template <class K>
struct stored_keys {
    heads_view<K> view;

    const stored_t<K>* operator()(index token, index head, index) const noexcept {
        return reinterpret_cast<const stored_t<K>*>(view.at(0, token, head));
    }
    void prefetch(index token, index head) const noexcept {
        prefetch_row(view.at(0, token, head), view.channels());
    }
};

/// Whether every chosen row is one of `tokens` rows.
inline bool rows_within(const row_choice& rows, index tokens) noexcept {
    if (rows.count < 0) return false;
    if (!rows.listed) return rows.count <= tokens;
    bool within = true;
    for (index j = 0; j < rows.count; ++j) within &= rows.listed[j] >= 0 && rows.listed[j] < tokens;
    return within;
}

}  // namespace detail

/// One query token against chosen rows of a cache: softmax(scale q . k) v over those rows and no others.
/// Every attended key and value is read from memory once for all query heads of its group.
/// Shapes:   q [1, 1, heads, key channels], k [1, tokens, kv heads, key channels], v and out likewise with
///           value channels. k and v may be the same memory (MLA's latents). With a second key part: own_q
///           [1, 1, heads, own], own_k [1, tokens, 1 or kv heads or heads, own], added to the scores.
/// Requires: the sizes fit the shape given to the constructor; chosen tokens exist in k, v and own_k; q, k, v
///           and out have one compute type T, in any storage format. Use one object in one thread at a time.
/// Returns:  true; false, with `out` untouched, when the call does not fit and ROPEWALK_ON_MISFIT lets the
///           program continue.
/// Throws:   the constructor only: invalid_config on negative sizes.
/// Cost:     no allocation after construction. Tiles of 32 rows stay in the L1 or L2 cache between the two
///           times they are used; the next tile is prefetched meanwhile.
/// Accuracy: f64 1e-13, f32 3e-6 relative to the largest value, of exact attention over the same rows.
///           Without any row the result is zero.
/// Source:   online softmax, Milakov and Gimelshein 2018; gather attention of A2ATS, arXiv 2502.12665.
template <class T = float>
class row_attention {
  public:
    explicit row_attention(row_attention_shape shape) : shape_(shape) {
        constexpr const char* function = "row_attention";
        const index most = std::max({shape.key_channels, shape.value_channels, shape.own_channels});
        const index least =
            std::min({shape.heads, shape.key_channels, shape.value_channels, shape.own_channels});
        detail::require(least >= 0, function, "sizes must be >= 0", least);
        detail::checked_product(function, "heads * channels must fit", {shape.heads, std::max(most, tile)});
        const auto sized = [&](index channels) { return static_cast<std::size_t>(shape.heads * channels); };
        q_.resize(sized(shape.key_channels));
        own_q_.resize(sized(shape.own_channels));
        sums_.resize(sized(shape.value_channels));
        scores_.resize(sized(tile));
        peaks_.resize(sized(1));
        weights_.resize(sized(1));
    }

    /// One decode step over the chosen rows of a cache; with own_q and own_k, every key has a second part.
    template <class Q, class K, class V, class O>
    bool attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                const row_choice& rows) noexcept {
        return attend(q, k, v, out, rows, heads_view<Q>{}, heads_view<K>{});
    }
    template <class Q, class K, class V, class O>
    bool attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out, const row_choice& rows,
                heads_view<Q> own_q, heads_view<K> own_k) noexcept {
        const misfit view = detail::fit_readable("k", k);
        if (!view.ok()) return detail::tell(who, view);
        if (k.batches() != 1)
            return detail::tell(who, {"the keys must be those of one sequence", 1, k.batches()});
        if (k.channels() != q.channels())
            return detail::tell(who,
                                {"channels of the keys must be the queries'", q.channels(), k.channels()});
        if (!detail::rows_within(rows, k.tokens()))
            return detail::tell(who, {"chosen tokens must exist in the keys", k.tokens(), rows.count});
        return attend_through(q, k.heads(), detail::stored_keys<K>{k}, v, out, rows, own_q, own_k);
    }

    /// The same with keys that are computed when they are read: keys(token, kv head, slot) returns a pointer
    /// that is valid until `slot` (0 .. 31) is used again; keys.prefetch(token, kv head) prefetches one.
    template <class Q, class Keys, class V, class O, class K = Q>
    bool attend_through(heads_view<Q> q, index kv_heads, Keys&& keys, heads_view<V> v, heads_view<O> out,
                        const row_choice& rows, heads_view<Q> own_q = {}, heads_view<K> own_k = {}) noexcept;

    static constexpr index tile = 32;  ///< keys that are scored together

  private:
    static constexpr const char* who = "row_attention::attend";

    template <class E>
    static const stored_t<E>* stored(E* p) noexcept {
        return reinterpret_cast<const stored_t<E>*>(p);
    }
    template <class E>
    static void fill_scaled(heads_view<E> from, T scale, T* to) noexcept {
        static_assert(std::is_same_v<compute_t<E>, T>, "one compute type for queries, cache and result");
        for (index h = 0; h < from.heads(); ++h)
            for (index c = 0; c < from.channels(); ++c)
                *to++ = scale * static_cast<T>(stored(from.at(0, 0, h))[c]);
    }
    /// Turns the scores of one tile into weights, and rescales the sums so far to the same peak.
    void weigh(index head, index width, index channels) noexcept {
        T* const s = scores_.data() + head * tile;
        T& peak = peaks_[static_cast<std::size_t>(head)];
        T& weight = weights_[static_cast<std::size_t>(head)];
        T top = peak;
        for (index j = 0; j < width; ++j)
            if (!(s[j] <= top)) top = s[j];  // a NaN propagates to the output of the head
        if (top != peak) {
            const T shrink = std::exp(peak - top);
            weight *= shrink;
            T* const sum = sums_.data() + head * channels;
            for (index c = 0; c < channels; ++c) sum[c] *= shrink;
            peak = top;
        }
        for (index j = 0; j < width; ++j) {
            s[j] = std::exp(s[j] - top);
            weight += s[j];
        }
    }

    /// Adds the second part of the scores, group by group of the heads that share it.
    template <class K, class TokenOf>
    void add_own_products(heads_view<K> k, index heads, index first, index width, TokenOf token_of) noexcept {
        const index group = heads / k.heads();
        T part[detail::heads_at_once * tile];
        for (index h = 0, together = 0; h < heads; h += together) {
            together = std::min(detail::heads_at_once, group - h % group);
            const stored_t<K>* rows[tile];
            for (index j = 0; j < width; ++j) rows[j] = stored(k.at(0, token_of(first + j), h / group));
            detail::fill_row_products(own_q_.data() + h * k.channels(), k.channels(), together, rows, width,
                                      k.channels(), part, tile);
            for (index g = 0; g < together; ++g)
                for (index j = 0; j < width; ++j) scores_.data()[(h + g) * tile + j] += part[g * tile + j];
        }
    }

    row_attention_shape shape_;
    detail::aligned_vector<T> q_, own_q_, sums_, scores_, peaks_, weights_;
};

template <class T>
template <class Q, class Keys, class V, class O, class K>
bool row_attention<T>::attend_through(heads_view<Q> q, index kv_heads, Keys&& keys, heads_view<V> v,
                                      heads_view<O> out, const row_choice& rows, heads_view<Q> own_q,
                                      heads_view<K> own_k) noexcept {
    const index heads = q.heads(), channels = q.channels(), value_channels = v.channels();
    const index own = own_q.empty() ? 0 : own_q.channels();
    const auto wrong = [&]() noexcept -> misfit {
        const misfit view = detail::first_of(
            detail::fit_readable("q", q), detail::fit_readable("v", v), detail::fit_writable("out", out),
            detail::fit_readable("own_q", own_q), detail::fit_readable("own_k", own_k));
        if (!view.ok()) return view;
        if (q.batches() != 1) return {"the queries must be those of one sequence", 1, q.batches()};
        if (v.batches() != 1) return {"the values must be those of one sequence", 1, v.batches()};
        if (out.batches() != 1) return {"the result must be that of one sequence", 1, out.batches()};
        if (heads > shape_.heads)
            return {"heads must be at most those it was built for", shape_.heads, heads};
        if (channels > shape_.key_channels)
            return {"key channels must be at most those it was built for", shape_.key_channels, channels};
        if (value_channels > shape_.value_channels)
            return {"value channels must be at most those it was built for", shape_.value_channels,
                    value_channels};
        if (own > shape_.own_channels)
            return {"own channels must be at most those it was built for", shape_.own_channels, own};
        if (out.heads() != heads) return {"heads of the result must be the queries'", heads, out.heads()};
        if (out.channels() != value_channels)
            return {"channels of the result must be the values'", value_channels, out.channels()};
        if (kv_heads <= 0 || heads % kv_heads != 0)
            return {"kv heads must divide the heads", heads, kv_heads};
        if (v.heads() != kv_heads)
            return {"heads of the values must be those of the keys", kv_heads, v.heads()};
        if (rows.count < 0) return {"count must be >= 0", 0, rows.count};
        if (q.tokens() != 1) return {"the queries must be those of one token", 1, q.tokens()};
        if (out.tokens() != 1) return {"the result must be that of one token", 1, out.tokens()};
        if (!detail::rows_within(rows, v.tokens()))
            return {"chosen tokens must exist in the values", v.tokens(), rows.count};
        if (own == 0) return {};
        if (own_q.batches() != 1) return {"own_q must be that of one sequence", 1, own_q.batches()};
        if (own_k.batches() != 1) return {"own_k must be that of one sequence", 1, own_k.batches()};
        if (own_q.tokens() != 1) return {"own_q must be that of one token", 1, own_q.tokens()};
        if (!detail::rows_within(rows, own_k.tokens()))
            return {"chosen tokens must exist in own_k", own_k.tokens(), rows.count};
        if (own_q.heads() != heads) return {"heads of own_q must be the queries'", heads, own_q.heads()};
        if (own_k.channels() != own)
            return {"channels of own_k must be those of own_q", own, own_k.channels()};
        if (own_k.heads() <= 0 || heads % own_k.heads() != 0)
            return {"heads of own_k must divide the heads", heads, own_k.heads()};
        return {};
    }();
    if (!detail::fits(who, wrong)) return false;
    const index group = heads / kv_heads;
    fill_scaled(q, static_cast<T>(rows.scale), q_.data());
    if (own > 0) fill_scaled(own_q, static_cast<T>(rows.scale), own_q_.data());
    std::fill_n(sums_.begin(), heads * value_channels, T(0));
    std::fill_n(peaks_.begin(), heads, std::numeric_limits<T>::lowest());
    std::fill_n(weights_.begin(), heads, T(0));
    const auto token_of = [&](index j) noexcept { return rows.listed ? index{rows.listed[j]} : j; };
    for (index first = 0; first < rows.count; first += tile) {
        const index width = std::min(tile, rows.count - first);
        for (index kv = 0; kv < kv_heads; ++kv) {
            decltype(keys(0, 0, 0)) key_rows[tile];
            for (index j = 0; j < width; ++j) key_rows[j] = keys(token_of(first + j), kv, j);
            // The hardware cannot predict listed rows. They are prefetched a few at a time while others are
            // multiplied: the values of this tile and the keys of the next.
            constexpr auto block = static_cast<index>(detail::rows_at_once);
            for (index j = 0; j < width; j += block) {
                const index some = std::min(block, width - j);
                for (index i = first + j; rows.listed && i < first + j + some; ++i) {
                    detail::prefetch_row(v.at(0, token_of(i), kv), value_channels);
                    if (i + tile < rows.count) keys.prefetch(token_of(i + tile), kv);
                }
                detail::fill_row_products(q_.data() + kv * group * channels, channels, group, key_rows + j,
                                          some, channels, scores_.data() + kv * group * tile + j, tile);
            }
        }
        if (own > 0) add_own_products(own_k, heads, first, width, token_of);
        for (index h = 0; h < heads; ++h) weigh(h, width, value_channels);
        for (index kv = 0; kv < kv_heads; ++kv) {
            const stored_t<V>* values[tile];
            for (index j = 0; j < width; ++j) values[j] = stored(v.at(0, token_of(first + j), kv));
            detail::add_weighted_rows(values, width, value_channels, scores_.data() + kv * group * tile, tile,
                                      group, sums_.data() + kv * group * value_channels, value_channels);
        }
    }
    for (index h = 0; h < heads; ++h) {
        const T weight = weights_[static_cast<std::size_t>(h)];
        const T* const sum = sums_.data() + h * value_channels;
        auto* const to = reinterpret_cast<stored_t<O>*>(out.at(0, 0, h));
        for (index c = 0; c < value_channels; ++c)
            to[c] = stored_t<O>(static_cast<compute_t<O>>(weight == 0 ? T(0) : sum[c] / weight));
    }
    return true;
}

}  // namespace ROPEWALK_NAMESPACE
