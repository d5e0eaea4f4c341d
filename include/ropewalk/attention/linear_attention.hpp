// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <ropewalk/attention/linear_chunk.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// Which keys a query sees.
enum class causality : std::uint8_t { causal, bidirectional };

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::detail {

/// Appends and reads of one kv head's state over all tokens that the feature maps hold, in chunks where it
/// can.
template <class C>
class linear_heads {
    using map = scaled_feature_map<C>;
    static constexpr index size = linear_chunk<C>::size;

  public:
    linear_heads(index channels, index width)
        : chunk_(channels, width), row_(static_cast<std::size_t>(width)), width_(width) {}

    template <class V>
    void append(linear_attention_state<C>& state, const map& keys, heads_view<V> v, index b, index kv) {
        for_chunks(v.tokens(), [&](index first, index count) {
            if (!chunk_.take(state, keys, v, b, kv, first, count, false))
                for (index n = first; n < first + count; ++n) take_token(state, keys, v, b, kv, n);
        });
    }
    template <class O>
    void read(const linear_attention_state<C>& state, const map& queries, heads_view<O> out, index b,
              index kv, index kv_heads) {
        const index group = out.heads() / kv_heads;
        for_chunks(out.tokens(), [&](index first, index count) {
            for (index h = kv * group; h < (kv + 1) * group; ++h)
                if (state.empty() || !chunk_.readable(queries, b, h, first, count))
                    for (index n = first; n < first + count; ++n) read_token(state, queries, out, b, h, n);
                else
                    chunk_.read(state, queries, out, b, h, first, count, false);
        });
    }
    /// Causal: every query reads the keys up to its own.
    template <class V, class O>
    void attend(linear_attention_state<C>& state, const map& queries, const map& keys, heads_view<V> v,
                heads_view<O> out, index b, index kv) {
        const index group = out.heads() / v.heads();
        for_chunks(v.tokens(), [&](index first, index count) {
            bool whole = true;
            for (index h = kv * group; whole && h < (kv + 1) * group; ++h)
                whole = chunk_.readable(queries, b, h, first, count);
            if (whole && chunk_.take(state, keys, v, b, kv, first, count, true)) {
                for (index h = kv * group; h < (kv + 1) * group; ++h)
                    chunk_.read(state, queries, out, b, h, first, count, true);
                chunk_.add(state);
                return;
            }
            for (index n = first; n < first + count; ++n) {
                take_token(state, keys, v, b, kv, n);
                for (index h = kv * group; h < (kv + 1) * group; ++h)
                    read_token(state, queries, out, b, h, n);
            }
        });
    }

  private:
    template <class F>
    static void for_chunks(index tokens, const F& f) {
        for (index first = 0; first < tokens; first += size) f(first, std::min(size, tokens - first));
    }
    template <class V>
    void take_token(linear_attention_state<C>& state, const map& keys, heads_view<V> v, index b, index kv,
                    index n) {
        read_row(v.at(b, n, kv), row_.data(), width_);
        state.take(keys.at(b, n, kv), row_.data());
    }
    template <class O>
    void read_token(const linear_attention_state<C>& state, const map& queries, heads_view<O> out, index b,
                    index h, index n) {
        state.read(queries.at(b, n, h), row_.data());
        write_row(row_.data(), out.at(b, n, h), width_);
    }

    linear_chunk<C> chunk_;
    std::vector<C> row_;
    index width_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// The tensors of one linear_attention call.
template <class T>
struct linear_attention_tensors {
    heads_view<const T> q;  ///< [batches, tokens, q heads, channels]
    heads_view<const T> k;  ///< [batches, tokens, kv heads, channels]
    heads_view<const T> v;  ///< [batches, tokens, kv heads, value channels]
    heads_view<T> out;      ///< [batches, tokens, q heads, value channels]
};

/// Linear attention with rotary positions: out_m = sum_n <R f(q_m), R f(k_n)> v_n / sum_n <f(q_m), f(k_n)>
/// with f = elu + 1. Only the numerator is rotated, after the feature map; the denominator stays positive,
/// however negative the activations are (down to half the range of T).
/// The numerator's weights may be negative, so this is no probability.
/// Shapes:   q, k, v, out as above; q heads a multiple of kv heads; rows as for rotate.
/// Requires: T any element type, arithmetic in f64 for f64, else f32; rows of that type; out overlaps none of
///           the others.
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     O(tokens * channels * value channels) a head, in chunks of 64 tokens by matrix products; a chunk
///           whose activations rise by more than 30 (f64: 300) below 0, or that holds what is not finite, goes
///           token by token. Allocates the features of q and k.
/// Accuracy: arithmetic as above; features too small for it keep their share of the quotient.
/// Source:   RoFormer, Su et al. 2021, eq. 19.
template <class T, class R>
void fill_linear_attention(pair_layout layout, causality order, const linear_attention_tensors<T>& t,
                            const R& given) {
    using C = compute_t<T>;
    const auto& rows = detail::rows_of(given);
    constexpr const char* who = "fill_linear_attention";
    const auto require = [](bool holds, const char* what, index got) {
        detail::require(holds, who, what, got);
    };
    const index tokens = t.q.tokens(), channels = t.q.channels(), width = t.v.channels();
    const index kv_heads = t.k.heads();
    for (const index n : {t.k.tokens(), t.v.tokens(), t.out.tokens()})
        require(n == tokens, "tokens of q, k, v and out must be equal", n);
    for (const index b : {t.k.batches(), t.v.batches(), t.out.batches()})
        require(b == t.q.batches(), "batches of q, k, v and out must be equal", b);
    require(t.k.channels() == channels, "channels of k must be those of q", t.k.channels());
    require(t.out.channels() == width, "channels of out must be those of v", t.out.channels());
    require(t.v.heads() == kv_heads, "heads of v must be those of k", t.v.heads());
    require(t.out.heads() == t.q.heads(), "heads of out must be those of q", t.out.heads());
    require(kv_heads >= 1 && t.q.heads() % kv_heads == 0, "heads of q must be a multiple of those of k",
            t.q.heads());
    require(channels == 2 * rows.pairs, "channels must be twice the pairs of the rows", channels);
    require(rows.count() == t.q.batches() * tokens, "rows must name one row a token", rows.count());

    detail::scaled_feature_map<C> fq(layout, t.q), fk(layout, t.k);
    rotate(half_split{}, fq.view(), fk.view(), rows);
    detail::linear_attention_state<C> state(channels, width);
    detail::linear_heads<C> work(channels, width);
    for (index b = 0; b < t.q.batches(); ++b)
        for (index kv = 0; kv < kv_heads; ++kv) {
            state.clear();
            if (order == causality::causal) {
                work.attend(state, fq, fk, t.v, t.out, b, kv);
            } else {
                work.append(state, fk, t.v, b, kv);
                work.read(state, fq, t.out, b, kv, kv_heads);
            }
        }
}

}  // namespace ROPEWALK_NAMESPACE::attention
