// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RMSNorm and LayerNorm of query and key heads, as models apply them before the rotation.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include <ropewalk/core/aligned_vector.hpp>
#include <ropewalk/core/simd_sums.hpp>
#include <ropewalk/kernels/head_places.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// y = x / sqrt(mean(x^2) + eps) * w, or y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w.
enum class norm_kind : std::uint8_t { rms, layer };
/// What the mean is taken over: each head separately (Qwen3, Gemma 3, Cohere), or all heads of a token
/// together (OLMo 2 normalises the whole projection before it is split into heads).
enum class norm_extent : std::uint8_t { head, token };
/// How the checkpoint stores the weight: as the factor, or as the factor minus 1 (Gemma).
enum class weight_form : std::uint8_t { factor, factor_minus_one };

/// The numbers of a norm, in memory that the view does not own; see head_norm.
template <class C>
struct norm_view {
    const C* weight = nullptr;  ///< [channels] or [heads, channels]
    index heads = 0;            ///< heads of the weights; 0: all heads share them
    index channels = 0;
    C eps = 0;
    C scale = 1;                             ///< a factor of every channel, in addition to the weights
    norm_extent extent = norm_extent::head;  ///< what one mean is taken over
    norm_kind kind = norm_kind::rms;         ///< RMSNorm, or LayerNorm, which subtracts the mean
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

struct norm_config {
    index heads = 1;  ///< heads of the tensor; used if the weights or the mean are over all heads
    index channels = 0;
    double eps = 1e-6;
    weight_form form = weight_form::factor;  ///< whether the factor is the weight or 1 + weight
    norm_extent extent = norm_extent::head;  ///< what one mean is taken over
    double scale = 1;                        ///< a further factor of the result, for a query's logit scale
    norm_kind kind = norm_kind::rms;         ///< RMSNorm, or LayerNorm without bias
};

/// The weight of a norm, converted once to the compute type and checked.
/// Shapes:   weight [channels]; or [heads * channels], with extent token or if every head has its own weights
///           (Cohere); or empty (all 1).
/// Throws:   invalid_config on eps <= 0, a scale that is not finite or 0, and a weight of another size.
/// Source:   Zhang and Sennrich 2019; Ba, Kiros and Hinton 2016; Hugging Face models qwen3, gemma3, olmo2,
///           cohere.
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
        const bool token = config.extent == norm_extent::token;
        const index all =
            detail::checked_product(who, "heads * channels must fit", {config.heads, config.channels});
        const auto count = static_cast<index>(weight.size());
        detail::require(count == 0 || count == all || (!token && count == config.channels), who,
                        "weight must hold a number a channel of its extent", weight.size());
        each_head_ = token || (count == all && count != config.channels);
        if (count == 0) weight_.assign(static_cast<std::size_t>(token ? all : config.channels), C(1));
        for (const W& w : weight)
            weight_.push_back(static_cast<C>(static_cast<compute_t<W>>(w)) +
                              (config.form == weight_form::factor_minus_one ? C(1) : C(0)));
    }
    template <class W>
    head_norm(norm_config config, const std::vector<W>& weight)
        : head_norm(config, std::span<const W>(weight)) {}
    explicit head_norm(norm_config config) : head_norm(config, std::span<const C>()) {}

    /// The norm in the form that kernels take.
    norm_view<C> view() const noexcept {
        return {weight_.data(),
                each_head_ ? config_.heads : index{0},
                config_.channels,
                static_cast<C>(config_.eps),
                static_cast<C>(config_.scale),
                config_.extent,
                config_.kind};
    }
    /// The same as view().
    operator norm_view<C>() const noexcept { return view(); }

  private:
    norm_config config_;
    bool each_head_ = false;
    detail::aligned_vector<C> weight_;
};

