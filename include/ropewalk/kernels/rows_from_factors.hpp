// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// How kernels read factored rows: the factors of a row are multiplied in registers, never stored.
// Source: exp(i (a + b)) = exp(i a) exp(i b).
#pragma once

#include <algorithm>

#include <ropewalk/angles/factored_table.hpp>
#include <ropewalk/kernels/row_cursor.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The complex product of two rows, computed in registers as it is used.
template <class C>
struct row_of_factors {
    using element = C;
    using pack = simd::pack<C>;
    const C* outer = nullptr;  // null: the factor 1
    const C* inner = nullptr;  // null: the token is not touched
    index stride = 0;          // from cos to sin

    explicit operator bool() const noexcept { return inner != nullptr; }
    row_of_factors from(index pair) const noexcept {
        return {outer ? outer + pair : nullptr, inner + pair, stride};
    }
    ROPEWALK_ALWAYS_INLINE void load(index i, pack& c, pack& s) const noexcept {
        make(c, s, [i](const C* p) { return simd::load(p + i); });
    }
    ROPEWALK_ALWAYS_INLINE void load_some(index i, index count, pack& c, pack& s) const noexcept {
        make(c, s, [i, count](const C* p) { return simd::load_some(p + i, count); });
    }

  private:
    /// A factor (1, 0) leaves the bits of the other factor unchanged.
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
    }
};

/// Finds the factors of each token. Tokens that share all indices but the innermost form a run, for which the
/// product of the outer levels is kept.
template <class C>
class row_cursor<factored_rows_view<C>, C> {
  public:
    index heads;
    static constexpr index missing = -1;  // a factored table has a row for each of its tokens

    explicit row_cursor(const factored_rows_view<C>& rows) noexcept : heads(rows.heads), rows_(rows) {}

    void expect(index) const noexcept {}
    ROPEWALK_ALWAYS_INLINE row_of_factors<C> row_of(index token, index head) noexcept {
        const index at = rows_.ordinal(token);
        if (at < first_ || at >= end_) find_run(at);
        if (!level_) return {};
        const C* const outer = heads == 1 ? outer_
                               : lone_    ? rows_.row_of(*lone_, lone_row_, head)
                                          : outer_product(head);
        if (level_->offset < 0) return {nullptr, outer, rows_.pair_stride};
        return {outer, rows_.row_of(*level_, inner_ + at - first_, head), rows_.pair_stride};
    }
    bool touches(index token) noexcept {
        const index at = rows_.ordinal(token);
        if (at < first_ || at >= end_) find_run(at);
        return level_ != nullptr;
    }

  private:
    /// The run of a token of the table: block, outer indices and the innermost level.
    void find_run(index at) noexcept {
        if (!block_ || at < block_->first_token || at >= block_->first_token + block_->tokens)
            block_ = std::upper_bound(rows_.blocks, rows_.blocks + rows_.block_count, at,
                                      [](index t, const factored_block& b) { return t < b.first_token; }) -
                     1;
        const index local = at - block_->first_token;
        first_ = at;
        end_ = at + block_->tokens - local;
        level_ = nullptr;
        if (block_->level_count == 0) return;
        level_ = rows_.levels + block_->first_level + block_->level_count - 1;
        inner_ = local % level_->extent;
        outer_index_ = local / level_->extent;
        end_ = std::min(end_, at + level_->extent - inner_);
        if (heads == 1) {
            outer_ = outer_product(0);
        } else {
            find_lone_level();
        }
    }
    /// If only one outer level has rows, each head reads its row directly: no loop, no division.
    void find_lone_level() noexcept {
        const factored_level* const level = rows_.levels + block_->first_level;
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
    /// The product of the rows of all levels but the innermost; null if none of them has rows.
    const C* outer_product(index head) noexcept {
        const factored_level* const level = rows_.levels + block_->first_level;
        row_of_factors<C> product{nullptr, nullptr, rows_.pair_stride};
        index rest = outer_index_;
        for (index l = block_->level_count - 1; l-- > 0; rest /= level[l].extent) {
            if (level[l].offset < 0) continue;
            const C* const row = rows_.row_of(level[l], rest % level[l].extent, head);
            if (!product) {
                product.inner = row;
                continue;
            }
            product.outer = row;
            for (index i = 0; i < rows_.pair_stride; i += simd::lanes<C>) {
                simd::pack<C> c, s;
                product.load(i, c, s);
                simd::store(buffer_ + i, c);
                simd::store(buffer_ + rows_.pair_stride + i, s);
            }
            product.inner = buffer_;
        }
        return product.inner;
    }

    const factored_rows_view<C>& rows_;
    const factored_block* block_ = nullptr;
    const factored_level* level_ = nullptr;  // innermost; null: tokens that are not touched
    index first_ = 0, end_ = 0;              // tokens of the run, numbered as in the table
    index inner_ = 0, outer_index_ = 0;      // of the first token of the run
    const C* outer_ = nullptr;
    const factored_level* lone_ = nullptr;  // rows of single heads: the outer level, if there is one
    index lone_row_ = 0;
    alignas(64) C buffer_[2 * max_factored_pairs];
};

}  // namespace ROPEWALK_NAMESPACE::detail
