// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/compression/retrieval_options.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/compression/score_selection.hpp>
#include <ropewalk/compression/vector_quantizer.hpp>
#include <ropewalk/compression/windowed_query.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// What a decode step looked at, for those who want to know. Empty spans are not written.
/// Shapes:   L cached tokens; approximate_scores and top [heads, L], attended [kv heads, L].
template <class T>
struct retrieval_trace {
    std::span<T> approximate_scores = {};   ///< of every token, protected ones included
    std::span<std::uint8_t> top = {};       ///< 1 where a query head picked the token
    std::span<std::uint8_t> attended = {};  ///< 1 where the token was read for a kv head
};

namespace detail {

/// Keys that are rotated at their position (token n stands at n) on their way from memory.
template <class T, class K>
struct rotated_keys {
    heads_view<K> view;
    const rotary_scheme& rope;
    const spectrum& omega;
    T* rows;  ///< [row_attention::tile, channels]
    T* cos_sin;

    const T* operator()(index token, index head, index slot) const noexcept {
        const index channels = view.channels(), pairs = omega.pairs();
        T* const row = rows + slot * channels;
        const auto* from = reinterpret_cast<const stored_t<K>*>(view.at(0, token, head));
        for (index c = 0; c < channels; ++c) row[c] = static_cast<T>(from[c]);
        fill_cos_sin(static_cast<double>(token), omega.turns_data().data(), omega.magnitude(), pairs, cos_sin,
                     cos_sin + pairs);
        rotate(rope, heads_view<T>(row, 1, 1, channels), row_of(cos_sin, pairs));
        return row;
    }
    void prefetch(index token, index head) const noexcept {
        prefetch_row(view.at(0, token, head), view.channels());
    }
    /// One row, for one token and all heads.
    static rows_view<T> row_of(const T* cos_sin, index pairs) noexcept {
        rows_view<T> rows;
        rows.cos = cos_sin;
        rows.sin = cos_sin + pairs;
        rows.table_rows = rows.tokens = 1;
        rows.pairs = pairs;
        return rows;
    }
};

}  // namespace detail

/// The index over one layer's key and value cache that says which tokens a decode step reads: the first
/// ones, a window, and for every query head the K tokens with the best approximate scores. Keys and values
/// stay with the caller; the index keeps one codeword number a token and kv head.
/// A query scores far tokens as if they all stood at one distance (windowed RoPE), so unrotated keys serve
/// every position and one score of a codeword serves all its tokens: K is found among codewords, and the
/// tokens are passed over once, two bytes each.
/// Shapes:   one quantizer a kv head; q [1, 1, heads, head_dim] unrotated, k and v [1, tokens, kv heads, .],
///           out [1, 1, heads, value channels]. Token n stands at position n, the query at the last one.
/// Throws:   invalid_config from the constructor and append: no quantizer, heads that kv heads do not
///           divide, channels or codeword counts that differ, negative options, top_fraction outside [0, 1],
///           spectra of several axes or heads. attend never throws or allocates.
/// Cost:     a step reads the codebooks, two bytes a token and kv head, and the attended rows of k and v.
/// Accuracy: given the same choice of tokens, as row_attention. Equal scores: the lowest token first. K past
///           the unprotected tokens: everything is attended. Nothing is attended without window, sinks and
///           K: zeros.
/// Threads:  one call at a time an object.
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS vqkey/models/llama_masked.py, the reference of its
///           README; its fast path hands rotated keys to the far query and is not followed.
///
///     retrieval_cache cache(std::move(quantizers), rope, {.heads = 32});
///     cache.append(new_keys);                        // before they are rotated
///     cache.attend(q, rotated_keys, values, out);
template <class T = float>
class retrieval_cache {
  public:
    retrieval_cache(std::vector<vector_quantizer<T>> quantizers, rotary_scheme rope,
                    const retrieval_options& options = {});

    /// Encodes the unrotated keys of new tokens, [1, tokens, kv heads, head_dim].
    template <class E>
    void append(heads_view<E> keys);

