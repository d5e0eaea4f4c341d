// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <type_traits>

#include <ropewalk/angles/rows_view.hpp>
#include <ropewalk/kernels/pair_layout.hpp>
#include <ropewalk/kernels/partition.hpp>
#include <ropewalk/kernels/rotate_token.hpp>

namespace ROPEWALK_NAMESPACE {

/// The rows that data of type T reads: f64 for f64 data, f32 otherwise.
template <class T>
using rows_for = rows_view<compute_t<T>>;

namespace detail {

enum class turn : std::uint8_t { forward, transpose, inverse };

template <turn Turn, class C>
row_factors<C> factors_of(const rows_view<C>& rows) noexcept {
    if constexpr (Turn == turn::forward) return {1, 1};
    if constexpr (Turn == turn::transpose) return {1, -1};
    const double squared = rows.magnitude * rows.magnitude;
    return {static_cast<C>(1 / squared), static_cast<C>(-1 / squared)};
}

/// Whether the rows belong to the view. A call that breaks its contract is stopped by an assertion in a
/// debug build and touches nothing in a release build.
template <class T, class Rows>
bool rows_match(pair_layout layout, const heads_view<T>& x, const Rows& rows) noexcept {
    return x.empty() || (x.channels() == 2 * rows.pairs && rows.tokens >= x.batches() * x.tokens() &&
                         (rows.heads == 1 || rows.heads >= x.heads()) && layout.fits(rows.pairs));
}

/// What one part covers of one tensor: heads [first, first + count) of every token it visits.
template <class T>
struct tensor_part {
    const heads_view<T>& view;
    work_range heads;

