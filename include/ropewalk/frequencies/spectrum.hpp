// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// spectrum: the frequencies of all pairs of a model, and its magnitude.
#pragma once

#include <cmath>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include <ropewalk/core/index.hpp>

namespace ROPEWALK_NAMESPACE {

/// The frequencies of all pairs, [heads or 1, axes, pairs], and one magnitude. There are two storage forms.
/// *Selected*: each pair reads one axis (1-D, axial, M-RoPE sections, ...). *Mixed*: each pair reads every
/// axis (learned 2-D, DRoPE head by head). heads() == 1 means that all heads share the frequencies.
/// Units:    stored as turns per unit of position (omega / 2 pi); omega() returns radians per unit.
/// Throws:   invalid_config naming the parameter: frequencies that are not finite or above 2^30 radians per
///           position, where the angles of neighbouring positions are unrelated; a magnitude outside 2^-60 ..
///           2^60 in absolute value, whose square or inverse square f32 cannot hold; sizes that disagree.
/// Cost:     built once per model (or once per context length); copies are plain vectors.
/// Accuracy: f64; omega -> turns -> omega loses at most 1.5 ulp.
/// Source:   RoFormer, Su et al. 2021, section 3.2.2.
class spectrum {
  public:
    spectrum() = default;

    /// Selected form, one axis: omega[pairs] in radians per unit of position.
    static spectrum from_omega(std::span<const double> omega, double magnitude = 1.0) {
        return selected(omega, {}, 1, 1, magnitude);
    }
    /// Selected form: omega [heads, pairs]; axis_of_pair [heads, pairs] (empty: all zero).
    static spectrum selected(std::span<const double> omega, std::span<const int> axis_of_pair, index axes,
                             index heads = 1, double magnitude = 1.0);
    /// Mixed form: omega [heads, axes, pairs].
    static spectrum mixed(std::span<const double> omega, index heads, index axes, double magnitude = 1.0);

    index heads() const noexcept { return heads_; }
    index axes() const noexcept { return axes_; }
    index pairs() const noexcept { return pairs_; }
    /// Factor of both cos and sin (attention_factor, mscale); 1 unless the scheme defines another.
    double magnitude() const noexcept { return magnitude_; }
    bool is_mixed() const noexcept { return mixed_; }

    /// Turns per unit of position on one axis, in either form (0 if a selected pair reads another axis).
    double turns(index head, index axis, index pair) const noexcept {
        if (mixed_) return turns_[at((head * axes_ + axis) * pairs_ + pair)];
        return axis_of(head, pair) == axis ? turns_[at(head * pairs_ + pair)] : 0.0;
    }
    /// Radians per unit of position.
    double omega(index head, index axis, index pair) const noexcept {
        return turns(head, axis, pair) * (2 * std::numbers::pi);
    }
    /// Selected form, first head: inv_freq of most model code.
    double omega(index pair) const noexcept { return omega(0, mixed_ ? 0 : axis_of(0, pair), pair); }
    std::vector<double> omegas() const {
        std::vector<double> all(at(pairs_));
        for (index i = 0; i < pairs_; ++i) all[at(i)] = omega(i);
        return all;
    }
    /// The axis that a selected pair reads; 0 for mixed spectra (their pairs read all axes).
    index axis_of(index head, index pair) const noexcept {
        return axis_of_.empty() ? 0 : axis_of_[at(head * pairs_ + pair)];
    }
    /// Selected: [heads, pairs]. Mixed: [heads, axes, pairs].
    std::span<const double> turns_data() const noexcept { return turns_; }

    /// The same frequencies with another magnitude.
    spectrum with_magnitude(double magnitude) const {
        spectrum s = *this;
        s.magnitude_ = checked_magnitude(magnitude);
        return s;
    }

