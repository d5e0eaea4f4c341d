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

/// Blocks on their way through registers and the first cache: where they are, and their rotated numbers.
template <class Block>
struct block_batch {
    static constexpr std::size_t capacity = simd::batch_blocks<Block>;
    alignas(64) float number[capacity * static_cast<std::size_t>(numbers_in<Block>)];
    Block* block[capacity];
    simd::batch_scales<Block> scales;

    ROPEWALK_ALWAYS_INLINE float* place(std::size_t b, std::size_t r) noexcept {
        return number + static_cast<index>(b) * numbers_in<Block> +
               static_cast<index>(r) * simd::lanes<float>;
    }
    ROPEWALK_ALWAYS_INLINE void decode(std::size_t b,
                                       simd::pack<float> (&x)[simd::block_registers<Block>]) noexcept {
        simd::decode_block(*block[b], scales.factor[b], x);
    }
    ROPEWALK_ALWAYS_INLINE void load_scales(std::size_t count) noexcept {
        simd::load_scales(scales, count,
                          [&](std::size_t b) ROPEWALK_DETAIL_INLINE_LAMBDA { return block[b]; });
    }
    ROPEWALK_ALWAYS_INLINE void write(std::size_t count) noexcept {
        const bool all_numbers = simd::fill_scales(scales, count);
        simd::write_blocks(
            [&](std::size_t b) ROPEWALK_DETAIL_INLINE_LAMBDA { return block[b]; }, scales, count, all_numbers,
            [&](std::size_t b, std::size_t r)
                ROPEWALK_DETAIL_INLINE_LAMBDA { return simd::load(static_cast<const float*>(place(b, r))); });
    }
};

/// U pairs of blocks, at places first .. first + 2 U - 1 of the batch; cos and sin of each pair's channels.
template <std::size_t U, class Block>
ROPEWALK_ALWAYS_INLINE void rotate_block_pairs(block_batch<Block>& batch, std::size_t first,
                                               const float* const (&cos)[U],
                                               const float* const (&sin)[U]) noexcept {
    constexpr std::size_t R = simd::block_registers<Block>;
    simd::pack<float> x[2 * U][R];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t u = 0; u < U; ++u) {
        const std::size_t at = first + 2 * u;
        batch.decode(at, x[2 * u]);
        batch.decode(at + 1, x[2 * u + 1]);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < R; ++r) {
            const index i = static_cast<index>(r) * simd::lanes<float>;
            const simd::pack<float> c = simd::load(cos[u] + i), s = simd::load(sin[u] + i);
            const simd::pack<float> a = x[2 * u][r], b = x[2 * u + 1][r];
            x[2 * u][r] = simd::fms<float>(a, c, b * s);
            x[2 * u + 1][r] = simd::fma(b, c, a * s);
            simd::store(batch.place(at, r), x[2 * u][r]);
            simd::store(batch.place(at + 1, r), x[2 * u + 1][r]);
        }
    }
    simd::measure_blocks(batch.scales, first, std::integral_constant<std::size_t, 2 * U>{},
                         [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA { return x[b][r]; });
}

/// Half-split pairs of whole blocks: block p of the slice with block p + half, a batch of them at a time
/// across heads.
template <class Block>
void rotate_half_split_blocks(block_heads<Block> x, const block_row& row) noexcept {
    constexpr index size = numbers_in<Block>;
    const index half = row.pairs / size;
    block_batch<Block> batch;
    Block* head = x.base + row.first_channel / size;
    index p = 0;
    for (index left = x.heads * half; left > 0;) {
        const auto units = std::min(static_cast<std::size_t>(left), batch.capacity / 2);
        index row_at[block_batch<Block>::capacity / 2];
        for (std::size_t u = 0; u < units; ++u) {
            batch.block[2 * u] = head + p;
            batch.block[2 * u + 1] = head + p + half;
            row_at[u] = p * size;
            if (++p == half) p = 0, head += x.stride;
        }
        batch.load_scales(2 * units);
        std::size_t u = 0;
        for (; u + 2 <= units; u += 2)
            rotate_block_pairs<2>(batch, 2 * u, {row.cos + row_at[u], row.cos + row_at[u + 1]},
                                  {row.sin + row_at[u], row.sin + row_at[u + 1]});
        if (u < units) rotate_block_pairs<1>(batch, 2 * u, {row.cos + row_at[u]}, {row.sin + row_at[u]});
        batch.write(2 * units);
        left -= static_cast<index>(units);
    }
}

