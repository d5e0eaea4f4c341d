// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Multiplies blocks of channels by square matrices: rotations of more than two channels.
#pragma once

#include <algorithm>
#include <type_traits>

#include <ropewalk/angles/rotation_blocks.hpp>
#include <ropewalk/core/heads_view.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/kernels/fit.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Which matrix is applied: that of the block, or its transpose, which undoes a rotation.
enum class block_side : std::uint8_t { forward, transposed };

/// Swaps lanes whose numbers differ in one bit.
template <index Bit, class C>
ROPEWALK_ALWAYS_INLINE simd::pack<C> swap_lanes(simd::pack<C> x) noexcept {
    if constexpr (Bit == 1) {
        return simd::swap_pairs(x);
    } else if constexpr (Bit == 2) {
        return simd::swap_by_two(x);
    } else {
        return simd::swap_by_four(x);
    }
}

/// Registers of whole blocks of 2, 4 or 8 channels: `registers` of them if a block is wider than one
/// register.
template <index Size, class C>
struct exchanged_blocks {
    using pack = simd::pack<C>;
    static constexpr index lanes = simd::lanes<C>;
    static constexpr index inner = Size < lanes ? Size : lanes;  // channels of a block within a register
    static constexpr index registers = Size / inner;

    /// y[k] = x with lanes i and i ^ k exchanged; each needs one exchange from an earlier one.
    template <index Bit = 1>
    ROPEWALK_ALWAYS_INLINE static void exchange(pack (&y)[static_cast<std::size_t>(inner)]) noexcept {
        if constexpr (Bit < inner) {
            ROPEWALK_DETAIL_UNROLL
            for (index k = 0; k < Bit; ++k) y[Bit + k] = swap_lanes<Bit, C>(y[k]);
            exchange<2 * Bit>(y);
        }
    }
    /// y[0] = the sum of y[k] with lanes i and i ^ k exchanged.
    template <index Bit = inner / 2>
    ROPEWALK_ALWAYS_INLINE static void gather(pack (&y)[static_cast<std::size_t>(inner)]) noexcept {
        if constexpr (Bit >= 1) {
            ROPEWALK_DETAIL_UNROLL
            for (index k = 0; k < Bit; ++k) y[k] = y[k] + swap_lanes<Bit, C>(y[Bit + k]);
            gather<Bit / 2>(y);
        }
    }

    /// out = the matrices, or their transposes, times x; coefficient(k, r) is register r of coefficient k.
    template <block_side Side, class F>
    ROPEWALK_ALWAYS_INLINE static void multiply(const pack (&x)[static_cast<std::size_t>(registers)],
                                                pack (&out)[static_cast<std::size_t>(registers)],
                                                F coefficient) noexcept {
        ROPEWALK_DETAIL_UNROLL
        for (index r = 0; r < registers; ++r) {
            ROPEWALK_DETAIL_UNROLL
            for (index far_lane = 0; far_lane < registers; ++far_lane) {
                pack y[static_cast<std::size_t>(inner)];
                if constexpr (Side == block_side::forward) {
                    y[0] = x[r ^ far_lane];
                    exchange(y);
                    ROPEWALK_DETAIL_UNROLL
                    for (index k = 0; k < inner; ++k) {
                        const pack c = coefficient(far_lane * inner + k, r);
                        out[r] = far_lane + k == 0 ? c * y[k] : simd::fma(c, y[k], out[r]);
                    }
                } else {
                    ROPEWALK_DETAIL_UNROLL
                    for (index k = 0; k < inner; ++k)
                        y[k] = coefficient(far_lane * inner + k, r ^ far_lane) * x[r ^ far_lane];
                    gather(y);
                    out[r] = far_lane == 0 ? y[0] : out[r] + y[0];
                }
            }
        }
    }
};

