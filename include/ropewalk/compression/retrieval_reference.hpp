// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// An exact reference for retrieval_cache: recall and output error of a selection of tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/compression/retrieval_options.hpp>
#include <ropewalk/compression/row_attention.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/schemes/rotary_scheme.hpp>

namespace ROPEWALK_NAMESPACE {

/// How close a selection of tokens comes to full attention.
struct retrieval_quality {
    double recall = 1;        ///< share of the exact top K tokens that were selected, mean over query heads
    double output_error = 0;  ///< |output - full output| / |full output|, mean over query heads
    index rows_read = 0;      ///< rows of keys (and of values), over all kv heads
};

/// One decode step that reads the whole cache: the exact top K tokens of every query head, and the error of a
/// selection of tokens against full attention. For tests and experiments; not fast.
/// Shapes:   q [1, 1, heads, head_dim] unrotated, k and v [1, tokens, kv heads, .] with k as options.keys
///           specifies; token n has position n, and the query has the last position. A selection is [heads,
///           tokens], 1 where a query head selected the token (like retrieval_trace::top). Sinks and window
///           are added to it, and heads of one kv head read the union of their selections, as in
///           retrieval_cache.
/// Throws:   invalid_config on sizes that disagree, no token, more than one sequence or query, scores that
///           are not finite, options that retrieval_cache refuses, and a selection of another size.
/// Cost:     a copy of k and v in f64, and full attention once; each call of judge attends once.
/// Accuracy: f64. Of equal scores the lowest token comes first. If K exceeds the number of unprotected
///           tokens, all are selected. Recall is 1 when K is 0; where a full output is zero, its error is
///           absolute.
/// Source:   the masked reference of A2ATS, junhuihe-hjh/A2ATS vqkey/models/llama_masked.py, with exact
///           scores; recall and the recency baseline are the usual ones for sparse attention.
class retrieval_reference {
  public:
    template <class Q, class K, class V>
    retrieval_reference(heads_view<Q> q, heads_view<K> k, heads_view<V> v, const rotary_scheme& rope,
                        const retrieval_options& options);

    /// The K tokens outside sinks and window with the best exact scores.
    const std::vector<std::uint8_t>& best() const noexcept { return best_; }
    /// The K latest tokens before the window.
    std::vector<std::uint8_t> make_recent() const {
        return choice([](index, std::vector<index>& candidates) {
            std::reverse(candidates.begin(), candidates.end());
        });
    }
    /// K random tokens, different for every head and the same for the same seed.
    std::vector<std::uint8_t> make_random(std::uint64_t seed) const {
        std::mt19937_64 engine(seed);
        return choice([&](index, std::vector<index>& candidates) {
            for (std::size_t i = candidates.size(); i > 1; --i)  // std::shuffle differs by platform
                std::swap(candidates[i - 1], candidates[static_cast<std::size_t>(engine() % i)]);
        });
    }
    /// The output of full attention, [heads, value channels].
    std::span<const double> output() const noexcept { return full_; }
    /// The output of attention over a selection, [heads, value channels].
    std::vector<double> make_output(std::span<const std::uint8_t> chosen) const { return attend(chosen).out; }
    /// The quality of a selection.
    retrieval_quality judge(std::span<const std::uint8_t> chosen) const;

  private:
    struct step {
        std::vector<double> out;
        index rows = 0;
    };
    static std::size_t sized(index n) noexcept { return static_cast<std::size_t>(n); }
    template <class E>
    static std::vector<double> copy(heads_view<E> x) {
        std::vector<double> to;
        to.reserve(sized(x.tokens() * x.heads() * x.channels()));
        for (index n = 0; n < x.tokens(); ++n)
            for (index h = 0; h < x.heads(); ++h)
                for (index c = 0; c < x.channels(); ++c)
                    to.push_back(static_cast<double>(static_cast<compute_t<E>>(x.at(0, n, h)[c])));
        return to;
    }
    /// The first K of each head's candidates after `arrange(head, candidates)` has ordered them.
    template <class Arrange>
    std::vector<std::uint8_t> choice(Arrange arrange) const {
        std::vector<std::uint8_t> chosen(sized(heads_ * tokens_));
        const index first = options_.sinks_end(tokens_), last = options_.window_begin(tokens_);
        std::vector<index> candidates(sized(last - first));
        for (index h = 0; h < heads_; ++h) {
            std::iota(candidates.begin(), candidates.end(), first);
            arrange(h, candidates);
            for (index j = 0; j < std::min(options_.top_of(tokens_), last - first); ++j)
                chosen[sized(h * tokens_ + candidates[sized(j)])] = 1;
        }
        return chosen;
    }
    step attend(std::span<const std::uint8_t> chosen) const;