/// cos and sin of every channel of some blocks, as interleaved pairs need them: (c, c) and (-s, s), and (1,
/// 1) and (0, 0) of channels outside the slice.
template <class Block>
struct interleaved_row {
    static constexpr index capacity = static_cast<index>(simd::batch_blocks<Block>) * numbers_in<Block>;
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

/// Interleaved pairs from an even channel on: every block by itself.
template <class Block>
void rotate_interleaved_blocks(block_heads<Block> x, const block_row& row) noexcept {
    constexpr index size = numbers_in<Block>;
    constexpr std::size_t R = simd::block_registers<Block>;
    const index end = (row.first_channel + 2 * row.pairs + size - 1) / size;
    interleaved_row<Block> whole;
    block_batch<Block> batch;
    for (index first = row.first_channel / size; first < end; first += whole.capacity / size) {
        const index here = std::min(end - first, whole.capacity / size);
        whole.fill(row, first * size, here * size);
        Block* head = x.base + first;
        index p = 0;
        for (index left = x.heads * here; left > 0;) {
            const auto count = std::min(static_cast<std::size_t>(left), batch.capacity);
            index row_at[block_batch<Block>::capacity];
            for (std::size_t b = 0; b < count; ++b) {
                batch.block[b] = head + p;
                row_at[b] = p * size;
                if (++p == here) p = 0, head += x.stride;
            }
            batch.load_scales(count);
            simd::blocks::in_fours(
                count,
                [&]<std::size_t B>(std::size_t at,
                                   std::integral_constant<std::size_t, B> of) ROPEWALK_DETAIL_INLINE_LAMBDA {
                    simd::pack<float> y[B][R];
                    ROPEWALK_DETAIL_UNROLL
                    for (std::size_t b = 0; b < B; ++b) {
                        batch.decode(at + b, y[b]);
                        ROPEWALK_DETAIL_UNROLL
                        for (std::size_t r = 0; r < R; ++r) {
                            const index i = row_at[at + b] + static_cast<index>(r) * simd::lanes<float>;
                            const simd::pack<float> c = simd::load(static_cast<const float*>(whole.cos + i));
                            const simd::pack<float> s = simd::load(static_cast<const float*>(whole.sin + i));
                            y[b][r] = simd::fma(y[b][r], c, simd::swap_pairs(y[b][r]) * s);
                            simd::store(batch.place(at + b, r), y[b][r]);
                        }
                    }
                    simd::measure_blocks(batch.scales, at, of,
                                         [&](std::size_t b, std::size_t r)
                                             ROPEWALK_DETAIL_INLINE_LAMBDA { return y[b][r]; });
                });
            batch.write(count);
            left -= static_cast<index>(count);
        }
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

/// Rotates heads of q8 or q4 blocks where they are, by one row of cos and sin: decoded, rotated in f32,
/// encoded again, all between the registers and the first cache. Shapes:   heads of adjacent blocks; channels
/// [first_channel, first_channel + 2 * pairs) of each are rotated.
///           Blocks without such a channel keep their bytes. A block that the slice covers in part is encoded
///           anew as a whole.
/// Requires: block_slice_fits; a slice that does not is an assertion in debug and touches nothing in release.
///           Blocks of different heads are apart.
/// Cost:     each touched block read and written once; no allocation.
/// Accuracy: bit for bit simd::decode_head, rotation in f32 (each output within 2 ulp of the pair norm), then
///           simd::encode_head. With d' the largest magnitude of the new block / 127 (q4: / 8), every number
///           is within 0.5625 d' (q4: |d'|, half of that but for what faces the block's largest number from
///           the other side of zero) of the rotated one: 127 * 2^-11 d' of it is the scale's rounding to f16.
///           A block whose largest code is 127 or -127 (q4: 0), as encoders leave it, is not changed by a
///           rotation by 0; a NaN in it or in the row makes its numbers NaN.
///           Rotations add up. By deltas that differ, n of them leave a q8 number within 1.5 sqrt(n) d of the
///           exact one and within 0.3 sqrt(n) d in the mean of squares, d of the block's largest pair norm
///           (n = 1000: 17 % of the keys' norm in all; q4: the same in its own d, where 10 calls are 26 %,
///           and some hundreds lose the keys). By a small delta that repeats they do not behave like that:
///           most of a step below half a code, an angle below 1 / 254, is rounded away each time. 1000 shifts
///           of q8 keys by -64 tokens are off by 30 % of their norm, by -1 token by 93 %: shift seldom and
///           far, many small shifts as one.
/// Source:   ggml-org/llama.cpp pull request 2060 (rotation of cached keys by a delta).
template <class Block>
void rotate_blocks(pair_layout layout, block_heads<Block> x, const block_row& row) noexcept {
    static_assert(is_block<Block>);
    constexpr index size = numbers_in<Block>;
    const bool fits = block_slice_fits(layout, row, size);
    ROPEWALK_EXPECT(fits);
    if (!fits || row.pairs == 0 || x.heads <= 0) return;
    if (layout.kind == pair_layout::kind_type::interleaved && row.first_channel % 2 == 0)
        detail::rotate_interleaved_blocks(x, row);
    else if (layout.kind == pair_layout::kind_type::half_split && row.pairs % size == 0 &&
             row.first_channel % size == 0)
        detail::rotate_half_split_blocks(x, row);
    else
        detail::rotate_any_blocks(layout, x, row);
}

}  // namespace ROPEWALK_NAMESPACE
