// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <ropewalk/core/block_types.hpp>
#include <ropewalk/core/simd_block_words.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns inside its own AVX-512 headers
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic ignored "-Wsign-conversion"  // its intrinsics are macros at -O0
#endif

/// Blocks of codes to registers of floats and back, with the bits of encode_block and decode_block. Scales
/// are made for four blocks at once: a block by itself would reduce a register to one lane, divide twice and
/// convert once for a single number. Source: see block_types.hpp.

namespace ROPEWALK_NAMESPACE::simd {

/// Registers that hold the numbers of a block.
template <class Block>
inline constexpr std::size_t block_registers = static_cast<std::size_t>(numbers_in<Block> / lanes<float>);

/// How many blocks share the making of their scales.
inline constexpr std::size_t blocks_at_once = 4;

namespace blocks {

/// A block by the reference, for what is rare.
template <class Block>
#if defined(__GNUC__) || defined(__clang__)
[[gnu::noinline]]
#endif
void encode_slowly(Block* to, const float* x) noexcept {
    encode_block(*to, x);
}

/// Whole groups by the reference: where there is no integer register, and where a block holds what is no
/// number or (q4) two numbers of one magnitude and different sign.
template <class Block, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void encode_by_reference(Block* const (&to)[B], Numbers x) noexcept {
    alignas(64) float number[B][numbers_in<Block>];
    for (std::size_t b = 0; b < B; ++b)
        for (std::size_t r = 0; r < block_registers<Block>; ++r)
            store(number[b] + static_cast<index>(r) * lanes<float>, x(b, r));
    for (std::size_t b = 0; b < B; ++b) encode_slowly(to[b], number[b]);
}

#if defined(ROPEWALK_DETAIL_WORDS)

template <int Size, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void encode(q8_block<Size>* const (&to)[B], Numbers x) noexcept {
    constexpr std::size_t R = block_registers<q8_block<Size>>;
    words m[blocks_at_once];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < blocks_at_once; ++b) {
        if (b >= B) {
            m[b] = m[0];
            continue;
        }
        m[b] = words::of(x(b, 0)) & words::all(0x7fffffffu);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 1; r < R; ++r) m[b] = larger(m[b], words::of(x(b, r)) & words::all(0x7fffffffu));
    }
    const four largest = largest_of_four(m);
    if (any_at_least(largest, detail::infinity_bits)) [[unlikely]] {
        encode_by_reference(to, x);
        return;
    }
    const four scale = largest / four::all(127.0f);
    alignas(16) float factor[4];
    where_at_least(largest, detail::least_in_block, four::all(1.0f) / scale).store(factor);
    const std::uint64_t halves = halves_of(scale);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < B; ++b) {
        to[b]->scale.bits = static_cast<std::uint16_t>(halves >> (16 * b));
        const pack<float> f = broadcast(factor[b]);
        for (std::size_t group = 0; group < R; group += step_registers) {
            words w[step_registers];
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t r = 0; r < step_registers; ++r)
                w[r] = truncated(half_further(in_register<float>(x(b, group + r) * f)));
            store_signed(to[b]->codes + static_cast<index>(group) * lanes<float>, w);
        }
    }
}

template <int Size, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void encode(q4_block<Size>* const (&to)[B], Numbers x) noexcept {
    constexpr std::size_t R = block_registers<q4_block<Size>>;
    words up[blocks_at_once], down[blocks_at_once];  // the largest positive and negative numbers' sizes
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < blocks_at_once; ++b) {
        if (b >= B) {
            up[b] = up[0], down[b] = down[0];
            continue;
        }
        up[b] = down[b] = words::all(0);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < R; ++r) {
            const pack<float> v = x(b, r);
            up[b] = larger(up[b], words::of(v));
            down[b] = larger(down[b], words::of(v) - words::all(0x80000000u));
        }
    }
    const four positive = largest_of_four(up), negative = largest_of_four(down);
    const four largest = larger(positive, negative);
    if (any_at_least(largest, detail::infinity_bits) || any_tie(positive, negative)) [[unlikely]] {
        encode_by_reference(to, x);
        return;
    }
    const four scale = larger_signed(positive, negative) * four::all(-0.125f);
    alignas(16) float factor[4];
    where_at_least(largest, detail::least_in_block, four::all(1.0f) / scale).store(factor);
    const std::uint64_t halves = halves_of(scale);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < B; ++b) {
        to[b]->scale.bits = static_cast<std::uint16_t>(halves >> (16 * b));
        const pack<float> f = broadcast(factor[b]);
        const auto code = [&](std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
            const words w = truncated(in_register<float>(x(b, r) * f) + broadcast(8.5f));
            return words::above(w, words::all(15), words::all(15), w);
        };
        for (std::size_t group = 0; group < R / 2; group += step_registers / 2) {
            words w[step_registers / 2];
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t r = 0; r < step_registers / 2; ++r)
                w[r] = code(group + r) | left<4>(code(group + r + R / 2));
            store_unsigned(to[b]->codes + static_cast<index>(group) * lanes<float>, w);
        }
    }
}

#endif

}  // namespace blocks

/// Registers of numbers into 1 to 4 blocks, which share the making of their scales.
/// Shapes:   x(b, r) gives register r of block b, r < block_registers<Block>, lanes in channel order; it is
///           called twice for each, so it reads registers or memory that no block of `to` overlaps.
/// Accuracy: bit for bit encode_block (with NEON under another rounding mode than to nearest the f16 scale
///           follows that mode, the reference does not).
template <class Block, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void encode_blocks(Block* const (&to)[B], Numbers x) noexcept {
    static_assert(is_block<Block> && B >= 1 && B <= blocks_at_once);
#if defined(ROPEWALK_DETAIL_WORDS)
    blocks::encode(to, x);
#else
    blocks::encode_by_reference(to, x);
#endif
}

