// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Rotation of quantised blocks (q8_0, q4_0) in place, through registers and L1.
#pragma once

#include <ropewalk/core/simd_blocks.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The heads of one token in a cache of blocks.
template <class Block>
struct block_heads {
    Block* base = nullptr;  ///< first block of the first head
    index stride = 0;       ///< blocks from one head to the next
    index heads = 0;        ///< number of heads
};

/// A row of cos and sin, and the position of its pairs in a head.
struct block_row {
    const float* cos = nullptr;  ///< `pairs` numbers
    const float* sin = nullptr;  ///< `pairs` numbers
    index pairs = 0;             ///< 2 * pairs channels are rotated
    index first_channel = 0;     ///< the first of them, counted in numbers from the first block of the head
};

/// The longest slice that may start or end inside a block, or whose halves may meet inside a block.
inline constexpr index block_slice_channels = 1024;

/// Whether rotate_blocks accepts the slice for blocks of `size` numbers. Every slice of up to
/// block_slice_channels is accepted; longer ones if their pairs are interleaved and start at an even channel,
/// or half-split with halves that are whole blocks.
constexpr bool block_slice_fits(pair_layout layout, const block_row& row, index size) noexcept {
    if (row.pairs < 0 || row.first_channel < 0 || !layout.fits(row.pairs)) return false;
    if (row.pairs <= block_slice_channels / 2) return true;
    if (layout.kind == pair_layout::kind_type::interleaved) return row.first_channel % 2 == 0;
    return layout.kind == pair_layout::kind_type::half_split && row.pairs % size == 0 &&
           row.first_channel % size == 0;
}

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// Blocks in registers and L1: their scales and rotated numbers.
template <class Block>
struct block_batch {
    static constexpr index capacity = static_cast<index>(simd::batch_blocks<Block>);
    alignas(64) float number[static_cast<std::size_t>(capacity * numbers_in<Block>)];
    simd::batch_scales<Block> scales;

    ROPEWALK_ALWAYS_INLINE float* place(index b, std::size_t r) noexcept {
        return number + b * numbers_in<Block> + static_cast<index>(r) * simd::lanes<float>;
    }
    ROPEWALK_ALWAYS_INLINE void take_scale(index b, const Block& from) noexcept {
        scales.scale[b] = from.scale;
    }
    ROPEWALK_ALWAYS_INLINE void decode(index b, const Block& from,
                                       simd::pack<float> (&x)[simd::block_registers<Block>]) noexcept {
        simd::decode_block(from, scales.factor[b], x);
    }
    /// Writes the blocks of entries first, first + 1, ....
    template <class BlockAt>
    ROPEWALK_ALWAYS_INLINE void write(index first, std::size_t count, bool all_numbers,
                                      BlockAt block) noexcept {
        simd::write_blocks(
            block, scales, static_cast<std::size_t>(first), count, all_numbers,
            [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
                return simd::load(static_cast<const float*>(place(first + static_cast<index>(b), r)));
            });
    }
};

/// Some blocks of some heads: blocks [first, first + blocks) of each and, for half-split pairs, those `half`
/// blocks further.
template <class Block>
struct block_tile {
    Block* head;
    index stride, heads, first, blocks, half;
};

/// Two blocks that form pairs, and the cos and sin of their channels.
template <class Block>
struct block_pair {
    const Block *a, *b;
    const float *cos, *sin;
};

/// U pairs of blocks, to entries at, at + 1, ... of the batch.
template <class Block, class... Pair>
ROPEWALK_ALWAYS_INLINE void rotate_block_pairs(block_batch<Block>& batch, index at, Pair... pairs) noexcept {
    constexpr std::size_t U = sizeof...(Pair), R = simd::block_registers<Block>;
    const block_pair<Block> pair[U] = {pairs...};
    simd::pack<float> x[2 * U][R];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t u = 0; u < U; ++u) {
        const index place = at + 2 * static_cast<index>(u);
        batch.decode(place, *pair[u].a, x[2 * u]);
        batch.decode(place + 1, *pair[u].b, x[2 * u + 1]);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < R; ++r) {
            const index i = static_cast<index>(r) * simd::lanes<float>;
            const simd::pack<float> c = simd::load(pair[u].cos + i), s = simd::load(pair[u].sin + i);
            const simd::pack<float> a = x[2 * u][r], b = x[2 * u + 1][r];
            x[2 * u][r] = simd::fms<float>(a, c, b * s);
            x[2 * u + 1][r] = simd::fma(b, c, a * s);
            simd::store(batch.place(place, r), x[2 * u][r]);
            simd::store(batch.place(place + 1, r), x[2 * u + 1][r]);
        }
    }
    simd::measure_blocks(batch.scales, static_cast<std::size_t>(at),
                         std::integral_constant<std::size_t, 2 * U>{},
                         [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA { return x[b][r]; });
}

