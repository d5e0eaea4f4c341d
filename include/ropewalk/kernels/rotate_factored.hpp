// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <algorithm>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/kernels/rotate.hpp>

namespace ROPEWALK_NAMESPACE {

/// The factored rows that data of type T reads: f64 for f64 data, f32 otherwise.
template <class T>
using factored_rows_for = factored_rows_view<compute_t<T>>;

namespace detail {

/// Pairs [first, end) of the complex product of two rows [2, stride]: cos, then sin. A factor (1, 0) leaves
/// the other's bits. first and end are multiples of 16.
template <class C>
ROPEWALK_ALWAYS_INLINE void multiply_rows(const C* a, const C* b, C* out, index stride, index first,
                                          index end) noexcept {
    constexpr index n = simd::lanes<C>;
    static_assert(factored_padding % n == 0);
    for (index i = first; i < end; i += n) {
        const auto ac = simd::load(a + i);
        const auto as = simd::load(a + stride + i);
        const auto bc = simd::load(b + i);
        const auto bs = simd::load(b + stride + i);
        simd::store(out + i, simd::fms<C>(ac, bc, as * bs));
        simd::store(out + stride + i, simd::fma(as, bc, ac * bs));
    }
}

/// Rows multiplied together as the kernel comes to their tokens. Tokens that share all indices but the
/// innermost are a run, for which the product of the outer levels is kept; the row of the next token is
/// made while the heads of this one turn.
template <class C>
struct rows_from_factors : factored_rows_view<C> {
    using factored_rows_view<C>::row_of;

    explicit rows_from_factors(const factored_rows_view<C>& rows) noexcept : factored_rows_view<C>(rows) {}

    ROPEWALK_ALWAYS_INLINE void expect(index token) noexcept {
        if (this->heads == 1) make(token);
    }
    ROPEWALK_ALWAYS_INLINE cos_sin_row<C> row_of(index token, index head) noexcept {
        const C* row = nullptr;
        if (this->heads == 1) {
            if (made_[token & 1] != token) make(token);
            row = ready_[token & 1];
        } else {
            row = head_row(token, head);
        }
        return {row, row ? row + this->pair_stride : nullptr};
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
        ++run_;
        outer_ = nullptr;
        level_ = nullptr;
        if (block_->level_count == 0) return;
        level_ = this->levels + block_->first_level + block_->level_count - 1;
        inner_ = local % level_->extent;
        outer_index_ = local / level_->extent;
        end_ = std::min(end_, token + level_->extent - inner_);
        if (this->heads == 1) outer_ = outer_product(0, outer_buffer_[run_ & 1]);
    }
    /// The product of the rows of all levels but the innermost; null where none has rows.
    const C* outer_product(index head, C* space) const noexcept {
        const factored_level* const level = this->levels + block_->first_level;
        const C* product = nullptr;
        index rest = outer_index_;
        for (index l = block_->level_count - 1; l-- > 0; rest /= level[l].extent) {
            if (level[l].offset < 0) continue;
            const C* const row = this->row_of(level[l], rest % level[l].extent, head);
            if (product) multiply_rows(row, product, space, this->pair_stride, 0, this->pair_stride);
            product = product ? space : row;
        }
        return product;
    }
    ROPEWALK_ALWAYS_INLINE void make(index token) noexcept {
        if (token < first_ || token >= end_) find_run(token);
        const index slot = token & 1;
        made_[slot] = token;
        ready_[slot] = outer_;
        if (!level_ || level_->offset < 0) return;
        const C* const row = this->row_of(*level_, inner_ + token - first_, 0);
        ready_[slot] = row;
        if (!outer_) return;
        // Where the innermost level has the factor 1 the buffer keeps the outer product.
        const bool kept = filled_[slot] == run_;
        multiply_rows(outer_, row, buffer_[slot], this->pair_stride, kept ? level_->first_pair : 0,
                      kept ? level_->end_pair : this->pair_stride);
        filled_[slot] = run_;
        ready_[slot] = buffer_[slot];
    }
    const C* head_row(index token, index head) noexcept {
        if (token < first_ || token >= end_) find_run(token);
        if (!level_) return nullptr;
        const C* const outer = outer_product(head, outer_buffer_[0]);
        if (level_->offset < 0) return outer;
        const C* const row = this->row_of(*level_, inner_ + token - first_, head);
        if (!outer) return row;
        multiply_rows(outer, row, buffer_[0], this->pair_stride, 0, this->pair_stride);
        return buffer_[0];
    }

    const factored_block* block_ = nullptr;
    const factored_level* level_ = nullptr;  // innermost; null: tokens that are not touched
    index first_ = 0, end_ = 0;              // tokens of the run
    index inner_ = 0, outer_index_ = 0;      // of the first token of the run
    index run_ = 0;
    const C* outer_ = nullptr;
    index made_[2] = {-1, -1};  // the token whose row stands in a slot
    const C* ready_[2] = {nullptr, nullptr};
    index filled_[2] = {0, 0};  // the run whose outer product the slot's buffer holds
    alignas(64) C outer_buffer_[2][2 * max_factored_pairs];
    alignas(64) C buffer_[2][2 * max_factored_pairs];
};

template <turn Turn, class Layout, class C, class... T>
void rotate_factored_tensors(Layout layout, const factored_rows_view<C>& view, part_of part,
                             heads_view<T>... x) noexcept {
    ROPEWALK_EXPECT(view.pairs <= max_factored_pairs);
    if (view.pairs > max_factored_pairs) return;
    rows_view<C> same;  // the magnitude, which is all that factors_of asks for
    same.magnitude = view.magnitude;
    rows_from_factors<C> rows(view);
    turn_tensors(layout, rows, factors_of<Turn>(same), part, x...);
}

template <turn Turn, class Layout, class C, class TQ, class TK>
void rotate_factored_pair(Layout layout, const factored_rows_view<C>& rows, part_of part, heads_view<TQ> q,
                          heads_view<TK> k) noexcept {
    static_assert(std::is_same_v<compute_t<TQ>, compute_t<TK>>,
                  "q and k of f64 and of another type need two tables: rotate them in two calls");
    if (!q.empty() && !k.empty() && q.batches() == k.batches() && q.tokens() == k.tokens()) {
        rotate_factored_tensors<Turn>(layout, rows, part, q, k);
    } else {
        rotate_factored_tensors<Turn>(layout, rows, part, q);
        rotate_factored_tensors<Turn>(layout, rows, part, k);
    }
}

}  // namespace detail

/// rotate over factored rows: the row of a token is multiplied together in registers and two small
/// buffers as the kernel comes to it, never stored for all tokens.
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

}  // namespace ROPEWALK_NAMESPACE
