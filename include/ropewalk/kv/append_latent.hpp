// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/kv/append.hpp>
#include <ropewalk/kernels/normalize_and_rotate.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// What multi-head latent attention caches: the compressed latent and the one rotated key that all heads
/// share, row by row [latent | rope_key].
/// Shapes:   latent [batches, tokens, 1, latent channels] (512 in DeepSeek), rope_key [batches, tokens, 1,
///           2 * pairs] (64), both usually slices of one projection; cache with 1 head and their channels.
/// Source:   DeepSeek-V2, eq. 9 to 15.
template <class S, class D = S>
struct append_latent_call {
    heads_view<const S> latent = {};    ///< the compressed latent
    heads_view<const S> rope_key = {};  ///< the shared key, not rotated
    cache_view<D> cache = {};           ///< where both go
    float scale = 1;                    ///< f8 only, given: number = code * scale
    pair_layout layout = interleaved{};
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

template <class S, class D>
bool latent_matches(const append_latent_call<S, D>& call, const cache_plan& plan, index norm_channels,
                    index pairs) noexcept {
    const auto& latent = call.latent;
    const auto& rope = call.rope_key;
    return latent.heads() == 1 && rope.heads() == 1 && latent.batches() == rope.batches() &&
           latent.tokens() == rope.tokens() && latent.batches() * latent.tokens() == plan.tokens() &&
           plan.fits(call.cache) && call.cache.shape.heads == 1 &&
           call.cache.shape.channels == latent.channels() + rope.channels() &&
           norm_channels == latent.channels() && rope.channels() == 2 * pairs && call.layout.fits(pairs);
}

}  // namespace detail

/// As make_append_plan, for append_latent.
/// Throws:   invalid_config, as make_append_plan.
/// Source:   design of this library.
template <class S, class D, class I>
cache_plan make_append_latent_plan(const append_latent_call<S, D>& call, const norm_view<compute_t<S>>& norm,
                                   std::span<const I> slots, index pairs) {
    constexpr const char* who = "make_append_latent_plan";
    cache_plan plan(slots, call.cache.shape.pages, call.cache.shape.page_tokens);
    detail::require(norm.extent == norm_extent::head && norm.eps > 0, who, "eps must be > 0", norm.eps);
    detail::require_source(who, call.latent);
    detail::require_source(who, call.rope_key);
    detail::require_cache(who, call.cache, plan, 1, call.latent.channels() + call.rope_key.channels());
    detail::require_scale<D>(who, call.scale);
    detail::require(detail::latent_matches(call, plan, norm.channels, pairs), who,
                    "latent, rope_key, norm and slots must agree, pairs", pairs);
    // The latent's sum reads a row that the first numbers written would overwrite: no aliasing at all.
    const index nobody = -1 - plan.tokens();
    detail::require_apart(who, call.latent, call.cache, plan, 0, nobody);
    detail::require_apart(who, call.rope_key, call.cache, plan, 0, nobody);
    return plan;
}
template <class S, class D, class I>
cache_plan make_append_latent_plan(const append_latent_call<S, D>& call, const norm_view<compute_t<S>>& norm,
                                   const std::vector<I>& slots, index pairs) {
    return make_append_latent_plan(call, norm, std::span<const I>(slots), pairs);
}

/// MLA's three steps in one: RMSNorm of the latent, rotation of the shared key, both written to the
/// token's cache row. D may be S, f16, bf16, f8_e4m3 or f8_e5m2.
/// Shapes:   see append_latent_call; norm over the latent's channels, rows of its pairs.
/// Requires: a plan from make_append_latent_plan; otherwise as append.
/// Cost:     each number read from memory once and written once.
/// Accuracy: the latent as normalize_and_rotate without rotation, the key as append.
/// Source:   DeepSeek-V2; deepseek-ai/DeepSeek-V3 inference/model.py (kv_norm, apply_rotary_emb, kv_cache,
///           pe_cache).
template <class S, class D>
void append_latent(const append_latent_call<S, D>& call, std::type_identity_t<norm_view<compute_t<S>>> norm,
                   const cache_plan& plan, std::type_identity_t<rows_for<S>> rows,
                   part_of part = {}) noexcept {
    static_assert(!std::is_same_v<D, std::int8_t>, "a latent row has no scale of its own: use f8 or 16 bits");
    if (plan.tokens() == 0) return;
    const bool match = detail::latent_matches(call, plan, norm.channels, rows.pairs) && norm.eps > 0 &&
                       rows.tokens >= plan.tokens();
    ROPEWALK_EXPECT(match);
    if (!match) return;
    using stored = stored_t<S>;
    const index channels = call.latent.channels();
    const auto factor = simd::broadcast(1.0f / call.scale);
    const work_range work = partition(plan.tokens(), part);
    detail::with_layout(call.layout, [&](auto layout) {
        for (index token = work.first; token < work.first + work.count; ++token) {
            const cache_place place = plan.place(token);
            const index row = rows.row(token);
            if (place.page < 0 || row < 0) continue;
            const index b = token / call.latent.tokens(), n = token % call.latent.tokens();
            const auto* latent = reinterpret_cast<const stored*>(call.latent.at(b, n, 0));
            const auto* rope = reinterpret_cast<const stored*>(call.rope_key.at(b, n, 0));
            D* const to = call.cache.at(place.page, place.token, 0);
            const auto length = detail::norm_factor(detail::sum_of_squares(latent, channels), channels, norm);
            detail::write_head(to, nullptr, factor, channels, [&](auto& target) {
                if (norm.weight) {
                    detail::pass_channels(
                        0, channels,
                        detail::normed_source<stored, true>{latent, norm.weight, simd::broadcast(length)},
                        target);
                } else {
                    detail::pass_channels(
                        0, channels,
                        detail::normed_source<stored, false>{latent, nullptr, simd::broadcast(length)},
                        target);
                }
            });
            detail::write_head(to + channels, nullptr, factor, 2 * rows.pairs, [&](auto& target) {
                detail::turn_head(layout, rows.cos_at(row, 0), rows.sin_at(row, 0), rows.pairs, 0,
                                  detail::plain_source<stored>{rope}, target);
            });
        }
    });
}

}  // namespace ROPEWALK_NAMESPACE