    /// One decode step over all tokens appended so far; the last of them is the query's own.
    /// Requires: k and v hold at least tokens() tokens; spans of the trace are empty or hold what they must.
    /// Returns:  true; false, with `out` untouched, where the call does not fit and ROPEWALK_ON_MISFIT lets
    ///           the program go on.
    template <class Q, class K, class V, class O>
    bool attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                const retrieval_trace<T>& trace = {}) noexcept;

    index tokens() const noexcept { return tokens_; }
    index kv_heads() const noexcept { return static_cast<index>(quantizers_.size()); }
    /// The codeword numbers of a kv head's tokens.
    std::span<const std::uint16_t> codewords_of(index kv_head) const noexcept {
        return state_[static_cast<std::size_t>(kv_head)].labels;
    }
    /// How many rows of keys, and of values, the last step read, over all kv heads.
    index rows_read() const noexcept { return rows_read_; }
    /// What the last step read: those rows, the codebooks and the codeword numbers. Scratch is not counted.
    index bytes_read() const noexcept { return bytes_read_; }
    /// K of the next step.
    index top_count() const noexcept { return options_.top_of(tokens_); }

  private:
    using order = decltype(detail::order_key(T{}));
    struct kv_state {
        std::vector<std::uint16_t> labels;
        std::vector<std::int32_t> counts;  ///< tokens a codeword
    };
    static constexpr std::uint8_t taken = 1, tied = 2;

    index group() const noexcept { return options_.heads / kv_heads(); }
    index sinks_end() const noexcept { return options_.sinks_end(tokens_); }
    index window_begin() const noexcept { return options_.window_begin(tokens_); }
    void count_protected(kv_state& state, std::int32_t by) noexcept {
        for (index n = 0; n < sinks_end(); ++n) state.counts[state.labels[static_cast<std::size_t>(n)]] += by;
        for (index n = window_begin(); n < tokens_; ++n)
            state.counts[state.labels[static_cast<std::size_t>(n)]] += by;
    }
    index select(index kv) noexcept;
    void fill_trace(index kv, index rows, const retrieval_trace<T>& trace) const noexcept;

    std::vector<vector_quantizer<T>> quantizers_;
    rotary_scheme rope_;
    retrieval_options options_;
    spectrum omega_;
    row_attention<T> attention_;
    index tokens_ = 0, rows_read_ = 0, bytes_read_ = 0;
    std::vector<kv_state> state_;
    detail::aligned_vector<T> near_, far_, scores_, cos_sin_far_, cos_sin_, rotated_;
    std::vector<order> keys_;
    std::vector<std::uint8_t> actions_;
    std::vector<detail::score_threshold<order>> thresholds_;
    std::vector<index> left_;
    std::vector<std::int32_t> attended_;
};