/// The pairs of a tile, four blocks at a time: of one head while it has two pairs of blocks left, otherwise
/// one pair each of two heads.
template <class Block>
ROPEWALK_ALWAYS_INLINE void rotate_half_split_tile(block_batch<Block>& batch, const block_tile<Block>& tile,
                                                   const float* cos, const float* sin) noexcept {
    constexpr index size = numbers_in<Block>;
    const auto each_head = [&](auto run) ROPEWALK_DETAIL_INLINE_LAMBDA {
        Block* head = tile.head + tile.first;
        for (index h = 0, at = 0; h < tile.heads; ++h, head += tile.stride, at += 2 * tile.blocks)
            run(head, at);
    };
    each_head([&](Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index p = 0; p < tile.blocks; ++p) {
            batch.take_scale(at + 2 * p, head[p]);
            batch.take_scale(at + 2 * p + 1, head[p + tile.half]);
        }
    });
    const auto count = static_cast<std::size_t>(2 * tile.blocks * tile.heads);
    simd::load_scales(batch.scales, count);
    const auto pair = [&](const Block* a, index p) ROPEWALK_DETAIL_INLINE_LAMBDA {
        return block_pair<Block>{a, a + tile.half, cos + p * size, sin + p * size};
    };
    if (tile.blocks == 1) {
        const Block* head = tile.head + tile.first;
        index h = 0;
        for (; h + 2 <= tile.heads; h += 2, head += 2 * tile.stride)
            rotate_block_pairs(batch, 2 * h, pair(head, 0), pair(head + tile.stride, 0));
        if (h < tile.heads) rotate_block_pairs(batch, 2 * h, pair(head, 0));
    } else {
        each_head([&](const Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
            index p = 0;
            for (; p + 2 <= tile.blocks; p += 2)
                rotate_block_pairs(batch, at + 2 * p, pair(head + p, p), pair(head + p + 1, p + 1));
            if (p < tile.blocks) rotate_block_pairs(batch, at + 2 * p, pair(head + p, p));
        });
    }
    const bool all_numbers = simd::fill_scales(batch.scales, count);
    each_head([&](Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index p = 0; p < tile.blocks; ++p)
            batch.write(at + 2 * p, 2, all_numbers, [&](std::size_t b) ROPEWALK_DETAIL_INLINE_LAMBDA {
                return head + p + (b == 0 ? 0 : tile.half);
            });
    });
}

/// Half-split pairs of whole blocks: block p of the slice with block p + half.
template <class Block>
void rotate_half_split_blocks(block_heads<Block> x, const block_row& row) noexcept {
    constexpr index size = numbers_in<Block>, most = block_batch<Block>::capacity / 2;
    const index half = row.pairs / size;
    block_batch<Block> batch;
    for (index first = 0; first < half; first += most) {
        const index blocks = std::min(half - first, most), heads = most / blocks;
        for (index h = 0; h < x.heads; h += heads)
            rotate_half_split_tile(
                batch,
                block_tile<Block>{x.base + h * x.stride, x.stride, std::min(heads, x.heads - h),
                                  row.first_channel / size + first, blocks, half},
                row.cos + first * size, row.sin + first * size);
    }
}

/// cos and sin of every channel of some blocks in the form that interleaved pairs need: (c, c) and (-s, s);
/// (1, 1) and (0, 0) for channels outside the slice.
template <class Block>
struct interleaved_row {
    static constexpr index capacity = block_batch<Block>::capacity * numbers_in<Block>;
    alignas(64) float cos[static_cast<std::size_t>(capacity)];
    alignas(64) float sin[static_cast<std::size_t>(capacity)];

    void fill(const block_row& row, index first, index count) noexcept {
        constexpr index n = simd::lanes<float>;
        const index from = std::max<index>(row.first_channel, first);
        const index to = std::min(row.first_channel + 2 * row.pairs, first + count);
        const auto leave = [&](index begin, index end) {
            for (index c = begin; c < end; ++c) cos[c - first] = 1, sin[c - first] = 0;
        };
        leave(first, from);
        leave(to, first + count);
        index c = from;
        for (; c + 2 * n <= to; c += 2 * n) {
            const index pair = (c - row.first_channel) / 2;
            const simd::pack<float> cs = simd::load(row.cos + pair), sn = simd::load(row.sin + pair);
            simd::store(cos + (c - first), simd::duplicate_low(cs));
            simd::store(cos + (c - first) + n, simd::duplicate_high(cs));
            simd::store(sin + (c - first), simd::negate_even(simd::duplicate_low(sn)));
            simd::store(sin + (c - first) + n, simd::negate_even(simd::duplicate_high(sn)));
        }
        for (; c < to; c += 2) {
            const index pair = (c - row.first_channel) / 2;
            cos[c - first] = cos[c - first + 1] = row.cos[pair];
            sin[c - first] = -row.sin[pair];
            sin[c - first + 1] = row.sin[pair];
        }
    }
};

