// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// decode: one decode step of PaTH attention over a key cache that is updated at every token.
#pragma once

#include <algorithm>
#include <cmath>

#include <ropewalk/path/householder.hpp>

namespace ROPEWALK_NAMESPACE::path {

/// The inputs of a decode step from its new token. C is the type of the arithmetic: double for an f64 key
/// cache, float otherwise.
template <class C>
struct decode_step {
    heads_view<const C> q;                ///< [1, heads, channels]
    heads_view<const C> k;                ///< [1, kv heads, channels]
    step_transform<C> transform;          ///< the transform that the token applies to the keys before it
    C scale = 1;                          ///< on the whole logit; usually 1 / sqrt(channels)
    head_numbers<double> gate_sums = {};  ///< [tokens, heads], cumulative log gates, the new token's last
    part_of part = {};                    ///< the share of the kv heads that this call does
};

/// The number of elements of scratch that decode needs.
constexpr index decode_scratch(index tokens, index heads, index value_channels) noexcept {
    return heads * (tokens + value_channels);
}

/// One decode step: applies the new token's transform to the cached keys, appends its key, and attends.
/// Shapes:   keys [tokens, kv heads, channels] and values [tokens, kv heads, value channels] including the
///           new token as the last: its value must be there already, and its key is written by this call. out
///           [1, heads, value channels]. scratch: decode_scratch numbers, on return scratch[h * tokens + j]
///           are the probabilities when tokens > 1 (of queries h; kv head h / (heads / kv heads)). Parts may
///           share the scratch.
/// Requires: as update_keys. Keys are as fill_key_cache or earlier steps left them.
/// Returns:  as update_keys.
/// Cost:     one pass over the keys, read and written, and one over the values; no allocation.
/// Accuracy: as update_keys; sums of values in C.
/// Source:   fla-org/flash-linear-attention, layers/path_attn.py, decoding branch; as there, the gate is
///           scaled too.
template <class K, class V, class O>
bool decode(std::type_identity_t<decode_step<compute_t<K>>> step, heads_view<K> keys, heads_view<V> values,
            heads_view<O> out, std::type_identity_t<std::span<compute_t<K>>> scratch) noexcept {
    using C = compute_t<K>;
    static_assert(std::is_same_v<C, compute_t<V>>, "f64 keys and values of another type do not mix");
    const index tokens = keys.tokens(), heads = step.q.heads(), kv_heads = keys.heads();
    const index channels = keys.channels(), width = values.channels(), last = tokens - 1;
    // Checks everything first, so that a call that does not fit leaves keys and results unchanged.
    const auto wrong = [&]() noexcept -> misfit {
        const auto room = static_cast<index>(scratch.size());
        if (const misfit carried = detail::fit_step(keys, step.transform); !carried.ok()) return carried;
        if (const misfit query = detail::fit_query(keys, step.q); !query.ok()) return query;
        const misfit view =
            detail::first_of(detail::fit_readable("k", step.k), detail::fit_readable("values", values),
                             detail::fit_writable("out", out));
        if (!view.ok() || keys.empty() || step.q.empty()) return view;
        if (step.k.batches() != 1) return {"batches of k must be 1", 1, step.k.batches()};
        if (step.k.tokens() != 1) return {"tokens of k must be 1", 1, step.k.tokens()};
        if (step.k.heads() != kv_heads) return {"heads of k must be the keys'", kv_heads, step.k.heads()};
        if (step.k.channels() != channels)
            return {"channels of k must be the keys'", channels, step.k.channels()};
        if (values.batches() != 1) return {"batches of the values must be 1", 1, values.batches()};
        if (values.tokens() != tokens)
            return {"tokens of the values must be the keys'", tokens, values.tokens()};
        if (values.heads() != kv_heads)
            return {"heads of the values must be the keys'", kv_heads, values.heads()};
        if (out.batches() != 1) return {"batches of out must be 1", 1, out.batches()};
        if (out.tokens() != 1) return {"tokens of out must be 1", 1, out.tokens()};
        if (out.heads() != heads) return {"heads of out must be the queries'", heads, out.heads()};
        if (out.channels() != width) return {"channels of out must be the values'", width, out.channels()};
        if (room < decode_scratch(tokens, heads, width))
            return {"scratch must hold decode_scratch numbers", decode_scratch(tokens, heads, width), room};
        if (!step.gate_sums.empty() && !step.gate_sums.fits(1, tokens, heads))
            return {"gate_sums must be empty or hold tokens * heads numbers", tokens * heads,
                    step.gate_sums.size()};
        return detail::fit_part(step.part);
    }();
    if (!detail::fits("path::decode", wrong)) return false;
    if (keys.empty() || step.q.empty()) return true;
    const index group = heads / kv_heads;

    const work_range own = partition(kv_heads, step.part);
    const index first_head = own.first * group, end_head = (own.first + own.count) * group;
    if (own.count == 0) return true;
    C* const scores = scratch.data();
    if (last > 0) {
        const heads_view<const C> betas = step.transform.beta.view(1, 1, kv_heads);
        detail::walk_keys<detail::walk::carry, stored_t<K>, C>(
            detail::stored_view(keys.token_slice(0, last).head_slice(own.first, own.count)),
            {{step.transform.w.head_slice(own.first, own.count), betas.head_slice(own.first, own.count)},
             step.q.head_slice(first_head, end_head - first_head),
             group,
             scores + first_head * tokens,
             tokens});
    }
    for (index h = own.first; h < own.first + own.count; ++h) {
        auto* stored = reinterpret_cast<stored_t<K>*>(keys.at(0, last, h));
        for (index c = 0; c < channels; ++c) stored[c] = stored_t<K>(step.k.at(0, 0, h)[c]);
        for (index g = 0; g < group; ++g) {
            const C* query = step.q.at(0, 0, h * group + g);
            C sum = 0;
            for (index c = 0; c < channels; ++c) sum += query[c] * static_cast<C>(stored[c]);
            scores[(h * group + g) * tokens + last] = sum;
        }
    }

    C* const sums = scores + heads * tokens;
    std::fill(sums + first_head * width, sums + end_head * width, C(0));
    const auto gates = step.gate_sums.view(1, tokens, heads);
    for (index h = first_head; h < end_head; ++h) {
        C* row = scores + h * tokens;
        for (index j = 0; j < tokens; ++j) {
            if (!step.gate_sums.empty()) row[j] += static_cast<C>(*gates.at(0, last, h) - *gates.at(0, j, h));
            row[j] *= step.scale;
        }
        const C peak = *std::max_element(row, row + tokens);
        C total = 0;
        for (index j = 0; j < tokens; ++j) total += row[j] = std::exp(row[j] - peak);
        for (index j = 0; j < tokens; ++j) row[j] /= total;
    }
    for (index j = 0; j < tokens; ++j)
        for (index h = first_head; h < end_head; ++h) {
            const auto* value = reinterpret_cast<const stored_t<V>*>(values.at(0, j, h / group));
            const auto weight = simd::broadcast(scores[h * tokens + j]);
            C* sum = sums + h * width;
            index c = 0;
            for (; c + simd::lanes<C> <= width; c += simd::lanes<C>)
                simd::store(sum + c, simd::fma(weight, simd::load(value + c),
                                               simd::load(static_cast<const C*>(sum + c))));
            if (c < width)
                simd::store_some(sum + c,
                                 simd::fma(weight, simd::load_some(value + c, width - c),
                                           simd::load_some(static_cast<const C*>(sum + c), width - c)),
                                 width - c);
        }
    for (index h = first_head; h < end_head; ++h)
        for (index c = 0; c < width; ++c)
            reinterpret_cast<stored_t<O>*>(out.at(0, 0, h))[c] =
                stored_t<O>(static_cast<compute_t<O>>(sums[h * width + c]));
    return true;
}

}  // namespace ROPEWALK_NAMESPACE::path