template <class T>
retrieval_cache<T>::retrieval_cache(std::vector<vector_quantizer<T>> quantizers, rotary_scheme rope,
                                    const retrieval_options& options)
    : quantizers_(std::move(quantizers)),
      rope_(std::move(rope)),
      options_(options),
      omega_(rope_.spectrum_for(options.context_length)),
      attention_({}) {
    constexpr const char* who = "retrieval_cache";
    detail::require(!quantizers_.empty(), who, "quantizers must be one a kv head", 0);
    if (options_.heads == 0) options_.heads = kv_heads();
    const index d = quantizers_[0].channels(), count = quantizers_[0].count();
    if (options_.value_channels == 0) options_.value_channels = d;
    for (const auto& q : quantizers_) {
        detail::require(q.channels() == d, who, "quantizers must have one number of channels", q.channels());
        detail::require(q.count() == count, who, "quantizers must have one number of codewords", q.count());
    }
    detail::require(options_.heads > 0 && options_.heads % kv_heads() == 0, who,
                    "heads must be a multiple of the quantizers", options_.heads);
    detail::require(rope_.head_dim == d, who, "rope.head_dim must be the codewords' channels",
                    rope_.head_dim);
    detail::require(rope_.first_channel >= 0 && rope_.first_channel + rope_.rotary_dim <= d, who,
                    "rope must rotate channels of the head, up to", rope_.first_channel + rope_.rotary_dim);
    detail::require(!rope_.rotates || 2 * omega_.pairs() == rope_.rotary_dim, who,
                    "rope.frequencies must have rotary_dim / 2 pairs", omega_.pairs());
    detail::require(omega_.axes() == 1 && omega_.heads() == 1 && !omega_.is_mixed(), who,
                    "rope must have one axis and the same frequencies for all heads, axes", omega_.axes());
    detail::require(rope_.read_layout == rope_.write_layout && rope_.read_layout.fits(omega_.pairs()), who,
                    "rope must read and write one layout that fits, pairs", omega_.pairs());
    options_.require_valid(who);
    attention_ =
        row_attention<T>({.heads = group(), .key_channels = d, .value_channels = options_.value_channels});
    const auto sized = [](index n) { return static_cast<std::size_t>(n); };
    state_.resize(quantizers_.size());
    for (auto& s : state_) s.counts.resize(sized(count));
    near_.resize(sized(options_.heads * d));
    far_.resize(sized(options_.heads * d));
    scores_.resize(sized(group() * count));
    keys_.resize(sized(group() * count));
    actions_.resize(sized(count));
    thresholds_.resize(sized(group()));
    left_.resize(sized(group()));
    const index pairs = omega_.pairs();
    cos_sin_.resize(sized(2 * pairs));
    cos_sin_far_.resize(sized(2 * pairs));
    if (pairs > 0)
        fill_cos_sin(options.relative_position, omega_.turns_data().data(), omega_.magnitude(), pairs,
                     cos_sin_far_.data(), cos_sin_far_.data() + pairs);
    if (options.keys == cached_keys::unrotated) rotated_.resize(sized(row_attention<T>::tile * d));
}

template <class T>
template <class E>
void retrieval_cache<T>::append(heads_view<E> keys) {
    constexpr const char* who = "retrieval_cache::append";
    detail::require(keys.batches() == 1, who, "keys must be of one sequence, batches", keys.batches());
    detail::require(keys.heads() == kv_heads(), who, "keys must have a head a quantizer", keys.heads());
    detail::require(keys.channels() == quantizers_[0].channels(), who,
                    "keys must have the codewords' channels", keys.channels());
    detail::require(keys.tokens() >= 0 && keys.tokens() <= std::numeric_limits<std::int32_t>::max() - tokens_,
                    who, "keys must number less than 2^31 in all, new ones", keys.tokens());
    const auto old = static_cast<std::size_t>(tokens_);
    // All memory first: what could fail comes before the first change.
    for (kv_state& state : state_) detail::make_room(state.labels, static_cast<std::size_t>(keys.tokens()));
    detail::make_room(attended_, static_cast<std::size_t>(keys.tokens() + 1));
    for (index kv = 0; kv < kv_heads(); ++kv) {
        kv_state& state = state_[static_cast<std::size_t>(kv)];
        state.labels.resize(old + static_cast<std::size_t>(keys.tokens()));
        const std::span<std::uint16_t> added(state.labels.data() + old, state.labels.size() - old);
        quantizers_[static_cast<std::size_t>(kv)].encode(keys.head_slice(kv, 1), added);
        for (const std::uint16_t label : added) ++state.counts[label];
    }
    tokens_ += keys.tokens();
    attended_.resize(static_cast<std::size_t>(tokens_) + 1);
}

