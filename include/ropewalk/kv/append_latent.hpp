// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// append for multi-head latent attention (MLA): normalised latent and shared rotated key in one cache row.
#pragma once

#include <iterator>

#include <ropewalk/kernels/head_norm.hpp>
#include <ropewalk/kv/append.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// What multi-head latent attention caches: the compressed latent and the rotated key that all heads share,
/// in rows [latent | rope_key].
/// Shapes:   latent [batches, tokens, 1, latent channels] (512 in DeepSeek), rope_key [batches, tokens, 1, 2
///           * pairs] (64), both usually slices of one projection; the cache has 1 head and the channels of
///           both.
/// Source:   DeepSeek-V2, eq. 9 to 15.
template <class S, class D = S>
struct append_latent_call {
    heads_view<const S> latent = {};    ///< the compressed latent
    heads_view<const S> rope_key = {};  ///< the shared key, not rotated
    cache_view<D> cache = {};           ///< the cache of both
    float scale = 1;                    ///< f8 only, input: number = code * scale
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

template <class S, class D>
misfit fit_latent(const append_latent_call<S, D>& call, const cache_plan& plan,
                  const norm_view<compute_t<S>>& norm) noexcept {
    const auto& latent = call.latent;
    const auto& rope = call.rope_key;
    for (const auto* x : {&latent, &rope}) {
        const misfit extents = fit_readable(*x);
        if (!extents.ok()) return extents;
        if (x->heads() != 1) return {"latent and rope_key must have one head", 1, x->heads()};
        if (x->batches() * x->tokens() != plan.tokens())
            return {"latent and rope_key must hold one token a slot of the plan", plan.tokens(),
                    x->batches() * x->tokens()};
    }
    const cache_shape& shape = call.cache.shape;
    if (!plan.fits(call.cache))
        return {"the cache must have the pages of the plan", plan.pages(), shape.pages};
    if (shape.heads != 1) return {"the cache must have one head", 1, shape.heads};
    if (shape.channels != latent.channels() + rope.channels())
        return {"the cache must have the channels of latent and rope_key",
                latent.channels() + rope.channels(), shape.channels};
    if (norm.extent != norm_extent::head) return {"the norm must be of one head", 0, 1};
    return fit_norm(norm, latent.shape);
}

}  // namespace detail

/// As make_append_plan, for append_latent.
/// Throws:   invalid_config, as make_append_plan.
template <class S, class D, integer_range Slots>
[[nodiscard]] cache_plan make_append_latent_plan(const append_latent_call<S, D>& call,
                                                 const norm_view<compute_t<S>>& norm, const Slots& slots) {
    constexpr const char* who = "make_append_latent_plan";
    if (std::empty(slots)) return {};
    cache_plan plan(std::span(std::data(slots), std::size(slots)), call.cache.shape.pages,
                    call.cache.shape.page_tokens);
    detail::require_source(who, call.latent);
    detail::require_source(who, call.rope_key);
    detail::require_cache(who, call.cache, plan, 1, call.latent.channels() + call.rope_key.channels());
    detail::require_scale<D>(who, call.scale);
    const misfit wrong = detail::fit_latent(call, plan, norm);
    if (!wrong.ok()) detail::fail(std::string(who) + ": " + to_string(wrong));
    // The norm of the latent reads a row that its first outputs would overwrite: source and cache may not
    // overlap at all.
    const index no_slot_owner = -1 - plan.tokens();
    detail::require_apart(who, call.latent, call.cache, plan, 0, no_slot_owner);
    detail::require_apart(who, call.rope_key, call.cache, plan, 0, no_slot_owner);
    return plan;
}

