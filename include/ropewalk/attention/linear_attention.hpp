// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Linear attention with rotary positions: a recurrent state, and a call over a whole sequence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include <ropewalk/attention/linear_chunk.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// Which keys a query sees.
enum class causality : std::uint8_t { causal, bidirectional };

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::attention {

/// The sizes of a linear_state.
struct linear_sizes {
    index batches = 1;
    index kv_heads = 1;
    index channels = 0;                 ///< of queries and keys, even
    index value_channels = 0;           ///< of values
    pair_layout layout = half_split{};  ///< of the queries and keys passed in
};

/// The recurrent state of linear attention with rotary positions,
///     out_m = sum_n <R f(q_m), R f(k_n)> v_n / sum_n <f(q_m), f(k_n)>,  f = elu + 1:
/// a matrix [channels, value channels] and a row per head, whatever the length. Only the numerator is
/// rotated, after the feature map. The denominator stays positive, however negative the activations are (down
/// to half of the range of C). The weights of the numerator may be negative, so they are not probabilities.
/// Shapes:   k [batches, tokens, kv heads, channels], v and out likewise with value channels, q with any
///           multiple of the kv heads; rows as for rotate, one per token; C is the type of the arithmetic:
///           double for f64, else float, also for f16 and bf16.
/// Requires: out overlaps no other tensor. One call at a time per object: each thread has a state for its own
///           heads.
/// Throws:   invalid_config on sizes that disagree, before anything changes. The constructor is the only
///           call that allocates.
/// Cost:     O(channels * value channels) per token and head, in chunks of 64 tokens by matrix products.
///           Token by token where there are few tokens (decode), where negative activations rise by more than
///           30 (f64: 300) inside a chunk, or where a chunk has numbers that are not finite.
/// Accuracy: arithmetic in C. Features too small for C keep their share of the quotient. Any split of the
///           tokens over calls gives the same result up to rounding.
/// Source:   RoFormer, Su et al. 2021, eq. 19; chunkwise form, Hua et al. 2022.
///
///     linear_state<float> state({.kv_heads = 8, .channels = 128, .value_channels = 128});
///     state.attend(q, k, v, out, table.rows(positions));  // causal: prefill in pieces, then token by token
///     state.append(k, v, rows), state.read(q, out, rows);  // every query sees all that was appended
template <class C = float>
class linear_state {
    using map = detail::scaled_feature_map<C>;

  public:
    explicit linear_state(const linear_sizes& sizes)
        : sizes_(checked(sizes)),
          states_(static_cast<std::size_t>(sizes.batches * sizes.kv_heads),
                  detail::linear_attention_state<C>(sizes.channels, sizes.value_channels)),
          keys_(chunk::size, sizes.channels),
          queries_(chunk::size, sizes.channels),
          chunk_(sizes.channels, sizes.value_channels),
          row_(static_cast<std::size_t>(sizes.value_channels)) {}

    /// Its sizes.
    const linear_sizes& sizes() const noexcept { return sizes_; }
    /// Tokens appended to every sequence.
    index tokens() const noexcept { return tokens_; }
    /// Removes all keys and values.
    void clear() noexcept {
        for (auto& state : states_) state.clear();
        tokens_ = 0;
    }

    /// Adds keys and values; k is not rotated yet.
    template <class K, class V, class R>
    void append(heads_view<K> k, heads_view<V> v, const R& given) {
        const auto& rows = detail::rows_of(given);
        check_keys("linear_state::append", k, v, rows);
        for_chunks(k.tokens(), [&](index b, index kv, index first, index count) {
            auto& state = state_of(b, kv);
            const auto values = part(v, b, kv, first, count);
            fill(keys_, part(k, b, kv, first, count), rows_of_part(rows, b, kv, first, count, k));
            if (few(count) || !chunk_.take(state, keys_, values, false))
                for (index n = 0; n < count; ++n) take_token(state, values, n);
        });
        tokens_ += k.tokens();
    }
    /// Every query attends to all keys appended so far; q is not rotated yet.
    template <class Q, class O, class R>
    void read(heads_view<Q> q, heads_view<O> out, const R& given) {
        const auto& rows = detail::rows_of(given);
        check_queries("linear_state::read", q, out, rows);
        for_chunks(q.tokens(), [&](index b, index kv, index first, index count) {
            const auto& state = state_of(b, kv);
            for_queries(q, out, rows, b, kv, first, count, [&](heads_view<O> to) {
                if (!few(count) && !state.empty() && queries_.finite())
                    return chunk_.read(state, queries_, to, false);
                for (index n = 0; n < count; ++n) read_token(state, to, n);
            });
        });
    }
    /// Adds keys and values; every query attends to the earlier keys and to the new ones up to its own.
    template <class Q, class K, class V, class O, class R>
    void attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out, const R& given) {
        constexpr const char* who = "linear_state::attend";
        const auto& rows = detail::rows_of(given);
        check_keys(who, k, v, rows);
        check_queries(who, q, out, rows);
        detail::require_equal(who, "tokens of q must be those of k", k.tokens(), q.tokens());
        for_chunks(k.tokens(), [&](index b, index kv, index first, index count) {
            auto& state = state_of(b, kv);
            const auto values = part(v, b, kv, first, count);
            fill(keys_, part(k, b, kv, first, count), rows_of_part(rows, b, kv, first, count, k));
            if (!few(count) && finite_queries(q, b, kv, first, count) &&
                chunk_.take(state, keys_, values, true)) {
                for_queries(q, out, rows, b, kv, first, count,
                            [&](heads_view<O> to) { chunk_.read(state, queries_, to, true); });
                chunk_.add(state);
                return;
            }
            for (index n = 0; n < count; ++n) {
                take_token(state, values, n);
                for_queries(q, out, rows, b, kv, first + n, 1,
                            [&](heads_view<O> to) { read_token(state, to, 0); });
            }
        });
        tokens_ += k.tokens();
    }

  private:
    using chunk = detail::linear_chunk<C>;

    static const linear_sizes& checked(const linear_sizes& s) {
        constexpr const char* who = "linear_state";
        detail::require(s.batches >= 0, who, "batches must be >= 0", s.batches);
        detail::require(s.kv_heads >= 1, who, "kv_heads must be >= 1", s.kv_heads);
        detail::require(s.channels >= 0 && s.channels % 2 == 0, who, "channels must be even and >= 0",
                        s.channels);
        detail::require(s.layout.fits(s.channels / 2), who, "layout must divide the channels",
                        s.layout.group);
        detail::require(s.value_channels >= 0, who, "value_channels must be >= 0", s.value_channels);
        const auto fits = [&](std::initializer_list<index> sizes) {
            detail::checked_product(who, "sizes must fit", sizes);
        };
        fits({s.batches, s.kv_heads, s.channels,
              detail::whole_packs<C>(std::min(s.value_channels, detail::limit_of_bits(40)))});
        fits({s.channels, chunk::size});
        fits({s.value_channels, chunk::size});
        return s;
    }
    template <class R>
    void check_rows(const char* who, const R& rows, index tokens, index heads) const {
        detail::require_equal(who, "channels must be twice the pairs of the rows", 2 * rows.pairs,
                              sizes_.channels);
        detail::require_equal(who, "rows must name one row a token", sizes_.batches * tokens, rows.count());
        detail::require(rows.batches == 1 || rows.batches == sizes_.batches, who,
                        "rows must have the batches of the state", rows.batches);
        detail::require(rows.heads == 1 || rows.heads == heads, who, "rows must have the heads of the views",
                        rows.heads);
    }
    template <class K, class V, class R>
    void check_keys(const char* who, heads_view<K> k, heads_view<V> v, const R& rows) const {
        static_assert(std::is_same_v<compute_t<K>, C> && std::is_same_v<compute_t<V>, C>,
                      "keys and values of the state's compute type");
        detail::require_equal(who, "batches of k must be those of the state", sizes_.batches, k.batches());
        detail::require_equal(who, "batches of v must be those of the state", sizes_.batches, v.batches());
        detail::require_equal(who, "heads of k must be those of the state", sizes_.kv_heads, k.heads());
        detail::require_equal(who, "heads of v must be those of k", sizes_.kv_heads, v.heads());
        detail::require_equal(who, "tokens of v must be those of k", k.tokens(), v.tokens());
        detail::require_equal(who, "channels of k must be those of the state", sizes_.channels, k.channels());
        detail::require_equal(who, "channels of v must be those of the state", sizes_.value_channels,
                              v.channels());
        detail::require_readable(who, "k", k);
        detail::require_readable(who, "v", v);
        check_rows(who, rows, k.tokens(), k.heads());
    }
    template <class Q, class O, class R>
    void check_queries(const char* who, heads_view<Q> q, heads_view<O> out, const R& rows) const {
        static_assert(std::is_same_v<compute_t<Q>, C>, "queries of the state's compute type");
        detail::require_equal(who, "batches of q must be those of the state", sizes_.batches, q.batches());
        detail::require_equal(who, "batches of out must be those of q", sizes_.batches, out.batches());
        detail::require(q.heads() % sizes_.kv_heads == 0, who, "heads of q must be a multiple of those of k",
                        q.heads());
        detail::require_equal(who, "heads of out must be those of q", q.heads(), out.heads());
        detail::require_equal(who, "tokens of out must be those of q", q.tokens(), out.tokens());
        detail::require_equal(who, "channels of q must be those of the state", sizes_.channels, q.channels());
        detail::require_equal(who, "channels of out must be those of v", sizes_.value_channels,
                              out.channels());
        detail::require_readable(who, "q", q);
        detail::require_writable(who, "out", out);
        check_rows(who, rows, q.tokens(), q.heads());
    }

    detail::linear_attention_state<C>& state_of(index b, index kv) noexcept {
        return states_[static_cast<std::size_t>(b * sizes_.kv_heads + kv)];
    }
    /// Whether a product of so few tokens is slower than going token by token.
    static bool few(index count) noexcept { return count < 4; }
    template <class F>
    void for_chunks(index tokens, const F& f) {
        for (index b = 0; b < sizes_.batches; ++b)
            for (index kv = 0; kv < sizes_.kv_heads; ++kv)
                for (index first = 0; first < tokens; first += chunk::size)
                    f(b, kv, first, std::min(chunk::size, tokens - first));
    }
    template <class E>
    static heads_view<E> part(heads_view<E> x, index b, index head, index first, index count) noexcept {
        return x.batch_slice(b, 1).token_slice(first, count).head_slice(head, 1);
    }
    /// The table rows of some tokens of x.
    template <class R, class E>
    static R rows_of_part(const R& rows, index b, index head, index first, index count,
                          heads_view<E> x) noexcept {
        const R own = rows.batches == 1 ? rows.token_slice(b * x.tokens() + first, count)
                                        : rows.batch_slice(b, 1).token_slice(first, count);
        return rows.heads == 1 ? own : own.head_slice(head, 1);
    }
    template <class E, class R>
    void fill(map& features, heads_view<E> x, const R& rows) noexcept {
        features.fill(sizes_.layout, x);
        rotate(half_split{}, features.view(), rows);
    }
    /// Calls f for each query head of a kv head, with its features in queries_.
    template <class Q, class O, class R, class F>
    void for_queries(heads_view<Q> q, heads_view<O> out, const R& rows, index b, index kv, index first,
                     index count, const F& f) {
        const index group = q.heads() / sizes_.kv_heads;
        for (index h = kv * group; h < (kv + 1) * group; ++h) {
            fill(queries_, part(q, b, h, first, count), rows_of_part(rows, b, h, first, count, q));
            f(part(out, b, h, first, count));
        }
    }
    template <class Q>
    bool finite_queries(heads_view<Q> q, index b, index kv, index first, index count) noexcept {
        const index group = q.heads() / sizes_.kv_heads;
        bool finite = true;
        for (index h = kv * group; finite && h < (kv + 1) * group; ++h) {
            queries_.read(part(q, b, h, first, count));
            finite = queries_.finite();
        }
        return finite;
    }
    template <class V>
    void take_token(detail::linear_attention_state<C>& state, heads_view<V> v, index n) noexcept {
        detail::read_row(v.at(0, n, 0), row_.data(), sizes_.value_channels);
        state.take(keys_.at(n), row_.data());
    }
    template <class O>
    void read_token(const detail::linear_attention_state<C>& state, heads_view<O> out, index n) noexcept {
        state.read(queries_.at(n), row_.data());
        detail::write_row(row_.data(), out.at(0, n, 0), sizes_.value_channels);
    }

    linear_sizes sizes_;
    index tokens_ = 0;
    std::vector<detail::linear_attention_state<C>> states_;  // [batches, kv heads]
    map keys_, queries_;
    chunk chunk_;
    std::vector<C> row_;
};