/// Fills attended_ with the tokens of one kv head, ascending, from scores_; returns how many.
template <class T>
index retrieval_cache<T>::select(index kv) noexcept {
    kv_state& state = state_[static_cast<std::size_t>(kv)];
    const index codewords = quantizers_[0].count(), heads = group(), wanted = top_count();
    std::int32_t* const list = attended_.data();
    const index first = sinks_end(), last = window_begin();
    if (wanted >= last - first) {
        for (index n = 0; n < tokens_; ++n) list[n] = static_cast<std::int32_t>(n);
        return tokens_;
    }
    index rows = 0;
    for (; rows < first; ++rows) list[rows] = static_cast<std::int32_t>(rows);
    if (wanted > 0) {
        count_protected(state, -1);
        std::fill(actions_.begin(), actions_.end(), std::uint8_t{0});
        for (index g = 0; g < heads; ++g) {
            order* const keys = keys_.data() + g * codewords;
            const T* const scores = scores_.data() + g * codewords;
            for (index c = 0; c < codewords; ++c) keys[c] = detail::order_key(scores[c]);
            const auto threshold = detail::find_threshold(keys, state.counts.data(), codewords, wanted);
            for (index c = 0; c < codewords; ++c)
                actions_.data()[c] =
                    static_cast<std::uint8_t>(actions_.data()[c] | (keys[c] > threshold.key    ? taken
                                                                    : keys[c] == threshold.key ? tied
                                                                                               : 0));
            thresholds_.data()[g] = threshold;
            left_.data()[g] = threshold.equal;
        }
        count_protected(state, 1);
        for (index n = first; n < last; ++n) {
            const std::uint16_t label = state.labels.data()[n];
            std::uint8_t action = actions_.data()[label];
            if (action & tied)
                for (index g = 0; g < heads; ++g)
                    if (keys_.data()[g * codewords + label] == thresholds_.data()[g].key &&
                        left_.data()[g] > 0) {
                        --left_.data()[g];
                        action |= taken;
                    }
            list[rows] = static_cast<std::int32_t>(n);
            rows += action & taken;
        }
    }
    for (index n = last; n < tokens_; ++n) list[rows++] = static_cast<std::int32_t>(n);
    return rows;
}

template <class T>
void retrieval_cache<T>::fill_trace(index kv, index rows, const retrieval_trace<T>& trace) const noexcept {
    const kv_state& state = state_[static_cast<std::size_t>(kv)];
    const index codewords = quantizers_[0].count(), first = sinks_end(), last = window_begin();
    if (!trace.attended.empty()) {
        std::uint8_t* const line = trace.attended.data() + kv * tokens_;
        std::fill_n(line, tokens_, std::uint8_t{0});
        for (index j = 0; j < rows; ++j) line[attended_[static_cast<std::size_t>(j)]] = 1;
    }
    for (index g = 0; g < group(); ++g) {
        const index h = kv * group() + g;
        if (!trace.approximate_scores.empty())
            for (index n = 0; n < tokens_; ++n)
                trace.approximate_scores.data()[h * tokens_ + n] =
                    scores_.data()[g * codewords + state.labels.data()[n]];
        if (trace.top.empty()) continue;
        std::uint8_t* const line = trace.top.data() + h * tokens_;
        std::fill_n(line, tokens_, std::uint8_t{0});
        index left = top_count();
        if (left >= last - first) {  // all that can be picked, then protected ones at -infinity
            std::fill(line + first, line + last, std::uint8_t{1});
            left -= last - first;
            for (index n = 0; n < tokens_ && left > 0; ++n)
                if (line[n] == 0) line[n] = 1, --left;
            continue;
        }
        if (left == 0) continue;
        const auto threshold = thresholds_.data()[g];
        left = threshold.equal;
        for (index n = first; n < last; ++n) {
            const order key = keys_.data()[g * codewords + state.labels.data()[n]];
            if (key > threshold.key) line[n] = 1;
            if (key == threshold.key && left > 0) line[n] = 1, --left;
        }
    }
}

