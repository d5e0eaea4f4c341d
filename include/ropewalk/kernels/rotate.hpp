// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// rotate, unrotate and rotate_gradient: the rotation of queries and keys in place.
#pragma once

#include <type_traits>

#include <ropewalk/kernels/fit.hpp>
#include <ropewalk/kernels/layout_change.hpp>
#include <ropewalk/kernels/pair_arithmetic.hpp>

namespace ROPEWALK_NAMESPACE {

/// The rows for data of type T: f64 for f64 data, f32 otherwise.
template <class T>
using rows_for = rows_view<compute_t<T>>;

namespace detail {

/// The heads of one token, and the number of the first of them in the tensor.
template <class Place>
struct token_part {
    Place place;
    index first_head;
};

/// The part of one tensor that a call rotates in place: heads [first, first + count) of every token it
/// visits.
template <class T>
struct part_in_place {
    const heads_view<T>& x;
    work_range heads;
    index first_channel;

    ROPEWALK_ALWAYS_INLINE token_part<places_in_place<stored_t<T>>> at(index token) const noexcept {
        if (heads.count == 0) return {};  // a view without memory: no offset is added to null
        const index b = x.batches() == 1 ? 0 : token / x.tokens(), n = token - b * x.tokens();
        return {in_place(reinterpret_cast<stored_t<T>*>(x.at(b, n, heads.first) + first_channel),
                         x.strides.head, heads.count),
                heads.first};
    }
};
/// The same for a tensor that is read and one that is written.
template <class S, class D>
struct tensor_part {
    const heads_view<S>& from;
    const heads_view<D>& to;
    work_range heads;
    index first_channel;
    bool past_caches = false;

    ROPEWALK_ALWAYS_INLINE token_part<plain_places<stored_t<S>, stored_t<D>>> at(index token) const noexcept {
        if (heads.count == 0) return {};  // a view without memory: no offset is added to null
        const index b = to.batches() == 1 ? 0 : token / to.tokens(), n = token - b * to.tokens();
        return {{{reinterpret_cast<const stored_t<S>*>(from.at(b, n, heads.first) + first_channel),
                  from.strides.head},
                 reinterpret_cast<stored_t<D>*>(to.at(b, n, heads.first) + first_channel),
                 to.strides.head,
                 heads.count,
                 past_caches},
                heads.first};
    }
};

/// All pairs of some heads of one token, in a layout known at compile time.
template <class Layout, class Row, class Tensors>
ROPEWALK_ALWAYS_INLINE void rotate_heads(Layout layout, outer_loop outer, const Row& row, index pairs,
                                         const Tensors& x) noexcept {
    if constexpr (std::is_same_v<Layout, half_split>) {
        rotate_half_span(outer, row, pairs, pairs, x);
    } else if constexpr (std::is_same_v<Layout, interleaved>) {
        rotate_interleaved_span(outer, row, pairs, x);
    } else if constexpr (std::is_same_v<Layout, two_layouts>) {
        x.each([&](const auto& place) { rotate_between(layout.read, layout.write, row, pairs, place); });
    } else {
        const index half = layout.channels > 0 ? layout.channels / 2 : pairs;
        for (index i = 0; i < pairs; i += half)
            rotate_half_span(outer, row.from(i), half, half, x.at_channel(2 * i));
    }
    (void)layout;
    (void)outer;
}

/// One token in a call: its row is loaded or computed once for the heads of all tensors.
template <class Cursor>
class token_rotation {
  public:
    using row_type = decltype(std::declval<Cursor&>().row_of(index{}, index{}));

    ROPEWALK_ALWAYS_INLINE token_rotation(Cursor& rows, index token, direction way) noexcept
        : rows_(rows), token_(token), way_(way) {
        if (rows.heads == 1) row_ = rows.row_of(token, 0);
    }
    /// Whether the token has a row, for all heads or for single ones.
    ROPEWALK_ALWAYS_INLINE bool has_row() const noexcept {
        return rows_.heads == 1 ? static_cast<bool>(row_) : rows_.touches(token_);
    }

    /// Whether one row serves all heads.
    ROPEWALK_ALWAYS_INLINE bool has_one_row() const noexcept { return rows_.heads == 1; }
    ROPEWALK_ALWAYS_INLINE directed_row<row_type> row() const noexcept { return {row_, way_}; }

