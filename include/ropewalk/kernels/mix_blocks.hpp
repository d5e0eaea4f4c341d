// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/angles/rotation_blocks.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/kernels/fit.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// How a block's matrix is applied: as it is, or its transpose, which undoes a rotation.
enum class block_side : std::uint8_t { forward, transposed };

/// One block, matrix column by column. The sums of a column run over neighbouring channels, so a compiler
/// makes vectors of them.
template <index Size, block_side Side, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_block(stored_t<T>* x, const C* m) noexcept {
    constexpr auto count = static_cast<std::size_t>(Size);
    C in[count], out[count] = {};
    for (index i = 0; i < Size; ++i) in[i] = static_cast<C>(static_cast<compute_t<T>>(x[i]));
    for (index c = 0; c < Size; ++c)
        for (index r = 0; r < Size; ++r) {
            if constexpr (Side == block_side::forward) {
                out[r] += m[c * Size + r] * in[c];
            } else {
                out[c] += m[c * Size + r] * in[r];
            }
        }
    for (index i = 0; i < Size; ++i) x[i] = static_cast<stored_t<T>>(static_cast<compute_t<T>>(out[i]));
}

template <block_side Side, class T, class C>
void mix_any_block(stored_t<T>* x, const C* m, index size) noexcept {
    constexpr auto most = static_cast<std::size_t>(max_block_size);
    C in[most], out[most];
    for (index i = 0; i < size; ++i) {
        in[i] = static_cast<C>(static_cast<compute_t<T>>(x[i]));
        out[i] = 0;
    }
    for (index c = 0; c < size; ++c)
        for (index r = 0; r < size; ++r) {
            if constexpr (Side == block_side::forward) {
                out[r] += m[c * size + r] * in[c];
            } else {
                out[c] += m[c * size + r] * in[r];
            }
        }
    for (index i = 0; i < size; ++i) x[i] = static_cast<stored_t<T>>(static_cast<compute_t<T>>(out[i]));
}

template <index Size, block_side Side, class T, class C>
void mix_block_tokens(heads_view<T> x, const block_rows_view<C>& rows, work_part work) noexcept {
    const index size = Size > 0 ? Size : rows.size;
    const work_range heads = partition(x.heads(), work.heads);
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        if (row < 0 || row >= rows.table_rows) continue;
        for (index h = heads.first; h < heads.first + heads.count; ++h) {
            auto* head = reinterpret_cast<stored_t<T>*>(x.at(token / x.tokens(), token % x.tokens(), h));
            const C* m = rows.at(row, h);
            for (index n = 0; n < rows.blocks; ++n, head += size, m += size * size) {
                if constexpr (Size > 0) {
                    mix_block<Size, Side, T>(head, m);
                } else {
                    mix_any_block<Side, T>(head, m, size);
                }
            }
        }
    }
}

template <class T>
misfit fit_blocks(const heads_view<T>& x, const block_rows_view<compute_t<T>>& rows, part_of part) noexcept {
    const misfit view = first_of(fit_extents(x.shape, x.data != nullptr), fit_part(part));
    if (!view.ok() || x.empty()) return view;
    if (rows.size < 1 || rows.size > max_block_size)
        return {"size of the blocks must be in 1 .. 64", max_block_size, rows.size};
    if (x.channels() < rows.blocks * rows.size)
        return {"channels must hold the blocks of the rows", rows.blocks * rows.size, x.channels()};
    if (rows.count() != x.batches() * x.tokens())
        return {"rows must be those of batches * tokens tokens", x.batches() * x.tokens(), rows.count()};
    if (rows.heads != 1 && rows.heads != x.heads())
        return {"rows with heads of their own must be as many as the heads of the view", x.heads(),
                rows.heads};
    return fit_strides(x.shape, x.strides);
}

template <block_side Side, class T>
bool mix_blocks_as(heads_view<T> x, const block_rows_view<compute_t<T>>& rows, part_of part) noexcept {
    if (!fits("mix_blocks", fit_blocks(x, rows, part))) return false;
    if (x.empty()) return true;
    const work_part work = partition_tokens(x.batches() * x.tokens(), part);
    switch (rows.size) {
        case 2: mix_block_tokens<2, Side>(x, rows, work); break;
        case 3: mix_block_tokens<3, Side>(x, rows, work); break;
        case 4: mix_block_tokens<4, Side>(x, rows, work); break;
        case 8: mix_block_tokens<8, Side>(x, rows, work); break;
        default: mix_block_tokens<0, Side>(x, rows, work);
    }
    return true;
}

}  // namespace detail

/// Multiplies every block of neighbouring channels by its token's matrix, in place. Channels behind the
/// blocks pass through.
/// Shapes:   x [batches, tokens, heads, channels >= blocks * size]; rows of batches * tokens tokens, for one
///           head or as many as x has.
/// Requires, Returns: as rotate. Negative rows leave a token untouched.
/// Cost:     size multiply-adds a channel, one pass over the data; no allocation.
/// Accuracy: f64, f32: size ulp of the sum of magnitudes; 16-bit: that plus half a storage ulp.
/// Source:   LieRE, arXiv 2406.10322.
template <class T>
bool mix_blocks(heads_view<T> x, std::type_identity_t<block_rows_view<compute_t<T>>> rows,
                part_of part = {}) noexcept {
    return detail::mix_blocks_as<detail::block_side::forward>(x, rows, part);
}

/// Multiplies by the transposes: the inverse of mix_blocks where the matrices are rotations, and its gradient
/// by x whatever they are.
/// Shapes, Requires, Cost, Accuracy: as mix_blocks.
/// Source:   R^T R = 1.
template <class T>
bool mix_blocks_transposed(heads_view<T> x, std::type_identity_t<block_rows_view<compute_t<T>>> rows,
                           part_of part = {}) noexcept {
    return detail::mix_blocks_as<detail::block_side::transposed>(x, rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
