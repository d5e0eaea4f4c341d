// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// RoPE's long-term decay curve: the bound of RoFormer on scores as a function of distance.
#pragma once

#include <cmath>
#include <complex>
#include <span>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE::analysis {

/// The curve behind RoPE's long-term decay: the mean over j of |S_j|, S_j = sum of the first j terms
/// exp(i distance omega). It bounds how the score of a query and a key decays with their distance. The curve
/// decreases as a trend, with oscillations, not monotonically.
/// Units:    distance in positions; at distance 0 it is (pairs + 1) / 2.
/// Requires: a spectrum with one axis; only its first head is used.
/// Accuracy: f64, 1e-12 relative at distances up to 1e4.
/// Source:   RoFormer, Su et al. 2021, section 3.4.3.
inline double mean_partial_sum(const spectrum& s, double distance) {
    std::complex<double> sum = 0;
    double total = 0;
    for (index i = 0; i < s.pairs(); ++i) {
        const double angle = distance * s.omega(i);
        sum += std::complex<double>(std::cos(angle), std::sin(angle));
        total += std::abs(sum);
    }
    return s.pairs() == 0 ? 0 : total / static_cast<double>(s.pairs());
}

/// mean_partial_sum at many distances.
/// Throws:   invalid_config on several axes.
/// Source:   RoFormer, Su et al. 2021, figure 2.
inline std::vector<double> make_decay_curve(const spectrum& s, std::span<const double> distances) {
    detail::require(s.axes() == 1, "make_decay_curve", "spectrum must have one axis", s.axes());
    std::vector<double> curve;
    curve.reserve(distances.size());
    for (double r : distances) curve.push_back(mean_partial_sum(s, r));
    return curve;
}

}  // namespace ROPEWALK_NAMESPACE::analysis
