// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <span>

#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/kernels/rotate.hpp>
#include <ropewalk/kernels/turn_head.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// What the mean square is taken over: each head by itself (Qwen3, Gemma 3), or all heads of a token
/// together, before they are split (OLMo 2 normalises the whole projection).
enum class norm_extent : std::uint8_t { head, token };
/// How the checkpoint stores the weight: as the factor, or as the factor less 1 (Gemma).
enum class weight_form : std::uint8_t { factor, factor_minus_one };
/// What becomes of tokens without a row: neither read nor written, as in every kernel, or normalised and
/// not turned (FLUX.1's text, FreeFlux's keys that do not turn).
enum class untouched_tokens : std::uint8_t { left_alone, normalised };

/// An RMSNorm's numbers, owned by somebody else; see head_norm.
/// Source:   design of this library.
template <class C>
struct norm_view {
    const C* weight = nullptr;  ///< [channels] or, extent token, [heads, channels]; null: no weight
    index heads = 0;            ///< extent token only
    index channels = 0;
    C eps = 0;
    C scale = 1;                             ///< a factor on every channel beside the weights
    norm_extent extent = norm_extent::head;  ///< what one norm is taken over
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

struct norm_config {
    index heads = 1;  ///< heads of the tensor; used with extent token only
    index channels = 0;
    double eps = 1e-6;
    weight_form form = weight_form::factor;  ///< whether the factor is the weight or 1 + weight
    norm_extent extent = norm_extent::head;  ///< what one norm is taken over
    double scale = 1;                        ///< further factor on the result, for a query's logit scale
};

/// The weight of an RMSNorm, converted once to the compute type, with everything checked.
/// Shapes:   weight [channels], or [heads * channels] with extent token, or empty (no weight).
/// Throws:   invalid_config on eps <= 0, a scale that is not finite or 0, and a weight of another size.
/// Source:   Zhang and Sennrich 2019; Hugging Face models qwen3, gemma3, olmo2.
template <class C = float>
class head_norm {
  public:
    template <class W>
    head_norm(norm_config config, std::span<const W> weight) : config_(config) {
        constexpr const char* who = "head_norm";
        detail::require(config.heads >= 1, who, "heads must be >= 1", config.heads);
        detail::require(config.channels >= 1, who, "channels must be >= 1", config.channels);
        detail::require(std::isfinite(config.eps) && config.eps > 0, who, "eps must be finite and > 0",
                        config.eps);
        detail::require(std::isfinite(config.scale) && config.scale != 0, who,
                        "scale must be finite and not 0", config.scale);
        const index wanted = config.channels * (config.extent == norm_extent::token ? config.heads : 1);
        detail::require(weight.empty() || static_cast<index>(weight.size()) == wanted, who,
                        "weight must hold a number a channel of its extent", weight.size());
        for (const W& w : weight)
            weight_.push_back(static_cast<C>(static_cast<compute_t<W>>(w)) +
                              (config.form == weight_form::factor_minus_one ? C(1) : C(0)));
    }
    template <class W>
    head_norm(norm_config config, const std::vector<W>& weight)
        : head_norm(config, std::span<const W>(weight)) {}
    explicit head_norm(norm_config config) : head_norm(config, std::span<const C>()) {}

    /// The norm as kernels take it.
    norm_view<C> view() const noexcept {
        return {weight_.empty() ? nullptr : weight_.data(),
                config_.heads,
                config_.channels,
                static_cast<C>(config_.eps),
                static_cast<C>(config_.scale),
                config_.extent};
    }
    /// view().
    operator norm_view<C>() const noexcept { return view(); }

