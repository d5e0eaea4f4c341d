// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Checks of a view alone: extents, memory, and strides with which two heads would share a channel.
#pragma once

#include <algorithm>
#include <limits>
#include <string>

#include <ropewalk/core/contract.hpp>
#include <ropewalk/core/heads_view.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// A dimension of a view: its extent, its stride, and what the stride must do.
struct stride_level {
    index extent, stride;
    const char* must;
};

/// The misfit of strides with which two rows of `channels` elements share one. Strides must nest: the smallest
/// steps over a row, the next over everything that the smallest reaches, and so on; backwards as forwards. The
/// levels are given in the usual order, from the innermost outwards.
inline misfit fit_rows_apart(index channels, stride_level head, stride_level token,
                             stride_level outer) noexcept {
    constexpr index most = std::numeric_limits<index>::max() / 16;
    stride_level levels[3] = {head, token, outer};
    for (stride_level& l : levels) l.stride = magnitude(l.stride);
    // Rows without channels share none, so that their strides may be 0.
    const auto one_place = [](const stride_level& l) { return l.extent <= 1 || l.stride == 0; };
    const auto too_long = [](const stride_level& l, index inside) {
        return l.extent - 1 > (most - inside) / l.stride;
    };
    // A stride that was forgotten is not the innermost one: it must step over the heads, or the tokens.
    index inside = channels;
    for (const stride_level& l : levels) {
        if (l.extent > 1 && l.stride < channels) return {l.must, inside, l.stride};
        if (one_place(l)) continue;
        if (too_long(l, inside)) break;
        inside += (l.extent - 1) * l.stride;
    }
    const auto sort = [&](int a, int b) {
        if (levels[b].stride < levels[a].stride) {
            const stride_level l = levels[a];
            levels[a] = levels[b];
            levels[b] = l;
        }
    };
    sort(0, 1), sort(1, 2), sort(0, 1);
    index span = channels;
    for (const stride_level& l : levels) {
        if (l.extent > 1 && l.stride < span) return {l.must, span, l.stride};
        if (one_place(l)) continue;
        if (too_long(l, span))
            return {"extents times strides must fit the address space, extent", 1, l.extent};
        span += (l.extent - 1) * l.stride;
    }
    return {};
}
inline misfit fit_strides_in_any_order(const heads_shape& shape, const heads_strides& strides) noexcept {
    return fit_rows_apart(
        shape.channels, {shape.heads, strides.head, "the head stride must step over what a head holds"},
        {shape.tokens, strides.token, "the token stride must step over what a token holds"},
        {shape.batches, strides.batch, "the batch stride must step over what a batch holds"});
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

/// The misfit of a view that a call reads. Its heads may share memory.
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_readable(const heads_view<T>& x) noexcept {
    const heads_shape& shape = x.shape;
    const index smallest =
        std::min(std::min(shape.batches, shape.tokens), std::min(shape.heads, shape.channels));
    if (smallest < 0) return {"extents must be >= 0 (a slice outside its view has -1)", 0, smallest};
    const bool empty = smallest == 0;
    if (!empty && x.data == nullptr) return {"data must not be null", 1, 0};
    if (!empty && shape.batches > std::numeric_limits<index>::max() / 16 / shape.tokens)
        return {"batches * tokens must fit the address space, batches", 1, shape.batches};
    return {};
}
/// The misfit of a view that a call writes to: as fit_readable, and its heads share nothing.
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_writable(const heads_view<T>& x) noexcept {
    const misfit extents = fit_readable(x);
    return !extents.ok() || x.empty() ? extents : fit_strides(x.shape, x.strides);
}

/// The misfit of one of several views, with the name of that view.
constexpr misfit in_argument(const char* argument, misfit m) noexcept {
    if (!m.ok()) m.argument = argument;
    return m;
}

/// fit_readable and fit_writable of one of several views, by name.
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_readable(const char* argument, const heads_view<T>& x) noexcept {
    return in_argument(argument, fit_readable(x));
}
template <class T>
ROPEWALK_ALWAYS_INLINE misfit fit_writable(const char* argument, const heads_view<T>& x) noexcept {
    return in_argument(argument, fit_writable(x));
}

/// The same checks of an argument of a cold call.
/// Throws: invalid_config, in words as those of a hot call.
inline void require_fits(const char* who, const char* argument, const misfit& what) {
    if (!what.ok()) fail(std::string(who) + ": " + to_string(in_argument(argument, what)));
}
template <class T>
void require_readable(const char* who, const char* argument, const heads_view<T>& x) {
    require_fits(who, argument, fit_readable(x));
}
template <class T>
void require_writable(const char* who, const char* argument, const heads_view<T>& x) {
    require_fits(who, argument, fit_writable(x));
}

}  // namespace ROPEWALK_NAMESPACE::detail
