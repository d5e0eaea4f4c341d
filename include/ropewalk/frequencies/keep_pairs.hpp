// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Masks and selections of pairs: pairs set to frequency 0, and narrower spectra for each head.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/frequencies/spectrum.hpp>

namespace ROPEWALK_NAMESPACE::frequencies {

/// The same spectrum with frequency 0 for all pairs that the mask does not keep: p-RoPE, HoPE. Such a pair
/// keeps its channels in the layout, which then carry no position; a magnitude still scales them.
/// Shapes:   keep [pairs], non-zero = keep.
/// Throws:   invalid_config if the mask does not have one entry per pair.
/// Source:   Round and Round We Go, Barbero et al. 2024.
inline spectrum keep_pairs(const spectrum& s, std::span<const std::uint8_t> keep) {
    const auto count = static_cast<index>(keep.size());
    detail::require_equal("keep_pairs", "keep must have one entry a pair", s.pairs(), count);
    return map_omega(
        s, [keep](double omega, index i) { return keep[static_cast<std::size_t>(i)] ? omega : 0.0; });
}

/// A narrower spectrum of selected pairs only, selected separately for each head (EliteKV's packed slice).
/// Shapes:   pairs [heads, count] row-major, indices into the pairs of `s`; the result has `heads` heads,
///           `count` pairs and the axes of `s`. If `s` is shared by all heads, every head selects from the
///           same pairs.
/// Throws:   invalid_config if heads < 1, the list is not a multiple of heads, an index is out of range, or
///           `s` has several heads and not this number.
/// Source:   EliteKV, Zhou et al. 2025.
inline spectrum select_pairs(const spectrum& s, std::span<const index> pairs, index heads = 1) {
    constexpr const char* who = "select_pairs";
    const auto total = static_cast<index>(pairs.size());
    detail::require(heads >= 1, who, "heads must be >= 1", heads);
    detail::require(total % heads == 0, who, "pairs must hold heads * count indices", total);
    detail::require(s.heads() == 1 || s.heads() == heads, who, "heads must be those of the spectrum", heads);
    for (index p : pairs)
        detail::require(p >= 0 && p < s.pairs(), who, "pairs must name pairs of the spectrum", p);
    const index count = total / heads;
    std::vector<double> omega;
    std::vector<int> axis_of;
    for (index h = 0; h < heads; ++h) {
        const index source = s.heads() == 1 ? 0 : h;
        for (index a = 0; a < (s.is_mixed() ? s.axes() : 1); ++a)
            for (index i = 0; i < count; ++i) {
                const index pair = pairs[static_cast<std::size_t>(h * count + i)];
                const int axis = static_cast<int>(s.is_mixed() ? a : s.axis_of(source, pair));
                omega.push_back(s.omega(source, axis, pair));
                if (!s.is_mixed()) axis_of.push_back(axis);
            }
    }
    if (s.is_mixed()) return spectrum::mixed(omega, heads, s.axes(), s.magnitude());
    return spectrum::selected(omega, axis_of, s.axes(), heads, s.magnitude());
}

}  // namespace ROPEWALK_NAMESPACE::frequencies
