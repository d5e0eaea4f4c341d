// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once

#include <cmath>
#include <numbers>

#include <ropewalk/core/simd_storage.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// position * turns less its nearest integer, in [-1/2, 1/2]. The product is formed exactly (fma), so
/// the only error is that of `turns` itself.
inline double reduced_turns(double position, double turns) noexcept {
    const double whole = std::nearbyint(position * turns);
    return std::fma(position, turns, -whole);
}

struct cos_sin {
    double cos;
    double sin;
};

/// Full f64 accuracy, from reduced turns; the row of f64 tables.
inline cos_sin cos_sin_of(double reduced) noexcept {
    const double quarter = std::nearbyint(4 * reduced);
    const double angle = (reduced - 0.25 * quarter) * (2 * std::numbers::pi);
    const double c = std::cos(angle);
    const double s = std::sin(angle);
    switch (static_cast<int>(quarter)) {
        case 0: return {c, s};
        case 1: return {-s, c};
        case -1: return {s, -c};
        default: return {-c, -s};
    }
}

/// Magnitude times cos and sin of 2 pi position turns, f64 lanes; `position` comes multiplied by 4.
ROPEWALK_ALWAYS_INLINE simd::two_packs<double> cos_sin_of(simd::pack<double> position4,
                                                          simd::pack<double> turns,
                                                          simd::pack<double> magnitude) noexcept {
    using simd::broadcast;
    using simd::fma;
    // In quarter turns: the nearest one picks functions and signs, the rest is exact where fma is fused.
    const auto quarter = simd::nearest(position4 * turns);
    const auto r = simd::fms(position4, turns, quarter);
    const auto z = r * r;
    // Minimax fits of sin(pi/2 r) / r and cos(pi/2 r) in z = r^2, |r| <= 1/2: 1.7e-12 and 6.2e-14.
    auto s = broadcast(41.41479508009603 / 262144);
    s = fma(s, z, broadcast(-76.6958260129489 / 16384));
    s = fma(s, z, broadcast(81.60518080251671 / 1024));
    s = fma(s, z, broadcast(-41.341702049642684 / 64));
    s = fma(s, z, broadcast(6.2831853070308785 / 4)) * r;
    auto c = broadcast(-26.064525349303736 / 1048576);
    c = fma(c, z, broadcast(60.23845651099267 / 65536));
    c = fma(c, z, broadcast(-85.45676915391117 / 4096));
    c = fma(c, z, broadcast(64.93939385967403 / 256));
    c = fma(c, z, broadcast(-19.73920880199915 / 16));
    c = fma(c, z, broadcast(1.0));
    return simd::turn_by_quarters(quarter, c * magnitude, s * magnitude);
}

}  // namespace detail

/// One row of a table: cos[i], sin[i] = magnitude * cos, sin(2 pi * position * turns[i]).
/// Shapes:   turns, cos, sin [pairs]; a float row and a double row.
/// Units:    turns per unit of position, as spectrum::turns_data() has them.
/// Cost:     float: about 30 ns for 64 pairs with AVX-512; double: two libm calls a pair.
/// Accuracy: float: 0.5 ulp of f32 + 2^-52 |angle| + 1e-11, at any position; double: 2^-52 (1 + |angle|).
/// Source:   Cody and Waite's reduction, done in turns so that it needs no long constant.
inline void fill_cos_sin(double position, const double* turns, double magnitude, index pairs, float* cos,
                         float* sin) noexcept {
    constexpr index n = simd::lanes<double>;
    const auto p = simd::broadcast(4 * position);
    const auto m = simd::broadcast(magnitude);
    index i = 0;
    for (; i + n <= pairs; i += n) {
        const auto row = detail::cos_sin_of(p, simd::load(turns + i), m);
        simd::store_narrow(cos + i, row.first);
        simd::store_narrow(sin + i, row.second);
    }
    if (i < pairs) {
        const auto row = detail::cos_sin_of(p, simd::load_some(turns + i, pairs - i), m);
        float c[n], s[n];
        simd::store_narrow(c, row.first);
        simd::store_narrow(s, row.second);
        for (index j = 0; i + j < pairs; ++j) {
            cos[i + j] = c[j];
            sin[i + j] = s[j];
        }
    }
}
inline void fill_cos_sin(double position, const double* turns, double magnitude, index pairs, double* cos,
                         double* sin) noexcept {
    for (index i = 0; i < pairs; ++i) {
        const auto row = detail::cos_sin_of(detail::reduced_turns(position, turns[i]));
        cos[i] = magnitude * row.cos;
        sin[i] = magnitude * row.sin;
    }
}

/// The same from reduced turns in [-1/2, 1/2] that the caller has already formed (several axes).
/// Source: as fill_cos_sin.
inline void fill_cos_sin_reduced(const double* reduced, double magnitude, index pairs, float* cos,
                                 float* sin) noexcept {
    fill_cos_sin(1.0, reduced, magnitude, pairs, cos, sin);
}
inline void fill_cos_sin_reduced(const double* reduced, double magnitude, index pairs, double* cos,
                                 double* sin) noexcept {
    fill_cos_sin(1.0, reduced, magnitude, pairs, cos, sin);
}

}  // namespace ROPEWALK_NAMESPACE
