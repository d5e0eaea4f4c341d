// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The cache of multi-head latent attention: a latent and a shared rotated key per token.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <ropewalk/angles/sincos_turns.hpp>
#include <ropewalk/attention/tile_rows.hpp>
#include <ropewalk/core/quantized_types.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/rotate_into.hpp>
#include <ropewalk/schemes/mla.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The type of arithmetic on numbers of a cache.
template <class E>
struct cache_compute {
    using type = compute_t<E>;
};
template <int Mantissa>
struct cache_compute<f8<Mantissa>> {
    using type = float;
};
template <class E>
using cache_compute_t = typename cache_compute<E>::type;

}  // namespace detail

/// The cache of one layer of multi-head latent attention: one row [latent | rotated shared key] per token.
/// Shapes:   E is the storage type, an element type or f8_e4m3 or f8_e5m2, whose numbers are code * scale;
///           rows are contiguous.
/// Throws:   invalid_config on a config that mla::make_scheme refuses and on sizes that disagree. Only
///           reserve, shift, and an append beyond the reserved tokens allocate.
/// Cost:     latent + rope_dim numbers per token, for all heads together.
/// Source:   deepseek-ai/DeepSeek-V3 inference/model.py, class MLA, "absorb".
template <class E = float>
class latent_cache {
  public:
    using value = detail::cache_compute_t<E>;  ///< the type of the arithmetic

    explicit latent_cache(const mla::config& c, value scale = 1)
        : config_(c), rope_(mla::make_scheme(c)), omega_(rope_.spectrum_for(1)), scale_(scale) {
        detail::require(std::isfinite(scale) && scale > 0, "latent_cache", "scale must be finite and > 0",
                        scale);
        if constexpr (!is_f8<E>)
            detail::require(scale == 1, "latent_cache", "scale must be 1 but for f8 codes", scale);
        row_.resize(static_cast<std::size_t>(width() + 2 * omega_.pairs()));
    }

    /// The config.
    const mla::config& sizes() const noexcept { return config_; }
    /// The frequencies of the shared keys.
    const spectrum& frequencies() const noexcept { return omega_; }
    /// The factor on codes; 1 except for f8.
    value scale() const noexcept { return scale_; }
    index tokens() const noexcept { return tokens_; }
    index width() const noexcept { return mla::cached_channels(config_); }
    /// [tokens, 1, latent + rope_dim]: the keys of absorbed queries.
    heads_view<const E> keys() const noexcept { return {rows_.data(), tokens_, 1, width()}; }
    /// [tokens, 1, latent]: the values of absorbed queries.
    heads_view<const E> latents() const noexcept { return keys().channel_slice(0, config_.latent); }
    /// [tokens, 1, rope_dim]: the rotated key that all heads share.
    heads_view<const E> shared_keys() const noexcept {
        return keys().channel_slice(config_.latent, config_.rope_dim);
    }
    /// Reserves memory for `tokens` tokens, so that append does not allocate rows.
    /// Throws: invalid_config on tokens < 0 or more than fit.
    void reserve(index tokens) {
        rows_.reserve(static_cast<std::size_t>(detail::checked_product(
            "latent_cache::reserve", "tokens must be >= 0 and fit", {tokens, width()})));
    }