/// Registers [i, i + Count * lanes) of the blocks of heads that share a row: the coefficients stay in
/// registers for all heads.
template <index Size, block_side Side, index Count, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_span(stored_t<T>* x, index stride, index heads, const C* m,
                                     index channels) noexcept {
    using blocks = exchanged_blocks<Size, C>;
    using pack = simd::pack<C>;
    constexpr index lanes = simd::lanes<C>, registers = blocks::registers;
    constexpr auto count = static_cast<std::size_t>(Count), group = static_cast<std::size_t>(registers);
    static_assert(Count % registers == 0);
    pack row[static_cast<std::size_t>(Size)][count];
    ROPEWALK_DETAIL_UNROLL
    for (index k = 0; k < Size; ++k) {
        ROPEWALK_DETAIL_UNROLL
        for (index r = 0; r < Count; ++r) row[k][r] = simd::load(m + k * channels + r * lanes);
    }
    for (index h = 0; h < heads; ++h, x += stride) {
        pack out[count];
        ROPEWALK_DETAIL_UNROLL
        for (index g = 0; g < Count; g += registers) {
            pack in[group], sum[group];
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) in[r] = simd::in_register(simd::load(x + (g + r) * lanes));
            blocks::template multiply<Side>(
                in, sum, [&](index k, index r) ROPEWALK_DETAIL_INLINE_LAMBDA { return row[k][g + r]; });
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < registers; ++r) out[g + r] = sum[r];
        }
        if constexpr (Count % 2 == 0 && sizeof(T) == 2) {
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < Count; r += 2) simd::store_two(x + r * lanes, out[r], out[r + 1]);
        } else {
            ROPEWALK_DETAIL_UNROLL
            for (index r = 0; r < Count; ++r) simd::store(x + r * lanes, out[r]);
        }
    }
}
/// Two registers of blocks of 2 channels of bf16: each word holds one block, so no lane moves.
template <block_side Side, class C>
ROPEWALK_ALWAYS_INLINE void mix_words(bf16* x, index stride, index heads, const C* m,
                                      index channels) noexcept {
    constexpr index lanes = simd::lanes<C>;
    const auto own = simd::deinterleave(simd::load(m), simd::load(m + lanes));
    const auto other = simd::deinterleave(simd::load(m + channels), simd::load(m + channels + lanes));
    const auto to_first = Side == block_side::forward ? other.first : other.second;
    const auto to_second = Side == block_side::forward ? other.second : other.first;
    for (index h = 0; h < heads; ++h, x += stride) {
        const auto in = simd::load_words(x);
        simd::store_words(x, {simd::fma(to_first, in.second, own.first * in.first),
                              simd::fma(to_second, in.first, own.second * in.second)});
    }
}
/// The blocks of 2, 4 or 8 channels of heads that share a row.
template <index Size, block_side Side, class T, class C>
ROPEWALK_ALWAYS_INLINE void mix_heads(stored_t<T>* x, index stride, index heads, const C* m,
                                      index channels) noexcept {
    using blocks = exchanged_blocks<Size, C>;
    constexpr index lanes = simd::lanes<C>, registers = blocks::registers;
    constexpr index several = registers > 1 ? registers
                              : Size == 2   ? 4
                              : Size == 4   ? 2
                                            : 1;  // as many as the registers can hold
    index i = 0;
    if constexpr (Size == 2 && simd::read_as_words<stored_t<T>>)
        for (; i + 2 * lanes <= channels; i += 2 * lanes)
            mix_words<Side>(x + i, stride, heads, m + i, channels);
    for (; i + several * lanes <= channels; i += several * lanes)
        mix_span<Size, Side, several, T>(x + i, stride, heads, m + i, channels);
    for (; i + registers * lanes <= channels; i += registers * lanes)
        mix_span<Size, Side, registers, T>(x + i, stride, heads, m + i, channels);
    if constexpr (registers == 1) {
        const index left = channels - i;
        if (left == 0) return;
        for (index h = 0; h < heads; ++h) {
            stored_t<T>* const at = x + h * stride + i;
            simd::pack<C> in[1] = {simd::load_some(at, left)}, out[1];
            blocks::template multiply<Side>(
                in, out, [&](index k, index) { return simd::load_some(m + k * channels + i, left); });
            simd::store_some(at, out[0], left);
        }
    }
}

/// Blocks of any size: as many whole blocks as fit in a piece are copied between margins, so that cyclic
/// shifts of a block become loads from other addresses.
template <class C>
struct shifted_blocks {
    static constexpr index lanes = simd::lanes<C>, piece = 256, margin = max_block_size + lanes;
    static constexpr auto room = static_cast<std::size_t>(piece + 2 * margin);
    C in[room] = {}, sums[room] = {}, place[room] = {};  // place: index of each channel in its block
    index size, channels;                                // size of a block; channels of a piece

    explicit shifted_blocks(index block) noexcept : size(block), channels(piece / block * block) {
        for (index i = 0; i < channels; ++i) place[margin + i] = static_cast<C>(i % size);
    }
    template <block_side Side, class T>
    void mix(stored_t<T>* x, const C* m, index stride, index count) noexcept {
        for (index i = 0; i < count; ++i) in[margin + i] = static_cast<C>(static_cast<compute_t<T>>(x[i]));
        // The margin after the piece is multiplied and not stored; it must be 0.
        std::fill_n(in + margin + count, margin, C(0));
        std::fill_n(sums + margin, count + lanes, C(0));
        C products[room] = {};
        const auto of = [&](const C* row, index i) {
            return count - i < lanes ? simd::load_some(row + i, count - i) : simd::load(row + i);
        };
        for (index k = 0; k < size; ++k, m += stride) {
            const C* from = in + margin;
            if constexpr (Side == block_side::transposed) {
                for (index i = 0; i < count; i += lanes)
                    simd::store(products + margin + i, of(m, i) * simd::load(from + i));
                from = products + margin;
            }
            // Forward the channel i + k of the block is used, transposed the product of channel i - k.
            const index near_lane = Side == block_side::forward ? k : -k;
            const index far_lane = near_lane + (Side == block_side::forward ? -size : size);
            const auto border = simd::broadcast(static_cast<C>(Side == block_side::forward ? size - k : k));
            for (index i = 0; i < count; i += lanes) {
                const auto before = simd::load(place + margin + i) < border;
                const auto a = simd::load(from + i + near_lane), b = simd::load(from + i + far_lane);
                const auto sum = simd::load(sums + margin + i);
                if constexpr (Side == block_side::forward) {
                    simd::store(sums + margin + i, simd::fma(of(m, i), simd::choose(before, a, b), sum));
                } else {
                    simd::store(sums + margin + i, sum + simd::choose(before, b, a));
                }
            }
        }
        for (index i = 0; i < count; ++i)
            x[i] = static_cast<stored_t<T>>(static_cast<compute_t<T>>(sums[margin + i]));
    }
};