  private:
    norm_config config_;
    detail::aligned_vector<C> weight_;
};

/// Where the rotated channels start in a head that is normalised whole (partial rotary), the part of the
/// work a thread takes, and whether tokens that do not turn are normalised.
struct normalize_options {
    index first_channel = 0;
    part_of part = {};  ///< the share of the work that this call takes
    /// What happens to tokens with a negative row.
    untouched_tokens untouched = untouched_tokens::left_alone;
};

namespace detail {

/// scale / sqrt(mean square + eps)
template <class C>
ROPEWALK_ALWAYS_INLINE C norm_factor(C squares, index count, const norm_view<C>& norm) noexcept {
    return C(1) / std::sqrt(squares * (C(1) / static_cast<C>(count)) + norm.eps) * norm.scale;
}

/// Heads whose factors are computed together: their roots and quotients overlap, and their numbers are
/// still in the first cache when they are turned.
inline constexpr index normed_block = 16;

template <class T, class C>
bool norm_matches(const heads_view<T>& x, const rows_view<C>& rows, index first_channel,
                  const norm_view<C>& norm, pair_layout layout) noexcept {
    return x.empty() ||
           (x.channels() == norm.channels && norm.eps > 0 &&
            (norm.extent == norm_extent::head || norm.heads == x.heads()) && first_channel >= 0 &&
            first_channel + 2 * rows.pairs <= x.channels() && rows.tokens >= x.batches() * x.tokens() &&
            (rows.heads == 1 || rows.heads >= x.heads()) && layout.fits(rows.pairs));
}

template <bool Weighted, class Layout, class S, class C>
ROPEWALK_ALWAYS_INLINE void normalize_block(Layout layout, normed_heads<S> x, index first_head, index row,
                                            index first_channel, index channels,
                                            const rows_view<C>& rows) noexcept {
    index done = 0;
    if constexpr (!std::is_same_v<Layout, grouped>)
        if (rows.heads == 1 && x.count > 1 && (!Weighted || x.weight != nullptr))
            done = turn_normed_blocks<Layout, Weighted>(rows.cos_at(row, 0), rows.sin_at(row, 0), rows.pairs,
                                                        first_channel, x);
    if (done == rows.pairs && 2 * rows.pairs == channels) return;
    for (index h = 0; h < x.count; ++h) {
        S* const p = x.base + h * x.stride;
        plain_target<S> to{p};
        turn_slice(layout,
                   slice_of_head<C>{rows.cos_at(row, first_head + h), rows.sin_at(row, first_head + h),
                                    rows.pairs, first_channel, channels},
                   normed_source<S, Weighted>{p, x.weight, simd::broadcast(x.factors[h])}, to, done);
    }
}

template <class Layout, class T, class C>
ROPEWALK_ALWAYS_INLINE void normalize_token(Layout layout, heads_view<T> x, index token, work_range range,
                                            index row, index first_channel, const norm_view<C>& norm,
                                            const rows_view<C>& rows) noexcept {
    using S = stored_t<T>;
    const token_heads<S> heads = heads_of(x, token, part_of{});
    const index channels = x.channels();
    const bool whole = norm.extent == norm_extent::token;
    C factors[normed_block];
    if (whole) {
        C squares = 0;
        for (index h = 0; h < x.heads(); ++h)
            squares += sum_of_squares(static_cast<const S*>(heads.base + h * heads.stride), channels);
        std::fill_n(factors, normed_block, norm_factor(squares, channels * x.heads(), norm));
    }
    // With extent token each head has weights of its own.
    const index most = whole && norm.weight ? 1 : normed_block;
    for (index h = range.first; h < range.first + range.count; h += most) {
        const index count = std::min(most, range.first + range.count - h);
        S* const base = heads.base + h * heads.stride;
        if (!whole) {
            for (index i = 0; i < count; ++i)
                factors[i] = sum_of_squares(static_cast<const S*>(base + i * heads.stride), channels);
            for (index i = 0; i < count; ++i) factors[i] = norm_factor(factors[i], channels, norm);
        }
        const C* weight = norm.weight ? norm.weight + (whole ? h * channels : 0) : nullptr;
        const normed_heads<S> block{base, heads.stride, count, weight, factors};
        if (weight) {
            normalize_block<true>(layout, block, h, row, first_channel, channels, rows);
        } else {
            normalize_block<false>(layout, block, h, row, first_channel, channels, rows);
        }
    }
}

/// The norm alone: no pairs, so no row is read.
template <class T, class C>
void normalize_untouched(heads_view<T> x, index token, work_range heads, const norm_view<C>& norm) noexcept {
    normalize_token(half_split{}, x, token, heads, 0, 0, norm, rows_view<C>{});
}

template <class C, class... T>
void normalize_tensors(pair_layout layout, rows_view<C> rows, const normalize_options& options,
                       std::pair<heads_view<T>, norm_view<C>>... x) noexcept {
    const bool match = (norm_matches(x.first, rows, options.first_channel, x.second, layout) && ...);
    ROPEWALK_EXPECT(match);
    if (!match || (x.first.empty() || ...)) return;
    const index tokens = largest(x.first.batches() * x.first.tokens()...);
    // Heads that share one sum stay in one part: another part would overwrite what the sum reads.
    const bool whole = ((x.second.extent == norm_extent::token) || ...);
    const work_range range = partition(tokens, options.part);
    const work_part work =
        whole ? work_part{range.first, range.count, {}} : partition_tokens(tokens, options.part);
    with_layout(layout, [&](auto kind) {
        for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
            const index row = rows.row(token);
            if (row < 0) {
                if (options.untouched == untouched_tokens::normalised)
                    (normalize_untouched(x.first, token, partition(x.first.heads(), work.heads), x.second),
                     ...);
                continue;
            }
            (normalize_token(kind, x.first, token, partition(x.first.heads(), work.heads), row,
                             options.first_channel, x.second, rows),
             ...);
        }
    });
}

}  // namespace detail