/// The scales of 1 to 4 blocks as floats; what is behind them in `scales` is unspecified.
template <class Block, std::size_t B>
ROPEWALK_ALWAYS_INLINE void load_scales(const Block* const (&from)[B],
                                        float (&scales)[blocks_at_once]) noexcept {
#if defined(ROPEWALK_DETAIL_WORDS)
    std::uint64_t halves = 0;
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < B; ++b) halves |= static_cast<std::uint64_t>(from[b]->scale.bits) << (16 * b);
    blocks::from_halves(halves).store(scales);
#else
    for (std::size_t b = 0; b < B; ++b) scales[b] = static_cast<float>(from[b]->scale);
#endif
}

/// The block_registers<Block> registers of a block's numbers, its scale from load_scales.
template <int Size>
ROPEWALK_ALWAYS_INLINE void decode_block(const q8_block<Size>& from, float scale,
                                         pack<float> (&x)[block_registers<q8_block<Size>>]) noexcept {
    const pack<float> s = broadcast(scale);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t r = 0; r < block_registers<q8_block<Size>>; ++r) {
        const std::int8_t* const p = from.codes + static_cast<index>(r) * lanes<float>;
#if defined(ROPEWALK_DETAIL_WORDS)
        x[r] = blocks::floats(blocks::signed_bytes(p)) * s;
#else
        float code[lanes<float>];
        for (index i = 0; i < lanes<float>; ++i) code[i] = static_cast<float>(p[i]);
        x[r] = load(static_cast<const float*>(code)) * s;
#endif
    }
}
template <int Size>
ROPEWALK_ALWAYS_INLINE void decode_block(const q4_block<Size>& from, float scale,
                                         pack<float> (&x)[block_registers<q4_block<Size>>]) noexcept {
    constexpr std::size_t R = block_registers<q4_block<Size>>;
    const pack<float> s = broadcast(scale);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t r = 0; r < R / 2; ++r) {
        const std::uint8_t* const p = from.codes + static_cast<index>(r) * lanes<float>;
#if defined(ROPEWALK_DETAIL_WORDS)
        const words both = blocks::unsigned_bytes(p);
        x[r] = blocks::floats((both & words::all(15)) - words::all(8)) * s;
        x[r + R / 2] = blocks::floats(both.template right<4>() - words::all(8)) * s;
#else
        float low[lanes<float>], high[lanes<float>];
        for (index i = 0; i < lanes<float>; ++i) {
            low[i] = static_cast<float>((p[i] & 15) - 8);
            high[i] = static_cast<float>((p[i] >> 4) - 8);
        }
        x[r] = load(static_cast<const float*>(low)) * s;
        x[r + R / 2] = load(static_cast<const float*>(high)) * s;
#endif
    }
}

namespace blocks {

/// Calls run(first, constant B) for groups of blocks_at_once blocks and for what is left of them.
template <class Run>
ROPEWALK_ALWAYS_INLINE void in_groups(index count, Run run) noexcept {
    constexpr auto of = []<std::size_t B>() { return std::integral_constant<std::size_t, B>{}; };
    index b = 0;
    for (; b + 4 <= count; b += 4) run(b, of.template operator()<4>());
    if (b + 2 <= count) {
        run(b, of.template operator()<2>());
        b += 2;
    }
    if (b < count) run(b, of.template operator()<1>());
}

}  // namespace blocks

/// A head of f32, f16 or bf16 numbers into `count` adjacent blocks, and back to f32.
/// Shapes:   x [count * numbers_in<Block>], any alignment, apart from the blocks.
/// Accuracy: bit for bit encode_block of the numbers as f32; decoding is exact.
template <class Block, class T>
void encode_head(Block* to, const T* x, index count) noexcept {
    static_assert(std::is_same_v<compute_t<T>, float>, "ropewalk: f64 data are not quantised");
    const auto* const numbers = reinterpret_cast<const stored_t<T>*>(x);
    blocks::in_groups(count, [&]<std::size_t B>(index first, std::integral_constant<std::size_t, B>) {
        Block* to_block[B];
        for (std::size_t b = 0; b < B; ++b) to_block[b] = to + first + static_cast<index>(b);
        const auto* const from = numbers + first * numbers_in<Block>;
        encode_blocks(to_block, [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
            return load(from + static_cast<index>(b) * numbers_in<Block> +
                        static_cast<index>(r) * lanes<float>);
        });
    });
}
template <class Block>
void decode_head(float* x, const Block* from, index count) noexcept {
    constexpr std::size_t R = block_registers<Block>;
    blocks::in_groups(count, [&]<std::size_t B>(index first, std::integral_constant<std::size_t, B>) {
        const Block* block[B];
        for (std::size_t b = 0; b < B; ++b) block[b] = from + first + static_cast<index>(b);
        float scales[blocks_at_once];
        load_scales(block, scales);
        for (std::size_t b = 0; b < B; ++b) {
            pack<float> number[R];
            decode_block(*block[b], scales[b], number);
            float* const to = x + (first + static_cast<index>(b)) * numbers_in<Block>;
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t r = 0; r < R; ++r) store(to + static_cast<index>(r) * lanes<float>, number[r]);
        }
    });
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
