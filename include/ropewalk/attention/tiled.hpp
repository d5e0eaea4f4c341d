// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend: softmax attention in tiles under any mask, with the caller's workspace.
#pragma once

#include <span>

#include <ropewalk/attention/tiled_core.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// Bytes of workspace that one call of attend needs: it does not grow with the tokens.
/// Throws: invalid_config on tile sizes that are not positive or a size that does not fit.
template <class Q, class K, class V>
index attend_workspace(heads_view<Q> q, heads_view<K>, heads_view<V> v,
                       const tiled_options<compute_t<Q>>& options = {}) {
    return detail::tiled_scratch<compute_t<Q>>("attend_workspace", {}, q.channels(), v.channels(), options)
        .bytes;
}

/// Softmax attention in tiles: out = softmax(scale q k^T) v over the keys that each query sees under the
/// mask, without a score matrix.
/// Shapes:   q [batches, queries, heads, channels], k [batches, keys, kv heads, channels], v [batches, keys,
///           kv heads, value channels], out [batches, queries, heads, value channels]; any strides, each of
///           any element type. The kv heads divide the heads: query head h reads kv head h / (heads / kv
///           heads). workspace: at least attend_workspace bytes, one for each part that runs at the same
///           time.
/// Requires: out shares no memory with the inputs.
/// Throws:   invalid_config on sizes that disagree, before anything is written. Allocates nothing.
/// Cost:     (channels + value channels) multiply-adds per pair of query and key in tiles that are at least
///           partly visible; hidden tiles are skipped.
/// Accuracy: f64 within 1e-13 and f32 within 3e-6 of extended precision, for values and scores of order 1. A
///           query that sees no key gets zeros. A key that is hidden from a query cannot change its result,
///           even if it is NaN. The bits do not depend on the split into parts.
/// Source:   online softmax, Milakov and Gimelshein 2018; Rabe and Staats 2021; Dao et al. 2022.
///
///     std::vector<std::byte> workspace(attend_workspace(q, k, v));
///     attend(causal_mask{}, q, k, v, out, workspace);                                  // prefill and decode
///     attend(both(causal_mask{}, document_mask{documents}), q, k, v, out, workspace);  // packed documents
template <attention_mask Mask, class Q, class K, class V, class O>
void attend(const Mask& mask, heads_view<Q> q, heads_view<K> k, heads_view<V> v, heads_view<O> out,
            std::span<std::byte> workspace, const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend";
    detail::check_attention(who, q, k, v, out);
    const double scale = detail::checked_scale(who, options.scale, q.channels());
    const index needed = attend_workspace(q, k, v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_workspace bytes", workspace.size());
    const index rows = detail::check_options(who, q.shape, k.tokens(), options);
    const auto rules = mask.over(score_extent{q.batches(), q.heads(), q.tokens(), k.tokens()});
    if (rows == 0) return;
    const detail::tiled_scratch<T> scratch(who, detail::workspace_cutter(workspace), q.channels(),
                                           v.channels(), options);
    const detail::score_source scores(q, k, scale, scratch.queries, scratch.keys, scratch.row);
    detail::tiled_attention(rules, scores, v, out, scratch, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
