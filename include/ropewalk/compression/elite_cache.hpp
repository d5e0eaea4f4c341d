// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The cache of an EliteKV layer: rotated elite channels and a latent per token.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include <ropewalk/angles/repeated_row.hpp>
#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/compression/elite_layout.hpp>
#include <ropewalk/kernels/rotate_into.hpp>

namespace ROPEWALK_NAMESPACE {

/// The cache of one EliteKV layer: one row [rotated elite channels of every kv head | latent] per token.
/// Shapes:   E is the storage type; rows are stride() numbers apart.
/// Throws:   invalid_config on a spectrum that does not fit the layout and on sizes that disagree. Only
///           reserve, shift, and an append beyond the reserved tokens allocate.
/// Cost:     kv heads * 2r + latent numbers per token.
/// Source:   EliteKV, arXiv 2503.01586; CiaranZhou/EliteKV modeling_llama_EliteKV.py.
template <class E = float>
class elite_cache {
  public:
    using value = compute_t<E>;  ///< the type of the arithmetic

    /// omega: the frequencies of all head_dim / 2 pairs of a head.
    elite_cache(const elite_layout& layout, const spectrum& omega, index latent)
        : layout_(layout),
          rope_(layout.scheme(omega, layout.heads())),
          omega_(layout.count() > 0 ? rope_.spectrum_for(1) : spectrum{}),
          latent_(latent) {
        detail::require(latent >= 0, "elite_cache", "latent must be >= 0", latent);
        detail::checked_product("elite_cache", "latent must fit",
                                {latent, 2 * static_cast<index>(sizeof(E))});
        cos_sin_.resize(static_cast<std::size_t>(elite_channels()));
    }

    /// Which pairs rotate.
    const elite_layout& layout() const noexcept { return layout_; }
    /// The frequencies of these pairs, for each head.
    const spectrum& frequencies() const noexcept { return omega_; }
    /// Channels of the latent.
    index latent() const noexcept { return latent_; }
    index tokens() const noexcept { return tokens_; }
    /// Numbers per token.
    index width() const noexcept { return elite_channels() + latent_; }
    /// Distance in numbers from one row to the next: the width, plus a cache line where rows would otherwise
    /// be whole pages apart and compete for the same cache sets.
    index stride() const noexcept {
        constexpr index page = 4096 / static_cast<index>(sizeof(E)),
                        line = 64 / static_cast<index>(sizeof(E));
        return width() % page == 0 ? width() + line : width();
    }
    /// Bytes of the rows.
    index bytes() const noexcept { return tokens_ * stride() * static_cast<index>(sizeof(E)); }
    /// [tokens, kv heads, 2r]: the rotated elite channels.
    heads_view<const E> keys() const noexcept {
        return {rows_.data(),
                {1, tokens_, layout_.heads(), layout_.rope_channels()},
                {.token = stride(), .head = layout_.rope_channels()}};
    }
    /// [tokens, 1, latent].
    heads_view<const E> latents() const noexcept {
        return {rows_.data() + elite_channels(), {1, tokens_, 1, latent_}, {.token = stride()}};
    }
    /// Reserves memory for `tokens` tokens, so that append does not allocate rows.
    /// Throws: invalid_config on tokens < 0 or more than fit.
    void reserve(index tokens) {
        rows_.reserve(static_cast<std::size_t>(detail::checked_product(
            "elite_cache::reserve", "tokens must be >= 0 and fit", {tokens, stride()})));
    }

    /// New tokens, raw [tokens, kv heads * 2r + latent] = [W_k of the elite channels | down] x: the elite
    /// channels are rotated while they are stored. Their positions are tokens(), tokens() + 1, ...
    /// Throws: invalid_config on count < 0 or more than fit.
    void append(const value* raw, index count) {
        constexpr const char* who = "elite_cache::append";
        detail::require(count >= 0, who, "count must be >= 0", count);
        constexpr index most = std::numeric_limits<index>::max();
        rows_.resize(static_cast<std::size_t>(
            detail::checked_product(who, "count must fit beside the cached tokens",
                                    {count > most - tokens_ ? most : tokens_ + count, stride()})));
        if (count == 0) return;
        const index heads = layout_.heads(), pairs = layout_.count();
        rows_view<value> rows;
        rows.cos = cos_sin_.data();
        rows.sin = rows.cos + heads * pairs;
        rows.table_rows = rows.tokens = 1;
        rows.heads = heads;
        rows.pairs = rows.head_stride = pairs;
        rows.row_stride = heads * pairs;
        rows.magnitude = pairs > 0 ? omega_.magnitude() : 1;
        for (index n = 0; n < count; ++n, ++tokens_) {
            const value* const from = raw + n * width();
            E* const to = rows_.data() + tokens_ * stride();
            if (pairs > 0) {
                fill_cos_sin(static_cast<double>(tokens_), omega_.turns_data().data(), omega_.magnitude(),
                             heads * pairs, cos_sin_.data(), cos_sin_.data() + heads * pairs);
                rotate_into(rope_, heads_view<const value>(from, 1, heads, layout_.rope_channels()),
                            heads_view<E>(to, 1, heads, layout_.rope_channels()), rows);
            }
            detail::write_row(from + elite_channels(), to + elite_channels(), latent_);
        }
    }

    /// Moves tokens [first, first + count) by `distance` positions: their elite channels are rotated once
    /// more, and their latents do not change. Later tokens keep their positions; use erase to drop rows.
    /// Throws:   invalid_config when the tokens are not in the cache or the distance is not finite.
    /// Accuracy: one more rounding in E per shift.
    /// Source:   R(p + delta) = R(delta) R(p).
    void shift(index first, index count, double distance) {
        require_cached("elite_cache::shift", first, count);
        detail::require(std::isfinite(distance), "elite_cache::shift", "distance must be finite", distance);
        if (layout_.count() == 0 || count == 0) return;
        const auto table = make_rotation_table<value>(omega_, position_ids::text(1, distance));
        rotate(rope_,
               heads_view<E>(rows_.data() + first * stride(),
                             {1, count, layout_.heads(), layout_.rope_channels()},
                             {.token = stride(), .head = layout_.rope_channels()}),
               repeat_row(table, 0, count));
    }
    /// Removes tokens [first, first + count). Later rows move up in memory; their positions do not change.
    /// Throws: invalid_config when the tokens are not in the cache.
    void erase(index first, index count) {
        require_cached("elite_cache::erase", first, count);
        const auto at = rows_.begin() + first * stride();
        rows_.erase(at, at + count * stride());
        tokens_ -= count;
    }

  private:
    index elite_channels() const noexcept { return layout_.heads() * layout_.rope_channels(); }
    void require_cached(const char* who, index first, index count) const {
        detail::require(count >= 0 && count <= tokens_, who, "count must be 0 to the cached tokens", count);
        detail::require(first >= 0 && first <= tokens_ - count, who, "tokens must be in the cache, the first",
                        first);
    }

    elite_layout layout_;
    rotary_scheme rope_;
    spectrum omega_;
    index latent_, tokens_ = 0;
    std::vector<E> rows_;
    std::vector<value> cos_sin_;  // of a new token: cos [kv heads, r], sin alike
};

}  // namespace ROPEWALK_NAMESPACE
