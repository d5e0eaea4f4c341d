// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend_dual_chunk: dual chunk attention in tiles, without a score matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include <ropewalk/attention/dual_chunk.hpp>
#include <ropewalk/attention/tiled_core.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Scores of queries under three rotations, chosen by how many chunks a key is before the query. Only pieces
/// whose queries are on both sides of a chunk's border are computed more than once.
template <class Q, class K>
class chunk_scores {
    using T = compute_t<Q>;
    static constexpr index strip = strip_lanes<T>;

  public:
    chunk_scores(const dual_chunk& chunks, score_source<Q, K> same, score_source<Q, K> previous,
                 score_source<Q, K> older, index first_query, T* other) noexcept
        : chunks_(chunks), rows_{same, previous, older}, first_query_(first_query), other_(other) {}

    const heads_shape& q() const noexcept { return rows_[0].q(); }
    const heads_shape& k() const noexcept { return rows_[0].k(); }
    void read_queries(const query_tile& tile) noexcept {
        // Queries of the first two chunks have no older keys, those of the first no previous ones.
        const index last = chunks_.chunk_of(first_query_ + tile.first_query + tile.queries - 1);
        for (index r = 0; r <= std::min<index>(last, 2); ++r) rows_[r].read_queries(tile);
    }
    void read_keys(index batch, index head, index first, index count, bool few) noexcept {
        rows_[0].read_keys(batch, head, first, count, few);
        for (index r : {1, 2}) rows_[r].share_keys(rows_[0]);
    }
    void fill(const query_tile& tile, const tile_piece& piece, T* scores) const noexcept {
        const attention::score_tile& t = piece.tile;
        const index end = t.first_key + t.keys, first = first_query_ + t.first_query;
        const index first_chunk = chunks_.chunk_of(first),
                    last_chunk = chunks_.chunk_of(first + t.queries - 1);
        for (index from = t.first_key; from < end;) {
            const index chunk = chunks_.chunk_of(from);
            const index to = std::min(end, (chunk + 1) * chunks_.period());
            T* const at = scores + (from - t.first_key) * strip;
            const index nearest = row_of(first_chunk, chunk), farthest = row_of(last_chunk, chunk);
            rows_[nearest].fill(tile, piece.row, piece.packs, from, to - from, at);
            for (index r = nearest + 1; r <= farthest; ++r) {
                rows_[r].fill(tile, piece.row, piece.packs, from, to - from, other_);
                for (index j = 0; j < to - from; ++j)
                    for (index n = 0; n < t.queries; ++n)
                        if (row_of(chunks_.chunk_of(first + n), chunk) == r)
                            std::copy_n(other_ + j * strip + n * tile.heads, tile.heads,
                                        at + j * strip + n * tile.heads);
            }
            from = to;
        }
    }

  private:
    static index row_of(index query_chunk, index key_chunk) noexcept {
        return std::clamp<index>(query_chunk - key_chunk, 0, 2);
    }

    const dual_chunk& chunks_;
    score_source<Q, K> rows_[3];  // same, previous, older
    index first_query_;
    T* other_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// Bytes of workspace that one call of attend_dual_chunk needs; it does not grow with the tokens.
/// Throws: invalid_config on tile sizes that are not positive or a size that does not fit.
template <class Q, class V>
index attend_dual_chunk_workspace(const dual_chunk_queries<Q>& q, heads_view<V> v,
                                  const tiled_options<compute_t<Q>>& options = {}) {
    return detail::tiled_scratch<compute_t<Q>>("attend_dual_chunk_workspace", {}, q.same.channels(),
                                               v.channels(), options, 3)
        .bytes;
}

/// attend with the scores of fill_dual_chunk_scores: one softmax over all chunks, for prefill and decode.
/// Shapes:   queries as dual_chunk_queries, k [batches, Lk, kv heads, channels] rotated by key_positions, v
///           and out as attend. workspace: at least attend_dual_chunk_workspace bytes.
/// Requires: out shares no memory with the inputs.
/// Throws:   invalid_config on sizes that disagree or a first_query outside 0 .. 2^60, before anything is
///           written. Allocates nothing. options.scale is not read: chunk_options has one.
/// Cost:     attend's, plus a second or third product of the pieces on the borders of chunks.
/// Accuracy: as attend. Sequences of one chunk give the same bits as attend with the `same` queries.
/// Source:   arXiv 2402.17463; HKUNLP/ChunkLlama chunkllama_attn_replace.py.
///
///     std::vector<std::byte> workspace(attend_dual_chunk_workspace(queries, v));
///     attend_dual_chunk(causal_mask{}, chunks, queries, k, v, out, workspace);
template <attention_mask Mask, class Q, class K, class V, class O>
void attend_dual_chunk(const Mask& mask, const dual_chunk& chunks, const dual_chunk_queries<Q>& q,
                       heads_view<K> k, heads_view<V> v, heads_view<O> out, std::span<std::byte> workspace,
                       const dual_chunk_options& chunk_options = {},
                       const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend_dual_chunk";
    detail::check_attention(who, q.same, k, v, out);
    const double scale = detail::dual_chunk_scale(who, q, k, chunk_options);
    const index first = chunk_options.first_query.value_or(k.tokens() - q.same.tokens());
    detail::require(first <= detail::limit_of_bits(60), who,
                    "first_query must be within " ROPEWALK_DETAIL_LIMIT_60, first);
    const index needed = attend_dual_chunk_workspace(q, v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_dual_chunk_workspace bytes", workspace.size());
    const index rows = detail::check_options(who, q.same.shape, k.tokens(), options);
    const auto rules = mask.over(score_extent{q.same.batches(), q.same.heads(), q.same.tokens(), k.tokens()});
    if (rows == 0) return;
    const detail::tiled_scratch<T> at(who, detail::workspace_cutter(workspace), q.same.channels(),
                                      v.channels(), options, 3);
    const auto source = [&](heads_view<Q> queries, T* copy) {
        return detail::score_source<Q, K>(queries, k, scale, copy, at.keys, at.row);
    };
    const detail::chunk_scores<Q, K> scores(
        chunks, source(q.same, at.queries), source(q.previous, at.far_queries),
        source(q.older, at.far_queries + at.query_numbers), first, at.far_scores);
    detail::tiled_attention(rules, scores, v, out, at, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
