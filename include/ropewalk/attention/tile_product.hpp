// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Products of small matrices in registers, for attention tiles.
#pragma once

#include <algorithm>
#include <cstddef>

#include <ropewalk/core/simd.hpp>
#include <ropewalk/core/simd_storage.hpp>

/// Products of small matrices in registers, for attention tiles. The left factor is read in place, one number
/// at a time; the right factor and the result are rows of whole registers.
/// Source: register blocking, Goto and van de Geijn 2008.
namespace ROPEWALK_NAMESPACE::detail {

/// The number of registers across a strip of queries, and of rows in a block, so that the accumulators, one
/// row of the right factor and one number of the left fit in the register file (32 registers on AVX-512 and
/// NEON, 16 elsewhere).
inline constexpr std::size_t strip_packs = 3;
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_NEON)
inline constexpr std::size_t block_rows = 8;
#else
inline constexpr std::size_t block_rows = 4;
#endif
template <class T>
inline constexpr index strip_lanes = strip_packs* simd::lanes<T>;

/// What a product is added to: nothing, the previous result, or the previous result times one factor per
/// column.
enum class onto { nothing, sum, scaled_sum };

/// How the left factor is stored: contiguous rows (row m at a + m * stride) or contiguous columns.
enum class left { rows, columns };

/// A matrix: its address, and the distance between its rows (between its columns for left::columns).
template <class T>
struct matrix_at {
    T* data;
    index stride;
};

/// c [Rows, Packs registers] (+)= a [Rows, depth] * b [depth, Packs registers].
template <std::size_t Rows, std::size_t Packs, left Left, onto Onto, class T>
void block_product(const T* a, index a_stride, matrix_at<const T> b, matrix_at<T> c, index depth,
                   const T* factor) noexcept {
    constexpr index lanes = simd::lanes<T>;
    constexpr auto row_of = [](std::size_t i) { return static_cast<index>(i); };
    simd::pack<T> sum[Rows][Packs];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t m = 0; m < Rows; ++m) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p) {
            if constexpr (Onto == onto::nothing)
                sum[m][p] = simd::broadcast(T(0));
            else
                sum[m][p] =
                    simd::load(static_cast<const T*>(c.data + row_of(m) * c.stride + row_of(p) * lanes));
            if constexpr (Onto == onto::scaled_sum)
                sum[m][p] = sum[m][p] * simd::load(factor + row_of(p) * lanes);
        }
    }
    const T* row = b.data;
    for (index k = 0; k < depth; ++k, row += b.stride) {
        simd::pack<T> right[Packs];
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p) right[p] = simd::load(row + row_of(p) * lanes);
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t m = 0; m < Rows; ++m) {
            const simd::pack<T> each = simd::broadcast(Left == left::rows ? a[row_of(m) * a_stride + k]
                                                                          : a[row_of(m) + k * a_stride]);
            ROPEWALK_DETAIL_UNROLL
            for (std::size_t p = 0; p < Packs; ++p) sum[m][p] = simd::fma(each, right[p], sum[m][p]);
        }
    }
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t m = 0; m < Rows; ++m) {
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p)
            simd::store(c.data + row_of(m) * c.stride + row_of(p) * lanes, sum[m][p]);
    }
}

/// c [rows, Packs registers] (+)= a [rows, depth] * b [depth, Packs registers].
template <std::size_t Packs, left Left, onto Onto, std::size_t Rows = block_rows, class T>
void strip_product(index rows, index depth, matrix_at<const T> a, matrix_at<const T> b, matrix_at<T> c,
                   const T* factor = nullptr) noexcept {
    const index step = Left == left::rows ? a.stride : 1;
    index m = 0;
    constexpr auto block = static_cast<index>(Rows);
    for (; m + block <= rows; m += block)
        block_product<Rows, Packs, Left, Onto>(a.data + m * step, a.stride, b,
                                               {c.data + m * c.stride, c.stride}, depth, factor);
    if constexpr (Rows > 1)
        if (m < rows)
            strip_product<Packs, Left, Onto, Rows / 2>(rows - m, depth, {a.data + m * step, a.stride}, b,
                                                       {c.data + m * c.stride, c.stride}, factor);
}

/// The same for any number of registers across (`packs`).
template <left Left, onto Onto, class T>
void tile_product(index rows, index packs, index depth, matrix_at<const T> a, matrix_at<const T> b,
                  matrix_at<T> c, const T* factor = nullptr) noexcept {
    constexpr index lanes = simd::lanes<T>;
    for (index p = 0; p < packs;) {
        const T* const f = factor ? factor + p * lanes : nullptr;
        const matrix_at<const T> right{b.data + p * lanes, b.stride};
        const matrix_at<T> to{c.data + p * lanes, c.stride};
        if (packs - p >= 3) {
            strip_product<3, Left, Onto>(rows, depth, a, right, to, f);
            p += 3;
        } else if (packs - p == 2) {
            strip_product<2, Left, Onto>(rows, depth, a, right, to, f);
            p += 2;
        } else {
            strip_product<1, Left, Onto>(rows, depth, a, right, to, f);
            ++p;
        }
    }
}

/// The sum over the lanes, by adding halves.
template <class T>
T lane_sum(simd::pack<T> x) noexcept {
    T lane[simd::lanes<T>];
    simd::store(lane, x);
    for (index half = simd::lanes<T> / 2; half > 0; half /= 2)
        for (index i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
}

/// c[j * c.stride + r] = a row j . b row r: for few rows of b (decode), for which a strip would be mostly
/// empty. Rows of b are zero past `depth` up to whole registers.
template <class T>
void row_products(index rows, index columns, index depth, matrix_at<const T> a, matrix_at<const T> b,
                  matrix_at<T> c) noexcept {
    constexpr index lanes = simd::lanes<T>;
    constexpr std::size_t size = 4;
    constexpr auto block = static_cast<index>(size);
    const index whole = depth / lanes * lanes;
    index j = 0;
    for (; j + block <= rows; j += block)
        for (index r = 0; r < columns; ++r) {
            const T* const right = b.data + r * b.stride;
            simd::pack<T> sum[size];
            ROPEWALK_DETAIL_UNROLL
            for (int i = 0; i < block; ++i) sum[i] = simd::broadcast(T(0));
            for (index k = 0; k < whole; k += lanes) {
                const simd::pack<T> each = simd::load(right + k);
                ROPEWALK_DETAIL_UNROLL
                for (int i = 0; i < block; ++i)
                    sum[i] = simd::fma(each, simd::load(a.data + (j + i) * a.stride + k), sum[i]);
            }
            if (whole < depth)
                for (int i = 0; i < block; ++i)
                    sum[i] = simd::fma(simd::load(right + whole),
                                       simd::load_some(a.data + (j + i) * a.stride + whole, depth - whole),
                                       sum[i]);
            for (int i = 0; i < block; ++i) c.data[(j + i) * c.stride + r] = lane_sum<T>(sum[i]);
        }
    for (; j < rows; ++j)
        for (index r = 0; r < columns; ++r) {
            const T* const right = b.data + r * b.stride;
            const T* const from = a.data + j * a.stride;
            simd::pack<T> sum = simd::broadcast(T(0));
            for (index k = 0; k < whole; k += lanes)
                sum = simd::fma(simd::load(right + k), simd::load(from + k), sum);
            if (whole < depth)
                sum = simd::fma(simd::load(right + whole), simd::load_some(from + whole, depth - whole), sum);
            c.data[j * c.stride + r] = lane_sum<T>(sum);
        }
}

}  // namespace ROPEWALK_NAMESPACE::detail
