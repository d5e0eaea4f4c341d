// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Positions in the caches of unbounded generation: llama.cpp's group attention and StreamingLLM's sink cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE::positions {

struct group_attention_config {
    index group = 1;     ///< grp_attn_n
    index window = 512;  ///< grp_attn_w, a multiple of group
};

/// llama.cpp's group attention: as the sequence grows, positions in the cache are divided by `group`, one
/// window at a time. Unlike Self-Extend it has no sliding boundary: a query sees between 0 and window - 1
/// tokens at their exact distance, and which ones depends on how the prompt was cut into batches. Keys are
/// rotated again by the change of their position; the changes of one batch may be applied together
/// (shifts()).
/// Throws:   invalid_config on group < 1 or a window that is not a positive multiple of it.
/// Cost:     O(cached tokens) for each batch.
/// Source:   ggerganov/llama.cpp examples/main/main.cpp (grp_attn_n, grp_attn_w).
class group_attention {
  public:
    explicit group_attention(const group_attention_config& config = {}) : config_(config) {
        constexpr const char* who = "group_attention";
        detail::require(config.group >= 1, who, "group must be >= 1", config.group);
        detail::require(config.window >= 1 && config.window % config.group == 0, who,
                        "window must be a positive multiple of group", config.window);
    }

    /// Moves the cached tokens, then assigns positions to `tokens` new tokens.
    /// Throws: invalid_config on tokens < 0.
    void add_batch(index tokens) {
        detail::require(tokens >= 0, "group_attention::add_batch", "tokens must be >= 0", tokens);
        const auto cached = static_cast<index>(positions_.size());
        shifts_.assign(static_cast<std::size_t>(cached), 0);
        if (config_.group > 1) {
            const index windows = cached / config_.window, done = windows * config_.window;
            for (index i = 0; i < cached; ++i) {
                auto& position = positions_[static_cast<std::size_t>(i)];
                const std::int64_t moved = i < done ? i / config_.group : i - windows * saved();
                shifts_[static_cast<std::size_t>(i)] = moved - position;
                position = moved;
            }
            compressed_ = windows * (config_.window / config_.group);
            next_ = cached - windows * saved();
        } else {
            next_ = cached;
        }
        for (index n = 0; n < tokens; ++n) positions_.push_back(next_++);
    }

    /// The current position of every cached token.
    std::span<const std::int64_t> positions() const noexcept { return positions_; }
    /// The change by the last add_batch, for each token cached before it.
    std::span<const std::int64_t> shifts() const noexcept { return shifts_; }
    /// n_past: the next free position.
    std::int64_t next_position() const noexcept { return next_; }
    /// ga_i: positions below it have been divided.
    std::int64_t compressed() const noexcept { return compressed_; }

  private:
    std::int64_t saved() const noexcept { return config_.window - config_.window / config_.group; }

    group_attention_config config_;
    std::vector<std::int64_t> positions_, shifts_;
    std::int64_t next_ = 0, compressed_ = 0;
};

struct sink_cache_config {
    index sinks = 4;     ///< first tokens, which are always kept
    index recent = 512;  ///< last tokens that are kept
};

/// StreamingLLM: a cache of the first and the last tokens, with positions counted inside the cache. Keys are
/// stored before rotation, and take positions 0, 1, 2, ... at every read; no distance ever exceeds sinks +
/// recent.
/// Throws:   invalid_config on negative counts.
/// Source:   Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453;
///           mit-han-lab/streaming-llm kv_cache.py StartRecentKVCache.
class sink_cache {
  public:
    explicit sink_cache(const sink_cache_config& config = {}) : config_(config) {
        detail::require(config.sinks >= 0, "sink_cache", "sinks must be >= 0", config.sinks);
        detail::require(config.recent >= 0, "sink_cache", "recent must be >= 0", config.recent);
        detail::require(config.recent <= std::numeric_limits<index>::max() - config.sinks, "sink_cache",
                        "sinks + recent must fit in 63 bits", config.recent);
    }

    /// Appends the tokens of a step. The position of each query is its index in the cache.
    /// Throws: invalid_config on count < 0.
    void append(index count = 1) {
        detail::require(count >= 0, "sink_cache::append", "count must be >= 0", count);
        for (index n = 0; n < count; ++n) tokens_.push_back(next_token_++);
    }
    /// Position of the last token appended.
    index query_position() const noexcept { return static_cast<index>(tokens_.size()) - 1; }
    /// The cached tokens by their index in the text, in order; key number a has position a.
    std::span<const std::int64_t> tokens() const noexcept { return tokens_; }

    /// After a step: keeps the first `sinks` and the last `recent` tokens.
    void trim() { keep_recent(config_.recent, 0); }
    /// Before a step of `count` tokens: removes old tokens to make room for them.
    /// Throws: invalid_config if count is negative or above `recent`: the sinks would have to go too.
    void make_room(index count) {
        detail::require(count >= 0 && count <= config_.recent, "sink_cache::make_room",
                        "count must be in 0 .. recent", count);
        keep_recent(config_.recent - count, count);
    }

  private:
    void keep_recent(index recent, index coming) {
        const auto cached = static_cast<index>(tokens_.size());
        if (cached + coming <= config_.sinks + config_.recent) return;
        const index first = std::min(config_.sinks, cached);
        const index last = std::min(recent, cached - first);
        tokens_.erase(tokens_.begin() + first, tokens_.end() - last);
    }

    sink_cache_config config_;
    std::vector<std::int64_t> tokens_;
    std::int64_t next_token_ = 0;
};

}  // namespace ROPEWALK_NAMESPACE::positions