/// Calls f(first head, number of heads that share the row, row of coefficients) for the heads of a part.
/// Returns a row that the table does not have, or -1.
template <class T, class C, class F>
index each_mixed_token(const heads_view<T>& x, const block_rows_view<C>& rows, work_part work, F f) noexcept {
    const work_range heads = partition(x.heads(), work.heads);
    const index together = rows.heads == 1 ? heads.count : 1;
    index missing = -1;
    for (index token = work.first_token; token < work.first_token + work.tokens; ++token) {
        const index row = rows.row(token);
        if (row >= rows.table_rows) missing = row;
        if (row < 0 || row >= rows.table_rows) continue;
        for (index h = heads.first; h < heads.first + heads.count; h += together)
            f(reinterpret_cast<stored_t<T>*>(x.at(token / x.tokens(), token % x.tokens(), h)), together,
              rows.at(row, h));
    }
    return missing;
}

template <block_side Side, class T, class C>
index mix_block_tokens(const heads_view<T>& x, const block_rows_view<C>& rows, work_part work) noexcept {
    const index channels = rows.blocks * rows.size, stride = x.strides.head;
    const auto by = [&](auto size) {
        return each_mixed_token(x, rows, work, [&](stored_t<T>* head, index count, const C* m) {
            mix_heads<decltype(size)::value, Side, T>(head, stride, count, m, channels);
        });
    };
    switch (rows.size) {
        case 2: return by(std::integral_constant<index, 2>{});
        case 4: return by(std::integral_constant<index, 4>{});
        case 8: return by(std::integral_constant<index, 8>{});
        default: break;
    }
    shifted_blocks<C> blocks(rows.size);
    return each_mixed_token(x, rows, work, [&](stored_t<T>* head, index count, const C* m) {
        for (index h = 0; h < count; ++h, head += stride)
            for (index i = 0; i < channels; i += blocks.channels)
                blocks.template mix<Side, T>(head + i, m + i, channels,
                                             std::min(blocks.channels, channels - i));
    });
}

template <class T>
misfit fit_blocks(const heads_view<T>& x, const block_rows_view<compute_t<T>>& rows, part_of part) noexcept {
    const misfit view = first_of(fit_readable(x), fit_part(part));
    if (!view.ok() || x.empty()) return view;
    if (rows.size < 1 || rows.size > max_block_size)
        return {"size of the blocks must be in 1 .. 64", max_block_size, rows.size};
    if (x.channels() < rows.blocks * rows.size)
        return {"channels must hold the blocks of the rows", rows.blocks * rows.size, x.channels()};
    if (rows.count() != x.batches() * x.tokens())
        return {"rows must be one per token (batches * tokens)", x.batches() * x.tokens(), rows.count()};
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
    const index missing = mix_block_tokens<Side>(x, rows, work);
    return missing < 0 || tell("mix_blocks", missing_row(rows, missing));
}

}  // namespace detail

/// Multiplies every block of adjacent channels by the matrix of its token, in place. Channels after the last
/// block are unchanged.
/// Shapes:   x [batches, tokens, heads, channels >= blocks * size]; rows of batches * tokens tokens, for one
///           head or as many as x has.
/// Requires, Returns: as rotate. Negative rows leave a token untouched.
/// Cost:     size multiply-adds per channel, one pass over the data; no allocation. With AVX-512, blocks of 2
///           take 1.0 to 1.3 times as long as rotate, blocks of 4 about twice as long, blocks of 8 three to
///           five times; other sizes make copies.
/// Accuracy: f64, f32: size ulp of the sum of magnitudes; 16-bit: half a storage ulp more.
/// Source:   LieRE, arXiv 2406.10322.
template <class T>
bool mix_blocks(heads_view<T> x, std::type_identity_t<block_rows_view<compute_t<T>>> rows,
                part_of part = {}) noexcept {
    return detail::mix_blocks_as<detail::block_side::forward>(x, rows, part);
}

/// Multiplies by the transposed matrices: the inverse of mix_blocks if the matrices are rotations, and its
/// gradient with respect to x for any matrices.
/// Shapes, Requires, Cost, Accuracy: as mix_blocks.
/// Source:   R^T R = 1.
template <class T>
bool mix_blocks_transposed(heads_view<T> x, std::type_identity_t<block_rows_view<compute_t<T>>> rows,
                           part_of part = {}) noexcept {
    return detail::mix_blocks_as<detail::block_side::transposed>(x, rows, part);
}

}  // namespace ROPEWALK_NAMESPACE
