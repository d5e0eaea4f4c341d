// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// The running softmax over a strip of queries in registers.
#pragma once

#include <limits>

#include <ropewalk/core/simd_exp.hpp>

namespace ROPEWALK_NAMESPACE::detail {

/// The running softmax of a strip of queries, one per lane. scores [keys, stride] become exp(score - peak),
/// peak and weight are updated, and factor is set to what earlier sums must be multiplied by. Hidden scores
/// are -infinity and become 0. A NaN score does not change the peak, but makes the weight NaN for good.
/// Source: online softmax, Milakov and Gimelshein 2018.
template <std::size_t Packs, class T>
void softmax_strip(T* scores, index stride, index keys, T* peak, T* weight, T* factor) noexcept {
    constexpr index lanes = simd::lanes<T>;
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    simd::pack<T> top[Packs], shift[Packs], sum[Packs];
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t p = 0; p < Packs; ++p)
        top[p] = simd::load(static_cast<const T*>(peak + static_cast<index>(p) * lanes));
    for (index j = 0; j < keys; ++j) {
        const T* const row = scores + j * stride;
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p)
            top[p] = simd::larger(simd::load(row + static_cast<index>(p) * lanes), top[p]);
    }
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t p = 0; p < Packs; ++p) {
        // Nothing seen so far: any finite shift keeps -infinity.
        shift[p] = simd::choose(top[p] == simd::broadcast(hidden), simd::broadcast(T(0)), top[p]);
        const simd::pack<T> shrink = simd::exp_of_negative(
            simd::load(static_cast<const T*>(peak + static_cast<index>(p) * lanes)) - shift[p]);
        simd::store(factor + static_cast<index>(p) * lanes, shrink);
        sum[p] = simd::load(static_cast<const T*>(weight + static_cast<index>(p) * lanes)) * shrink;
        simd::store(peak + static_cast<index>(p) * lanes, top[p]);
    }
    for (index j = 0; j < keys; ++j) {
        T* const row = scores + j * stride;
        ROPEWALK_DETAIL_UNROLL
        for (std::size_t p = 0; p < Packs; ++p) {
            const simd::pack<T> share = simd::exp_of_negative(
                simd::load(static_cast<const T*>(row + static_cast<index>(p) * lanes)) - shift[p]);
            simd::store(row + static_cast<index>(p) * lanes, share);
            sum[p] = sum[p] + share;
        }
    }
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t p = 0; p < Packs; ++p) simd::store(weight + static_cast<index>(p) * lanes, sum[p]);
}

}  // namespace ROPEWALK_NAMESPACE::detail