/// The blocks of a tile, each separately.
template <class Block>
ROPEWALK_ALWAYS_INLINE void rotate_interleaved_tile(block_batch<Block>& batch, const block_tile<Block>& tile,
                                                    const float* cos, const float* sin) noexcept {
    constexpr index size = numbers_in<Block>;
    constexpr std::size_t R = simd::block_registers<Block>;
    const auto each_head = [&](auto run) ROPEWALK_DETAIL_INLINE_LAMBDA {
        Block* head = tile.head + tile.first;
        for (index h = 0, at = 0; h < tile.heads; ++h, head += tile.stride, at += tile.blocks) run(head, at);
    };
    each_head([&](Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
        for (index p = 0; p < tile.blocks; ++p) batch.take_scale(at + p, head[p]);
    });
    const auto count = static_cast<std::size_t>(tile.blocks * tile.heads);
    simd::load_scales(batch.scales, count);
    each_head([&](const Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
        simd::blocks::in_fours(
            static_cast<std::size_t>(tile.blocks),
            [&]<std::size_t B>(std::size_t first, std::integral_constant<std::size_t, B> of)
                ROPEWALK_DETAIL_INLINE_LAMBDA {
                    simd::pack<float> y[B][R];
                    ROPEWALK_DETAIL_UNROLL
                    for (std::size_t b = 0; b < B; ++b) {
                        const auto p = static_cast<index>(first + b);
                        batch.decode(at + p, head[p], y[b]);
                        ROPEWALK_DETAIL_UNROLL
                        for (std::size_t r = 0; r < R; ++r) {
                            const index i = p * size + static_cast<index>(r) * simd::lanes<float>;
                            const simd::pack<float> c = simd::load(cos + i), s = simd::load(sin + i);
                            y[b][r] = simd::fma(y[b][r], c, simd::swap_pairs(y[b][r]) * s);
                            simd::store(batch.place(at + p, r), y[b][r]);
                        }
                    }
                    simd::measure_blocks(batch.scales, static_cast<std::size_t>(at) + first, of,
                                         [&](std::size_t b, std::size_t r)
                                             ROPEWALK_DETAIL_INLINE_LAMBDA { return y[b][r]; });
                });
    });
    const bool all_numbers = simd::fill_scales(batch.scales, count);
    each_head([&](Block* head, index at) ROPEWALK_DETAIL_INLINE_LAMBDA {
        batch.write(at, static_cast<std::size_t>(tile.blocks), all_numbers,
                    [&](std::size_t b) ROPEWALK_DETAIL_INLINE_LAMBDA { return head + b; });
    });
}

/// Interleaved pairs that start at an even channel: every block separately.
template <class Block>
void rotate_interleaved_blocks(block_heads<Block> x, const block_row& row) noexcept {
    constexpr index size = numbers_in<Block>, most = block_batch<Block>::capacity;
    const index end = (row.first_channel + 2 * row.pairs + size - 1) / size;
    interleaved_row<Block> whole;
    block_batch<Block> batch;
    for (index first = row.first_channel / size; first < end; first += most) {
        const index blocks = std::min(end - first, most), heads = most / blocks;
        whole.fill(row, first * size, blocks * size);
        for (index h = 0; h < x.heads; h += heads)
            rotate_interleaved_tile(batch,
                                    block_tile<Block>{x.base + h * x.stride, x.stride,
                                                      std::min(heads, x.heads - h), first, blocks, 0},
                                    static_cast<const float*>(whole.cos),
                                    static_cast<const float*>(whole.sin));
    }
}

/// Pairs (i, i + half) of the numbers at p.
inline void rotate_half_of_buffer(float* p, index half, const float* cos, const float* sin) noexcept {
    constexpr index n = simd::lanes<float>;
    for (index i = 0; i < half; i += n) {
        const index count = std::min(n, half - i);
        const auto c = simd::load_some(cos + i, count), s = simd::load_some(sin + i, count);
        const auto a = simd::load_some(static_cast<const float*>(p + i), count);
        const auto b = simd::load_some(static_cast<const float*>(p + half + i), count);
        simd::store_some(p + i, simd::fms<float>(a, c, b * s), count);
        simd::store_some(p + half + i, simd::fma(b, c, a * s), count);
    }
}
/// Pairs (2 i, 2 i + 1) of the numbers at p.
inline void rotate_pairs_of_buffer(float* p, index pairs, const float* cos, const float* sin) noexcept {
    constexpr index n = simd::lanes<float>;
    for (index i = 0; i < pairs; i += n / 2) {
        const index count = std::min(n / 2, pairs - i);
        const auto c = simd::duplicate_low(simd::load_some(cos + i, count));
        const auto s = simd::negate_even(simd::duplicate_low(simd::load_some(sin + i, count)));
        const auto a = simd::load_some(static_cast<const float*>(p + 2 * i), 2 * count);
        simd::store_some(p + 2 * i, simd::fma(a, c, simd::swap_pairs(a) * s), 2 * count);
    }
}

