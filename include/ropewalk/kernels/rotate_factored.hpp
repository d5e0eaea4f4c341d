// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>
#include <type_traits>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// The factored rows that data of type T reads: f64 for f64 data, f32 otherwise.
template <class T>
using factored_rows_for = factored_rows_view<compute_t<T>>;

namespace detail {

/// In place of row_factors where the row turns as it is: one made anew for every head pays for factors of 1
/// (AVX-512, mixed 2-D at 32 a side: 3.4 of the roof instead of 2.7).
struct no_factors {};

/// The complex product of two rows, made in registers as it is used.
template <class C, class Factors = no_factors>
struct row_of_factors {
    using element = C;
    using pack = simd::pack<C>;
    const C* outer = nullptr;  // null: the factor 1
    const C* inner = nullptr;  // null: the token is not touched
    index stride = 0;          // from cos to sin
    Factors factors = {};

    explicit operator bool() const noexcept { return inner != nullptr; }
    template <class F>
    row_of_factors<C, F> times(F f) const noexcept {
        return {outer, inner, stride, f};
    }
    row_of_factors from(index pair) const noexcept {
        return {outer ? outer + pair : nullptr, inner + pair, stride, factors};
    }
    ROPEWALK_ALWAYS_INLINE void load(index i, pack& c, pack& s) const noexcept {
        make(c, s, [i](const C* p) { return simd::load(p + i); });
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index count, pack& c, pack& s) const noexcept {
        make(c, s, [i, count](const C* p) { return simd::load_some(p + i, count); });
    }
    /// A factor (1, 0) leaves the other's bits.
    template <class Load>
    ROPEWALK_ALWAYS_INLINE void make(pack& c, pack& s, Load loaded) const noexcept {
        c = loaded(inner);
        s = loaded(inner + stride);
        if (outer) {
            const pack oc = loaded(outer), os = loaded(outer + stride);
            const pack product = simd::fms<C>(oc, c, os * s);
            s = simd::fma(os, c, oc * s);
            c = product;
        }
        if constexpr (!std::is_same_v<Factors, no_factors>) {
            c = c * simd::broadcast(factors.cos);
            s = s * simd::broadcast(factors.sin);
        }
    }
};

/// Where the factors of each token stand. Tokens that share all indices but the innermost are a run, for
/// which the product of the outer levels is kept.
template <class C>
struct rows_from_factors : factored_rows_view<C> {
    using factored_rows_view<C>::row_of;

    explicit rows_from_factors(const factored_rows_view<C>& rows) noexcept : factored_rows_view<C>(rows) {}

    void expect(index) const noexcept {}
    ROPEWALK_ALWAYS_INLINE row_of_factors<C> row_of(index token, index head) noexcept {
        if (token < first_ || token >= end_) find_run(token);
        if (!level_) return {};
        const C* const outer = this->heads == 1 ? outer_
                               : lone_          ? this->row_of(*lone_, lone_row_, head)
                                                : outer_product(head);
        if (level_->offset < 0) return {nullptr, outer, this->pair_stride, {}};
        return {outer, this->row_of(*level_, inner_ + token - first_, head), this->pair_stride, {}};
    }

  private:
    /// The run of a token: block, outer indices and the innermost level.
    void find_run(index token) noexcept {
        const index at = this->first_token + token;
        if (!block_ || at < block_->first_token || at >= block_->first_token + block_->tokens)
            block_ = std::upper_bound(this->blocks, this->blocks + this->block_count, at,
                                      [](index t, const factored_block& b) { return t < b.first_token; }) -
                     1;
        const index local = at - block_->first_token;
        first_ = token;
        end_ = token + block_->tokens - local;
        level_ = nullptr;
        if (block_->level_count == 0) return;
        level_ = this->levels + block_->first_level + block_->level_count - 1;
        inner_ = local % level_->extent;
        outer_index_ = local / level_->extent;
        end_ = std::min(end_, token + level_->extent - inner_);
        if (this->heads == 1) {
            outer_ = outer_product(0);
        } else {
            find_lone_level();
        }
    }
    /// With one outer level that has rows, each head reads its row as it stands: no loop, no division.
    void find_lone_level() noexcept {
        const factored_level* const level = this->levels + block_->first_level;
        lone_ = nullptr;
        index rest = outer_index_, with_rows = 0;
        for (index l = block_->level_count - 1; l-- > 0; rest /= level[l].extent) {
            if (level[l].offset < 0) continue;
            ++with_rows;
            lone_ = level + l;
            lone_row_ = rest % level[l].extent;
        }
        if (with_rows != 1) lone_ = nullptr;
    }
    /// The product of the rows of all levels but the innermost; null where none has rows.
    const C* outer_product(index head) noexcept {
        const factored_level* const level = this->levels + block_->first_level;
        row_of_factors<C> product{nullptr, nullptr, this->pair_stride, {}};
        index rest = outer_index_;
        for (index l = block_->level_count - 1; l-- > 0; rest /= level[l].extent) {
            if (level[l].offset < 0) continue;
            const C* const row = this->row_of(level[l], rest % level[l].extent, head);
            if (!product) {
                product.inner = row;
                continue;
            }
            product.outer = row;
            for (index i = 0; i < this->pair_stride; i += simd::lanes<C>) {
                simd::pack<C> c, s;
                product.load(i, c, s);
                simd::store(buffer_ + i, c);
                simd::store(buffer_ + this->pair_stride + i, s);
            }
            product.inner = buffer_;
        }
        return product.inner;
    }