  private:
    static std::size_t at(index i) noexcept { return static_cast<std::size_t>(i); }
    static double checked_magnitude(double m) {
        detail::require(std::isfinite(m) && m != 0, "spectrum", "magnitude must be finite and not 0", m);
        detail::require(std::abs(m) >= 0x1p-60 && std::abs(m) <= 0x1p60, "spectrum",
                        "magnitude must be 2^-60 to 2^60 in size", m);
        return m;
    }
    static std::vector<double> to_turns(std::span<const double> omega) {
        std::vector<double> turns(omega.size());
        for (std::size_t i = 0; i < omega.size(); ++i) {
            detail::require(std::isfinite(omega[i]), "spectrum", "frequencies must be finite", omega[i]);
            detail::require(std::abs(omega[i]) <= 0x1p30, "spectrum",
                            "frequencies must be at most 2^30 radians a position", omega[i]);
            turns[i] = omega[i] / (2 * std::numbers::pi);
        }
        return turns;
    }

    index heads_ = 1;
    index axes_ = 1;
    index pairs_ = 0;
    bool mixed_ = false;
    double magnitude_ = 1.0;
    std::vector<double> turns_;
    std::vector<int> axis_of_;  // empty, or [heads, pairs]
};

inline spectrum spectrum::selected(std::span<const double> omega, std::span<const int> axis_of_pair,
                                   index axes, index heads, double magnitude) {
    const auto count = static_cast<index>(omega.size());
    detail::require(heads >= 1, "spectrum", "heads must be >= 1", heads);
    detail::require(axes >= 1, "spectrum", "axes must be >= 1", axes);
    detail::require(count % heads == 0, "spectrum", "omega must hold heads * pairs numbers", count);
    detail::require(axis_of_pair.empty() || axis_of_pair.size() == omega.size(), "spectrum",
                    "axis_of_pair must be empty or as long as omega", axis_of_pair.size());
    for (int a : axis_of_pair)
        detail::require(a >= 0 && a < axes, "spectrum", "axis_of_pair must name an axis below axes", a);
    spectrum s;
    s.heads_ = heads;
    s.axes_ = axes;
    s.pairs_ = count / heads;
    s.magnitude_ = checked_magnitude(magnitude);
    s.turns_ = to_turns(omega);
    if (axes > 1) s.axis_of_.assign(axis_of_pair.begin(), axis_of_pair.end());
    return s;
}

inline spectrum spectrum::mixed(std::span<const double> omega, index heads, index axes, double magnitude) {
    const auto count = static_cast<index>(omega.size());
    detail::require(heads >= 1, "spectrum", "heads must be >= 1", heads);
    detail::require(axes >= 1, "spectrum", "axes must be >= 1", axes);
    detail::checked_product("spectrum", "heads * axes must fit", {heads, axes});
    detail::require(count % (heads * axes) == 0, "spectrum", "omega must hold heads * axes * pairs numbers",
                    count);
    spectrum s;
    s.heads_ = heads;
    s.axes_ = axes;
    s.pairs_ = count / (heads * axes);
    s.mixed_ = true;
    s.magnitude_ = checked_magnitude(magnitude);
    s.turns_ = to_turns(omega);
    return s;
}

/// The same form, axes, heads and magnitude with every frequency replaced by change(omega, pair).
/// Throws:   invalid_config if a changed frequency is not finite.
template <class Change>
spectrum map_omega(const spectrum& s, Change change) {
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < s.heads(); ++h)
        for (index a = 0; a < (s.is_mixed() ? s.axes() : 1); ++a)
            for (index i = 0; i < s.pairs(); ++i) {
                const int axis = s.is_mixed() ? static_cast<int>(a) : static_cast<int>(s.axis_of(h, i));
                omega.push_back(change(s.omega(h, axis, i), i));
                if (!s.is_mixed()) axis_of.push_back(axis);
            }
    if (s.is_mixed()) return spectrum::mixed(omega, s.heads(), s.axes(), s.magnitude());
    return spectrum::selected(omega, axis_of, s.axes(), s.heads(), s.magnitude());
}

}  // namespace ROPEWALK_NAMESPACE
