// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// deferred_keys: a PaTH key cache that is read at every token but rewritten only once per block.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <Eigen/Core>

#include <ropewalk/core/simd_sums.hpp>
#include <ropewalk/path/block_transform.hpp>
#include <ropewalk/path/decode.hpp>

namespace ROPEWALK_NAMESPACE::path {

struct deferred_keys_config {
    index kv_heads = 0;
    index channels = 0;
    index block = 512;  ///< tokens between two writes of the cache
    index heads = 0;    ///< query heads; 0: kv_heads
};

/// A key cache that is read at every token and written once per block. A 16-bit cache is then rounded once
/// per block, not once per token, and a step moves half the bytes. Between two writes, the transforms since
/// the last one are stored as one matrix P per head, and the query is transformed instead of the keys: q^T (P
/// k) = (q^T P) k. Keys of the open block are stored in this object, in f32 (f64 for f64 keys), and enter the
/// cache when the block is full. The cache itself belongs to the caller; its first stored() tokens are valid.
/// Shapes:   cache [tokens, kv heads, channels] of K, any strides, with room for every token.
/// Requires: beta in [0, 2], |w| <= 1. One sequence. Every call gets the same cache.
/// Throws:   invalid_config on sizes that disagree, a cache that is too short, or beta outside [0, 2];
///           nothing is changed then.
/// Cost:     append: 2 channels (channels + open keys) multiply-adds per head; every block-th call also
///           updates the cache, channels^2 per key. fill_scores: channels^2 per query head, plus channels per
///           query head and key. Memory: 4 (channels^2 + block channels) bytes per head (8 for f64 keys). No
///           allocation after the constructor. For a short cache a shorter block is better.
/// Accuracy: bf16 keys are within 1 % of the exact ones in the Frobenius norm after 16384 tokens (rounding at
///           each token: 21 %). A key is rounded once for each block that ended after it.
/// Source:   arXiv 2505.16381; the associativity of q^T (P k) = (q^T P) k.
template <class K>
class deferred_keys {
    using C = compute_t<K>;
    using vector = Eigen::Matrix<C, 1, Eigen::Dynamic>;

  public:
    explicit deferred_keys(deferred_keys_config config) : config_(config) {
        constexpr const char* who = "path::deferred_keys";
        detail::require(config.kv_heads > 0, who, "kv_heads must be > 0", config.kv_heads);
        detail::require(config.channels > 0, who, "channels must be > 0", config.channels);
        detail::require(config.block > 0, who, "block must be > 0", config.block);
        detail::checked_product(who, "kv_heads x block x channels must fit",
                                {config.kv_heads, config.block, config.channels, 8});
        detail::checked_product(who, "kv_heads x channels x channels must fit",
                                {config.kv_heads, config.channels, config.channels, 8});
        if (config_.heads == 0) config_.heads = config.kv_heads;
        detail::require(config_.heads > 0 && config_.heads % config.kv_heads == 0, who,
                        "heads must be a multiple of kv_heads", config.heads);
        detail::checked_product(who, "heads x channels must fit", {config_.heads, config.channels, 8});
        transforms_.assign(static_cast<std::size_t>(config.kv_heads),
                           matrix<C>::Identity(config.channels, config.channels));
        open_keys_ = matrix<C>::Zero(config.kv_heads * config.block, config.channels);
        queries_.resize(config_.heads, config.channels);
        row_.resize(config.channels);
        carried_ = matrix<C>::Zero(config.block, config.channels);
        loaded_ = carried_;
    }

    index tokens() const noexcept { return stored_ + open_; }
    /// Tokens whose keys are in the cache; those after them are in the open block.
    index stored() const noexcept { return stored_; }

    /// Starts with a cache that already has the keys of `tokens` tokens, as fill_key_cache leaves them.
    void start_at(index tokens) {
        detail::require(tokens >= 0, "path::deferred_keys::start_at", "tokens must be >= 0", tokens);
        stored_ = tokens;
        open_ = 0;
        for (auto& transform : transforms_) transform.setIdentity();
    }

    /// Appends one token: k, w [1, kv heads, channels], beta [kv heads].
    void append(heads_view<K> cache, heads_view<const C> k, step_transform<C> step) {
        constexpr const char* who = "path::deferred_keys::append";
        require_one(who, "k must be one token of kv_heads heads and its channels", k);
        require_one(who, "w must be one token of kv_heads heads and its channels", step.w);
        detail::require(step.beta.fits(1, 1, config_.kv_heads), who, "beta must hold kv_heads numbers",
                        step.beta.size());
        const heads_view<const C> betas = step.beta.view(1, 1, config_.kv_heads);
        for (index h = 0; h < config_.kv_heads; ++h)
            detail::require(*betas.at(0, 0, h) >= 0 && *betas.at(0, 0, h) <= 2, who, "beta must be in [0, 2]",
                            static_cast<double>(*betas.at(0, 0, h)));
        require_cache(who, cache, tokens() + 1);
        detail::walk_keys<detail::walk::carry, C, C>(open_view(open_), {step, {}, 0, nullptr, 0});
        for (index h = 0; h < config_.kv_heads; ++h) {
            matrix<C>& transform = transforms_[static_cast<std::size_t>(h)];
            const row_of w(step.w.at(0, 0, h), config_.channels);
            row_.noalias() = w * transform;
            transform.noalias() -= (*betas.at(0, 0, h) * w).transpose() * row_;
            open_keys_.row(h * config_.block + open_) = row_of(k.at(0, 0, h), config_.channels);
        }
        ++open_;
        if (open_ == config_.block) settle(cache);
    }

