// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// attend_rotating_keys: attention over unrotated cached keys, rotated tile by tile as they are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

#include <ropewalk/attention/tiled.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// Scores of keys that are rotated when a tile of them is read.
template <class Q, class K, class L, class R>
class rotated_key_scores {
    using T = compute_t<Q>;

  public:
    rotated_key_scores(const L& layout, const R& rows, score_source<Q, K> source, heads_view<K> k,
                       T* copy) noexcept
        : layout_(layout), rows_(rows), source_(source), k_(k), copy_(copy) {}

    const heads_shape& q() const noexcept { return source_.q(); }
    const heads_shape& k() const noexcept { return source_.k(); }
    void read_queries(const query_tile& tile) noexcept { source_.read_queries(tile); }
    void read_keys(index batch, index head, index first, index count, bool) noexcept {
        const index channels = k_.channels(), width = whole_packs<T>(channels);
        for (index j = 0; j < count; ++j) {
            T* const to = copy_ + j * width;
            read_row(k_.at(batch, first + j, head), to, channels);
            std::fill(to + channels, to + width, T(0));
        }
        const R of_batch = rows_.batches > 1 ? rows_.batch_slice(batch, 1).token_slice(first, count)
                                             : rows_.token_slice(batch * k_.tokens() + first, count);
        const heads_view<T> tile(copy_, {1, count, 1, channels}, {count * width, width, width});
        rotate(layout_, tile, of_batch.head_slice(head, 1));
        source_.use_keys({copy_, width}, first);
    }
    void fill(const query_tile& tile, const tile_piece& piece, T* scores) const noexcept {
        source_.fill(tile, piece, scores);
    }

  private:
    const L& layout_;
    const R& rows_;
    score_source<Q, K> source_;
    heads_view<K> k_;
    T* copy_;
};

}  // namespace ROPEWALK_NAMESPACE::detail

namespace ROPEWALK_NAMESPACE::attention {

/// attend over keys that a cache stores unrotated: each tile of them is rotated by its tokens' rows when it
/// is read. A cached block can therefore be used at any position: nothing is written back, rounding does not
/// accumulate, and a magnitude is applied once.
/// Shapes:   q rotated already, k as cached; rows of k's batches * tokens tokens (of one head, or of every
///           kv head), as for rotate(layout, k, rows); else as attend, workspace of attend_workspace bytes.
/// Requires: out shares no memory with the inputs.
/// Throws:   invalid_config as attend, and when the rows do not fit the keys, before anything is written.
///           Allocates nothing.
/// Cost:     attend's, plus a rotation of the keys for every tile of queries: about a tenth more time for a
///           prefill of 2048 tokens (96 queries per tile), a fifth more for a decode step over 8192 (f32,
///           AVX-512).
/// Accuracy: f64 and f32: the same bits as attend over keys rotated by `rotate`. 16-bit keys are rotated in
///           f32 and not rounded again.
/// Source:   StreamingLLM, arXiv 2309.17453, and MEPIC, arXiv 2512.16822 (keys are rotated when they are
///           read).
///
///     attend_rotating_keys(causal_mask{}, half_split{}, q, k, table.rows(positions), v, out, workspace);
template <attention_mask Mask, layout_like L, class Q, class K, class R, class V, class O>
void attend_rotating_keys(const Mask& mask, const L& layout, heads_view<Q> q, heads_view<K> k,
                          const R& key_rows, heads_view<V> v, heads_view<O> out,
                          std::span<std::byte> workspace, const tiled_options<compute_t<Q>>& options = {}) {
    using T = compute_t<Q>;
    constexpr const char* who = "attend_rotating_keys";
    static_assert(std::is_same_v<compute_t<K>, T>, "queries and keys have one compute type");
    detail::check_attention(who, q, k, v, out);
    const double scale = detail::checked_scale(who, options.scale, q.channels());
    const auto& rows = detail::rows_of(key_rows);
    const misfit wrong = fit(layout, k, rows);
    if (!wrong.ok()) detail::fail(std::string(who) + ": " + to_string(wrong));
    const index needed = attend_workspace(q, k, v, options);
    detail::require(static_cast<index>(workspace.size()) >= needed, who,
                    "workspace must hold attend_workspace bytes", workspace.size());
    const index count = detail::check_options(who, q.shape, k.tokens(), options);
    const auto rules = mask.over(score_extent{q.batches(), q.heads(), q.tokens(), k.tokens()});
    if (count == 0) return;
    const detail::tiled_scratch<T> at(who, detail::workspace_cutter(workspace), q.channels(), v.channels(),
                                      options);
    const detail::rotated_key_scores scores(
        layout, rows, detail::score_source<Q, K>(q, k, scale, at.queries, at.keys, at.row), k, at.keys);
    detail::tiled_attention(rules, scores, v, out, at, options).run();
}

}  // namespace ROPEWALK_NAMESPACE::attention