/// Any slice of up to block_slice_channels, one head at a time through a buffer in L1.
template <class Block>
void rotate_any_blocks(pair_layout layout, block_heads<Block> x, const block_row& row) noexcept {
    constexpr index size = numbers_in<Block>;
    const index first = row.first_channel / size;
    const index count = (row.first_channel + 2 * row.pairs + size - 1) / size - first;
    const index group = layout.group_of(row.pairs);
    alignas(64) float number[static_cast<std::size_t>(block_slice_channels + 2 * size)];
    float* const slice = number + (row.first_channel - first * size);
    Block* head = x.base + first;
    for (index h = 0; h < x.heads; ++h, head += x.stride) {
        simd::decode_head(number, static_cast<const Block*>(head), count);
        if (layout.kind == pair_layout::kind_type::interleaved)
            rotate_pairs_of_buffer(slice, row.pairs, row.cos, row.sin);
        else
            for (index at = 0; at < 2 * row.pairs; at += group)
                rotate_half_of_buffer(slice + at, group / 2, row.cos + at / 2, row.sin + at / 2);
        simd::encode_head(head, static_cast<const float*>(number), count);
    }
}

}  // namespace detail

/// Rotates heads of q8 or q4 blocks in place by one row of cos and sin: they are decoded, rotated in f32 and
/// encoded again in registers and L1.
/// Shapes:   heads of adjacent blocks; channels [first_channel, first_channel + 2 * pairs) rotate. Blocks
///           without such a channel keep their bytes. A block that the slice covers in part is encoded again
///           as a whole.
/// Requires: block_slice_fits; blocks of different heads do not overlap.
/// Returns:  whether block_slice_fits holds; if not, nothing was touched.
/// Cost:     each touched block is read and written once; no allocation.
/// Accuracy: bit for bit simd::decode_head, rotation in f32 (each output within 2 ulp of the norm of the
///           pair), then simd::encode_head. With d' = largest magnitude of the new block / 127 (q4: / 8),
///           every number is within 0.5625 d' of the rotated one (q4: |d'|, or half of that unless its code
///           is limited to 15); 127 * 2^-11 d' of that is the rounding of the scale to f16, if it is a normal
///           f16. A block whose largest code is 127 or -127 (q4: 0), as encoders produce it, is not changed
///           by a rotation by 0. A NaN in the block or in the row makes its numbers NaN. Errors of repeated
///           rotations add up. After n rotations by different deltas a q8 number is within 1.5 sqrt(n) d of
///           the exact one, and within 0.3 sqrt(n) d in the root mean square, with d from the largest norm of
///           a pair in the block (n = 1000: 17 % of the norm of the keys in all; q4: the same in its own d,
///           where 10 calls give 26 %, and some hundreds destroy the keys). A small delta that is repeated is
///           worse: most of a step below half a code, an angle below 1 / 254, is rounded away each time. 1000
///           shifts of q8 keys by -64 tokens are off by 30 % of their norm, by -1 token by 93 %. So shift
///           rarely and far, and combine many small shifts into one.
/// Source:   ggml-org/llama.cpp pull request 2060 (rotation of cached keys by a delta).
template <class Block>
bool rotate_blocks(pair_layout layout, block_heads<Block> x, const block_row& row) noexcept {
    static_assert(is_block<Block>);
    constexpr index size = numbers_in<Block>;
    if (!block_slice_fits(layout, row, size))
        return detail::tell("rotate_blocks", {"the slice must be one that block_slice_fits, pairs",
                                              block_slice_channels / 2, row.pairs});
    if (row.pairs == 0 || x.heads <= 0) return true;
    if (layout.kind == pair_layout::kind_type::interleaved && row.first_channel % 2 == 0)
        detail::rotate_interleaved_blocks(x, row);
    else if (layout.kind == pair_layout::kind_type::half_split && row.pairs % size == 0 &&
             row.first_channel % size == 0)
        detail::rotate_half_split_blocks(x, row);
    else
        detail::rotate_any_blocks(layout, x, row);
    return true;
}

}  // namespace ROPEWALK_NAMESPACE