/// RMSNorm of every head, then its rotation, in one pass over the data and in place:
/// x <- R(x / sqrt(mean(x^2) + eps) * weight * scale). Models that normalise queries and keys do so
/// before they rotate (Qwen3, Gemma 3 with its weight + 1, OLMo 2 over all heads at once: extent token).
/// Shapes:   x [batches, tokens, heads, channels]; rotated are channels [first_channel, first_channel +
///           2 * pairs), the others are only normalised; norm.channels = channels.
/// Requires: as rotate; q and k of the same batches and tokens. Untouched tokens are neither
///           read nor written, unless options.untouched asks for their norm: they then hold, bit for bit,
///           what the call with rows of no pairs makes of them.
/// Cost:     reads the data from memory once and writes it once; no allocation.
/// Accuracy: f64, f32: 12 ulp of the pair norm of the normalised head for up to 1024 channels; 16-bit data
///           add half a storage ulp of the result (the result of the norm is not rounded in between).
///           Bit for bit the norm followed by rotate where the data are f32 or f64.
/// Threads:  `part` splits tokens, and with extent head the heads of few tokens too.
/// Source:   Zhang and Sennrich 2019, eq. 4; Hugging Face models qwen3, gemma3, olmo2 (order and form).
template <class TQ, class TK>
void normalize_and_rotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
                          std::type_identity_t<norm_view<compute_t<TQ>>> norm_q,
                          std::type_identity_t<norm_view<compute_t<TK>>> norm_k,
                          std::type_identity_t<rows_for<TQ>> rows, normalize_options options = {}) noexcept {
    static_assert(std::is_same_v<compute_t<TQ>, compute_t<TK>>, "q and k need one table: two calls");
    if (!q.empty() && !k.empty() && q.batches() == k.batches() && q.tokens() == k.tokens()) {
        detail::normalize_tensors(layout, rows, options, std::pair(q, norm_q), std::pair(k, norm_k));
    } else {
        detail::normalize_tensors(layout, rows, options, std::pair(q, norm_q));
        detail::normalize_tensors(layout, rows, options, std::pair(k, norm_k));
    }
}
template <class T>
void normalize_and_rotate(pair_layout layout, heads_view<T> x,
                          std::type_identity_t<norm_view<compute_t<T>>> norm,
                          std::type_identity_t<rows_for<T>> rows, normalize_options options = {}) noexcept {
    detail::normalize_tensors(layout, rows, options, std::pair(x, norm));
}
template <static_layout Layout, class TQ, class TK>
void normalize_and_rotate(heads_view<TQ> q, heads_view<TK> k,
                          std::type_identity_t<norm_view<compute_t<TQ>>> norm_q,
                          std::type_identity_t<norm_view<compute_t<TK>>> norm_k,
                          std::type_identity_t<rows_for<TQ>> rows, normalize_options options = {}) noexcept {
    normalize_and_rotate(pair_layout(Layout{}), q, k, norm_q, norm_k, rows, options);
}
template <static_layout Layout, class T>
void normalize_and_rotate(heads_view<T> x, std::type_identity_t<norm_view<compute_t<T>>> norm,
                          std::type_identity_t<rows_for<T>> rows, normalize_options options = {}) noexcept {
    normalize_and_rotate(pair_layout(Layout{}), x, norm, rows, options);
}

}  // namespace ROPEWALK_NAMESPACE
