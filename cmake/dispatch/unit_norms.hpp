// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// Norms of a call as the library takes them.

#include "unit_views.hpp"

#include <ropewalk/kernels/head_norm.hpp>

namespace ROPEWALK_NAMESPACE::dispatch_unit {

/// A number that float holds as such, and not 0.
constexpr bool is_factor(double x) noexcept {
    return (x < 0 ? -x : x) <= 0x1p100 && (x < 0 ? -x : x) >= 0x1p-100;
}

inline misfit check_norm(const ropewalk_norm& norm, bool needed) noexcept {
    if (!is_within(norm.kind, needed ? ROPEWALK_RMS_NORM : ROPEWALK_NO_NORM, ROPEWALK_LAYER_NORM))
        return {"kind of the norm must be an enum ropewalk_norm_kind that fits the call", ROPEWALK_RMS_NORM,
                norm.kind};
    if (norm.kind == ROPEWALK_NO_NORM) return {};
    if (!is_within(norm.extent, ROPEWALK_NORM_HEAD, ROPEWALK_NORM_TOKEN))
        return {"extent of the norm must be an enum ropewalk_norm_extent", ROPEWALK_NORM_HEAD, norm.extent};
    if (!is_count(norm.weight_heads)) return {"weight_heads must be a count", 0, norm.weight_heads};
    if (!(is_factor(norm.eps) && norm.eps > 0)) return {"eps of the norm must be from 2^-100 to 2^100", 1, 0};
    if (!is_factor(norm.scale)) return {"scale of the norm must be from 2^-100 to 2^100 in size", 1, 0};
    return {};
}
template <class C>
norm_view<C> norm_of(const ropewalk_norm& norm, index channels) noexcept {
    if (norm.kind == ROPEWALK_NO_NORM) return {};
    return {static_cast<const C*>(norm.weight),
            norm.weight_heads,
            channels,
            static_cast<C>(norm.eps),
            static_cast<C>(norm.scale),
            norm.extent == ROPEWALK_NORM_TOKEN ? norm_extent::token : norm_extent::head,
            norm.kind == ROPEWALK_LAYER_NORM ? norm_kind::layer : norm_kind::rms};
}
constexpr bool is_whole(const ropewalk_norm& norm) noexcept {
    return norm.kind != ROPEWALK_NO_NORM && norm.extent == ROPEWALK_NORM_TOKEN;
}

}  // namespace ROPEWALK_NAMESPACE::dispatch_unit
