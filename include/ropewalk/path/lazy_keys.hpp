// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <vector>

#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/path/block_transform.hpp>

namespace ROPEWALK_NAMESPACE::path {

struct lazy_keys_config {
    index kv_heads = 0;
    index channels = 0;
    index block = 64;  ///< tokens after which a block of keys is written for the last time
};

/// A key cache that is read, not rewritten: keys rest at the end of their block, and a query walks back
/// over the blocks instead. Only the keys of the open block are updated. Saves the writes of update_keys
/// for two products of [block, channels] a block and query head.
/// Throws:   invalid_config on sizes that disagree or beta outside [0, 2].
/// Cost:     append: block * channels * 4 multiply-adds a head. fill_scores: channels (1 + 2) multiply-adds a
///           key and query head; allocates. Three numbers stored for each of a key.
/// Accuracy: scores within 1e-12 (f64), 1e-4 (f32) of those by update_keys, for order-1 inputs.
/// Source:   the associativity of q^T (P k) = (q^T P) k.
template <class T = float>
class lazy_keys {
  public:
    explicit lazy_keys(lazy_keys_config config) : config_(config) {
        constexpr const char* who = "path::lazy_keys";
        detail::require(config.kv_heads > 0, who, "kv_heads must be > 0", config.kv_heads);
        detail::require(config.channels > 0, who, "channels must be > 0", config.channels);
        detail::require(config.block > 0, who, "block must be > 0", config.block);
        heads_.resize(static_cast<std::size_t>(config.kv_heads));
    }

    index tokens() const noexcept { return tokens_; }

    /// One token: k, w [1, kv heads, channels], beta [kv heads].
    void append(heads_view<const T> k, heads_view<const T> w, std::span<const T> beta) {
        constexpr const char* who = "path::lazy_keys::append";
        for (index batches : {k.batches(), w.batches()})
            detail::require(batches == 1, who, "k and w must be of one batch", batches);
        detail::require(k.tokens() == 1 && k.heads() == config_.kv_heads && k.channels() == config_.channels,
                        who, "k must be one token of kv_heads heads, its channels", k.channels());
        detail::require(w.tokens() == 1 && w.heads() == config_.kv_heads && w.channels() == config_.channels,
                        who, "w must be one token of kv_heads heads, its channels", w.channels());
        detail::require(static_cast<index>(beta.size()) == config_.kv_heads, who,
                        "beta must hold kv_heads numbers", beta.size());
        for (T b : beta)
            detail::require(b >= 0 && b <= 2, who, "beta must be in [0, 2]", static_cast<double>(b));
        const bool opens = tokens_ % config_.block == 0;
        // The open blocks of all heads are made aside, so that a failure leaves the cache as it was.
        std::vector<block> grown;
        grown.reserve(heads_.size());
        for (index h = 0; h < config_.kv_heads; ++h) {
            auto& blocks = heads_[static_cast<std::size_t>(h)];
            if (opens) {
                detail::make_room(blocks, 1);
                grown.push_back({matrix<T>(0, config_.channels), block_transform<T>(config_.channels)});
            } else {
                grown.push_back(blocks.back());
            }
            auto& [keys, transform] = grown.back();
            const Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>> row(w.at(0, 0, h), config_.channels);
            const T b = beta[static_cast<std::size_t>(h)];
            keys -= (b * (keys * row.transpose()).eval()) * row;
            keys.conservativeResize(keys.rows() + 1, config_.channels);
            keys.bottomRows(1) =
                Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>(k.at(0, 0, h), config_.channels);
            transform.accumulate({w.at(0, 0, h), static_cast<std::size_t>(config_.channels)}, b);
        }
        for (std::size_t h = 0; h < heads_.size(); ++h) {
            if (opens)
                heads_[h].push_back(std::move(grown[h]));
            else
                std::swap(heads_[h].back(), grown[h]);
        }
        ++tokens_;
    }

    /// scores[h, j] = q_h^T H_now ... H_{j+1} k_j, not scaled: q [1, heads, channels] of the newest token,
    /// scores [heads, tokens()].
    void fill_scores(heads_view<const T> q, std::span<T> scores) const {
        constexpr const char* who = "path::lazy_keys::fill_scores";
        detail::require(q.batches() == 1, who, "q must be of one batch", q.batches());
        detail::require(q.tokens() == 1 && q.channels() == config_.channels, who,
                        "q must be one token, its channels", q.channels());
        detail::require(q.heads() % config_.kv_heads == 0, who, "kv_heads must divide q.heads", q.heads());
        detail::require(static_cast<index>(scores.size()) == q.heads() * tokens_, who,
                        "scores must hold heads * tokens numbers", scores.size());
        const index group = q.heads() / config_.kv_heads;
        Eigen::Map<matrix<T>> all(scores.data(), q.heads(), tokens_);
        for (index h = 0; h < config_.kv_heads; ++h) {
            const auto& blocks = heads_[static_cast<std::size_t>(h)];
            matrix<T> queries(group, config_.channels);
            for (index g = 0; g < group; ++g)
                queries.row(g) = Eigen::Map<const Eigen::Matrix<T, 1, Eigen::Dynamic>>(
                    q.at(0, 0, h * group + g), config_.channels);
            for (std::size_t b = blocks.size(); b-- > 0;) {
                const auto& [keys, transform] = blocks[b];
                all.block(h * group, static_cast<index>(b) * config_.block, group, keys.rows()).noalias() =
                    queries * keys.transpose();
                if (b > 0) transform.apply_to_query(queries);
            }
        }
    }

  private:
    struct block {
        matrix<T> keys;  // at the block's end; of the open block, as of now
        block_transform<T> transform;
    };
    lazy_keys_config config_;
    std::vector<std::vector<block>> heads_;
    index tokens_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::path