    /// Rotates some heads of one or two tensors, all by one row or each by its own. (One loop for each tensor
    /// would double the code.) If heads have their own rows, there are as many as heads in every non-empty
    /// tensor. A copy of the row does not pay for a single head (AVX2, mixed 2-D, 32 x 32 patches: 5.2 times
    /// a plain pass over the data, without the copy 2.9 times).
    /// Returns: whether any of the heads has a row.
    template <class Layout, class... Place>
    ROPEWALK_ALWAYS_INLINE bool rotate_token(Layout layout, outer_loop outer, index pairs,
                                             token_part<Place>... x) const noexcept {
        const bool shared = rows_.heads == 1;
        const index count = shared ? 1 : largest(x.place.heads...);
        if (!shared) outer = outer_loop::registers;
        bool touched = false;
        row_type row = row_;
        for (index h = 0; h < count; ++h) {
            if (!shared) row = rows_.row_of(token_, largest(x.first_head...) + h);
            if (!row) continue;
            touched = true;
            rotate_heads(layout, outer, directed_row<row_type>{row, way_}, pairs,
                         tensors{shared ? x.place : x.place.only(h)...});
        }
        return touched;
    }

  private:
    Cursor& rows_;
    row_type row_ = {};
    index token_;
    direction way_;
};

/// Which channels of a head rotate.
struct slice_extents {
    index pairs, first_channel, channels;
};
/// The heads of one token from source to target: the slice is rotated, the channels beside it are copied. All
/// are copied if there is no row or no slice.
/// Returns:  whether they were rotated.
template <class Layout, class Cursor, class Place>
ROPEWALK_ALWAYS_INLINE bool rotate_slice(Layout layout, outer_loop outer, const token_rotation<Cursor>& token,
                                         slice_extents slice, token_part<Place> x) noexcept {
    const index first = slice.first_channel, end = first + 2 * slice.pairs;
    if (slice.pairs == 0 || !token.rotate_token(layout, outer, slice.pairs,
                                                token_part<Place>{x.place.at_channel(first), x.first_head})) {
        pass_channels(x.place, 0, slice.channels);
        return false;
    }
    if (first > 0) pass_channels(x.place, 0, first);
    if (end < slice.channels) pass_channels(x.place, end, slice.channels);
    return true;
}

/// Whether rows without pairs, which rotate nothing, still mark a token as untouched.
template <class R>
bool untouched_by(const R& rows, index token) noexcept {
    if constexpr (requires { rows.row(token); }) {
        return rows.row(token) < 0;
    } else {
        return false;
    }
}

/// Bytes that fit in every L2 cache beside a table.
inline constexpr index cached_bytes = 1 << 18;

template <class T>
constexpr index bytes_of_token(const heads_view<T>& x) noexcept {
    return x.heads() * x.channels() * static_cast<index>(sizeof(T));
}

/// The loop over the tokens of a part: calls f(layout, outer, cursor, token, tensors at the token ...).
template <class L, class R, class C, class F, class... Tensor>
bool each_token(const char* who, const L& layout, const layout_plan& plan, const R& rows, C, index bytes,
                const work_part& work, F f, const Tensor&... x) noexcept {
    row_cursor<R, C> cursor(rows);
    const index last = work.first_token + work.tokens;
    const outer_loop outer = bytes * work.tokens > cached_bytes ? outer_loop::heads : outer_loop::registers;
    const auto run = [&](auto kind) {
        for (index token = work.first_token; token < last; ++token) {
            if (token + 1 < last) cursor.expect(token + 1);
            f(kind, outer, cursor, token, x.at(token)...);
        }
    };
    // The only switch over layouts in a call; there is none if the layout is known at compile time.
    if constexpr (std::is_same_v<L, half_split> || std::is_same_v<L, interleaved>) {
        run(layout);
    } else if constexpr (static_layout<L>) {
        run(grouped{L::group});
    } else if (plan.read != plan.write) {
        if constexpr (!std::is_same_v<L, pair_layout>) run(two_layouts{plan.read, plan.write});
    } else if (plan.read.kind == pair_layout::kind_type::interleaved) {
        run(interleaved{});
    } else {  // half-split heads are one group: a separate loop for them would be a third more code
        run(grouped{plan.read.kind == pair_layout::kind_type::blocked ? plan.read.group : 0});
    }
    return cursor.missing < 0 || tell(who, missing_row(rows, cursor.missing));
}

/// The element type of a view, void for any other type. The verbs take views as a plain template parameter,
/// so that a call with its arguments in the wrong order is refused in one line; with heads_view<T> in the
/// signatures GCC prints seven lines for each of the three overloads.
template <class X>
struct element {
    using type = void;
};
template <class T>
struct element<heads_view<T>> {
    using type = T;
};
template <class X>
using element_of = typename element<X>::type;

// Asserted in place of the condition itself, of which compilers would print every clause.
template <class...>
inline constexpr bool none_of_these = false;

/// Whether these types can be used in one call; if not, the assertion says in one line why.
template <class L, class R, class... T>
constexpr bool types_fit() noexcept {
    if constexpr ((std::is_void_v<T> || ...)) {
        static_assert(none_of_these<T...>,
                      "ropewalk: a rotation takes (layout, x, rows), (layout, q, k, rows) or (layout, q, k, "
                      "rows of q, rows of k), where x, q and k are heads_view");
        return false;
    } else if constexpr (!layout_like<L>) {
        static_assert(none_of_these<L>,
                      "ropewalk: the first argument is a layout: half_split{}, interleaved{}, blocked<g>{}, "
                      "a pair_layout, a layout_slice or a rotary_scheme");
        return false;
    } else if constexpr (!row_source<rows_of_t<R>>) {
        static_assert(none_of_these<R>,
                      "ropewalk: these are no rows: pass table.rows(positions), a table whose row is the "
                      "token's number, or rows_on_the_fly(spectrum, positions)");
        return false;
    } else if constexpr (!(element_type<T> && ...)) {
        static_assert(none_of_these<T...>,
                      "ropewalk: elements are double, float, f16 or bf16, or a type with the bits of these");
        return false;
    } else if constexpr ((std::is_const_v<T> || ...)) {
        static_assert(
            none_of_these<T...>,
            "ropewalk: a view of const elements cannot be rotated in place; rotate_into writes elsewhere");
        return false;
    } else if constexpr (!(serves<rows_of_t<R>, compute_t<T>> && ...)) {
        static_assert(none_of_these<R, T...>,
                      "ropewalk: f64 data read f64 rows, all other data f32 rows: position_table<double> or "
                      "<float>; q and k of both kinds take rows each");
        return false;
    } else {
        return true;
    }
}

/// The views of a call, all in one kernel. A single view has its own kernel: with an empty second view a
/// single head took 37 ns instead of 30 ns.
template <class L, class R, class... X>
bool rotate_views(const char* who, const L& layout, const R& rows, direction way, part_of part,
                  const X&... x) noexcept {
    if constexpr (types_fit<L, R, element_of<X>...>()) {
        layout_plan plan = plan_of(layout);
        if (way != direction::forward) std::swap(plan.read, plan.write);
        const rows_extents extents = extents_of(rows);
        misfit wrong;
        // A single view needs no name.
        const char* name = sizeof...(X) == 1 ? nullptr : "q";
        const auto fitting = [&](const auto& view) {
            wrong = in_argument(std::exchange(name, "k"), fit_written(plan, view, extents));
            return wrong.ok();
        };
        if (!(fitting(x) && ...) || !(wrong = fit_part(part)).ok()) return tell(who, wrong);
        if (!plan.rotates || (x.empty() && ...)) return true;
        const index pairs = pairs_of(plan, largest(x.empty() ? 0 : x.channels()...), extents.pairs);
        if (plan.read != plan.write && pairs > changed_pairs)
            return tell(
                who, {"pairs must be at most 512 where the layout changes in place", changed_pairs, pairs});
        const work_part work = partition_tokens(extents.count, part);
        const auto heads = [&](const auto& view) {
            return view.empty() ? work_range{} : partition(view.heads(), work.heads);
        };
        return each_token(
            who, layout, plan, rows, std::common_type_t<compute_t<element_of<X>>...>{},
            (bytes_of_token(x) + ...), work,
            [&](auto kind, outer_loop outer, auto& cursor, index token, auto... at)
                ROPEWALK_DETAIL_INLINE_LAMBDA {
                    token_rotation(cursor, token, way).rotate_token(kind, outer, pairs, at...);
                },
            part_in_place<element_of<X>>{x, heads(x), first_channel_of(plan, x.channels(), pairs)}...);
    } else {
        return false;
    }
}

/// Separate rows for q and k: neither tensor is touched unless both fit.
template <class L, class Q, class K, class RQ, class RK>
bool rotate_apart(const char* who, const L& layout, const Q& q, const K& k, const RQ& rows_q,
                  const RK& rows_k, direction way, part_of part) noexcept {
    if constexpr (types_fit<L, RQ, element_of<Q>>() && types_fit<L, RK, element_of<K>>()) {
        if (!fits(who, first_of(in_argument("q", fit(layout, q, rows_q)),
                                in_argument("k", fit(layout, k, rows_k)))))
            return false;
        return rotate_views(who, layout, rows_q, way, part, q) &&
               rotate_views(who, layout, rows_k, way, part, k);
    } else {
        return false;
    }
}

/// The default argument for rows, which fits no view: types_fit then refuses a call without a layout or
/// without rows, and the compiler does not list the overloads.
struct no_rows {};

}  // namespace detail

/// Rotates every pair (x, y) of every head by the angle in the row of its token, in place: (x, y) <- (x cos -
/// y sin, x sin + y cos), counter-clockwise. The magnitude is part of cos and sin.
/// Shapes:   x, q, k: heads_view [batches, tokens, heads, 2 * pairs]; for a scheme or layout_slice whole
///           heads, of which a slice rotates. Rows of batches * tokens tokens; rows with their own heads have
///           as many heads as the view.
/// Requires: a call that fits (see fit): distinct (b, n, h) do not overlap; q and k have equally many tokens.
///           Rows are not optional; their default makes the compiler's refusal of a call without them short.
/// Returns:  true; false if the call does not fit and ROPEWALK_ON_MISFIT lets the program continue. Nothing
///           was touched in that case, with one exception: if a row is outside the table, only its token is
///           left untouched.
/// Cost:     one pass over the data, in place; no allocation, no thread. An extent of zero makes it a no-op.
/// Accuracy: f64, f32: 2 ulp of the norm of the pair. f16, bf16: half a storage ulp of the result plus 2 f32
///           ulp of the norm of the pair. Within one build the bits are the same for any alignment, stride,
///           split or mix of tensors. NaN and infinity stay in their pair. A build for AVX512_BF16 flushes
///           bf16 results below 2^-126 to zero.
/// Threads:  calls on disjoint data may run concurrently; `part` splits one call over the caller's threads.
/// Source:   RoFormer, Su et al. 2021, eq. 34; for the pair orders see pair_layout.
///
///     rotate(half_split{}, q, k, table.rows(positions));
template <class L, class X, class R = detail::no_rows>
bool rotate(const L& layout, X x, const R& rows = {}, part_of part = {}) noexcept {
    return detail::rotate_views("rotate", layout, detail::rows_of(rows), detail::direction::forward, part, x);
}
template <class L, class Q, class K, class R>
bool rotate(const L& layout, Q q, K k, const R& rows, part_of part = {}) noexcept {
    return detail::rotate_views("rotate", layout, detail::rows_of(rows), detail::direction::forward, part, q,
                                k);
}
template <class L, class Q, class K, class RQ, class RK>
bool rotate(const L& layout, Q q, K k, const RQ& rows_q, const RK& rows_k, part_of part = {}) noexcept {
    return detail::rotate_apart("rotate", layout, q, k, detail::rows_of(rows_q), detail::rows_of(rows_k),
                                detail::direction::forward, part);
}

/// The inverse of rotate: rotates back and divides by the squared magnitude of the row of each pair, so that
/// unrotate(rotate(x)) = x also for YaRN and xPos. The write layout of a scheme is read and its read layout
/// is written.
/// Shapes, Requires, Returns, Cost, Threads: as rotate.
/// Accuracy: as rotate, in each direction, plus the rounding of the row.
/// Source:   R(-p) R(p) = 1.
template <class L, class X, class R = detail::no_rows>
bool unrotate(const L& layout, X x, const R& rows = {}, part_of part = {}) noexcept {
    return detail::rotate_views("unrotate", layout, detail::rows_of(rows), detail::direction::inverse, part,
                                x);
}
template <class L, class Q, class K, class R>
bool unrotate(const L& layout, Q q, K k, const R& rows, part_of part = {}) noexcept {
    return detail::rotate_views("unrotate", layout, detail::rows_of(rows), detail::direction::inverse, part,
                                q, k);
}
template <class L, class Q, class K, class RQ, class RK>
bool unrotate(const L& layout, Q q, K k, const RQ& rows_q, const RK& rows_k, part_of part = {}) noexcept {
    return detail::rotate_apart("unrotate", layout, q, k, detail::rows_of(rows_q), detail::rows_of(rows_k),
                                detail::direction::inverse, part);
}

/// The gradient of rotate: multiplies by the transposed matrix, which keeps the magnitude.
/// Shapes, Requires, Returns, Cost, Accuracy, Threads: as rotate.
/// Source: the transpose of a rotation is the rotation by the negative angle.
template <class L, class X, class R = detail::no_rows>
bool rotate_gradient(const L& layout, X x, const R& rows = {}, part_of part = {}) noexcept {
    return detail::rotate_views("rotate_gradient", layout, detail::rows_of(rows),
                                detail::direction::transpose, part, x);
}
template <class L, class Q, class K, class R>
bool rotate_gradient(const L& layout, Q q, K k, const R& rows, part_of part = {}) noexcept {
    return detail::rotate_views("rotate_gradient", layout, detail::rows_of(rows),
                                detail::direction::transpose, part, q, k);
}
template <class L, class Q, class K, class RQ, class RK>
bool rotate_gradient(const L& layout, Q q, K k, const RQ& rows_q, const RK& rows_k,
                     part_of part = {}) noexcept {
    return detail::rotate_apart("rotate_gradient", layout, q, k, detail::rows_of(rows_q),
                                detail::rows_of(rows_k), detail::direction::transpose, part);
}

}  // namespace ROPEWALK_NAMESPACE
