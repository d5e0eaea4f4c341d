// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
#pragma once
// The accuracy that doc comments promise, in one place, so that a test asserts the promised bound.

#include <cmath>
#include <limits>
#include <type_traits>

#include <ropewalk/core/half_types.hpp>

namespace budgets {

/// Spacing of the numbers with `digits` significand bits and least exponent `least` around x.
inline double spacing(double x, int digits, int least) {
    int exponent = 0;
    std::frexp(std::abs(x), &exponent);
    return std::ldexp(1.0, std::max(exponent - digits, least));
}
inline double ulp_f32(double x) { return spacing(x, 24, -149); }
inline double ulp_f64(double x) { return spacing(x, 53, -1074); }

/// Half an ulp of the storage format for 16-bit results, 0 for f32 and f64.
template <class T>
double storage_rounding(double result) {
    switch (ropewalk::dtype<T>::format) {
        case ropewalk::storage::f16: return 0.5 * spacing(result, 11, -24);
        case ropewalk::storage::bf16: return 0.5 * spacing(result, 8, -133);
        default: return 0;
    }
}

/// rotate and what is built like it: 2 ulp of the pair norm in the compute type plus the storage rounding.
template <class T>
double rotation(double pair_norm, double result) {
    const double compute =
        std::is_same_v<ropewalk::compute_t<T>, double> ? ulp_f64(pair_norm) : ulp_f32(pair_norm);
    return 2 * compute + storage_rounding<T>(result);
}

/// f32 tables: half an ulp of the (at most magnitude sized) entry, what f64 angles allow, and 1e-11.
inline double table_f32(double entry, double angle, double magnitude = 1) {
    return 0.5 * ulp_f32(entry) + std::abs(magnitude) * (std::ldexp(std::abs(angle), -52) + 1e-11);
}
inline double table_f64(double angle, double magnitude = 1) {
    return std::abs(magnitude) * std::ldexp(1 + std::abs(angle), -52);
}

}  // namespace budgets
