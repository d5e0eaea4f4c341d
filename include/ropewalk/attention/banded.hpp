// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend_banded: attention whose near and far pairs use different rotations (HiRoPE, ReRoPE and others).
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include <ropewalk/attention/tiled_core.hpp>

namespace ROPEWALK_NAMESPACE::attention {

/// Queries and keys rotated in two ways. A pair closer than a window is scored with the near copies, any
/// other pair with the far ones; since the choice depends on the distance of the pair, a single rotation
/// cannot express it. HiRoPE: plain positions near, hierarchical ones far. Windowed RoPE (A2ATS): far queries
/// are rotated to one fixed distance, far keys are not rotated (repeat_row). ReRoPE: the same at the distance
/// of the window.
/// Shapes: near_q and far_q [batches, queries, heads, channels], near_k and far_k [batches, keys, kv heads,
///         channels]; a cache keeps both copies of its keys.
/// Source: HiRoPE, Zhang et al. 2024; A2ATS, He et al. 2025.
template <class Q, class K>
struct banded_copies {
    heads_view<Q> near_q;  ///< for pairs closer than the window
    heads_view<K> near_k;  ///< for pairs closer than the window
    heads_view<Q> far_q;   ///< for all others
    heads_view<K> far_k;   ///< for all others
};

/// The boundary between the copies: near when |query - key| < window, where query n has the index first_query
/// + n among the keys.
struct band {
    index window = 0;                       ///< tokens; 0: all far; from queries + keys on: all near
    std::optional<index> first_query = {};  ///< keys - queries when not given (decode)
};

}  // namespace ROPEWALK_NAMESPACE::attention

namespace ROPEWALK_NAMESPACE::detail {

/// Scores of two copies, chosen by distance. Only tiles on the edge of the band are computed twice.
template <class Q, class K>
class banded_scores {
    using T = compute_t<Q>;
    static constexpr index strip = strip_lanes<T>;

  public:
    banded_scores(score_source<Q, K> near_scores, score_source<Q, K> far_scores, index window,
                  index first_query, T* other) noexcept
        : near_(near_scores), far_(far_scores), window_(window), first_query_(first_query), other_(other) {}

    const heads_shape& q() const noexcept { return near_.q(); }
    const heads_shape& k() const noexcept { return near_.k(); }
    void read_queries(const query_tile& tile) noexcept {
        near_.read_queries(tile);
        far_.read_queries(tile);
    }
    void read_keys(index batch, index head, index first, index count, bool few) noexcept {
        near_.read_keys(batch, head, first, count, few);
        far_.read_keys(batch, head, first, count, few);
    }
    void fill(const query_tile& tile, const tile_piece& piece, T* scores) const noexcept {
        const attention::score_tile& t = piece.tile;
        const index end = t.first_key + t.keys;
        // Keys that are near for some query, and keys that are near for every query (last query .. first
        // query).
        const index first = first_query_ + t.first_query, last = first + t.queries - 1;
        const auto within = [&](index key) { return std::clamp(key, t.first_key, end); };
        const index some = within(first - window_ + 1), some_end = std::max(some, within(last + window_));
        const index all = std::clamp(last - window_ + 1, some, some_end);
        const index all_end = std::clamp(first + window_, all, some_end);
        const auto product = [&](const score_source<Q, K>& source, index from, index to, T* at) {
            if (from < to) source.fill(tile, piece.row, piece.packs, from, to - from, at);
        };
        const auto row = [&](T* at, index key) { return at + (key - t.first_key) * strip; };
        product(far_, t.first_key, some, scores);
        product(near_, some, some_end, row(scores, some));
        product(far_, some_end, end, row(scores, some_end));
        for (const auto& [from, to] : {std::pair{some, all}, std::pair{all_end, some_end}}) {
            product(far_, from, to, other_);
            for (index j = from; j < to; ++j) {
                T* at = row(scores, j);
                const T* other = other_ + (j - from) * strip;
                for (index n = first; n <= last; ++n)
                    for (index h = 0; h < tile.heads; ++h, ++at, ++other)
                        if (n - j >= window_ || j - n >= window_) *at = *other;
            }
        }
    }

  private:
    score_source<Q, K> near_, far_;
    index window_, first_query_;
    T* other_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// Bytes of workspace that one call of attend_banded needs; it does not grow with the tokens.
/// Throws: invalid_config on tile sizes that are not positive or a size that does not fit.
template <class Q, class K, class V>
index attend_banded_workspace(const banded_copies<Q, K>& copies, heads_view<V> v,
                              const tiled_options<compute_t<Q>>& options = {}) {
    return detail::tiled_scratch<compute_t<Q>>("attend_banded_workspace", {}, copies.near_q.channels(),
                                               v.channels(), options, 2)
        .bytes;
}

/// attend with scores from two copies of queries and keys, chosen by distance. One softmax covers near and
/// far keys. For prefill and decode.
/// Shapes:   as attend. workspace: at least attend_banded_workspace bytes.
/// Requires: out shares no memory with the inputs.
/// Throws:   invalid_config on sizes that disagree, a negative window, or a window or first_query beyond
///           2^60, before anything is written. Allocates nothing.
/// Cost:     attend's, plus a second product of the tiles on the edges of the band.
/// Accuracy: as attend. A window that covers every key gives the same bits as attend on the near copies; a
///           window of 0 gives those of attend on the far ones.
/// Source:   HiRoPE, Zhang et al. 2024; A2ATS, He et al. 2025.
///
///     std::vector<std::byte> workspace(attend_banded_workspace(copies, v));
///     attend_banded(causal_mask{}, copies, {.window = 512}, v, out, workspace);
template <attention_mask Mask, class Q, class K, class V, class O>
void attend_banded(const Mask& mask, const banded_copies<Q, K>& copies, const band& inside, heads_view<V> v,
                   heads_view<O> out, std::span<std::byte> workspace,
                   const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend_banded";
    constexpr index beyond = detail::limit_of_bits(60);
    const heads_view<Q> q = copies.near_q;
    const heads_view<K> k = copies.near_k;
    detail::check_attention(who, q, k, v, out);
    detail::require_extents(who, "far_q must have near_q's extents", q.shape, copies.far_q.shape);
    detail::require_extents(who, "far_k must have near_k's extents", k.shape, copies.far_k.shape);
    detail::require(inside.window >= 0 && inside.window <= beyond, who, "window must be >= 0", inside.window);
    const index first = inside.first_query.value_or(k.tokens() - q.tokens());
    detail::require(first >= -beyond && first <= beyond, who,
                    "first_query must be within " ROPEWALK_DETAIL_LIMIT_60, first);
    const double scale = detail::checked_scale(who, options.scale, q.channels());
    const index needed = attend_banded_workspace(copies, v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_banded_workspace bytes", workspace.size());
    const index rows = detail::check_options(who, q.shape, k.tokens(), options);
    const auto rules = mask.over(score_extent{q.batches(), q.heads(), q.tokens(), k.tokens()});
    if (rows == 0) return;
    const detail::tiled_scratch<T> at(who, detail::workspace_cutter(workspace), q.channels(), v.channels(),
                                      options, 2);
    const detail::score_source<Q, K> near_scores(q, k, scale, at.queries, at.keys, at.row),
        far_scores(copies.far_q, copies.far_k, scale, at.far_queries, at.far_keys, at.row);
    const detail::banded_scores<Q, K> scores(near_scores, far_scores, inside.window, first, at.far_scores);
    detail::tiled_attention(rules, scores, v, out, at, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
