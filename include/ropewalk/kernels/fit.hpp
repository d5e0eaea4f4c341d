// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Checks whether a call fits: the shapes, strides and layouts of views against the rows.
#pragma once

#include <algorithm>
#include <limits>

#include <ropewalk/core/heads_view.hpp>
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

/// The misfit of strides with which two heads share a channel. Strides must nest: the smallest steps over the
/// channels, the next over everything that the smallest reaches, and so on.
inline misfit fit_strides_in_any_order(const heads_shape& shape, const heads_strides& strides) noexcept {
    struct level {
        index extent, stride;
        const char* must;
    };
    level levels[3] = {{shape.heads, strides.head, "the head stride must step over what a head holds"},
                       {shape.tokens, strides.token, "the token stride must step over what a token holds"},
                       {shape.batches, strides.batch, "the batch stride must step over what a batch holds"}};
    for (level& l : levels) l.stride = l.stride < 0 ? -l.stride : l.stride;
    // A stride that was forgotten is not the innermost one: it must step over the heads, or the tokens.
    index inside = shape.channels;
    for (const level& l : levels) {
        if (l.extent <= 1) continue;
        if (l.stride < shape.channels) return {l.must, inside, l.stride};
        if (l.extent - 1 > (std::numeric_limits<index>::max() / 16 - inside) / l.stride) break;
        inside += (l.extent - 1) * l.stride;
    }
    const auto sort = [&](int a, int b) {
        if (levels[b].stride < levels[a].stride) {
            const level l = levels[a];
            levels[a] = levels[b];
            levels[b] = l;
        }
    };
    sort(0, 1), sort(1, 2), sort(0, 1);
    index span = shape.channels;
    for (const level& l : levels) {
        if (l.extent <= 1) continue;
        if (l.stride < span) return {l.must, span, l.stride};
        if (l.extent - 1 > (std::numeric_limits<index>::max() / 16 - span) / l.stride)
            return {"extents times strides must fit the address space, extent", 1, l.extent};
        span += (l.extent - 1) * l.stride;
    }
    return {};
}

/// A product of an extent and a stride up to these fits an index, and so does a sum of a few such products: no
/// division need be asked.
inline constexpr index usual_extent = index{1} << (std::numeric_limits<index>::digits / 3 - 1);
inline constexpr index usual_stride = usual_extent * usual_extent;

/// Whether strides nest in the order [batches, tokens, heads, channels] and are small enough for sums without
/// overflow.
constexpr bool nested(const heads_shape& shape, const heads_strides& strides) noexcept {
    if (shape.heads > usual_extent || shape.tokens > usual_extent || strides.head > usual_stride ||
        strides.token > usual_stride)
        return false;
    index span = shape.channels;
    if (shape.heads > 1) {
        if (strides.head < span) return false;
        span += (shape.heads - 1) * strides.head;
    }
    if (shape.tokens > 1) {
        if (strides.token < span) return false;
        span += (shape.tokens - 1) * strides.token;
    }
    return shape.batches <= 1;
}
/// As above, trying the usual order first: every call asks this.
ROPEWALK_ALWAYS_INLINE misfit fit_strides(const heads_shape& shape, const heads_strides& strides) noexcept {
    return nested(shape, strides) ? misfit{} : fit_strides_in_any_order(shape, strides);
}

/// The misfit of a view that no call may read.
ROPEWALK_ALWAYS_INLINE misfit fit_extents(const heads_shape& shape, bool has_data) noexcept {
    const index smallest =
        std::min(std::min(shape.batches, shape.tokens), std::min(shape.heads, shape.channels));
    if (smallest < 0) return {"extents must be >= 0 (a slice outside its view has -1)", 0, smallest};
    const bool empty = smallest == 0;
    if (!empty && !has_data) return {"data must not be null", 1, 0};
    if (!empty && shape.batches > std::numeric_limits<index>::max() / 16 / shape.tokens)
        return {"batches * tokens must fit the address space, batches", 1, shape.batches};
    return {};
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

/// The misfit of one of several views, with the name of that view.
constexpr misfit in_argument(const char* argument, misfit m) noexcept {
    if (!m.ok()) m.argument = argument;
    return m;
}

/// The misfit of a view that a call writes to, with the rows that rotate it.
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_written(const layout_plan& plan, const heads_view<T>& x,
                                          const rows_extents& rows, bool part_of_heads = false) noexcept {
    const misfit extents = fit_extents(x.shape, x.data != nullptr);
    if (!extents.ok() || x.empty()) return extents;
    const misfit strides = fit_strides(x.shape, x.strides);
    if (!strides.ok() || !plan.rotates) return strides;
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