    /// New tokens, raw [tokens, latent + rope_dim] = W_kv_a x: one pass normalises the latent into the cache
    /// and rotates the key after it. Their positions are tokens(), tokens() + 1, ...
    /// Throws: invalid_config when norm is not [latent] or count < 0.
    void append(const value* raw, index count, std::span<const value> norm) {
        detail::require_equal("latent_cache::append", "norm must be [latent]", config_.latent, norm.size());
        detail::require(count >= 0, "latent_cache::append", "count must be >= 0", count);
        constexpr index most = std::numeric_limits<index>::max();
        rows_.resize(static_cast<std::size_t>(
            detail::checked_product("latent_cache::append", "count must fit beside the cached tokens",
                                    {count > most - tokens_ ? most : tokens_ + count, width()})));
        const index pairs = omega_.pairs();
        value *const row = row_.data(), *const cos_sin = row + width();
        for (index n = 0; n < count; ++n, ++tokens_) {
            const value* from = raw + n * width();
            double squares = 0;
            for (index c = 0; c < config_.latent; ++c)
                squares += static_cast<double>(from[c]) * static_cast<double>(from[c]);
            const double mean = squares / static_cast<double>(config_.latent) + config_.rms_epsilon;
            // A zero latent without an epsilon: 0 times infinity would be NaN.
            const auto factor = static_cast<value>(mean == 0 ? 0.0 : 1 / std::sqrt(mean));
            for (index c = 0; c < config_.latent; ++c)
                row[c] = from[c] * factor * norm[static_cast<std::size_t>(c)];
            fill_cos_sin(static_cast<double>(tokens_), omega_.turns_data().data(), omega_.magnitude(), pairs,
                         cos_sin, cos_sin + pairs);
            rotate_into(rope_, heads_view<const value>(from + config_.latent, 1, 1, config_.rope_dim),
                        heads_view<value>(row + config_.latent, 1, 1, config_.rope_dim), one_row(cos_sin));
            store(row, rows_.data() + tokens_ * width(), width());
        }
    }

    /// Moves tokens [first, first + count) by `distance` positions: their shared keys are rotated once more,
    /// and their latents do not change. Later tokens keep their positions; use erase to drop rows.
    /// Throws:   invalid_config when the tokens are not in the cache or the distance is not finite.
    /// Accuracy: one more rounding in E per shift.
    /// Source:   R(p + delta) = R(delta) R(p); llama.cpp calls it a context shift.
    void shift(index first, index count, double distance) {
        require_cached("latent_cache::shift", first, count);
        detail::require(std::isfinite(distance), "latent_cache::shift", "distance must be finite", distance);
        const index pairs = omega_.pairs();
        std::vector<value> cos_sin(static_cast<std::size_t>(2 * pairs));
        fill_cos_sin(distance, omega_.turns_data().data(), omega_.magnitude(), pairs, cos_sin.data(),
                     cos_sin.data() + pairs);
        std::vector<value> key(static_cast<std::size_t>(config_.rope_dim));
        for (index n = first; n < first + count; ++n) {
            E* const stored = rows_.data() + n * width() + config_.latent;
            detail::read_row(stored, key.data(), config_.rope_dim);
            for (value& x : key) x *= scale_;
            rotate(rope_, heads_view<value>(key.data(), 1, 1, config_.rope_dim), one_row(cos_sin.data()));
            store(key.data(), stored, config_.rope_dim);
        }
    }
    /// Removes tokens [first, first + count). Later rows move up in memory; their positions do not change.
    /// Throws: invalid_config when the tokens are not in the cache.
    void erase(index first, index count) {
        require_cached("latent_cache::erase", first, count);
        const auto at = rows_.begin() + first * width();
        rows_.erase(at, at + count * width());
        tokens_ -= count;
    }

  private:
    void store(const value* from, E* to, index count) const noexcept {
        if constexpr (is_f8<E>) {
            for (index c = 0; c < count; ++c) to[c] = E(from[c] / scale_);
        } else {
            detail::write_row(from, to, count);
        }
    }
    void require_cached(const char* who, index first, index count) const {
        detail::require(count >= 0 && count <= tokens_, who, "count must be 0 to the cached tokens", count);
        detail::require(first >= 0 && first <= tokens_ - count, who, "tokens must be in the cache, the first",
                        first);
    }
    rows_view<value> one_row(const value* cos_sin) const noexcept {
        rows_view<value> rows;
        rows.cos = cos_sin;
        rows.sin = cos_sin + omega_.pairs();
        rows.table_rows = rows.tokens = 1;
        rows.pairs = omega_.pairs();
        rows.magnitude = omega_.magnitude();
        return rows;
    }

    mla::config config_;
    rotary_scheme rope_;
    spectrum omega_;
    value scale_ = 1;
    index tokens_ = 0;
    std::vector<E> rows_;
    std::vector<value> row_;  // of a new token, and its row of cos and sin
};

}  // namespace ROPEWALK_NAMESPACE