namespace detail {

/// Sums of adjacent numbers in the compute type, in four running registers and always in the same order: of
/// (x - mean)^2, or of x. The lanes remain to be added.
template <bool Squares, class S>
ROPEWALK_ALWAYS_INLINE simd::pack<compute_t<S>> sums_of(const S* p, index count, compute_t<S> mean) noexcept {
    using P = simd::pack<compute_t<S>>;
    constexpr index n = simd::lanes<compute_t<S>>;
    const P zero = simd::broadcast(compute_t<S>(0)), middle = simd::broadcast(mean);
    P sum[4] = {zero, zero, zero, zero};
    const auto add = [&](P& to, P x) ROPEWALK_DETAIL_INLINE_LAMBDA {
        if constexpr (Squares) {
            to = simd::fma(x - middle, x - middle, to);
        } else {
            to = to + x;
        }
    };
    index i = 0;
    for (; i + 4 * n <= count; i += 4 * n) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t v = 0; v < 4; ++v) add(sum[v], simd::load(p + i + static_cast<index>(v) * n));
    }
    // Each sum has a constant index: with indices computed in the loop the sums would live in memory (40
    // heads of 128, f32, AVX-512: 858 ns per token instead of 709 ns).
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t v = 0; v < 3; ++v)
        if (i + n <= count) {
            add(sum[v], simd::load(p + i));
            i += n;
        }
    if (i < count) {
        if constexpr (Squares) {
            // Lanes past the end must add nothing, whatever the mean is: zero minus the mean is not zero.
            compute_t<S> lane[P::size] = {};
            for (index j = 0; j < count - i; ++j) lane[j] = static_cast<compute_t<S>>(p[i + j]) - mean;
            const P x = simd::load(static_cast<const compute_t<S>*>(lane));
            sum[3] = simd::fma(x, x, sum[3]);
        } else {
            add(sum[3], simd::load_some(p + i, count - i));
        }
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// Heads whose moments are computed together. Their square roots and divisions overlap, and their numbers are
/// still in L1 when they are rotated.
inline constexpr index normed_block = 16;

/// The sums of `count` heads, four at a time while there are four: each has the bits that it has alone.
template <bool Squares, class S, class C>
ROPEWALK_ALWAYS_INLINE void fill_sums(const S* base, index stride, index channels, index count,
                                      const head_moments<C>* moments, C* sums) noexcept {
    const auto of_head = [&](index h) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return sums_of<Squares>(base + h * stride, channels, moments[h].mean);
    };
    index h = 0;
    for (; h + 4 <= count; h += 4) {
        const simd::pack<C> four[4] = {of_head(h), of_head(h + 1), of_head(h + 2), of_head(h + 3)};
        simd::sum_lanes_of_four(four, sums + h);
    }
    for (; h < count; ++h) sums[h] = simd::sum_lanes(of_head(h));
}

/// Replaces each of normed_block sums of squares by scale / sqrt(mean square + eps). (One after the other,
/// the roots and divisions took a tenth of prepare_attention with f32 heads of 128.)
template <class C>
ROPEWALK_ALWAYS_INLINE void norm_factors(C* squares, index numbers, const norm_view<C>& norm) noexcept {
    static_assert(normed_block % simd::lanes<C> == 0);
    const auto share = simd::broadcast(C(1) / static_cast<C>(numbers)), eps = simd::broadcast(norm.eps);
    for (index h = 0; h < normed_block; h += simd::lanes<C>)
        simd::store(squares + h, simd::broadcast(C(1)) /
                                     simd::square_root(simd::load(squares + h) * share + eps) *
                                     simd::broadcast(norm.scale));
}

/// The moments of at most normed_block heads, each separately.
template <class S, class C>
void fill_moments(const S* base, index stride, index count, const norm_view<C>& norm,
                  head_moments<C>* moments) noexcept {
    const index channels = norm.channels;
    alignas(64) C sums[normed_block] = {};
    for (index h = 0; h < count; ++h) moments[h].mean = 0;
    if (norm.kind == norm_kind::layer) {
        fill_sums<false>(base, stride, channels, count, moments, sums);
        for (index h = 0; h < count; ++h) moments[h].mean = sums[h] / static_cast<C>(channels);
    }
    fill_sums<true>(base, stride, channels, count, moments, sums);
    norm_factors(sums, channels, norm);
    for (index h = 0; h < count; ++h) moments[h].factor = sums[h];
}

/// The moments of all heads of a token together.
template <class S, class C>
head_moments<C> moments_of_token(const S* base, index stride, index count,
                                 const norm_view<C>& norm) noexcept {
    const index numbers = norm.channels * count;
    const auto total = [&](auto squares, C mean) {  // sum of (x - mean)^2, or of x
        C sum = 0;
        for (index h = 0; h < count; ++h)
            sum += simd::sum_lanes(sums_of<decltype(squares)::value>(base + h * stride, norm.channels, mean));
        return sum;
    };
    const C mean =
        norm.kind == norm_kind::layer ? total(std::false_type{}, C(0)) / static_cast<C>(numbers) : C(0);
    alignas(64) C squares[normed_block] = {total(std::true_type{}, mean)};
    norm_factors(squares, numbers, norm);
    return {mean, squares[0]};
}

/// Whether the heads of a token share one mean. They then stay in one part: another part would overwrite what
/// the sum reads.
template <class T, class C>
constexpr bool keeps_heads_together(const heads_view<T>& x, const norm_view<C>& norm) noexcept {
    return !x.empty() && norm.channels != 0 && norm.extent == norm_extent::token;
}

/// The misfit of a norm with heads of this shape.
template <class C>
misfit fit_norm(const norm_view<C>& norm, const heads_shape& shape) noexcept {
    if (norm.channels != shape.channels)
        return {"channels of the norm must be those of the heads", shape.channels, norm.channels};
    if (norm.heads != 0 && norm.heads != shape.heads)
        return {"heads of the norm must be those of the view", shape.heads, norm.heads};
    if (norm.weight == nullptr) return {"weight of the norm must not be null (head_norm fills it)", 1, 0};
    if (!(norm.eps > 0)) return {"eps of the norm must be > 0", 1, 0};
    return {};
}

}  // namespace detail

}  // namespace ROPEWALK_NAMESPACE
