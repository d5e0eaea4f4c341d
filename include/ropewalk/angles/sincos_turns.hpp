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

struct pack_cos_sin {
    simd::pack<double> cos;
    simd::pack<double> sin;
};

/// Polynomials of f64 lanes, reduced turns in [-1/2, 1/2], both results times `magnitude`.
ROPEWALK_ALWAYS_INLINE pack_cos_sin cos_sin_of(simd::pack<double> reduced,
                                               simd::pack<double> magnitude) noexcept {
    using simd::broadcast;
    using simd::fma;
    const auto quarter = simd::nearest(reduced * broadcast(4.0));
    const auto r = fma(quarter, broadcast(-0.25), reduced);  // exact
    const auto z = r * r;
    // Minimax fits of sin(2 pi r) / r and cos(2 pi r) in z = r^2, |r| <= 1/8: 1.7e-12 and 6.2e-14.
    auto s = broadcast(41.41479508009603);
    s = fma(s, z, broadcast(-76.6958260129489));
    s = fma(s, z, broadcast(81.60518080251671));
    s = fma(s, z, broadcast(-41.341702049642684));
    s = fma(s, z, broadcast(6.2831853070308785)) * r;
    auto c = broadcast(-26.064525349303736);
    c = fma(c, z, broadcast(60.23845651099267));
    c = fma(c, z, broadcast(-85.45676915391117));
    c = fma(c, z, broadcast(64.93939385967403));
    c = fma(c, z, broadcast(-19.73920880199915));
    c = fma(c, z, broadcast(1.0));
    // quarter is -2 .. 2: even quarters keep the functions, odd ones swap them.
    const auto distance = simd::absolute(quarter);
    const auto even_sign = (broadcast(1.0) - distance) * magnitude;
    const auto odd_sign = quarter * magnitude;
    const auto odd = distance == broadcast(1.0);
    return {simd::choose(odd, s * (-odd_sign), c * even_sign),
            simd::choose(odd, c * odd_sign, s * even_sign)};
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
    const auto p = simd::broadcast(position);
    const auto m = simd::broadcast(magnitude);
    index i = 0;
    for (; i + n <= pairs; i += n) {
        const auto w = simd::load(turns + i);
        const auto row = detail::cos_sin_of(simd::fma(p, w, -simd::nearest(p * w)), m);
        simd::store_narrow(cos + i, row.cos);
        simd::store_narrow(sin + i, row.sin);
    }
    if (i < pairs) {
        const auto w = simd::load_some(turns + i, pairs - i);
        const auto row = detail::cos_sin_of(simd::fma(p, w, -simd::nearest(p * w)), m);
        float c[n], s[n];
        simd::store_narrow(c, row.cos);
        simd::store_narrow(s, row.sin);
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