    const factored_block* block_ = nullptr;
    const factored_level* level_ = nullptr;  // innermost; null: tokens that are not touched
    index first_ = 0, end_ = 0;              // tokens of the run
    index inner_ = 0, outer_index_ = 0;      // of the first token of the run
    const C* outer_ = nullptr;
    const factored_level* lone_ = nullptr;  // rows of single heads: the outer level, where there is one
    index lone_row_ = 0;
    alignas(64) C buffer_[2 * max_factored_pairs];
};

template <turn Turn, class Layout, class C, class... T>
void rotate_factored_tensors(Layout layout, const factored_rows_view<C>& view, part_of part,
                             heads_view<T>... x) noexcept {
    ROPEWALK_EXPECT(view.pairs <= max_factored_pairs);
    if (view.pairs > max_factored_pairs) return;
    rows_from_factors<C> rows(view);
    if constexpr (Turn == turn::forward) {
        turn_tensors(layout, rows, no_factors{}, part, x...);
    } else {
        rows_view<C> same;  // the magnitude, which is all that factors_of asks for
        same.magnitude = view.magnitude;
        turn_tensors(layout, rows, factors_of<Turn>(same), part, x...);
    }
}

template <turn Turn, class Layout, class C, class TQ, class TK>
void rotate_factored_pair(Layout layout, const factored_rows_view<C>& rows, part_of part, heads_view<TQ> q,
                          heads_view<TK> k) noexcept {
    together_or_apart(q, k,
                      [&](const auto&... x) { rotate_factored_tensors<Turn>(layout, rows, part, x...); });
}

}  // namespace detail

/// rotate over factored rows: the row of a token is multiplied together in the registers that turn its
/// heads, never stored.
/// Shapes, Requires, Threads: as rotate(x, rows_view); at most 512 pairs.
/// Cost:     beside the rotation, one complex product of two rows a token (none in text); the table's
///           bytes are those of the level rows. No allocation.
/// Accuracy: that of factored_table and rotate. The same bits for any split or token_slice.
/// Source:   exp(i (a + b)) = exp(i a) exp(i b).
template <static_layout Layout, class T>
void rotate(heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows, part_of part = {}) noexcept {
    detail::rotate_factored_tensors<detail::turn::forward>(Layout{}, rows, part, x);
}
template <static_layout Layout, class TQ, class TK>
void rotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<factored_rows_for<TQ>> rows,
            part_of part = {}) noexcept {
    detail::rotate_factored_pair<detail::turn::forward>(Layout{}, rows, part, q, k);
}
/// The same with a layout known at run time.
template <class T>
void rotate(pair_layout layout, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
            part_of part = {}) noexcept {
    detail::rotate_factored_tensors<detail::turn::forward>(layout, rows, part, x);
}
template <class TQ, class TK>
void rotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
            std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::rotate_factored_pair<detail::turn::forward>(layout, rows, part, q, k);
}

/// The inverse of rotate over factored rows.
/// Source: R(-p) R(p) = 1.
template <class T>
void unrotate(pair_layout layout, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
              part_of part = {}) noexcept {
    detail::rotate_factored_tensors<detail::turn::inverse>(layout, rows, part, x);
}
template <static_layout Layout, class T>
void unrotate(heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows, part_of part = {}) noexcept {
    unrotate(pair_layout(Layout{}), x, rows, part);
}
template <class TQ, class TK>
void unrotate(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
              std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::rotate_factored_pair<detail::turn::inverse>(layout, rows, part, q, k);
}
template <static_layout Layout, class TQ, class TK>
void unrotate(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<factored_rows_for<TQ>> rows,
              part_of part = {}) noexcept {
    unrotate(pair_layout(Layout{}), q, k, rows, part);
}
/// The gradient of rotate over factored rows: the transposed matrix.
/// Source: the transpose of a rotation turns the other way.
template <class T>
void rotate_gradient(pair_layout layout, heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
                     part_of part = {}) noexcept {
    detail::rotate_factored_tensors<detail::turn::transpose>(layout, rows, part, x);
}
template <static_layout Layout, class T>
void rotate_gradient(heads_view<T> x, std::type_identity_t<factored_rows_for<T>> rows,
                     part_of part = {}) noexcept {
    rotate_gradient(pair_layout(Layout{}), x, rows, part);
}
template <class TQ, class TK>
void rotate_gradient(pair_layout layout, heads_view<TQ> q, heads_view<TK> k,
                     std::type_identity_t<factored_rows_for<TQ>> rows, part_of part = {}) noexcept {
    detail::rotate_factored_pair<detail::turn::transpose>(layout, rows, part, q, k);
}
template <static_layout Layout, class TQ, class TK>
void rotate_gradient(heads_view<TQ> q, heads_view<TK> k, std::type_identity_t<factored_rows_for<TQ>> rows,
                     part_of part = {}) noexcept {
    rotate_gradient(pair_layout(Layout{}), q, k, rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
