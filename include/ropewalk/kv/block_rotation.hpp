// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/simd_blocks.hpp>
#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/kernels/pair_layout.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

/// The heads of one token in a cache of blocks.
template <class Block>
struct block_heads {
    Block* base = nullptr;  ///< first block of the first head
    index stride = 0;       ///< blocks from a head to the next
    index heads = 0;        ///< how many
};

/// A row of cos and sin, and where in a head its pairs are.
struct block_row {
    const float* cos = nullptr;  ///< pairs numbers
    const float* sin = nullptr;  ///< pairs numbers
    index pairs = 0;             ///< 2 * pairs channels are rotated
    index first_channel = 0;     ///< the first of them, counted in numbers from the head's first block
};

/// The longest slice that may begin or end inside a block, or between the halves of which a block lies.
inline constexpr index block_slice_channels = 1024;

/// Whether rotate_blocks takes the slice in blocks of `size` numbers: any of up to block_slice_channels,
/// longer ones if their pairs are interleaved and start at an even channel, or half-split of whole blocks.
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

/// Blocks on their way through registers and the first cache: their scales and rotated numbers.
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
    /// Blocks at places first, first + 1, ...
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

/// Some blocks of some heads: blocks [first, first + blocks) of each, and for half-split pairs those `half`
/// further on.
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

/// U pairs of blocks, to places at, at + 1, ... of the batch.
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

/// The pairs of a tile: four blocks at a time, of one head where it has two pairs of blocks left, else of two
/// heads with one pair each.
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

/// cos and sin of every channel of some blocks, as interleaved pairs need them: (c, c) and (-s, s), and (1,
/// 1) and (0, 0) of channels outside the slice.
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

/// The blocks of a tile, each by itself.
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

/// Interleaved pairs from an even channel on: every block by itself.
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

/// Pairs (i, i + half) of numbers at p.
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
/// Pairs (2 i, 2 i + 1) of numbers at p.
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

/// Any slice of up to block_slice_channels, a head at a time through a buffer in the first cache.
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

/// Rotates heads of q8 or q4 blocks where they are, by one row of cos and sin: decoded, rotated in f32 and
/// encoded again between the registers and the first cache.
/// Shapes:   heads of adjacent blocks; rotated are channels [first_channel, first_channel + 2 * pairs).
///           Blocks without such a channel keep their bytes. A block that the slice covers in part is encoded
///           anew as a whole.
/// Requires: block_slice_fits.
/// Returns:  whether it does; otherwise nothing was touched. Blocks of different heads are apart.
/// Cost:     each touched block read and written once; no allocation.
/// Accuracy: bit for bit simd::decode_head, rotation in f32 (each output within 2 ulp of the pair norm), then
///           simd::encode_head. With d' the largest magnitude of the new block / 127 (q4: / 8), every number
///           is within 0.5625 d' (q4: |d'|, half of that but for what faces the block's largest number from
///           the other side of zero) of the rotated one: 127 * 2^-11 d' of it is the scale's rounding to f16,
///           where that is a normal f16. A block whose largest code is 127 or -127 (q4: 0), as encoders leave
///           it, is not changed by a rotation by 0; a NaN in it or in the row makes its numbers NaN.
///           Rotations add up. By deltas that differ, n of them leave a q8 number within 1.5 sqrt(n) d of the
///           exact one and within 0.3 sqrt(n) d in the mean of squares, d of the block's largest pair norm (n
///           = 1000: 17 % of the keys' norm in all; q4: the same in its own d, where 10 calls are 26 %, and
///           some hundreds lose the keys). By a small delta that repeats they do not behave like that: most
///           of a step below half a code, an angle below 1 / 254, is rounded away each time. 1000 shifts of
///           q8 keys by -64 tokens are off by 30 % of their norm, by -1 token by 93 %: shift seldom and far,
///           many small shifts as one.
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
