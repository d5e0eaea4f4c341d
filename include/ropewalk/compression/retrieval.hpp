// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// retrieval_cache (A2ATS): finds the tokens that a decode step attends to, by vector-quantised keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/compression/retrieval_options.hpp>
#include <ropewalk/compression/retrieval_selection.hpp>
#include <ropewalk/compression/rotated_keys.hpp>
#include <ropewalk/compression/vector_quantizer.hpp>
#include <ropewalk/compression/windowed_query.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// An index over one layer's key and value cache that selects the tokens that a decode step reads: the first
/// ones, a window, and for every query head the K tokens with the best approximate scores. Keys and values
/// belong to the caller; the index stores one codeword number per token and kv head. A query scores far
/// tokens as if all were at the same distance (windowed RoPE), so codewords of unrotated keys are valid at
/// every position, and one score per codeword holds for all its tokens: the top K is found among codewords,
/// and one pass reads two bytes per token.
/// Shapes:   one quantizer per kv head; q [batches, 1, heads, head_dim] unrotated, k and v [batches, tokens,
///           kv heads, .], out [batches, 1, heads, value channels]. Token n of a sequence has position n, and
///           the query has the last position.
/// Throws:   invalid_config from the constructor and append: no quantizer, heads that are not a multiple of
///           the kv heads, channels or codeword counts that differ, keys that are not finite, negative
///           options, top_fraction outside [0, 1], spectra of several axes or heads. attend never throws or
///           allocates.
/// Cost:     a step reads the codebooks, two bytes per token and kv head, and the attended rows of k and v.
/// Accuracy: for the same selection of tokens, as row_attention. Of equal scores the lowest token comes
///           first. If K exceeds the number of unprotected tokens, all tokens are attended to. Without
///           window, sinks and K no token is, and the result is zero. Results do not depend on the parts.
/// Threads:  up to options.parts parts of one attend may run at the same time; other calls may not.
/// Source:   A2ATS, arXiv 2502.12665; junhuihe-hjh/A2ATS vqkey/models/llama_masked.py, the reference in its
///           README. Its fast path multiplies the far query with rotated keys and is not followed here.
///
///     retrieval_cache cache(std::move(quantizers), rope, {.heads = 32});
///     cache.append(new_keys);                        // before they are rotated
///     cache.attend(q, rotated_keys, values, out);
template <class T = float>
class retrieval_cache {
  public:
    retrieval_cache(std::vector<vector_quantizer<T>> quantizers, rotary_scheme rope,
                    const retrieval_options& options = {});

    /// Encodes the unrotated keys of new tokens, the same number for every sequence: [batches, tokens, kv
    /// heads, head_dim].
    template <class E>
    void append(heads_view<E> keys) {
        detail::require(keys.batches() == options_.batches, append_name,
                        "keys must be of all sequences, batches", keys.batches());
        append_to(0, keys);
    }
    /// The same for one sequence: [1, tokens, kv heads, head_dim].
    template <class E>
    void append(heads_view<E> keys, index sequence) {
        detail::require(sequence >= 0 && sequence < options_.batches, append_name,
                        "sequence must be one of batches", sequence);
        detail::require(keys.batches() == 1, append_name, "keys must be of one sequence, batches",
                        keys.batches());
        append_to(sequence, keys);
    }