    /// Writes the open block to the cache, which then holds every key as of the last token. append does this
    /// at the end of a block; call it to save the cache or to use it with update_keys.
    void settle(heads_view<K> cache) {
        require_cache("path::deferred_keys::settle", cache, tokens());
        for (index h = 0; h < config_.kv_heads; ++h) {
            matrix<C>& transform = transforms_[static_cast<std::size_t>(h)];
            for (index first = 0; first < stored_; first += config_.block) {
                const index count = std::min(config_.block, stored_ - first);
                for (index n = 0; n < count; ++n) load(cache, first + n, h, loaded_.row(n));
                carried_.topRows(count).noalias() = loaded_.topRows(count) * transform.transpose();
                for (index n = 0; n < count; ++n) store(carried_.row(n), cache, first + n, h);
            }
            for (index n = 0; n < open_; ++n)
                store(open_keys_.row(h * config_.block + n), cache, stored_ + n, h);
            transform.setIdentity();
        }
        stored_ += open_;
        open_ = 0;
    }

    /// scores[h, j] = q_h . (key j as of the last token), not scaled: q [1, heads, channels], scores [heads,
    /// tokens()]. The cache is read once.
    void fill_scores(heads_view<const K> cache, heads_view<const C> q, std::span<C> scores) {
        constexpr const char* who = "path::deferred_keys::fill_scores";
        require_cache(who, cache, stored_);
        detail::require(q.batches() == 1 && q.tokens() == 1 && q.channels() == config_.channels, who,
                        "q must be one token, its channels", q.channels());
        detail::require_equal(who, "q.heads must be the heads it was built for", config_.heads, q.heads());
        detail::require_equal(who, "scores must hold heads * tokens numbers", q.heads() * tokens(),
                              scores.size());
        const index group = config_.heads / config_.kv_heads;
        for (index h = 0; h < config_.heads; ++h)
            queries_.row(h).noalias() =
                row_of(q.at(0, 0, h), config_.channels) * transforms_[static_cast<std::size_t>(h / group)];
        using stored = const stored_t<K>;
        detail::walk_keys<detail::walk::read, stored, C>(
            {reinterpret_cast<stored*>(cache.data),
             {1, stored_, config_.kv_heads, config_.channels},
             cache.strides},
            {{}, {queries_.data(), 1, config_.heads, config_.channels}, group, scores.data(), tokens()});
        detail::walk_keys<detail::walk::read, C, C>(open_view(open_),
                                                    {{}, q, group, scores.data() + stored_, tokens()});
    }

  private:
    using row_of = Eigen::Map<const vector>;
    heads_view<C> open_view(index tokens) noexcept {
        const index head = config_.block * config_.channels;
        return {
            open_keys_.data(), {1, tokens, config_.kv_heads, config_.channels}, {0, config_.channels, head}};
    }
    void require_one(const char* who, const char* must, const heads_view<const C>& x) const {
        detail::require_readable(who, "rows", x);
        detail::require(x.batches() == 1 && x.tokens() == 1 && x.heads() == config_.kv_heads &&
                            x.channels() == config_.channels,
                        who, must, x.channels());
    }
    template <class E>
    void require_cache(const char* who, const heads_view<E>& cache, index tokens) const {
        detail::require_writable(who, "cache", cache);
        detail::require(cache.batches() == 1, who, "cache must be of one batch", cache.batches());
        detail::require_equal(who, "cache.heads must equal kv_heads", config_.kv_heads, cache.heads());
        detail::require_equal(who, "cache.channels must equal channels", config_.channels, cache.channels());
        detail::require(cache.tokens() >= tokens, who, "cache must have room for every token",
                        cache.tokens());
    }
    template <class Row>
    void load(const heads_view<K>& cache, index n, index h, Row row) const noexcept {
        const auto* from = reinterpret_cast<const stored_t<K>*>(cache.at(0, n, h));
        for (index c = 0; c < config_.channels; ++c) row(c) = static_cast<C>(from[c]);
    }
    template <class Row>
    void store(const Row& row, const heads_view<K>& cache, index n, index h) const noexcept {
        auto* to = reinterpret_cast<stored_t<K>*>(cache.at(0, n, h));
        for (index c = 0; c < config_.channels; ++c) to[c] = stored_t<K>(row(c));
    }
    deferred_keys_config config_;
    std::vector<matrix<C>> transforms_;  // P of each head since the cache was written
    matrix<C> open_keys_;                // of the open block, up to date, [kv heads, block, channels]
    vector row_;
    matrix<C> queries_, carried_, loaded_;
    index stored_ = 0, open_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::path
