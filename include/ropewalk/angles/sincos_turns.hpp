// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Fills rows of cos and sin in f64 from turns, accurate at any position.
#pragma once

#include <cmath>

#include <ropewalk/core/simd_storage.hpp>

namespace ROPEWALK_NAMESPACE {

namespace detail {

/// position * turns minus its nearest integer, in [-1/2, 1/2]. The product is exact (fma), so the only error
/// is that of `turns` itself. Past 2^53 the nearest double may be many turns away, so the remainder is
/// reduced once more.
inline double reduced_turns(double position, double turns) noexcept {
    const double whole = std::nearbyint(position * turns);
    const double rest = std::fma(position, turns, -whole);
    return rest - std::nearbyint(rest);
}

/// c[0] + c[1] z + ..., by Horner's rule.
template <std::size_t N>
ROPEWALK_ALWAYS_INLINE simd::pack<double> polynomial(const double (&c)[N], simd::pack<double> z) noexcept {
    auto sum = simd::broadcast(c[N - 1]);
    ROPEWALK_DETAIL_UNROLL
    for (std::size_t k = N - 1; k > 0; --k) sum = simd::fma(sum, z, simd::broadcast(c[k - 1]));
    return sum;
}

/// Minimax fits in z = r^2, |r| <= 1/2, of sin(pi/2 r) / r and cos(pi/2 r), with the accuracy that rows of T
/// need.
template <class T>
struct quarter_turn_fits;
template <>
struct quarter_turn_fits<float> {  // errors 1.7e-12 and 6.2e-14
    static constexpr double sin[] = {6.2831853070308785 / 4, -41.341702049642684 / 64,
                                     81.60518080251671 / 1024, -76.6958260129489 / 16384,
                                     41.41479508009603 / 262144};
    static constexpr double cos[] = {1.0,
                                     -19.73920880199915 / 16,
                                     64.93939385967403 / 256,
                                     -85.45676915391117 / 4096,
                                     60.23845651099267 / 65536,
                                     -26.064525349303736 / 1048576};
};
template <>
struct quarter_turn_fits<double> {  // errors 5.0e-17 and 1.7e-17, mostly from rounding the coefficients
    static constexpr double sin[] = {1.5707963267948966,    -0.6459640975062443,    0.07969262624603957,
                                     -0.004681754132282415, 0.00016044115029163048, -3.5986417543868745e-06,
                                     5.633721005314096e-08};
    static constexpr double cos[] = {1.0,
                                     -1.2337005501361697,
                                     0.2536695079010469,
                                     -0.020863480763315442,
                                     0.0009192602742250276,
                                     -2.5202036991506572e-05,
                                     4.7106156569336873e-07,
                                     -6.32189236920816e-09};
};

/// Magnitude times cos and sin of 2 pi position turns, in f64 lanes; `position4` is the position times 4.
template <class T>
ROPEWALK_ALWAYS_INLINE simd::two_packs<double> cos_sin_of(simd::pack<double> position4,
                                                          simd::pack<double> turns,
                                                          simd::pack<double> magnitude) noexcept {
    // In quarter turns: the nearest integer selects the functions and signs, and the remainder is exact where
    // fma is fused. Past 2^53 the rounding error of the product is whole quarters, and only the second
    // reduction keeps |r| <= 1/2.
    const auto nearest = simd::nearest(position4 * turns);
    const auto rest = simd::fms(position4, turns, nearest);
    const auto more = simd::nearest(rest);
    const auto quarter = nearest + more;
    const auto r = rest - more;
    const auto z = r * r;
    const auto s = polynomial(quarter_turn_fits<T>::sin, z) * r;
    const auto c = polynomial(quarter_turn_fits<T>::cos, z);
    return simd::turn_by_quarters(quarter, c * magnitude, s * magnitude);
}

ROPEWALK_ALWAYS_INLINE void store_row(float* p, simd::pack<double> x) noexcept { simd::store_narrow(p, x); }
ROPEWALK_ALWAYS_INLINE void store_row(double* p, simd::pack<double> x) noexcept { simd::store(p, x); }

}  // namespace detail

/// One row of a table: cos[i], sin[i] = magnitude * cos, sin(2 pi * position * turns[i]).
/// Shapes:   turns, cos, sin [pairs]; rows of float or double.
/// Units:    turns per unit of position, as in spectrum::turns_data().
/// Cost:     about 45 ns for 64 pairs with AVX-512, in float and in double.
/// Accuracy: float: 0.5 ulp of f32 + 2^-52 |angle| + 1e-11, at any position up to 2^1000; double: 2^-52 (1 +
///           |angle|). From 2^51 turns on this bound says nothing about the angle, and where products are not
///           fused no better one is possible; a row is then still a rotation times the magnitude, on every
///           instruction set.
/// Source:   Cody and Waite's reduction, in turns, so that it needs no long constant.
template <class T>
void fill_cos_sin(double position, const double* turns, double magnitude, index pairs, T* cos,
                  T* sin) noexcept {
    constexpr index n = simd::lanes<double>;
    const auto p = simd::broadcast(4 * position);
    const auto m = simd::broadcast(magnitude);
    index i = 0;
    for (; i + n <= pairs; i += n) {
        const auto row = detail::cos_sin_of<T>(p, simd::load(turns + i), m);
        detail::store_row(cos + i, row.first);
        detail::store_row(sin + i, row.second);
    }
    if (i < pairs) {
        const auto row = detail::cos_sin_of<T>(p, simd::load_some(turns + i, pairs - i), m);
        T c[static_cast<std::size_t>(n)], s[static_cast<std::size_t>(n)];
        detail::store_row(c, row.first);
        detail::store_row(s, row.second);
        for (index j = 0; i + j < pairs; ++j) {
            cos[i + j] = c[j];
            sin[i + j] = s[j];
        }
    }
}

/// The same, from reduced turns in [-1/2, 1/2] that the caller has formed (several axes).
/// Source: as fill_cos_sin.
template <class T>
void fill_cos_sin_reduced(const double* reduced, double magnitude, index pairs, T* cos, T* sin) noexcept {
    fill_cos_sin(1.0, reduced, magnitude, pairs, cos, sin);
}

}  // namespace ROPEWALK_NAMESPACE