/// MLA's three steps in one: the norm of the latent, the rotation of the shared key, and the writing of both
/// to the cache row of the token. D may be S, f16, bf16, f8_e4m3 or f8_e5m2.
/// Shapes:   see append_latent_call; norm over the channels of the latent. `layout` refers to rope_key alone:
///           the slice of a scheme with 2 * pairs channels, or a pair layout.
/// Requires: a plan from make_append_latent_plan; otherwise as append.
/// Returns:  as append.
/// Cost:     each number is read from memory once and written once.
/// Accuracy: the latent as normalize_and_rotate without rotation, the key as append.
/// Source:   DeepSeek-V2; deepseek-ai/DeepSeek-V3 inference/model.py (kv_norm, apply_rotary_emb, kv_cache,
///           pe_cache).
template <class L, class S, class D, class R>
bool append_latent(const L& layout, const append_latent_call<S, D>& call,
                   std::type_identity_t<norm_view<compute_t<S>>> norm, const cache_plan& plan, const R& given,
                   part_of part = {}) noexcept {
    static_assert(!std::is_same_v<D, std::int8_t> && !is_block<D>,
                  "ropewalk: a latent row has no scale of its own: use f8 or 16 bits");
    static_assert(detail::cache_takes<S, D>(), "ropewalk: f64 data go to f64 caches, and no others");
    if constexpr (detail::types_fit<L, R, S>()) {
        constexpr const char* who = "append_latent";
        using stored = stored_t<S>;
        if (plan.tokens() == 0) return true;
        const detail::layout_plan rope = detail::plan_of(layout);
        const auto& rows = detail::rows_of(given);
        const detail::rows_extents extents = detail::extents_of(rows);
        if (!detail::fits(who, detail::first_of(detail::fit_latent(call, plan, norm),
                                                detail::fit_keys(rope, call.rope_key, extents, plan.tokens()),
                                                detail::fit_part(part))))
            return false;
        const index channels = call.latent.channels(), rope_channels = call.rope_key.channels();
        const index pairs = rope.rotates ? detail::pairs_of(rope, rope_channels, extents.pairs) : 0;
        const detail::slice_extents slice{pairs, detail::first_channel_of(rope, rope_channels, pairs),
                                          rope_channels};
        const cache_view<float> none = {};
        const work_range share = partition(plan.tokens(), part);
        const auto run = [&](const auto& of_call) {
            return detail::each_token(
                who, layout, rope, of_call, compute_t<S>{}, 0, work_part{share.first, share.count, {}},
                [&](auto kind, detail::outer_loop, auto& cursor, index token) ROPEWALK_DETAIL_INLINE_LAMBDA {
                    const cache_place place = plan.place(token);
                    if (place.page < 0) return;
                    const detail::token_rotation rotation(cursor, token, detail::direction::forward);
                    if (pairs > 0 ? !rotation.has_row() : rope.rotates && detail::untouched_by(rows, token))
                        return;
                    const index b = token / call.latent.tokens(), n = token % call.latent.tokens();
                    const auto* latent = reinterpret_cast<const stored*>(call.latent.at(b, n, 0));
                    detail::head_moments<compute_t<S>> moments[1];
                    detail::fill_moments(latent, index{0}, index{1}, norm, moments);
                    const cache_view<D> latent_cache = call.cache.channel_slice(0, channels);
                    const cache_view<D> key_cache = call.cache.channel_slice(channels, rope_channels);
                    const detail::cache_target<D> latent_to{latent_cache, none, call.scale};
                    latent_to.write(place, {0, 1}, [&](index, index, auto* to, index stride) {
                        detail::pass_channels(
                            detail::head_places<detail::normed_heads<stored>,
                                                std::remove_pointer_t<decltype(to)>>{
                                {latent, 0, norm.weight, 0, moments}, to, stride, 1},
                            0, channels);
                    });
                    detail::append_key(kind, rotation, slice, call.rope_key,
                                       detail::cache_target<D>{key_cache, none, call.scale}, token, place,
                                       {0, 1});
                });
        };
        if (pairs == 0) return run(copy_rows<compute_t<S>>(plan.tokens()));
        return run(rows);
    } else {
        return false;
    }
}

}  // namespace ROPEWALK_NAMESPACE