    tensor_part(const heads_view<T>& x, part_of part) noexcept : view(x), heads(partition(x.heads(), part)) {}
    token_heads<stored_t<T>> at(index token) const noexcept {
        const index b = view.batches() == 1 ? 0 : token / view.tokens();
        return {reinterpret_cast<stored_t<T>*>(view.at(b, token - b * view.tokens(), heads.first)),
                view.strides.head, heads.count};
    }
};

template <class T>
token_heads<stored_t<T>> heads_of(const heads_view<T>& x, index token, part_of part) noexcept {
    return tensor_part<T>(x, part).at(token);
}

ROPEWALK_ALWAYS_INLINE void prefetch(const void* p) noexcept {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

/// Rows that stand in a table.
template <class C>
struct rows_in_table {
    const rows_view<C>& view;
    index pairs = view.pairs;
    index heads = view.heads;
    index tokens = view.tokens;

    /// Positions come in any order, so no hardware prefetcher guesses the next row.
    void expect(index token) const noexcept {
        const index r = view.row(token);
        if (r < 0) return;
        constexpr index line = 64 / static_cast<index>(sizeof(C));
        for (index i = 0; i < pairs; i += line) {
            prefetch(view.cos_at(r, 0) + i);
            prefetch(view.sin_at(r, 0) + i);
        }
    }
    row_in_memory<C> row_of(index token, index head) const noexcept {
        const index r = view.row(token);
        if (r < 0) return {};
        return {view.cos_at(r, head), view.sin_at(r, head)};
    }
};

/// What every L2 holds beside a table.
inline constexpr index cached_bytes = 1 << 18;

/// Token outer, head inner; the row of a token is fetched or made once for the heads of all tensors.
template <class Layout, class Rows, class Factors, class... T>
void turn_tensors(Layout layout, Rows& rows, Factors factors, part_of part,
                  const heads_view<T>&... x) noexcept {
    static_assert((!std::is_const_v<T> && ...),
                  "rotation is in place: a view of const elements cannot be turned");
    const bool match = (rows_match(layout, x, rows) && ...);
    ROPEWALK_EXPECT(match);
    if (!match || (x.empty() && ...)) return;
    const index tokens = largest((x.empty() ? index{0} : x.batches() * x.tokens())...);
    const work_part work = partition_tokens(tokens, part);
    const index last = work.first_token + work.tokens;
    const index bytes = work.tokens * ((x.heads() * x.channels() * static_cast<index>(sizeof(T))) + ...);
    const outer_loop outer = bytes > cached_bytes ? outer_loop::heads : outer_loop::registers;
    const auto turn_tokens = [&](auto kind, const auto&... tensor) {
        for (index token = work.first_token; token < last; ++token) {
            if (token + 1 < last) rows.expect(token + 1);
            if (rows.heads == 1) {
                if (const auto row = rows.row_of(token, 0))
                    rotate_token(kind, outer, row.times(factors), rows.pairs, tensor.at(token)...);
                continue;
            }
            // A row of one head is not worth a copy (AVX2, mixed 2-D at 32 a side: 5.2 of the roof,
            // without 2.9).
            const auto each_head = [&](index first, index count, auto... of_token) {
                for (index h = 0; h < count; ++h)
                    if (const auto row = rows.row_of(token, first + h))
                        rotate_token(kind, outer_loop::registers, row.times(factors), rows.pairs,
                                     of_token.only(h)...);
            };
            // Tensors of as many heads share the row of each, which may have to be made.
            const index first = largest(tensor.heads.first...), count = largest(tensor.heads.count...);
            if (((tensor.heads.first == first && tensor.heads.count == count) && ...))
                each_head(first, count, tensor.at(token)...);
            else
                (each_head(tensor.heads.first, tensor.heads.count, tensor.at(token)), ...);
        }
    };
    with_layout(layout, [&](auto kind) { turn_tokens(kind, tensor_part<T>(x, work.heads)...); });
}

template <turn Turn, class Layout, class C, class... T>
void rotate_tensors(Layout layout, const rows_view<C>& rows, part_of part,
                    const heads_view<T>&... x) noexcept {
    rows_in_table<C> table{rows};
    turn_tensors(layout, table, factors_of<Turn>(rows), part, x...);
}

/// Q and K of the same tokens go together and share each row; others share nothing, and each goes by itself.
template <class TQ, class TK, class F>
void together_or_apart(const heads_view<TQ>& q, const heads_view<TK>& k, F turn_them) noexcept {
    static_assert(std::is_same_v<compute_t<TQ>, compute_t<TK>>,
                  "q and k of f64 and of another type need rows of their own: rotate them in two calls");
    if (!q.empty() && !k.empty() && q.batches() == k.batches() && q.tokens() == k.tokens()) {
        turn_them(q, k);
    } else {
        turn_them(q);
        turn_them(k);
    }
}

template <turn Turn, class Layout, class C, class TQ, class TK>
void rotate_pair(Layout layout, const rows_view<C>& rows, part_of part, const heads_view<TQ>& q,
                 const heads_view<TK>& k) noexcept {
    together_or_apart(q, k, [&](const auto&... x) { rotate_tensors<Turn>(layout, rows, part, x...); });
}

}  // namespace detail

/// Turns every pair (x, y) of every head by the angle of its token's row, in place:
/// (x, y) <- (x cos - y sin, x sin + y cos), counter-clockwise, cos and sin with the magnitude inside.
/// Shapes:   x [batches, tokens, heads, 2 * pairs]; rows hold batches * tokens tokens. q and k may differ
///           in heads. Per-head rows: as many heads as the view (with two views, the larger).
/// Requires: distinct (b, n, h) do not overlap; rows come from a table's rows() (checked there). A view
///           that does not fit its rows is an assertion in debug and left untouched in release.
/// Cost:     one pass over the data, in place; no allocation, no thread. Zero of anything is a no-op.
/// Accuracy: f64, f32: 2 ulp of the pair norm. f16, bf16: half a storage ulp of the result plus 2 f32 ulp
///           of the pair norm. The same bits for any alignment, stride, split or mix of tensors within
///           one build. NaN and infinity stay in their pair.
///           Built for AVX512_BF16, bf16 results below 2^-126 are flushed to zero.
/// Threads:  calls on disjoint data may run side by side; `part` splits one call over a caller's threads.
/// Source:   RoFormer, Su et al. 2021, eq. 34; both pair orders, see pair_layout.
///
///     rotate(half_split{}, q, k, table.rows(positions));
template <static_layout Layout, class T>
void rotate(heads_view<T> x, std::type_identity_t<rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::forward>(Layout{}, rows, part, x);
}
template <static_layout Layout, class TQ, class TK>
void rotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows,
            part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::forward>(Layout{}, rows, part, q, k);
}
template <static_layout Layout, class TQ, class TK>
void rotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows_q,
            std::type_identity_t<rows_for<TK>> rows_k, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::forward>(Layout{}, rows_q, part, q);
    detail::rotate_tensors<detail::turn::forward>(Layout{}, rows_k, part, k);
}
/// The same with a layout known at run time.
template <class T>
void rotate(pair_layout layout, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::forward>(layout, rows, part, x);
}
template <class TQ, class TK>
void rotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows,
            part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::forward>(layout, rows, part, q, k);
}
template <class TQ, class TK>
void rotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows_q,
            std::type_identity_t<rows_for<TK>> rows_k, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::forward>(layout, rows_q, part, q);
    detail::rotate_tensors<detail::turn::forward>(layout, rows_k, part, k);
}

