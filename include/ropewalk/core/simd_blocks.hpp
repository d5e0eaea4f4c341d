// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Encoding and decoding of q8 and q4 blocks with registers, bit for bit as encode_block and decode_block.
// A batch of blocks goes through each step together: the largest magnitudes of four blocks are reduced at
// once, the scales of a whole register of blocks are divided and converted at once, and no step waits for the
// latency of the one before. Source: see block_types.hpp.
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

namespace ROPEWALK_NAMESPACE::simd {

/// Registers that hold the numbers of a block.
template <class Block>
inline constexpr std::size_t block_registers = static_cast<std::size_t>(numbers_in<Block> / lanes<float>);

/// Blocks whose scales are computed together: those of 4 KB of numbers as floats, at least 4.
template <class Block>
inline constexpr std::size_t batch_blocks = numbers_in<Block> > 256 ? 4 : 1024 / numbers_in<Block> / 4 * 4;

/// The largest numbers of the blocks of a batch, four at a time from measure_blocks, and the scales that
/// fill_scales computes of them.
template <class Block>
struct batch_scales {
    static constexpr std::size_t capacity = 32;
    static_assert(batch_blocks<Block> <= capacity);
    static constexpr std::size_t beyond = 16;   // four entries are written at once
    alignas(64) float up[capacity + beyond];    ///< largest magnitude; q4: largest positive number
    alignas(64) float down[capacity + beyond];  ///< q4: magnitude of the largest negative number
    alignas(64) float factor[capacity];         ///< 1 / scale before the scale is rounded to f16, or 0
    alignas(64) f16 scale[capacity];
};

namespace blocks {

/// Encodes a block by the reference encoder, for rare cases.
template <class Block>
#if defined(__GNUC__) || defined(__clang__)
[[gnu::noinline]]
#endif
void encode_slowly(Block* to, const float* x) noexcept {
    encode_block(*to, x);
}

#if defined(ROPEWALK_DETAIL_WORDS)

template <int Size, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void measure(batch_scales<q8_block<Size>>& into, std::size_t first,
                                    std::integral_constant<std::size_t, B>, Numbers x) noexcept {
    words m[4];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < 4; ++b) {
        if (b >= B) {
            m[b] = m[0];
            continue;
        }
        m[b] = words::of(x(b, 0)) & words::all(0x7fffffffu);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 1; r < block_registers<q8_block<Size>>; ++r)
            m[b] = larger(m[b], words::of(x(b, r)) & words::all(0x7fffffffu));
    }
    store_largest(into.up + first, m);
}
template <int Size, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void measure(batch_scales<q4_block<Size>>& into, std::size_t first,
                                    std::integral_constant<std::size_t, B>, Numbers x) noexcept {
    words up[4], down[4];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t b = 0; b < 4; ++b) {
        if (b >= B) {
            up[b] = up[0], down[b] = down[0];
            continue;
        }
        up[b] = down[b] = words::all(0);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < block_registers<q4_block<Size>>; ++r) {
            const words v = words::of(x(b, r));
            up[b] = larger(up[b], v);
            down[b] = larger(down[b], v - words::all(0x80000000u));
        }
    }
    store_largest(into.up + first, up);
    store_largest(into.down + first, down);
}

/// The unrounded scale d of a register of blocks, and their largest magnitude (NaN where the reference must
/// decide).
struct measured {
    words largest;
    pack<float> scale;
};
template <int Size>
ROPEWALK_ALWAYS_INLINE measured scale_of(const batch_scales<q8_block<Size>>& s, std::size_t i) noexcept {
    const pack<float> largest = load(static_cast<const float*>(s.up + i));
    return {words::of(largest), divided(largest, broadcast(127.0f))};
}
template <int Size>
ROPEWALK_ALWAYS_INLINE measured scale_of(const batch_scales<q4_block<Size>>& s, std::size_t i) noexcept {
    const words up = words::of(load(static_cast<const float*>(s.up + i)));
    const words down = words::of(load(static_cast<const float*>(s.down + i)));
    // Of two equal magnitudes the first one counts, and which is first is not known here.
    const words tie = words::above(up, words::all(0), words::all(0x7fc00000u), words::all(0));
    const words largest = words::above(up, down, up, words::above(down, up, down, tie));
    const words number = words::above(down, up, down | words::all(0x80000000u), up);
    return {largest, number.floats() * broadcast(-0.125f)};
}

