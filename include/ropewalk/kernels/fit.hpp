// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Checks whether a call fits: the shapes, strides and layouts of views against the rows.
#pragma once

#include <algorithm>
#include <limits>

#include <ropewalk/core/fit_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/kernels/row_cursor.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// The extents of rows of any kind.
struct rows_extents {
    index count, batches, heads, pairs, max_pairs;
};
template <row_source R>
constexpr rows_extents extents_of(const R& rows) noexcept {
    index most = std::numeric_limits<index>::max();
    if constexpr (requires { R::max_pairs; }) most = R::max_pairs;
    return {rows.count(), rows.batches, rows.heads, rows.pairs, most};
}

/// The number of pairs of a head that rotate.
constexpr index pairs_of(const layout_plan& plan, index channels, index rows_pairs) noexcept {
    if (rows_pairs != any_pairs) return rows_pairs;
    return plan.pairs >= 0 ? plan.pairs : (channels - plan.first_channel) / 2;
}
/// The first rotated channel of a view: with a scheme a view may also hold the rotated channels alone.
constexpr index first_channel_of(const layout_plan& plan, index channels, index pairs) noexcept {
    return plan.head_dim >= 0 && channels == 2 * pairs ? 0 : plan.first_channel;
}

/// The misfit of a layout and rows with heads of `channels` channels.
ROPEWALK_ALWAYS_INLINE misfit fit_rotation(const layout_plan& plan, const heads_shape& shape,
                                           const rows_extents& rows, bool part_of_heads) noexcept {
    if (rows.count != shape.batches * shape.tokens)
        return {"rows must be one per token (batches * tokens)", shape.batches * shape.tokens, rows.count};
    if (rows.batches != 1 && rows.batches != shape.batches)
        return {"batches of the rows must be those of the view", shape.batches, rows.batches};
    const index pairs = pairs_of(plan, shape.channels, rows.pairs);
    if (rows.heads != 1 && rows.heads != shape.heads)
        return {"rows with heads of their own must be as many as the heads of the view", shape.heads,
                rows.heads};
    if (pairs > rows.max_pairs)
        return {"pairs must be at most what rows of this kind can hold", rows.max_pairs, pairs};
    if (plan.pairs >= 0 && pairs != plan.pairs)
        return {"pairs of the rows must be half the rotary_dim of the scheme", plan.pairs, pairs};
    const bool slice = plan.head_dim >= 0 && shape.channels == 2 * pairs;
    if (!part_of_heads && !plan.whole_heads && shape.channels != 2 * pairs)
        return {"channels must be twice the pairs of the rows", 2 * pairs, shape.channels};
    if (plan.head_dim >= 0 && !slice && shape.channels != plan.head_dim)
        return {"channels must be the head_dim or the rotary_dim of the scheme", plan.head_dim,
                shape.channels};
    if (!slice && (plan.first_channel < 0 || plan.first_channel > shape.channels ||
                   pairs > (shape.channels - plan.first_channel) / 2))
        return {"first_channel + 2 * pairs must be at most the channels", shape.channels,
                plan.first_channel + 2 * pairs};
    // Field by field: a copy of the layout would be loaded in wider words than those just stored, and wait
    // for them.
    if (!plan.read.fits(pairs))
        return {"rotated channels must be a multiple of the layout's group", plan.read.group, 2 * pairs};
    if (!plan.write.fits(pairs))
        return {"rotated channels must be a multiple of the layout's group", plan.write.group, 2 * pairs};
    return {};
}

ROPEWALK_ALWAYS_INLINE misfit fit_part(part_of part) noexcept {
    if (part.parts < 1) return {"parts must be >= 1", 1, part.parts};
    if (part.part < 0 || part.part >= part.parts)
        return {"part must be at most parts - 1", part.parts - 1, part.part};
    return {};
}

/// The first misfit of several.
template <class... Rest>
constexpr misfit first_of(const misfit& m, const Rest&... rest) noexcept {
    if constexpr (sizeof...(Rest) == 0) {
        return m;
    } else {
        return m.ok() ? first_of(rest...) : m;
    }
}

/// The misfit of a view that a call writes to, with the rows that rotate it.
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_written(const layout_plan& plan, const heads_view<T>& x,
                                          const rows_extents& rows, bool part_of_heads = false) noexcept {
    const misfit place = fit_writable(x);
    if (!place.ok() || x.empty() || !plan.rotates) return place;
    return fit_rotation(plan, x.shape, rows, part_of_heads);
}

}  // namespace detail

/// What does not fit between a view and its rows; empty if rotate(layout, x, rows) would rotate the view. The
/// hot calls make exactly this check; call it yourself where shapes are decided.
/// Returns: the first misfit: extents, strides with which heads overlap, tokens, heads, pairs, channels,
///          layout.
template <layout_like L, class T, class R>
[[nodiscard]] misfit fit(const L& layout, heads_view<T> x, const R& rows) noexcept {
    return detail::fit_written(detail::plan_of(layout), x, detail::extents_of(detail::rows_of(rows)));
}
template <layout_like L, class TQ, class TK, class R>
[[nodiscard]] misfit fit(const L& layout, heads_view<TQ> q, heads_view<TK> k, const R& rows) noexcept {
    return detail::first_of(detail::in_argument("q", fit(layout, q, rows)),
                            detail::in_argument("k", fit(layout, k, rows)));
}

/// fit as an exception, for cold code that decides shapes.
/// Throws: invalid_config naming what disagrees.
template <layout_like L, class T, class R>
void require_fits(const L& layout, heads_view<T> x, const R& rows) {
    const misfit what = fit(layout, x, rows);
    if (!what.ok()) detail::fail("require_fits: " + to_string(what));
}

}  // namespace ROPEWALK_NAMESPACE