    /// One decode step over all tokens appended so far; the last of a sequence is the query's own token.
    /// Requires: k and v have at least the tokens of the longest sequence; spans of the trace are empty or of
    ///           the required size. Parts share batches * kv heads.
    /// Returns:  true; false, with `out` untouched, when the call does not fit and ROPEWALK_ON_MISFIT lets
    ///           the program continue.
    template <class Q, class K, class V, class O>
    bool attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                const retrieval_trace<T>& trace = {}, part_of part = {}) noexcept;

    /// Tokens of a sequence.
    index tokens(index sequence = 0) const noexcept { return tokens_[static_cast<std::size_t>(sequence)]; }
    /// Tokens of the longest sequence.
    index longest() const noexcept { return *std::max_element(tokens_.begin(), tokens_.end()); }
    index kv_heads() const noexcept { return static_cast<index>(quantizers_.size()); }
    /// The codeword numbers of a kv head's tokens.
    std::span<const std::uint16_t> codewords_of(index kv_head, index sequence = 0) const noexcept {
        return state_[static_cast<std::size_t>(sequence * kv_heads() + kv_head)].labels;
    }
    /// The number of rows of keys (and of values) that the last step read, over all kv heads and sequences.
    index rows_read() const noexcept { return sum_of(&scratch::rows_read); }
    /// The bytes that the last step read: those rows, the codebooks and the codeword numbers. Scratch is not
    /// counted.
    index bytes_read() const noexcept { return sum_of(&scratch::bytes_read); }
    /// K of the next step.
    index top_count(index sequence = 0) const noexcept { return options_.top_of(tokens(sequence)); }

  private:
    static constexpr const char* append_name = "retrieval_cache::append";
    using scratch = detail::retrieval_scratch<T>;

    index group() const noexcept { return options_.heads / kv_heads(); }
    index sum_of(index scratch::*what) const noexcept {
        index sum = 0;
        for (const scratch& s : scratch_) sum += s.*what;
        return sum;
    }
    template <class E>
    void append_to(index first, heads_view<E> keys);

    std::vector<vector_quantizer<T>> quantizers_;
    rotary_scheme rope_;
    retrieval_options options_;
    spectrum omega_;
    std::vector<index> tokens_;
    std::vector<detail::retrieval_state> state_;  ///< [batches, kv heads]
    detail::aligned_vector<T> cos_sin_far_;
    std::vector<scratch> scratch_;
};

template <class T>
retrieval_cache<T>::retrieval_cache(std::vector<vector_quantizer<T>> quantizers, rotary_scheme rope,
                                    const retrieval_options& options)
    : quantizers_(std::move(quantizers)),
      rope_(std::move(rope)),
      options_(options),
      omega_(rope_.spectrum_for(options.context_length)) {
    constexpr const char* who = "retrieval_cache";
    detail::require(!quantizers_.empty(), who, "quantizers must be one a kv head", 0);
    if (options_.heads == 0) options_.heads = kv_heads();
    const index d = quantizers_[0].channels(), count = quantizers_[0].count();
    if (options_.value_channels == 0) options_.value_channels = d;
    for (const auto& q : quantizers_) {
        detail::require_equal(who, "quantizers must have one number of channels", d, q.channels());
        detail::require_equal(who, "quantizers must have one number of codewords", count, q.count());
    }
    detail::require(options_.heads > 0 && options_.heads % kv_heads() == 0, who,
                    "heads must be a multiple of the quantizers", options_.heads);
    detail::require_equal(who, "rope.head_dim must be the codewords' channels", d, rope_.head_dim);
    detail::require(rope_.first_channel >= 0 && rope_.first_channel + rope_.rotary_dim <= d, who,
                    "rope must rotate channels of the head, up to", rope_.first_channel + rope_.rotary_dim);
    detail::require(!rope_.rotates || 2 * omega_.pairs() == rope_.rotary_dim, who,
                    "rope.frequencies must have rotary_dim / 2 pairs", omega_.pairs());
    detail::require(omega_.axes() == 1 && omega_.heads() == 1 && !omega_.is_mixed(), who,
                    "rope must have one axis and the same frequencies for all heads, axes", omega_.axes());
    detail::require(rope_.read_layout == rope_.write_layout && rope_.read_layout.fits(omega_.pairs()), who,
                    "rope must read and write one layout that fits, pairs", omega_.pairs());
    options_.require_valid(who);
    const auto sized = [](index n) { return static_cast<std::size_t>(n); };
    tokens_.resize(sized(options_.batches));
    state_.resize(
        sized(detail::checked_product(who, "batches * kv heads must fit", {options_.batches, kv_heads()})));
    for (auto& s : state_) s.counts.resize(sized(count));
    const index pairs = omega_.pairs();
    scratch_.resize(sized(options_.parts));
    for (scratch& s : scratch_) {
        s = scratch(group(), count, d, options_.value_channels);
        s.cos_sin.resize(sized(2 * pairs));
        if (options.keys == cached_keys::unrotated) s.rotated.resize(sized(row_attention<T>::tile * d));
    }
    cos_sin_far_.resize(sized(2 * pairs));
    if (pairs > 0)
        fill_cos_sin(options.relative_position, omega_.turns_data().data(), omega_.magnitude(), pairs,
                     cos_sin_far_.data(), cos_sin_far_.data() + pairs);
}