/// Encodes registers group .. group + step_registers - 1 of a q8 block.
template <class Numbers>
ROPEWALK_ALWAYS_INLINE void make_codes(words (&w)[step_registers], std::size_t group, pack<float> factor,
                                       Numbers x) noexcept {
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t r = 0; r < step_registers; ++r)
        w[r] = truncated(half_further(in_register<float>(x(group + r) * factor)));
}
template <int Size, class Numbers>
ROPEWALK_ALWAYS_INLINE void write_codes(q8_block<Size>* to, pack<float> factor, Numbers x) noexcept {
    for (std::size_t group = 0; group < block_registers<q8_block<Size>>; group += step_registers) {
        words w[step_registers];
        make_codes(w, group, factor, x);
        store_signed(to->codes + static_cast<index>(group) * lanes<float>, w);
    }
}
template <int Size, class Numbers, class OtherNumbers>
ROPEWALK_ALWAYS_INLINE void write_codes(q8_block<Size>* to, pack<float> factor, Numbers x,
                                        q8_block<Size>* other, pack<float> other_factor,
                                        OtherNumbers y) noexcept {
    for (std::size_t group = 0; group < block_registers<q8_block<Size>>; group += step_registers) {
        words w[step_registers], v[step_registers];
        make_codes(w, group, factor, x);
        make_codes(v, group, other_factor, y);
        const index at = static_cast<index>(group) * lanes<float>;
        store_signed(to->codes + at, w, other->codes + at, v);
    }
}
template <int Size, class Numbers>
ROPEWALK_ALWAYS_INLINE void write_codes(q4_block<Size>* to, pack<float> factor, Numbers x) noexcept {
    constexpr std::size_t half = block_registers<q4_block<Size>> / 2;
    const auto code = [&](std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
        const words w = truncated(in_register<float>(x(r) * factor) + broadcast(8.5f));
        return words::above(w, words::all(15), words::all(15), w);
    };
    for (std::size_t group = 0; group < half; group += step_registers / 2) {
        words w[step_registers / 2];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t r = 0; r < step_registers / 2; ++r)
            w[r] = code(group + r) | left<4>(code(group + r + half));
        store_unsigned(to->codes + static_cast<index>(group) * lanes<float>, w);
    }
}

template <int Size, class Numbers, class OtherNumbers>
ROPEWALK_ALWAYS_INLINE void write_codes(q4_block<Size>* to, pack<float> factor, Numbers x,
                                        q4_block<Size>* other, pack<float> other_factor,
                                        OtherNumbers y) noexcept {
    write_codes(to, factor, x);
    write_codes(other, other_factor, y);
}

#endif

}  // namespace blocks

/// Step 1, for the registers of 1 to 4 blocks: stores their largest numbers as entries first, first + 1, ...
/// of the batch. Four entries are written, so go from the lower ones to the higher.
/// Shapes:   x(b, r) returns register r of block b, r < block_registers<Block>, lanes in channel order.
template <class Block, std::size_t B, class Numbers>
ROPEWALK_ALWAYS_INLINE void measure_blocks(batch_scales<Block>& into, std::size_t first,
                                           std::integral_constant<std::size_t, B> count, Numbers x) noexcept {
    static_assert(B >= 1 && B <= 4);
#if defined(ROPEWALK_DETAIL_WORDS)
    blocks::measure(into, first, count, x);
#else
    (void)into, (void)first, (void)count, (void)x;
#endif
}

/// Step 2: the scales and factors of the first `count` entries. Returns false if a block needs the reference:
/// it holds a NaN or an infinity, or (q4) its largest magnitude with both signs.
template <class Block>
ROPEWALK_ALWAYS_INLINE bool fill_scales(batch_scales<Block>& s, std::size_t count) noexcept {
#if defined(ROPEWALK_DETAIL_WORDS)
    constexpr auto n = static_cast<std::size_t>(lanes<float>);
    for (std::size_t i = count; i % n != 0; ++i) s.up[i] = s.down[i] = 0;
    words largest = words::all(0);
    for (std::size_t i = 0; i < count; i += n) {
        const blocks::measured m = blocks::scale_of(s, i);
        largest = blocks::larger(largest, m.largest);
        const words factor = words::of(blocks::divided(broadcast(1.0f), m.scale));
        const words least = words::all(detail::least_in_block - 1);
        store(s.factor + i, words::above(m.largest, least, factor, words::all(0)).floats());
        store(s.scale + i, m.scale);
    }
    return largest_magnitude(largest.floats()) < detail::infinity_bits;
#else
    (void)s, (void)count;
    return false;
#endif
}