/// Throws where rotate(layout, x, rows) would leave x alone because it does not fit its rows: hot calls say
/// nothing in a release build, so ask this once where shapes are decided.
/// Throws: invalid_config naming the extent that x and rows disagree on.
/// Source: design of this library.
template <class T>
void require_fits(pair_layout layout, heads_view<T> x, std::type_identity_t<rows_for<T>> rows) {
    constexpr const char* who = "require_fits";
    if (x.empty()) return;
    detail::require(x.channels() == 2 * rows.pairs, who, "channels must be twice the rows' pairs",
                    x.channels());
    detail::require(rows.tokens >= x.batches() * x.tokens(), who,
                    "batches * tokens must be at most the rows' tokens", x.batches() * x.tokens());
    detail::require(rows.heads == 1 || rows.heads >= x.heads(), who, "heads must be at most the rows' heads",
                    x.heads());
    detail::require(layout.fits(rows.pairs), who,
                    "the layout's group must be even and divide the channels, group", layout.group);
}

/// The inverse of rotate: turns back and divides by the squared magnitude, so that
/// unrotate(rotate(x)) = x also under YaRN.
/// Accuracy: as rotate, each way. Source: R(-p) R(p) = 1.
template <static_layout Layout, class T>
void unrotate(heads_view<T> x, std::type_identity_t<rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::inverse>(Layout{}, rows, part, x);
}
template <static_layout Layout, class TQ, class TK>
void unrotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows,
              part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::inverse>(Layout{}, rows, part, q, k);
}
template <static_layout Layout, class TQ, class TK>
void unrotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows_q,
              std::type_identity_t<rows_for<TK>> rows_k, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::inverse>(Layout{}, rows_q, part, q);
    detail::rotate_tensors<detail::turn::inverse>(Layout{}, rows_k, part, k);
}
template <class T>
void unrotate(pair_layout layout, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::inverse>(layout, rows, part, x);
}
template <class TQ, class TK>
void unrotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows,
              part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::inverse>(layout, rows, part, q, k);
}

/// The gradient of rotate: the transposed matrix, which keeps the magnitude.
/// Accuracy: as rotate. Source: the transpose of a rotation turns the other way.
template <static_layout Layout, class T>
void rotate_gradient(heads_view<T> x, std::type_identity_t<rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::transpose>(Layout{}, rows, part, x);
}
template <static_layout Layout, class TQ, class TK>
void rotate_gradient(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows,
                     part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::transpose>(Layout{}, rows, part, q, k);
}
template <static_layout Layout, class TQ, class TK>
void rotate_gradient(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<rows_for<TQ>> rows_q,
                     std::type_identity_t<rows_for<TK>> rows_k, part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::transpose>(Layout{}, rows_q, part, q);
    detail::rotate_tensors<detail::turn::transpose>(Layout{}, rows_k, part, k);
}
template <class T>
void rotate_gradient(pair_layout layout, heads_view<T> x, std::type_identity_t<rows_for<T>> rows,
                     part_of part = {}) noexcept {
    detail::rotate_tensors<detail::turn::transpose>(layout, rows, part, x);
}
template <class TQ, class TK>
void rotate_gradient(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
                     std::type_identity_t<rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::rotate_pair<detail::turn::transpose>(layout, rows, part, q, k);
}

}  // namespace ROPEWALK_NAMESPACE