/// Appends keys of `keys.batches()` sequences from `first` on.
template <class T>
template <class E>
void retrieval_cache<T>::append_to(index first, heads_view<E> keys) {
    detail::require_readable(append_name, "keys", keys);
    detail::require(keys.heads() == kv_heads(), append_name, "keys must have a head a quantizer",
                    keys.heads());
    detail::require(keys.channels() == quantizers_[0].channels(), append_name,
                    "keys must have the codewords' channels", keys.channels());
    detail::require(
        keys.tokens() >= 0 && keys.tokens() <= std::numeric_limits<std::int32_t>::max() - longest(),
        append_name, "keys must number less than 2^31 in all, new ones", keys.tokens());
    // No codeword is nearest to a NaN: its token would be scored as another one.
    for (index b = 0; b < keys.batches(); ++b)
        for (index n = 0; n < keys.tokens(); ++n)
            for (index h = 0; h < keys.heads(); ++h)
                for (index c = 0; c < keys.channels(); ++c) {
                    const auto key = static_cast<double>(
                        static_cast<compute_t<E>>(reinterpret_cast<const stored_t<E>*>(keys.at(b, n, h))[c]));
                    detail::require(std::isfinite(key), append_name, "keys must be finite", key);
                }
    // Allocates all memory first, so that nothing can fail after the first change.
    const index states = first * kv_heads(), count = keys.batches() * kv_heads();
    const auto added = static_cast<std::size_t>(keys.tokens());
    for (index i = states; i < states + count; ++i)
        detail::make_room(state_[static_cast<std::size_t>(i)].labels, added);
    for (scratch& s : scratch_) detail::make_room(s.attended, added);
    for (index i = 0; i < count; ++i) {
        detail::retrieval_state& state = state_[static_cast<std::size_t>(states + i)];
        const std::size_t old = state.labels.size();
        state.labels.resize(old + added);
        const std::span<std::uint16_t> labels(state.labels.data() + old, added);
        const index kv = i % kv_heads();
        quantizers_[static_cast<std::size_t>(kv)].encode(
            keys.batch_slice(i / kv_heads(), 1).head_slice(kv, 1), labels);
        for (const std::uint16_t label : labels) ++state.counts[label];
    }
    for (index b = first; b < first + keys.batches(); ++b)
        tokens_[static_cast<std::size_t>(b)] += keys.tokens();
    for (scratch& s : scratch_) s.attended.resize(static_cast<std::size_t>(longest()) + 1);
}