/// Step 3: encodes the `count` blocks of entries first, first + 1, ...; `all_numbers` is what fill_scales
/// returned for them.
/// Shapes:   block(b) points to block b, x(b, r) returns its register r again, b from 0 on; x must not read
///           the blocks.
template <class BlockAt, class Block, class Numbers>
ROPEWALK_ALWAYS_INLINE void write_blocks(BlockAt block, const batch_scales<Block>& s, std::size_t first,
                                         std::size_t count, bool all_numbers, Numbers x) noexcept {
    std::size_t b = 0;
#if defined(ROPEWALK_DETAIL_WORDS)
    if (all_numbers) [[likely]] {
        const auto of = [&](std::size_t i) ROPEWALK_DETAIL_INLINE_LAMBDA {
            return [&x, i](std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA { return x(i, r); };
        };
        for (; b + 2 <= count; b += 2) {
            const std::size_t place = first + b;
            block(b)->scale = s.scale[place];
            block(b + 1)->scale = s.scale[place + 1];
            blocks::write_codes(block(b), broadcast(s.factor[place]), of(b), block(b + 1),
                                broadcast(s.factor[place + 1]), of(b + 1));
        }
        if (b < count) {
            block(b)->scale = s.scale[first + b];
            blocks::write_codes(block(b), broadcast(s.factor[first + b]), of(b));
        }
        return;
    }
#endif
    (void)s, (void)first, (void)all_numbers;
    for (; b < count; ++b) {
        alignas(64) float number[numbers_in<Block>];
        for (std::size_t r = 0; r < block_registers<Block>; ++r)
            store(number + static_cast<index>(r) * lanes<float>, x(b, r));
        blocks::encode_slowly(block(b), number);
    }
}

/// Converts the scales of the first `count` blocks of a batch, which the caller copied to `scale`, to floats
/// in `factor`.
template <class Block>
ROPEWALK_ALWAYS_INLINE void load_scales(batch_scales<Block>& s, std::size_t count) noexcept {
    constexpr auto n = static_cast<std::size_t>(lanes<float>);
    for (std::size_t i = count; i % n != 0; ++i) s.scale[i].bits = 0;
    for (std::size_t i = 0; i < count; i += n)
        store(s.factor + i, load(static_cast<const f16*>(s.scale + i)));
}

/// The block_registers<Block> registers of the numbers of a block, given its scale as a float.
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

/// Calls run(first, constant B) for groups of four and then for the remainder of `count`.
template <class Run>
ROPEWALK_ALWAYS_INLINE void in_fours(std::size_t count, Run run) noexcept {
    std::size_t b = 0;
    for (; b + 4 <= count; b += 4) run(b, std::integral_constant<std::size_t, 4>{});
    switch (count - b) {
        case 3: run(b, std::integral_constant<std::size_t, 3>{}); break;
        case 2: run(b, std::integral_constant<std::size_t, 2>{}); break;
        case 1: run(b, std::integral_constant<std::size_t, 1>{}); break;
        default: break;
    }
}

}  // namespace blocks

/// Encodes a head of f32, f16 or bf16 numbers into `count` adjacent blocks, and decodes it to f32.
/// Shapes:   x [count * numbers_in<Block>], any alignment, not overlapping the blocks.
/// Accuracy: encoding has the bits of encode_block of the numbers as f32. (On NEON in a rounding mode other
///           than to nearest, the f16 scale follows that mode here and not in the reference.) Decoding is
///           exact.
template <class Block, class T>
void encode_head(Block* to, const T* x, index count) noexcept {
    static_assert(std::is_same_v<compute_t<T>, float>, "ropewalk: f64 data are not quantised");
    const auto* from = reinterpret_cast<const stored_t<T>*>(x);
    batch_scales<Block> s;
    for (auto left = static_cast<std::size_t>(count); left != 0;) {
        const std::size_t here = std::min(left, batch_blocks<Block>);
        const auto number = [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
            return load(from + static_cast<index>(b) * numbers_in<Block> +
                        static_cast<index>(r) * lanes<float>);
        };
        blocks::in_fours(here, [&](std::size_t first, auto of) ROPEWALK_DETAIL_INLINE_LAMBDA {
            measure_blocks(s, first, of, [&](std::size_t b, std::size_t r) ROPEWALK_DETAIL_INLINE_LAMBDA {
                return number(first + b, r);
            });
        });
        const bool all_numbers = fill_scales(s, here);
        write_blocks([&](std::size_t b) ROPEWALK_DETAIL_INLINE_LAMBDA { return to + b; }, s, 0, here,
                     all_numbers, number);
        left -= here;
        to += here;
        from += static_cast<index>(here) * numbers_in<Block>;
    }
}
template <class Block>
void decode_head(float* x, const Block* from, index count) noexcept {
    constexpr std::size_t R = block_registers<Block>;
    batch_scales<Block> s;
    for (auto left = static_cast<std::size_t>(count); left != 0;) {
        const std::size_t here = std::min(left, batch_blocks<Block>);
        for (std::size_t b = 0; b < here; ++b) s.scale[b] = from[b].scale;
        load_scales(s, here);
        for (std::size_t b = 0; b < here; ++b, x += numbers_in<Block>) {
            pack<float> number[R];
            decode_block(from[b], s.factor[b], number);
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t r = 0; r < R; ++r) store(x + static_cast<index>(r) * lanes<float>, number[r]);
        }
        left -= here;
        from += here;
    }
}

}  // namespace ROPEWALK_NAMESPACE::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
