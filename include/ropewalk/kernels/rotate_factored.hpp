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

/// Complex product of two rows [2, stride]: cos, then sin. A factor (1, 0) leaves the other's bits.
template <class C>
ROPEWALK_ALWAYS_INLINE void multiply_rows(const C* a, const C* b, C* out, index stride) noexcept {
    constexpr index n = simd::lanes<C>;
    for (index i = 0; i < stride; i += n) {
        const auto ac = simd::load(a + i);
        const auto as = simd::load(a + stride + i);
        const auto bc = simd::load(b + i);
        const auto bs = simd::load(b + stride + i);
        simd::store(out + i, simd::fms<C>(ac, bc, as * bs));
        simd::store(out + stride + i, simd::fma(as, bc, ac * bs));
    }
}

/// The product of the rows of all levels but the innermost, for the tokens that differ in the innermost
/// index only.
template <class C>
const C* outer_row(const factored_rows_view<C>& rows, const factored_block& block, index outer, index head,
                   C* buffer) noexcept {
    const factored_level* const levels = rows.levels + block.first_level;
    const C* product = nullptr;
    for (index l = block.level_count - 1; l-- > 0; outer /= levels[l].extent) {
        const C* const row = rows.row_of(levels[l], outer % levels[l].extent, head);
        if (product) multiply_rows(row, product, buffer, rows.pair_stride);
        product = product ? buffer : row;
    }
    return product;
}

/// Calls visit(block, first, count, outer, inner) for every run of touched tokens that share their outer
/// indices: tokens first + j of the call have the innermost index inner + j.
template <class C, class Visit>
void visit_runs(const factored_rows_view<C>& rows, index first, index count, Visit visit) noexcept {
    if (count == 0) return;
    const factored_block* block =
        std::upper_bound(rows.blocks, rows.blocks + rows.block_count, rows.first_token + first,
                         [](index token, const factored_block& b) { return token < b.first_token; }) -
        1;
    for (const index last = first + count; first < last;) {
        const index local = rows.first_token + first - block->first_token;
        const index left = std::min(last - first, block->tokens - local);
        if (left == 0 || block->level_count == 0) {
            first += left;
            ++block;
            continue;
        }
        const index extent = rows.levels[block->first_level + block->level_count - 1].extent;
        const index run = std::min(left, extent - local % extent);
        visit(*block, first, run, local / extent, local % extent);
        first += run;
        if (run == left) ++block;
    }
}

template <turn Turn, class C, class... T>
void rotate_factored_tensors(pair_layout layout, const factored_rows_view<C>& rows, part_of part,
                             heads_view<T>... x) noexcept {
    rows_view<C> same;  // what a table of the same extents would say
    same.heads = rows.heads;
    same.pairs = rows.pairs;
    same.tokens = rows.tokens;
    same.magnitude = rows.magnitude;
    const bool match = (rows_match(layout, x, same) && ...) && rows.pairs <= max_factored_pairs;
    ROPEWALK_EXPECT(match);
    if (!match || (x.empty() && ...)) return;
    const auto factors = factors_of<Turn>(same);
    const index tokens = std::max({x.empty() ? index{0} : x.batches() * x.tokens()...});
    const work_part work = partition_tokens(tokens, part);
    alignas(64) C outer_buffer[2 * max_factored_pairs];
    alignas(64) C buffer[2 * max_factored_pairs];
    const index stride = rows.pair_stride;
    with_layout(layout, [&](auto kind) {
        // Every token of a run against the rows of one head; turn_heads(token, row) rotates.
        const auto turn_run = [&](const factored_block& block, index run, index outer, index inner,
                                  index head, auto turn_heads) {
            const factored_level& level = rows.levels[block.first_level + block.level_count - 1];
            const C* const prefix = outer_row(rows, block, outer, head, outer_buffer);
            for (index j = 0; j < run; ++j) {
                const C* row = rows.row_of(level, inner + j, head);
                if (prefix) {
                    multiply_rows(prefix, row, buffer, stride);
                    row = buffer;
                }
                turn_heads(j, row);
            }
        };
        visit_runs(rows, work.first_token, work.tokens,
                   [&](const factored_block& block, index first, index run, index outer, index inner) {
                       if (rows.heads == 1) {
                           turn_run(block, run, outer, inner, 0, [&](index j, const C* row) {
                               rotate_token(kind, row, row + stride, rows.pairs, factors,
                                            heads_of(x, first + j, work.heads)...);
                           });
                           return;
                       }
                       const auto each_head = [&](const auto& view) {
                           const work_range range = partition(view.heads(), work.heads);
                           for (index h = range.first; h < range.first + range.count; ++h)
                               turn_run(block, run, outer, inner, h, [&](index j, const C* row) {
                                   rotate_token(kind, row, row + stride, rows.pairs, factors,
                                                heads_of(view, first + j, part_of{}).only(h));
                               });
                       };
                       (each_head(x), ...);
                   });
    });
}

template <turn Turn, class C, class TQ, class TK>
void rotate_factored_pair(pair_layout layout, const factored_rows_view<C>& rows, part_of part,
                          heads_view<TQ> q, heads_view<TK> k) noexcept {
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
