// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Products of several heads with several rows of a cache, for attention over selected rows.
#pragma once

#include <algorithm>
#include <array>

#include <ropewalk/core/simd_permute.hpp>
#include <ropewalk/core/simd_storage.hpp>
#include <ropewalk/core/simd_sums.hpp>

/// The two products of attention over rows at arbitrary addresses: several heads with several rows at once,
/// so that a row is loaded once for four heads and a head once for several rows.
/// Source: the register blocking of dense matrix products (Goto and van de Geijn 2008).

namespace ROPEWALK_NAMESPACE::detail {

inline constexpr index heads_at_once = 4;
// 4 x 4 accumulators need a register file of 32.
#if defined(ROPEWALK_DETAIL_X86_512) || defined(ROPEWALK_DETAIL_NEON)
inline constexpr std::size_t rows_at_once = 4;
#else
inline constexpr std::size_t rows_at_once = 2;
#endif

/// Prefetches a row of `channels` elements.
template <class E>
ROPEWALK_ALWAYS_INLINE void prefetch_row(const E* row, index channels) noexcept {
    constexpr index line = 64 / static_cast<index>(sizeof(E));
    for (index c = 0; c < channels; c += line) simd::prefetch_read(row + c);
}

/// out[h][j] = x_h . row_j for H heads and N rows.
template <std::size_t H, std::size_t N, class T, class E>
ROPEWALK_ALWAYS_INLINE void product_block(const T* x, index x_stride, const E* const* rows, index channels,
                                          T* out, index out_stride) noexcept {
    constexpr index n = simd::lanes<T>;
    std::array<std::array<simd::pack<T>, N>, H> sums;
    for (auto& of_head : sums)
        for (auto& s : of_head) s = simd::broadcast(T(0));
    const auto step = [&](index c, auto load) {
        std::array<simd::pack<T>, N> r;
        for (std::size_t j = 0; j < N; ++j) r[j] = load(rows[j] + c);
        for (std::size_t h = 0; h < H; ++h) {
            const simd::pack<T> a = load(x + static_cast<index>(h) * x_stride + c);
            for (std::size_t j = 0; j < N; ++j) sums[h][j] = simd::fma(a, r[j], sums[h][j]);
        }
    };
    index c = 0;
    for (; c + n <= channels; c += n) step(c, [](const auto* p) { return simd::load(p); });
    if (c < channels) step(c, [&](const auto* p) { return simd::load_some(p, channels - c); });
    for (std::size_t h = 0; h < H; ++h)
        for (std::size_t j = 0; j < N; ++j)
            out[static_cast<index>(h) * out_stride + static_cast<index>(j)] = simd::sum_lanes(sums[h][j]);
}

template <std::size_t H, class T, class E>
void product_rows(const T* x, index x_stride, const E* const* rows, index count, index channels, T* out,
                  index out_stride) noexcept {
    index j = 0;
    constexpr auto block = static_cast<index>(rows_at_once);
    for (; j + block <= count; j += block)
        product_block<H, rows_at_once>(x, x_stride, rows + j, channels, out + j, out_stride);
    for (; j < count; ++j) product_block<H, 1>(x, x_stride, rows + j, channels, out + j, out_stride);
}

/// out[h][j] = x_h . row_j for any number of heads (x [heads, channels], stride x_stride) and rows.
template <class T, class E>
void fill_row_products(const T* x, index x_stride, index heads, const E* const* rows, index count,
                       index channels, T* out, index out_stride) noexcept {
    for (index h = 0; h < heads; h += heads_at_once) {
        const T* from = x + h * x_stride;
        T* to = out + h * out_stride;
        switch (std::min(heads_at_once, heads - h)) {
            case 1: product_rows<1>(from, x_stride, rows, count, channels, to, out_stride); break;
            case 2: product_rows<2>(from, x_stride, rows, count, channels, to, out_stride); break;
            case 3: product_rows<3>(from, x_stride, rows, count, channels, to, out_stride); break;
            default: product_rows<4>(from, x_stride, rows, count, channels, to, out_stride); break;
        }
    }
}

/// sum_h += sum over j of weight[h][j] row_j, for H heads and V registers of channels from c on; the last
/// register holds `some` channels, or all of its lanes when 0.
template <std::size_t H, std::size_t V, class T, class E>
ROPEWALK_ALWAYS_INLINE void weighted_block(const E* const* rows, index count, const T* weights,
                                           index weight_stride, T* sums, index sum_stride, index c,
                                           index some = 0) noexcept {
    constexpr index n = simd::lanes<T>;
    const auto load = [&](const auto* p) { return some == 0 ? simd::load(p) : simd::load_some(p, some); };
    std::array<std::array<simd::pack<T>, V>, H> a;
    for (std::size_t h = 0; h < H; ++h)
        for (std::size_t v = 0; v < V; ++v)
            a[h][v] = load(static_cast<const T*>(sums) + static_cast<index>(h) * sum_stride + c +
                           static_cast<index>(v) * n);
    for (index j = 0; j < count; ++j) {
        std::array<simd::pack<T>, V> r;
        for (std::size_t v = 0; v < V; ++v) r[v] = load(rows[j] + c + static_cast<index>(v) * n);
        for (std::size_t h = 0; h < H; ++h) {
            const auto w = simd::broadcast(weights[static_cast<index>(h) * weight_stride + j]);
            for (std::size_t v = 0; v < V; ++v) a[h][v] = simd::fma(w, r[v], a[h][v]);
        }
    }
    for (std::size_t h = 0; h < H; ++h)
        for (std::size_t v = 0; v < V; ++v) {
            T* const to = sums + static_cast<index>(h) * sum_stride + c + static_cast<index>(v) * n;
            if (some == 0) {
                simd::store(to, a[h][v]);
            } else {
                simd::store_some(to, a[h][v], some);
            }
        }
}

template <std::size_t H, class T, class E>
void weighted_rows(const E* const* rows, index count, index channels, const T* weights, index weight_stride,
                   T* sums, index sum_stride) noexcept {
    constexpr index n = simd::lanes<T>;
    constexpr index wide = static_cast<index>(rows_at_once) * n;  // the same limit: H x V accumulators
    index c = 0;
    for (; c + wide <= channels; c += wide)
        weighted_block<H, rows_at_once>(rows, count, weights, weight_stride, sums, sum_stride, c);
    for (; c + n <= channels; c += n)
        weighted_block<H, 1>(rows, count, weights, weight_stride, sums, sum_stride, c);
    if (c < channels)
        weighted_block<H, 1>(rows, count, weights, weight_stride, sums, sum_stride, c, channels - c);
}

/// sum_h += sum over j of weight[h][j] row_j for any number of heads.
template <class T, class E>
void add_weighted_rows(const E* const* rows, index count, index channels, const T* weights,
                       index weight_stride, index heads, T* sums, index sum_stride) noexcept {
    for (index h = 0; h < heads; h += heads_at_once) {
        const T* w = weights + h * weight_stride;
        T* to = sums + h * sum_stride;
        switch (std::min(heads_at_once, heads - h)) {
            case 1: weighted_rows<1>(rows, count, channels, w, weight_stride, to, sum_stride); break;
            case 2: weighted_rows<2>(rows, count, channels, w, weight_stride, to, sum_stride); break;
            case 3: weighted_rows<3>(rows, count, channels, w, weight_stride, to, sum_stride); break;
            default: weighted_rows<4>(rows, count, channels, w, weight_stride, to, sum_stride); break;
        }
    }
}

}  // namespace ROPEWALK_NAMESPACE::detail