/// The tensors of one linear_attention call.
template <class T>
struct linear_attention_tensors {
    heads_view<const T> q;  ///< [batches, tokens, q heads, channels]
    heads_view<const T> k;  ///< [batches, tokens, kv heads, channels]
    heads_view<const T> v;  ///< [batches, tokens, kv heads, value channels]
    heads_view<T> out;      ///< [batches, tokens, q heads, value channels]
};

/// Linear attention with rotary positions over whole sequences, with a new linear_state.
/// Shapes:   q, k, v, out as above; q heads a multiple of kv heads; rows as for rotate.
/// Requires: T any element type, arithmetic in f64 for f64, else f32; rows of that type; out overlaps no
///           other tensor.
/// Throws:   invalid_config on shapes that disagree.
/// Cost:     linear_state's; allocates one.
/// Accuracy: linear_state's.
/// Source:   RoFormer, Su et al. 2021, eq. 19.
template <class T, class R>
void fill_linear_attention(pair_layout layout, causality order, const linear_attention_tensors<T>& t,
                           const R& rows) {
    constexpr const char* who = "fill_linear_attention";
    detail::require_equal(who, "tokens of k must be those of q", t.q.tokens(), t.k.tokens());
    linear_state<compute_t<T>> state({.batches = t.q.batches(),
                                      .kv_heads = t.k.heads(),
                                      .channels = t.q.channels(),
                                      .value_channels = t.v.channels(),
                                      .layout = layout});
    if (order == causality::causal) {
        state.attend(t.q, t.k, t.v, t.out, rows);
    } else {
        state.append(t.k, t.v, rows);
        state.read(t.q, t.out, rows);
    }
}

}  // namespace ROPEWALK_NAMESPACE::attention