    retrieval_options options_;
    index tokens_, heads_, kv_heads_, channels_, value_channels_;
    double scale_;
    std::vector<double> q_, k_, v_, full_;
    std::vector<std::uint8_t> best_;
};

template <class Q, class K, class V>
retrieval_reference::retrieval_reference(heads_view<Q> q, heads_view<K> k, heads_view<V> v,
                                         const rotary_scheme& rope, const retrieval_options& options)
    : options_(options),
      tokens_(k.tokens()),
      heads_(q.heads()),
      kv_heads_(k.heads()),
      channels_(k.channels()),
      value_channels_(v.channels()),
      scale_(rope.logit_scale / std::sqrt(static_cast<double>(std::max<index>(k.channels(), 1)))) {
    constexpr const char* who = "retrieval_reference";
    detail::require_readable(who, "q", q);
    detail::require_readable(who, "k", k);
    detail::require_readable(who, "v", v);
    options.require_valid(who);
    detail::require(q.batches() == 1 && q.tokens() == 1, who, "q must be one query, tokens", q.tokens());
    detail::require(k.batches() == 1 && v.batches() == 1, who, "k and v must be of one sequence, batches",
                    k.batches());
    detail::require(tokens_ >= 1, who, "k must have a token, tokens", tokens_);
    detail::require_equal(who, "v.tokens must equal k.tokens", tokens_, v.tokens());
    detail::require(kv_heads_ > 0 && heads_ > 0 && heads_ % kv_heads_ == 0, who,
                    "q.heads must be a multiple of k.heads", heads_);
    detail::require(options.heads == 0 || options.heads == heads_, who, "heads must be 0 or q.heads",
                    options.heads);
    detail::require_equal(who, "v.heads must equal k.heads", kv_heads_, v.heads());
    detail::require_equal(who, "k.channels must be rope.head_dim", rope.head_dim, channels_);
    detail::require_equal(who, "q.channels must be rope.head_dim", rope.head_dim, q.channels());
    q_ = copy(q);
    k_ = copy(k);
    v_ = copy(v);
    const auto omega = rope.spectrum_for(options.context_length);
    const auto rotate_tokens = [&](std::vector<double>& x, index tokens, index heads, index first) {
        rotate(rope, heads_view<double>(x.data(), tokens, heads, channels_),
               make_rotation_table<double>(omega, position_ids::text(tokens, static_cast<double>(first))));
    };
    rotate_tokens(q_, 1, heads_, tokens_ - 1);
    if (options.keys == cached_keys::unrotated) rotate_tokens(k_, tokens_, kv_heads_, 0);

    const index group = heads_ / kv_heads_;
    std::vector<double> scores(sized(tokens_));
    best_ = choice([&](index h, std::vector<index>& candidates) {
        for (index n = 0; n < tokens_; ++n)
            scores[sized(n)] = std::inner_product(q_.data() + h * channels_, q_.data() + (h + 1) * channels_,
                                                  k_.data() + (n * kv_heads_ + h / group) * channels_, 0.0);
        for (double s : scores) detail::require(std::isfinite(s), who, "scores must be finite, one", s);
        std::stable_sort(candidates.begin(), candidates.end(),
                         [&](index a, index b) { return scores[sized(a)] > scores[sized(b)]; });
    });
    full_ = attend(std::vector<std::uint8_t>(sized(heads_ * tokens_), 1)).out;
}

inline retrieval_reference::step retrieval_reference::attend(std::span<const std::uint8_t> chosen) const {
    detail::require_equal("retrieval_reference", "a choice must be [heads, tokens], its size",
                          heads_ * tokens_, chosen.size());
    const index group = heads_ / kv_heads_;
    row_attention<double> attention(
        {.heads = group, .key_channels = channels_, .value_channels = value_channels_});
    step s{std::vector<double>(sized(heads_ * value_channels_)), 0};
    const heads_view<const double> q(q_.data(), 1, heads_, channels_),
        k(k_.data(), tokens_, kv_heads_, channels_), v(v_.data(), tokens_, kv_heads_, value_channels_);
    const heads_view<double> out(s.out.data(), 1, heads_, value_channels_);
    std::vector<std::int32_t> rows;
    for (index kv = 0; kv < kv_heads_; ++kv) {
        rows.clear();
        for (index n = 0; n < tokens_; ++n) {
            bool read = n < options_.sinks_end(tokens_) || n >= options_.window_begin(tokens_);
            for (index h = kv * group; h < (kv + 1) * group; ++h)
                read = read || chosen[sized(h * tokens_ + n)] != 0;
            if (read) rows.push_back(static_cast<std::int32_t>(n));
        }
        attention.attend(q.head_slice(kv * group, group), k.head_slice(kv, 1), v.head_slice(kv, 1),
                         out.head_slice(kv * group, group),
                         {.scale = scale_, .listed = rows.data(), .count = static_cast<index>(rows.size())});
        s.rows += static_cast<index>(rows.size());
    }
    return s;
}

inline retrieval_quality retrieval_reference::judge(std::span<const std::uint8_t> chosen) const {
    const step s = attend(chosen);
    retrieval_quality quality{.recall = 0, .output_error = 0, .rows_read = s.rows};
    for (index h = 0; h < heads_; ++h) {
        double wanted = 0, found = 0, apart = 0, size = 0;
        for (index n = h * tokens_; n < (h + 1) * tokens_; ++n) {
            wanted += best_[sized(n)];
            found += best_[sized(n)] != 0 && chosen[sized(n)] != 0;
        }
        for (index c = h * value_channels_; c < (h + 1) * value_channels_; ++c) {
            apart = std::hypot(apart, s.out[sized(c)] - full_[sized(c)]);
            size = std::hypot(size, full_[sized(c)]);
        }
        quality.recall += (wanted > 0 ? found / wanted : 1) / static_cast<double>(heads_);
        quality.output_error += (size > 0 ? apart / size : apart) / static_cast<double>(heads_);
    }
    return quality;
}

}  // namespace ROPEWALK_NAMESPACE