template <class T>
template <class Q, class K, class V, class O>
bool retrieval_cache<T>::attend(heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
                                const retrieval_trace<T>& trace, part_of part) noexcept {
    const index d = quantizers_[0].channels(), heads = options_.heads, pairs = omega_.pairs();
    const index batches = options_.batches, most = longest();
    const auto view = [](const heads_shape& x, const heads_shape& wanted) noexcept -> misfit {
        if (x.batches != wanted.batches)
            return {"batches must be the sequences of the cache", wanted.batches, x.batches};
        if (x.tokens < wanted.tokens)
            return {"tokens must be at least those appended", wanted.tokens, x.tokens};
        if (x.heads != wanted.heads) return {"heads must be those of the cache", wanted.heads, x.heads};
        if (x.channels != wanted.channels)
            return {"channels must be those of the cache", wanted.channels, x.channels};
        return {};
    };
    const auto step = [&](const heads_shape& x, index channels) noexcept -> misfit {
        if (x.tokens != 1) return {"tokens of q and out must be 1", 1, x.tokens};
        return view(x, {batches, 1, heads, channels});
    };
    const auto span = [&](std::size_t size, index lines) noexcept -> misfit {
        if (size == 0 || static_cast<index>(size) == batches * lines * most) return {};
        return {"spans of the trace must be empty or hold a number a head and token", batches * lines * most,
                static_cast<index>(size)};
    };
    const auto shared = [&]() noexcept -> misfit {
        if (const misfit wrong = detail::fit_part(part); !wrong.ok()) return wrong;
        if (part.parts > options_.parts)
            return {"parts must be at most those it was built for", options_.parts, part.parts};
        return {};
    };
    if (!detail::fits(
            "retrieval_cache::attend",
            detail::first_of(detail::fit_readable("q", q), detail::fit_readable("k", k),
                             detail::fit_readable("v", v), detail::fit_writable("out", out), step(q.shape, d),
                             view(k.shape, {batches, most, kv_heads(), d}),
                             view(v.shape, {batches, most, kv_heads(), options_.value_channels}),
                             step(out.shape, options_.value_channels),
                             span(trace.approximate_scores.size(), heads), span(trace.top.size(), heads),
                             span(trace.attended.size(), kv_heads()), shared())))
        return false;
    using keys = detail::rotated_keys<T, K>;
    scratch& at = scratch_[static_cast<std::size_t>(part.part)];
    if (part.part == 0)  // resets counts of an earlier step with more parts
        for (std::size_t p = static_cast<std::size_t>(part.parts); p < scratch_.size(); ++p)
            scratch_[p].rows_read = scratch_[p].bytes_read = 0;
    at.rows_read = at.bytes_read = 0;
    T *const near_rows = at.near_rows.data(), *const far_rows = at.far_rows.data();
    const double scale = rope_.logit_scale / std::sqrt(static_cast<double>(d));
    for (index line = part.part; line < batches * kv_heads(); line += part.parts) {
        const index b = line / kv_heads(), kv = line % kv_heads(), length = tokens(b);
        const detail::retrieval_item own{state_[static_cast<std::size_t>(line)],
                                         length,
                                         options_.sinks_end(length),
                                         options_.window_begin(length),
                                         options_.top_of(length),
                                         line};
        const auto queries = q.batch_slice(b, 1).head_slice(kv * group(), group());
        for (index g = 0; g < group(); ++g)
            for (index c = 0; c < d; ++c)
                near_rows[g * d + c] = far_rows[g * d + c] =
                    static_cast<T>(reinterpret_cast<const stored_t<Q>*>(queries.at(0, 0, g))[c]);
        if (rope_.rotates && pairs > 0) {
            fill_cos_sin(static_cast<double>(length - 1), omega_.turns_data().data(), omega_.magnitude(),
                         pairs, at.cos_sin.data(), at.cos_sin.data() + pairs);
            rotate_twice(rope_.read_layout, rope_.slice(queries.token_slice(0, 1)),
                         rope_.slice(heads_view<T>(near_rows, 1, group(), d)),
                         rope_.slice(heads_view<T>(far_rows, 1, group(), d)),
                         keys::row_of(at.cos_sin.data(), pairs), keys::row_of(cos_sin_far_.data(), pairs));
        }
        if (!trace.approximate_scores.empty() || own.top < own.window_begin - own.sinks_end) {
            for (index i = 0; i < group() * d; ++i) far_rows[i] *= static_cast<T>(scale);
            const auto& quantizer = quantizers_[static_cast<std::size_t>(kv)];
            quantizer.fill_scores(far_rows, group(), at.scores.data());
            at.bytes_read += quantizer.count() * d * static_cast<index>(sizeof(T)) +
                             length * static_cast<index>(sizeof(std::uint16_t));
        }
        const index rows = at.select(own);
        at.rows_read += rows;
        at.bytes_read += rows * (d * static_cast<index>(sizeof(K)) +
                                 options_.value_channels * static_cast<index>(sizeof(V)));
        at.fill_trace(own, rows, most, trace);
        const row_choice choice{.scale = scale, .listed = at.attended.data(), .count = rows};
        const heads_view<T> near_q(near_rows, 1, group(), d);
        const auto own_keys = k.batch_slice(b, 1).head_slice(kv, 1);
        const auto values = v.batch_slice(b, 1).head_slice(kv, 1);
        const auto to = out.batch_slice(b, 1).head_slice(kv * group(), group());
        if (options_.keys == cached_keys::rotated || pairs == 0) {
            at.attention.attend(near_q, own_keys, values, to, choice);
        } else {
            const keys rotated{own_keys, rope_, omega_, at.rotated.data(), at.cos_sin.data()};
            at.attention.attend_through(near_q, 1, rotated, values, to, choice);
        }
    }
    return true;
}

}  // namespace ROPEWALK_NAMESPACE
