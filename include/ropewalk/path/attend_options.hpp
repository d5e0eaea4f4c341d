// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Options of PaTH attention over whole sequences, and the plan that its calls share.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/path/head_numbers.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// Options of attend, fill_key_cache and backpropagate. T is the type of the arithmetic: double for f64
/// queries, else float. An empty span means not given.
template <class T>
struct attend_options {
    index block = 64;                  ///< tokens of one UT transform; any value gives the same result
    std::optional<double> scale = {};  ///< on the whole logit, gate included; 1 / sqrt(channels) if not given
    head_numbers<T> log_gate = {};     ///< [batches, tokens, heads] <= 0: FoX, log of the forget gates
    std::span<const index> sequence_ends = {};  ///< several independent sequences in one batch row
    std::span<T> logits = {};      ///< [batches, heads, tokens, tokens] written; 0 where a query sees nothing
    std::span<T> log_weight = {};  ///< [batches, tokens, heads] written: log of the sum of exp(logit)
    part_of part = {};             ///< the share of batches * kv heads * sequences that this call does
};

}  // namespace ROPEWALK_NAMESPACE::path

namespace ROPEWALK_NAMESPACE::detail {

/// What the calls over whole sequences share: checks, and the ranges of the sequences.
template <class T>
struct path_plan {
    heads_shape q, k, v;
    path::attend_options<T> options;
    T scale;
    heads_view<const T> beta, log_gate;
    std::span<const index> ends;  // empty: one sequence