template <class T>
template <class Q, class K, class V, class O>
bool retrieval_cache<T>::attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                                const retrieval_trace<T>& trace) noexcept {
    const index d = quantizers_[0].channels(), heads = options_.heads, pairs = omega_.pairs();
    const auto view = [](const heads_shape& x, const heads_shape& wanted) noexcept -> misfit {
        if (x.batches != 1) return {"batches must be 1", 1, x.batches};
        if (x.tokens < wanted.tokens)
            return {"tokens must be at least those appended, or 1", wanted.tokens, x.tokens};
        if (x.heads != wanted.heads) return {"heads must be those of the cache", wanted.heads, x.heads};
        if (x.channels != wanted.channels)
            return {"channels must be those of the cache", wanted.channels, x.channels};
        return {};
    };
    const auto span = [&](std::size_t size, index lines) noexcept -> misfit {
        if (size == 0 || static_cast<index>(size) == lines * tokens_) return {};
        return {"spans of the trace must be empty or hold a number a head and token", lines * tokens_,
                static_cast<index>(size)};
    };
    if (!detail::fits(
            "retrieval_cache::attend",
            detail::first_of(view(q.shape, {1, 1, heads, d}), view(k.shape, {1, tokens_, kv_heads(), d}),
                             view(v.shape, {1, tokens_, kv_heads(), options_.value_channels}),
                             view(out.shape, {1, 1, heads, options_.value_channels}),
                             span(trace.approximate_scores.size(), heads), span(trace.top.size(), heads),
                             span(trace.attended.size(), kv_heads()))))
        return false;
    T* const near_row = near_.data();
    for (index h = 0; h < heads; ++h)
        for (index c = 0; c < d; ++c)
            near_row[h * d + c] = far_.data()[h * d + c] =
                static_cast<T>(reinterpret_cast<const stored_t<Q>*>(q.at(0, 0, h))[c]);
    if (rope_.rotates && pairs > 0) {
        fill_cos_sin(static_cast<double>(tokens_ - 1), omega_.turns_data().data(), omega_.magnitude(), pairs,
                     cos_sin_.data(), cos_sin_.data() + pairs);
        using keys = detail::rotated_keys<T, K>;
        rotate_twice(rope_.read_layout, rope_.slice(q.token_slice(0, 1)),
                     rope_.slice(heads_view<T>(near_row, 1, heads, d)),
                     rope_.slice(heads_view<T>(far_.data(), 1, heads, d)),
                     keys::row_of(cos_sin_.data(), pairs), keys::row_of(cos_sin_far_.data(), pairs));
    }
    const double scale = rope_.logit_scale / std::sqrt(static_cast<double>(d));
    const bool needs_scores = !trace.approximate_scores.empty() || top_count() < window_begin() - sinks_end();
    rows_read_ = 0;
    bytes_read_ = 0;
    for (index kv = 0; kv < kv_heads(); ++kv) {
        if (needs_scores) {
            T* const far_row = far_.data() + kv * group() * d;
            for (index i = 0; i < group() * d; ++i) far_row[i] *= static_cast<T>(scale);
            const auto& quantizer = quantizers_[static_cast<std::size_t>(kv)];
            quantizer.fill_scores(far_row, group(), scores_.data());
            bytes_read_ += quantizer.count() * d * static_cast<index>(sizeof(T)) +
                           tokens_ * static_cast<index>(sizeof(std::uint16_t));
        }
        const index rows = select(kv);
        rows_read_ += rows;
        bytes_read_ += rows * (d * static_cast<index>(sizeof(K)) +
                               options_.value_channels * static_cast<index>(sizeof(V)));
        fill_trace(kv, rows, trace);
        const row_choice choice{.scale = scale, .listed = attended_.data(), .count = rows};
        const heads_view<T> own(near_row + kv * group() * d, 1, group(), d);
        const auto values = v.head_slice(kv, 1);
        const auto to = out.head_slice(kv * group(), group());
        if (options_.keys == cached_keys::rotated || pairs == 0) {
            attention_.attend(own, k.head_slice(kv, 1), values, to, choice);
        } else {
            const detail::rotated_keys<T, K> rotated{k.head_slice(kv, 1), rope_, omega_, rotated_.data(),
                                                     cos_sin_.data()};
            attention_.attend_through(own, 1, rotated, values, to, choice);
        }
    }
    return true;
}

}  // namespace ROPEWALK_NAMESPACE