    /// From the shapes alone, which determine the sizes of memory.
    path_plan(const char* who, heads_shape query, heads_shape key, heads_shape value,
              const path::attend_options<T>& o)
        : q(query), k(key), v(value), options(o), ends(o.sequence_ends) {
        require(q.heads == 0 || (k.heads > 0 && q.heads % k.heads == 0), who,
                "k.heads must be > 0 and divide q.heads", k.heads);
        require(o.block > 0, who, "block must be > 0", o.block);
        require_part(who, o.part);
        // No sequence needs a longer block, and group * block must not overflow.
        options.block = std::clamp<index>(o.block, 1, std::max<index>(q.tokens, 1));
        const double s = o.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<index>(q.channels, 1))));
        require(std::isfinite(s), who, "scale must be finite", s);
        scale = static_cast<T>(s);
        index last = 0;
        for (index end : ends) {
            require(end > last || (end == last && q.tokens == 0), who, "sequence_ends must rise", end);
            last = end;
        }
        require(ends.empty() || last == q.tokens, who, "sequence_ends must end at the last token", last);
    }
    path_plan(const char* who, heads_shape query, heads_shape key, heads_shape value, heads_shape w,
              heads_shape out, const path::head_numbers<T>& betas, const path::attend_options<T>& o)
        : path_plan(who, query, key, value, o) {
        require(k.batches == q.batches && v.batches == q.batches && w.batches == q.batches &&
                    out.batches == q.batches,
                who, "all views must have q's batches", q.batches);
        require(
            k.tokens == q.tokens && v.tokens == q.tokens && w.tokens == q.tokens && out.tokens == q.tokens,
            who, "all views must have q's tokens", q.tokens);
        require_equal(who, "v.heads must equal k.heads", k.heads, v.heads);
        require_equal(who, "w.heads must equal k.heads", k.heads, w.heads);
        require_equal(who, "out.heads must equal q.heads", q.heads, out.heads);
        require_equal(who, "k.channels must equal q.channels", q.channels, k.channels);
        require_equal(who, "w.channels must equal q.channels", q.channels, w.channels);
        require_equal(who, "out.channels must equal v.channels", v.channels, out.channels);
        require(betas.fits(q.batches, q.tokens, k.heads), who,
                "beta must hold batches * tokens * kv heads numbers", betas.size());
        beta = betas.view(q.batches, q.tokens, k.heads);
        each(beta,
             [&](T b) { require(b >= 0 && b <= 2, who, "beta must be in [0, 2]", static_cast<double>(b)); });
        require(o.log_gate.empty() || o.log_gate.fits(q.batches, q.tokens, q.heads), who,
                "log_gate must hold batches * tokens * heads numbers", o.log_gate.size());
        if (gated()) {
            log_gate = o.log_gate.view(q.batches, q.tokens, q.heads);
            each(log_gate, [&](T g) {
                require(g <= 0 && std::isfinite(g), who, "log_gate must be <= 0 and finite",
                        static_cast<double>(g));
            });
        }
        const index rows =
            checked_product(who, "batches * tokens * heads must fit", {q.batches, q.tokens, q.heads});
        require(o.logits.empty() ||
                    static_cast<index>(o.logits.size()) ==
                        checked_product(who, "batches * heads * tokens * tokens must fit", {rows, q.tokens}),
                who, "logits must hold batches * heads * tokens * tokens numbers", o.logits.size());
        require(o.log_weight.empty() || static_cast<index>(o.log_weight.size()) == rows, who,
                "log_weight must hold batches * tokens * heads numbers", o.log_weight.size());
    }
    template <class Q, class K, class V, class O>
    path_plan(const char* who, heads_view<Q> query, heads_view<K> key, heads_view<V> value,
              heads_view<const T> w, heads_view<O> out, const path::head_numbers<T>& betas,
              const path::attend_options<T>& o)
        : path_plan(who, query.shape, key.shape, value.shape, w.shape, out.shape, betas, o) {
        require_readable(who, "q", query);
        require_readable(who, "k", key);
        require_readable(who, "v", value);
        require_readable(who, "w", w);
        require_writable(who, "out", out);
    }

    index group() const noexcept { return k.heads == 0 ? 0 : q.heads / k.heads; }
    bool gated() const noexcept { return !options.log_gate.empty(); }
    index sequences() const noexcept { return std::max<index>(static_cast<index>(ends.size()), 1); }
    index start_of(index s) const noexcept { return s == 0 ? 0 : ends[static_cast<std::size_t>(s - 1)]; }
    index length_of(index s) const noexcept {
        return (ends.empty() ? q.tokens : ends[static_cast<std::size_t>(s)]) - start_of(s);
    }
    T* logit_row(index b, index h, index n) const noexcept {
        return options.logits.data() + ((b * q.heads + h) * q.tokens + n) * q.tokens;
    }
    void clear_logits(index b, index kv, index first, index count) const noexcept {
        for (index h = kv * group(); h < (kv + 1) * group() && !options.logits.empty(); ++h)
            for (index n = first; n < first + count; ++n) std::fill_n(logit_row(b, h, n), q.tokens, T(0));
    }
    T& log_weight_at(index b, index n, index h) const noexcept {
        return options.log_weight[static_cast<std::size_t>((b * q.tokens + n) * q.heads + h)];
    }
    /// sums[n]: cumulative log gates of one head of a sequence, summed in f64.
    void fill_gate_sums(index b, index h, index first, index count, double* sums) const noexcept {
        double sum = 0;
        for (index n = 0; n < count; ++n) sums[n] = sum += static_cast<double>(*log_gate.at(b, first + n, h));
    }
    /// Calls run(batch, kv head, first token, tokens) for the sequences of this part.
    template <class Run>
    void each_sequence(Run run) const {
        const index each_batch = k.heads * sequences();
        for (index item = options.part.part; item < q.batches * each_batch; item += options.part.parts) {
            const index s = item % sequences();
            run(item / each_batch, item / sequences() % k.heads, start_of(s), length_of(s));
        }
    }

  private:
    template <class Check>
    static void each(heads_view<const T> x, Check check) {
        for (index b = 0; b < x.batches(); ++b)
            for (index n = 0; n < x.tokens(); ++n)
                for (index h = 0; h < x.heads(); ++h) check(*x.at(b, n, h));
    }
};

}  // namespace ROPEWALK_NAMESPACE::detail
